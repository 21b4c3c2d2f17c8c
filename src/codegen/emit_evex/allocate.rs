//! Registers for vector code: one linear scan over live intervals.
//!
//! An interval reaches from the first definition to the last use; where a loop reads what was defined before it, to
//! the end of the loop. When registers run out, the value that is used the least, by the depth of its uses and for the
//! time that it lives, waits in memory. Masks never wait: a region that needs too many is refused.

use super::vcode::{Class, Inst, Node, Reg, Vcode};

/// The last of the vector registers carry values that wait in memory: as many as an instruction reads without being
/// able to read them from there, and what it writes.
pub(super) const SCRATCH: usize = 2;
/// Mask registers; number 0 means "no mask".
const MASKS: usize = 7;

/// Where a value lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    Register(usize),
    /// The n-th place of a vector in the frame.
    Frame(usize),
    /// Never defined.
    Nowhere,
}

#[derive(Clone, Copy, Debug)]
struct Interval {
    reg: Reg,
    start: usize,
    end: usize,
    weight: u64,
}

impl Interval {
    /// What it costs to wait in memory, by the time for which this frees a register.
    fn density(&self) -> u64 {
        (self.weight << 16) / (self.end - self.start).max(1) as u64
    }
}

struct Liveness {
    intervals: Vec<Option<Interval>>,
    /// Loops around the current place: where they began.
    loops: Vec<usize>,
    /// Reads inside of loops of what was defined before: (register, start of the loop).
    carried: Vec<(Reg, usize)>,
    at: usize,
}

impl Liveness {
    fn walk(&mut self, nodes: &[Node]) {
        for node in nodes {
            match node {
                Node::Inst(inst) => self.inst(inst),
                Node::Scalar(_) => {}
                Node::Constant(reg, _) => {
                    self.at += 2;
                    self.touch(*reg, self.at + 1);
                }
                Node::Loop { count, body, .. } => {
                    self.at += 2;
                    let start = self.at;
                    if *count > 1 {
                        self.loops.push(start);
                    }
                    self.walk(body);
                    self.at += 2;
                    if *count > 1 {
                        self.loops.pop();
                        self.close(start);
                    }
                }
            }
        }
    }

    /// What a loop reads from before it lives until its end.
    fn close(&mut self, start: usize) {
        let end = self.at;
        let (now, rest): (Vec<_>, Vec<_>) = self.carried.drain(..).partition(|c| c.1 == start);
        self.carried = rest;
        for (reg, _) in now {
            if let Some(interval) = &mut self.intervals[reg.0] {
                interval.end = interval.end.max(end);
            }
        }
    }

    fn inst(&mut self, inst: &Inst) {
        self.at += 2;
        // A tied operand is copied first: what else is read must not be where it goes.
        let late = if inst.tied.is_some() { 2 } else { 0 };
        for reg in inst.reads() {
            self.touch(reg, self.at + late);
        }
        if let Some(reg) = inst.tied {
            self.touch(reg, self.at);
        }
        if let Some(reg) = inst.defines() {
            self.touch(reg, self.at + 1);
        }
    }

    fn touch(&mut self, reg: Reg, at: usize) {
        let weight = 8u64.pow(self.loops.len().min(12) as u32);
        let interval = self.intervals[reg.0].get_or_insert(Interval { reg, start: at, end: at, weight: 0 });
        interval.end = interval.end.max(at);
        interval.weight += weight;
        let start = interval.start;
        self.carried.extend(self.loops.iter().filter(|&&l| l > start).map(|&l| (reg, l)));
    }
}

/// A home for every virtual register on a machine with so many vector registers, and how many places of the frame are
/// needed. An error says that masks do not fit.
pub(super) fn allocate(code: &Vcode, vectors: usize) -> Result<(Vec<Home>, usize), String> {
    let mut live =
        Liveness { intervals: vec![None; code.classes.len()], loops: vec![], carried: vec![], at: 0 };
    live.walk(&code.nodes);
    let mut homes = vec![Home::Nowhere; code.classes.len()];
    let mut frame = 0;
    for class in [Class::Vector, Class::Mask] {
        let of_class = |i: &&Option<Interval>| i.is_some_and(|i| code.classes[i.reg.0] == class);
        let mut intervals: Vec<Interval> =
            live.intervals.iter().filter(of_class).flatten().copied().collect();
        intervals.sort_by_key(|i| (i.start, i.reg));
        let registers: Vec<usize> = if class == Class::Mask {
            (1..=MASKS).collect()
        } else {
            (0..vectors.saturating_sub(SCRATCH)).collect()
        };
        scan(&intervals, registers, &mut homes, &mut frame, class)?;
    }
    Ok((homes, frame))
}

fn scan(
    intervals: &[Interval],
    mut free: Vec<usize>,
    homes: &mut [Home],
    frame: &mut usize,
    class: Class,
) -> Result<(), String> {
    let mut active: Vec<Interval> = vec![];
    for &now in intervals {
        active.retain(|a| {
            let over = a.end <= now.start;
            if let (true, Home::Register(r)) = (over, homes[a.reg.0]) {
                free.push(r);
            }
            !over
        });
        if let Some(register) = free.pop() {
            homes[now.reg.0] = Home::Register(register);
            active.push(now);
            continue;
        }
        if class == Class::Mask {
            return Err("more masks than registers".into());
        }
        let place = Home::Frame(*frame);
        *frame += 1;
        let least = active.iter().enumerate().min_by_key(|(_, a)| a.density()).map(|(i, a)| (i, *a));
        match least {
            Some((i, other)) if other.density() < now.density() => {
                homes[now.reg.0] = homes[other.reg.0];
                homes[other.reg.0] = place;
                active[i] = now;
            }
            _ => homes[now.reg.0] = place,
        }
    }
    Ok(())
}
