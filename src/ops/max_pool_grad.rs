//! Derivative of a max pool: each gradient goes to the pixel that won its window.

use super::max_pool::{PADDING, check, winners};
use super::pool::{SIZE, STRIDE};
use super::window::Window;
use super::{Eval, Op, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};
use crate::types::{ParamSpec, conform};

pub(super) struct MaxPoolGrad;

impl Op for MaxPoolGrad {
    fn name(&self) -> &'static str {
        "max_pool_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative of a max pool, from (dy, x)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] = &[PADDING, SIZE, STRIDE];
        ATTRS
    }

    fn check_attrs(&self, attrs: &Attrs) -> Result<(), Diagnostic> {
        conform("max_pool_grad", self.attrs(), attrs)?;
        check(attrs)
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("max_pool_grad", operands, 2..=2)?;
        let [n, h, w, c] = shapes::image("max_pool_grad", operands[1])?;
        let [oh, ow] = Window::pool(attrs).output("max_pool_grad", [h, w])?;
        shapes::expect("max_pool_grad", "a gradient", operands[0], &[n, oh, ow, c])?;
        Ok(vec![shapes::like(operands[1])])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let (dy, x) = (operands[0], operands[1]);
        let mut dx = Tensor::zeros(x.shape.clone());
        let (_, winners) = winners(x, &cx.node.attrs);
        for (winner, dy) in winners.into_iter().zip(&dy.data) {
            dx.data[winner] += dy;
        }
        vec![dx]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
