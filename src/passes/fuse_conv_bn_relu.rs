//! Groups of the forward pass: a contraction and what follows it up to the quantizer, so that only codes are stored.
//!
//! `contraction [batch norm] [sum] [activation function] quantizer`, in three forms. Plain: without a sum. Residual: the
//! other operand of the sum is stored codes. Projection: it comes from a contraction (and batch norm) of its own, which
//! is then part of the group. The quantizers of weights are not.

use std::collections::BTreeSet;

use super::Pass;
use super::grouping::Grouping;
use crate::diag::Diagnostic;
use crate::ir::{Module, Stage, Value};
use crate::ops::{self, Part};

pub(super) const PASS: Pass = Pass {
    name: "fuse_conv_bn_relu",
    doc: "groups contractions with batch norm, residual sum, activation function and quantizer",
    needs: Stage::Quantized,
    gives: Stage::Quantized,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let mut grouping = Grouping::new(module);
    let search = Search { module, producers: module.producers() };
    for (index, node) in module.nodes.iter().enumerate() {
        if ops::of(node).part() != Part::Quantizer {
            continue;
        }
        let mut found = Found::default();
        search.chain(node.operands[0], Part::Quantizer, &mut found);
        if found.contractions > 0 {
            found.nodes.insert(index);
            grouping.propose(&found.nodes, found.name());
        }
    }
    grouping.apply(module);
    Ok(())
}

#[derive(Default)]
struct Found {
    nodes: BTreeSet<usize>,
    contractions: usize,
    sums: usize,
}

impl Found {
    fn name(&self) -> &'static str {
        match (self.sums, self.contractions) {
            (0, _) => "conv_bn_relu",
            (_, 1) => "conv_bn_relu_residual",
            (..) => "conv_bn_relu_projection",
        }
    }
}

struct Search<'m> {
    module: &'m Module,
    producers: Vec<Option<usize>>,
}

impl Search<'_> {
    /// Adds the chain of nodes that ends with `value`, if it begins with a contraction; true if it does. `reader` is what
    /// reads the value.
    fn chain(&self, value: Value, reader: Part, found: &mut Found) -> bool {
        let Some(index) = self.producers[value.0 as usize] else { return false };
        let node = &self.module.nodes[index];
        let part = ops::of(node).part();
        let (Some(rank), limit) = (part.epilogue_rank(), reader.epilogue_rank().unwrap_or(u8::MAX)) else {
            return false;
        };
        if rank >= limit || node.group.is_some() {
            return false;
        }
        let begins = match part {
            Part::Contraction => {
                found.contractions += 1;
                true
            }
            Part::Sum => {
                let begins =
                    node.operands.iter().filter(|&&operand| self.chain(operand, part, found)).count();
                found.sums += usize::from(begins > 0);
                begins > 0
            }
            _ => self.chain(node.operands[0], part, found),
        };
        if begins {
            found.nodes.insert(index);
        }
        begins
    }
}
