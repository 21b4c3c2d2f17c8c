//! The choice of one candidate per item that makes the least noise within a budget, exactly.
//!
//! The noise of a choice is the sum of its candidates' noises, its cost the sum of their costs: a knapsack with one thing of
//! each kind. With a price on cost, the best candidate of each item is found by itself, and how much worse another one is at
//! that price is its *excess*. Sums of excesses bound from below what a choice can reach, so that only few partial choices
//! have to be followed: those that could still beat the best one known, and that no other beats in both cost and noise.
//! Costs are integers; wider candidates do not have to make less noise.
//! This module knows numbers, not layers.

/// One of the things of which an item takes one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// What of the budget it takes.
    pub cost: u64,
    /// The noise it makes, in the unit of all others: finite, at least 0.
    pub noise: f64,
}

/// A choice for all items.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The place of each item's candidate among its candidates.
    pub picks: Vec<usize>,
    /// Their noises in all.
    pub noise: f64,
    /// Their costs in all.
    pub cost: u64,
}

/// A choice for the first items.
#[derive(Clone, Copy)]
struct Partial {
    cost: u64,
    noise: f64,
    excess: f64,
    /// The last of these items' candidate.
    pick: usize,
    /// The choice for the items before, by its place in their list.
    before: usize,
}

/// The choice of least noise whose cost is at most `budget`, of equals one that costs least; `None` if there is none.
pub fn least_noise(items: &[Vec<Candidate>], budget: u64) -> Option<Choice> {
    let least = |item: &Vec<Candidate>| item.iter().map(|candidate| candidate.cost).min();
    // What the items still to come cost at least.
    let mut reserved = items.iter().map(least).sum::<Option<u64>>()?;
    let price = price(items, reserved, budget)?;
    let mut lists: Vec<Vec<Partial>> = vec![];
    for item in items {
        reserved -= least(item)?;
        let start = [Partial { cost: 0, noise: 0.0, excess: 0.0, pick: 0, before: 0 }];
        let before = lists.last().map_or(&start[..], Vec::as_slice);
        lists.push(extended(before, item, &price, budget - reserved));
    }
    Some(traced(&lists))
}

/// The choice that ends with the best of the last list.
fn traced(lists: &[Vec<Partial>]) -> Choice {
    let mut choice = Choice { picks: vec![], noise: 0.0, cost: 0 };
    // Noise falls along a list.
    let mut best = lists.last().map_or(0, |list| list.len() - 1);
    for (i, list) in lists.iter().enumerate().rev() {
        let partial = list[best];
        if i + 1 == lists.len() {
            (choice.noise, choice.cost) = (partial.noise, partial.cost);
        }
        choice.picks.push(partial.pick);
        best = partial.before;
    }
    choice.picks.reverse();
    choice
}

/// A price on cost, and what it says.
struct Price {
    of_cost: f64,
    /// The largest sum of excesses with which a choice can be as good as the best one known.
    gap: f64,
}

impl Price {
    fn of(&self, candidate: &Candidate) -> f64 {
        candidate.noise + self.of_cost * candidate.cost as f64
    }

    /// The candidate that is best at this price, of equals the cheapest.
    fn best<'c>(&self, item: &'c [Candidate]) -> Option<&'c Candidate> {
        let by_price = |a: &&Candidate, b: &&Candidate| self.of(a).total_cmp(&self.of(b));
        item.iter().min_by(|a, b| by_price(a, b).then(a.cost.cmp(&b.cost)))
    }
}

