//! Widths for many tensors at once, of least noise within a budget, exactly, where costs are products of widths.
//!
//! A bit-operation is what two codes that meet in a multiplication cost: the product of their widths. The cost of a width
//! then hangs on that of others, but only of few. Tensors that meet directly or through others form a group, and groups
//! share nothing: all choices within a group that no other beats in both cost and noise are listed, and [`budget`] takes
//! one of each list. Within a group the tensor that meets most others (an activation, read by several layers) has each
//! of its widths in turn; what is left falls apart into smaller groups.
//! This module knows numbers, not layers.
//!
//! [`budget`]: super::budget

use super::budget::{self, Candidate, unbeaten};

/// A width that a tensor may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Width {
    /// Bits of a code.
    pub bits: u32,
    /// The noise it makes, in the unit of all others.
    pub noise: f64,
}

/// What a budget counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// How many.
    pub count: u64,
    /// The tensors whose widths are multiplied, by number: one or two different ones.
    pub tensors: Vec<usize>,
}

/// Tensors whose widths are to be chosen.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Problem {
    /// The widths that each may have.
    pub tensors: Vec<Vec<Width>>,
    /// The cost of a choice: the sum of these, each the product of its count and of its tensors' bits.
    pub terms: Vec<Term>,
}

/// A width for each tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Allocation {
    /// By number of the tensor.
    pub widths: Vec<Width>,
    /// Their noises in all.
    pub noise: f64,
    /// Their cost.
    pub cost: u64,
}

/// Widths for some of the tensors.
#[derive(Clone, Debug, Default)]
struct Part {
    cost: u64,
    noise: f64,
    widths: Vec<(usize, Width)>,
}

impl Part {
    fn and(&self, other: &Part) -> Part {
        Part {
            cost: self.cost + other.cost,
            noise: self.noise + other.noise,
            widths: self.widths.iter().chain(&other.widths).copied().collect(),
        }
    }
}

impl Problem {
    /// The cost if each tensor has so many bits; what is too large to count is the largest number.
    pub fn cost(&self, bits: impl Fn(usize) -> u32) -> u64 {
        let times = |cost: u64, &tensor: &usize| cost.saturating_mul(u64::from(bits(tensor)));
        let cost = |term: &Term| term.tensors.iter().fold(term.count, times);
        self.terms.iter().map(cost).fold(0, u64::saturating_add)
    }

    /// The choice of least noise whose cost is at most `budget`; `None` if there is none.
    pub fn least_noise(&self, budget: u64) -> Option<Allocation> {
        let all: Vec<usize> = (0..self.tensors.len()).collect();
        let mut known = vec![None; all.len()];
        let lists: Vec<Vec<Part>> =
            self.groups(&all, &known).iter().map(|group| self.choices(group, &mut known)).collect();
        let candidate = |part: &Part| Candidate { cost: part.cost, noise: part.noise };
        let items: Vec<Vec<Candidate>> =
            lists.iter().map(|list| list.iter().map(candidate).collect()).collect();
        let choice = budget::least_noise(&items, budget)?;
        let parts = choice.picks.iter().zip(&lists).map(|(&pick, list)| &list[pick]);
        let mut widths: Vec<(usize, Width)> = parts.flat_map(|part| part.widths.clone()).collect();
        widths.sort_by_key(|(tensor, _)| *tensor);
        let widths = widths.into_iter().map(|(_, width)| width).collect();
        Some(Allocation { widths, noise: choice.noise, cost: choice.cost })
    }

    /// The choices for tensors of one group that no other beats, where the bits of others may be known; of terms those
    /// count whose last tensor is chosen here.
    fn choices(&self, group: &[usize], known: &mut Vec<Option<u32>>) -> Vec<Part> {
        let meets = |tensor: usize| self.open(tensor, known).count();
        let Some(&hub) = group.iter().max_by_key(|&&tensor| meets(tensor)) else {
            return vec![Part::default()];
        };
        let others: Vec<usize> = group.iter().copied().filter(|&tensor| tensor != hub).collect();
        let mut all = vec![];
        for &width in &self.tensors[hub] {
            known[hub] = Some(width.bits);
            let own = Part { cost: self.closed(hub, known), noise: width.noise, widths: vec![(hub, width)] };
            let mut parts = vec![own];
            for rest in self.groups(&others, known) {
                let choices = self.choices(&rest, known);
                let pairs = parts.iter().flat_map(|part| choices.iter().map(|choice| part.and(choice)));
                parts = unbeaten(pairs.collect(), |part: &Part| (part.cost, part.noise));
            }
            all.extend(parts);
            known[hub] = None;
        }
        unbeaten(all, |part: &Part| (part.cost, part.noise))
    }

