//! The choice of one bit-width per layer that makes the least noise within a budget, exactly.
//!
//! The noise of a choice is the sum of the layers' noises, its cost the sum of their costs. Layers are taken one after the
//! other; of all partial choices those are kept that no other beats in both cost and noise. What is left out is beaten by
//! something that is kept, whatever the remaining layers choose, and costs are integers: the best choice is among those
//! kept at the end. Widths do not have to make less noise for more cost. Layers of a network share few sizes, so that few
//! costs are different and the lists are short.
//! This module knows numbers, not layers.

/// A width that a layer may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Bits of a code.
    pub bits: u32,
    /// What of the budget it takes.
    pub cost: u64,
    /// The noise it makes, in the unit of all others.
    pub noise: f64,
}

/// A choice for all layers.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// A width for each layer.
    pub layers: Vec<Candidate>,
    /// Their noises in all.
    pub noise: f64,
    /// Their costs in all.
    pub cost: u64,
}

/// A choice for the first layers.
#[derive(Clone, Copy)]
struct Partial {
    cost: u64,
    noise: f64,
    /// The last of these layers' candidate.
    candidate: Candidate,
    /// The choice for the layers before, by its place in their list.
    before: usize,
}

/// The choice of least noise whose cost is at most `budget`, of equals one that costs least; `None` if there is none.
pub fn least_noise(layers: &[Vec<Candidate>], budget: u64) -> Option<Choice> {
    let least = |layer: &Vec<Candidate>| layer.iter().map(|candidate| candidate.cost).min();
    // What the layers still to come cost at least.
    let mut reserved = layers.iter().map(least).sum::<Option<u64>>()?;
    let mut lists: Vec<Vec<Partial>> = vec![];
    for layer in layers {
        reserved -= least(layer)?;
        let room = budget.checked_sub(reserved)?;
        let before =
            lists.last().map(|list| list.iter().map(|partial| (partial.cost, partial.noise)).collect());
        let before: Vec<(u64, f64)> = before.unwrap_or_else(|| vec![(0, 0.0)]);
        lists.push(extended(&before, layer, room));
    }
    let mut best = lists.last().map_or(Some(0), |list| list.len().checked_sub(1))?;
    let mut choice = Choice { layers: vec![], noise: 0.0, cost: 0 };
    for (i, list) in lists.iter().enumerate().rev() {
        let partial = list[best];
        if i + 1 == lists.len() {
            (choice.noise, choice.cost) = (partial.noise, partial.cost);
        }
        choice.layers.push(partial.candidate);
        best = partial.before;
    }
    choice.layers.reverse();
    Some(choice)
}

/// Every choice before with every candidate, those that fit and are not beaten, by cost: noise falls along the list.
fn extended(before: &[(u64, f64)], layer: &[Candidate], room: u64) -> Vec<Partial> {
    let with = |(index, &(cost, noise)): (usize, &(u64, f64))| {
        layer.iter().map(move |&candidate| Partial {
            cost: cost + candidate.cost,
            noise: noise + candidate.noise,
            candidate,
            before: index,
        })
    };
    let mut all: Vec<Partial> = before.iter().enumerate().flat_map(with).collect();
    all.retain(|partial| partial.cost <= room);
    all.sort_by(|a, b| a.cost.cmp(&b.cost).then(a.noise.total_cmp(&b.noise)));
    let mut lowest = f64::INFINITY;
    all.retain(|partial| {
        let kept = partial.noise < lowest;
        lowest = lowest.min(partial.noise);
        kept
    });
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By trying everything.
    fn brute(layers: &[Vec<Candidate>], budget: u64) -> Option<f64> {
        let mut all = vec![(0u64, 0.0f64)];
        for layer in layers {
            all = all
                .iter()
                .flat_map(|&(cost, noise)| layer.iter().map(move |c| (cost + c.cost, noise + c.noise)))
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
        let layers: Vec<Vec<Candidate>> = (0..count)
            .map(|_| {
                let (size, widths) = (1 + next(state) % 40, 1 + next(state) % 5);
                let candidate = |bits: u64| Candidate {
                    bits: bits as u32,
                    cost: size * bits,
                    // Not always less with more bits.
                    noise: (next(state) % 1000) as f64 / bits as f64,
                };
                (2..2 + widths).map(candidate).collect()
            })
            .collect();
        let most: u64 = layers.iter().flatten().map(|candidate| candidate.cost).sum();
        (layers, next(state) % (most + 1))
    }

    #[test]
    fn the_choice_is_the_best_of_all() {
        let (mut state, mut none, mut some) = (1, 0, 0);
        for number in 0..2000 {
            let (layers, budget) = instance(&mut state);
            let (found, best) = (least_noise(&layers, budget), brute(&layers, budget));
            match (&found, best) {
                (None, None) => none += 1,
                (Some(choice), Some(best)) => {
                    some += 1;
                    assert!((choice.noise - best).abs() < 1e-9, "instance {number}: {choice:?}, best {best}");
                    assert!(choice.cost <= budget, "instance {number}");
                    let (cost, noise) = choice
                        .layers
                        .iter()
                        .zip(&layers)
                        .inspect(|(chosen, layer)| assert!(layer.contains(chosen), "instance {number}"))
                        .fold((0, 0.0), |sum, (chosen, _)| (sum.0 + chosen.cost, sum.1 + chosen.noise));
                    assert_eq!((cost, noise), (choice.cost, choice.noise), "instance {number}");
                }
                _ => panic!("instance {number}: {found:?}, by trying everything {best:?}"),
            }
        }
        assert!(none > 100 && some > 100, "{none} without a choice, {some} with one");
    }

    #[test]
    fn nothing_to_choose_and_no_room() {
        assert_eq!(least_noise(&[], 0), Some(Choice { layers: vec![], noise: 0.0, cost: 0 }));
        let one = Candidate { bits: 2, cost: 3, noise: 1.0 };
        assert_eq!(least_noise(&[vec![one]], 2), None);
        assert_eq!(least_noise(&[vec![one], vec![]], 100), None);
        // A wider one that makes more noise is not taken.
        let worse = Candidate { bits: 3, cost: 4, noise: 2.0 };
        assert_eq!(least_noise(&[vec![worse, one]], 10).map(|choice| choice.layers), Some(vec![one]));
    }
}
