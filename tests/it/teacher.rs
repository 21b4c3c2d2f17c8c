//! Integers compute what the model means: each node of an interpreted step against the oracle on the node's own decoded
//! integer inputs, so that a deviation belongs to one node and bounds stay tight.

use std::collections::BTreeMap;

use fqt_runtime::random;
use fqtc::ir::{Attr, Module, Node, Value};
use fqtc::tensor::Tensor;
use fqtc::types::{flag, int, word};

use crate::support::modules;
use crate::support::teacher::{Edit, Step, times};

/// A small residual network; one output channel of the second convolution is dead, one is tiny.
fn network(bits: i64) -> Module {
    let mut module = modules::resnet(4, 8, 8, "stochastic");
    modules::rectify_all(&mut module, "log_gain");
    module.schemes.get_mut("gradients").unwrap().params.insert("bits".into(), Attr::Int(bits));
    module
}

fn quiet(edit: &mut Edit) {
    edit.scale_channel("conv2.weight", DEAD, |_| 0);
    edit.scale_channel("conv2.weight", TINY, |v| v >> 12);
}

const DEAD: usize = 2;
const TINY: usize = 5;

#[test]
fn depthwise_convolutions_of_any_geometry_are_exact() {
    let windows =
        [([5, 3], 1, 0), ([3, 3], 3, 1), ([2, 2], 5, 0), ([3, 3], 1, 4), ([1, 1], 2, 0), ([4, 4], 2, 2)];
    for (kernel, stride, padding) in windows {
        let name = format!("depthwise {kernel:?}, stride {stride}, padding {padding}");
        let step = Step::run(modules::depthwise(2, 7, kernel, stride, padding), 3, 2, |_| ());
        check_contractions(&name, &step);
        assert!(check_gradients(&name, &step) >= 2, "{name}");
        check_weights(&name, &step);
    }
}

/// 4- and 8-bit gradients, in a first step and later, with and without quiet channels.
fn samples() -> Vec<(String, Step)> {
    let mut all = vec![];
    for (bits, steps) in [(4, 1), (8, 1), (8, 3)] {
        all.push((format!("{bits} bits, step {steps}"), Step::run(network(bits), 3, steps, quiet)));
    }
    all.push(("4 bits, all alive".into(), Step::run(network(4), 3, 2, |_| ())));
    for bits in [4, 8] {
        let of = |mut module: Module| {
            modules::rectify_all(&mut module, "log_gain");
            module.schemes.get_mut("gradients").unwrap().params.insert("bits".into(), Attr::Int(bits));
            Step::run(module, 3, 2, |_| ())
        };
        all.push((
            format!("inverted residuals, {bits} bits, alive"),
            of(modules::mobile(4, 9, "stochastic")),
        ));
        all.push((format!("pools, {bits} bits, alive"), of(modules::pools(4, 10, "stochastic"))));
    }
    all
}

impl Step {
    /// One unit of 2^−k of the grid of `path`, in steps of the grid.
    fn fine(&self, path: &str) -> f64 {
        (-self.int(&format!("{path}.shift")) as f64).exp2()
    }

    /// How far integer coefficients may move each element from the real value, in steps of the grid of `path`: half a
    /// unit of every coefficient times its (centred) source, and of every offset.
    fn grid_error(&self, path: &str, value: Value) -> Vec<f64> {
        let sources = self.sources(value);
        sources.data.iter().map(|v| (0.5 * v + 2.0) * self.fine(path) + 1e-4).collect()
    }

    /// The sum of the sizes of the sources that an affine value combines.
    fn sources(&self, value: Value) -> Tensor {
        let node = self.producer(value);
        match node.op.as_str() {
            "relu" => self.sources(node.operands[0]),
            "add" => self.sources(node.operands[0]).zip(&self.sources(node.operands[1]), |a, b| a + b),
            "batch_norm" => {
                let conv = self.producer(node.operands[0]);
                centred(&self.dense(&format!("{}.t", conv.path), &self.shape(value)))
            }
            "avg_pool" | "global_avg_pool" => self.dense(&format!("{}.sum", node.path), &self.shape(value)),
            _ => self.codes(value),
        }
    }

