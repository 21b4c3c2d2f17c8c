//! What the compiler hands over: the calls of a step, and where in the arena the runtime reads and writes.
//!
//! Plain data without behaviour. The kernels themselves come beside it as a [`Kernels`](crate::step::Kernels), so that
//! emitted code and the interpreter run under the same loop.

use crate::error::{Error, ErrorKind, Result};
use crate::step::{Call, Chain, OFFSET_UNIT, Step};
use serde::{Deserialize, Serialize};

/// Element type of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    /// Signed 8 bits.
    I8,
    /// Unsigned 8 bits.
    U8,
    /// Signed 16 bits.
    I16,
    /// Signed 32 bits.
    I32,
    /// Signed 64 bits.
    I64,
    /// A packed dyadic, 8 bytes.
    Dyadic,
}

impl DType {
    /// Bytes of one element.
    pub fn bytes(self) -> u64 {
        match self {
            DType::I8 | DType::U8 => 1,
            DType::I16 => 2,
            DType::I32 => 4,
            DType::I64 | DType::Dyadic => 8,
        }
    }
}

/// A named buffer at its place in the arena.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Layer path and slot, unique.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extents, outermost first.
    pub extents: Vec<u32>,
    /// First byte, a multiple of [`OFFSET_UNIT`].
    pub offset: u64,
}

impl Slot {
    /// Elements.
    pub fn len(&self) -> u64 {
        self.extents.iter().map(|&n| n as u64).product()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.len() * self.dtype.bytes()
    }
}

/// What a counter counts, over the training steps since it was last reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricKind {
    /// Codes at an end of the quantizer's range, cut off or nearly. I64, one element; reset to 0.
    SaturatedCodes,
    /// Gradient codes that are zero. I64, one element; reset to 0.
    ZeroGradients,
    /// Smallest and largest [`exponent`](crate::fixed::Dyadic::exponent) of a scale. I64, two elements; reset to
    /// (1024, -1024).
    ScaleRange,
}

/// A counter of a layer, written by training steps and read and reset by the training loop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Path of the layer.
    pub layer: String,
    /// What it counts.
    pub kind: MetricKind,
    /// How many elements one step examines (0 for a scale range): what the count is a share of.
    pub elements: u64,
    /// The counter.
    pub slot: Slot,
}

/// What a step runs: calls in chains, chains in stages (see [`crate::step`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    calls: Vec<Call>,
    chains: Vec<Chain>,
    stages: Vec<u32>,
}

impl Steps {
    /// Appends a stage: chains, each of calls and a number of parts.
    pub fn push(&mut self, stage: impl IntoIterator<Item = (Vec<Call>, u32)>) {
        let before = self.chains.len();
        for (calls, parts) in stage {
            self.chains.push(Chain { calls: calls.len() as u32, parts });
            self.calls.extend(calls);
        }
        self.stages.push((self.chains.len() - before) as u32);
    }

    /// All calls, in an order in which they may run.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The number of calls of each stage.
    pub(crate) fn calls_of_stages(&self) -> impl Iterator<Item = usize> {
        let mut chains = self.chains.iter();
        let calls = move |&n: &u32| chains.by_ref().take(n as usize).map(|chain| chain.calls as usize).sum();
        self.stages.iter().map(calls)
    }

    /// What runs, with these arguments.
    pub(crate) fn step<'a>(&'a self, args: &'a [u32]) -> Step<'a> {
        Step { calls: &self.calls, chains: &self.chains, stages: &self.stages, args }
    }
}

