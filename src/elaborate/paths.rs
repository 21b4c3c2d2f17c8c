//! Which layers a rule reaches: all, those of a class, or those of a path.

use crate::ir::paths::covers;

/// Which layers a rule reaches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    /// Every layer.
    All,
    /// `first`, `last` or `logits`.
    Class(&'static str),
    /// The layers of a path, in which `*` stands for any letters of a component.
    Path(String),
}

/// Words that name layers by their place in the network.
pub(super) const CLASSES: [&str; 3] = ["first", "last", "logits"];

impl Scope {
    /// The scope that a word of `of …` names.
    pub(super) fn named(text: &str) -> Scope {
        match CLASSES.iter().find(|class| **class == text) {
            Some(class) => Scope::Class(class),
            None => Scope::Path(text.to_owned()),
        }
    }

    /// The word of `of …`; none for all layers.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Scope::All => None,
            Scope::Class(class) => Some(class),
            Scope::Path(path) => Some(path),
        }
    }

    /// How narrow it is: rules are read from wide to narrow.
    pub(super) fn width(&self) -> usize {
        match self {
            Scope::All => 0,
            Scope::Class(_) => 1,
            Scope::Path(path) => 2 + path.matches('.').count(),
        }
    }

    /// Whether a rule for this scope is also said about the other one.
    pub(super) fn contains(&self, other: &Scope) -> bool {
        match (self, other) {
            (Scope::All, _) => true,
            (Scope::Path(pattern), Scope::Path(path)) => covers(pattern, path),
            _ => self == other,
        }
    }
}

/// The paths that a pattern names exactly: layers, or blocks around them, each once and in order.
pub(super) fn matching(pattern: &str, layers: &[String]) -> Vec<String> {
    let depth = pattern.split('.').count();
    let mut found: Vec<String> = vec![];
    for layer in layers.iter().filter(|layer| covers(pattern, layer)) {
        let path = layer.split('.').take(depth).collect::<Vec<_>>().join(".");
        if found.last() != Some(&path) && !found.contains(&path) {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_each_block_once() {
        let layers = ["b1.conv1", "b1.conv2", "conv1", "b2.conv1"].map(str::to_owned);
        assert_eq!(matching("b*", &layers), ["b1", "b2"]);
        assert_eq!(matching("*.conv1", &layers), ["b1.conv1", "b2.conv1"]);
        assert!(matching("b3", &layers).is_empty());
    }
}