    /// A forward value as the oracle sees it: stored integers by their units, the rest computed from those.
    fn forward(&self, value: Value) -> Tensor {
        if self.module.params.iter().any(|p| p.value == value) {
            return self.vector_before(value);
        }
        if value == self.module.labels {
            let labels = self.ints("labels");
            return Tensor::new([labels.len() as u64], labels.iter().map(|&v| v as f64).collect());
        }
        if value == self.module.image {
            return times(&self.codes(value), &[self.step_of(value)]);
        }
        let node = self.producer(value);
        let t = format!("{}.t", node.path);
        match node.op.as_str() {
            "conv2d" | "depthwise_conv2d" if self.has(&t) => {
                times(&self.dense(&t, &self.shape(value)), &self.dyadics(&format!("{}.unit", node.path)))
            }
            "quantize" if self.has(&format!("{}.activation.codes", node.path)) => {
                times(&self.codes(value), &[self.step_of(value)])
            }
            "quantize" => self.weight_real(node),
            _ => {
                let operands: Vec<Tensor> = node.operands.iter().map(|&v| self.forward(v)).collect();
                self.oracle(node, &operands.iter().collect::<Vec<_>>())[0].clone()
            }
        }
    }

    /// Quantized weights in real numbers.
    fn weight_real(&self, node: &Node) -> Tensor {
        let mut codes = self.weight_codes(&node.path, &self.shape(node.results[0]));
        let scale = self.dyadics(&format!("{}.weight_scale", node.path));
        let per = codes.data.len() / codes.shape[0] as usize;
        codes.data.iter_mut().enumerate().for_each(|(i, v)| *v *= scale[i / per]);
        codes
    }

    /// The integers of a stored gradient.
    fn gradient(&self, value: Value) -> Option<Tensor> {
        let name = format!("value{}.gradient", value.0);
        self.has(&name).then(|| self.dense(&name, &self.shape(value)))
    }

    /// The unit of a gradient that passes masks.
    fn gradient_unit(&self, value: Value) -> f64 {
        let node = self.producer(value);
        match node.op.as_str() {
            "relu_grad" | "quantize_grad" => self.gradient_unit(node.operands[0]),
            "add" => self.dyadics(&format!("value{}.sum_unit", value.0))[0],
            "global_avg_pool_grad" => self.dyadics(&format!("{}.spread", node.path))[0],
            "max_pool_grad" | "avg_pool_grad" => self.dyadics(&format!("{}.overlap_unit", node.path))[0],
            _ => self.dyadics(&format!("{}.grad_unit", node.path))[0],
        }
    }

