//! Layer paths: `basic2.conv1`. A component is the name of a binding, or a layer or block with its ordinal.

/// Whether a pattern, in which `*` stands for any letters of a component, names the path or a block around it.
pub fn covers(pattern: &str, path: &str) -> bool {
    let mut components = path.split('.');
    pattern.split('.').all(|p| components.next().is_some_and(|c| component(p, c)))
}

/// Whether a component matches a pattern.
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

#[cfg(test)]
mod tests {
    use super::covers;

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
}
