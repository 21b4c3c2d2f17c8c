//! One function per op: what it does to the values of the walk.

use super::affine::{Affine, Coef, Levels, Mask, Source};
use super::codes::{Codes, GradientCodes};
use super::contract::{Conv, Panel, Work};
use super::cx::{Coord, Kx, SHIFT, Shape, WIDE};
use super::depthwise;
use super::encode::{Encoding, Output, encode};
use super::gather::{Gather, Lanes, Reduced, SumFactors};
use super::grid::{Grid, Rule, Step, grid};
use super::initial::{Drawn, Start};
use super::loss::{self, Logits, Loss};
use super::norm::{self, Norm};
use super::pool::{self, Window};
use super::pool_overlap;
use super::weights::{self, Master, Weights};
use super::{Lowering, Mode, real_or, shape_of, zero_code};
use crate::diag::Diagnostic;
use crate::ir::{Init, Node, Scheme, Value};
use crate::kernel::{BufferId, DType, Range};
use crate::quant;
use crate::types::{int, real};

/// What the walk knows of a value.
#[derive(Clone, Debug)]
pub(super) enum Tensor {
    /// Activation codes.
    Codes(Codes),
    /// A contraction that nobody has read yet.
    Pending(Pending),
    /// 16-bit integers with a unit.
    Wide(Wide),
    /// A combination of 16-bit tensors.
    Affine(Affine),
    /// A gradient that is masked and not stored yet.
    Gradient(Deferred),
    /// A gradient stored as 16-bit integers.
    GradientWide(Wide),
    /// A gradient by the 16-bit steps of a batch norm's input, whose unit is beside.
    GradientAffine(Affine, BufferId),
    /// Gradient codes of a layer's accumulators.
    GradientCodes(GradientCodes),
    /// A master with its scheme: weights that a contraction will quantize.
    Scheme(Value, Scheme),
    /// Gradient of a weight: sums of codes and their unit.
    WeightGradient(BufferId, BufferId),
    /// Gradient of a per-channel parameter: dyadics.
    VectorGradient(BufferId),
    /// The loss.
    Loss(Loss),
}

impl Tensor {
    fn is_gradient(&self) -> bool {
        matches!(self, Tensor::Gradient(_) | Tensor::GradientWide(_) | Tensor::GradientAffine(..))
    }
}

/// A pending contraction of the forward pass.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) panel: Panel,
    pub(super) unit: BufferId,
    pub(super) bias: Option<BufferId>,
    pub(super) path: String,
}

/// By how much codes of 8 bits are raised to the size of 16.
const AT_EDGES: u8 = 7;

/// A stored 16-bit tensor.
#[derive(Clone, Debug)]
pub(super) struct Wide {
    pub(super) source: Source,
    pub(super) shape: Shape,
    /// One dyadic, or one a channel.
    pub(super) unit: BufferId,
    pub(super) sums: Option<Reduced>,
}

/// A gradient before it is stored: where it comes from and what it must pass.
#[derive(Clone, Debug)]
pub(super) struct Deferred {
    pub(super) from: From,
    pub(super) masks: Vec<Mask>,
    pub(super) shape: Shape,
    /// One dyadic.
    pub(super) unit: BufferId,
}

#[derive(Clone, Debug)]
pub(super) enum From {
    Panel(Panel),
    Source(Source),
    Sum(Source, Source, SumFactors),
    /// A contraction that nobody has stored, and another tensor.
    PanelSum(Panel, Source, SumFactors),
}

/// A contraction layer.
#[derive(Clone, Debug)]
pub(super) struct Layer {
    pub(super) conv: Conv,
    pub(super) weights: Weights,
    pub(super) input: Codes,
    /// Right shift of the accumulators, i64.
    pub(super) shift: BufferId,
    pub(super) master: Master,
}

pub(super) type Done = Result<(), Diagnostic>;

pub(super) fn unsupported(what: impl Into<String>) -> Diagnostic {
    Diagnostic::new("E0503", what).help("see `fqtc list ops` for what can be combined")
}