    /// What a gradient's integers should be, and how far they may be off; masks by the oracle.
    fn expected_gradient(&self, value: Value) -> (Tensor, f64) {
        let node = self.producer(value);
        let stored = |v: Value| self.gradient(v).expect("operands of sums and pools are stored");
        match node.op.as_str() {
            "conv2d_grad_input" | "depthwise_conv2d_grad_input" | "linear_grad_input" => {
                let q = self.gradient_codes(&node.path, &self.shape(node.operands[0]));
                let w = self.weight_codes(&node.path, &self.shape(node.operands[1]));
                let half = self.int(&format!("{}.grad_shift_now", node.path));
                let by = (half as f64).exp2();
                // `round` takes ties away from zero, as the shift does.
                let shifted = |acc: f64| (acc / by).round().clamp(-32767.0, 32767.0);
                (self.oracle(node, &[&q, &w])[0].map(shifted), 0.0)
            }
            "add" => {
                let part = |v: Value| times(&stored(v), &[self.gradient_unit(v) / self.gradient_unit(value)]);
                let sum = part(node.operands[0]).zip(&part(node.operands[1]), |a, b| a + b);
                let k = self.int(&format!("value{}.sum_shift", value.0)) as f64;
                (sum, 0.5 + 32767.0 / k.exp2() + 1e-3)
            }
            "global_avg_pool_grad" => {
                let pixels: u64 = self.shape(value)[1..3].iter().product();
                let spread = self.oracle(node, &[&stored(node.operands[0])])[0].clone();
                (times(&spread, &[pixels as f64]), 1e-6)
            }
            "max_pool_grad" | "avg_pool_grad" => {
                let mut operands = vec![stored(node.operands[0])];
                operands.extend(node.operands.get(1).map(|&x| self.codes(x)));
                let sum = self.oracle(node, &operands.iter().collect::<Vec<_>>())[0].clone();
                let window = if node.op == "avg_pool_grad" { int(&node.attrs, "size").pow(2) } else { 1 };
                let shift = self.int(&format!("{}.overlap_shift", node.path));
                let by = window as f64 * (-shift as f64).exp2();
                (times(&sum, &[by]), if shift == 0 { 1e-6 } else { 0.5 + 1e-6 })
            }
            _ => {
                let (dy, off) = self.expected_gradient(node.operands[0]);
                let x = self.forward(node.operands[1]);
                (self.oracle(node, &[&dy, &x])[0].clone(), off)
            }
        }
    }

    /// The same gradient before its masks.
    fn unmasked(&self, value: Value) -> Tensor {
        let node = self.producer(value);
        match node.op.as_str() {
            "relu_grad" | "quantize_grad" => self.unmasked(node.operands[0]),
            _ => self.expected_gradient(value).0,
        }
    }

    /// Whether a mask on the way to `value` is decided within the error of its grid, position by position.
    fn at_edge(&self, value: Value) -> Vec<bool> {
        let node = self.producer(value);
        let n = self.shape(value).iter().product::<u64>() as usize;
        let op = node.op.as_str();
        if op != "relu_grad" && op != "quantize_grad" {
            return vec![false; n];
        }
        let grid = format!("{}.activation", node.path);
        let step = self.dyadics(&format!("{grid}.step"))[0];
        let signed = node.attrs.contains_key("signed") && flag(&node.attrs, "signed");
        let edges: &[f64] = match (op, signed) {
            ("relu_grad", _) => &[0.0],
            (_, false) => &[255.5],
            (_, true) => &[-127.5, 127.5],
        };
        let off = self.grid_error(&grid, node.operands[1]);
        let x = self.forward(node.operands[1]);
        let near = x.data.iter().zip(off).map(|(v, off)| {
            // Exactly on the edge, as a dead channel is, real and integer coefficients agree.
            let distances = edges.iter().map(|edge| (v / step - edge).abs());
            distances.into_iter().any(|distance| 0.0 < distance && distance <= off)
        });
        self.at_edge(node.operands[0]).into_iter().zip(near).map(|(a, b)| a || b).collect()
    }
}

/// The distance of every element from the mean of its channel.
fn centred(x: &Tensor) -> Tensor {
    let channels = *x.shape.last().unwrap() as usize;
    let mean = |c: usize| {
        let n = (x.data.len() / channels) as f64;
        x.data.iter().skip(c).step_by(channels).sum::<f64>() / n
    };
    let means: Vec<f64> = (0..channels).map(mean).collect();
    let data = x.data.iter().enumerate().map(|(i, v)| (v - means[i % channels]).abs());
    Tensor::new(x.shape.clone(), data.collect())
}

fn close(what: &str, got: f64, expected: f64, off: f64) {
    assert!((got - expected).abs() <= off, "{what}: {got} instead of {expected} (within {off})");
}

#[test]
fn weights_are_rounded_and_contractions_exact() {
    for (name, step) in samples() {
        check_contractions(&name, &step);
    }
}

