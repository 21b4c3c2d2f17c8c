//! Shuffles of bytes: bodies that only load four blocks, interleave them and store four, in two instructions.
//!
//! Every stored byte is traced back to where it was loaded. `vpermd` brings the words of four bytes that a quarter of the
//! result needs into that quarter, `vpshufb` the bytes into their order. A quarter that needs more than four words,
//! or blocks that do not follow each other in memory, are left to the instructions that the body names.

use super::asm::Result;
use super::codes;
use super::select::{Select, z};
use super::vcode::{Inst, Width};
use crate::kernel::{Address, DType, Expr, LANES, Stmt, Value};
use iced_x86::Code;
use std::collections::BTreeMap;

/// Bytes of four blocks.
const BYTES: usize = 4 * LANES;

/// Where 64 bytes come from and go to, and which of them is stored at each place.
struct Shuffle<'s> {
    from: &'s Address,
    to: &'s Address,
    bytes: [usize; BYTES],
}

impl Select<'_> {
    /// Writes a body that is a shuffle; false if it is not.
    pub(super) fn shuffle(&mut self, body: &[Stmt]) -> Result<bool> {
        let bytes = |value: Value| matches!(self.dtype(value), Ok(DType::I8 | DType::U8));
        let Some(shuffle) = find(body, bytes) else { return Ok(false) };
        let Some((words, bytes)) = permutations(&shuffle.bytes) else { return Ok(false) };
        let from = self.address(shuffle.from)?;
        self.prefetch(shuffle.from, from);
        let x = self.def(codes::load(Width::Z), Width::Z, &[from]);
        let (words, bytes) = (self.constant_bytes(words), self.constant_bytes(bytes));
        let x = self.def(Code::EVEX_Vpermd_zmm_k1z_zmm_zmmm512b32, Width::Z, &[z(words), z(x)]);
        let x = self.def(Code::EVEX_Vpshufb_zmm_k1z_zmm_zmmm512, Width::Z, &[z(x), z(bytes)]);
        let to = self.address(shuffle.to)?;
        self.prefetch(shuffle.to, to);
        self.inst(Inst::new(codes::store(Width::Z), [to, z(x)]));
        Ok(true)
    }
}

/// The number of a block among four that begin at `first`.
fn block(first: &Address, address: &Address) -> Option<usize> {
    let alike = first.param == address.param && first.terms == address.terms;
    let apart = usize::try_from(address.offset.checked_sub(first.offset)?).ok()?;
    (alike && apart.is_multiple_of(LANES) && apart < BYTES).then_some(apart / LANES)
}

fn find(body: &[Stmt], bytes: impl Fn(Value) -> bool) -> Option<Shuffle<'_>> {
    let mut values: BTreeMap<Value, [usize; LANES]> = BTreeMap::new();
    let (mut from, mut to): (Option<&Address>, Option<&Address>) = (None, None);
    let mut stored = [None; 4];
    for stmt in body {
        match stmt {
            Stmt::Let(value, Expr::Load(address)) if bytes(*value) && to.is_none() => {
                let at = block(from.get_or_insert(address), address)?;
                values.insert(*value, std::array::from_fn(|i| LANES * at + i));
            }
            Stmt::Let(value, Expr::Interleave { a, b, high }) => {
                let operands = [*values.get(a)?, *values.get(b)?];
                let first = if *high { LANES / 2 } else { 0 };
                values.insert(*value, std::array::from_fn(|i| operands[i % 2][first + i / 2]));
            }
            Stmt::Store(address, value) => {
                let at = block(to.get_or_insert(address), address)?;
                stored[at] = Some(*values.get(value)?);
            }
            _ => return None,
        }
    }
    let [Some(a), Some(b), Some(c), Some(d)] = stored else { return None };
    // A load of 64 bytes stays inside of the buffer if the last block was loaded.
    let loads = body.iter().filter(|s| matches!(s, Stmt::Let(_, Expr::Load(_)))).count();
    let all = values.values().any(|v| v[0] == BYTES - LANES);
    let bytes = [a, b, c, d].concat().try_into().ok()?;
    (loads == 4 && all).then_some(Shuffle { from: from?, to: to?, bytes })
}

/// The constants of `vpermd` and `vpshufb` that make this shuffle.
fn permutations(bytes: &[usize; BYTES]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (mut words, mut order) = (vec![], vec![]);
    for quarter in bytes.chunks(LANES) {
        let mut needed: Vec<usize> = quarter.iter().map(|b| b / 4).collect();
        needed.sort_unstable();
        needed.dedup();
        if needed.len() > 4 {
            return None;
        }
        let place = |b: &usize| needed.iter().position(|w| *w == b / 4).map(|w| (4 * w + b % 4) as u8);
        order.extend(quarter.iter().filter_map(place));
        needed.resize(4, 0);
        words.extend(needed.iter().flat_map(|w| (*w as u32).to_le_bytes()));
    }
    Some((words, order))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn two_permutations_make_the_shuffle() {
        // Four rows of 16 bytes, transposed.
        let transposed: [usize; BYTES] = std::array::from_fn(|i| i % 4 * LANES + i / 4);
        let (words, order) = permutations(&transposed).unwrap();
        let permuted: Vec<usize> = (0..BYTES).map(|i| words[i / 4 * 4] as usize * 4 + i % 4).collect();
        let made: Vec<usize> = (0..BYTES).map(|i| permuted[i / LANES * LANES + order[i] as usize]).collect();
        assert_eq!(made, transposed);
        assert!(permutations(&std::array::from_fn(|i| i * 5 % BYTES)).is_none(), "five words in a quarter");
    }
}
