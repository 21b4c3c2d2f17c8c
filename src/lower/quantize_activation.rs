//! Quantized activations: from a combination of 16-bit tensors to codes in every layout that is read, and the step that they
//! are multiples of, from a running maximum or a learned clip.

use std::collections::BTreeMap;

use super::affine::{Affine, Fixed, Levels, Mask, Part};
use super::codes::{Codes, Zero};
use super::cx::{ANY, Shape};
use super::encode::{Encoding, Largest, Output, encode};
use super::grid::{Grid, Rule, Step, grid};
use super::initial::Start;
use super::layout::Bordered;
use super::metrics;
use super::nodes::{Done, Tensor};
use super::weights;
use super::{Lowering, Mode, real_or, zero_code};
use crate::diag::Diagnostic;
use crate::ir::{Node, Scheme, Value};
use crate::kernel::{BufferId, DType, Range};
use crate::numbers::packed;
use crate::quant;
use crate::types::flag;
use fqt_runtime::program::MetricKind;

impl Lowering<'_> {
    pub(super) fn quantize_activation(&mut self, node: &Node, scheme: &Scheme) -> Done {
        let x = node.operands[0];
        let affine = self.affine(x)?;
        let bits = quant::bits(&scheme.params);
        let signed = flag(&node.attrs, "signed");
        let zero = if signed { 1 << (bits - 1) } else { 0 };
        let in_force = self.in_force(scheme, signed);
        let levels = Levels { lo: signed.into(), hi: (1 << bits) - 1, in_force };
        let path = format!("{}.{}", node.path, if node.path.is_empty() { "act" } else { "activation" });
        let (range, step) = match node.operands.get(1) {
            Some(&clip) => self.learned_step(node, clip, levels)?,
            None => self.running_step(&path, levels),
        };
        let rule = Rule { step: Step::Given(step), levels, zero, fraction_bits: 0, max_shift: 22 };
        let Grid { fixed, step } = grid(&mut self.cx, &path, &affine, rule);
        self.remember_grid(node, &affine, &fixed, levels);
        let largest = range.filter(|_| self.mode == Mode::Train).map(|_| {
            let extents = [affine.shape.items(), affine.shape.cp()];
            let range = Range::new(-32768, 32767);
            let buffer = self.cx.temp(format!("{path}.largest_code"), DType::I16, &extents, range);
            Largest { buffer, fraction: seen_fraction(levels, signed) }
        });
        let codes =
            self.store_codes(node.results[0], &path, &affine, &fixed, (levels, zero), step, largest)?;
        if self.mode == Mode::Train {
            self.observe_codes(&path, node, &codes);
        }
        if let (Some(range), Some(largest)) = (range, largest) {
            let momentum = real_or(&scheme.params, "momentum", 1.0 / 16.0);
            self.follow_range(range, largest, step, &affine.shape, momentum);
        }
        self.set(node, Tensor::Codes(codes))
    }

    /// Counts codes at the ends of the range.
    fn observe_codes(&mut self, path: &str, node: &Node, codes: &Codes) {
        let ends = match zero_code(&codes.zero) {
            0 => vec![codes.levels.hi],
            _ => vec![codes.levels.lo, codes.levels.hi],
        };
        // Of fewer than 16 codes, the ends are used without anything being wrong.
        if codes.levels.hi >= 15 && codes.levels.in_force.is_none() {
            let of = (codes.nhwc, codes.shape);
            let what = (node.path.as_str(), MetricKind::SaturatedCodes, format!("{path}.saturated"));
            let counted = metrics::count(&mut self.cx, what, of, &ends);
            self.metrics.push(counted);
        }
        let scale =
            metrics::scale_range(&mut self.cx, &node.path, format!("{path}.exponents"), codes.scale, 1);
        self.metrics.push(scale);
    }

    /// The step of a running maximum, kept as real range in the state; six before anything is known.
    fn running_step(&mut self, path: &str, levels: Levels) -> (Option<BufferId>, BufferId) {
        let start = packed(6.0);
        let range = self.cx.state(format!("{path}.range"), DType::Dyadic, &[1], ANY, Start::Each(start));
        (Some(range), self.step_of(path, range, levels))
    }

    fn step_of(&mut self, path: &str, range: BufferId, levels: Levels) -> BufferId {
        let step = self.cx.dyadics(format!("{path}.given_step"), 1);
        self.cx.call("step", 1, |kx| {
            let r = kx.scalar(range);
            let n = levels.steps(kx);
            let v = kx.div(r, n);
            let p = kx.write(step);
            kx.store(p.at(0), v);
        });
        step
    }

    /// The step of a learned clip.
    fn learned_step(
        &mut self,
        node: &Node,
        clip: Value,
        levels: Levels,
    ) -> Result<(Option<BufferId>, BufferId), Diagnostic> {
        let master = self.master(clip, None)?;
        let range = self.cx.dyadics(format!("{}.clip_real", node.path), 1);
        self.cx.call("clip", 1, |kx| {
            let p = kx.read(master.value);
            let v = kx.load_scalar(p.at(0));
            // A clip stays above 2^-10, so that a step is never zero.
            let least = kx.int(1 << (weights::MASTER_BITS - 10));
            let v = kx.max(v, least);
            let v = kx.to_dyadic(v);
            let down = kx.int(-weights::MASTER_BITS);
            let v = kx.scale(v, down);
            let p = kx.write(range);
            kx.store(p.at(0), v);
        });
        Ok((None, self.step_of(&format!("{}.clip", node.path), range, levels)))
    }

    /// range += (step·largest/2^fraction − range)·momentum.
    fn follow_range(
        &mut self,
        range: BufferId,
        Largest { buffer: largest, fraction }: Largest,
        step: BufferId,
        shape: &Shape,
        momentum: f64,
    ) {
        let top = self.cx.temp(
            format!("{}.top", self.cx.program.get(largest).name),
            DType::I64,
            &[1],
            Range::new(-32768, 32767),
        );
        let n = shape.items() * shape.cp();
        self.cx.call("follow_range", 1, |kx| {
            let (l, t, r) = (kx.read(largest), kx.update(top), kx.update(range));
            kx.fill(t.at(0), 1, 1);
            kx.for_(n, |kx, i| {
                let v = kx.load_scalar(l.at(0).plus(i, 1));
                kx.max_into(t.at(0), v);
            });
            let v = kx.load_scalar(t.at(0));
            let v = kx.to_dyadic(v);
            let s = kx.scalar(step);
            let v = kx.mul(v, s);
            let v = match fraction {
                0 => v,
                _ => {
                    let down = kx.int(-i64::from(fraction));
                    kx.scale(v, down)
                }
            };
            let old = kx.load_scalar(r.at(0));
            let d = kx.sub(v, old);
            let m = kx.real(momentum);
            let d = kx.mul(d, m);
            let v = kx.add(old, d);
            kx.store(r.at(0), v);
        });
    }

    /// Remembers how a value became codes at a path, for the masks of its gradient there: under the value and, through ReLU, its
    /// input. Two quantizers of one value have a path each.
    fn remember_grid(&mut self, node: &Node, affine: &Affine, fixed: &Fixed, levels: Levels) {
        let value = node.operands[0];
        let sources = affine.terms.iter().map(|t| t.source).collect();
        let mask = Mask {
            sources,
            fixed: fixed.clone(),
            low: affine.relu,
            levels: Some(levels),
            learned: node.operands.len() > 1,
            part: Part::Inside,
        };
        if let Some(relu) = self.module.producer(value).map(|i| &self.module.nodes[i])
            && relu.op == "relu"
        {
            self.grids.insert((relu.operands[0], node.path.clone()), mask.clone());
        }
        self.grids.insert((value, node.path.clone()), mask);
    }

    /// Encodes activation codes in every layout that is read.
    pub(super) fn store_codes(
        &mut self,
        result: Value,
        path: &str,
        affine: &Affine,
        fixed: &Fixed,
        (levels, zero): (Levels, i32),
        scale: BufferId,
        largest: Option<Largest>,
    ) -> Result<Codes, Diagnostic> {
        let shape = affine.shape;
        let demand = self.demand(result)?;
        let p = demand.padding;
        let range = Range::new(0, levels.hi as i64);
        let nhwc = Bordered::new(
            &mut self.cx,
            format!("{path}.codes"),
            shape,
            shape.cp(),
            (p, p, p, p),
            DType::U8,
            range,
        );
        let output = Output::Activation { levels, zero, nhwc, largest };
        encode(&mut self.cx, "quantize", affine, &[Encoding { fixed, output }]);
        let planes = BTreeMap::new();
        Ok(Codes { shape, levels, zero: Zero::Code(zero), scale, nhwc: nhwc.source, padding: p, planes })
    }
}

/// Bits below the code in which the largest value is seen. Where one code may be all there is above zero, the largest value is
/// that code or nothing, and a range that began too wide would stay so.
fn seen_fraction(levels: Levels, signed: bool) -> u32 {
    if signed && (levels.hi == levels.lo + 2 || levels.in_force.is_some()) { 4 } else { 0 }
}
