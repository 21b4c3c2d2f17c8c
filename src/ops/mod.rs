//! Ops: what a layer computes, and its derivative. One file and one table line each.
//!
//! An op's file answers every question that passes have about it, and they never ask for names; `lower` says how it becomes
//! kernels. Ops know nothing of
//! each other's files; a derivative names the gradient ops that it appends. What several have in common is in `contraction`,
//! `pool`, `shapes` and `window`.

mod add;
mod avg_pool;
mod avg_pool_grad;
mod batch_norm;
mod batch_norm_grad;
mod bias_grad;
mod contraction;
mod conv2d;
mod conv2d_grad_input;
mod conv2d_grad_weight;
mod depthwise_conv2d;
mod depthwise_conv2d_grad_input;
mod depthwise_conv2d_grad_weight;
mod global_avg_pool;
mod global_avg_pool_grad;
mod linear;
mod linear_grad_input;
mod linear_grad_weight;
mod max_pool;
mod max_pool_grad;
mod pool;
mod quantize;
mod quantize_grad;
mod relu;
mod relu_grad;
mod reshape;
pub mod rules;
pub mod sgd_update;
mod shapes;
mod softmax_cross_entropy;
mod softmax_cross_entropy_grad;
pub mod verify;
pub mod window;

use std::collections::BTreeMap;

use crate::diag::{Diagnostic, Span};
use crate::ir::{Attr, Attrs, Module, Node, Role, Scheme, TensorType, Value};
use crate::quant::Quantization;
pub use crate::tensor::Tensor;
use crate::types::{ParamSpec, conform, defaults};

/// The place of an op in the patterns that quantization and fusion look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// A sum of products of an activation and a weight.
    Contraction,
    /// A normalization per channel.
    Norm,
    /// A sum of two tensors.
    Sum,
    /// An activation function.
    Activation,
    /// A quantizer.
    Quantizer,
    /// The derivative of a contraction by its operands.
    ContractionGrad,
    /// The derivative of a normalization.
    NormGrad,
    /// An elementwise factor of a gradient: the derivative of an activation function or of a clip.
    Mask,
    /// Anything else.
    Other,
}

impl Part {
    /// Order of what may follow a contraction in registers, before anything is stored.
    pub fn epilogue_rank(self) -> Option<u8> {
        match self {
            Part::Contraction => Some(0),
            Part::Norm => Some(1),
            Part::Sum => Some(2),
            Part::Activation => Some(3),
            _ => None,
        }
    }
}

/// In which form an op reads an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// As codes: the operand is on a grid.
    Codes {
        /// Which quantizer makes them.
        role: Role,
        /// Whether a scale per channel factors out of what the op computes.
        per_channel: bool,
    },
    /// As it comes: codes, or what the chain after a contraction has in registers.
    Wide,
    /// As a real number: a parameter per channel, a gradient, labels.
    Real,
}

/// What the evaluation of a node needs beside its operands.
#[derive(Clone, Copy)]
pub struct Eval<'a> {
    /// The schemes of the module.
    pub schemes: &'a BTreeMap<String, Scheme>,
    /// The node.
    pub node: &'a Node,
    /// Ranges and random bits of quantizers.
    pub quantization: &'a dyn Quantization,
}

/// Operands and attributes on which an op is tested.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Types of the operands.
    pub operands: Vec<TensorType>,
    /// Attributes.
    pub attrs: Attrs,
}

/// An op of the training IR.
pub trait Op: Sync {
    /// Its name in the IR.
    fn name(&self) -> &'static str;

    /// One line for `fqtc list` and `fqtc explain`.
    fn doc(&self) -> &'static str;

    /// Its attributes.
    fn attrs(&self) -> &'static [ParamSpec] {
        &[]
    }

    /// Checks attributes. Ops whose attributes depend on each other refine this.
    fn check_attrs(&self, attrs: &Attrs) -> Result<(), Diagnostic> {
        conform(self.name(), self.attrs(), attrs)
    }

    /// Result types from operand types and checked attributes; the error says both sides of a mismatch.
    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic>;

    /// The real-valued meaning.
    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor>;

    /// Appends the gradient of `node` to `module`: from the cotangents of the results (None: zero) those of the
    /// operands (None: not differentiable or zero). Source of each formula in the op's file.
    fn vjp(&self, _module: &mut Module, node: &Node, _cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        vec![None; node.operands.len()]
    }

    /// Its place in patterns.
    fn part(&self) -> Part {
        Part::Other
    }

    /// How it reads an operand.
    fn reads(&self, operand: usize) -> Read;

    /// Whether the result lies on the grid of operand 0 because it only moves or selects elements.
    fn keeps_grid(&self) -> bool {
        false
    }

    /// Whether no result can be negative, given which operands cannot.
    fn nonnegative(&self, _operands: &[bool]) -> bool {
        false
    }

    /// Whether it changes state, so that it is live without readers.
    fn has_effect(&self) -> bool {
        false
    }

    /// The layer of the language that it implements.
    fn layer(&self) -> Option<&'static dyn Layer> {
        None
    }

    /// Operands and attributes on which every op is tested; gradient ops are tested through their primals.
    fn samples(&self) -> Vec<Sample> {
        vec![]
    }
}

/// A layer of the language: arguments, and the nodes and parameters that it stands for.
pub trait Layer: Sync {
    /// Its name in model files.
    fn name(&self) -> &'static str;

