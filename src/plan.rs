//! Memory: where every buffer of the programs of a model lies in one arena.
//!
//! Buffers that survive steps, tables and what the runtime exchanges lie first, at the same place in every program;
//! buffers of one step lie behind them and share memory when their lifetimes do not meet. Placement is greedy, largest
//! first, at the lowest free place (Pisarchyk & Lee 2020). `plan_check` replays a plan without knowing how it was made.

use std::collections::BTreeMap;

use crate::kernel::{Kind, Program};
use crate::schedule::Schedule;

/// Unit of offsets, in bytes: a cache line.
pub const UNIT: u64 = 64;

/// Offsets in units of [`UNIT`] for each program's buffers, by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One list a program.
    pub offsets: Vec<Vec<u32>>,
    /// Bytes of the arena.
    pub bytes: u64,
    /// Bytes of what survives steps, tables and exchange: the buffers of a step begin here.
    pub lasting: u64,
}

/// First and last stage that touches a buffer.
pub fn lifetimes(program: &Program, schedule: &Schedule) -> Vec<Option<(usize, usize)>> {
    let mut lives: Vec<Option<(usize, usize)>> = vec![None; program.buffers.len()];
    for (number, stage) in schedule.stages.iter().enumerate() {
        for arg in Schedule::calls(stage).flat_map(|call| &program.calls[call].args) {
            let life = &mut lives[arg.0 as usize];
            *life = Some((life.map_or(number, |l| l.0), number));
        }
    }
    lives
}

/// Places the buffers of programs that share an arena. An error says that it would be too large.
pub fn plan(programs: &[(&Program, &Schedule)]) -> Result<Plan, String> {
    let mut named: BTreeMap<(u8, &str), (u64, u64)> = BTreeMap::new();
    for (program, _) in programs {
        for buffer in program.buffers.iter().filter(|b| b.kind != Kind::Temp) {
            let order = match buffer.kind {
                Kind::State => 0,
                Kind::Persistent => 1,
                Kind::Input | Kind::Output => 2,
                _ => 3,
            };
            named.entry((order, &buffer.name)).or_insert((0, buffer.bytes()));
        }
    }
    let mut lasting = 0;
    for (offset, bytes) in named.values_mut() {
        *offset = lasting;
        lasting += bytes.next_multiple_of(UNIT);
    }
    let places: BTreeMap<&str, u64> = named.iter().map(|((_, name), (offset, _))| (*name, *offset)).collect();
    let mut plan = Plan { offsets: vec![], bytes: lasting, lasting };
    for (program, schedule) in programs {
        let (temps, end) = place(program, schedule, lasting);
        plan.bytes = plan.bytes.max(end);
        let offset = |(i, b): (usize, &crate::kernel::Buffer)| match b.kind {
            Kind::Temp => temps[i],
            _ => places[b.name.as_str()],
        };
        let offsets = program.buffers.iter().enumerate().map(offset);
        let units: Result<Vec<u32>, _> = offsets.map(|o| u32::try_from(o / UNIT)).collect();
        plan.offsets.push(units.map_err(|_| "the arena would be larger than 256 GiB".to_owned())?);
    }
    Ok(plan)
}

/// Offsets of the buffers of one step (zero for others), and the end of the last.
fn place(program: &Program, schedule: &Schedule, base: u64) -> (Vec<u64>, u64) {
    let lives = lifetimes(program, schedule);
    let mut order: Vec<usize> = (0..program.buffers.len())
        .filter(|&i| program.buffers[i].kind == Kind::Temp && lives[i].is_some())
        .collect();
    order.sort_by_key(|&i| (std::cmp::Reverse(program.buffers[i].bytes()), i));
    let mut offsets = vec![base; program.buffers.len()];
    let mut end = base;
    // Placed buffers by offset: (offset, end, first stage, last stage).
    let mut placed: Vec<(u64, u64, usize, usize)> = vec![];
    for i in order {
        let size = program.buffers[i].bytes().next_multiple_of(UNIT);
        let Some((first, last)) = lives[i] else { continue };
        let mut at = base;
        for &(offset, until, f, l) in &placed {
            if f > last || l < first {
                continue;
            }
            if offset >= at + size {
                break;
            }
            at = at.max(until);
        }
        offsets[i] = at;
        end = end.max(at + size);
        let index = placed.partition_point(|p| p.0 < at);
        placed.insert(index, (at, at + size, first, last));
    }
    (offsets, end)
}
