//! Did-you-mean: the nearest of a set of names.

/// The candidate nearest to `name`, when it is near enough to be a slip of the hand: at most a third of the letters
/// (at least one) added, dropped, changed or swapped. Ties go to the first candidate.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    const LONGEST: usize = 64;
    if name.len() > LONGEST {
        return None;
    }
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let limit = (name.chars().count().max(candidate.chars().count()) / 3).max(1);
        if candidate.len() > LONGEST || candidate == name {
            continue;
        }
        let distance = distance(name, candidate);
        if distance <= limit && best.is_none_or(|(d, _)| distance < d) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// The help line for an unknown name: the nearest candidate, else all of them (at most twelve).
pub fn help<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const SHOWN: usize = 12;
    let all: Vec<&str> = candidates.into_iter().collect();
    if let Some(near) = nearest(name, all.iter().copied()) {
        return Some(format!("did you mean `{near}`?"));
    }
    if all.is_empty() {
        return None;
    }
    let shown: Vec<String> = all.iter().take(SHOWN).map(|c| format!("`{c}`")).collect();
    let more = if all.len() > SHOWN { ", ..." } else { "" };
    Some(format!("there is: {}{more}", shown.join(", ")))
}

/// Optimal string alignment distance: insertions, deletions, substitutions and swaps of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = vec![];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let changed = usize::from(a[i - 1] != b[j - 1]);
            let mut d = (last[j] + 1).min(row[j - 1] + 1).min(last[j - 1] + changed);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                d = d.min(before[j - 2] + 1);
            }
            row.push(d);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, d) in
            [("", "", 0), ("conv", "conv", 0), ("", "abc", 3), ("cnov", "conv", 1), ("rlu", "relu", 1)]
        {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }

    #[test]
    fn only_near_names_are_suggested() {
        let names = ["conv", "batch_norm", "relu"];
        assert_eq!(nearest("batchnorm", names), Some("batch_norm"));
        assert_eq!(nearest("dropout", names), None);
        assert_eq!(help("dropout", names).as_deref(), Some("there is: `conv`, `batch_norm`, `relu`"));
    }
}
