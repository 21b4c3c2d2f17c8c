//! The backward half of the walk: masks, gradients of norms and contractions, quantized gradients, updates.

use super::affine::{Affine, Mask, Part, Source};
use super::codes::GradientCodes;
use super::contract::{Panel, Work};
use super::cx::{Kx, SHIFT, WIDE};
use super::depthwise;
use super::gather::{Gather, Lanes, SumFactors};
use super::initial::Start;
use super::loss;
use super::nodes::{Deferred, Done, From, Layer, Tensor, Wide, unsupported};
use super::norm;
use super::pool;
use super::pool_overlap;
use super::weight_gradient;
use super::weights::{self, Gradient, Optimizer};
use super::{Lowering, shape_of};
use crate::diag::Diagnostic;
use crate::ir::{Node, Value};
use crate::kernel::{BufferId, DType, Range};
use crate::quant;
use crate::rectify;
use crate::types::{flag, real, word};

/// What the shift of a data gradient follows from step to step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed {
    /// The shift that the next step begins with, as if all codes of the weights were in force.
    state: BufferId,
    limit: i32,
    /// The largest code of the weights in force, and of all, where that moves: accumulators move with it.
    narrowed: Option<(BufferId, i32)>,
}

/// How many bits the code in force has less than the largest of all.
fn bits_below(kx: &mut Kx, (largest, all): (BufferId, i32)) -> crate::kernel::Value {
    let (now, all) = (kx.scalar(largest), kx.int(i64::from(32 - all.leading_zeros())));
    let now = kx.bit_length(now);
    kx.sub(all, now)
}

/// Masks of a gradient that is not stored yet. Each reader applies all of them.
const MAX_MASKS: usize = 16;

