//! Fake quantization: the nearest (or randomly neighbouring) value on the grid of a scheme.
//!
//! `signed` says whether an activation can be negative; weights and gradients always can. `stream` names the random
//! stream of a gradient quantizer; it is given once and survives every pass. A scheme with a learned parameter has it as
//! second operand. The node of a value is unique, so that its path names the state of the quantizer.

use super::{Eval, Op, Part, Read, Tensor, append_gradient, shapes};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Element, Module, Node, Role, TensorType, Value};
use crate::quant::{self, Levels, Quantizer};
use crate::types::{Kind, ParamSpec, conform, flag, word};

pub(super) struct Quantize;

const SCHEME: ParamSpec = ParamSpec::required("scheme", Kind::Scheme, "how to quantize");
const SIGNED: ParamSpec = ParamSpec::required("signed", Kind::Bool, "whether values can be negative");
const STREAM: ParamSpec =
    ParamSpec::required("stream", Kind::Int { lo: 0, hi: 1 << 30 }, "random stream of a gradient quantizer");

pub(super) const ATTRS: &[ParamSpec] = &[SCHEME, SIGNED];

/// A scheme at a node of the oracle: codes, scales, and what belongs to which granule.
pub(super) struct Grid<'a> {
    pub(super) quantizer: &'static dyn Quantizer,
    pub(super) params: &'a Attrs,
    pub(super) bits: u32,
    pub(super) levels: Levels,
    scales: Vec<f64>,
    granules: Granules,
    /// With a scale for each row: the step of each in finest steps, negative where codes are those of the negated value.
    multipliers: Vec<i32>,
}

/// Which granule an element belongs to.
#[derive(Clone, Copy)]
struct Granules {
    count: usize,
    /// Elements of a granule that follow each other.
    run: usize,
    /// Where rows have scales: elements of all channels of a row, and how many scales these have.
    row: Option<(usize, usize)>,
}

impl Granules {
    fn new(params: &Attrs, role: Role, x: &Tensor) -> Granules {
        let (all, last) = (x.data.len(), x.dim(x.shape.len().max(1) - 1));
        let of = |count, run| Granules { count, run, row: None };
        match role {
            Role::Weights if quant::per_channel(params) => of(x.dim(0), all / x.dim(0)),
            _ if quant::per_channel(params) => of(last, 1),
            _ if quant::per_row(params) => Granules { count: 1, run: all, row: quant::row_of(&x.shape) },
            _ => of(1, all),
        }
    }

    fn of(&self, element: usize) -> usize {
        element / self.run % self.count
    }

    fn row(&self, element: usize) -> Option<usize> {
        let (row, scales) = self.row?;
        Some(element / row * scales + element % scales)
    }
}