impl Lowering<'_> {
    pub(super) fn node(&mut self, node: &Node) -> Done {
        match node.op.as_str() {
            "conv2d" | "depthwise_conv2d" | "linear" => self.contraction(node),
            "batch_norm" => self.batch_norm(node),
            "relu" => self.relu(node),
            "add" => self.add(node),
            "quantize" => self.quantize(node),
            "max_pool" => self.max_pool(node),
            "avg_pool" | "global_avg_pool" => self.average(node),
            "reshape" => self.same(node),
            "softmax_cross_entropy" => self.loss(node),
            "softmax_cross_entropy_grad" => self.loss_grad(node),
            "quantize_grad" | "relu_grad" => self.mask(node),
            "batch_norm_grad" => self.batch_norm_grad(node),
            "conv2d_grad_input" | "depthwise_conv2d_grad_input" | "linear_grad_input" => {
                self.grad_input(node)
            }
            "conv2d_grad_weight" | "depthwise_conv2d_grad_weight" | "linear_grad_weight" => {
                self.grad_weight(node)
            }
            "bias_grad" => self.bias_grad(node),
            "global_avg_pool_grad" | "avg_pool_grad" | "max_pool_grad" => self.pool_grad(node),
            "sgd_update" => self.update(node),
            other => Err(unsupported(format!("op `{other}` has no integer form"))),
        }
    }

    pub(super) fn get(&self, value: Value) -> Result<&Tensor, Diagnostic> {
        self.values.get(&value).ok_or_else(|| unsupported(format!("value %{} has no integer form", value.0)))
    }

    pub(super) fn set(&mut self, node: &Node, tensor: Tensor) -> Done {
        self.values.insert(node.results[0], tensor);
        Ok(())
    }

    pub(super) fn codes(&self, value: Value, path: &str) -> Result<Codes, Diagnostic> {
        match self.get(value)? {
            Tensor::Codes(codes) => Ok(codes.clone()),
            _ => Err(unsupported(format!("`{path}` reads a tensor that is not quantized"))
                .help("quantize activations in the model, or in a recipe that it uses")),
        }
    }

    /// The master of a parameter; made at its first use.
    pub(super) fn master(&mut self, value: Value, conv: Option<&Conv>) -> Result<Master, Diagnostic> {
        let param = self.module.params.iter().find(|p| p.value == value);
        let param = param.ok_or_else(|| unsupported("an operand is not a parameter"))?;
        if !self.parameters.contains(&param.name) {
            self.parameters.push(param.name.clone());
        }
        let train = self.mode == Mode::Train;
        match conv {
            Some(conv) => {
                let (ci, taps, cop) = (conv.depth(), conv.taps(), conv.output.cp());
                let extents = [ci, taps, cop];
                let seed = self.module.training.seed;
                let fill = Start::Drawn(Drawn::new(&param.name, &param.init, conv, seed));
                let value = self.cx.state(param.name.clone(), DType::I32, &extents, weights::STATE, fill);
                let momentum = train.then(|| weights::momentum(&mut self.cx, &param.name, &extents));
                Ok(Master { value, momentum })
            }
            None => {
                let Init::Constant(start) = param.init else {
                    return Err(unsupported("a per-channel parameter starts from a constant"));
                };
                let channels = param.ty.shape.first().copied().unwrap_or(1) as u32;
                Ok(weights::vector(&mut self.cx, &param.name, channels, start, train))
            }
        }
    }

    // Forward.

    fn contraction(&mut self, node: &Node) -> Done {
        let conv = self.conv(node, 0)?;
        let input = self.codes(node.operands[0], &node.path)?;
        if conv.whole && conv.taps() > 1 && input.padding > 0 {
            let path = &node.path;
            return Err(unsupported(format!(
                "`{path}` reads the whole of a tensor that something else reads with padding"
            ))
            .help(format!("give that no padding, or put a pool or a convolution before `{path}`")));
        }
        if conv.depthwise {
            depthwise::check(&conv, &input)?;
        }
        let Some(Tensor::Scheme(param, scheme)) = self.values.get(&node.operands[1]).cloned() else {
            return Err(unsupported("weights are not quantized")
                .help("quantize weights in the model, or in a recipe that it uses"));
        };
        let master = self.master(param, Some(&conv))?;
        let path = node.path.as_str();
        let backward = self.layer_has(path, "_grad_input");
        let granule = weights::Granule {
            per_channel: quant::per_channel(&scheme.params),
            fraction: real_or(&scheme.params, "fraction", 1.0),
        };
        let in_force = self.in_force(&scheme, true);
        let levels = Levels { in_force, ..weights::levels(quant::bits(&scheme.params)) };
        let quantized = weights::quantize(&mut self.cx, path, conv, master, levels, granule, backward);
        let work = Work::forward(&mut self.cx, path, conv, &input, &quantized)?;
        let (shift, unit) = self.accumulator_unit(path, &conv, &quantized, &input);
        let bias = match node.operands.get(2) {
            Some(&bias) => Some(self.master(bias, None)?.value),
            None => None,
        };
        let panel = Panel::forward(&mut self.cx, path, conv, work, shift)?;
        let layer = Layer { conv, weights: quantized, input, shift, master };
        self.layers.insert(path.to_owned(), layer);
        self.set(node, Tensor::Pending(Pending { panel, unit, bias, path: path.to_owned() }))
    }

    fn layer_has(&self, path: &str, suffix: &str) -> bool {
        self.live.iter().map(|&i| &self.module.nodes[i]).any(|n| n.path == path && n.op.ends_with(suffix))
    }

    /// The shift of accumulators to 16 bits, from the largest norm of a channel, and the unit of the result.
    fn accumulator_unit(
        &mut self,
        path: &str,
        conv: &Conv,
        w: &Weights,
        input: &Codes,
    ) -> (BufferId, BufferId) {
        let cp = conv.output.cp();
        let shift = self.cx.temp(format!("{path}.acc_shift"), DType::I64, &[1], SHIFT);
        let largest = self.cx.temp(format!("{path}.largest_norm"), DType::I64, &[1], Range::new(0, 1 << 47));
        let unit = self.cx.dyadics(format!("{path}.unit"), cp);
        self.cx.call("accumulator_unit", 1, |kx| {
            let (n, l) = (kx.read(w.norms), kx.update(largest));
            kx.fill(l.at(0), 1, 0);
            kx.for_(cp, |kx, c| {
                let v = kx.load_scalar(n.at(0).plus(c, 1));
                kx.max_into(l.at(0), v);
            });
            let v = kx.load_scalar(l.at(0));
            let v = kx.clamp(v, 0, i32::MAX);
            let top = input.levels.largest(kx);
            let v = kx.mul(v, top);
            let s = shift_to_wide(kx, v);
            let p = kx.write(shift);
            kx.store(p.at(0), s);
            let scale = kx.scalar(input.scale);
            let u = kx.write(unit);
            kx.for_(cp, |kx, c| {
                let w = kx.per_channel(w.scale, c);
                let v = kx.mul(w, scale);
                let v = kx.scale(v, s);
                kx.store(u.at(0).plus(c, 1), v);
            });
        });
        (shift, unit)
    }

    /// A forward value as 16-bit integers, stored; with sums if a batch norm asks.
    fn wide(&mut self, value: Value, squares: bool) -> Result<Wide, Diagnostic> {
        let known = self.raised.get(&value).cloned().map(Tensor::Wide);
        let wide = match known.map_or_else(|| self.get(value).cloned(), Ok)? {
            Tensor::Wide(wide) => wide,
            Tensor::Codes(codes) => {
                // Beside those of codes of 8 bits, coefficients of a 16-bit gradient would have few.
                let raised = codes.levels.headroom() + AT_EDGES;
                let source = Source { raised, ..pool::source_of(&codes) };
                let name = format!("value{}.raised_unit", value.0);
                let unit = self.times(&name, codes.scale, 1.0 / f64::from(1u32 << raised));
                Wide { source, shape: codes.shape, unit, sums: None }
            }
            Tensor::Pending(pending) => {
                let shape = pending.panel.shape();
                let name = format!("{}.t", pending.path);
                let buffer = self.cx.temp(name, DType::I16, &shape.extents(), WIDE);
                let source = Source::dense(buffer, shape);
                let gather = Gather {
                    name: "contract",
                    path: &pending.path,
                    shape,
                    lanes: Lanes::Panel(&pending.panel),
                    masks: &[],
                    store: Some(source),
                    sums: squares,
                    squares,
                    dot: None,
                };
                let partials = gather.run(&mut self.cx);
                let sums = squares.then(|| partials.totals(&mut self.cx, &pending.path, "t", shape));
                Wide { source, shape, unit: pending.unit, sums }
            }
            _ => {
                let what =
                    "a batch norm reads a sum, or what something else reads too, that is not quantized";
                return Err(
                    unsupported(what).help("quantize activations in the model, or in a recipe that it uses")
                );
            }
        };
        if squares && wide.sums.is_none_or(|s| s.square.is_none()) {
            let path = format!("value{}", value.0);
            let gather = Gather {
                name: "reduce",
                path: &path,
                shape: wide.shape,
                lanes: Lanes::Source(wide.source),
                masks: &[],
                store: None,
                sums: true,
                squares: true,
                dot: None,
            };
            let partials = gather.run(&mut self.cx);
            let sums = partials.totals(&mut self.cx, &path, "t", wide.shape);
            return Ok(Wide { sums: Some(sums), ..wide });
        }
        Ok(wide)
    }

    /// An operand as an affine combination.
    fn affine_operand(&mut self, node: &Node, number: usize) -> Result<Affine, Diagnostic> {
        let value = node.operands[number];
        if let Tensor::Codes(codes) = self.get(value)? {
            pool::not_the_image(&node.op, codes)?;
        }
        self.not_flattened(node, value)?;
        self.affine(value)
    }

    /// Refuses a flattened image for all but linear layers: it lies in memory as an image, with padded channels.
    fn not_flattened(&self, node: &Node, value: Value) -> Done {
        let Shape { h, w, .. } = self.features(value)?;
        if self.module.ty(value).shape.len() > 2 || (h, w) == (1, 1) {
            return Ok(());
        }
        Err(unsupported(format!("`{}` reads a flattened image", node.op))
            .help(format!("put `{}` before `flatten`", node.op)))
    }

    /// What a contraction gives has a unit for each channel, and no bias but that of the batch norm behind it: neither goes
    /// together with what another reader does to it, or sends back.
    fn of_norm_alone(&self, node: &Node, value: Value) -> Done {
        let path = match self.get(value)? {
            Tensor::Pending(pending) => &pending.path,
            _ => return Ok(()),
        };
        let mut readers = self.readers.get(&value).into_iter().flatten().map(|&i| &self.module.nodes[i]);
        let Some(other) = readers.find(|reader| reader.path != node.path) else { return Ok(()) };
        let (norm, other) = (&node.path, &other.path);
        Err(unsupported(format!("`{path}` is not quantized, and is read by `{norm}` and by `{other}`"))
            .help(format!("quantize the activations of `{path}`, or let `{norm}` alone read it")))
    }

    /// A forward value as an affine combination.
    pub(super) fn affine(&mut self, value: Value) -> Result<Affine, Diagnostic> {
        match self.get(value)?.clone() {
            Tensor::Affine(affine) => Ok(affine),
            Tensor::Codes(codes) => {
                let source = Source { raised: codes.levels.headroom(), ..pool::source_of(&codes) };
                Ok(Affine::of(codes.shape, source, Coef::Step(codes.scale), None))
            }
            Tensor::Wide(wide) => {
                Ok(Affine::of(wide.shape, wide.source, Coef::Given(wide.unit), wide.sums.map(|s| s.totals)))
            }
            Tensor::Pending(pending) => {
                let wide = self.wide(value, false)?;
                let mut affine = Affine::of(wide.shape, wide.source, Coef::Given(wide.unit), None);
                affine.offset = pending.bias.map(|bias| self.bias_real(&pending.path, bias, wide.shape.cp()));
                self.values.insert(value, Tensor::Affine(affine.clone()));
                Ok(affine)
            }
            _ => Err(unsupported("a value has no affine form")),
        }
    }

    fn bias_real(&mut self, path: &str, bias: BufferId, cp: u32) -> BufferId {
        let out = self.cx.dyadics(format!("{path}.bias_real"), cp);
        let master = Master { value: bias, momentum: None };
        self.cx.call("bias", 1, |kx| {
            let p = kx.write(out);
            kx.for_(cp, |kx, c| {
                let v = weights::load_real(kx, master, c);
                kx.store(p.at(0).plus(c, 1), v);
            });
        });
        out
    }

    fn batch_norm(&mut self, node: &Node) -> Done {
        let x = node.operands[0];
        self.not_flattened(node, x)?;
        self.of_norm_alone(node, x)?;
        let norm = Norm {
            gamma: self.master(node.operands[1], None)?,
            beta: self.master(node.operands[2], None)?,
            eps: real(&node.attrs, "eps"),
            momentum: real(&node.attrs, "momentum"),
        };
        let running = self.mode == Mode::Eval;
        let wide = self.wide(x, !running)?;
        let of = (wide.shape, wide.source, wide.unit);
        let affine = match (&wide.sums, running) {
            (Some(sums), false) => {
                let train = self.mode == Mode::Train;
                let (affine, state) = norm::batch(&mut self.cx, &node.path, &norm, of, sums, train);
                self.norms.insert(node.path.clone(), state);
                affine
            }
            _ => norm::evaluate(&mut self.cx, &node.path, &norm, of),
        };
        if let Tensor::Codes(_) = self.get(x)? {
            // Others read the codes.
            self.raised.insert(x, wide);
        } else {
            self.values.insert(x, Tensor::Wide(wide));
        }
        self.set(node, Tensor::Affine(affine))?;
        self.edge(node)
    }

    fn relu(&mut self, node: &Node) -> Done {
        let mut affine = self.affine_operand(node, 0)?;
        affine.relu = true;
        self.set(node, Tensor::Affine(affine))?;
        self.edge(node)
    }

    fn add(&mut self, node: &Node) -> Done {
        if node.operands.iter().any(|v| matches!(self.get(*v), Ok(t) if t.is_gradient())) {
            return self.add_gradients(node);
        }
        let (mut a, b) = (self.affine_operand(node, 0)?, self.affine_operand(node, 1)?);
        if a.relu || b.relu || a.terms.len() + b.terms.len() > 2 {
            return Err(unsupported(
                "a sum of more than two tensors, or of rectified ones, that are not quantized",
            )
            .help("quantize activations in the model, or in a recipe that it uses"));
        }
        a.offset = match (a.offset, b.offset) {
            (Some(x), Some(y)) => Some(self.sum_of_dyadics(&node.path, x, y)),
            (x, y) => x.or(y),
        };
        a.terms.extend(b.terms);
        self.set(node, Tensor::Affine(a))?;
        self.edge(node)
    }

    fn sum_of_dyadics(&mut self, path: &str, a: BufferId, b: BufferId) -> BufferId {
        let n = self.cx.program.get(a).len() as u32;
        let out = self.cx.dyadics(format!("{path}.offset_sum"), n);
        self.cx.call("add_offsets", 1, |kx| {
            let (x, y, o) = (kx.read(a), kx.read(b), kx.write(out));
            kx.for_(n, |kx, c| {
                let (x, y) = (kx.load_scalar(x.at(0).plus(c, 1)), kx.load_scalar(y.at(0).plus(c, 1)));
                let v = kx.add(x, y);
                kx.store(o.at(0).plus(c, 1), v);
            });
        });
        out
    }

    /// Stores an affine result that a node outside of its group reads: an edge between groups is 16 bits wide.
    fn edge(&mut self, node: &Node) -> Done {
        let value = node.results[0];
        let Some(Tensor::Affine(affine)) = self.values.get(&value).cloned() else { return Ok(()) };
        let readers = self.readers.get(&value).into_iter().flatten();
        // A mask is computed from what the grid was computed from, not from this value.
        let inside = |i: &usize| {
            let reader = &self.module.nodes[*i];
            let masks = matches!(reader.op.as_str(), "relu_grad" | "quantize_grad");
            masks || (node.group.is_some() && reader.group == node.group)
        };
        // With running statistics there are no sums to bound the result with; nothing is stored then.
        if self.mode == Mode::Eval || readers.clone().all(inside) {
            return Ok(());
        }
        let wide = self.store_affine(&format!("{}.{}", node.path, node.op), &affine);
        self.values.insert(value, Tensor::Wide(wide));
        Ok(())
    }

    /// An affine value as stored 16-bit integers, by a bound on its values.
    pub(super) fn store_affine(&mut self, name: &str, affine: &Affine) -> Wide {
        let affine = &Self::raised(affine);
        let shape = affine.shape;
        let levels = Levels::all(if affine.relu { 0 } else { -32766 }, 32766);
        let rule = Rule {
            step: Step::Bound { per_channel: false, fraction: 1.0 },
            levels,
            zero: 0,
            fraction_bits: 0,
            max_shift: 15,
        };
        let Grid { fixed, step } = grid(&mut self.cx, name, affine, rule);
        let buffer = self.cx.temp(format!("{name}.wide"), DType::I16, &shape.extents(), WIDE);
        let source = Source::dense(buffer, shape);
        let output = Output::Wide { store: source, relu: affine.relu };
        encode(&mut self.cx, "store", affine, &[Encoding { fixed: &fixed, output }]);
        Wide { source, shape, unit: step, sums: None }
    }

    /// With codes of the size of the 16-bit integers beside them.
    fn raised(affine: &Affine) -> Affine {
        let mut affine = affine.clone();
        for term in affine.terms.iter_mut().filter(|term| matches!(term.coef, Coef::Step(_))) {
            term.source.raised += AT_EDGES;
        }
        affine
    }

    // Quantizers.

    fn quantize(&mut self, node: &Node) -> Done {
        let scheme = self.scheme(node)?;
        match quant::find(&scheme.quantizer).map(|q| q.role()) {
            Some(quant::Role::Weights) => self.set(node, Tensor::Scheme(node.operands[0], scheme)),
            Some(quant::Role::Activations) => self.quantize_activation(node, &scheme),
            Some(quant::Role::Gradients) => self.quantize_gradient(node),
            None => Err(unsupported(format!("there is no quantizer `{}`", scheme.quantizer))),
        }
    }

    pub(super) fn scheme(&self, node: &Node) -> Result<Scheme, Diagnostic> {
        let name = match node.attrs.get("scheme") {
            Some(crate::ir::Attr::Scheme(name)) => name,
            _ => return Err(unsupported("a quantizer without a scheme")),
        };
        self.module
            .schemes
            .get(name)
            .cloned()
            .ok_or_else(|| unsupported(format!("there is no scheme @{name}")))
    }

    // Pooling and views.

    fn same(&mut self, node: &Node) -> Done {
        let tensor = self.get(node.operands[0])?.clone();
        self.set(node, tensor)
    }

    pub(super) fn window(&self, node: &Node, input: Shape) -> Window {
        if node.op.starts_with("global") {
            return Window { size: (input.h, input.w), stride: input.h.max(input.w), padding: 0 };
        }
        let size = int(&node.attrs, "size") as u32;
        let padding = node.attrs.get("padding").map_or(0, |_| int(&node.attrs, "padding") as u32);
        Window { size: (size, size), stride: int(&node.attrs, "stride") as u32, padding }
    }

    /// The window of a pooling, if its kernels and its gradient's can be written.
    fn pooling(&self, node: &Node, input: Shape) -> Result<Window, Diagnostic> {
        let window = self.window(node, input);
        if window.is_irregular() {
            super::addressable(input, window.size.0.max(window.size.1))?;
        }
        let one_wins = node.op == "max_pool" && window.is_irregular();
        window.limited(if one_wins { pool_overlap::MAX_TAPS } else { pool::MAX_TAPS })
    }

    fn average(&mut self, node: &Node) -> Done {
        let input = self.codes(node.operands[0], &node.path)?;
        let out = shape_of(self.module, node.results[0])?;
        pool::not_the_image(&node.op, &input)?;
        let window = self.pooling(node, input.shape)?;
        let (source, factor) = pool::average(&mut self.cx, &node.path, &input, out, window);
        let unit = self.times(&format!("{}.unit", node.path), input.scale, factor);
        self.set(node, Tensor::Wide(Wide { source, shape: out, unit, sums: None }))
    }

    /// A dyadic times a constant.
    pub(super) fn times(&mut self, name: &str, a: BufferId, factor: f64) -> BufferId {
        let out = self.cx.dyadics(name.to_owned(), 1);
        self.cx.call("times", 1, |kx| {
            let v = kx.scalar(a);
            let f = kx.real(factor);
            let v = kx.mul(v, f);
            let p = kx.write(out);
            kx.store(p.at(0), v);
        });
        out
    }

    fn max_pool(&mut self, node: &Node) -> Done {
        let input = self.codes(node.operands[0], &node.path)?;
        pool::not_the_image(&node.op, &input)?;
        let window = self.pooling(node, input.shape)?;
        if window.padding > 0 && zero_code(&input.zero) != 0 {
            return Err(unsupported("max_pool with padding reads a tensor that can be negative")
                .help("use padding = 0, or put relu before it"));
        }
        let out = shape_of(self.module, node.results[0])?;
        let source = pool::maximum(&mut self.cx, &node.path, &input, out, window);
        // The result stays on the grid: codes are copied into their layouts with coefficient one.
        let zero = zero_code(&input.zero);
        let fixed = self.identity(out.cp(), zero);
        let affine = Affine::of(out, source, Coef::Given(input.scale), None);
        let path = format!("{}.pooled", node.path);
        let codes = self.store_codes(
            node.results[0],
            &path,
            &affine,
            &fixed,
            (input.levels, zero),
            input.scale,
            None,
        )?;
        self.set(node, Tensor::Codes(codes))
    }

    /// Coefficients of the identity: (2·x + 1 + 2·zero) >> 1.
    fn identity(&mut self, cp: u32, zero: i32) -> super::affine::Fixed {
        let pairs = (0..cp * 2).map(|i| if i % 2 == 0 { 2 } else { 0 }).collect();
        super::affine::Fixed {
            pairs: vec![self.cx.table(format!("identity{cp}.coef"), DType::I16, pairs)],
            offset: self.cx.table(
                format!("identity{cp}.offset{zero}"),
                DType::I32,
                vec![1 + 2 * zero as i64; cp as usize],
            ),
            shift: self.cx.table("identity.shift".into(), DType::I64, vec![1]),
        }
    }

    // Loss.

    fn loss(&mut self, node: &Node) -> Done {
        let value = node.operands[0];
        let shape = shape_of(self.module, value)?;
        let logits = match self.get(value)?.clone() {
            Tensor::Pending(p) if p.panel.shape().h == 1 && p.panel.covers() => {
                let accumulators = p.panel.buffer;
                self.cx.call("contract_logits", shape.items(), |kx| {
                    let n0 = Coord::default().plus(kx.item(), (shape.n / shape.items()) as i64);
                    p.panel.emit(kx, &n0, &Coord::default());
                });
                // The unit of `t` is that of the accumulator shifted right.
                let unit = self.unshifted(&p.path, p.unit, shape.cp());
                Logits { accumulators, unit, bias: p.bias, shape }
            }
            _ => {
                return Err(unsupported("the logits do not come from a linear layer")
                    .help("end the model with `linear(classes)`"));
            }
        };
        let loss = loss::softmax_cross_entropy(&mut self.cx, &logits);
        self.set(node, Tensor::Loss(loss))
    }

    fn unshifted(&mut self, path: &str, unit: BufferId, cp: u32) -> BufferId {
        let out = self.cx.dyadics(format!("{path}.acc_unit"), cp);
        let shift = self.layers[path].shift;
        self.cx.call("accumulator_step", 1, |kx| {
            let s = kx.scalar(shift);
            let zero = kx.int(0);
            let down = kx.sub(zero, s);
            let p = kx.write(out);
            kx.for_(cp, |kx, c| {
                let v = kx.per_channel(unit, c);
                let v = kx.scale(v, down);
                kx.store(p.at(0).plus(c, 1), v);
            });
        });
        out
    }
}

/// Shift that brings a non-negative bound into 15 bits.
pub(super) fn shift_to_wide(kx: &mut Kx, bound: crate::kernel::Value) -> crate::kernel::Value {
    let bits = kx.bit_length(bound);
    let bits = kx.clamp(bits, 0, 46);
    let fifteen = kx.int(15);
    let s = kx.sub(bits, fifteen);
    kx.clamp(s, 0, 31)
}
