//! The training IR: what a model means, as SSA over real-valued tensors with quantizers explicit.
//!
//! One straight-line list of nodes; no regions, no control flow. A module prints and parses back to the same module at
//! every stage ([`print`](mod@print), [`parse`]); [`verify`] runs after every pass. Integers, layouts and kernels are unknown here.

pub mod canonical;
pub mod parse;
pub mod paths;
pub mod print;
pub mod verify;

use std::collections::BTreeMap;

use crate::diag::Span;
pub use crate::types::{Attr, Attrs, Role};

/// How far a module has come; passes say which stage they need and which they give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// As elaborated from the model file: the forward computation and the loss.
    Forward,
    /// With gradients and updates.
    Training,
    /// With gradient quantizers.
    Quantized,
    /// With groups.
    Fused,
    /// With bit-widths chosen.
    Bits,
}

impl Stage {
    /// All stages in order.
    pub const ALL: [Stage; 5] =
        [Stage::Forward, Stage::Training, Stage::Quantized, Stage::Fused, Stage::Bits];

    /// Its word in the text and in `dump --stage`.
    pub fn word(self) -> &'static str {
        match self {
            Stage::Forward => "forward",
            Stage::Training => "training",
            Stage::Quantized => "quantized",
            Stage::Fused => "fused",
            Stage::Bits => "bits",
        }
    }
}

/// An SSA value, numbered in definition order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub u32);

/// A group: nodes that lower together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// What a tensor's numbers are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// Real numbers.
    Real,
    /// Class numbers.
    Label,
    /// Real numbers on the grid of a scheme.
    Quantized(String),
}

/// Type of a value. Images are `[batch, height, width, channels]`, vectors `[batch, features]`, convolution weights
/// `[out channels, kernel height, kernel width, in channels]`, linear weights `[out, in]`, per-channel parameters `[channels]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// What the numbers are.
    pub element: Element,
    /// Extents, outermost first; the scalar has none.
    pub shape: Vec<u64>,
}

impl TensorType {
    /// A real tensor.
    pub fn real(shape: impl Into<Vec<u64>>) -> TensorType {
        TensorType { element: Element::Real, shape: shape.into() }
    }

    /// Number of elements, or `None` beyond 2^63.
    pub fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).filter(|&n| n < 1 << 63)
    }
}

/// A way to quantize: a quantizer with its parameters. The meaning is the quantizer's (`quant/`).
#[derive(Clone, Debug, PartialEq)]
pub struct Scheme {
    /// Name of the quantizer in `quant::ALL`.
    pub quantizer: String,
    /// All its parameters; `bits` is among them.
    pub params: Attrs,
}

/// Which layers a rule speaks of. A layer is named by its path; an activation belongs to the layer that computes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layers {
    /// Every layer.
    All,
    /// The first contraction of the model (for activations: what it reads).
    First,
    /// The last contraction of the model (for activations: what it reads).
    Last,
    /// The contraction that gives the logits.
    Logits,
    /// The layer of this path and all layers inside it; `*` stands for any letters of one component.
    Path(String),
}

/// Which scheme quantizes what. Of the rules that match, the narrowest holds, and of those the last.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// What is quantized.
    pub target: Role,
    /// Where.
    pub layers: Layers,
    /// Name of the scheme; `None` leaves it real.
    pub scheme: Option<String>,
}

/// Which rectifier batch norms have; precedence as for [`Rule`].
#[derive(Clone, Debug, PartialEq)]
pub struct Rectification {
    /// Where.
    pub layers: Layers,
    /// Name of the rectifier in `rectify::ALL`.
    pub rectifier: String,
    /// All its parameters.
    pub params: Attrs,
}

/// How a parameter starts.
#[derive(Clone, Debug, PartialEq)]
pub enum Init {
    /// Normal with standard deviation √(2 / fan), fan = fan-out of a convolution (He et al. 2015).
    HeNormal {
        /// Fan-out.
        fan: u64,
    },
    /// Uniform in ±1/√fan-in.
    Uniform {
        /// Fan-in.
        fan: u64,
    },
    /// A constant.
    Constant(f64),
}

/// A trained parameter.
#[derive(Clone, Debug, PartialEq)]
pub struct Param {
    /// Layer path and slot: `basic2.conv1.weight`.
    pub name: String,
    /// Type; real.
    pub ty: TensorType,
    /// Start.
    pub init: Init,
    /// The value that holds it in the body.
    pub value: Value,
    /// The derivative of the loss by it, once there is one.
    pub gradient: Option<Value>,
}

