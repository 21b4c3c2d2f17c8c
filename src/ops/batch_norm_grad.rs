//! Backward of batch norm, with a rectifier: (dy, x, γ) → (dx, dγ, dβ).
//!
//! With m elements per channel, σ² = var + eps, dβ = Σdy, dγ = Σdy·x̂ and the rectifier's terms (`rectify`):
//! dx = gain·(dy − dβ/m) − (gain·dγ + spread)/m·x̂, and the result dγ + dr/dγ. Without a rectifier gain = γ/σ and this is
//! the derivative of batch norm (Ioffe and Szegedy 2015, section 3).

use super::batch_norm::{EPS, statistics};
use super::{Eval, Op, Part, Read, Tensor, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, TensorType};
use crate::rectify;
use crate::types::{Kind, ParamSpec, conform, real, word};

pub(super) struct BatchNormGrad;

const RECTIFIER: ParamSpec = ParamSpec::required("rectifier", Kind::Name, "name of the rectifier");

impl Op for BatchNormGrad {
    fn name(&self) -> &'static str {
        "batch_norm_grad"
    }

    fn doc(&self) -> &'static str {
        "derivative of batch norm with a rectifier, from (dy, x, gamma) to (dx, dgamma, dbeta)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        const ATTRS: &[ParamSpec] = &[EPS, RECTIFIER];
        ATTRS
    }

    fn check_attrs(&self, attrs: &Attrs) -> Result<(), Diagnostic> {
        let name = word(attrs, "rectifier");
        let Some(rectifier) = rectify::find(name) else {
            return Err(Diagnostic::new("E0201", format!("there is no rectifier `{name}`")));
        };
        let specs: Vec<ParamSpec> = self.attrs().iter().chain(rectifier.params()).copied().collect();
        conform("batch_norm_grad", &specs, attrs)
    }

    fn infer(&self, operands: &[&TensorType], _: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("batch_norm_grad", operands, 3..=3)?;
        let channels = shapes::channels("batch_norm_grad", operands[0])?;
        shapes::expect("batch_norm_grad", "the input", operands[1], &operands[0].shape)?;
        shapes::expect("batch_norm_grad", "gamma", operands[2], &[channels])?;
        let channel = TensorType::real([channels]);
        Ok(vec![shapes::like(operands[0]), channel.clone(), channel])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let (dy, x, gamma) = (operands[0], operands[1], operands[2]);
        let attrs = &cx.node.attrs;
        let rectifier = rectify::find(word(attrs, "rectifier")).expect("the verifier knows the rectifier");
        let (mean, mut variance) = statistics(x);
        variance.iter_mut().for_each(|v| *v += real(attrs, "eps"));
        let channels = mean.len();
        let count = (x.data.len() / channels) as f64;
        let normal = |c: usize, x: f64| (x - mean[c]) / variance[c].sqrt();
        let (mut dgamma, mut dbeta) = (vec![0.0; channels], vec![0.0; channels]);
        for (index, (&dy, &x)) in dy.data.iter().zip(&x.data).enumerate() {
            let c = index % channels;
            dgamma[c] += dy * normal(c, x);
            dbeta[c] += dy;
        }
        let terms: Vec<rectify::Terms> =
            (0..channels).map(|c| rectifier.terms_f64(gamma.data[c], variance[c], attrs)).collect();
        let mut dx = dy.clone();
        for (index, (dx, &x)) in dx.data.iter_mut().zip(&x.data).enumerate() {
            let c = index % channels;
            let slope = (terms[c].gain * dgamma[c] + terms[c].spread) / count;
            *dx = terms[c].gain * (*dx - dbeta[c] / count) - slope * normal(c, x);
        }
        dgamma.iter_mut().zip(&terms).for_each(|(dgamma, terms)| *dgamma += terms.dgamma);
        let shape = gamma.shape.clone();
        vec![dx, Tensor::new(shape.clone(), dgamma), Tensor::new(shape, dbeta)]
    }

    fn part(&self) -> Part {
        Part::NormGrad
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