    /// One line for `fqtc list`.
    fn doc(&self) -> &'static str;

    /// Its arguments; positional ones bind in this order.
    fn params(&self) -> &'static [ParamSpec];

    /// How many values it takes.
    fn operands(&self) -> usize {
        1
    }

    /// Appends nodes and parameters for a layer at `path`. `operands` has [`Layer::operands`] values, and `args` conforms
    /// to [`Layer::params`]. Errors speak of shapes, with labels at this layer and at what it reads.
    fn build(
        &self,
        module: &mut Module,
        path: &str,
        operands: &[Value],
        args: &Attrs,
        span: Option<Span>,
    ) -> Result<Value, Diagnostic>;
}

/// All ops.
pub static ALL: &[&dyn Op] = &[
    &conv2d::Conv2d,
    &conv2d_grad_input::Conv2dGradInput,
    &conv2d_grad_weight::Conv2dGradWeight,
    &depthwise_conv2d::DepthwiseConv2d,
    &depthwise_conv2d_grad_input::DepthwiseConv2dGradInput,
    &depthwise_conv2d_grad_weight::DepthwiseConv2dGradWeight,
    &bias_grad::BiasGrad,
    &linear::Linear,
    &linear_grad_input::LinearGradInput,
    &linear_grad_weight::LinearGradWeight,
    &batch_norm::BatchNorm,
    &batch_norm_grad::BatchNormGrad,
    &relu::Relu,
    &relu_grad::ReluGrad,
    &add::Add,
    &max_pool::MaxPool,
    &max_pool_grad::MaxPoolGrad,
    &avg_pool::AvgPool,
    &avg_pool_grad::AvgPoolGrad,
    &global_avg_pool::GlobalAvgPool,
    &global_avg_pool_grad::GlobalAvgPoolGrad,
    &reshape::Reshape,
    &softmax_cross_entropy::SoftmaxCrossEntropy,
    &softmax_cross_entropy_grad::SoftmaxCrossEntropyGrad,
    &quantize::Quantize,
    &quantize_grad::QuantizeGrad,
    &sgd_update::SgdUpdate,
];

/// The op of a name.
pub fn find(name: &str) -> Option<&'static dyn Op> {
    ALL.iter().copied().find(|op| op.name() == name)
}

/// The op of a node in a verified module.
pub fn of(node: &Node) -> &'static dyn Op {
    find(&node.op).expect("the verifier knows every op of the module")
}

/// All layers of the language.
pub fn layers() -> impl Iterator<Item = &'static dyn Layer> {
    ALL.iter().filter_map(|op| op.layer())
}

/// Appends a node after checking its attributes and inferring its result types. The error has a label at `span` and one
/// at the node that computes each operand.
pub fn append(
    module: &mut Module,
    op: &str,
    operands: &[Value],
    attrs: Attrs,
    path: &str,
    span: Option<Span>,
) -> Result<Vec<Value>, Diagnostic> {
    let types: Vec<&TensorType> = operands.iter().map(|&v| module.ty(v)).collect();
    let results = find(op)
        .ok_or_else(|| Diagnostic::new("I0201", format!("there is no op `{op}`")))
        .and_then(|op| op.check_attrs(&attrs).and_then(|()| op.infer(&types, &attrs)))
        .and_then(|types| types.into_iter().map(shapes::bounded).collect::<Result<Vec<_>, _>>())
        .map_err(|error| locate(module, error, operands, path, span))?;
    let results: Vec<Value> = results.into_iter().map(|ty| module.value(ty)).collect();
    module.nodes.push(Node {
        op: op.to_owned(),
        operands: operands.to_vec(),
        attrs,
        results: results.clone(),
        path: path.to_owned(),
        group: None,
        span,
    });
    Ok(results)
}

fn locate(
    module: &Module,
    mut error: Diagnostic,
    operands: &[Value],
    path: &str,
    span: Option<Span>,
) -> Diagnostic {
    if let Some(span) = span {
        error = error.at(span, format!("`{path}` is here"));
    }
    for &value in operands {
        let Some(producer) = module.producer(value).map(|index| &module.nodes[index]) else { continue };
        let shape = shapes::show(&module.ty(value).shape);
        error = match producer.span {
            Some(place) if Some(place) != span => {
                error.at(place, format!("`{}` gives {shape}", producer.path))
            }
            _ => error.note(format!("`{}` gives {shape}", producer.path)),
        };
    }
    error
}

/// Appends a gradient node of `primal`: it carries the path and the place of its primal, and is well typed because its
/// primal is.
fn append_gradient(
    module: &mut Module,
    primal: &Node,
    op: &str,
    operands: &[Value],
    attrs: impl IntoIterator<Item = (&'static str, Attr)>,
) -> Vec<Value> {
    let attrs = attrs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    append(module, op, operands, attrs, &primal.path, primal.span)
        .expect("the gradient of a well-typed node is well typed")
}

/// The attributes of a sample: the defaults of the table with these changes.
fn sample_attrs(specs: &[ParamSpec], given: &[(&str, Attr)]) -> Attrs {
    let mut attrs = defaults(specs);
    attrs.extend(given.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    attrs
}

/// A shape as an attribute.
fn shape_attr(shape: &[u64]) -> Attr {
    Attr::Ints(shape.iter().map(|&d| d as i64).collect())
}
