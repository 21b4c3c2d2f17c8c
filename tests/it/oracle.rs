//! Derivatives against finite differences in the oracle: every op on its samples, and whole models through the passes.

use fqtc::ir::canonical::canonicalize;
use fqtc::ir::{Element, Init, Module, Stage, TensorType, Value};
use fqtc::ops::{self, Sample, Tensor};
use fqtc::oracle::{self, Surrogate};
use fqtc::{passes, rectify};

use crate::support::modules;

/// Deterministic numbers in ±1, far enough from 0 and from each other for a difference quotient through a kink.
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> f64 {
        self.0 = fqt_runtime::random::mix64(self.0);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub(crate) fn tensor(&mut self, ty: &TensorType) -> Tensor {
        let data = (0..ty.elements().unwrap()).map(|_| match ty.element {
            Element::Label => ((self.next() + 1.0) * 5.0).floor().min(9.0),
            _ => self.next(),
        });
        Tensor::new(ty.shape.clone(), data.collect())
    }
}

fn dot(a: &Tensor, b: &Tensor) -> f64 {
    a.data.iter().zip(&b.data).map(|(a, b)| a * b).sum()
}

fn assert_close(what: &str, got: f64, want: f64, scale: f64) {
    assert!(
        (got - want).abs() <= 2e-6 * scale.max(1.0),
        "{what}: derivative {got}, difference quotient {want}"
    );
}

/// A module whose parameters are the operands of the sample and the cotangents of its results.
fn differentiate(op: &dyn ops::Op, sample: &Sample) -> (Module, Vec<Value>, Vec<Option<Value>>) {
    let mut module = modules::empty("sample", 2, [2, 2, 1], "stochastic");
    let mut operands = vec![];
    for (index, ty) in sample.operands.iter().enumerate() {
        operands.push(module.param("x", &index.to_string(), ty.clone(), Init::Constant(0.0)));
    }
    let results = ops::append(&mut module, op.name(), &operands, sample.attrs.clone(), "x", None).unwrap();
    let cotangents: Vec<Option<Value>> = results
        .iter()
        .map(|&value| {
            let ty = TensorType::real(module.ty(value).shape.clone());
            Some(module.param("cotangent", "0", ty, Init::Constant(0.0)))
        })
        .collect();
    let node = module.nodes[0].clone();
    let gradients = op.vjp(&mut module, &node, &cotangents);
    (module, results, gradients)
}

#[test]
fn every_op_has_the_derivative_that_differences_show() {
    for op in ops::ALL {
        for sample in op.samples() {
            let (module, results, gradients) = differentiate(*op, &sample);
            let mut noise = Noise(op.name().len() as u64);
            let mut params: Vec<Tensor> = module.params.iter().map(|param| noise.tensor(&param.ty)).collect();
            let loss_op = module.ty(results[0]).shape.is_empty();
            let n = sample.operands.len();
            if loss_op {
                params[n] = Tensor::scalar(1.0);
            }
            let evaluate = |params: &[Tensor]| {
                let (image, labels) = (Tensor::zeros([2, 2, 2, 1]), Tensor::zeros([2]));
                oracle::run(&module, params, &image, &labels, &Surrogate::default())
            };
            let objective = |params: &[Tensor]| {
                let values = evaluate(params);
                results
                    .iter()
                    .zip(&params[n..])
                    .map(|(r, c)| dot(values[r.0 as usize].as_ref().unwrap(), c))
                    .sum::<f64>()
            };
            let values = evaluate(&params);
            assert!(gradients.iter().any(Option::is_some), "{} has samples, but no derivative", op.name());
            for (operand, gradient) in gradients.iter().enumerate() {
                let Some(gradient) = gradient.map(|g| values[g.0 as usize].clone().unwrap()) else {
                    continue;
                };
                assert_eq!(gradient.shape, params[operand].shape);
                for element in (0..gradient.data.len()).step_by(1 + gradient.data.len() / 40) {
                    let h = 1e-5;
                    let mut moved = params.clone();
                    moved[operand].data[element] += h;
                    let up = objective(&moved);
                    moved[operand].data[element] -= 2.0 * h;
                    let quotient = (up - objective(&moved)) / (2.0 * h);
                    let what = format!("{} operand {operand} element {element}", op.name());
                    assert_close(&what, gradient.data[element], quotient, quotient.abs());
                }
            }
        }
    }
}

