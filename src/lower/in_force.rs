//! The largest code in force: where a policy moves bit-widths over a run, the codes of a step keep within a part of their
//! levels.
//!
//! Levels stay what layouts and proofs go by; a step reads one integer more, from a table of a cycle at the step's place in
//! the run. So the program is the same in every step, and what is in force follows from the counters of a checkpoint.
//! Ranges map to the code in force, codes and masks are clipped at it. Where nothing moves there is no such integer, and
//! kernels are as if this file did not exist. Evaluation has all levels.

use super::affine::Levels;
use super::begin::Clock;
use super::cx::{Cx, Kx};
use crate::bits::{Course, PHASES};
use crate::kernel::{BufferId, DType, Range, Value};
use crate::quant;

/// The integers that steps read, by the width and sign of the codes.
#[derive(Default)]
pub(super) struct InForce {
    moving: Vec<Moving>,
}

struct Moving {
    name: String,
    cycles: i64,
    /// Largest codes by phase.
    table: BufferId,
    buffer: BufferId,
}

impl InForce {
    /// The largest code in force of codes whose bits have this course: `[1]` I64.
    pub(super) fn get(&mut self, cx: &mut Cx, course: &Course, bits: u32, signed: bool) -> BufferId {
        let name = format!("in_force.{}{bits}", if signed { "signed" } else { "unsigned" });
        if let Some(known) = self.moving.iter().find(|moving| moving.name == name) {
            return known.buffer;
        }
        let levels = if signed { quant::Levels::symmetric } else { quant::Levels::unsigned };
        let largest: Vec<i64> = course.bits.iter().map(|&bits| levels(bits).hi).collect();
        let (least, most) = (largest.iter().min().copied(), levels(bits).hi);
        let range = Range::new(least.unwrap_or(most), most);
        let buffer = cx.temp(name.clone(), DType::I64, &[1], range);
        let table = cx.table(format!("{name}.cycle"), DType::I64, largest);
        self.moving.push(Moving { name, cycles: course.cycles.into(), table, buffer });
        buffer
    }

    /// Computes them at the start of a step. After the end of a run, its last phase stays.
    pub(super) fn emit(&self, kx: &mut Kx, clock: Clock) {
        for moving in &self.moving {
            let all = moving.cycles * PHASES as i64;
            let (step, steps) = (kx.scalar(clock.step), kx.scalar(clock.steps));
            let one = kx.int(1);
            let steps = kx.max(steps, one);
            // Division is to nearest: that of (2a − b + 1)/2b is a/b downwards, so that cycles begin on time.
            let twice = kx.int(2 * all);
            let position = kx.mul(step, twice);
            let position = kx.sub(position, steps);
            let position = kx.add(position, one);
            let steps = kx.add(steps, steps);
            let position = kx.div(position, steps);
            let position = kx.clamp(position, 0, (all - 1) as i32);
            let mask = kx.int(PHASES as i64 - 1);
            let phase = kx.and(position, mask);
            let table = kx.read(moving.table);
            let largest = kx.load_at(table, phase);
            let to = kx.write(moving.buffer);
            kx.store(to.at(0), largest);
        }
    }
}

impl Levels {
    /// Levels of which all are in force.
    pub(super) fn all(lo: i32, hi: i32) -> Levels {
        Levels { lo, hi, in_force: None }
    }

    /// Bits that they have less than 8.
    pub(super) fn headroom(self) -> u8 {
        (255 / self.hi.max(1)).ilog2() as u8
    }

    /// The code of zero.
    fn zero(self) -> i32 {
        if self.lo > 0 { (self.lo + self.hi) / 2 } else { 0 }
    }

    /// The lowest code in force, an Int.
    pub(super) fn lowest(self, kx: &mut Kx) -> Value {
        match self.in_force {
            Some(largest) if self.lo != 0 => {
                let (zero, largest) = (kx.int(self.zero().into()), kx.scalar(largest));
                kx.sub(zero, largest)
            }
            _ => kx.int(self.lo.into()),
        }
    }

