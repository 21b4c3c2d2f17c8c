//! One dot product of a contraction: a group of every lane with a broadcast group, added to sums.

use super::super::shape::{Form, Signs};
use super::lanes::{constant, dot_pairs};
use crate::targets::DotForm;
use cranelift_codegen::ir::{self, InstBuilder, types};
use cranelift_frontend::FunctionBuilder;

/// `sum + group·lanes`.
pub(super) fn dot(
    b: &mut FunctionBuilder,
    form: Form,
    target: DotForm,
    sum: ir::Value,
    group: ir::Value,
    lanes: ir::Value,
) -> ir::Value {
    match form {
        Form::Dot(signs) | Form::Saturating(signs) => {
            let (signed, unsigned) = match signs {
                Signs::Points => (group, lanes),
                Signs::Vectors => (lanes, group),
            };
            if let Form::Dot(_) = form {
                return dot_bytes(b, target, sum, signed, unsigned);
            }
            let pairs = b.ins().x86_pmaddubsw(signed, unsigned);
            let ones = constant(b, types::I16X8, &[1, 0].repeat(8));
            let words = dot_pairs(b, pairs, ones);
            b.ins().iadd(sum, words)
        }
        Form::Widened(_) | Form::Pairs16 => {
            let products = dot_pairs(b, lanes, group);
            b.ins().iadd(sum, products)
        }
    }
}

/// The tree of operations that Cranelift folds into one instruction; the order of all operands matters.
fn dot_bytes(
    b: &mut FunctionBuilder,
    target: DotForm,
    sum: ir::Value,
    signed: ir::Value,
    unsigned: ir::Value,
) -> ir::Value {
    let product = |b: &mut FunctionBuilder, s, u| match target {
        DotForm::UnsignedFirst => b.ins().imul(u, s),
        DotForm::SignedFirst | DotForm::Pairs => b.ins().imul(s, u),
    };
    let (s, u) = (b.ins().swiden_low(signed), b.ins().uwiden_low(unsigned));
    let low = product(b, s, u);
    let (s, u) = (b.ins().swiden_high(signed), b.ins().uwiden_high(unsigned));
    let high = product(b, s, u);
    let pairs = [low, high].map(|x| {
        let (first, second) = (b.ins().swiden_low(x), b.ins().swiden_high(x));
        b.ins().iadd_pairwise(first, second)
    });
    let fours = b.ins().iadd_pairwise(pairs[0], pairs[1]);
    b.ins().iadd(fours, sum)
}