/// About the lowest price at which the best of each item are within the budget; `None` if the cheapest, of the cost
/// `least`, are not.
fn price(items: &[Vec<Candidate>], least: u64, budget: u64) -> Option<Price> {
    if least > budget {
        return None;
    }
    let taken = |of_cost: f64| {
        let price = Price { of_cost, gap: 0.0 };
        let best = items.iter().filter_map(|item| price.best(item));
        best.fold((0, 0.0), |(cost, noise), best| (cost + best.cost, noise + best.noise))
    };
    let fits = |of_cost: f64| taken(of_cost).0 <= budget;
    let noisiest = items.iter().flatten().map(|candidate| candidate.noise).fold(0.0, f64::max);
    // Costs are integers: at a price above all noises the cheapest is best.
    let (mut low, mut high) = (0.0, 2.0 * noisiest + 1.0);
    if fits(low) {
        high = low;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    let (cost, noise) = taken(high);
    // The best of each item are a choice. Any other makes more noise by its excess, less by the price of what these leave
    // of the budget; sums are rounded.
    let gap = high * (budget - cost) as f64 + 1e-9 * (noise + high * budget as f64);
    Some(Price { of_cost: high, gap })
}

/// Every choice before with every candidate: those that fit, are not beaten and may become the best; by cost, noise falls
/// along the list.
fn extended(before: &[Partial], item: &[Candidate], price: &Price, room: u64) -> Vec<Partial> {
    let best = price.best(item).map_or(0.0, |best| price.of(best));
    let with = |(place, partial): (usize, &Partial)| {
        let (at, partial) = (place, *partial);
        item.iter().enumerate().map(move |(pick, candidate)| Partial {
            cost: partial.cost + candidate.cost,
            noise: partial.noise + candidate.noise,
            excess: partial.excess + (price.of(candidate) - best),
            pick,
            before: at,
        })
    };
    let mut all: Vec<Partial> = before.iter().enumerate().flat_map(with).collect();
    all.retain(|partial| partial.cost <= room && partial.excess <= price.gap);
    unbeaten(all, |partial| (partial.cost, partial.noise))
}

/// Those that no other beats in both cost and noise, by cost: noise falls along the list.
pub fn unbeaten<T>(mut all: Vec<T>, of: impl Fn(&T) -> (u64, f64)) -> Vec<T> {
    all.sort_by(|a, b| {
        let (a, b) = (of(a), of(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let mut lowest = f64::INFINITY;
    all.retain(|one| {
        let noise = of(one).1;
        let kept = noise < lowest;
        lowest = lowest.min(noise);
        kept
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By trying everything.
    fn brute(items: &[Vec<Candidate>], budget: u64) -> Option<f64> {
        let mut all = vec![(0u64, 0.0f64)];
        for item in items {
            all = all
                .iter()
                .flat_map(|&(cost, noise)| item.iter().map(move |c| (cost + c.cost, noise + c.noise)))
                .collect();
        }
        all.into_iter().filter(|(cost, _)| *cost <= budget).map(|(_, noise)| noise).min_by(f64::total_cmp)
    }

    /// A small generator: the instances are the same on every machine.
    fn next(state: &mut u64) -> u64 {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *state >> 33
    }

    fn instance(state: &mut u64) -> (Vec<Vec<Candidate>>, u64) {
        let count = 1 + next(state) % 6;
        let items: Vec<Vec<Candidate>> = (0..count)
            .map(|_| {
                let (size, widths) = (1 + next(state) % 40, 1 + next(state) % 5);
                let candidate = |bits: u64| Candidate {
                    cost: size * bits,
                    // Not always less with more bits.
                    noise: (next(state) % 1000) as f64 / bits as f64,
                };
                (2..2 + widths).map(candidate).collect()
            })
            .collect();
        let most: u64 = items.iter().flatten().map(|candidate| candidate.cost).sum();
        (items, next(state) % (most + 1))
    }

    #[test]
    fn the_choice_is_the_best_of_all() {
        let (mut state, mut none, mut some) = (1, 0, 0);
        for number in 0..2000 {
            let (items, budget) = instance(&mut state);
            let (found, best) = (least_noise(&items, budget), brute(&items, budget));
            match (&found, best) {
                (None, None) => none += 1,
                (Some(choice), Some(best)) => {
                    some += 1;
                    assert!((choice.noise - best).abs() < 1e-9, "instance {number}: {choice:?}, best {best}");
                    assert!(choice.cost <= budget, "instance {number}");
                    let (cost, noise) = choice
                        .picks
                        .iter()
                        .zip(&items)
                        .map(|(&pick, item)| item[pick])
                        .fold((0, 0.0), |sum, chosen| (sum.0 + chosen.cost, sum.1 + chosen.noise));
                    assert_eq!((cost, noise), (choice.cost, choice.noise), "instance {number}");
                }
                _ => panic!("instance {number}: {found:?}, by trying everything {best:?}"),
            }
        }
        assert!(none > 100 && some > 100, "{none} without a choice, {some} with one");
    }

    #[test]
    fn nothing_to_choose_and_no_room() {
        assert_eq!(least_noise(&[], 0), Some(Choice { picks: vec![], noise: 0.0, cost: 0 }));
        let one = Candidate { cost: 3, noise: 1.0 };
        assert_eq!(least_noise(&[vec![one]], 2), None);
        assert_eq!(least_noise(&[vec![one], vec![]], 100), None);
        // A wider one that makes more noise is not taken.
        let worse = Candidate { cost: 4, noise: 2.0 };
        assert_eq!(least_noise(&[vec![worse, one]], 10).map(|choice| choice.picks), Some(vec![1]));
    }

    #[test]
    fn many_items_take_no_time() {
        let (mut state, sizes) = (7, [1_u64, 9, 14, 33, 100, 257]);
        let item = |_| {
            let size = sizes[(next(&mut state) % 6) as usize] * 1_000_003;
            let noise = (1 + next(&mut state) % 1000) as f64;
            (2..=8)
                .map(|bits| Candidate { cost: size * bits, noise: noise / f64::from(1 << (2 * bits)) })
                .collect()
        };
        let items: Vec<Vec<Candidate>> = (0..200).map(item).collect();
        let at = |bits: usize| items.iter().map(|item| item[bits - 2].cost).sum::<u64>();
        let uniform: f64 = items.iter().map(|item| item[2].noise).sum();
        let choice = least_noise(&items, at(4)).expect("a choice");
        assert!(choice.cost <= at(4) && choice.noise < uniform, "{} {uniform}", choice.noise);
    }
}
