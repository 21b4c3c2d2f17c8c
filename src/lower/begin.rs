//! The first kernel of a step: random keys, the learning rate, and largest codes in force. The last one: the step counter.
//!
//! The schedule is a table of rates in Q24 over the run, interpolated in integers; its length is fixed, so that a run of
//! any number of steps reads the same program. A schedule that jumps does so along one interval of the table.

use super::cx::{Cx, Kx};
use super::in_force::InForce;
use super::initial::Start;
use crate::ir::Training;
use crate::kernel::{BufferId, DType, Program, Range};
use crate::numbers::half_cosine;
use crate::types::real;

/// What tells the time of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    pub(super) step: BufferId,
    pub(super) seed: BufferId,
    /// Steps of the whole run.
    pub(super) steps: BufferId,
}

/// Steps of a run at most.
const STEPS: i64 = 1 << 40;
/// Intervals of the schedule's table.
const INTERVALS: usize = 1023;

/// Declares the counters.
pub(super) fn clock(cx: &mut Cx) -> Clock {
    let step = cx.state("step".into(), DType::I64, &[1], Range::new(0, STEPS), Start::Each(0));
    let seed = cx.state("seed".into(), DType::I64, &[1], DType::I64.range(), Start::Each(0));
    let steps = cx.state("steps".into(), DType::I64, &[1], Range::new(0, STEPS), Start::Each(1));
    Clock { step, seed, steps }
}

/// Random keys by stream.
#[derive(Default)]
pub(super) struct Keys {
    keys: Vec<(i64, BufferId)>,
}

impl Keys {
    /// The key of a stream.
    pub(super) fn get(&mut self, cx: &mut Cx, stream: i64) -> BufferId {
        if let Some(&(_, key)) = self.keys.iter().find(|k| k.0 == stream) {
            return key;
        }
        let key = cx.temp(format!("key{stream}"), DType::I64, &[1], DType::I64.range());
        self.keys.push((stream, key));
        key
    }
}

/// Declares the learning rate of the step, Q24.
pub(super) fn rate(cx: &mut Cx) -> BufferId {
    cx.temp("rate".into(), DType::I64, &[1], Range::new(0, 1 << 31))
}

/// Appends the first kernel; [`first_call`] moves it to the front.
pub(super) fn begin(
    cx: &mut Cx,
    clock: Clock,
    keys: &Keys,
    in_force: &InForce,
    rate: BufferId,
    training: &Training,
) {
    let rates: Vec<i64> = (0..=INTERVALS + 1)
        .map(|i| {
            let lr = learning_rate(training, i.min(INTERVALS) as f64 / INTERVALS as f64);
            ((lr * (1 << 24) as f64).round() as i64).clamp(0, 1 << 31)
        })
        .collect();
    let table = cx.table("schedule".into(), DType::I64, rates);
    cx.call("begin", 1, |kx| {
        let (step, seed) = (kx.scalar(clock.step), kx.scalar(clock.seed));
        for &(stream, key) in &keys.keys {
            let stream = kx.int(stream);
            let v = kx.hash_key(seed, step, stream);
            let p = kx.write(key);
            kx.store(p.at(0), v);
        }
        let v = interpolate(kx, clock, table);
        let p = kx.write(rate);
        kx.store(p.at(0), v);
        in_force.emit(kx, clock);
    });
}