/// Codes of weights, and accumulators shifted down to 16 bits.
fn check_contractions(name: &str, step: &Step) {
    for node in step.nodes("conv2d").chain(step.nodes("depthwise_conv2d")) {
        let what = format!("{name}, {}", node.path);
        let weights = step.producer(node.operands[1]);
        let shape = step.shape(node.operands[1]);
        let codes = step.weight_codes(&node.path, &shape);
        let masters = step.weight_before(&format!("{}.weight", node.path), &shape);
        let meant = step.oracle(weights, &[&times(&masters, &[(-28f64).exp2()])])[0].clone();
        let scale = step.dyadics(&format!("{}.weight_scale", node.path));
        let per = codes.data.len() / shape[0] as usize;
        for (i, (&code, &meant)) in codes.data.iter().zip(&meant.data).enumerate() {
            // On a tie of rounding, either neighbour is right.
            let exact = masters.data[i] * (-28f64).exp2() / scale[i / per];
            close(&what, code, exact, 0.5 + 1e-4);
            close(&what, code * scale[i / per], meant, scale[i / per] * 1.001);
        }
        let acc = step.oracle(node, &[&step.codes(node.operands[0]), &codes])[0].clone();
        let by = (step.int(&format!("{}.acc_shift", node.path)) as f64).exp2();
        let t = step.dense(&format!("{}.t", node.path), &acc.shape);
        let floor = acc.map(|v| (v / by).floor().clamp(-32767.0, 32767.0));
        assert!(t.data == floor.data, "{what}: t is the accumulator shifted");
        assert!(t.largest() > 100.0, "{what}: the shift leaves bits");
        let unit = step.dyadics(&format!("{}.unit", node.path));
        for (c, unit) in unit[..shape[0] as usize].iter().enumerate() {
            let meant = scale[c] * step.step_of(node.operands[0]) * by;
            close(&what, *unit, meant, meant * 1e-8);
        }
    }
}

#[test]
fn activation_codes_are_the_rounded_values() {
    for (name, step) in samples() {
        for node in step.nodes("quantize") {
            let path = format!("{}.activation", node.path);
            if !step.has(&format!("{path}.codes")) {
                continue;
            }
            let value = if step.producer(node.operands[0]).op == "global_avg_pool" {
                let pool = step.producer(node.operands[0]);
                step.oracle(pool, &[&step.forward(pool.operands[0])])[0].clone()
            } else {
                step.forward(node.operands[0])
            };
            let meant = times(&step.oracle(node, &[&value])[0], &[1.0 / step.step_of(node.results[0])]);
            let codes = step.codes(node.results[0]);
            let (mut off, errors) = (0, step.grid_error(&path, node.operands[0]));
            for (i, (&code, &meant)) in codes.data.iter().zip(&meant.data).enumerate() {
                let (lo, hi) = if flag(&node.attrs, "signed") { (-127.0, 127.0) } else { (0.0, 255.0) };
                let exact = (value.data[i] / step.step_of(node.results[0])).clamp(lo, hi);
                close(&format!("{name}, {path}"), code, exact, 0.5 + errors[i]);
                close(&format!("{name}, {path}"), code, meant, 1.001);
                off += (code - meant).abs().round() as usize;
            }
            let error = errors.iter().copied().fold(0.0, f64::max);
            assert!(error < 0.5, "{name}, {path}: coefficients are fine enough ({error})");
            assert!(off * 10 <= codes.data.len(), "{name}, {path}: {off} of {} codes", codes.data.len());
            assert!(codes.largest() > 32.0, "{name}, {path}: codes are used");
        }
    }
}

#[test]
fn stored_gradients_are_masked_sums_and_contractions() {
    for (name, step) in samples() {
        let seen = check_gradients(&name, &step);
        assert!(seen >= 5, "{name}: {seen} gradients are stored");
    }
}

