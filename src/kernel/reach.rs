//! What the items of a kernel touch of a parameter: an interval of elements that moves along with the item.
//!
//! Who lets calls follow each other without a barrier asks this. An answer covers at least what is touched; "unknown" stands
//! for everything.

use super::touches::{Term, touches};
use super::{Index, Kernel, Param};

/// Item `i` touches no elements but `first + i·step ..= last + i·step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// First element that item 0 may touch.
    pub first: i128,
    /// Last element that item 0 may touch.
    pub last: i128,
    /// Elements from one item to the next.
    pub step: i128,
}

impl Reach {
    /// What a run of items touches, as a reach whose items are such runs.
    #[must_use]
    pub fn of_items(self, items: u32) -> Reach {
        let more = self.step * (i128::from(items) - 1);
        Reach {
            first: self.first + more.min(0),
            last: self.last + more.max(0),
            step: self.step * i128::from(items),
        }
    }
}

/// By parameter of a kernel that verifies: what its items touch, or nothing where they move at several paces.
pub fn reaches(kernel: &Kernel) -> Vec<Option<Reach>> {
    let all = touches(kernel);
    let of = |param: Param| {
        let mut met: Option<Reach> = None;
        for touch in all.iter().filter(|touch| touch.param == param) {
            let is_item = |term: &&Term| term.index == Some(Index(0));
            let step = touch.terms.iter().find(is_item).map_or(0, |term| i128::from(term.stride));
            // The extent is of all items; item 0 is at one end of it.
            let (lo, hi) = touch.extent();
            let way = step * (i128::from(kernel.items) - 1);
            let (first, last) = (lo - way.min(0), hi - way.max(0));
            met = Some(match met {
                None => Reach { first, last, step },
                Some(r) if r.step == step => {
                    Reach { first: r.first.min(first), last: r.last.max(last), step }
                }
                Some(_) => return None,
            });
        }
        met
    };
    (0..kernel.params.len()).map(|i| of(Param(i as u32))).collect()
}
