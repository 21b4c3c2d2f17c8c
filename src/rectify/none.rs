//! No rectification: the exact backward of batch norm (Ioffe and Szegedy 2015).

use super::{Rectifier, TermValues, Terms, plain, plain_values};
use crate::kernel::Value;
use crate::kernel::build::KernelBuilder;
use crate::types::{Attrs, ParamSpec};

pub(super) struct None;

impl Rectifier for None {
    fn name(&self) -> &'static str {
        "none"
    }

    fn doc(&self) -> &'static str {
        "the exact backward of batch norm"
    }

    fn params(&self) -> &'static [ParamSpec] {
        &[]
    }

    fn terms_f64(&self, gamma: f64, variance: f64, _: &Attrs) -> Terms {
        plain(gamma, variance)
    }

    fn terms(&self, kb: &mut KernelBuilder, gamma: Value, variance: Value, _: &Attrs) -> TermValues {
        plain_values(kb, gamma, variance)
    }

    fn loss_f64(&self, _: f64, _: f64, _: &Attrs) -> f64 {
        0.0
    }
}