/// Stored gradients against their masks, sums and contractions; how many there are.
fn check_gradients(name: &str, step: &Step) -> usize {
    let values = step.module.nodes.iter().filter_map(|node| node.results.first().copied());
    let mut seen = 0;
    for value in values {
        let Some(got) = step.gradient(value) else { continue };
        let what = format!("{name}, gradient %{} ({})", value.0, step.producer(value).path);
        let ((expected, off), open) = (step.expected_gradient(value), step.unmasked(value));
        let edges = step.at_edge(value);
        for (i, &got) in got.data.iter().enumerate() {
            let near = |v: f64| (got - v).abs() <= off;
            assert!(
                near(expected.data[i]) || edges[i] && (got == 0.0 || near(open.data[i])),
                "{what}: element {i} is {got}, not {} (before masks {}, within {off})",
                expected.data[i],
                open.data[i],
            );
        }
        let unsure = edges.iter().filter(|&&edge| edge).count();
        assert!(unsure * 20 <= edges.len(), "{what}: {unsure} of {} masks are unsure", edges.len());
        seen += 1;
    }
    seen
}

/// Per channel, |got − expected| by the largest of the expected: (got, expected) over channels.
fn check_channels(what: &str, got: &[f64], expected: &Tensor, relative: f64) {
    let largest = expected.largest();
    assert!(largest > 0.0, "{what}: all zero");
    for (c, &meant) in expected.data.iter().enumerate() {
        close(&format!("{what}, channel {c}"), got[c], meant, largest * relative);
    }
}

#[test]
fn batch_norm_gradients_and_their_codes() {
    for (name, step) in samples() {
        for node in step.nodes("batch_norm_grad") {
            let what = format!("{name}, {}", node.path);
            let conv = step.producer(node.operands[1]);
            let dy = step.gradient(node.operands[0]).expect("the operand is stored");
            let dy = times(&dy, &[step.gradient_unit(node.operands[0])]);
            let x = step.forward(node.operands[1]);
            let gamma = step.vector_before(node.operands[2]);
            let meant = step.oracle(node, &[&dy, &x, &gamma]);
            let path = &node.path;
            let dead = (conv.path == "conv2" && !name.contains("alive")).then_some(DEAD);
            let (mut dgamma, mut dx) = (meant[1].clone(), meant[0].clone());
            if let Some(dead) = dead {
                // A constant channel passes no gradient: its gain would be 1/√eps.
                dgamma.data[dead] = step.dyadics(&format!("{path}.gamma_grad"))[dead];
                let c = gamma.data.len();
                dx.data.iter_mut().skip(dead).step_by(c).for_each(|v| *v = 0.0);
            }
            check_channels(
                &format!("{what} dgamma"),
                &step.dyadics(&format!("{path}.gamma_grad")),
                &dgamma,
                1e-6,
            );
            check_channels(
                &format!("{what} dbeta"),
                &step.dyadics(&format!("{path}.beta_grad")),
                &meant[2],
                1e-6,
            );
            check_codes(&step, &what, node, conv, (&step.gradient(node.operands[0]).unwrap(), &dx));
        }
    }
}

