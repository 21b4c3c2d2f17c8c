//! Lowering: from the training IR to a kernel program.
//!
//! A walk over the nodes in order. Values that are cheap to compute are not stored: batch norm, its gradient, biases and
//! residual adds stay affine combinations (`affine`) until a quantizer gives them a grid (`grid`, `encode`) or an
//! edge between groups stores them; a contraction stays pending until a pass reads its panel (`gather`). Grouping in
//! the training IR decides what is stored between groups, and therefore what is rounded; which kernels do the work
//! follows from what is pending and never changes a result.
//!
//! One program per [`Mode`]; they share state by name. Lowering knows no target, no thread count and no vector width.

mod affine;
mod begin;
mod codes;
mod contract;
mod cx;
mod decode;
mod depthwise;
mod encode;
mod gather;
mod grid;
mod in_force;
mod initial;
mod input;
mod layout;
mod loss;
mod metrics;
mod nodes;
mod nodes_grad;
mod norm;
mod planes;
mod pool;
mod pool_overlap;
mod quantize_activation;
mod quantize_gradient;
mod row_scales;
mod weight_gradient;
mod weights;

use std::collections::{BTreeMap, BTreeSet};

pub use cx::Initial;
pub use decode::parameter;
pub use initial::{Drawn, Start};
pub use input::IMAGE_SCALE;
pub use metrics::Metric;

use crate::bits;
use crate::diag::{Diagnostic, Span};
use crate::ir::{Module, Node, Scheme, Value};
use crate::kernel::{BufferId, Program};
use crate::quant;
use crate::types::{int, real, shape};
use codes::Zero;
use contract::Conv;
use cx::{Cx, Shape};

/// What a program is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// One training step.
    Train,
    /// Evaluation with running statistics.
    Eval,
    /// Evaluation with the statistics of the batch.
    EvalBatch,
}

/// A lowered program.
#[derive(Clone, Debug)]
pub struct Lowered {
    /// The program.
    pub program: Program,
    /// Initial contents of state and persistent buffers.
    pub initial: Initial,
    /// Names of the learned parameters' buffers, a part of the state.
    pub parameters: Vec<String>,
    /// Counters that the program keeps.
    pub metrics: Vec<Metric>,
}

/// Lowers a module. Errors are limits of this compiler, with the layer's place.
pub fn lower(module: &Module, mode: Mode) -> Result<Lowered, Diagnostic> {
    let mut lowering = Lowering::new(module, mode)?;
    for index in 0..module.nodes.len() {
        if lowering.live.contains(&index) {
            let node = &module.nodes[index];
            lowering.node(node).map_err(|error| match place(module, node) {
                Some(span) if error.labels.is_empty() => error.at(span, "in this layer"),
                _ => error,
            })?;
        }
    }
    Ok(lowering.finish())
}

/// Where a node comes from; the loss, which nobody wrote, from the layer that it reads.
fn place(module: &Module, node: &Node) -> Option<Span> {
    let read = || module.producer(*node.operands.first()?).and_then(|i| module.nodes[i].span);
    node.span.or_else(read)
}

struct Lowering<'m> {
    module: &'m Module,
    mode: Mode,
    cx: Cx,
    clock: begin::Clock,
    rate: BufferId,
    keys: begin::Keys,
    in_force: in_force::InForce,
    /// Random streams of updates lie above those of quantizers.
    next_stream: i64,
    /// Nodes that the mode needs.
    live: BTreeSet<usize>,
    /// Live readers of every value.
    readers: BTreeMap<Value, Vec<usize>>,
    values: BTreeMap<Value, nodes::Tensor>,
    /// Codes as a batch norm reads them.
    raised: BTreeMap<Value, nodes::Wide>,
    /// What gradients need of batch norms, by path.
    norms: BTreeMap<String, norm::NormState>,
    /// How a value was put on its grid: masks are computed from it. By the value before and after ReLU, and the quantizer's path.
    grids: BTreeMap<(Value, String), affine::Mask>,
    /// Geometry and weights of contractions, by layer path.
    layers: BTreeMap<String, nodes::Layer>,
    /// What the shifts of data gradients follow.
    shifts: BTreeMap<BufferId, nodes_grad::Followed>,
    parameters: Vec<String>,
    metrics: Vec<Metric>,
}

