//! Passes: functions from one module to the next, in the order of the table.
//!
//! Each pass states the stage it needs and the stage it gives; after each the module is numbered canonically and
//! verified. Passes ask ops for facts ([`crate::ops::Part`], [`crate::ops::Read`]) and never for names.

mod append_updates;
mod autodiff;
mod cse;
mod dce;
mod fuse_conv_bn_relu;
mod fuse_conv_bn_relu_backward;
mod grouping;
mod quantize_forward;
mod quantize_gradients;
mod select_bit_widths;

use crate::diag::Diagnostic;
use crate::ir::canonical::canonicalize;
use crate::ir::{Module, Node, Stage};
use crate::ops::verify::verify;

/// A pass.
pub struct Pass {
    /// Its name; also its file and its folder of tests.
    pub name: &'static str,
    /// One line for `fqtc list`.
    pub doc: &'static str,
    /// The stage of the modules it takes.
    pub needs: Stage,
    /// The stage of the modules it gives.
    pub gives: Stage,
    run: fn(&mut Module) -> Result<(), Diagnostic>,
}

/// All passes in order.
pub static ALL: &[Pass] = &[
    quantize_forward::PASS,
    autodiff::PASS,
    append_updates::PASS,
    quantize_gradients::PASS,
    cse::PASS,
    dce::PASS,
    fuse_conv_bn_relu::PASS,
    fuse_conv_bn_relu_backward::PASS,
    select_bit_widths::PASS,
];

/// The pass of a name.
pub fn find(name: &str) -> Option<&'static Pass> {
    ALL.iter().find(|pass| pass.name == name)
}

impl Pass {
    /// Runs the pass on a verified module of the stage it needs, and verifies the result. An error is a diagnostic of
    /// the pass, or an internal one that names it.
    pub fn run(&self, mut module: Module) -> Result<Module, Diagnostic> {
        if module.stage != self.needs {
            let (needs, has) = (self.needs.word(), module.stage.word());
            return Err(Diagnostic::new(
                "I0301",
                format!("pass `{}` needs stage {needs}, but this is {has}", self.name),
            ));
        }
        (self.run)(&mut module)?;
        module.stage = self.gives;
        canonicalize(&mut module);
        verify(&module).map_err(|error| error.note(format!("after pass `{}`", self.name)))?;
        Ok(module)
    }
}

/// Verifies a module and runs all passes that bring it to `until`, calling `observe` after each.
pub fn run(
    mut module: Module,
    until: Stage,
    mut observe: impl FnMut(&Pass, &Module),
) -> Result<Module, Diagnostic> {
    canonicalize(&mut module);
    verify(&module)?;
    for pass in ALL {
        if pass.needs >= module.stage && pass.gives <= until {
            module = pass.run(module)?;
            observe(pass, &module);
        }
    }
    Ok(module)
}

/// Takes the nodes out of a module, to be appended again one by one with changes in between.
fn take_nodes(module: &mut Module) -> Vec<Node> {
    std::mem::take(&mut module.nodes)
}