/// Codes of a gradient by t: value + random bits, rounded down; the value within the error of the grid.
fn check_codes(step: &Step, what: &str, norm: &Node, conv: &Node, (dy, dx): (&Tensor, &Tensor)) {
    let node = step.nodes("quantize").find(|n| n.operands[0] == norm.results[0]).unwrap();
    let scheme = &step.module.schemes[word(&node.attrs, "scheme")];
    let bits = int(&scheme.params, "bits");
    let (fraction, levels) = (16 - bits, ((1 << (bits - 1)) - 1) as f64);
    let path = format!("{}.gradient0", node.path);
    let unit = step.dyadics(&format!("{}.unit", conv.path));
    let scale = step.dyadics(&format!("{path}.step"))[0];
    let scaled = times(&times(dx, &unit), &[1.0 / scale]);
    let codes = step.gradient_codes(&node.path, &dx.shape);
    // Half a unit of each coefficient times its source: that of t is a multiple of the rounded one of dy.
    let factor = step.dyadics(&format!("{}.grad_factor", norm.path));
    let factors: Vec<f64> = factor.iter().map(|f| 1.0 + f.abs()).collect();
    let t = centred(&step.dense(&format!("{}.t", conv.path), &dx.shape));
    let sources = centred(dy).zip(&times(&t, &factors[..t.shape[3] as usize]), |a, b| a + b);
    let fixed = 1.01 * (-(fraction as f64)).exp2();
    let errors = sources.map(|v| (0.5 * v + 2.0) * step.fine(&path) + fixed);
    assert!(errors.largest() < 0.25, "{what}: coefficients are fine enough ({})", errors.largest());
    let key = random::hash_key(step.rounding.seed, step.rounding.step, int(&node.attrs, "stream") as u64);
    let channels = *dx.shape.last().unwrap() as usize;
    for (i, &code) in codes.data.iter().enumerate() {
        let (pixel, c) = (i / channels, i % channels);
        let block = (pixel * channels.div_ceil(16) + c / 16) as u32;
        let bits = random::block(key, block)[c % 16] & ((1 << fraction) - 1);
        let v = scaled.data[i] + bits as f64 * (-(fraction as f64)).exp2();
        let inside = code <= v + errors.data[i] && code > v - 1.0 - errors.data[i];
        let clipped = code == v.clamp(-levels, levels).round() && v.abs() >= levels;
        assert!(inside || clipped, "{what}: code {i} is {code}, from {} + random", scaled.data[i]);
    }
    assert!(scaled.largest() <= levels + errors.largest(), "{what}: the bound holds");
    assert!(codes.largest() >= 0.5 * levels, "{what}: codes are used");
}

#[test]
fn weight_gradients_are_exact_sums_and_updates_within_a_step() {
    for (name, step) in samples() {
        check_weights(&name, &step);
    }
}

/// Sums of products of codes, and what the optimizer makes of them.
fn check_weights(name: &str, step: &Step) {
    for op in ["conv2d_grad_weight", "depthwise_conv2d_grad_weight", "linear_grad_weight"] {
        for node in step.nodes(op) {
            let (what, path) = (format!("{name}, {}", node.path), &node.path);
            let shape = step.shape(node.results[0]);
            let q = step.gradient_codes(path, &step.shape(node.operands[1]));
            let sums = step.oracle(node, &[&step.codes(node.operands[0]), &q])[0].clone();
            let got = step.weight(&format!("{path}.weight_grad"), &shape);
            assert!(got.data == sums.data, "{what}: sums of products of codes");
            assert!(sums.largest() > 0.0, "{what}: all zero");
            check_update(step, &what, path, &sums);
        }
    }
}

const LARGEST: f64 = i32::MAX as f64;

/// Momentum and master move by what the optimizer says, up to one step of stochastic rounding each.
fn check_update(step: &Step, what: &str, path: &str, sums: &Tensor) {
    let shape = &sums.shape;
    let name = format!("{path}.weight");
    let momentum = format!("{name}.momentum");
    let unit = step.dyadics(&format!("{path}.weight_grad_unit"));
    let rate = step.int("rate") as f64 * (-24f64).exp2();
    let (w0, m0) = (step.weight_before(&name, shape), step.weight_before(&momentum, shape));
    let (w1, m1) = (step.weight(&name, shape), step.weight(&momentum, shape));
    let per = sums.data.len() / shape[0] as usize;
    for i in 0..sums.data.len() {
        let g = sums.data[i] * unit[i / per] * (24f64).exp2();
        let meant = (0.9 * m0.data[i] + g + 1e-4 * w0.data[i] / 16.0).clamp(-LARGEST, LARGEST);
        // The coefficients have 16 bits, the unit of the gradient 24.
        let off = 1.01 + g.abs() * 1e-6 + m0.data[i].abs() * 1e-5 + w0.data[i].abs() * 1e-9;
        close(&format!("{what}, momentum {i}"), m1.data[i], meant, off);
        close(
            &format!("{what}, master {i}"),
            w1.data[i],
            (w0.data[i] - rate * m1.data[i] * 16.0).clamp(-LARGEST, LARGEST),
            1.01,
        );
    }
}

