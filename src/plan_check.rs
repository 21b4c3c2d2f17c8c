//! The independent checker of memory plans: it replays the calls, byte range by byte range.
//!
//! It does not look at how a plan was made, only at what the calls do: whoever reads a buffer finds the bytes that were
//! last written to *that* buffer, and state, tables and exchange are never overwritten by buffers of a step.

use std::collections::BTreeMap;

use crate::kernel::{Access, Kind, Program};
use crate::plan::{Plan, UNIT};

/// Checks a plan of these programs; an error says which buffers collide in which call.
pub fn check(programs: &[&Program], plan: &Plan) -> Result<(), String> {
    for (program, offsets) in programs.iter().zip(&plan.offsets) {
        replay(program, offsets, plan.bytes)?;
    }
    same_places(programs, plan)
}

/// Owners of the arena: start → (end, buffer).
type Owners = BTreeMap<u64, (u64, usize)>;

fn replay(program: &Program, offsets: &[u32], bytes: u64) -> Result<(), String> {
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
    for (number, call) in program.calls.iter().enumerate() {
        let kernel = &program.kernels[call.kernel];
        let args = call.args.iter().map(|a| a.0 as usize).zip(&kernel.params);
        for (i, param) in args.clone() {
            let (start, end) = span(i);
            if param.access != Access::Write && !owns(&owners, start, end, i) {
                let name = &program.buffers[i].name;
                return Err(format!("call {number} ({}) reads {name}, which was overwritten", kernel.name));
            }
        }
        for (i, param) in args.clone() {
            if param.access == Access::Read {
                continue;
            }
            let (start, end) = span(i);
            for lost in claim(&mut owners, start, end, i) {
                let other = &program.buffers[lost];
                if other.kind != Kind::Temp || args.clone().any(|(arg, _)| arg == lost) {
                    let name = &program.buffers[i].name;
                    return Err(format!("call {number} ({}) writes {name} over {}", kernel.name, other.name));
                }
            }
        }
    }
    Ok(())
}

/// Makes `buffer` the owner of a span; gives the buffers that lose it.
fn claim(owners: &mut Owners, start: u64, end: u64, buffer: usize) -> Vec<usize> {
    let hit: Vec<(u64, (u64, usize))> =
        owners.range(..end).filter(|(_, (e, _))| *e > start).map(|(&s, &o)| (s, o)).collect();
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
fn same_places(programs: &[&Program], plan: &Plan) -> Result<(), String> {
    let mut known: BTreeMap<&str, u32> = BTreeMap::new();
    for (program, offsets) in programs.iter().zip(&plan.offsets) {
        for (buffer, &offset) in program.buffers.iter().zip(offsets) {
            if buffer.kind != Kind::Temp && *known.entry(&buffer.name).or_insert(offset) != offset {
                return Err(format!("{} lies at two places", buffer.name));
            }
        }
    }
    Ok(())
}