    /// What lies so many codes above the highest in force, an Int.
    pub(super) fn above_highest(self, kx: &mut Kx, by: i32) -> Value {
        match self.in_force {
            Some(largest) => {
                let (zero, largest) = (kx.int((self.zero() + by).into()), kx.scalar(largest));
                kx.add(zero, largest)
            }
            None => kx.int((self.hi + by).into()),
        }
    }

    /// Steps in a range, as dyadic.
    pub(super) fn steps(self, kx: &mut Kx) -> Value {
        match self.in_force {
            Some(largest) => {
                let largest = kx.scalar(largest);
                kx.to_dyadic(largest)
            }
            None => kx.real(f64::from(self.hi - self.zero())),
        }
    }

    /// The largest distance of a code from that of zero, as Int.
    pub(super) fn largest(self, kx: &mut Kx) -> Value {
        match self.in_force {
            Some(largest) => kx.scalar(largest),
            None => kx.int((self.hi - self.zero()).into()),
        }
    }

    /// The ends as lanes, to be loaded outside of loops; `None` if they are constants.
    pub(super) fn prepare(self, kx: &mut Kx, dtype: DType) -> Option<(Value, Value)> {
        self.in_force?;
        let (lo, hi) = (self.lowest(kx), self.above_highest(kx, 0));
        Some((kx.splat(dtype, lo), kx.splat(dtype, hi)))
    }

    /// Lanes within the ends that were prepared.
    pub(super) fn clamp(self, kx: &mut Kx, v: Value, prepared: Option<(Value, Value)>) -> Value {
        match prepared {
            Some((lo, hi)) => {
                let v = kx.min(v, hi);
                kx.max(v, lo)
            }
            None => kx.clamp(v, self.lo, self.hi),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::kernel::interp::{Memory, run};
    use crate::kernel::verify;
    use crate::lower::begin;

    /// A course that names every phase apart: 2 to 8 bits in turn.
    fn course(cycles: u32) -> Course {
        Course { cycles, bits: (0..PHASES as u32).map(|phase| 2 + phase % 7).collect() }
    }

    /// What the kernel computes in a run of `steps`, at each of `at`: for signed codes and others.
    fn computed(course: &Course, steps: i64, at: &[i64]) -> Vec<[i64; 2]> {
        let (mut cx, mut in_force) = (Cx::new(), InForce::default());
        let clock = begin::clock(&mut cx);
        let buffers = [true, false].map(|signed| in_force.get(&mut cx, course, 8, signed));
        assert_eq!(buffers[0], in_force.get(&mut cx, course, 8, true), "one for all codes of a form");
        cx.call("begin", 1, |kx| in_force.emit(kx, clock));
        let (program, _) = cx.finish();
        verify::program(&program).unwrap();
        let mut memory = Memory::new(&program);
        memory.write(&program, clock.steps, &[steps]);
        let one = |&step: &i64| {
            memory.write(&program, clock.step, &[step]);
            run(&program, &mut memory).unwrap();
            buffers.map(|buffer| memory.read(&program, buffer)[0])
        };
        at.iter().map(one).collect()
    }

    #[test]
    fn the_kernel_reads_the_phase_of_each_step() {
        for (cycles, steps) in [(1, 1), (1, 7), (3, 1000), (32, 23_400), (1024, 3_000_000), (5, 1 << 40)] {
            let course = course(cycles);
            let at: Vec<i64> = (0..200).map(|i| i * (steps - 1) / 199).collect();
            for (step, found) in at.iter().zip(computed(&course, steps, &at)) {
                let place = *step as i128 * i128::from(cycles) * PHASES as i128 / steps as i128;
                let bits = course.bits[place as usize % PHASES];
                assert_eq!(found, [(1 << (bits - 1)) - 1, (1 << bits) - 1], "{cycles}: {step} of {steps}");
            }
        }
    }

    #[test]
    fn steps_after_the_end_keep_the_last_phase() {
        let course = course(4);
        let last = 2 + (PHASES as u32 - 1) % 7;
        for found in computed(&course, 100, &[100, 101, 5000, 1 << 40]) {
            assert_eq!(found, [(1 << (last - 1)) - 1, (1 << last) - 1]);
        }
    }
}
