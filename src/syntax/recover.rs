//! What can be said about a source without parsing it: nesting, matching braces, the token at a place.

use crate::diag::Span;

/// The brackets of a source with their places, comments left out.
fn brackets(source: &str) -> impl Iterator<Item = (usize, u8)> {
    let bytes = source.as_bytes();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < bytes.len() {
            let here = at;
            at += 1;
            match bytes[here] {
                b'/' if bytes.get(at) == Some(&b'/') => {
                    at = bytes[at..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| at + n);
                }
                byte @ (b'(' | b')' | b'{' | b'}') => return Some((here, byte)),
                _ => {}
            }
        }
        None
    })
}

/// The place of the first bracket that opens a level beyond `limit`.
pub(super) fn too_deep(source: &str, limit: usize) -> Option<usize> {
    let mut depth = 0usize;
    for (at, byte) in brackets(source) {
        match byte {
            b'(' | b'{' => depth += 1,
            _ => depth = depth.saturating_sub(1),
        }
        if depth > limit {
            return Some(at);
        }
    }
    None
}

/// The source with the innermost braces around `at` emptied, offsets unchanged; `None` if nothing is there to empty.
pub(super) fn without_innermost(source: &str, at: usize) -> Option<String> {
    let mut open = vec![];
    for (here, byte) in brackets(source) {
        match byte {
            b'{' => open.push(here),
            b'}' => {
                let start = open.pop()?;
                if start < at && at <= here {
                    return emptied(source, start + 1, here);
                }
            }
            _ => {}
        }
    }
    None
}

fn emptied(source: &str, start: usize, end: usize) -> Option<String> {
    let inside = &source[start..end];
    if inside.trim().is_empty() {
        return None;
    }
    Some(format!("{}{}{}", &source[..start], " ".repeat(inside.len()), &source[end..]))
}

/// The word, number or single character at a place; empty at the end.
pub(super) fn token(source: &str, at: usize) -> Span {
    let rest = &source[at..];
    let word = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
    let length = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
    Span { start: at, end: at + length }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_hide_brackets() {
        assert_eq!(too_deep("((", 1), Some(1));
        assert_eq!(too_deep("( // ((((\n )(", 1), None);
    }

    #[test]
    fn innermost_braces_are_emptied_once() {
        let text = "a { b { é } c }";
        let once = without_innermost(text, 8);
        assert_eq!(once.as_deref(), Some("a { b {    } c }"));
        assert_eq!(without_innermost(&once.unwrap_or_default(), 8), None);
        assert_eq!(without_innermost("a { b", 3), None);
    }
}
