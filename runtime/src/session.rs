//! A session: a compiled program with its arena and its threads, ready to run.
//!
//! The one place where steps are started. Whoever makes a session promises by handing over kernels together with an
//! artifact that both come from the same compilation: each call of the artifact fits its kernel.

#![allow(unsafe_code, reason = "runs kernels on the arena")]

use crate::arena::Arena;
use crate::augment::Augmentation;
use crate::data::{Part, Shape};
use crate::error::Result;
use crate::fixed::div_round;
use crate::pool::Pool;
use crate::profile::{CallTime, Timed, nanoseconds};
use crate::program::{Artifact, Slot, Steps};
use crate::step::{Chain, Kernels, Workers, run_step};
use serde::{Deserialize, Serialize};
use std::ops::AddAssign;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// One of the programs of an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// A training step.
    Train,
    /// Evaluation with running statistics.
    Evaluate,
    /// Evaluation with the statistics of the batch, which must be full.
    EvaluateBatch,
}

/// Loss and hits over some samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tally {
    /// Samples.
    pub samples: u64,
    /// Samples whose class was predicted.
    pub correct: u64,
    /// Sum of the losses in nats, Q16.
    pub loss: i64,
}

impl Tally {
    /// Mean loss in nats, Q16.
    pub fn mean_loss(&self) -> i64 {
        div_round(self.loss, self.samples as i64)
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.samples += other.samples;
        self.correct += other.correct;
        self.loss = self.loss.saturating_add(other.loss);
    }
}

/// What distinguishes the images of one training epoch from the originals.
#[derive(Clone, Copy, Debug)]
pub struct Distortion {
    /// What is done.
    pub augmentation: Augmentation,
    /// Seed of the run.
    pub seed: u64,
    /// Epoch.
    pub epoch: u64,
}

/// A compiled program that can run.
pub struct Session {
    artifact: Artifact,
    kernels: Box<dyn Kernels>,
    arena: Arena,
    pool: Pool,
}

impl Session {
    /// A session on `threads` threads, with the arena in its initial state.
    pub fn new(artifact: Artifact, kernels: Box<dyn Kernels>, threads: usize) -> Result<Session> {
        artifact.check()?;
        let arena = Arena::new(artifact.arena_bytes)?;
        let mut session = Session { artifact, kernels, arena, pool: Pool::new(threads)? };
        session.write_initial();
        Ok(session)
    }

