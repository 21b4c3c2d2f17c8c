//! Structure of a module: single assignment in order, declared parameters, contiguous groups.
//!
//! What ops and schemes say is checked above, in `ops::verify`, which runs this first.

use std::collections::BTreeSet;

use super::{GroupId, Module, Node, Value};
use crate::diag::Diagnostic;

/// Checks the structure; the error has the place of the node to blame.
pub fn verify(module: &Module) -> Result<(), Diagnostic> {
    let mut defined = vec![false; module.types.len()];
    define(&mut defined, module.image)?;
    define(&mut defined, module.labels)?;
    let mut names = BTreeSet::new();
    for param in &module.params {
        define(&mut defined, param.value)?;
        if !names.insert(&param.name) {
            return Err(Diagnostic::new("I0103", format!("two parameters are named `@{}`", param.name)));
        }
        if param.ty != *module.ty(param.value) {
            return Err(Diagnostic::new("I0103", format!("`@{}` and its value differ in type", param.name)));
        }
    }
    for node in &module.nodes {
        check_node(node, &mut defined).map_err(|error| match node.span {
            Some(span) => error.at(span, "this node"),
            None => error.note(format!("at `{}`, op `{}`", node.path, node.op)),
        })?;
    }
    let ends =
        [module.loss, module.logits].into_iter().chain(module.params.iter().filter_map(|p| p.gradient));
    for value in ends {
        read(&defined, value)?;
    }
    check_groups(module)
}

fn check_node(node: &Node, defined: &mut [bool]) -> Result<(), Diagnostic> {
    node.operands.iter().try_for_each(|&value| read(defined, value))?;
    node.results.iter().try_for_each(|&value| define(defined, value))
}

fn define(defined: &mut [bool], value: Value) -> Result<(), Diagnostic> {
    match defined.get_mut(value.0 as usize) {
        Some(slot) if !*slot => {
            *slot = true;
            Ok(())
        }
        Some(_) => Err(Diagnostic::new("I0102", format!("%{} is defined twice", value.0))),
        None => Err(Diagnostic::new("I0102", format!("%{} has no type", value.0))),
    }
}

fn read(defined: &[bool], value: Value) -> Result<(), Diagnostic> {
    match defined.get(value.0 as usize) {
        Some(true) => Ok(()),
        _ => Err(Diagnostic::new("I0102", format!("%{} is read before it is defined", value.0))),
    }
}

fn check_groups(module: &Module) -> Result<(), Diagnostic> {
    let mut closed: BTreeSet<GroupId> = BTreeSet::new();
    let mut open = None;
    for node in &module.nodes {
        if node.group == open {
            continue;
        }
        closed.extend(open);
        open = node.group;
        let Some(group) = open else { continue };
        if closed.contains(&group) || group.0 as usize >= module.groups.len() {
            return Err(Diagnostic::new(
                "I0104",
                format!("the nodes of group {} do not follow each other", group.0),
            ));
        }
    }
    Ok(())
}