    /// Tensors that a tensor meets and whose bits are not known.
    fn open<'p>(&'p self, tensor: usize, known: &'p [Option<u32>]) -> impl Iterator<Item = usize> + 'p {
        let terms = self.terms.iter().filter(move |term| term.tensors.contains(&tensor));
        let others = terms.flat_map(|term| term.tensors.iter().copied());
        others.filter(move |&other| other != tensor && known[other].is_none())
    }

    /// Terms of a tensor that are known with its bits.
    fn closed(&self, tensor: usize, known: &[Option<u32>]) -> u64 {
        let cost = |term: &Term| {
            let bits = |count: u64, &t: &usize| Some(count * u64::from(known[t]?));
            term.tensors.iter().try_fold(term.count, bits)
        };
        self.terms.iter().filter(|term| term.tensors.contains(&tensor)).filter_map(cost).sum()
    }

    /// Tensors, divided into those that meet, directly or through others of them.
    fn groups(&self, tensors: &[usize], known: &[Option<u32>]) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = vec![];
        for &tensor in tensors {
            let near: Vec<usize> = self.open(tensor, known).collect();
            let (joined, apart): (Vec<_>, Vec<_>) =
                groups.into_iter().partition(|group| group.iter().any(|other| near.contains(other)));
            groups = apart;
            groups.push(joined.concat().into_iter().chain([tensor]).collect());
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small generator: the instances are the same on every machine.
    fn next(state: &mut u64, below: u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) % below
    }

    fn instance(state: &mut u64) -> Problem {
        let count = 1 + next(state, 6) as usize;
        let width =
            |state: &mut u64, bits: u32| Width { bits, noise: next(state, 1000) as f64 / f64::from(bits) };
        let tensors = (0..count)
            .map(|_| (2..3 + next(state, 3) as u32).map(|bits| width(state, bits)).collect())
            .collect();
        let term = |state: &mut u64| {
            let (count, a, b) = (1 + next(state, 20), next(state, count as u64), next(state, count as u64));
            let mut tensors = vec![a as usize, b as usize];
            tensors.dedup();
            Term { count, tensors }
        };
        let terms = (0..next(state, 9)).map(|_| term(state)).collect();
        Problem { tensors, terms }
    }

    /// By trying everything.
    fn brute(problem: &Problem, budget: u64) -> Option<f64> {
        let mut all: Vec<Vec<Width>> = vec![vec![]];
        for widths in &problem.tensors {
            let with = |one: &Vec<Width>| {
                let one = one.clone();
                widths.iter().map(move |&width| [&one[..], &[width]].concat())
            };
            all = all.iter().flat_map(with).collect();
        }
        let fits = |widths: &Vec<Width>| problem.cost(|tensor| widths[tensor].bits) <= budget;
        let noise = |widths: Vec<Width>| widths.iter().map(|width| width.noise).sum::<f64>();
        all.into_iter().filter(fits).map(noise).min_by(f64::total_cmp)
    }

    #[test]
    fn the_choice_is_the_best_of_all() {
        let (mut state, mut none, mut some) = (3, 0, 0);
        for number in 0..1000 {
            let problem = instance(&mut state);
            let budget = next(&mut state, problem.cost(|_| 4) + 10);
            match (problem.least_noise(budget), brute(&problem, budget)) {
                (None, None) => none += 1,
                (Some(found), Some(best)) => {
                    some += 1;
                    assert!(
                        (found.noise - best).abs() < 1e-9,
                        "{number}: {problem:?}: {found:?}, best {best}"
                    );
                    assert!(found.cost <= budget, "{number}");
                    assert_eq!(problem.cost(|tensor| found.widths[tensor].bits), found.cost, "{number}");
                    let noise: f64 = found.widths.iter().map(|width| width.noise).sum();
                    assert!((noise - found.noise).abs() < 1e-9, "{number}");
                    let known = found.widths.iter().zip(&problem.tensors).all(|(w, all)| all.contains(w));
                    assert!(known, "{number}");
                }
                (found, best) => panic!("{number}: {problem:?}: {found:?}, by trying everything {best:?}"),
            }
        }
        assert!(none > 100 && some > 100, "{none} without a choice, {some} with one");
    }

    #[test]
    fn a_tensor_that_nothing_counts_has_the_width_of_least_noise() {
        let widths = [(2, 3.0), (3, 1.0), (4, 2.0)].map(|(bits, noise)| Width { bits, noise });
        let problem = Problem { tensors: vec![widths.to_vec()], terms: vec![] };
        assert_eq!(problem.least_noise(0).map(|found| found.widths), Some(vec![widths[1]]));
    }
}
