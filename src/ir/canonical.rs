//! The canonical numbering: image, labels, parameters, then results in node order; groups in order of appearance.
//!
//! Passes number values as they come; this brings every module with the same meaning and order to the same text.

use std::collections::BTreeMap;

use super::{GroupId, Module, TensorType, Value};

/// Renumbers values and groups; values and groups that nothing defines or holds disappear.
pub fn canonicalize(module: &mut Module) {
    let mut numbering = Numbering { new: vec![None; module.types.len()], types: vec![] };
    numbering.define(module, module.image);
    numbering.define(module, module.labels);
    for param in &module.params {
        numbering.define(module, param.value);
    }
    for node in &module.nodes {
        for &result in &node.results {
            numbering.define(module, result);
        }
    }
    let Numbering { new, types } = numbering;
    let rename = |value: &mut Value| *value = new[value.0 as usize].expect("a used value is defined");
    rename(&mut module.image);
    rename(&mut module.labels);
    rename(&mut module.loss);
    rename(&mut module.logits);
    for param in &mut module.params {
        rename(&mut param.value);
        param.gradient.iter_mut().for_each(rename);
    }
    for node in &mut module.nodes {
        node.operands.iter_mut().for_each(rename);
        node.results.iter_mut().for_each(rename);
    }
    module.types = types;
    renumber_groups(module);
}

struct Numbering {
    new: Vec<Option<Value>>,
    types: Vec<TensorType>,
}

impl Numbering {
    fn define(&mut self, module: &Module, value: Value) {
        self.new[value.0 as usize] = Some(Value(self.types.len() as u32));
        self.types.push(module.ty(value).clone());
    }
}

fn renumber_groups(module: &mut Module) {
    let mut new = BTreeMap::new();
    let mut names = vec![];
    for group in module.nodes.iter_mut().filter_map(|n| n.group.as_mut()) {
        *group = *new.entry(*group).or_insert_with(|| {
            names.push(module.groups[group.0 as usize].clone());
            GroupId(names.len() as u32 - 1)
        });
    }
    module.groups = names;
}
