//! A small learner for tests of the loop: a noisy integer perceptron, written as kernels on an arena.

#![allow(unsafe_code, reason = "kernels work on a raw arena")]

use crate::data::{Dataset, Part, Shape};
use crate::program::{Artifact, DType, Metric, MetricKind, Slot, Steps};
use crate::random::{hash_key, mix64};
use crate::session::Session;
use crate::step::{Call, Kernels, OFFSET_UNIT};

pub(crate) const SHAPE: Shape = Shape { channels: 1, height: 4, width: 4 };
const PIXELS: usize = 16;
const CLASSES: usize = 3;
const BATCH: usize = 8;

/// Arguments of every call, in order.
const IMAGES: usize = 0;
const LABELS: usize = 1;
const MEAN: usize = 2;
const SEED: usize = 3;
const STEP: usize = 4;
const LOSS: usize = 5;
const PREDICTIONS: usize = 6;
const WEIGHTS: usize = 7;
const COUNTER: usize = 8;
const SCALE: usize = 9;
/// A copy of the weights that is not state, as packed weights are.
const PACKED: usize = 10;

/// The kernels; `penalty` is added to every loss.
pub(crate) struct Toy {
    pub(crate) penalty: i64,
}

struct Args(*mut u8, *const u32);

impl Args {
    /// Element `i` of an argument.
    fn at<T>(&self, arg: usize, i: usize) -> *mut T {
        // SAFETY: the artifact below places every argument, and indices stay within its extents.
        unsafe { self.0.add(*self.1.add(arg) as usize * OFFSET_UNIT).cast::<T>().add(i) }
    }

    fn get<T: Copy>(&self, arg: usize, i: usize) -> T {
        // SAFETY: as in `at`; nobody writes what an item reads.
        unsafe { *self.at(arg, i) }
    }

    fn set<T>(&self, arg: usize, i: usize, value: T) {
        // SAFETY: as in `at`; every item writes elements of its own.
        unsafe { *self.at(arg, i) = value }
    }

    fn pixel(&self, sample: usize, p: usize) -> i64 {
        self.get::<u8>(IMAGES, sample * PIXELS + p) as i64 - self.get::<u8>(MEAN, 0) as i64
    }
}

impl Kernels for Toy {
    unsafe fn run(&self, kernel: u32, arena: *mut u8, args: *const u32, first: u32, last: u32) {
        let a = Args(arena, args);
        for item in first as usize..last as usize {
            match kernel {
                0 => self.classify(&a, item),
                1 => update(&a, item),
                2 => pack(&a, item),
                _ => finish(&a),
            }
        }
    }
}

impl Toy {
    fn classify(&self, a: &Args, n: usize) {
        let score = |c: usize| -> i64 {
            (0..PIXELS).map(|p| a.pixel(n, p) * a.get::<i32>(PACKED, c * PIXELS + p) as i64).sum()
        };
        let scores = [0, 1, 2].map(score);
        let best = (0..CLASSES).max_by_key(|&c| (scores[c], CLASSES - c)).unwrap();
        let margin = scores[best] - scores[a.get::<i32>(LABELS, n) as usize];
        a.set(PREDICTIONS, n, best as i32);
        a.set(LOSS, n, margin / 64 + self.penalty);
    }
}

fn update(a: &Args, c: usize) {
    let key = hash_key(a.get::<i64>(SEED, 0) as u64, a.get::<i64>(STEP, 0) as u64, c as u64);
    for p in 0..PIXELS {
        let mut w = a.get::<i32>(WEIGHTS, c * PIXELS + p);
        for n in 0..BATCH {
            let (label, said) = (a.get::<i32>(LABELS, n) as usize, a.get::<i32>(PREDICTIONS, n) as usize);
            w += a.pixel(n, p) as i32 * ((label == c) as i32 - (said == c) as i32);
        }
        w += (mix64(key ^ p as u64) % 3) as i32 - 1;
        a.set(WEIGHTS, c * PIXELS + p, w);
    }
}

fn pack(a: &Args, c: usize) {
    for p in 0..PIXELS {
        a.set(PACKED, c * PIXELS + p, a.get::<i32>(WEIGHTS, c * PIXELS + p));
    }
}

