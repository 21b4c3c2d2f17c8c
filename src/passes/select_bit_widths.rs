//! Writes the bit-width that the policy chooses into every scheme.

use super::Pass;
use crate::bits;
use crate::diag::Diagnostic;
use crate::ir::{Attr, Module, Stage};

pub(super) const PASS: Pass = Pass {
    name: "select_bit_widths",
    doc: "chooses the bit-width of every scheme",
    needs: Stage::Fused,
    gives: Stage::Bits,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let policy = bits::policy(&module.training);
    let chosen: Vec<(String, u32)> =
        module.schemes.iter().map(|(name, scheme)| (name.clone(), policy.bits(module, scheme))).collect();
    for (name, bits) in chosen {
        if let Some(scheme) = module.schemes.get_mut(&name) {
            scheme.params.insert("bits".to_owned(), Attr::Int(i64::from(bits)));
        }
    }
    Ok(())
}
