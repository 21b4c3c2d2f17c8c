//! The independent checker of schedules and memory plans: it replays the stages, byte range by byte range.
//!
//! It does not look at how a plan was made, only at what the calls do: whoever reads a buffer finds the bytes that were
//! last written to *that* buffer; state, tables and exchange are never overwritten by buffers of a step; and what may
//! run at the same time touches different bytes where one of them writes.

use std::collections::{BTreeMap, BTreeSet};

use crate::kernel::reach::Reach;
use crate::kernel::{Access, Kind, Program};
use crate::plan::{Plan, UNIT};
use crate::schedule::{Chain, Schedule};

/// A program, the order of its calls, and the reaches of its kernels.
pub type Scheduled<'a> = (&'a Program, &'a Schedule, &'a [Vec<Option<Reach>>]);

/// Checks a plan of these programs; an error says which buffers collide in which call.
pub fn check(programs: &[Scheduled<'_>], plan: &Plan) -> Result<(), String> {
    for (&(program, schedule, reaches), offsets) in programs.iter().zip(&plan.offsets) {
        in_order(program, schedule)?;
        for stage in &schedule.stages {
            together(program, reaches, stage)?;
        }
        replay(program, schedule, offsets, plan.bytes)?;
    }
    same_places(programs, plan)
}

/// Every call once, and calls of one buffer in the order of the program unless they only read.
fn in_order(program: &Program, schedule: &Schedule) -> Result<(), String> {
    let mut met = vec![false; program.calls.len()];
    // Whoever touched a buffer last, and whoever wrote it last.
    let mut last = vec![(0, 0); program.buffers.len()];
    for call in schedule.order() {
        if std::mem::replace(&mut met[call], true) {
            return Err(format!("call {call} runs twice"));
        }
        let kernel = &program.kernels[program.calls[call].kernel];
        for (id, param) in program.calls[call].args.iter().zip(&kernel.params) {
            let (touched, written) = &mut last[id.0 as usize];
            let before = if param.access == Access::Read { *written } else { *touched };
            if before > call {
                let name = &program.buffers[id.0 as usize].name;
                return Err(format!("call {call} ({}) comes too late to {name}", kernel.name));
            }
            *touched = call.max(*touched);
            if param.access != Access::Read {
                *written = call;
            }
        }
    }
    met.iter().position(|met| !met).map_or(Ok(()), |call| Err(format!("call {call} never runs")))
}

/// A use of a buffer in a stage.
struct Use {
    chain: usize,
    call: usize,
    writes: bool,
    reach: Option<Reach>,
}

/// What may run at the same time in a stage.
fn together(program: &Program, reaches: &[Vec<Option<Reach>>], stage: &[Chain]) -> Result<(), String> {
    let mut uses: BTreeMap<u32, Vec<Use>> = BTreeMap::new();
    for (chain, &call) in
        stage.iter().enumerate().flat_map(|(i, c)| c.calls.iter().map(move |call| (i, call)))
    {
        let of = &program.calls[call];
        let kernel = &program.kernels[of.kernel];
        if !kernel.items.is_multiple_of(stage[chain].parts) {
            return Err(format!("call {call} ({}) is cut into {} parts", kernel.name, stage[chain].parts));
        }
        for ((id, param), reach) in of.args.iter().zip(&kernel.params).zip(&reaches[of.kernel]) {
            let writes = param.access != Access::Read;
            uses.entry(id.0).or_default().push(Use { chain, call, writes, reach: *reach });
        }
    }
    for (id, uses) in uses {
        let alone = uses.iter().all(|u| u.call == uses[0].call);
        if alone || uses.iter().all(|u| !u.writes) {
            continue;
        }
        let parts = stage[uses[0].chain].parts;
        let one_chain = uses.iter().all(|u| u.chain == uses[0].chain);
        if !one_chain || parts > 1 && !are_apart(program, parts, &uses) {
            let (name, calls) = (&program.buffers[id as usize].name, uses.iter().map(|u| u.call.to_string()));
            let calls: Vec<String> = calls.collect();
            return Err(format!("calls {} meet in {name} without a barrier", calls.join(", ")));
        }
    }
    Ok(())
}

/// Whether every part of a chain has elements of a buffer for itself: part by part, from the first element to the last.
fn are_apart(program: &Program, parts: u32, uses: &[Use]) -> bool {
    let spans = (0..parts).map(|part| {
        let mut span: Option<(i128, i128)> = None;
        for u in uses {
            let reach = u.reach?;
            let items = program.kernels[program.calls[u.call].kernel].items / parts;
            for item in [part * items, (part + 1) * items - 1] {
                let (first, last) =
                    (reach.first + reach.step * item as i128, reach.last + reach.step * item as i128);
                span = Some(span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
            }
        }
        span
    });
    let Some(mut spans) = spans.collect::<Option<Vec<_>>>() else { return false };
    spans.sort_unstable();
    spans.windows(2).all(|pair| pair[0].1 < pair[1].0)
}

/// Owners of the arena: start → (end, buffer).
type Owners = BTreeMap<u64, (u64, usize)>;

fn replay(program: &Program, schedule: &Schedule, offsets: &[u32], bytes: u64) -> Result<(), String> {
    let span = |i: usize| {
        let start = offsets[i] as u64 * UNIT;
        (start, start + program.buffers[i].bytes())
    };
    let mut owners = Owners::new();
    for (i, buffer) in program.buffers.iter().enumerate() {
        let (start, end) = span(i);
        if end > bytes {
            return Err(format!("buffer {} ends at {end} in an arena of {bytes}", buffer.name));
        }
        if buffer.kind != Kind::Temp && !claim(&mut owners, start, end, i).is_empty() {
            return Err(format!("buffer {} lies on another that lasts", buffer.name));
        }
    }
    for stage in &schedule.stages {
        let calls = Schedule::calls(stage);
        let touched = calls.clone().flat_map(|call| program.calls[call].args.iter().map(|id| id.0 as usize));
        let touched: BTreeSet<usize> = touched.collect();
        for number in calls {
            let call = &program.calls[number];
            let kernel = &program.kernels[call.kernel];
            let args = || call.args.iter().map(|a| a.0 as usize).zip(&kernel.params);
            // A write of the same call does not bring back what is read.
            for (i, _) in args().filter(|(_, param)| param.access != Access::Write) {
                let (start, end) = span(i);
                if !owns(&owners, start, end, i) {
                    let name = &program.buffers[i].name;
                    return Err(format!(
                        "call {number} ({}) reads {name}, which was overwritten",
                        kernel.name
                    ));
                }
            }
            for (i, _) in args().filter(|(_, param)| param.access != Access::Read) {
                let (start, end) = span(i);
                let name = &program.buffers[i].name;
                for lost in claim(&mut owners, start, end, i) {
                    let other = &program.buffers[lost];
                    if other.kind != Kind::Temp || touched.contains(&lost) {
                        return Err(format!(
                            "call {number} ({}) writes {name} over {}",
                            kernel.name, other.name
                        ));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Makes `buffer` the owner of a span; gives the buffers that lose it.
fn claim(owners: &mut Owners, start: u64, end: u64, buffer: usize) -> Vec<usize> {
    // Spans of owners do not meet, so those that end behind the start are the last ones before the end.
    let before = owners.range(..end).rev();
    let hit: Vec<(u64, (u64, usize))> =
        before.take_while(|(_, (e, _))| *e > start).map(|(&s, &o)| (s, o)).collect();
    for (s, _) in &hit {
        owners.remove(s);
    }
    owners.insert(start, (end, buffer));
    hit.into_iter().map(|(_, (_, b))| b).filter(|&b| b != buffer).collect()
}

fn owns(owners: &Owners, start: u64, end: u64, buffer: usize) -> bool {
    owners.get(&start) == Some(&(end, buffer))
}

/// What survives steps has one place in all programs.
fn same_places(programs: &[Scheduled<'_>], plan: &Plan) -> Result<(), String> {
    let mut known: BTreeMap<&str, u32> = BTreeMap::new();
    for ((program, ..), offsets) in programs.iter().zip(&plan.offsets) {
        for (buffer, &offset) in program.buffers.iter().zip(offsets) {
            if buffer.kind != Kind::Temp && *known.entry(&buffer.name).or_insert(offset) != offset {
                return Err(format!("{} lies at two places", buffer.name));
            }
        }
    }
    Ok(())
}