impl Lowering<'_> {
    pub(super) fn loss_grad(&mut self, node: &Node) -> Done {
        let loss = self.values.values().find_map(|t| match t {
            Tensor::Loss(loss) => Some(*loss),
            _ => None,
        });
        let loss = loss.ok_or_else(|| unsupported("the gradient of a loss that is not computed"))?;
        let (source, unit, sums) = loss::gradient(&mut self.cx, loss);
        self.set(node, Tensor::GradientWide(Wide { source, shape: loss.shape, unit, sums: Some(sums) }))
    }

    /// Adds a mask to a gradient; two masks of one grid become one.
    pub(super) fn mask(&mut self, node: &Node) -> Done {
        let grid = self.grids.get(&(node.operands[1], node.path.clone())).cloned();
        let mut mask = grid.ok_or_else(|| unsupported("a mask of a value that was never quantized"))?;
        if node.op == "relu_grad" {
            mask = Mask { low: true, levels: None, ..mask };
        } else if !self.clips(node)? {
            let same = self.get(node.operands[0])?.clone();
            return self.set(node, same);
        }
        if let (Some(&clip), Some(&result)) = (node.operands.get(2), node.results.get(1)) {
            let gradient = self.clip_gradient(node, &mask, clip)?;
            self.values.insert(result, Tensor::VectorGradient(gradient));
        }
        let mut deferred = self.deferred(node.operands[0])?;
        let count = deferred.masks.len();
        match deferred.masks.iter_mut().find(|m| m.fixed.offset == mask.fixed.offset) {
            Some(known) => {
                known.low |= mask.low;
                known.levels = known.levels.or(mask.levels);
            }
            None if count < MAX_MASKS => deferred.masks.push(mask),
            None => {
                let message = format!("more than {MAX_MASKS} `relu` between two layers with weights");
                return Err(unsupported(message).help("one does the same"));
            }
        }
        self.set(node, Tensor::Gradient(deferred))
    }

    /// The gradient of a learned clip: Σ dy above it − Σ dy below its negative, and the slope of the penalty.
    fn clip_gradient(&mut self, node: &Node, mask: &Mask, clip: Value) -> Result<BufferId, Diagnostic> {
        let wide = self.stored(node.operands[0], None)?;
        let path = format!("{}.clip", node.path);
        let signed = mask.levels.is_some_and(|levels| levels.lo > 0);
        let sums = |lowering: &mut Self, part: Part, name: &str| {
            let masks = [Mask { part, ..mask.clone() }];
            let gather = Gather {
                name: "clipped",
                path: &format!("{path}.{name}"),
                shape: wide.shape,
                lanes: Lanes::Source(wide.source),
                masks: &masks,
                store: None,
                sums: true,
                squares: false,
                dot: None,
            };
            let partials = gather.run(&mut lowering.cx);
            partials.totals(&mut lowering.cx, &path, name, wide.shape).totals.sum
        };
        let above = sums(self, Part::Above, "above");
        let below = signed.then(|| sums(self, Part::Below, "below"));
        let decay = real(&self.scheme(node)?.params, "decay");
        let master = self.master(clip, None)?;
        let n = self.cx.program.get(master.value).len() as u32;
        let out = self.cx.dyadics(format!("{path}.gradient"), n);
        let cp = wide.shape.cp();
        // A sum of a channel is below 2^47, and all of them are to be below 2^62.
        let sums_of_channels = i64::from(cp) * (1 + i64::from(signed));
        if sums_of_channels > 1 << 15 {
            let what = format!("`{}` learns one clip for more than 2^15 channels", node.path);
            return Err(unsupported(what).help("quantize these activations with `running_max`"));
        }
        let most = (sums_of_channels << 47).max(1 << 60);
        let total = self.cx.temp(format!("{path}.total"), DType::I64, &[1], Range::new(-most, most));
        self.cx.call("clip_gradient", 1, |kx| {
            let (t, p) = (kx.update(total), kx.write(out));
            kx.fill(t.at(0), 1, 0);
            let a = kx.read(above);
            kx.for_(cp, |kx, c| {
                let v = kx.load_scalar(a.at(0).plus(c, 1));
                kx.acc64(t.at(0), v);
            });
            if let Some(below) = below {
                let b = kx.read(below);
                kx.for_(cp, |kx, c| {
                    let v = kx.load_scalar(b.at(0).plus(c, 1));
                    let zero = kx.int(0);
                    let v = kx.sub(zero, v);
                    kx.acc64(t.at(0), v);
                });
            }
            let zero = kx.real(0.0);
            kx.for_(n, |kx, c| kx.store(p.at(0).plus(c, 1), zero));
            let v = kx.load_scalar(t.at(0));
            let v = kx.to_dyadic(v);
            let unit = kx.scalar(wide.unit);
            let v = kx.mul(v, unit);
            let m = kx.read(master.value);
            let w = kx.load_scalar(m.at(0));
            let w = kx.to_dyadic(w);
            let slope = kx.real(decay / (1u64 << weights::MASTER_BITS) as f64);
            let w = kx.mul(w, slope);
            let v = kx.add(v, w);
            kx.store(p.at(0), v);
        });
        Ok(out)
    }

    fn clips(&self, node: &Node) -> Result<bool, Diagnostic> {
        let scheme = self.scheme(node)?;
        Ok(quant::find(&scheme.quantizer).is_some_and(|q| q.clips()))
    }

    fn deferred(&mut self, value: Value) -> Result<Deferred, Diagnostic> {
        match self.get(value)?.clone() {
            Tensor::Gradient(deferred) => Ok(deferred),
            Tensor::GradientWide(w) => {
                Ok(Deferred { from: From::Source(w.source), masks: vec![], shape: w.shape, unit: w.unit })
            }
            Tensor::GradientAffine(affine, unit) => {
                let w = self.stored_affine(value, &affine, unit);
                Ok(Deferred { from: From::Source(w.source), masks: vec![], shape: w.shape, unit: w.unit })
            }
            _ => Err(unsupported("a gradient that is not there")),
        }
    }

    /// The gradient of a batch norm as a tensor of its own: by real values, not by steps.
    fn stored_affine(&mut self, value: Value, affine: &Affine, unit: BufferId) -> Wide {
        let name = format!("value{}", value.0);
        let wide = self.store_affine(&name, affine);
        let out = self.cx.dyadics(format!("{name}.real_unit"), 1);
        self.cx.call("unit_by_value", 1, |kx| {
            let (a, b) = (kx.scalar(wide.unit), kx.read(unit));
            let b = kx.load_scalar(b.at(0));
            let v = kx.div(a, b);
            let p = kx.write(out);
            kx.store(p.at(0), v);
        });
        let wide = Wide { unit: out, ..wide };
        self.values.insert(value, Tensor::GradientWide(wide.clone()));
        wide
    }

    /// Stores a gradient, masked, with its sums; with products with `dot` if given.
    pub(super) fn stored(&mut self, value: Value, dot: Option<Source>) -> Result<Wide, Diagnostic> {
        let path = format!("value{}", value.0);
        if let Tensor::GradientWide(wide) = self.get(value)?
            && wide.sums.is_some()
        {
            let wide = wide.clone();
            let Some(dot) = dot else { return Ok(wide) };
            return Ok(self.products(&format!("{path}.{}", dot.buffer.0), wide, dot));
        }
        let deferred = self.deferred(value)?;
        let shape = deferred.shape;
        let buffer = self.cx.temp(format!("{path}.gradient"), DType::I16, &shape.extents(), WIDE);
        let source = Source::dense(buffer, shape);
        let (name, lanes) = match &deferred.from {
            From::Panel(panel) => ("contract_grad", Lanes::Panel(panel)),
            From::Source(from) => ("mask_gradient", Lanes::Source(*from)),
            From::Sum(a, b, f) => ("add_gradients", Lanes::Sum(*a, *b, *f)),
            From::PanelSum(panel, b, f) => ("contract_grad", Lanes::PanelSum(panel, *b, *f)),
        };
        let gather = Gather {
            name,
            path: &path,
            shape,
            lanes,
            masks: &deferred.masks,
            store: Some(source),
            sums: true,
            squares: false,
            dot,
        };
        let partials = gather.run(&mut self.cx);
        let sums = partials.totals(&mut self.cx, &path, "gradient", shape);
        if let From::Panel(panel) | From::PanelSum(panel, ..) = &deferred.from {
            self.follow_shift(panel, sums.panel_amax.unwrap_or(sums.amax));
        }
        let wide = Wide { source, shape, unit: deferred.unit, sums: Some(sums) };
        self.values.insert(value, Tensor::GradientWide(wide.clone()));
        Ok(wide)
    }

    /// Sums and products of a stored gradient with another tensor.
    fn products(&mut self, path: &str, wide: Wide, dot: Source) -> Wide {
        let gather = Gather {
            name: "products",
            path,
            shape: wide.shape,
            lanes: Lanes::Source(wide.source),
            masks: &[],
            store: None,
            sums: true,
            squares: false,
            dot: Some(dot),
        };
        let partials = gather.run(&mut self.cx);
        let sums = partials.totals(&mut self.cx, path, "products", wide.shape);
        Wide { sums: Some(sums), ..wide }
    }

    /// The shift of the next step: the largest result of this one gets 13 bits, which leaves two to grow.
    fn follow_shift(&mut self, panel: &Panel, amax: BufferId) {
        let Some(&Followed { state, limit, narrowed }) = self.shifts.get(&panel.shift) else { return };
        self.cx.call("follow_shift", 1, |kx| {
            let (a, s) = (kx.scalar(amax), kx.scalar(panel.shift));
            let bits = kx.bit_length(a);
            let bits = kx.clamp(bits, 0, 16);
            let kept = kx.int(13);
            let v = kx.add(s, bits);
            let v = kx.sub(v, kept);
            let v = narrowed.map_or(v, |narrowed| {
                let by = bits_below(kx, narrowed);
                kx.add(v, by)
            });
            let v = kx.clamp(v, 0, limit);
            let p = kx.write(state);
            kx.store(p.at(0), v);
        });
    }

    /// The contraction of a gradient that only one node reads, if it is not computed yet.
    fn pending(&self, value: Value) -> Option<(Panel, BufferId)> {
        match self.values.get(&value)? {
            Tensor::Gradient(Deferred { from: From::Panel(panel), masks, unit, .. })
                if masks.is_empty() && self.readers[&value].len() == 1 =>
            {
                Some((panel.clone(), *unit))
            }
            _ => None,
        }
    }

    /// A sum of gradients. A contraction among them is added as it is computed: nothing but the sum is stored, which takes a
    /// pass over three tensors off every residual block. Its largest value is not known then, so that its part of the sum
    /// has room for all that 16 bits can hold; since its shift leaves 13 bits to the largest, little is lost.
    pub(super) fn add_gradients(&mut self, node: &Node) -> Done {
        let [mut first, mut second] = [node.operands[0], node.operands[1]];
        if self.pending(first).is_none() {
            (first, second) = (second, first);
        }
        let b = self.stored(second, None)?;
        let amax = |w: &Wide| w.sums.map(|s| s.amax);
        let (from, unit_a, aa) = match self.pending(first) {
            Some((panel, unit)) => (From::Panel(panel), unit, None),
            None => {
                let a = self.stored(first, None)?;
                (From::Source(a.source), a.unit, amax(&a))
            }
        };
        let ab = amax(&b);
        let path = format!("value{}", node.results[0].0);
        let factors =
            self.cx.temp(format!("{path}.factors"), DType::I16, &[2], Range::new(-(1 << 14), 1 << 14));
        let shift = self.cx.temp(format!("{path}.sum_shift"), DType::I64, &[1], SHIFT);
        let unit = self.cx.dyadics(format!("{path}.sum_unit"), 1);
        // S = (S1·amax1 + S0·amax0)/32766: the sum cannot leave 16 bits.
        self.cx.call("sum_factors", 1, |kx| {
            let largest = |kx: &mut Kx, amax: Option<BufferId>| {
                let v = match amax {
                    Some(amax) => kx.scalar(amax),
                    None => kx.int(WIDE.hi),
                };
                let one = kx.int(1);
                let v = kx.max(v, one);
                kx.to_dyadic(v)
            };
            let (sa, sb) = (kx.scalar(unit_a), kx.scalar(b.unit));
            let (la, lb) = (largest(kx, aa), largest(kx, ab));
            let (va, vb) = (kx.mul(sa, la), kx.mul(sb, lb));
            let sum = kx.add(va, vb);
            let levels = kx.real(32766.0);
            let s = kx.div(sum, levels);
            let (p, q) = (kx.div(sa, s), kx.div(sb, s));
            let most = kx.max(p, q);
            let e = kx.exponent(most);
            let e = kx.clamp(e, 0, 14);
            let limit = kx.int(14);
            let k = kx.sub(limit, e);
            let k = kx.clamp(k, 0, 14);
            let f = kx.write(factors);
            for (i, v) in [p, q].into_iter().enumerate() {
                let v = kx.to_fixed(v, k);
                let v = kx.clamp(v, -(1 << 14), 1 << 14);
                kx.store(f.at(i as i64), v);
            }
            let (to, u) = (kx.write(shift), kx.write(unit));
            kx.store(to.at(0), k);
            kx.store(u.at(0), s);
        });
        let factors = SumFactors { factors, shift };
        let from = match from {
            From::Panel(panel) => From::PanelSum(panel, b.source, factors),
            From::Source(a) => From::Sum(a, b.source, factors),
            _ => unreachable!("a sum of two"),
        };
        self.set(node, Tensor::Gradient(Deferred { from, masks: vec![], shape: b.shape, unit }))
    }

    pub(super) fn batch_norm_grad(&mut self, node: &Node) -> Done {
        let dy = node.operands[0];
        let state = self.norms.get(&node.path).cloned();
        let state = state.ok_or_else(|| unsupported("the gradient of a batch norm that is not computed"))?;
        let stored = self.stored(dy, Some(state.source))?;
        let sums = stored.sums.expect("stored gradients have sums");
        let name = word(&node.attrs, "rectifier").to_owned();
        let rectifier = rectify::find(&name).ok_or_else(|| unsupported(format!("no rectifier `{name}`")))?;
        let attrs = node.attrs.clone();
        let terms = |kx: &mut Kx, gamma, variance| rectifier.terms(kx, gamma, variance, &attrs);
        let grad =
            norm::gradient(&mut self.cx, &node.path, &state, stored.source, stored.unit, &sums, &terms);
        let results = [
            Tensor::GradientAffine(grad.input, state.unit),
            Tensor::VectorGradient(grad.gamma),
            Tensor::VectorGradient(grad.beta),
        ];
        for (&value, tensor) in node.results.iter().zip(results) {
            self.values.insert(value, tensor);
        }
        Ok(())
    }

    pub(super) fn bias_grad(&mut self, node: &Node) -> Done {
        if let Tensor::GradientAffine(affine, _) = self.get(node.operands[0])?
            && affine.offset.is_none()
            && affine.terms.iter().all(|term| term.centred)
        {
            let cp = affine.shape.cp();
            return self.no_bias_grad(node, cp);
        }
        // The codes' layer is what the bias belongs to: its gradient is that of the output before quantization.
        let wide = self.stored(node.operands[0], None)?;
        let sums = wide.sums.expect("stored gradients have sums");
        let cp = wide.shape.cp();
        let out = self.cx.dyadics(format!("{}.bias_grad", node.path), cp);
        self.cx.call("bias_grad", 1, |kx| {
            let (s, p) = (kx.read(sums.totals.sum), kx.write(out));
            let unit = kx.scalar(wide.unit);
            kx.for_(cp, |kx, c| {
                let v = kx.load_scalar(s.at(0).plus(c, 1));
                let v = kx.to_dyadic(v);
                let v = kx.mul(v, unit);
                kx.store(p.at(0).plus(c, 1), v);
            });
        });
        self.set(node, Tensor::VectorGradient(out))
    }

    /// The gradient of a bias that a batch norm follows: sums of what it has centred are zero.
    fn no_bias_grad(&mut self, node: &Node, cp: u32) -> Done {
        let out = self.cx.dyadics(format!("{}.bias_grad", node.path), cp);
        self.cx.call("no_bias_grad", 1, |kx| {
            let p = kx.write(out);
            let zero = kx.real(0.0);
            kx.for_(cp, |kx, c| kx.store(p.at(0).plus(c, 1), zero));
        });
        self.set(node, Tensor::VectorGradient(out))
    }

    // Contractions.

    fn gradient_codes(&self, value: Value) -> Result<GradientCodes, Diagnostic> {
        match self.get(value)? {
            Tensor::GradientCodes(codes) => Ok(codes.clone()),
            _ => Err(unsupported("a contraction reads a gradient that is not quantized")
                .help("quantize gradients in the model, or in a recipe that it uses")),
        }
    }

    fn layer(&self, path: &str) -> Result<Layer, Diagnostic> {
        self.layers.get(path).cloned().ok_or_else(|| unsupported(format!("no contraction at `{path}`")))
    }

    pub(super) fn grad_input(&mut self, node: &Node) -> Done {
        let codes = self.gradient_codes(node.operands[0])?;
        let layer = self.layer(&node.path)?;
        let path = node.path.as_str();
        let work = Work::grad_input(&mut self.cx, path, layer.conv, codes.clone(), &layer.weights)?;
        // A static bound on the accumulator; from the second step on the shift follows the results.
        let depth = if layer.conv.depthwise { 1 } else { layer.conv.output.c };
        let terms = layer.conv.taps() as i64 * depth as i64;
        let bound = terms * codes.largest as i64 * layer.weights.levels as i64;
        let limit = (64 - bound.leading_zeros() as i64 - 15).clamp(0, 31) as i32;
        let range = Range::new(-1, 31);
        let narrowed = layer.weights.in_force.map(|largest| (largest, layer.weights.levels));
        let state = self.cx.state(format!("{path}.grad_shift"), DType::I64, &[1], range, Start::Each(-1));
        let shift = self.cx.temp(format!("{path}.grad_shift_now"), DType::I64, &[1], SHIFT);
        let unit = self.cx.dyadics(format!("{path}.grad_unit"), 1);
        self.cx.call("grad_unit", 1, |kx| {
            let v = kx.scalar(state);
            let zero = kx.int(0);
            let fresh = kx.lt(v, zero);
            let most = kx.int(limit as i64);
            let v = kx.select(fresh, most, v);
            let v = narrowed.map_or(v, |narrowed| {
                let by = bits_below(kx, narrowed);
                kx.sub(v, by)
            });
            let v = kx.clamp(v, 0, limit);
            let p = kx.write(shift);
            kx.store(p.at(0), v);
            let (step, scale) = (kx.scalar(codes.step), kx.scalar(layer.input.scale));
            let u = kx.div(step, scale);
            let u = kx.scale(u, v);
            let p = kx.write(unit);
            kx.store(p.at(0), u);
        });
        self.shifts.insert(shift, Followed { state, limit, narrowed });
        let panel = Panel::grad_input(&mut self.cx, path, layer.conv, work, shift)?;
        let shape = panel.shape();
        self.set(node, Tensor::Gradient(Deferred { from: From::Panel(panel), masks: vec![], shape, unit }))
    }

    pub(super) fn grad_weight(&mut self, node: &Node) -> Done {
        let codes = self.gradient_codes(node.operands[1])?;
        let layer = self.layer(&node.path)?;
        let path = node.path.as_str();
        let sums = match layer.conv.depthwise {
            true => depthwise::grad_weight(&mut self.cx, path, layer.conv, &layer.input, &codes),
            false => weight_gradient::grad_weight(&mut self.cx, path, layer.conv, &layer.input, &codes)?,
        };
        if let Some(total) = codes.sums {
            weight_gradient::correct_weight_gradient(
                &mut self.cx,
                layer.conv,
                &layer.input.zero,
                sums,
                total,
            );
        }
        let cp = layer.conv.output.cp();
        let unit = self.cx.dyadics(format!("{path}.weight_grad_unit"), cp);
        self.cx.call("weight_grad_unit", 1, |kx| {
            let p = kx.write(unit);
            kx.for_(cp, |kx, c| {
                let (s, w) = (kx.per_channel(codes.step, c), kx.per_channel(layer.weights.scale, c));
                let v = kx.div(s, w);
                kx.store(p.at(0).plus(c, 1), v);
            });
        });
        self.set(node, Tensor::WeightGradient(sums, unit))
    }

    pub(super) fn pool_grad(&mut self, node: &Node) -> Done {
        let wide = self.stored(node.operands[0], None)?;
        let shape = shape_of(self.module, node.results[0])?;
        if node.op == "global_avg_pool_grad" {
            let unit =
                self.times(&format!("{}.spread", node.path), wide.unit, 1.0 / (shape.h * shape.w) as f64);
            let source = Source { strides: [wide.source.strides[0], 0, 0], ..wide.source };
            return self.set(node, Tensor::GradientWide(Wide { source, shape, unit, sums: None }));
        }
        let window = self.window(node, shape);
        let (maximum, path) = (node.op == "max_pool_grad", node.path.as_str());
        let input = if maximum { Some(self.codes(node.operands[1], &node.path)?) } else { None };
        let mut unit = wide.unit;
        if !maximum {
            let factor = 1.0 / (window.size.0 * window.size.1) as f64;
            unit = self.times(&format!("{path}.spread"), unit, factor);
        }
        let (dy, out) = (wide.source, wide.shape);
        let source = if window.is_irregular() {
            let amax = wide.sums.expect("stored gradients have sums").amax;
            let (source, shift) =
                pool_overlap::gradient(&mut self.cx, path, shape, (dy, amax), out, window, input.as_ref());
            unit = self.shifted_unit(path, unit, shift);
            source
        } else if let Some(input) = input {
            pool::maximum_grad(&mut self.cx, path, &input, dy, out, window)
        } else {
            pool::average_grad(&mut self.cx, path, shape, dy, out, window)
        };
        self.set(node, Tensor::GradientWide(Wide { source, shape, unit, sums: None }))
    }

    /// A unit times `2^shift`.
    fn shifted_unit(&mut self, path: &str, unit: BufferId, shift: BufferId) -> BufferId {
        let out = self.cx.dyadics(format!("{path}.overlap_unit"), 1);
        self.cx.call("overlap_unit", 1, |kx| {
            let (u, s) = (kx.scalar(unit), kx.scalar(shift));
            let v = kx.scale(u, s);
            let p = kx.write(out);
            kx.store(p.at(0), v);
        });
        out
    }

    // Updates.

    pub(super) fn update(&mut self, node: &Node) -> Done {
        let param = self.module.params.iter().find(|p| p.value == node.operands[0]);
        let param =
            param.ok_or_else(|| unsupported("an update of something that is not a parameter"))?.clone();
        let args = &self.module.training.optimizer.1;
        let q = |v: f64, bits: u32| (v * (1u64 << bits) as f64).round() as i64;
        let optimizer = Optimizer {
            rate: self.rate,
            momentum: q(real(args, "momentum"), 16),
            decay: q(real(args, "weight_decay"), 36),
        };
        let streams = [self.next_stream, self.next_stream + 1];
        self.next_stream += 2;
        let keys = (self.keys.get(&mut self.cx, streams[0]), self.keys.get(&mut self.cx, streams[1]));
        let decay = flag(&node.attrs, "decay");
        let (rows, cp, master, gradient) = match self.get(node.operands[1])?.clone() {
            Tensor::WeightGradient(sums, unit) => {
                let path = param.name.rsplit_once('.').map_or("", |p| p.0);
                let layer = self.layer(path)?;
                let rows = layer.conv.depth() * layer.conv.taps();
                (rows, layer.conv.output.cp(), layer.master, Gradient::Codes(sums, unit))
            }
            Tensor::VectorGradient(values) => {
                let master = self.master(param.value, None)?;
                let cp = self.cx.program.get(master.value).len() as u32;
                (1, cp, master, Gradient::Real(values))
            }
            _ => return Err(unsupported(format!("`{}` has no gradient", param.name))),
        };
        weights::update(&mut self.cx, &param.name, (rows, cp), master, gradient, decay, optimizer, keys);
        Ok(())
    }
}
