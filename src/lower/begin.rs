//! The first kernel of a step: random keys and the learning rate. The last one: the step counter.
//!
//! The schedule is a table of rates in Q24 over the run, interpolated in integers; its length is fixed, so that a run of
//! any number of steps reads the same program.

use super::cx::{Cx, Kx};
use crate::ir::Training;
use crate::kernel::{BufferId, DType, Program, Range};
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
    let step = cx.state("step".into(), DType::I64, &[1], Range::new(0, STEPS), || vec![0]);
    let seed = cx.state("seed".into(), DType::I64, &[1], DType::I64.range(), || vec![0]);
    let steps = cx.state("steps".into(), DType::I64, &[1], Range::new(0, STEPS), || vec![1]);
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
pub(super) fn begin(cx: &mut Cx, clock: Clock, keys: &Keys, rate: BufferId, training: &Training) {
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
    });
}

/// The table at step/steps of its length, in Q16.
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
/// `constant`; `step` divides by `1/factor` at each of `milestones` (percent of the run); `cosine` falls to zero along
/// half a cosine (Loshchilov & Hutter 2017); `one_cycle` rises to the peak at `rise` of the run and falls along half a
/// cosine (Smith 2018). `warmup` epochs rise linearly from zero before, at most a third of the run.
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
    let cosine = |x: f64| 0.5 * (1.0 + (std::f64::consts::PI * x.clamp(0.0, 1.0)).cos());
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
            let passed = match args.get("milestones") {
                Some(crate::ir::Attr::Ints(m)) => m.iter().filter(|&&m| t * 100.0 >= m as f64).count(),
                _ => [0.5, 0.75].iter().filter(|&&m| t >= m).count(),
            };
            base * factor.powi(passed as i32)
        }
        _ => base,
    }
}