fn finish(a: &Args) {
    a.set(STEP, 0, a.get::<i64>(STEP, 0) + 1);
    a.set(COUNTER, 0, a.get::<i64>(COUNTER, 0) + 2);
    let exponent = -(a.get::<i64>(STEP, 0) % 7);
    a.set(SCALE, 0, a.get::<i64>(SCALE, 0).min(exponent));
    a.set(SCALE, 1, a.get::<i64>(SCALE, 1).max(exponent));
}

pub(crate) fn artifact() -> Artifact {
    let mut place = 0u64;
    let mut slot = |name: &str, dtype, extents: &[u32]| {
        let slot = Slot { name: name.into(), dtype, extents: extents.into(), offset: place };
        place += slot.bytes().next_multiple_of(OFFSET_UNIT as u64);
        slot
    };
    let images = slot("images", DType::U8, &[8, 1, 4, 4]);
    let labels = slot("labels", DType::I32, &[8]);
    let mean = slot("mean", DType::U8, &[1]);
    let seed = slot("seed", DType::I64, &[1]);
    let step = slot("step", DType::I64, &[1]);
    let steps = slot("steps", DType::I64, &[1]);
    let loss = slot("loss", DType::I64, &[8]);
    let predictions = slot("predictions", DType::I32, &[8]);
    let weights = slot("fc.weight", DType::I32, &[3, 16]);
    let counter = slot("fc.saturated", DType::I64, &[1]);
    let scale = slot("fc.scale", DType::I64, &[2]);
    let packed = slot("fc.packed", DType::I32, &[3, 16]);
    let unused = slot("fc.clip", DType::Dyadic, &[5]);
    let all = [
        &images,
        &labels,
        &mean,
        &seed,
        &step,
        &loss,
        &predictions,
        &weights,
        &counter,
        &scale,
        &packed,
        &steps,
    ];
    let args = all.map(|slot| (slot.offset / OFFSET_UNIT as u64) as u32).repeat(4);
    let in_order = |calls: &[(u32, usize)]| {
        let mut steps = Steps::default();
        for &(kernel, items) in calls {
            let items = items as u32;
            let args = kernel * all.len() as u32;
            steps.push([(vec![Call { kernel, args, items }], items)]);
        }
        steps
    };
    Artifact {
        model_hash: "toy".into(),
        arena_bytes: place,
        args,
        train: in_order(&[(2, CLASSES), (0, BATCH), (1, CLASSES), (3, 1)]),
        eval: in_order(&[(2, CLASSES), (0, BATCH)]),
        eval_batch: in_order(&[(2, CLASSES), (0, BATCH)]),
        initial: vec![(weights.offset, vec![1; 8]), (unused.offset, vec![3; 40])],
        state: vec![weights.clone(), mean.clone(), seed.clone(), step.clone(), steps.clone(), unused],
        parameters: vec![weights],
        images,
        labels,
        mean,
        seed,
        step,
        steps,
        loss,
        predictions,
        metrics: vec![
            Metric { layer: "fc".into(), kind: MetricKind::SaturatedCodes, elements: 48, slot: counter },
            Metric { layer: "fc".into(), kind: MetricKind::ScaleRange, elements: 0, slot: scale },
        ],
        batch: BATCH as u32,
        classes: CLASSES as u32,
        channels: 1,
        height: 4,
        width: 4,
    }
}

pub(crate) fn session(threads: usize) -> Session {
    Session::new(artifact(), Box::new(Toy { penalty: 0 }), threads).unwrap()
}

/// Noisy stripes: the class says which rows are bright.
pub(crate) fn dataset(train: usize, test: usize) -> Dataset {
    let part = |n: usize, salt: u64| {
        let labels: Vec<u8> = (0..n).map(|i| (mix64(salt ^ i as u64) % CLASSES as u64) as u8).collect();
        let pixel = |i: usize, p: usize| {
            let noise = (mix64(salt << 20 ^ (i * PIXELS + p) as u64) % 120) as u8;
            noise + if p / 4 == labels[i] as usize { 100 } else { 0 }
        };
        let images = (0..n * PIXELS).map(|j| pixel(j / PIXELS, j % PIXELS)).collect();
        Part { images, labels: labels.clone(), source: "made".into() }
    };
    Dataset {
        name: "stripes".into(),
        shape: SHAPE,
        classes: CLASSES,
        train: part(train, 1),
        test: part(test, 2),
    }
}