/// All values of a module on fixed noise, with parameters near their usual size.
fn evaluate(
    module: &Module,
    params: &[Tensor],
    quantization: &dyn fqtc::quant::Quantization,
) -> oracle::Values {
    let mut noise = Noise(99);
    let image = noise.tensor(module.ty(module.image));
    let labels = noise.tensor(module.ty(module.labels));
    oracle::run(module, params, &image, &labels, quantization)
}

fn params(module: &Module) -> Vec<Tensor> {
    let mut noise = Noise(5);
    module
        .params
        .iter()
        .map(|param| match param.init {
            Init::Constant(value) => noise.tensor(&param.ty).map(|x| value.max(0.1) * (1.0 + 0.2 * x)),
            _ => noise.tensor(&param.ty),
        })
        .collect()
}

fn loss(module: &Module, values: &oracle::Values, penalties: bool) -> f64 {
    let mut loss = values[module.loss.0 as usize].as_ref().unwrap().data[0];
    for node in module.nodes.iter().filter(|node| penalties && node.op == "batch_norm_grad") {
        let fqtc::ir::Attr::Word(name) = &node.attrs["rectifier"] else { continue };
        let rectifier = rectify::find(name).unwrap();
        let value = |index: usize| values[node.operands[index].0 as usize].as_ref().unwrap();
        let (x, gamma) = (value(1), value(2));
        let channels = gamma.data.len();
        for c in 0..channels {
            let xs: Vec<f64> = x.data.iter().skip(c).step_by(channels).copied().collect();
            let mean = xs.iter().sum::<f64>() / xs.len() as f64;
            let variance = xs.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / xs.len() as f64 + 1e-5;
            loss += rectifier.loss_f64(gamma.data[c], variance, &node.attrs);
        }
    }
    loss
}

fn check_model(module: Module, penalties: bool) {
    let module = passes::run(module, Stage::Quantized, |_, _| {}).unwrap();
    let start = params(&module);
    // Ranges of the surrogates stay as they are at the start; some values lie beyond them.
    let mut surrogate = Surrogate::default();
    let values = evaluate(&module, &start, &surrogate);
    for node in module.nodes.iter().filter(|node| node.op == "quantize" && !node.attrs.contains_key("stream"))
    {
        let largest = values[node.operands[0].0 as usize].as_ref().unwrap().largest();
        surrogate.ranges.insert(node.path.clone(), 0.8 * largest);
    }
    let values = evaluate(&module, &start, &surrogate);
    for (index, param) in module.params.iter().enumerate() {
        let gradient = values[param.gradient.unwrap().0 as usize].clone().unwrap();
        assert!(gradient.largest() > 1e-3, "{}: too small to tell", param.name);
        for element in (0..gradient.data.len()).step_by(1 + gradient.data.len() / 6) {
            let h = 1e-6;
            let mut moved = start.clone();
            moved[index].data[element] += h;
            let up = loss(&module, &evaluate(&module, &moved, &surrogate), penalties);
            moved[index].data[element] -= 2.0 * h;
            let down = loss(&module, &evaluate(&module, &moved, &surrogate), penalties);
            // The penalty of a learned clip is in its gradient, but in no loss.
            let clip = if param.name.ends_with(".clip") { 2e-4 * start[index].data[element] } else { 0.0 };
            assert_close(&param.name, gradient.data[element] - clip, (up - down) / (2.0 * h), 10.0);
        }
    }
}

#[test]
fn models_have_the_gradients_that_differences_show() {
    check_model(modules::mlp(4, 5, "stochastic"), false);
    check_model(modules::lenet(2, 12, "stochastic"), false);
    check_model(modules::resnet(3, 6, 3, "stochastic"), false);
}

#[test]
fn rectifiers_add_the_gradient_of_their_penalty() {
    for name in ["variance_hinge", "log_gain"] {
        let mut module = modules::resnet(3, 6, 3, "stochastic");
        modules::rectify_all(&mut module, name);
        // The penalty of a layer changes the weights of all before it only through that layer's own backward pass, so
        // that the whole is the gradient of loss plus penalties.
        check_model(module, true);
    }
}

#[test]
fn canonical_numbering_is_idempotent() {
    let mut module = modules::resnet(2, 4, 2, "stochastic");
    canonicalize(&mut module);
    let once = module.clone();
    canonicalize(&mut module);
    assert_eq!(module, once);
}
