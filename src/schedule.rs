//! The order in which calls run: which follow each other without a barrier, and which run at the same time.
//!
//! A call goes to the earliest stage that what it depends on allows. Where everything of a stage that it depends on is
//! in one chain, and each part of the items needs only the same part of what the chain has written, it joins that chain:
//! codes are contracted while they are in the cache of the core that made them. Otherwise it begins a chain of its own
//! in the next stage, beside others. A step of ResNet-20 has 747 calls in 165 stages then; in 512 bits on two
//! threads, waiting fell from 4.6 % to 3.1 % of it.
//!
//! The program itself stays as it is: interpreters may run its calls one by one. `plan_check` looks at the result
//! without knowing how it was made.

use crate::kernel::reach::Reach;
use crate::kernel::{Access, Call, Program};

/// Parts of a chain that is cut, at least: several threads share them, and one that was held up leaves the rest to others.
const PARTS: u32 = 16;

/// Calls that follow each other without a barrier, each on the same part of its items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Calls by their position in the program.
    pub calls: Vec<usize>,
    /// Into how many parts the items of each call are cut.
    pub parts: u32,
}

/// Stages in order; what is in one stage may run in any order, or at the same time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// The chains of each stage.
    pub stages: Vec<Vec<Chain>>,
}

impl Schedule {
    /// All calls of a stage.
    pub fn calls(stage: &[Chain]) -> impl Iterator<Item = usize> + Clone {
        stage.iter().flat_map(|chain| chain.calls.iter().copied())
    }

    /// All calls, in an order in which they may run.
    pub fn order(&self) -> impl Iterator<Item = usize> {
        self.stages.iter().flat_map(|stage| Schedule::calls(stage))
    }
}

/// Who touched a buffer last.
#[derive(Clone, Debug, Default)]
struct Users {
    writer: Option<usize>,
    /// Since then.
    readers: Vec<usize>,
}

struct Scheduler<'a> {
    program: &'a Program,
    /// By kernel and parameter.
    reaches: &'a [Vec<Option<Reach>>],
    stages: Vec<Vec<Chain>>,
    /// Stage and chain of each call so far.
    places: Vec<(usize, usize)>,
}

/// Orders the calls of a program, whose kernels have these reaches.
pub fn schedule(program: &Program, reaches: &[Vec<Option<Reach>>]) -> Schedule {
    let mut scheduler = Scheduler { program, reaches, stages: vec![], places: vec![] };
    let mut users = vec![Users::default(); program.buffers.len()];
    for (number, call) in program.calls.iter().enumerate() {
        let params = &program.kernels[call.kernel].params;
        let mut before: Vec<usize> = vec![];
        for (id, param) in call.args.iter().zip(params) {
            let users = &users[id.0 as usize];
            before.extend(users.writer);
            if param.access != Access::Read {
                before.extend(&users.readers);
            }
        }
        scheduler.place(number, &before);
        for (id, param) in call.args.iter().zip(params) {
            let users = &mut users[id.0 as usize];
            if param.access == Access::Read {
                users.readers.push(number);
            } else {
                *users = Users { writer: Some(number), readers: vec![] };
            }
        }
    }
    // What cannot be cut comes first, so that it is not what all wait for.
    scheduler.stages.iter_mut().for_each(|stage| stage.sort_by_key(|chain| chain.parts));
    Schedule { stages: scheduler.stages }
}

impl Scheduler<'_> {
    /// Places a call that comes after others.
    fn place(&mut self, call: usize, before: &[usize]) {
        let items = self.items(call);
        let last = before.iter().map(|&other| self.places[other].0).max();
        let at_last = || before.iter().filter(|&&other| Some(self.places[other].0) == last);
        let chains = || at_last().map(|&other| self.places[other]);
        if let Some((stage, chain)) = chains().next().filter(|&first| chains().all(|place| place == first)) {
            let parts_of = self.stages[stage][chain].parts;
            let parts = gcd(parts_of, items);
            let enough = parts == parts_of && parts == items || parts >= PARTS;
            // All calls of the chain: what one touched before the last may meet this one in another part.
            let mut earlier = self.stages[stage][chain].calls.iter();
            if enough && earlier.all(|&other| self.follows(call, other, parts)) {
                let chain_of = &mut self.stages[stage][chain];
                chain_of.calls.push(call);
                chain_of.parts = parts;
                self.places.push((stage, chain));
                return;
            }
        }
        let stage = last.map_or(0, |stage| stage + 1);
        self.stages.resize(self.stages.len().max(stage + 1), vec![]);
        self.stages[stage].push(Chain { calls: vec![call], parts: items });
        self.places.push((stage, self.stages[stage].len() - 1));
    }

    fn items(&self, call: usize) -> u32 {
        self.program.kernels[self.program.calls[call].kernel].items
    }

    /// Whether each part of a call touches only the same part of what another touches, where one of them writes.
    fn follows(&self, call: usize, other: usize, parts: u32) -> bool {
        if parts == 1 {
            return true;
        }
        let uses = |call: usize| {
            let Call { kernel, args } = &self.program.calls[call];
            let params = self.program.kernels[*kernel].params.iter();
            args.iter().zip(params).zip(&self.reaches[*kernel])
        };
        uses(call).all(|((id, param), &reach)| {
            uses(other).all(|((other_id, other_param), &other_reach)| {
                let both_read = param.access == Access::Read && other_param.access == Access::Read;
                id != other_id || both_read || {
                    let [a, b] = [(reach, call), (other_reach, other)]
                        .map(|(reach, call)| reach.map(|r| r.of_items(self.items(call) / parts)));
                    a.zip(b).is_some_and(|(a, b)| are_apart(a, b))
                }
            })
        })
    }
}

/// Whether what moves like this touches nothing twice from one part to another.
fn are_apart(a: Reach, b: Reach) -> bool {
    let width = a.last.max(b.last) - a.first.min(b.first) + 1;
    a.step == b.step && width <= a.step.abs()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