/// All gradients of a step by the oracle, on the forward pass of the integers and without rounding of gradients.
fn exact_gradients(step: &Step) -> BTreeMap<Value, Tensor> {
    let mut known: BTreeMap<Value, Tensor> = BTreeMap::new();
    for node in &step.module.nodes {
        let backward = node.op.ends_with("_grad") || node.op.contains("_grad_");
        let reads = node.operands.iter().any(|v| known.contains_key(v));
        if !backward && !reads || node.op == "sgd_update" {
            continue;
        }
        if node.op == "quantize" {
            known.insert(node.results[0], known[&node.operands[0]].clone());
            continue;
        }
        let operand = |v: &Value| known.get(v).cloned().unwrap_or_else(|| step.forward(*v));
        let operands: Vec<Tensor> = node.operands.iter().map(operand).collect();
        let results = step.oracle(node, &operands.iter().collect::<Vec<_>>());
        known.extend(node.results.iter().copied().zip(results));
    }
    known
}

/// Mean over the seeds of the part of `got` that lies along `exact`, minus one; and its standard error.
fn bias(got: &[Vec<f64>], exact: &Tensor) -> (f64, f64) {
    let dot = |a: &[f64]| a.iter().zip(&exact.data).map(|(a, b)| a * b).sum::<f64>();
    let slopes: Vec<f64> = got.iter().map(|got| dot(got) / dot(&exact.data) - 1.0).collect();
    let n = slopes.len() as f64;
    let mean = slopes.iter().sum::<f64>() / n;
    let variance = slopes.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

#[test]
fn rounding_of_gradients_does_not_bias_the_gradients_of_norms() {
    for (bits, certain) in [(8, 0.01), (4, 0.2)] {
        let runs: Vec<Step> = (0..16).map(|seed| Step::run(network(bits), seed, 1, |_| ())).collect();
        let exact = exact_gradients(&runs[0]);
        for node in runs[0].nodes("batch_norm_grad") {
            for (result, name) in [(1, "gamma_grad"), (2, "beta_grad")] {
                let name = format!("{}.{name}", node.path);
                let got: Vec<Vec<f64>> = runs.iter().map(|run| run.dyadics(&name)).collect();
                let (mean, error) = bias(&got, &exact[&node.results[result]]);
                assert!(error < certain, "{bits} bits, {name}: too noisy to tell ({error})");
                assert!(mean.abs() < 0.01 + 3.0 * error, "{bits} bits, {name}: bias {mean} (±{error})");
            }
        }
    }
}

#[test]
fn gradients_of_logits_are_those_of_the_softmax() {
    for (name, step) in samples() {
        let node = step.nodes("softmax_cross_entropy_grad").next().unwrap();
        let operands = [step.forward(node.operands[0]), step.forward(node.operands[1])];
        let meant = step.oracle(node, &operands.each_ref())[0].clone();
        let codes = step.dense("logits.gradient16", &meant.shape);
        let got = times(&codes, &step.dyadics("logits.gradient_unit"));
        for (one, expected) in got.data.iter().zip(&meant.data) {
            // Half a step of 16 bits, and the interpolated exponential.
            close(&name, *one, *expected, meant.largest() * 1e-4);
        }
        for row in codes.data.chunks_exact(10) {
            assert!(row.iter().sum::<f64>().abs() <= 5.0, "{name}: a sample's gradients sum to zero");
        }
    }
}
