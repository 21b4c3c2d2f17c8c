//! Stochastic gradient descent with momentum and weight decay: m ← μ·m + g + decay·w, w ← w − lr·m.
//!
//! (Sutskever et al. 2013, in the form with the learning rate outside of the momentum.) Rates and the momentum are state
//! and schedule, no part of the module: a node says which gradient updates which parameter, and whether it decays.

use super::{Eval, Op, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};
use crate::types::{Kind, ParamSpec};

pub(super) struct SgdUpdate;

/// One step in real numbers: the new weight and momentum.
pub fn step_f64(
    weight: &Tensor,
    momentum: &Tensor,
    gradient: &Tensor,
    lr: f64,
    mu: f64,
    decay: f64,
) -> (Tensor, Tensor) {
    let pull = gradient.zip(weight, |g, w| g + decay * w);
    let momentum = momentum.zip(&pull, |m, g| mu * m + g);
    (weight.zip(&momentum, |w, m| w - lr * m), momentum)
}

impl Op for SgdUpdate {
    fn name(&self) -> &'static str {
        "sgd_update"
    }

    fn doc(&self) -> &'static str {
        "update of a parameter by momentum, from (parameter, gradient)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] =
            &[ParamSpec::required("decay", Kind::Bool, "whether weight decay applies")];
        ATTRS
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("sgd_update", operands, 2..=2)?;
        shapes::expect("sgd_update", "a gradient", operands[1], &operands[0].shape)?;
        Ok(vec![])
    }

    fn eval_f64(&self, _: &[&Tensor], _: &Eval) -> Vec<Tensor> {
        vec![]
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }

    fn has_effect(&self) -> bool {
        true
    }
}