/// The table at step/steps of its length, between its elements in a straight line; rates are Q24.
fn interpolate(kx: &mut Kx, clock: Clock, table: BufferId) -> crate::kernel::Value {
    let (step, steps) = (kx.scalar(clock.step), kx.scalar(clock.steps));
    let scaled = kx.int((INTERVALS as i64) << 12);
    let position = kx.mul(step, scaled);
    let one = kx.int(1);
    let steps = kx.max(steps, one);
    let position = kx.div(position, steps);
    let position = kx.clamp(position, 0, (INTERVALS as i32) << 12);
    let index = kx.shift_right(position, 12);
    let mask = kx.int(4095);
    let part = kx.and(position, mask);
    let p = kx.read(table);
    let first = kx.load_at(p, index);
    let next = kx.add(index, one);
    let second = kx.load_at(p, next);
    let rise = kx.sub(second, first);
    let rise = kx.mul(rise, part);
    let rise = kx.shift_right(rise, 12);
    let v = kx.add(first, rise);
    let (lo, hi) = (kx.int(0), kx.int(1 << 31));
    let v = kx.max(v, lo);
    kx.min(v, hi)
}

/// Appends the step counter.
pub(super) fn end(cx: &mut Cx, clock: Clock) {
    cx.call("count_step", 1, |kx| {
        let p = kx.update(clock.step);
        let v = kx.load_scalar(p.at(0));
        let one = kx.int(1);
        let v = kx.add(v, one);
        let last = kx.int(STEPS);
        let v = kx.min(v, last);
        kx.store(p.at(0), v);
    });
}

/// Moves the last call to the front: what a step begins with is known only at its end.
pub(super) fn first_call(program: &mut Program) {
    program.calls.rotate_right(1);
}

