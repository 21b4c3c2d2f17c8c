//! Bit-operations of a training step: the field's measure of what widths save on hardware that is as wide as the codes.
//!
//! Each multiply-accumulate of a contraction counts as the product of its operands' bits. The forward contraction pairs
//! activations with weights, its two derivatives pair gradients with weights and activations with gradients. Widths are
//! those of the schemes, also where a policy keeps to fewer; pixels have 8 bits, what no scheme quantizes 32. For reports
//! only; nothing is decided by it.

use crate::ir::{Module, Node, Value};
use crate::ops::{self, Part, Read};
use crate::quant;
use crate::types::word;

/// Bits of a pixel.
const PIXEL: u64 = 8;
/// Bits of a real number.
const REAL: u64 = 32;

/// Bit-operations for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bops {
    /// Of the forward pass.
    pub forward: u64,
    /// Of the derivatives by activations and by weights.
    pub backward: u64,
}

impl Bops {
    /// Of a training step.
    pub fn step(&self) -> u64 {
        self.forward + self.backward
    }
}

/// An operand of a contraction, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// Codes of a quantizer, by the number of its node.
    Codes(usize),
    /// Something of so many bits that no scheme quantizes.
    Fixed(u64),
}

/// The products of two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// Multiply-accumulates for one image.
    pub products: u64,
    /// What is multiplied.
    pub operands: [Operand; 2],
    /// Whether it is a derivative.
    pub backward: bool,
}

/// The bit-operations of a verified module with gradients.
pub fn bops(module: &Module) -> Bops {
    let mut bops = Bops::default();
    for Meeting { products, operands, backward } in meetings(module) {
        let [a, b] = operands.map(|operand| match operand {
            Operand::Codes(index) => code_bits(module, index),
            Operand::Fixed(bits) => bits,
        });
        let sum = if backward { &mut bops.backward } else { &mut bops.forward };
        *sum = sum.saturating_add(products.saturating_mul(a * b));
    }
    bops
}

/// What meets in the contractions of a verified module and in their derivatives.
pub fn meetings(module: &Module) -> Vec<Meeting> {
    let meeting = |node: &Node| {
        let part = ops::of(node).part();
        if !matches!(part, Part::Contraction | Part::ContractionGrad) {
            return None;
        }
        let codes = node.operands.iter().enumerate();
        let codes = codes.filter(|(i, _)| matches!(ops::of(node).reads(*i), Read::Codes { .. }));
        let operands: Vec<Operand> = codes.map(|(_, &value)| operand(module, value)).collect();
        // The derivative by a bias is a sum without products.
        let operands = operands.try_into().ok()?;
        let products = products(module, &node.path) / u64::from(module.training.batch.max(1));
        Some(Meeting { products, operands, backward: part == Part::ContractionGrad })
    };
    module.nodes.iter().filter_map(meeting).collect()
}

/// Multiply-accumulates of the contraction at a path; its derivatives have as many. Of a weight, each output channel
/// `weight[o]` meets each pixel of its channel once.
fn products(module: &Module, path: &str) -> u64 {
    let forward = |node: &&Node| node.path == path && ops::of(node).part() == Part::Contraction;
    let Some(node) = module.nodes.iter().find(forward) else { return 0 };
    let elements = |value: Value| module.ty(value).elements().unwrap_or(0);
    let (result, weight) = (node.results[0], node.operands[1]);
    let rows = module.ty(weight).shape.first().copied().unwrap_or(1).max(1);
    elements(result).saturating_mul(elements(weight) / rows)
}

/// A value as a contraction reads it.
fn operand(module: &Module, value: Value) -> Operand {
    if value == module.image {
        return Operand::Fixed(PIXEL);
    }
    match module.producer(value) {
        Some(index) if ops::of(&module.nodes[index]).part() == Part::Quantizer => Operand::Codes(index),
        Some(index) if ops::of(&module.nodes[index]).keeps_grid() => {
            operand(module, module.nodes[index].operands[0])
        }
        _ => Operand::Fixed(REAL),
    }
}

/// Bits of the codes of a quantizer, by the number of its node.
pub fn code_bits(module: &Module, quantizer: usize) -> u64 {
    let scheme = module.schemes.get(word(&module.nodes[quantizer].attrs, "scheme"));
    scheme.map_or(REAL, |scheme| u64::from(quant::bits(&scheme.params)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elaborate::{Overrides, elaborate};
    use crate::ir::Stage;

    fn of(body: &str, gbits: i64) -> Bops {
        let text = format!(
            "model m {{ input image: 8x8x3 classes 10 use recipe plain image |> {body} train {{ batch 5 }} }}"
        );
        let file = crate::syntax::file(&text).expect("a model file");
        let overrides = Overrides { gbits: Some(gbits), ..Overrides::default() };
        let module = elaborate(&file, &overrides).expect("a model").module;
        bops(&crate::passes::run(module, Stage::Bits, |_, _| ()).expect("a module"))
    }

    #[test]
    fn by_hand() {
        // 4x4 pixels of 5 channels, each from 3x3x3; then 4x4 windows of one channel each; then 5 x 10.
        let (conv, depthwise, linear) = (16 * 5 * 27, 16 * 5 * 9, 5 * 10);
        let body = "conv(5, 3x3, stride = 2) |> relu |> depthwise_conv(3x3) |> relu |> global_avg_pool |> linear(10)";
        let forward = 64 * (conv + depthwise + linear);
        // The first layer has no derivative by its input; logits keep 8 bits of gradient.
        let backward = |gbits: u64| 8 * gbits * (conv + 2 * depthwise) + 2 * 64 * linear;
        for gbits in [8, 4, 2] {
            assert_eq!(of(body, gbits as i64), Bops { forward, backward: backward(gbits) });
        }
    }

    #[test]
    fn pixels_keep_their_bits_through_what_only_moves_them() {
        let (linear, head) = (192 * 7, 7 * 10);
        let bops = of("flatten |> linear(7) |> relu |> linear(10)", 4);
        assert_eq!(bops.forward, 64 * (linear + head));
        assert_eq!(bops.step(), bops.forward + 32 * linear + 2 * 64 * head);
    }
}
