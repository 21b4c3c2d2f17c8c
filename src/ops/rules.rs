//! Which rule of a module holds where: the narrowest that matches, and of those the last.

use std::collections::{BTreeMap, BTreeSet};

use super::{Part, of};
use crate::ir::paths::covers;
use crate::ir::{Attrs, Layers, Module, Node, Role, Value};

/// The layers that `first`, `last` and `logits` stand for, by path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchors {
    first: Option<String>,
    last: Option<String>,
    logits: Option<String>,
}

impl Anchors {
    /// The anchors of a verified module.
    pub fn new(module: &Module) -> Anchors {
        let contractions = || module.nodes.iter().filter(|node| of(node).part() == Part::Contraction);
        let logits = contractions().find(|node| node.results.contains(&module.logits));
        let path = |node: &Node| node.path.clone();
        Anchors {
            first: contractions().next().map(path),
            last: contractions().next_back().map(path),
            logits: logits.map(path),
        }
    }

    /// How narrowly `layers` speaks of a place; `None` if it does not.
    fn matches(&self, layers: &Layers, place: &Place) -> Option<usize> {
        let at = |anchor: &Option<String>| {
            let anchor = anchor.as_deref()?;
            place.contractions.contains(&anchor).then_some(1)
        };
        match layers {
            Layers::All => Some(0),
            Layers::First => at(&self.first),
            Layers::Last => at(&self.last),
            Layers::Logits => at(&self.logits),
            Layers::Path(pattern) => covers(pattern, place.path).then(|| 2 + pattern.split('.').count()),
        }
    }

    fn narrowest<'r, R>(&self, rules: impl Iterator<Item = (&'r Layers, R)>, place: &Place) -> Option<R> {
        // Of equals, `max_by_key` takes the last.
        rules
            .filter_map(|(layers, rule)| Some((self.matches(layers, place)?, rule)))
            .max_by_key(|found| found.0)
            .map(|found| found.1)
    }
}

/// Where a rule is looked up.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// Path of the layer.
    pub path: &'a str,
    /// Contractions that `first`, `last` and `logits` are compared with: a weight's or gradient's own, those
    /// [`reading`] an activation, the one that a batch norm reads.
    pub contractions: Vec<&'a str>,
}

/// The layers that rules about a role (or, without one, about batch norm) can be said of, each once, and which of
/// `first`, `last` and `logits` each is for them.
pub fn layers(module: &Module, role: Option<Role>) -> BTreeMap<String, BTreeSet<&'static str>> {
    let (anchors, readers) = (Anchors::new(module), module.readers());
    let mut found: BTreeMap<String, BTreeSet<&'static str>> = BTreeMap::new();
    for node in module.nodes.iter().filter(|node| !node.path.is_empty()) {
        let contractions: Vec<&str> = match role {
            Some(Role::Weights | Role::Gradients) if of(node).part() == Part::Contraction => vec![&node.path],
            Some(Role::Activations) => {
                node.results.iter().flat_map(|&value| reading(module, &readers, value)).collect()
            }
            None if of(node).part() == Part::Norm => normalized(module, node).collect(),
            _ => continue,
        };
        let classes = [("first", &anchors.first), ("last", &anchors.last), ("logits", &anchors.logits)];
        let is = |anchor: &Option<String>| anchor.as_deref().is_some_and(|path| contractions.contains(&path));
        let own = classes.into_iter().filter(|(_, anchor)| is(anchor)).map(|(class, _)| class);
        found.entry(node.path.clone()).or_default().extend(own);
    }
    found
}

/// The contractions that read a value as it is, or after its elements were moved or selected (`flatten`, max pools).
/// `readers` are those of the module.
pub fn reading<'m>(module: &'m Module, readers: &[Vec<usize>], value: Value) -> Vec<&'m str> {
    let (mut found, mut values) = (vec![], vec![value]);
    while let Some(value) = values.pop() {
        for node in readers[value.0 as usize].iter().map(|&index| &module.nodes[index]) {
            if of(node).part() == Part::Contraction {
                found.push(node.path.as_str());
            } else if of(node).keeps_grid() {
                values.extend(&node.results);
            }
        }
    }
    found
}

/// The contraction that a batch norm reads, if it does.
fn normalized<'m>(module: &'m Module, node: &Node) -> impl Iterator<Item = &'m str> {
    let reads = module.producer(node.operands[0]).map(|index| &module.nodes[index]);
    let contraction = reads.filter(|node| of(node).part() == Part::Contraction);
    contraction.map(|node| node.path.as_str()).into_iter()
}

/// The scheme that quantizes something at a place; `None` if it stays real.
pub fn scheme<'m>(module: &'m Module, anchors: &Anchors, target: Role, place: &Place) -> Option<&'m str> {
    let rules = module.rules.iter().filter(|rule| rule.target == target);
    anchors.narrowest(rules.map(|rule| (&rule.layers, rule.scheme.as_deref())), place)?
}

/// The rectifier of a batch norm node, with its parameters.
pub fn rectifier(module: &Module, node: &Node) -> (String, Attrs) {
    let by_path = |layers: &Layers| matches!(layers, Layers::All | Layers::Path(_));
    let mut place = Place { path: &node.path, contractions: vec![] };
    let mut anchors = Anchors { first: None, last: None, logits: None };
    if !module.rectify.iter().all(|rule| by_path(&rule.layers)) {
        anchors = Anchors::new(module);
        place.contractions.extend(normalized(module, node));
    }
    match anchors.narrowest(module.rectify.iter().map(|rule| (&rule.layers, rule)), &place) {
        Some(rule) => (rule.rectifier.clone(), rule.params.clone()),
        None => ("none".to_owned(), Attrs::new()),
    }
}
