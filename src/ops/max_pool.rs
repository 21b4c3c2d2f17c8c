//! Largest pixel of each window, per channel. The border never wins; of equal pixels the first in raster order does.

use super::pool::{self, SIZE, STRIDE};
use super::window::Window;
use super::{Eval, Layer, Op, Read, Sample, Tensor, append, append_gradient, sample_attrs, shapes};
use crate::diag::{Diagnostic, Span};
use crate::ir::{Attr, Attrs, Module, Node, Role, TensorType, Value};
use crate::types::{Kind, Literal, ParamSpec, int};

pub(super) struct MaxPool;

pub(super) const PADDING: ParamSpec = ParamSpec::optional(
    "padding",
    Kind::Int { lo: 0, hi: 32 },
    Literal::Int(0),
    "width of the border, at most half of the window",
);

/// E0308 unless every window has a pixel inside the image.
pub(super) fn check(attrs: &Attrs) -> Result<(), Diagnostic> {
    let (size, padding) = (int(attrs, "size"), int(attrs, "padding"));
    if 2 * padding <= size {
        return Ok(());
    }
    Err(Diagnostic::new(
        "E0308",
        format!("padding {padding} is more than half of the window, which is {size}"),
    ))
}

/// For each output element the index of the input element that it takes.
pub(super) fn winners(x: &Tensor, attrs: &Attrs) -> (Vec<u64>, Vec<usize>) {
    let window = Window::pool(attrs);
    let input = [x.shape[1], x.shape[2]];
    let output = window.output("max_pool", input).expect("the node is well typed");
    let (channels, pixels, outputs) = (x.dim(3), x.dim(1) * x.dim(2), (output[0] * output[1]) as usize);
    let mut winners = vec![usize::MAX; x.dim(0) * outputs * channels];
    for n in 0..x.dim(0) {
        window.each(input, output, |o, i, _| {
            for c in 0..channels {
                let winner = &mut winners[(n * outputs + o) * channels + c];
                let candidate = (n * pixels + i) * channels + c;
                if *winner == usize::MAX || x.data[candidate] > x.data[*winner] {
                    *winner = candidate;
                }
            }
        });
    }
    (vec![x.shape[0], output[0], output[1], x.shape[3]], winners)
}

impl Op for MaxPool {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn doc(&self) -> &'static str {
        "largest pixel of each window"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        &[PADDING, SIZE, STRIDE]
    }

    fn check_attrs(&self, attrs: &Attrs) -> Result<(), Diagnostic> {
        crate::types::conform("max_pool", self.attrs(), attrs)?;
        check(attrs)
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("max_pool", operands, 1..=1)?;
        let [n, h, w, c] = shapes::image("max_pool", operands[0])?;
        let [oh, ow] = Window::pool(attrs).output("max_pool", [h, w])?;
        Ok(vec![TensorType { element: operands[0].element.clone(), shape: vec![n, oh, ow, c] }])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let (shape, winners) = winners(operands[0], &cx.node.attrs);
        vec![Tensor::new(shape, winners.into_iter().map(|i| operands[0].data[i]).collect())]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let attrs = self.attrs().iter().map(|spec| (spec.name, node.attrs[spec.name].clone()));
        vec![
            cotangents[0]
                .map(|dy| append_gradient(module, node, "max_pool_grad", &[dy, node.operands[0]], attrs)[0]),
        ]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Codes { role: Role::Activations, per_channel: false }
    }

    fn keeps_grid(&self) -> bool {
        true
    }

    fn nonnegative(&self, operands: &[bool]) -> bool {
        operands[0]
    }

    fn layer(&self) -> Option<&'static dyn Layer> {
        Some(&MaxPoolLayer)
    }

    fn samples(&self) -> Vec<Sample> {
        let sample = |shape: [u64; 4], size: i64, stride: i64, padding: i64| {
            let given =
                [("size", size), ("stride", stride), ("padding", padding)].map(|(k, v)| (k, Attr::Int(v)));
            Sample { operands: vec![TensorType::real(shape)], attrs: sample_attrs(self.attrs(), &given) }
        };
        vec![sample([2, 4, 4, 3], 2, 2, 0), sample([1, 7, 6, 17], 3, 2, 1), sample([1, 5, 5, 2], 3, 1, 0)]
    }
}

struct MaxPoolLayer;

impl Layer for MaxPoolLayer {
    fn name(&self) -> &'static str {
        "max_pool"
    }

    fn doc(&self) -> &'static str {
        "largest pixel of each window"
    }

    fn params(&self) -> &'static [ParamSpec] {
        const PARAMS: &[ParamSpec] = &[SIZE, pool::stride(), PADDING];
        PARAMS
    }

    fn build(
        &self,
        module: &mut Module,
        path: &str,
        operands: &[Value],
        args: &Attrs,
        span: Option<Span>,
    ) -> Result<Value, Diagnostic> {
        Ok(append(module, "max_pool", operands, pool::attrs(args), path, span)?[0])
    }
}