    fn write_initial(&mut self) {
        for (offset, bytes) in &self.artifact.initial {
            self.arena.bytes_mut()[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Begins a run: the initial state, with this seed, mean pixel and number of steps.
    pub fn start(&mut self, seed: u64, mean: &[u8], steps: u64) {
        self.arena.bytes_mut().fill(0);
        self.write_initial();
        self.arena.slice_mut::<i64>(&self.artifact.seed)[0] = seed as i64;
        self.arena.slice_mut::<i64>(&self.artifact.steps)[0] = steps as i64;
        self.arena.slice_mut::<u8>(&self.artifact.mean).copy_from_slice(mean);
    }

    /// What was compiled.
    pub fn artifact(&self) -> &Artifact {
        &self.artifact
    }

    /// The memory.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The memory, to change.
    pub fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// The artifact beside the memory, to change.
    pub(crate) fn parts_mut(&mut self) -> (&Artifact, &mut Arena) {
        (&self.artifact, &mut self.arena)
    }

    /// Threads in all.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Samples in a batch.
    pub fn batch(&self) -> usize {
        self.artifact.batch as usize
    }

    /// Shape of the images.
    pub fn shape(&self) -> Shape {
        let Artifact { channels, height, width, .. } = self.artifact;
        Shape { channels: channels as usize, height: height as usize, width: width as usize }
    }

    /// Training steps done since the start of the run.
    pub fn steps_done(&self) -> u64 {
        self.arena.slice::<i64>(&self.artifact.step)[0] as u64
    }

    /// Training steps of the whole run.
    pub fn steps_in_all(&self) -> u64 {
        self.arena.slice::<i64>(&self.artifact.steps)[0] as u64
    }

    /// Runs a program on what the arena holds.
    pub fn run(&mut self, mode: Mode) {
        let Session { artifact, kernels, arena, pool } = self;
        // SAFETY: these are the kernels that came with the artifact (see above).
        unsafe { execute(artifact, &**kernels, arena, pool, mode, &mut |_| ()) }
    }

    /// Runs a program like [`Session::run`], and says how long each of its calls took.
    pub fn profile(&mut self, mode: Mode) -> Vec<CallTime> {
        let Session { artifact, kernels, arena, pool } = self;
        let timed = Timed::new(&**kernels, &artifact.args);
        let mut walls = vec![];
        let mut begin = Instant::now();
        let mut after = |_| {
            let end = Instant::now();
            walls.push(nanoseconds(end - begin));
            begin = end;
        };
        // SAFETY: these are the kernels that came with the artifact (see above), under a clock.
        unsafe { execute(artifact, &timed, arena, pool, mode, &mut after) }
        timed.times(steps(artifact, mode), &walls)
    }

    /// Puts samples into the batch, at most as many as it holds. Their images are distorted if asked for; labels of
    /// unused places are 0.
    pub fn load(&mut self, part: &Part, samples: &[u32], distortion: Option<Distortion>) {
        let labels = self.arena.slice_mut::<i32>(&self.artifact.labels);
        labels.fill(0);
        for (label, &sample) in labels.iter_mut().zip(samples) {
            *label = part.labels[sample as usize] as i32;
        }
        let shape = self.shape();
        let mean = self.arena.slice::<u8>(&self.artifact.mean).to_vec();
        let places = self.arena.slice_mut::<u8>(&self.artifact.images).chunks_exact_mut(shape.bytes());
        let places: Vec<_> =
            places.zip(samples).map(|(place, &sample)| (sample as usize, Mutex::new(place))).collect();
        // A few dozen microseconds beside a step of milliseconds: not worth a thread of its own.
        let one = Chain { calls: 1, parts: places.len() as u32 };
        self.pool.split(&[one], &|_, first, last| {
            for (sample, place) in &places[first as usize..last as usize] {
                let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
                let image = part.image(*sample);
                match distortion {
                    None => place.copy_from_slice(image),
                    Some(Distortion { augmentation, seed, epoch }) => {
                        augmentation.apply(image, &mut place, shape, &mean, [seed, epoch, *sample as u64]);
                    }
                }
            }
        });
    }

    /// Loss and hits of the first `n` samples of the batch that last ran.
    pub fn tally(&self, n: usize) -> Tally {
        let loss = &self.arena.slice::<i64>(&self.artifact.loss)[..n];
        let labels = self.arena.slice::<i32>(&self.artifact.labels);
        let hits = self.predictions()[..n].iter().zip(labels).filter(|(a, b)| a == b).count();
        Tally {
            samples: n as u64,
            correct: hits as u64,
            loss: loss.iter().fold(0, |sum, &x| sum.saturating_add(x)),
        }
    }

    /// The predicted classes of the batch that last ran.
    pub fn predictions(&self) -> &[i32] {
        self.arena.slice(&self.artifact.predictions)
    }

    /// The hash of the learned parameters.
    pub fn weights_hash(&self) -> String {
        weights_hash(&self.arena, &self.artifact.parameters)
    }
}

/// A program of an artifact.
fn steps(artifact: &Artifact, mode: Mode) -> &Steps {
    match mode {
        Mode::Train => &artifact.train,
        Mode::Evaluate => &artifact.eval,
        Mode::EvaluateBatch => &artifact.eval_batch,
    }
}

/// Runs a program of an artifact, saying after each stage which it was.
///
/// # Safety
/// The artifact was checked, and the kernels come from the same compilation.
unsafe fn execute(
    artifact: &Artifact,
    kernels: &dyn Kernels,
    arena: &mut Arena,
    pool: &Pool,
    mode: Mode,
    after: &mut dyn FnMut(usize),
) {
    let step = steps(artifact, mode).step(&artifact.args);
    // SAFETY: by the contract of this function, and the arena is borrowed for the step.
    unsafe { run_step(step, kernels, arena.as_mut_ptr(), pool, after) }
}

/// BLAKE3, in hexadecimal, of the names and bytes of some slots.
pub fn weights_hash(arena: &Arena, slots: &[Slot]) -> String {
    let mut hash = blake3::Hasher::new();
    for slot in slots {
        hash.update(slot.name.as_bytes());
        hash.update(&[0]);
        hash.update(&slot.bytes().to_le_bytes());
        hash.update(arena.slot_bytes(slot));
    }
    hash.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::toy;

    #[test]
    fn a_profiled_step_is_a_step() {
        let data = toy::dataset(8, 8);
        let run = |profiled: bool| {
            let mut session = toy::session(2);
            session.start(7, &data.mean_pixel(), 10);
            session.load(&data.train, &[0, 1, 2, 3, 4, 5, 6, 7], None);
            let mut times = vec![];
            for _ in 0..3 {
                if profiled { times = session.profile(Mode::Train) } else { session.run(Mode::Train) }
            }
            (session.weights_hash(), times)
        };
        let (hash, times) = run(true);
        assert_eq!(hash, run(false).0);
        assert_eq!(times.len(), toy::artifact().train.calls().len());
        // Two threads cannot be in kernels for longer than twice the time that passed.
        assert!(times.iter().all(|time| time.busy > 0 && time.busy <= 2 * time.wall), "{times:?}");
    }
}