impl<'a> Grid<'a> {
    /// The grid of a node for the tensor `x`, from the learned parameter, the ranges that are given, or `x` itself.
    pub(super) fn new(cx: &Eval<'a>, x: &Tensor, learned: Option<&Tensor>) -> Grid<'a> {
        let scheme = &cx.schemes[word(&cx.node.attrs, "scheme")];
        let quantizer = quant::find(&scheme.quantizer).expect("the verifier knows the quantizer");
        let params = &scheme.params;
        let bits = quant::bits(params);
        let granules = Granules::new(params, quantizer.role(), x);
        let levels = match granules.row {
            Some(_) => Levels::twos_complement(bits),
            None => quantizer.levels(bits, flag(&cx.node.attrs, "signed")),
        };
        let levels = cx.quantization.largest_code(cx.node).map_or(levels, |hi| levels.up_to(hi));
        let mut largest = vec![0.0f64; granules.count];
        for (index, x) in x.data.iter().enumerate() {
            let granule = &mut largest[granules.of(index)];
            *granule = granule.max(x.abs());
        }
        let range = |granule: usize| match learned {
            Some(clip) => clip.data[0],
            None => cx.quantization.range(cx.node, granule).unwrap_or_else(|| match granules.row {
                Some(_) => largest[granule],
                None => quantizer.range_f64(largest[granule], params),
            }),
        };
        let finest =
            if granules.row.is_some() { levels.hi << (quant::STORED_BITS - bits) } else { levels.hi };
        let scales: Vec<f64> = (0..granules.count).map(|granule| range(granule) / finest as f64).collect();
        let multipliers =
            granules.row.map_or(vec![], |_| row_multipliers(&granules, params, levels, x, scales[0]));
        Grid { quantizer, params, bits, levels, scales, granules, multipliers }
    }

    /// The scale of an element.
    pub(super) fn scale(&self, element: usize) -> f64 {
        let multiplier = self.granules.row(element).map_or(1, |row| self.multipliers[row]);
        self.scales[self.granules.of(element)] * f64::from(multiplier)
    }

    /// The element in units of its scale; 0 where the range is 0.
    pub(super) fn scaled(&self, element: usize, x: f64) -> f64 {
        let known = self.scales[self.granules.of(element)] > 0.0;
        if known { x / self.scale(element) } else { 0.0 }
    }
}

/// The smallest multiplier of each row whose codes reach the covered part of the row's extremes; the smallest code, which
/// has one step more than the largest, is for the larger of them.
fn row_multipliers(granules: &Granules, params: &Attrs, levels: Levels, x: &Tensor, finest: f64) -> Vec<i32> {
    let mut extremes: Vec<(f64, f64)> = vec![];
    for (index, &x) in x.data.iter().enumerate() {
        let row = granules.row(index).expect("called where rows have scales");
        extremes.resize(extremes.len().max(row + 1), (0.0, 0.0));
        let (below, above) = extremes[row];
        extremes[row] = (below.max(-x), above.max(x));
    }
    let covered = quant::covered(params);
    let multipliers = quant::row_multipliers(quant::bits(params));
    let multiplier = |(below, above): (f64, f64)| {
        let reaches = |m: u32, code: i64, x: f64| f64::from(m) * code as f64 * finest >= x * covered;
        let fits =
            |&m: &u32| reaches(m, -levels.lo, below.max(above)) && reaches(m, levels.hi, below.min(above));
        let m = multipliers.iter().copied().find(fits).unwrap_or(multipliers[multipliers.len() - 1]) as i32;
        if above > below { -m } else { m }
    };
    extremes.into_iter().map(multiplier).collect()
}

impl Op for Quantize {
    fn name(&self) -> &'static str {
        "quantize"
    }

    fn doc(&self) -> &'static str {
        "values on the grid of a scheme, from (x) or (x, clip)"
    }

    fn attrs(&self) -> &'static [ParamSpec] {
        ATTRS
    }

    fn check_attrs(&self, attrs: &Attrs) -> Result<(), Diagnostic> {
        let with_stream = [SCHEME, SIGNED, STREAM];
        conform("quantize", if attrs.contains_key("stream") { &with_stream } else { ATTRS }, attrs)
    }

    fn infer(&self, operands: &[&TensorType], attrs: &Attrs) -> Result<Vec<TensorType>, Diagnostic> {
        shapes::arity("quantize", operands, 1..=2)?;
        if let Some(clip) = operands.get(1) {
            shapes::expect("quantize", "a clip", clip, &[])?;
        }
        let element = Element::Quantized(word(attrs, "scheme").to_owned());
        Ok(vec![TensorType { element, shape: operands[0].shape.clone() }])
    }

    fn eval_f64(&self, operands: &[&Tensor], cx: &Eval) -> Vec<Tensor> {
        let x = operands[0];
        let grid = Grid::new(cx, x, operands.get(1).copied());
        let mut y = x.clone();
        for (index, y) in y.data.iter_mut().enumerate() {
            let (scale, scaled) = (grid.scale(index), grid.scaled(index, *y));
            if cx.quantization.rounds() {
                let random = cx.quantization.random(cx.node, &x.shape, index);
                *y = grid.quantizer.encode_f64(scaled, random, grid.bits, grid.levels) as f64 * scale;
            } else if grid.quantizer.slope(scaled, grid.levels).x == 0.0 {
                *y = scaled.clamp(grid.levels.lo as f64, grid.levels.hi as f64) * scale;
            }
        }
        vec![y]
    }

    fn vjp(&self, module: &mut Module, node: &Node, cotangents: &[Option<Value>]) -> Vec<Option<Value>> {
        let Some(dy) = cotangents[0] else { return vec![None; node.operands.len()] };
        let scheme = &module.schemes[word(&node.attrs, "scheme")];
        if !quant::find(&scheme.quantizer).is_some_and(|quantizer| quantizer.clips()) {
            return vec![Some(dy)];
        }
        let operands: Vec<Value> = [dy].into_iter().chain(node.operands.iter().copied()).collect();
        let attrs = ATTRS.iter().map(|spec| (spec.name, node.attrs[spec.name].clone()));
        append_gradient(module, node, "quantize_grad", &operands, attrs).into_iter().map(Some).collect()
    }

    fn part(&self) -> Part {
        Part::Quantizer
    }

    fn reads(&self, _: usize) -> Read {
        Read::Real
    }
}
