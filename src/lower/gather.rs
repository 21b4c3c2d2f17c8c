//! The reduce pass: 16-bit lanes of a tensor, from a contraction's panel or from memory, are masked, stored and summed.
//!
//! A pending contraction is computed here, panel by panel, so that its result is shifted, masked, stored and reduced
//! while it is in cache. Partial sums are `[items][channels]`; [`Partials::totals`] adds them in a scalar kernel.

use super::affine::{Mask, Source, Totals};
use super::contract::Panel;
use super::cx::{At, Coord, Cx, DOT, Kx, SUM, Shape, WIDE, share};
use crate::kernel::{BufferId, DType, Index, Range, Value};

/// Absolute values of lanes.
const SIZE: Range = Range { lo: 0, hi: WIDE.hi };

/// Where the lanes come from.
pub(super) enum Lanes<'a> {
    /// A contraction that is computed here.
    Panel(&'a Panel),
    /// Memory.
    Source(Source),
    /// `(p·a + q·b) >> k`, ties away: the sum of two tensors on a common scale.
    Sum(Source, Source, SumFactors),
    /// The same, the first of them a contraction that is computed here and rounded to 16 bits as if it were stored.
    PanelSum(&'a Panel, Source, SumFactors),
}

/// Factors of a sum of two tensors.
#[derive(Clone, Copy, Debug)]
pub(super) struct SumFactors {
    /// p and q, I16.
    pub(super) factors: BufferId,
    /// k, i64.
    pub(super) shift: BufferId,
}

/// What to do with the lanes.
pub(super) struct Gather<'a> {
    pub(super) name: &'a str,
    pub(super) path: &'a str,
    pub(super) shape: Shape,
    pub(super) lanes: Lanes<'a>,
    pub(super) masks: &'a [Mask],
    /// Where the masked lanes go.
    pub(super) store: Option<Source>,
    /// Σ and extremes.
    pub(super) sums: bool,
    /// Σ of squares.
    pub(super) squares: bool,
    /// Σ of products with another tensor.
    pub(super) dot: Option<Source>,
}

/// Partial results `[items][channels]`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Partials {
    items: u32,
    sum: Option<BufferId>,
    min: Option<BufferId>,
    max: Option<BufferId>,
    square: Option<BufferId>,
    dot: Option<BufferId>,
    /// Largest absolute value of a contraction in a sum.
    panel: Option<BufferId>,
}

/// Totals over all items.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reduced {
    pub(super) totals: Totals,
    pub(super) square: Option<BufferId>,
    pub(super) dot: Option<BufferId>,
    /// Largest absolute value, one i64.
    pub(super) amax: BufferId,
    /// The same of a contraction before it was added to another tensor.
    pub(super) panel_amax: Option<BufferId>,
}

/// The lanes of a place.
struct Taken {
    /// What is summed and stored.
    value: Value,
    /// What it is multiplied with.
    other: Option<Value>,
    /// The contraction's part of it.
    panel: Option<Value>,
}

