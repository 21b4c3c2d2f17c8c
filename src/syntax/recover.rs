//! What can be said about a source without parsing it: nesting, matching braces, the token at a place.

use crate::diag::Span;

/// The brackets and words of a source with their places, comments left out.
fn marks(source: &str) -> impl Iterator<Item = (usize, &[u8])> {
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
                b'(' | b')' | b'{' | b'}' => return Some((here, &bytes[here..at])),
                byte if is_word(byte) => {
                    at = here + bytes[here..].iter().take_while(|&&b| is_word(b)).count();
                    return Some((here, &bytes[here..at]));
                }
                _ => {}
            }
        }
        None
    })
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The place of the first bracket or `if` that opens a level beyond `limit`. The condition of an `if` is a level that no
/// bracket opens, and that its first branch ends.
pub(super) fn too_deep(source: &str, limit: usize) -> Option<usize> {
    let (mut brackets, mut conditions, mut otherwise) = (0usize, 0usize, false);
    for (at, mark) in marks(source) {
        match mark {
            b"if" => conditions += 1,
            b"(" => brackets += 1,
            b"{" => {
                brackets += 1;
                conditions -= usize::from(conditions > 0 && !otherwise);
            }
            b")" | b"}" => brackets = brackets.saturating_sub(1),
            _ => {}
        }
        otherwise = mark == b"else";
        if brackets + conditions > limit {
            return Some(at);
        }
    }
    None
}

/// The source with the innermost braces around `at` emptied, offsets unchanged; `None` if nothing is there to empty.
pub(super) fn without_innermost(source: &str, at: usize) -> Option<String> {
    let mut open = vec![];
    for (here, mark) in marks(source) {
        match mark {
            b"{" => open.push(here),
            b"}" => {
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
    let word = rest.bytes().take_while(|&b| is_word(b)).count();
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
    fn conditions_are_levels_until_their_branch() {
        assert_eq!(too_deep("if if if a {b} else {c}", 2), Some(6));
        let chain = "if a {b} else if c {d} else if e {f} else {g} ";
        assert_eq!(too_deep(&chain.repeat(3), 1), None);
        assert_eq!(too_deep("if if a {b} else {c} {if d {e} else {f}} else {g}", 2), None);
        assert_eq!(too_deep("iff elif (gif)", 1), None);
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
