//! What `fqtc study bits` may spend: bits on average, bit-operations, or bytes.
//!
//! An average is over the elements of what is chosen and free. Bit-operations and bytes are of a whole step: what is not
//! chosen, or stated by rules, has its share of them. All count the elements of one image, and weights once.

use super::widths::Coded;
use crate::bits::allocation::{Problem, Term};
use crate::bops::{self, Operand, code_bits};
use crate::ir::{Module, Role};
use crate::noise::{self, Codes};

/// A budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Budget {
    /// Bits of an element on average.
    Average(f64),
    /// Bit-operations of an image's training step.
    BitOps(u64),
    /// Bytes of all codes, packed.
    Bytes(u64),
}

/// What widths cost in the unit of a budget: of bits, or of bit-operations.
pub(super) struct Cost {
    /// What the tensors of a problem cost, by their numbers.
    pub(super) terms: Vec<Term>,
    /// What else there is.
    pub(super) fixed: u64,
    /// What there is to spend.
    pub(super) room: u64,
    /// Elements that an average is over.
    elements: u64,
}

impl Cost {
    /// The cost if each tensor has so many bits.
    pub(super) fn of(&self, bits: impl Fn(usize) -> u32) -> u64 {
        self.fixed.saturating_add(Problem { tensors: vec![], terms: self.terms.clone() }.cost(bits))
    }

    /// Adds the bit-operations of a module.
    fn meet(&mut self, module: &Module, coded: &[Coded]) {
        let mut tensors = vec![None; module.nodes.len()];
        for codes in Role::ALL.into_iter().flat_map(|role| noise::codes(module, role)) {
            codes.quantizers.iter().for_each(|&index| tensors[index] = place(coded, &codes));
        }
        for meeting in bops::meetings(module) {
            let (mut count, mut chosen) = (meeting.products, vec![]);
            for operand in meeting.operands {
                match operand {
                    Operand::Fixed(bits) => count = count.saturating_mul(bits),
                    Operand::Codes(index) => match tensors[index] {
                        Some(tensor) => chosen.push(tensor),
                        None => count = count.saturating_mul(code_bits(module, index)),
                    },
                }
            }
            if chosen.is_empty() {
                self.fixed = self.fixed.saturating_add(count);
            } else {
                self.terms.push(Term { count, tensors: chosen });
            }
        }
    }
}

/// The number of some codes among those that are chosen.
fn place(coded: &[Coded], codes: &Codes) -> Option<usize> {
    coded.iter().position(|coded| coded.role == codes.role && coded.path == codes.path)
}

impl Budget {
    /// A budget as the command line gives it.
    pub(super) fn parse(text: &str) -> Result<Budget, String> {
        // What a product misses of a whole number is nothing.
        let scaled = |unit: &str, scale: f64| {
            let number = text.strip_suffix(unit)?.parse::<f64>().ok()?;
            (number > 0.0 && number < 1e12).then_some((number * scale * (1.0 + 1e-12)) as u64)
        };
        let average = text.parse().ok().filter(|bits| (2.0..=8.0).contains(bits)).map(Budget::Average);
        let bit_ops = || scaled("Mbops", 1e6).or_else(|| scaled("Gbops", 1e9)).map(Budget::BitOps);
        let bytes = || scaled("KiB", 1024.0).or_else(|| scaled("MiB", 1_048_576.0)).map(Budget::Bytes);
        average.or_else(bit_ops).or_else(bytes).ok_or_else(|| {
            "a budget is bits on average, from 2 to 8 (4.5), bit-operations (600Mbops, 1.2Gbops) or bytes (300KiB, 2MiB)"
                .to_owned()
        })
    }

    /// What widths of these tensors of a module cost.
    pub(super) fn cost(self, module: &Module, coded: &[Coded]) -> Cost {
        let free = coded.iter().filter(|coded| coded.is_free());
        let elements = free.map(|coded| coded.elements).sum();
        let mut cost = Cost { terms: vec![], fixed: 0, room: 0, elements };
        match self {
            Budget::Average(bits) => {
                let free = coded.iter().enumerate().filter(|(_, coded)| coded.is_free());
                cost.terms
                    .extend(free.map(|(index, coded)| Term { count: coded.elements, tensors: vec![index] }));
                // What a product misses of a whole number is no bit.
                cost.room = (bits * elements as f64 + 1e-6) as u64;
            }
            Budget::Bytes(bytes) => {
                cost.room = bytes.saturating_mul(8);
                for codes in Role::ALL.into_iter().flat_map(|role| noise::codes(module, role)) {
                    // A gradient may have codes for each derivative.
                    let count = codes.elements * codes.quantizers.len() as u64;
                    match place(coded, &codes) {
                        Some(tensor) => cost.terms.push(Term { count, tensors: vec![tensor] }),
                        None => cost.fixed += count * code_bits(module, codes.quantizers[0]),
                    }
                }
            }
            Budget::BitOps(operations) => {
                cost.room = operations;
                cost.meet(module, coded);
            }
        }
        cost
    }

    /// A cost in the unit of the budget.
    pub(super) fn show(self, cost: &Cost, of: u64) -> String {
        let of = of as f64;
        match self {
            Budget::Average(_) => format!("{:.3} bits on average", of / cost.elements as f64),
            Budget::BitOps(_) => format!("{:.1} Mbops for an image", of / 1e6),
            Budget::Bytes(_) => format!("{:.1} KiB for an image and the weights", of / 8192.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_averages_bit_operations_or_bytes() {
        assert_eq!(Budget::parse("4.5"), Ok(Budget::Average(4.5)));
        assert_eq!(Budget::parse("2"), Ok(Budget::Average(2.0)));
        assert_eq!(Budget::parse("8"), Ok(Budget::Average(8.0)));
        assert_eq!(Budget::parse("0.5Mbops"), Ok(Budget::BitOps(500_000)));
        assert_eq!(Budget::parse("1.5Gbops"), Ok(Budget::BitOps(1_500_000_000)));
        assert_eq!(Budget::parse("3KiB"), Ok(Budget::Bytes(3072)));
        assert_eq!(Budget::parse("0.5MiB"), Ok(Budget::Bytes(524_288)));
        let wrong = [
            "1.99", "8.1", "-4", "four", "", "nan", "inf", "4,5", "0KiB", "-1Mbops", "nanKiB", "infMbops",
            "KiB", "4KB",
        ];
        for text in wrong {
            assert!(Budget::parse(text).is_err(), "{text}");
        }
    }
}