impl Gather<'_> {
    /// Appends the pass.
    pub(super) fn run(self, cx: &mut Cx) -> Partials {
        let (shape, items) = (self.shape, self.shape.items());
        let (rows, images) = self.panel().map_or((shape.h, 1), |panel| (panel.rows, panel.images));
        let partials = self.partials(cx, items);
        let group = shape.n / items;
        cx.call(self.name, items, |kx| {
            let item = kx.item();
            partials.clear(kx, shape);
            let panel_shift = self.panel().map(|panel| kx.scalar(panel.shift));
            let sum_shift = match &self.lanes {
                Lanes::Sum(_, _, f) | Lanes::PanelSum(_, _, f) => Some(kx.scalar(f.shift)),
                _ => None,
            };
            kx.for_(group / images, |kx, gi| {
                let n0 = Coord::default().plus(item, group as i64).plus(gi, images as i64);
                kx.for_(shape.h / rows, |kx, chunk| {
                    let y0 = Coord::default().plus(chunk, rows as i64);
                    if let Some(panel) = self.panel() {
                        panel.emit(kx, &n0, &y0);
                    }
                    kx.for_(shape.blocks(), |kx, block| {
                        let block = Coord::index(block);
                        let masks: Vec<_> = self.masks.iter().map(|m| m.prepare(kx, &block)).collect();
                        kx.for_(images, |kx, image| {
                            kx.for_(rows, |kx, row| {
                                let at = |x: Coord| At {
                                    n: n0.clone().plus(image, 1),
                                    y: y0.clone().plus(row, 1),
                                    x,
                                    block: block.clone(),
                                };
                                let lane = |kx: &mut Kx, x: Coord| {
                                    let place = at(x.clone());
                                    let panel = panel_shift.and_then(|shift| {
                                        self.contracted(kx, &place, (image, row, &x), shift)
                                    });
                                    let v = self.lane(kx, &place, panel, sum_shift);
                                    let v = self.masked(kx, v, &masks, &place);
                                    if let Some(store) = self.store {
                                        let p = kx.write(store.buffer);
                                        let address = store.of(p, &place);
                                        kx.store(address, v);
                                    }
                                    let other = self.dot.map(|d| d.load(kx, &place));
                                    Taken { value: v, other, panel }
                                };
                                if shape.w >= 2 {
                                    kx.for_(shape.w / 2, |kx, x| {
                                        let first = lane(kx, Coord::default().plus(x, 2));
                                        let second = lane(kx, Coord::default().plus(x, 2).offset(1));
                                        self.accumulate(kx, &partials, item, &block, first, Some(second));
                                    });
                                }
                                if shape.w % 2 == 1 {
                                    let last = lane(kx, Coord::default().offset(shape.w as i64 - 1));
                                    self.accumulate(kx, &partials, item, &block, last, None);
                                }
                            });
                        });
                    });
                });
            });
        });
        partials
    }

    fn partials(&self, cx: &mut Cx, items: u32) -> Partials {
        let cp = self.shape.cp();
        let mut new = |what: &str, on: bool, dtype, range| {
            on.then(|| cx.temp(format!("{}.{}.{what}", self.path, self.name), dtype, &[items, cp], range))
        };
        Partials {
            items,
            sum: new("sum", self.sums, DType::I64, share(SUM, items)),
            min: new("min", self.sums, DType::I16, WIDE),
            max: new("max", self.sums, DType::I16, WIDE),
            square: new("square", self.squares, DType::I64, share(DOT, items)),
            dot: new("dot", self.dot.is_some(), DType::I64, share(DOT, items)),
            panel: new("panel", matches!(self.lanes, Lanes::PanelSum(..)), DType::I16, SIZE),
        }
    }

    /// The contraction that is computed here.
    fn panel(&self) -> Option<&Panel> {
        match self.lanes {
            Lanes::Panel(panel) | Lanes::PanelSum(panel, ..) => Some(panel),
            _ => None,
        }
    }

    /// The I16 lanes of the contraction at a place.
    fn contracted(
        &self,
        kx: &mut Kx,
        at: &At,
        (image, row, x): (Index, Index, &Coord),
        shift: Value,
    ) -> Option<Value> {
        let panel = self.panel()?;
        let p = kx.read(panel.buffer);
        let cp = self.shape.cp() as i64;
        let pixel = (self.shape.w as i64) * cp;
        let address = p.at(0).plus(kx.item(), panel.elements());
        let address = address.plus(image, panel.rows as i64 * pixel).plus(row, pixel);
        let address = at.block.address(x.address(address, cp), 16);
        let acc = kx.load(address);
        let t = if panel.ties_away { kx.shift_right_round(acc, shift) } else { kx.shift_right(acc, shift) };
        Some(narrow_wide(kx, t))
    }

    /// The I16 lanes at a place, before masks.
    fn lane(&self, kx: &mut Kx, at: &At, panel: Option<Value>, shift: Option<Value>) -> Value {
        let sum = |kx: &mut Kx, a: Value, b: Value, f: &SumFactors, shift: Value| {
            let p = kx.read(f.factors);
            let (p0, p1) = (kx.load_scalar(p.at(0)), kx.load_scalar(p.at(1)));
            let (values, factors) = (kx.pair(a, b), kx.splat_pair(p0, p1));
            let sum = kx.dot2(values, factors);
            let sum = kx.shift_right_round(sum, shift);
            narrow_wide(kx, sum)
        };
        match (&self.lanes, panel, shift) {
            (Lanes::Panel(_), Some(panel), _) => panel,
            (Lanes::PanelSum(_, b, f), Some(a), Some(shift)) => {
                let b = b.load(kx, at);
                sum(kx, a, b, f, shift)
            }
            (Lanes::Sum(a, b, f), _, Some(shift)) => {
                let (a, b) = (a.load(kx, at), b.load(kx, at));
                sum(kx, a, b, f, shift)
            }
            (Lanes::Source(source), ..) => source.load(kx, at),
            _ => unreachable!("panels and sums have a shift"),
        }
    }

    fn masked(&self, kx: &mut Kx, v: Value, masks: &[super::affine::MaskLanes], at: &At) -> Value {
        self.masks.iter().zip(masks).fold(v, |v, (mask, prepared)| match mask.lanes(kx, prepared, at) {
            Some(m) => kx.and(v, m),
            None => v,
        })
    }

    fn accumulate(
        &self,
        kx: &mut Kx,
        partials: &Partials,
        item: Index,
        block: &Coord,
        first: Taken,
        second: Option<Taken>,
    ) {
        let cp = self.shape.cp() as i64;
        let at = |kx: &mut Kx, buffer| {
            let p = kx.update(buffer);
            block.address(p.at(0).plus(item, cp), 16)
        };
        let zero = kx.splat_const(DType::I16, 0);
        let (a, b) = (first.value, second.as_ref().map(|s| s.value));
        let values = b.unwrap_or(zero);
        if let (Some(sum), Some(min), Some(max)) = (partials.sum, partials.min, partials.max) {
            let one = kx.int(1);
            let (pair, ones) = (kx.pair(a, values), kx.splat_pair(one, one));
            let both = kx.dot2(pair, ones);
            let to = at(kx, sum);
            kx.acc64(to, both);
            let (low, high) = b.map_or((a, a), |b| (kx.min(a, b), kx.max(a, b)));
            let to = at(kx, min);
            kx.min_into(to, low);
            let to = at(kx, max);
            kx.max_into(to, high);
        }
        if let Some(square) = partials.square {
            let pair = kx.pair(a, values);
            let both = kx.dot2(pair, pair);
            let to = at(kx, square);
            kx.acc64(to, both);
        }
        if let (Some(dot), Some(other)) = (partials.dot, first.other) {
            let others = second.as_ref().and_then(|s| s.other).unwrap_or(zero);
            let (pair, other) = (kx.pair(a, values), kx.pair(other, others));
            let both = kx.dot2(pair, other);
            let to = at(kx, dot);
            kx.acc64(to, both);
        }
        if let (Some(panel), Some(part)) = (partials.panel, first.panel) {
            let parts = [Some(part), second.and_then(|s| s.panel)].into_iter().flatten();
            let sizes: Vec<Value> = parts.map(|part| kx.abs(part)).collect();
            let largest = sizes.into_iter().reduce(|a, b| kx.max(a, b)).expect("there is a first");
            let to = at(kx, panel);
            kx.max_into(to, largest);
        }
    }
}

