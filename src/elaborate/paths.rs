//! Layer paths: `basic2.conv1`. A component is the name of a binding, or a layer or block with its ordinal.

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

const CLASSES: [&str; 3] = ["first", "last", "logits"];

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

/// Whether a pattern names the path or a block around it.
pub(super) fn covers(pattern: &str, path: &str) -> bool {
    let mut components = path.split('.');
    pattern.split('.').all(|p| components.next().is_some_and(|c| component(p, c)))
}

/// Whether a component matches a pattern in which `*` stands for any letters.
fn component(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
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
    fn patterns() {
        let cases = [
            ("basic2", "basic2.conv1", true),
            ("basic2.conv1", "basic2", false),
            ("basic*", "basic12", true),
            ("*.conv1", "basic2.conv1", true),
            ("*.conv1", "conv1", false),
            ("b*c*", "basic", true),
            ("b*c", "basic2", false),
            ("*", "anything.below", true),
            ("conv1", "conv12", false),
            ("a*a", "a", false),
        ];
        for (pattern, path, expected) in cases {
            assert_eq!(covers(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn a_pattern_names_each_block_once() {
        let layers = ["b1.conv1", "b1.conv2", "conv1", "b2.conv1"].map(str::to_owned);
        assert_eq!(matching("b*", &layers), ["b1", "b2"]);
        assert_eq!(matching("*.conv1", &layers), ["b1.conv1", "b2.conv1"]);
        assert!(matching("b3", &layers).is_empty());
    }
}