/// One use of an op.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name of the op in `ops::ALL`.
    pub op: String,
    /// Operands.
    pub operands: Vec<Value>,
    /// All attributes; there are no defaults in a module.
    pub attrs: Attrs,
    /// Results; their types are in `Module::types`.
    pub results: Vec<Value>,
    /// Layer path: `basic2.conv1`. Gradient nodes carry the path of their primal.
    pub path: String,
    /// Group, if any. Nodes of a group are contiguous.
    pub group: Option<GroupId>,
    /// Place in the model file; not part of equality of text.
    pub span: Option<Span>,
}

/// How to train, as data. Every field has been checked by `elaborate`.
#[derive(Clone, Debug, PartialEq)]
pub struct Training {
    /// Passes over the data.
    pub epochs: u32,
    /// Images a step.
    pub batch: u32,
    /// Seed of initialization, shuffling, augmentation and rounding.
    pub seed: u64,
    /// Optimizer and its arguments: `sgd` with `lr`, `momentum`, `weight_decay`.
    pub optimizer: (String, Attrs),
    /// Schedule and its arguments: `constant`, `step`, `cosine`, `one_cycle`; `warmup` in epochs.
    pub schedule: (String, Attrs),
    /// Policy of the bits in force and its arguments: a row of `bits::ALL`.
    pub precision: (String, Attrs),
    /// Augmentations in order, with arguments: `pad_crop(pixels, mode)`, `flip`.
    pub augment: Vec<(String, Attrs)>,
}

impl Training {
    /// The policy that keeps to the widths of the rules; texts do not state it.
    pub const FIXED: &'static str = "fixed";
}

/// A module.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// The model's name.
    pub name: String,
    /// How far it has come.
    pub stage: Stage,
    /// How to train.
    pub training: Training,
    /// Number of classes.
    pub classes: u32,
    /// Schemes by name.
    pub schemes: BTreeMap<String, Scheme>,
    /// Which scheme quantizes what.
    pub rules: Vec<Rule>,
    /// How batch norms are rectified.
    pub rectify: Vec<Rectification>,
    /// The image input: `[batch, height, width, channels]`, real (pixel − mean pixel, in units of 1/64).
    pub image: Value,
    /// The label input: `[batch]`.
    pub labels: Value,
    /// Parameters in definition order.
    pub params: Vec<Param>,
    /// Type of every value, by number.
    pub types: Vec<TensorType>,
    /// Nodes in order.
    pub nodes: Vec<Node>,
    /// Names of the groups.
    pub groups: Vec<String>,
    /// The loss (a scalar), and the logits `[batch, classes]`.
    pub loss: Value,
    /// The logits.
    pub logits: Value,
}

impl Module {
    /// A module without nodes. The loss and the logits are to be set.
    pub fn new(name: impl Into<String>, training: Training, classes: u32, image: [u64; 3]) -> Module {
        let batch = u64::from(training.batch);
        let labels = TensorType { element: Element::Label, shape: vec![batch] };
        Module {
            name: name.into(),
            stage: Stage::Forward,
            training,
            classes,
            schemes: BTreeMap::new(),
            rules: vec![],
            rectify: vec![],
            image: Value(0),
            labels: Value(1),
            params: vec![],
            types: vec![TensorType::real([batch, image[0], image[1], image[2]]), labels],
            nodes: vec![],
            groups: vec![],
            loss: Value(0),
            logits: Value(0),
        }
    }

    /// The type of a value.
    pub fn ty(&self, value: Value) -> &TensorType {
        &self.types[value.0 as usize]
    }

    /// A new value of a type.
    pub fn value(&mut self, ty: TensorType) -> Value {
        self.types.push(ty);
        Value(self.types.len() as u32 - 1)
    }

    /// A new parameter `<path>.<slot>`.
    pub fn param(&mut self, path: &str, slot: &str, ty: TensorType, init: Init) -> Value {
        let value = self.value(ty.clone());
        self.params.push(Param { name: format!("{path}.{slot}"), ty, init, value, gradient: None });
        value
    }

    /// The node that defines a value; `None` for inputs and parameters.
    pub fn producer(&self, value: Value) -> Option<usize> {
        self.nodes.iter().position(|n| n.results.contains(&value))
    }

    /// The nodes that define values, by number: [`Module::producer`] for all values at once.
    pub fn producers(&self) -> Vec<Option<usize>> {
        let mut producers = vec![None; self.types.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for result in &node.results {
                producers[result.0 as usize] = Some(index);
            }
        }
        producers
    }

    /// The nodes that read values, by number; a node that reads a value twice is there twice.
    pub fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![vec![]; self.types.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for operand in &node.operands {
                readers[operand.0 as usize].push(index);
            }
        }
        readers
    }
}
