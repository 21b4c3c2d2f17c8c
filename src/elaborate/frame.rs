//! What a name means inside a model or one use of a block, and the paths of its layers.

use std::collections::{BTreeMap, BTreeSet};

use crate::diag::{Diagnostic, suggest};
use crate::ir::Value;
use crate::syntax::ast::{Name, Place, Statement};

/// A value of the language.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Val {
    /// A tensor of the network.
    Tensor(Value),
    /// An integer.
    Int(i64),
    /// A real number.
    Real(f64),
    /// A truth value.
    Bool(bool),
    /// A size.
    Dims(Vec<u64>),
    /// What an error leaves; it causes no further errors.
    Poison,
}

impl Val {
    /// What it is, in a sentence.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Val::Tensor(_) => "a tensor",
            Val::Int(_) => "an integer",
            Val::Real(_) => "a number",
            Val::Bool(_) => "a truth value",
            Val::Dims(_) => "a size",
            Val::Poison => "an error",
        }
    }
}

/// The names of a model or of one use of a block.
pub(super) struct Frame<'a> {
    /// The path of the block with a dot, empty for the model.
    prefix: String,
    names: BTreeMap<&'a str, (Val, &'a Place)>,
    /// Names of all bindings: ordinals avoid them.
    bound: BTreeSet<&'a str>,
    ordinals: BTreeMap<String, usize>,
    /// Names with ordinals that layers and blocks have.
    given: BTreeSet<String>,
    /// The binding whose only layer is about to be made.
    pub(super) naming: Option<&'a str>,
}

impl<'a> Frame<'a> {
    /// A frame whose layers have paths below `path`.
    pub(super) fn new(path: Option<&str>, statements: impl Iterator<Item = &'a Statement>) -> Frame<'a> {
        let bound = statements.filter_map(|s| match s {
            Statement::Bind(name, _) => Some(name.text.as_str()),
            _ => None,
        });
        Frame {
            prefix: path.map_or(String::new(), |path| format!("{path}.")),
            names: BTreeMap::new(),
            bound: bound.collect(),
            ordinals: BTreeMap::new(),
            given: BTreeSet::new(),
            naming: None,
        }
    }

    /// Binds a name, once.
    pub(super) fn bind(&mut self, name: &'a Name, value: Val) -> Result<(), Diagnostic> {
        match self.names.insert(&name.text, (value, &name.place)) {
            None => Ok(()),
            Some((_, first)) => {
                let error = Diagnostic::new("E0205", format!("the name `{}` is bound twice", name.text));
                let error = first.mark(name.place.mark(error, "bound again here"), "first bound here");
                Err(error.help("a name keeps its value: choose another one"))
            }
        }
    }

    /// The value of a name.
    pub(super) fn get(&self, name: &str) -> Option<&Val> {
        self.names.get(name).map(|(value, _)| value)
    }

    /// The value of a name, or E0201.
    pub(super) fn find(&self, name: &str, place: &Place) -> Result<Val, Diagnostic> {
        self.get(name).cloned().ok_or_else(|| {
            let error =
                place.mark(Diagnostic::new("E0201", format!("`{name}` is not defined here")), "unknown name");
            Diagnostic { help: suggest::help(name, self.names.keys().copied()), ..error }
        })
    }

    /// The path of the next use of a layer or block.
    pub(super) fn path(&mut self, callee: &str) -> String {
        if let Some(name) = self.naming.take() {
            return format!("{}{name}", self.prefix);
        }
        loop {
            let ordinal = self.ordinals.entry(callee.to_owned()).or_default();
            *ordinal += 1;
            let name = format!("{callee}{ordinal}");
            // The eleventh `a` and the first `a1` would be the same.
            if !self.bound.contains(name.as_str()) && self.given.insert(name.clone()) {
                return format!("{}{name}", self.prefix);
            }
        }
    }
}