/// A compiled training program.
///
/// All programs share the arena; `train` also advances `step` by one. Evaluation reads `images` and `labels`,
/// writes `loss` and `predictions`, and changes no state. Labels of unused samples of a batch are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Artifact {
    /// Names the model and everything that its arithmetic depends on; a checkpoint fits only the same one.
    pub model_hash: String,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Argument table of all calls: buffer offsets in units of [`OFFSET_UNIT`].
    pub args: Vec<u32>,
    /// One training step.
    pub train: Steps,
    /// Evaluation of a batch with running statistics: samples do not influence each other.
    pub eval: Steps,
    /// Evaluation of a full batch with its own statistics.
    pub eval_batch: Steps,
    /// What the arena holds at the start of a run besides zeros: offsets and bytes.
    pub initial: Vec<(u64, Vec<u8>)>,
    /// What survives steps: exactly the tensors of a checkpoint.
    pub state: Vec<Slot>,
    /// The learned parameters, a part of `state`: what a weights hash covers.
    pub parameters: Vec<Slot>,
    /// Input U8 `[batch, channels, height, width]`.
    pub images: Slot,
    /// Input I32 `[batch]`.
    pub labels: Slot,
    /// State U8 `[channels]`: the mean pixel, set from the training data at the start of a run.
    pub mean: Slot,
    /// State I64 `[1]`: the seed, set at the start of a run.
    pub seed: Slot,
    /// State I64 `[1]`: training steps done.
    pub step: Slot,
    /// State I64 `[1]`: training steps of the whole run, which the schedule is stretched over; set at the start of a run.
    pub steps: Slot,
    /// Output I64 `[batch]`: loss of each sample in nats, Q16.
    pub loss: Slot,
    /// Output I32 `[batch]`: the predicted class of each sample.
    pub predictions: Slot,
    /// Counters.
    pub metrics: Vec<Metric>,
    /// Samples in a batch.
    pub batch: u32,
    /// Classes.
    pub classes: u32,
    /// Channels of an image.
    pub channels: u32,
    /// Height of an image.
    pub height: u32,
    /// Width of an image.
    pub width: u32,
}

impl Artifact {
    /// Every slot with the dtype and the number of elements that the runtime relies on.
    fn expected_slots(&self) -> impl Iterator<Item = (&Slot, DType, u64)> {
        let batch = self.batch as u64;
        let pixels = self.channels as u64 * self.height as u64 * self.width as u64;
        let own = [
            (&self.images, DType::U8, batch * pixels),
            (&self.labels, DType::I32, batch),
            (&self.mean, DType::U8, self.channels as u64),
            (&self.seed, DType::I64, 1),
            (&self.step, DType::I64, 1),
            (&self.steps, DType::I64, 1),
            (&self.loss, DType::I64, batch),
            (&self.predictions, DType::I32, batch),
        ];
        let counters = self.metrics.iter().map(|m| {
            let n = if m.kind == MetricKind::ScaleRange { 2 } else { 1 };
            (&m.slot, DType::I64, n)
        });
        let state = self.state.iter().chain(&self.parameters).map(|s| (s, s.dtype, s.len()));
        own.into_iter().chain(counters).chain(state)
    }

    /// Checks that every slot, argument and initial value lies inside the arena, and that the slots the runtime uses
    /// have the types that it uses them with. A failure is a mistake of the compiler.
    pub fn check(&self) -> Result<()> {
        let fault = |what: String| {
            Err(Error::new(
                ErrorKind::Mismatch,
                format!("malformed program: {what}"),
                "this is a bug of the compiler",
            ))
        };
        if self.batch == 0 || self.classes == 0 {
            return fault("an empty batch or no classes".into());
        }
        for (slot, dtype, len) in self.expected_slots() {
            let end = slot.offset.checked_add(slot.bytes());
            if slot.dtype != dtype || slot.len() != len {
                return fault(format!(
                    "`{}` is {:?}{:?}, not {len} of {dtype:?}",
                    slot.name, slot.dtype, slot.extents
                ));
            }
            if slot.offset % OFFSET_UNIT as u64 != 0 || end.is_none_or(|end| end > self.arena_bytes) {
                return fault(format!(
                    "`{}` lies at {} in an arena of {}",
                    slot.name, slot.offset, self.arena_bytes
                ));
            }
        }
        let inside = |slot: &Slot| self.state.contains(slot);
        for slot in self.parameters.iter().chain([&self.mean, &self.seed, &self.step, &self.steps]) {
            if !inside(slot) {
                return fault(format!("`{}` is not state", slot.name));
            }
        }
        for (offset, bytes) in &self.initial {
            if offset.checked_add(bytes.len() as u64).is_none_or(|end| end > self.arena_bytes) {
                return fault(format!("initial bytes at {offset} in an arena of {}", self.arena_bytes));
            }
        }
        if self.args.iter().any(|&unit| unit as u64 * OFFSET_UNIT as u64 > self.arena_bytes) {
            return fault("an argument beyond the arena".into());
        }
        for steps in [&self.train, &self.eval, &self.eval_batch] {
            if steps.calls.iter().any(|call| call.args as usize > self.args.len()) {
                return fault("a call without arguments".into());
            }
            let mut calls = &steps.calls[..];
            for chain in &steps.chains {
                let (now, later) = calls.split_at(chain.calls as usize);
                if now.iter().any(|call| chain.parts == 0 || call.items % chain.parts != 0) {
                    return fault("a call whose items are no multiple of the parts of its chain".into());
                }
                calls = later;
            }
        }
        Ok(())
    }
}