/// Saturates I32 lanes to the symmetric 16-bit range.
pub(super) fn narrow_wide(kx: &mut Kx, v: Value) -> Value {
    let v = kx.narrow(DType::I16, v);
    let low = kx.splat_const(DType::I16, WIDE.lo as i32);
    kx.max(v, low)
}

impl Partials {
    fn clear(&self, kx: &mut Kx, shape: Shape) {
        let (item, cp) = (kx.item(), shape.cp());
        for sum in [self.sum, self.square, self.dot].into_iter().flatten() {
            let p = kx.update(sum);
            kx.fill(p.at(0).plus(item, cp as i64), cp, 0);
        }
        for (extreme, start) in [(self.min, WIDE.hi), (self.max, WIDE.lo), (self.panel, 0)] {
            if let Some(extreme) = extreme {
                let p = kx.update(extreme);
                let v = kx.splat_const(DType::I16, start as i32);
                kx.for_(shape.blocks(), |kx, b| kx.store(p.at(0).plus(item, cp as i64).plus(b, 16), v));
            }
        }
    }

    /// Adds the partial results of all items.
    pub(super) fn totals(&self, cx: &mut Cx, path: &str, what: &str, shape: Shape) -> Reduced {
        let cp = shape.cp();
        let mut new = |slot: &str, n, range: Range| {
            cx.temp(format!("{path}.{what}.total_{slot}"), DType::I64, &[n], range)
        };
        let totals = Totals {
            sum: new("sum", cp, SUM),
            min: new("min", cp, WIDE),
            max: new("max", cp, WIDE),
            count: shape.positions(),
        };
        let square = self.square.map(|_| new("square", cp, DOT));
        let dot = self.dot.map(|_| new("dot", cp, DOT));
        let amax = new("amax", 1, SIZE);
        let panel_amax = self.panel.map(|_| new("panel_amax", 1, SIZE));
        cx.call("totals", 1, |kx| {
            let add = |kx: &mut Kx, partial: Option<BufferId>, total: Option<BufferId>| {
                let (Some(partial), Some(total)) = (partial, total) else { return };
                let (p, t) = (kx.read(partial), kx.update(total));
                kx.fill(t.at(0), cp, 0);
                kx.for_(self.items, |kx, item| {
                    kx.for_(cp, |kx, c| {
                        let v = kx.load_scalar(p.at(0).plus(item, cp as i64).plus(c, 1));
                        kx.acc64(t.at(0).plus(c, 1), v);
                    });
                });
            };
            add(kx, self.sum, Some(totals.sum));
            add(kx, self.square, square);
            add(kx, self.dot, dot);
            if let (Some(panel), Some(amax)) = (self.panel, panel_amax) {
                let (p, a) = (kx.read(panel), kx.update(amax));
                kx.fill(a.at(0), 1, 0);
                kx.for_(self.items * cp, |kx, i| {
                    let v = kx.load_scalar(p.at(0).plus(i, 1));
                    kx.max_into(a.at(0), v);
                });
            }
            let (Some(min), Some(max)) = (self.min, self.max) else { return };
            let a = kx.update(amax);
            kx.fill(a.at(0), 1, 0);
            for (partial, total, start) in [(min, totals.min, WIDE.hi), (max, totals.max, WIDE.lo)] {
                let (p, t) = (kx.read(partial), kx.update(total));
                kx.fill(t.at(0), cp, start);
                kx.for_(self.items, |kx, item| {
                    kx.for_(cp, |kx, c| {
                        let v = kx.load_scalar(p.at(0).plus(item, cp as i64).plus(c, 1));
                        let to = t.at(0).plus(c, 1);
                        if start > 0 {
                            kx.min_into(to, v)
                        } else {
                            kx.max_into(to, v)
                        }
                        let size = kx.abs(v);
                        kx.max_into(a.at(0), size);
                    });
                });
            }
        });
        Reduced { totals, square, dot, amax, panel_amax }
    }
}