impl<'m> Lowering<'m> {
    fn new(module: &'m Module, mode: Mode) -> Result<Lowering<'m>, Diagnostic> {
        let live = live_nodes(module, mode);
        let mut readers: BTreeMap<Value, Vec<usize>> = BTreeMap::new();
        for &i in &live {
            for &operand in &module.nodes[i].operands {
                readers.entry(operand).or_default().push(i);
            }
        }
        let mut cx = Cx::new();
        let clock = begin::clock(&mut cx);
        let rate = begin::rate(&mut cx);
        let mut lowering = Lowering {
            module,
            mode,
            cx,
            clock,
            rate,
            keys: begin::Keys::default(),
            in_force: in_force::InForce::default(),
            next_stream: 1 << 20,
            live,
            readers,
            values: BTreeMap::new(),
            raised: BTreeMap::new(),
            norms: BTreeMap::new(),
            grids: BTreeMap::new(),
            layers: BTreeMap::new(),
            shifts: BTreeMap::new(),
            parameters: vec![],
            metrics: vec![],
        };
        lowering.image()?;
        Ok(lowering)
    }

    /// The copies of the image that its consumers read.
    fn image(&mut self) -> Result<(), Diagnostic> {
        let shape = shape_of(self.module, self.module.image)?;
        if shape.c > input::IMAGE_CHANNELS {
            let message = format!("images have up to {} channels, not {}", input::IMAGE_CHANNELS, shape.c);
            return Err(Diagnostic::new("E0503", message).help("use 1 to 4 channels"));
        }
        let image = input::declare(&mut self.cx, shape);
        let demand = self.demand(self.module.image)?;
        let codes = input::codes(&mut self.cx, shape, image, demand.padding, &demand.planes);
        self.values.insert(self.module.image, nodes::Tensor::Codes(codes));
        Ok(())
    }

    fn finish(mut self) -> Lowered {
        if self.mode == Mode::Train {
            begin::end(&mut self.cx, self.clock);
            let training = &self.module.training;
            begin::begin(&mut self.cx, self.clock, &self.keys, &self.in_force, self.rate, training);
        }
        let (mut program, initial) = self.cx.finish();
        if self.mode == Mode::Train {
            begin::first_call(&mut program);
        }
        Lowered { program, initial, parameters: self.parameters, metrics: self.metrics }
    }

    /// The largest code in force of a scheme's codes; `None` if all are.
    fn in_force(&mut self, scheme: &Scheme, signed: bool) -> Option<BufferId> {
        let course = bits::course(&self.module.training, scheme).filter(|_| self.mode == Mode::Train)?;
        Some(self.in_force.get(&mut self.cx, &course, quant::bits(&scheme.params), signed))
    }

    /// Which layouts the live consumers of an activation read, through views.
    fn demand(&self, value: Value) -> Result<Demand, Diagnostic> {
        let mut demand = Demand::default();
        for &reader in self.readers.get(&value).into_iter().flatten() {
            let node = &self.module.nodes[reader];
            match node.op.as_str() {
                "reshape" => demand.join(&self.demand(node.results[0])?),
                "max_pool" => demand.padding = demand.padding.max(int(&node.attrs, "padding") as u32),
                "conv2d" | "depthwise_conv2d" if node.operands[0] == value => {
                    let conv = self.conv(node, 0)?;
                    demand.padding = demand.padding.max(conv.padding);
                }
                "conv2d_grad_weight" => {
                    let conv = self.conv(node, 0)?;
                    if !conv.whole {
                        let padding = demand.planes.entry(conv.stride).or_default();
                        *padding = (*padding).max(conv.padding);
                    }
                }
                _ => {}
            }
        }
        Ok(demand)
    }

    /// The geometry of a contraction node whose input is operand `x` (of a weight gradient also), or of its gradient.
    fn conv(&self, node: &Node, x: usize) -> Result<Conv, Diagnostic> {
        let m = self.module;
        let linear = node.op.starts_with("linear");
        if linear {
            let input = self.features(node.operands[x])?;
            let outputs = match node.op.as_str() {
                "linear" => m.ty(node.results[0]).shape[1],
                _ => m.ty(node.operands[1]).shape[1],
            };
            let output = Shape { n: input.n, h: 1, w: 1, c: narrow(outputs)? };
            let kernel = (input.h, input.w);
            let (stride, padding) = (1, 0);
            return limited(Conv { input, output, kernel, stride, padding, whole: true, depthwise: false });
        }
        let input = shape_of(m, node.operands[x])?;
        let (output, kernel) = match node.op.as_str() {
            "conv2d" | "depthwise_conv2d" => {
                (shape_of(m, node.results[0])?, m.ty(node.operands[1]).shape.clone())
            }
            _ => (shape_of(m, node.operands[1])?, shape(&node.attrs, "shape")),
        };
        let kernel = (narrow(kernel[1])?, narrow(kernel[2])?);
        let (stride, padding) = (int(&node.attrs, "stride") as u32, int(&node.attrs, "padding") as u32);
        let depthwise = node.op.starts_with("depthwise");
        let whole = kernel == (input.h, input.w) && padding == 0 && !depthwise;
        let stride = if whole { 1 } else { stride };
        limited(Conv { input, output, kernel, stride, padding, whole, depthwise })
    }

    /// The image shape behind a vector that is a reshaped image, else one pixel.
    fn features(&self, value: Value) -> Result<Shape, Diagnostic> {
        let m = self.module;
        if let Some(node) = m.producer(value).map(|i| &m.nodes[i])
            && node.op == "reshape"
        {
            return self.features(node.operands[0]);
        }
        shape_of(m, value)
    }
}

/// Layouts of an activation that somebody reads.
#[derive(Clone, Debug, Default)]
struct Demand {
    padding: u32,
    /// Planes by stride, with their padding.
    planes: BTreeMap<u32, u32>,
}

impl Demand {
    fn join(&mut self, other: &Demand) {
        self.padding = self.padding.max(other.padding);
        for (&stride, &padding) in &other.planes {
            let own = self.planes.entry(stride).or_default();
            *own = (*own).max(padding);
        }
    }
}

/// Nodes that a mode needs: all that training keeps, or what loss and logits depend on.
fn live_nodes(module: &Module, mode: Mode) -> BTreeSet<usize> {
    if mode == Mode::Train {
        return (0..module.nodes.len()).collect();
    }
    let mut wanted = BTreeSet::from([module.loss, module.logits]);
    let mut live = BTreeSet::new();
    for (i, node) in module.nodes.iter().enumerate().rev() {
        if node.results.iter().any(|r| wanted.contains(r)) {
            live.insert(i);
            wanted.extend(&node.operands);
        }
    }
    live
}

/// Extents as an image tensor.
fn shape_of(module: &Module, value: Value) -> Result<Shape, Diagnostic> {
    let dims = module.ty(value).shape.iter().map(|&d| narrow(d)).collect::<Result<Vec<u32>, _>>()?;
    let shape = match dims[..] {
        [n, h, w, c] => Shape { n, h, w, c },
        [n, c] => Shape { n, h: 1, w: 1, c },
        _ => {
            let message = format!("a tensor of {} dimensions has no layout here", dims.len());
            return Err(Diagnostic::new("E0503", message));
        }
    };
    addressable(shape, 0)?;
    Ok(shape)
}

/// Elements at most that a layout adds behind its tensor.
const SLACK: u64 = 1 << 10;

/// Whether a tensor with a border of so many pixels on every side can be laid out: places in a buffer have 32 bits.
fn addressable(shape: Shape, border: u32) -> Result<(), Diagnostic> {
    let bordered = |extent: u32| u64::from(extent) + 2 * u64::from(border);
    let extents = [shape.n.into(), bordered(shape.h), bordered(shape.w), shape.cp().into()];
    match extents.into_iter().try_fold(1u64, u64::checked_mul) {
        Some(elements) if elements < (1 << 32) - SLACK => Ok(()),
        _ => {
            let [n, h, w, c] = extents;
            let message = format!("a tensor of {n}x{h}x{w}x{c}, with its border, is more than 2^32 elements");
            Err(Diagnostic::new("E0503", message).help("use a smaller layer, image or batch"))
        }
    }
}

fn narrow(extent: u64) -> Result<u32, Diagnostic> {
    u32::try_from(extent).ok().filter(|&e| e < 1 << 28).ok_or_else(|| {
        Diagnostic::new("E0503", format!("an extent of {extent} is more than this compiler lays out"))
            .help("use a smaller layer, image or batch")
    })
}

/// A contraction whose weights are not too many: programs bring their start along.
fn limited(conv: Conv) -> Result<Conv, Diagnostic> {
    let border = conv.kernel.0.max(conv.kernel.1).max(conv.padding);
    if !conv.whole {
        addressable(conv.input, border)?;
        addressable(conv.output, border)?;
    }
    let weights = [conv.kernel.0, conv.kernel.1, conv.depth(), conv.output.c].map(u64::from);
    match weights.into_iter().try_fold(1u64, u64::checked_mul) {
        Some(count) if count <= 1 << 28 => Ok(conv),
        _ => Err(Diagnostic::new(
            "E0503",
            "a layer of more than 2^28 weights is more than this compiler lays out",
        )
        .help("use fewer channels or features, or pool before a linear layer")),
    }
}

/// Attributes with a default.
fn real_or(attrs: &crate::ir::Attrs, name: &str, default: f64) -> f64 {
    attrs.get(name).map_or(default, |_| real(attrs, name))
}

/// The constant zero code, where there is one.
fn zero_code(zero: &Zero) -> i32 {
    match *zero {
        Zero::Code(z) => z,
        Zero::Image(_) => 0,
    }
}
