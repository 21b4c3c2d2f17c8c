//! Quantized gradients: from a layer's gradient to codes in every layout, by the range rule of its scheme.

use super::affine::{Affine, Coef, Levels, Source};
use super::codes::{GradientCodes, Zero};
use super::contract::Conv;
use super::cx::{SUM, Shape, share};
use super::encode::{
    Blocked, Encoding, Gradient, Largest, Output, Rounding, encode, fraction_bits, gradient_levels,
};
use super::grid::{Grid, Rule, Step, grid};
use super::initial::Start;
use super::layout::Bordered;
use super::metrics;
use super::nodes::{Done, Layer, Tensor, unsupported};
use super::row_scales::RowScales;
use super::{Lowering, real_or};
use crate::diag::Diagnostic;
use crate::ir::{Node, Scheme, Value};
use crate::kernel::{BufferId, DType, Range};
use crate::quant;
use crate::types::{int, word};
use fqt_runtime::program::MetricKind;

impl Lowering<'_> {
    /// All quantizers of one gradient are encoded in one pass.
    pub(super) fn quantize_gradient(&mut self, node: &Node) -> Done {
        if self.values.contains_key(&node.results[0]) {
            return Ok(());
        }
        let value = node.operands[0];
        let layer = self.layers.get(&node.path).cloned();
        let layer =
            layer.ok_or_else(|| unsupported("a quantized gradient that belongs to no contraction"))?;
        let (affine, by_step) = match self.get(value)?.clone() {
            Tensor::GradientAffine(affine, _) => (affine, true),
            _ => (self.gradient_by_accumulator(value, &layer, &node.path)?, false),
        };
        let readers: Vec<Node> = self.readers[&value]
            .iter()
            .map(|&i| self.module.nodes[i].clone())
            .filter(|n| n.op == "quantize" && n.path == node.path)
            .collect();
        let mut plans = vec![];
        for (i, reader) in readers.iter().enumerate() {
            plans.push(self.plan_encoding(reader, i, &affine, &layer, by_step)?);
        }
        let encodings: Vec<Encoding> = plans.iter().map(Plan::encoding).collect();
        encode(&mut self.cx, "quantize_gradient", &affine, &encodings);
        for (i, (reader, plan)) in readers.iter().zip(plans).enumerate() {
            self.after_encoding(&plan, affine.shape);
            self.observe_gradient(&format!("{}.gradient{i}", node.path), reader, &plan, affine.shape);
            self.values.insert(reader.results[0], Tensor::GradientCodes(plan.codes));
        }
        Ok(())
    }

    /// Counts zero codes and codes at the ends of the range, in the encoding of the data gradient, and scales.
    fn observe_gradient(&mut self, path: &str, node: &Node, plan: &Plan, shape: Shape) {
        if let Some(nhwc) = plan.codes.nhwc {
            let (zero, largest) = (1 << (plan.gradient.bits - 1), plan.codes.largest);
            let of = (Source { zero, ..nhwc }, shape);
            let zeros = (node.path.as_str(), MetricKind::ZeroGradients, format!("{path}.zeros"));
            let zeros = metrics::count(&mut self.cx, zeros, of, &[zero]);
            self.metrics.push(zeros);
            // Of few codes, the ends are used without anything being wrong; and so they are where the largest of a tensor has the
            // largest code and the two logits of an image have gradients of one size.
            let elements = shape.h * shape.w * shape.c;
            if plan.gradient.steps >= 7 && plan.gradient.rows.is_none() && elements > 2 {
                let ends = (node.path.as_str(), MetricKind::SaturatedCodes, format!("{path}.saturated"));
                let ends = metrics::count(&mut self.cx, ends, of, &[zero - largest, zero + largest]);
                self.metrics.push(ends);
            }
        }
        let name = format!("{path}.exponents");
        let scale = metrics::scale_range(&mut self.cx, &node.path, name, plan.codes.step, shape.c);
        self.metrics.push(scale);
    }

    /// dL/d accumulator = dL/dy · s_x·s_w: without a batch norm, the scales of channels enter the coefficients.
    fn gradient_by_accumulator(
        &mut self,
        value: Value,
        layer: &Layer,
        path: &str,
    ) -> Result<Affine, Diagnostic> {
        let wide = self.stored(value, None)?;
        let cp = wide.shape.cp();
        let coef = self.cx.dyadics(format!("{path}.grad_gain"), cp);
        self.cx.call("accumulator_gain", 1, |kx| {
            let p = kx.write(coef);
            let x = kx.scalar(layer.input.scale);
            kx.for_(cp, |kx, c| {
                let w = kx.per_channel(layer.weights.scale, c);
                let v = kx.mul(w, x);
                kx.store(p.at(0).plus(c, 1), v);
            });
        });
        let mut affine = Affine::of(wide.shape, wide.source, Coef::Given(coef), wide.sums.map(|s| s.totals));
        affine.scale = Some(wide.unit);
        Ok(affine)
    }

    fn plan_encoding(
        &mut self,
        node: &Node,
        number: usize,
        affine: &Affine,
        layer: &Layer,
        by_step: bool,
    ) -> Result<Plan, Diagnostic> {
        let scheme = self.scheme(node)?;
        let conv = layer.conv;
        let shape = affine.shape;
        let path = format!("{}.gradient{number}", node.path);
        let rows = RowScales::new(&mut self.cx, &path, &scheme.params, shape);
        let quantizer = quant::find(&scheme.quantizer)
            .ok_or_else(|| unsupported(format!("there is no quantizer `{}`", scheme.quantizer)))?;
        let width = quant::bits(&scheme.params);
        let bits = if rows.is_some() { quant::STORED_BITS } else { quantizer.stored_bits(width) };
        let steps = rows.map_or(quantizer.levels(width, true).hi as i32, |rows| rows.steps());
        let largest_code = rows.map_or(steps, |rows| rows.largest_code());
        let reads = |op: &str| {
            let readers = self.readers.get(&node.results[0]).into_iter().flatten();
            readers.map(|&i| &self.module.nodes[i].op).any(|o| o.ends_with(op))
        };
        let (by_input, by_weight) = (reads("_grad_input"), reads("_grad_weight"));
        let stream = int(&node.attrs, "stream");
        let rounding = match scheme.quantizer.as_str() {
            "stochastic" => Rounding::Stochastic(self.keys.get(&mut self.cx, stream)),
            "pseudo_stochastic" => Rounding::PseudoStochastic,
            "logarithmic" => Rounding::Logarithmic(self.keys.get(&mut self.cx, stream)),
            _ => Rounding::Nearest,
        };
        let Ranged { grid: Grid { fixed, step }, hindsight } =
            self.gradient_grid(&path, affine, &scheme, (bits, steps, rows.is_some()), by_input)?;
        let grid_step = step;
        let step = if by_step { self.by_accumulator(&path, step, layer) } else { step };
        let nhwc = (by_input || conv.depthwise).then(|| {
            let range = Range::new(0, (1 << bits) - 1);
            let border = conv.gradient_border();
            Bordered::new(&mut self.cx, format!("{path}.codes"), shape, shape.cp(), border, DType::U8, range)
        });
        let blocked = (by_weight && !conv.depthwise).then(|| self.blocked(&path, &conv, shape, largest_code));
        let sums = (by_weight && layer.input.zero != Zero::Code(0)).then(|| {
            let (items, cp) = (shape.items(), shape.cp());
            self.cx.temp(format!("{path}.code_sums"), DType::I64, &[items, cp], share(SUM, items))
        });
        let largest =
            hindsight.as_ref().map(|h| Largest { buffer: h.largest, fraction: seen_fraction(bits) });
        let total = sums.map(|_| self.cx.temp(format!("{path}.code_sum"), DType::I64, &[shape.cp()], SUM));
        let codes = GradientCodes {
            largest: largest_code,
            nhwc: nhwc.map(|n| Source { zero: 1 << (bits - 1), ..n.source }),
            blocked: blocked.map(|b| b.buffer),
            blocked_image: blocked.map_or(0, |b| b.image),
            step,
            sums: total,
        };
        let gradient = Gradient { bits, steps, rows, rounding, nhwc, blocked, largest, sums };
        Ok(Plan { fixed, gradient, codes, hindsight, grid_step })
    }

    fn blocked(&mut self, path: &str, conv: &Conv, shape: Shape, largest_code: i32) -> Blocked {
        let dense = conv.whole;
        let image = if dense { shape.cp() } else { shape.h * shape.w.div_ceil(4) * shape.cp() * 4 };
        let range = Range::new(-largest_code as i64, largest_code as i64);
        let buffer = self.cx.temp(format!("{path}.blocks"), DType::I8, &[shape.n, image], range);
        let row = if dense {
            buffer
        } else {
            self.cx.temp(format!("{path}.row"), DType::I8, &[shape.items(), shape.w, 16], range)
        };
        Blocked { buffer, image: image as i64, dense, row }
    }

    /// A step in units of t becomes one in units of the accumulator: t = acc >> s.
    fn by_accumulator(&mut self, path: &str, step: BufferId, layer: &Layer) -> BufferId {
        let n = self.cx.program.get(step).len() as u32;
        let out = self.cx.dyadics(format!("{path}.acc_step"), n);
        self.cx.call("step_by_accumulator", 1, |kx| {
            let s = kx.scalar(layer.shift);
            let zero = kx.int(0);
            let down = kx.sub(zero, s);
            let (from, to) = (kx.read(step), kx.write(out));
            kx.for_(n, |kx, c| {
                let v = kx.load_scalar(from.at(0).plus(c, 1));
                let v = kx.scale(v, down);
                kx.store(to.at(0).plus(c, 1), v);
            });
        });
        out
    }

    /// The grid by the scheme's range rule. A scale per channel serves the weight gradient only.
    fn gradient_grid(
        &mut self,
        path: &str,
        affine: &Affine,
        scheme: &Scheme,
        (bits, steps, rows): (u32, i32, bool),
        by_input: bool,
    ) -> Result<Ranged, Diagnostic> {
        let per_channel = quant::per_channel(&scheme.params) && !by_input;
        let rule = |step: Step| Rule {
            step,
            levels: Levels::all(-steps, steps),
            zero: 0,
            fraction_bits: fraction_bits(bits) as i64,
            max_shift: 30 - bits as i64,
        };
        let fraction = if rows { 1.0 } else { quant::covered(&scheme.params) };
        let bound = rule(Step::Bound { per_channel, fraction });
        match word(&scheme.params, "range") {
            "max" => {
                let first = grid(&mut self.cx, &format!("{path}.bound"), affine, bound);
                let range = self.measured_range(path, affine, &first, bits, per_channel);
                let grid = grid(&mut self.cx, path, affine, rule(Step::Range(range)));
                Ok(Ranged { grid, hindsight: None })
            }
            "hindsight" => {
                let h = self.hindsight(path, affine, real_or(&scheme.params, "momentum", 0.1), per_channel);
                let range = self.hindsight_range(path, affine, bound, &h, per_channel);
                let grid = grid(&mut self.cx, path, affine, rule(Step::Range(range)));
                Ok(Ranged { grid, hindsight: Some(h) })
            }
            _ => Ok(Ranged { grid: grid(&mut self.cx, path, affine, bound), hindsight: None }),
        }
    }

    /// Largest |value| by a pass of its own, in units of the affine value without its scale.
    fn measured_range(
        &mut self,
        path: &str,
        affine: &Affine,
        first: &Grid,
        bits: u32,
        per_channel: bool,
    ) -> BufferId {
        let (items, cp) = (affine.shape.items(), affine.shape.cp());
        let name = format!("{path}.largest_value");
        let largest = self.cx.temp(name, DType::I16, &[items, cp], Range::new(0, 32767));
        let output = Output::Gradient(Gradient {
            bits,
            steps: gradient_levels(bits),
            rows: None,
            rounding: Rounding::Nearest,
            nhwc: None,
            blocked: None,
            largest: Some(Largest { buffer: largest, fraction: fraction_bits(bits) }),
            sums: None,
        });
        encode(&mut self.cx, "measure", affine, &[Encoding { fixed: &first.fixed, output }]);
        let fraction = fraction_bits(bits);
        self.range_of(path, (largest, items, cp), first.step, affine.scale, fraction, per_channel)
    }

    /// From the largest fixed-point values of a pass to a range: largest·step/2^fraction, without the common scale.
    fn range_of(
        &mut self,
        path: &str,
        (largest, items, cp): (BufferId, u32, u32),
        step: BufferId,
        scale: Option<BufferId>,
        fraction: u32,
        per_channel: bool,
    ) -> BufferId {
        let n = if per_channel { cp } else { 1 };
        let range = self.cx.dyadics(format!("{path}.measured"), n);
        let top = self.cx.temp(format!("{path}.measured_top"), DType::I64, &[n], Range::new(0, 32767));
        self.cx.call("measured_range", 1, |kx| {
            let (l, t, r) = (kx.read(largest), kx.update(top), kx.write(range));
            kx.fill(t.at(0), n, 1);
            kx.for_(items, |kx, i| {
                kx.for_(cp, |kx, c| {
                    let v = kx.load_scalar(l.at(0).plus(i, cp as i64).plus(c, 1));
                    kx.max_into(t.at(0).plus(c, per_channel as i64), v);
                });
            });
            kx.for_(n, |kx, c| {
                let v = kx.load_scalar(t.at(0).plus(c, 1));
                let v = kx.to_dyadic(v);
                let s = kx.per_channel(step, c);
                let v = kx.mul(v, s);
                let v = match scale {
                    Some(scale) => {
                        let scale = kx.scalar(scale);
                        kx.div(v, scale)
                    }
                    None => v,
                };
                let down = kx.int(-(fraction as i64));
                let v = kx.scale(v, down);
                kx.store(r.at(0).plus(c, 1), v);
            });
        });
        range
    }

    fn hindsight(&mut self, path: &str, affine: &Affine, momentum: f64, per_channel: bool) -> Hindsight {
        let (items, cp) = (affine.shape.items(), affine.shape.cp());
        let n = if per_channel { cp } else { 1 };
        let state =
            self.cx.state(format!("{path}.range"), DType::Dyadic, &[n], super::cx::ANY, Start::Each(0));
        let name = format!("{path}.largest_value");
        let largest = self.cx.temp(name, DType::I16, &[items, cp], Range::new(0, 32767));
        Hindsight { state, largest, momentum, per_channel, path: path.to_owned() }
    }

    /// The range of earlier steps in today's unit; the bound in a first step.
    fn hindsight_range(
        &mut self,
        path: &str,
        affine: &Affine,
        bound: Rule,
        h: &Hindsight,
        per_channel: bool,
    ) -> BufferId {
        let first = grid(&mut self.cx, &format!("{path}.bound"), affine, bound);
        let n = if per_channel { affine.shape.cp() } else { 1 };
        let range = self.cx.dyadics(format!("{path}.hindsight"), n);
        let levels = bound.levels.hi as f64;
        self.cx.call("hindsight_range", 1, |kx| {
            let (s, r) = (kx.read(h.state), kx.write(range));
            kx.for_(n, |kx, c| {
                let kept = kx.load_scalar(s.at(0).plus(c, 1));
                let today = kx.per_channel(first.step, c);
                let l = kx.real(levels);
                let today = kx.mul(today, l);
                let zero = kx.real(0.0);
                let known = kx.lt(zero, kept);
                let v = kx.select(known, kept, today);
                let v = match affine.scale {
                    Some(scale) => {
                        let scale = kx.scalar(scale);
                        kx.div(v, scale)
                    }
                    None => v,
                };
                kx.store(r.at(0).plus(c, 1), v);
            });
        });
        range
    }

    /// Totals of the codes, and the range that hindsight keeps.
    fn after_encoding(&mut self, plan: &Plan, shape: Shape) {
        let (items, cp) = (shape.items(), shape.cp());
        if let (Some(partial), Some(total)) = (plan.gradient.sums, plan.codes.sums) {
            self.cx.call("code_sums", 1, |kx| {
                let (p, t) = (kx.read(partial), kx.update(total));
                kx.fill(t.at(0), cp, 0);
                kx.for_(items, |kx, i| {
                    kx.for_(cp, |kx, c| {
                        let v = kx.load_scalar(p.at(0).plus(i, cp as i64).plus(c, 1));
                        kx.acc64(t.at(0).plus(c, 1), v);
                    });
                });
            });
        }
        if let Some(h) = &plan.hindsight {
            // Ranges are kept in the unit of the value: where that is an accumulator's, it doubles or halves when the shift
            // does, and the range follows within some steps.
            let path = format!("{}.seen", h.path);
            let (of, fraction) = ((h.largest, items, cp), seen_fraction(plan.gradient.bits));
            let seen = self.range_of(&path, of, plan.grid_step, None, fraction, h.per_channel);
            let n = if h.per_channel { cp } else { 1 };
            self.cx.call("follow_hindsight", 1, |kx| {
                let (s, v) = (kx.update(h.state), kx.read(seen));
                kx.for_(n, |kx, c| {
                    let at = s.at(0).plus(c, 1);
                    let old = kx.load_scalar(at.clone());
                    let now = kx.load_scalar(v.at(0).plus(c, 1));
                    let zero = kx.real(0.0);
                    let known = kx.lt(zero, old);
                    let d = kx.sub(now, old);
                    let m = kx.real(h.momentum);
                    let d = kx.mul(d, m);
                    let moved = kx.add(old, d);
                    let new = kx.select(known, moved, now);
                    kx.store(at, new);
                });
            });
        }
    }
}

/// Bits below the code of the values that hindsight looks at: a range of earlier steps may be too small, and it can only
/// grow by values beyond it. Up to sixteen times the range are seen, to a sixteenth of a code at 8 bits.
fn seen_fraction(bits: u32) -> u32 {
    fraction_bits(bits) - 4
}

/// What an encoding of a gradient needs, kept while the pass is built.
struct Plan {
    fixed: super::affine::Fixed,
    gradient: Gradient,
    codes: GradientCodes,
    hindsight: Option<Hindsight>,
    /// The step of the grid in the unit of the value.
    grid_step: BufferId,
}

impl Plan {
    fn encoding(&self) -> Encoding<'_> {
        Encoding { fixed: &self.fixed, output: Output::Gradient(self.gradient) }
    }
}

/// A grid and, with `hindsight`, what it keeps.
struct Ranged {
    grid: Grid,
    hindsight: Option<Hindsight>,
}

/// The running range of a gradient.
struct Hindsight {
    state: BufferId,
    largest: BufferId,
    momentum: f64,
    per_channel: bool,
    path: String,
}