/// The learning rate at `t` of the run (0 to 1), by the schedule.
///
/// `constant`; `step` multiplies by `factor` after half and after three quarters of the run; `cosine` falls to zero
/// along half a cosine (Loshchilov & Hutter 2017); `one_cycle` rises from a twenty-fifth to the peak at `rise` of the run
/// and falls to zero, each along half a cosine (Smith 2018). `warmup` epochs rise linearly from zero before, at most a
/// third of the run.
pub(crate) fn learning_rate(training: &Training, t: f64) -> f64 {
    let base = real(&training.optimizer.1, "lr");
    let (name, args) = &training.schedule;
    let warmup = match args.get("warmup") {
        Some(_) => (real(args, "warmup") / training.epochs.max(1) as f64).min(1.0 / 3.0),
        None => 0.0,
    };
    if t < warmup {
        return base * t / warmup;
    }
    let after = if warmup < 1.0 { (t - warmup) / (1.0 - warmup) } else { 1.0 };
    let cosine = |x: f64| half_cosine(x.clamp(0.0, 1.0));
    match name.as_str() {
        "cosine" => base * cosine(after),
        "one_cycle" => {
            let rise = args.get("rise").map_or(0.3, |_| real(args, "rise"));
            if t < rise {
                base * (0.04 + 0.96 * (1.0 - cosine(t / rise)))
            } else {
                base * cosine((t - rise) / (1.0 - rise))
            }
        }
        "step" => {
            let factor = args.get("factor").map_or(0.1, |_| real(args, "factor"));
            let passed = [0.5, 0.75].iter().filter(|&&milestone| t >= milestone);
            passed.fold(base, |rate, _| rate * factor)
        }
        _ => base,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::ir::{Attr, Attrs};
    use crate::kernel::interp::{Memory, run};
    use crate::kernel::verify;

    fn training(schedule: &str, args: &[(&str, f64)]) -> Training {
        let attrs = |args: &[(&str, f64)]| -> Attrs {
            args.iter().map(|&(name, v)| (name.to_owned(), Attr::Real(v))).collect()
        };
        Training {
            epochs: 20,
            batch: 1,
            seed: 0,
            optimizer: ("sgd".into(), attrs(&[("lr", 0.1)])),
            schedule: (schedule.into(), attrs(args)),
            precision: (Training::FIXED.into(), Attrs::new()),
            augment: vec![],
        }
    }

    fn schedules() -> Vec<Training> {
        vec![
            training("constant", &[("warmup", 0.0)]),
            training("constant", &[("warmup", 4.0)]),
            training("step", &[("factor", 0.2), ("warmup", 0.0)]),
            training("cosine", &[("warmup", 5.0)]),
            training("cosine", &[("warmup", 100.0)]),
            training("one_cycle", &[("rise", 0.4)]),
        ]
    }

    fn close(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-9, "{found} instead of {wanted}");
    }

    #[test]
    fn schedules_have_their_published_shapes() {
        let [constant, warm, step, cosine, late, cycle] = schedules().try_into().unwrap();
        for t in [0.0, 0.3, 1.0] {
            close(learning_rate(&constant, t), 0.1);
        }
        for (t, rate) in [(0.0, 0.0), (0.1, 0.05), (0.2, 0.1), (0.9, 0.1)] {
            close(learning_rate(&warm, t), rate);
        }
        for (t, rate) in [(0.0, 0.1), (0.499, 0.1), (0.5, 0.02), (0.749, 0.02), (0.75, 0.004), (1.0, 0.004)] {
            close(learning_rate(&step, t), rate);
        }
        // Five of twenty epochs of warm-up: a quarter of the run, and the cosine over the rest.
        for (t, rate) in [(0.0, 0.0), (0.125, 0.05), (0.25, 0.1), (0.625, 0.05), (1.0, 0.0)] {
            close(learning_rate(&cosine, t), rate);
        }
        for (t, rate) in [(1.0 / 6.0, 0.05), (1.0 / 3.0, 0.1), (2.0 / 3.0, 0.05)] {
            close(learning_rate(&late, t), rate);
        }
        for (t, rate) in [(0.0, 0.004), (0.2, 0.052), (0.4, 0.1), (0.7, 0.05), (1.0, 0.0)] {
            close(learning_rate(&cycle, t), rate);
        }
    }

    /// The rates that the kernel computes in a run of `steps`, at each of `at`.
    fn computed(training: &Training, steps: i64, at: &[i64]) -> Vec<f64> {
        let mut cx = Cx::new();
        let clock = clock(&mut cx);
        let output = rate(&mut cx);
        begin(&mut cx, clock, &Keys::default(), &InForce::default(), output, training);
        let (program, _) = cx.finish();
        verify::program(&program).unwrap();
        let mut memory = Memory::new(&program);
        memory.write(&program, clock.steps, &[steps]);
        let one = |&step: &i64| {
            memory.write(&program, clock.step, &[step]);
            run(&program, &mut memory).unwrap();
            memory.read(&program, output)[0] as f64 / (1 << 24) as f64
        };
        at.iter().map(one).collect()
    }

    #[test]
    fn the_kernel_interpolates_the_schedule() {
        for training in schedules() {
            for steps in [1, 7, 1000, 3_000_000] {
                let at: Vec<i64> = (0..steps).step_by((steps / 50).max(1) as usize).collect();
                for (step, rate) in at.iter().zip(computed(&training, steps, &at)) {
                    // Between two knots of the table the rate lies between theirs, also where the schedule has a kink or jumps.
                    let near =
                        (-8..=8).map(|i| *step as f64 / steps as f64 + i as f64 / (8 * INTERVALS) as f64);
                    let near: Vec<f64> = near.map(|t| learning_rate(&training, t.clamp(0.0, 1.0))).collect();
                    let lo = near.iter().copied().fold(f64::MAX, f64::min) - 1e-5;
                    let hi = near.iter().copied().fold(f64::MIN, f64::max) + 1e-5;
                    let name = &training.schedule.0;
                    assert!(lo <= rate && rate <= hi, "{name} {step}/{steps}: {rate}, not {lo} to {hi}");
                }
            }
        }
    }

    #[test]
    fn steps_after_the_end_keep_the_last_rate() {
        for training in schedules() {
            let rates = computed(&training, 100, &[100, 101, 5000, STEPS]);
            assert!(rates.iter().all(|&rate| rate == rates[0]), "{rates:?}");
            assert!((rates[0] - learning_rate(&training, 1.0)).abs() < 1e-6);
        }
    }
}
