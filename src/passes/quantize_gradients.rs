//! Quantizes the loss gradient at the output of each contraction, where the contraction's derivatives read it.
//!
//! Once, for both derivatives, if the scheme has one scale per tensor. With a scale per channel the weight gradient reads
//! it so, and the data gradient, which sums over channels, reads the same gradient quantized per tensor with its own random
//! stream. Streams are numbered here, in order of definition, for good.

use std::collections::BTreeMap;

use super::{Pass, take_nodes};
use crate::diag::Diagnostic;
use crate::ir::{Attr, Attrs, Module, Node, Role, Scheme, Stage, Value};
use crate::ops::rules::{self, Anchors, Place};
use crate::ops::{self, Read};
use crate::quant;

pub(super) const PASS: Pass = Pass {
    name: "quantize_gradients",
    doc: "quantizes the gradients that contractions read",
    needs: Stage::Training,
    gives: Stage::Quantized,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let anchors = Anchors::new(module);
    let mut quantizer = Streams { next: 0, codes: BTreeMap::new() };
    for mut node in take_nodes(module) {
        for index in 0..node.operands.len() {
            let Read::Codes { role: Role::Gradients, per_channel } = ops::of(&node).reads(index) else {
                continue;
            };
            let place = Place { path: &node.path, contractions: vec![&node.path] };
            let scheme = rules::scheme(module, &anchors, Role::Gradients, &place).map(str::to_owned);
            if let Some(scheme) = scheme {
                let scheme = if per_channel { scheme } else { per_tensor(module, scheme) };
                node.operands[index] = quantizer.quantize(module, &node, node.operands[index], scheme)?;
            }
        }
        module.nodes.push(node);
    }
    Ok(())
}

struct Streams {
    next: i64,
    /// Codes of a gradient by contraction and scheme. Two contractions may have the same gradient; their codes differ,
    /// because each has its own weight scales in it.
    codes: BTreeMap<(Value, String, String), Value>,
}

impl Streams {
    fn quantize(
        &mut self,
        module: &mut Module,
        node: &Node,
        gradient: Value,
        scheme: String,
    ) -> Result<Value, Diagnostic> {
        let key = (gradient, node.path.clone(), scheme.clone());
        if let Some(&codes) = self.codes.get(&key) {
            return Ok(codes);
        }
        let attrs = Attrs::from([
            ("scheme".to_owned(), Attr::Scheme(scheme)),
            ("signed".to_owned(), Attr::Bool(true)),
            ("stream".to_owned(), Attr::Int(self.next)),
        ]);
        self.next += 1;
        let codes = ops::append(module, "quantize", &[gradient], attrs, &node.path, node.span)?[0];
        self.codes.insert(key, codes);
        Ok(codes)
    }
}

/// The scheme with one scale per tensor: itself, or a copy beside it.
fn per_tensor(module: &mut Module, name: String) -> String {
    let Some(scheme) = module.schemes.get(&name).filter(|scheme| quant::per_channel(&scheme.params)) else {
        return name;
    };
    let mut copy: Scheme = scheme.clone();
    copy.params.insert("per".to_owned(), Attr::Word("tensor".to_owned()));
    let mut copy_name = format!("{name}.tensor");
    while module.schemes.get(&copy_name).is_some_and(|other| *other != copy) {
        copy_name.push('_');
    }
    module.schemes.insert(copy_name.clone(), copy);
    copy_name
}
