//! Quantizes weights and activations by the module's rules.
//!
//! A weight is quantized where a contraction reads it. An activation is stored, and so quantized, once and for all its
//! readers, unless its one reader follows in the registers of the same contraction: contraction → batch norm → sum →
//! activation function, each reading the one before. The image has integer pixels, and max pools and reshapes stay on
//! the grid of what they read. A quantizer with a learned parameter gets it here.

use std::collections::BTreeMap;

use super::{Pass, take_nodes};
use crate::diag::Diagnostic;
use crate::ir::{Attr, Attrs, Element, Init, Module, Node, Role, Stage, TensorType, Value};
use crate::ops::rules::{self, Anchors, Place};
use crate::ops::{self, Part, Read};
use crate::quant;

pub(super) const PASS: Pass = Pass {
    name: "quantize_forward",
    doc: "quantizes weights and activations",
    needs: Stage::Forward,
    gives: Stage::Forward,
    run,
};

fn run(module: &mut Module) -> Result<(), Diagnostic> {
    let anchors = Anchors::new(module);
    let schemes = activation_schemes(module, &anchors);
    let nonnegative = nonnegative(module);
    // What readers read in place of a value.
    let mut stored: BTreeMap<Value, Value> = BTreeMap::new();
    for node in take_nodes(module) {
        let mut operands = node.operands.clone();
        for (index, operand) in operands.iter_mut().enumerate() {
            let weight = matches!(ops::of(&node).reads(index), Read::Codes { role: Role::Weights, .. });
            if weight && module.ty(*operand).element == Element::Real {
                quantize_weight(module, &anchors, &node, operand, &mut stored)?;
            } else if let Some(&value) = stored.get(operand) {
                *operand = value;
            }
        }
        let results = ops::append(module, &node.op, &operands, node.attrs.clone(), &node.path, node.span)?;
        for (&old, &new) in node.results.iter().zip(&results) {
            let stands = match &schemes[old.0 as usize] {
                Some(scheme) => quantize(module, &node, scheme, new, !nonnegative[old.0 as usize])?,
                None => new,
            };
            stored.insert(old, stands);
            for end in [&mut module.loss, &mut module.logits] {
                if *end == old {
                    *end = new;
                }
            }
        }
    }
    Ok(())
}

/// The scheme of each value that is to be stored as codes, by number.
fn activation_schemes(module: &Module, anchors: &Anchors) -> Vec<Option<String>> {
    let all = module.readers();
    let scheme = |node: &Node, value: Value| {
        let readers: Vec<&Node> = all[value.0 as usize].iter().map(|&index| &module.nodes[index]).collect();
        if !is_stored(node, value, &readers) {
            return None;
        }
        let place = Place { path: &node.path, contractions: rules::reading(module, &all, value) };
        rules::scheme(module, anchors, Role::Activations, &place).map(str::to_owned)
    };
    let mut schemes = vec![None; module.types.len()];
    for node in &module.nodes {
        for &value in &node.results {
            schemes[value.0 as usize] = scheme(node, value);
        }
    }
    schemes
}

/// Whether a value gets codes of its own.
fn is_stored(producer: &Node, value: Value, readers: &[&Node]) -> bool {
    let op = ops::of(producer);
    if op.keeps_grid() || op.part() == Part::Quantizer {
        return false;
    }
    readers.iter().any(|reader| {
        let reading = ops::of(reader);
        let operands = reader.operands.iter().enumerate().filter(|(_, operand)| **operand == value);
        operands.into_iter().any(|(index, _)| match reading.reads(index) {
            Read::Codes { .. } => true,
            Read::Wide => readers.len() > 1 || !follows(op.part(), reading.part()),
            Read::Real => false,
        })
    })
}

/// Whether `reader` can take a value from the registers in which `producer` left it. What is no part of an epilogue (the
/// loss) reads the end of one.
fn follows(producer: Part, reader: Part) -> bool {
    match (producer.epilogue_rank(), reader.epilogue_rank()) {
        (Some(before), Some(after)) => before < after,
        (Some(_), None) => true,
        (None, _) => false,
    }
}

/// Which values cannot be negative, by number.
fn nonnegative(module: &Module) -> Vec<bool> {
    let mut nonnegative = vec![false; module.types.len()];
    for node in &module.nodes {
        let operands: Vec<bool> = node.operands.iter().map(|value| nonnegative[value.0 as usize]).collect();
        for result in &node.results {
            nonnegative[result.0 as usize] = ops::of(node).nonnegative(&operands);
        }
    }
    nonnegative
}

fn quantize_weight(
    module: &mut Module,
    anchors: &Anchors,
    node: &Node,
    weight: &mut Value,
    stored: &mut BTreeMap<Value, Value>,
) -> Result<(), Diagnostic> {
    let place = Place { path: &node.path, contractions: vec![&node.path] };
    let Some(scheme) = rules::scheme(module, anchors, Role::Weights, &place).map(str::to_owned) else {
        return Ok(());
    };
    let value = match stored.get(weight) {
        Some(&value) => value,
        None => quantize(module, node, &scheme, *weight, true)?,
    };
    stored.insert(*weight, value);
    *weight = value;
    Ok(())
}

fn quantize(
    module: &mut Module,
    node: &Node,
    scheme: &str,
    value: Value,
    signed: bool,
) -> Result<Value, Diagnostic> {
    let mut operands = vec![value];
    if let Some(found) = module.schemes.get(scheme) {
        let learned = quant::find(&found.quantizer).and_then(|quantizer| quantizer.learned(&found.params));
        operands.extend(learned.map(|learned| {
            module.param(&node.path, learned.slot, TensorType::real([]), Init::Constant(learned.init))
        }));
    }
    let attrs = Attrs::from([
        ("scheme".to_owned(), Attr::Scheme(scheme.to_owned())),
        ("signed".to_owned(), Attr::Bool(signed)),
    ]);
    Ok(ops::append(module, "quantize", &operands, attrs, &node.path, node.span)?[0])
}
