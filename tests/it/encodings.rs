//! Codes of gradients against the oracle: every rounding, every rule of ranges, scales per tensor, channel and row, at several
//! widths, with batch norm and without.
//!
//! A code is made in two steps, and each is checked by itself. The value before rounding, recomputed here from the integer
//! coefficients, is the oracle's gradient within half a unit of each coefficient times its source and one unit of its
//! 16-bit fixed point. The code is what the quantizer's definition makes of that value and the element's random bits,
//! exactly.

use std::sync::OnceLock;

use fqt_runtime::random;
use fqtc::ir::{Attr, Attrs, Module, Node, Scheme};
use fqtc::numbers::packed;
use fqtc::quant;
use fqtc::rectify;
use fqtc::tensor::Tensor;
use fqtc::types::{int, real, word};

use crate::support::grid_error::centred;
use crate::support::modules;
use crate::support::teacher::{Step, times};
use crate::teacher::{close, network, quiet};

/// Quantizer, range, what shares a scale, bits.
const SCHEMES: [(&str, &str, &str, i64); 14] = [
    ("stochastic", "bound", "channel", 4),
    ("stochastic", "max", "tensor", 4),
    ("stochastic", "clip", "channel", 2),
    ("stochastic", "hindsight", "channel", 3),
    ("stochastic", "clip", "row", 2),
    ("stochastic", "hindsight", "row", 4),
    ("nearest", "max", "row", 3),
    ("nearest", "clip", "tensor", 8),
    ("nearest", "hindsight", "channel", 8),
    ("pseudo_stochastic", "hindsight", "tensor", 5),
    ("pseudo_stochastic", "max", "channel", 8),
    ("logarithmic", "bound", "tensor", 4),
    ("logarithmic", "clip", "channel", 3),
    ("logarithmic", "hindsight", "tensor", 2),
];

fn networks(rectifier: &str) -> [(&'static str, Module); 3] {
    let mut residual = modules::resnet(4, 8, 8, "stochastic");
    modules::rectify_all(&mut residual, rectifier);
    [
        ("norms", residual),
        ("pools", modules::lenet(4, 16, "stochastic")),
        ("signed", modules::signed(4, 8, "stochastic")),
    ]
}

fn with(mut module: Module, (quantizer, range, per, bits): (&str, &str, &str, i64)) -> Module {
    let scheme = module.schemes.get_mut("gradients").unwrap();
    scheme.quantizer = quantizer.to_owned();
    for (name, value) in [
        ("range", Attr::Word(range.to_owned())),
        ("per", Attr::Word(per.to_owned())),
        ("bits", Attr::Int(bits)),
    ] {
        scheme.params.insert(name.to_owned(), value);
    }
    module
}

/// Every scheme in every network in a third step, with all rectifiers in turns, and quiet channels in a first one.
fn samples() -> &'static [(String, Step)] {
    static SAMPLES: OnceLock<Vec<(String, Step)>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        let mut all = vec![];
        for (scheme, rectifier) in SCHEMES.into_iter().zip(rectify::ALL.iter().cycle()) {
            for (name, module) in networks(rectifier.name()) {
                all.push((format!("{name}, {scheme:?}"), Step::run(with(module, scheme), 3, 3, |_| ())));
            }
        }
        for bits in [4, 8] {
            all.push((format!("quiet channels, {bits} bits"), Step::run(network(bits), 3, 1, quiet)));
        }
        all
    })
}

/// A gradient and its encoding.
struct Encoded<'a> {
    encoding: String,
    scheme: &'a Scheme,
    bits: u32,
    levels: quant::Levels,
    /// The oracle's gradient of the accumulators, in steps of the grid.
    scaled: Tensor,
    /// How far the fixed point may be off.
    errors: Tensor,
    /// Fixed point before rounding and clipping, in steps of the grid.
    fixed: Tensor,
    /// The step of each channel.
    steps: Vec<f64>,
    /// The step of each element's row in steps of the grid; `None` where rows have none of their own.
    multipliers: Option<Vec<i32>>,
}

impl Encoded<'_> {
    /// Whether a granule has the smallest range that its coefficients allow: 128 units of its source for a channel; for a
    /// tensor, what keeps the shift above the fraction bits.
    fn floored(&self, step: &Step, granule: usize) -> bool {
        let pairs = step.ints(&format!("{}.coef0", self.encoding));
        let whole = 2 * self.steps.len();
        let own = if self.granules(step) == 1 { &pairs[..whole] } else { &pairs[2 * granule..][..2] };
        let largest = own.iter().map(|a| a.abs()).max().unwrap() as f64 * step.fine(&self.encoding);
        let common = self.levels.hi as f64 * (3.0 - f64::from(self.bits)).exp2();
        let least = if self.granules(step) == 1 { common } else { 128.0 };
        least * largest >= 0.97 * self.levels.hi as f64
    }

    /// How many ranges there are.
    fn granules(&self, step: &Step) -> usize {
        if step.dyadics(&format!("{}.step", self.encoding)).len() == 1 { 1 } else { self.steps.len() }
    }
}

/// Quantizers of gradients.
fn quantizers(step: &Step) -> impl Iterator<Item = &Node> {
    step.nodes("quantize").filter(|node| node.attrs.contains_key("stream"))
}

fn encoded<'a>(step: &'a Step, node: &Node) -> Encoded<'a> {
    let (encoding, shape) = (step.encoding(node), step.shape(node.operands[0]));
    let channels = *shape.last().unwrap() as usize;
    let scheme = &step.module.schemes[word(&node.attrs, "scheme")];
    let bits = step.bits(node);
    let (gradient, sources) = by_accumulator(step, node);
    let own = step.dyadics(&format!("{encoding}.step"));
    let steps: Vec<f64> = (0..channels).map(|c| if own.len() == 1 { own[0] } else { own[c] }).collect();
    let inverse: Vec<f64> = steps.iter().map(|s| 1.0 / s).collect();
    let fraction = 16 - bits as i64;
    let unit = (-fraction as f64).exp2();
    let shift = step.int(&format!("{encoding}.shift"));
    let (pairs, offsets) =
        (step.ints(&format!("{encoding}.coef0")), step.ints(&format!("{encoding}.offset")));
    let fixed = |i: usize| {
        let c = i % channels;
        let products = sources.iter().enumerate().map(|(s, (x, _))| pairs[2 * c + s] * x.data[i] as i64);
        let u = offsets[c] + products.sum::<i64>();
        (u >> (shift - fraction)) as f64 * unit
    };
    let errors = |i: usize| {
        let size: f64 = sources.iter().map(|(_, size)| size.data[i]).sum();
        (0.5 * size + 2.0) * step.fine(&encoding) + 1.01 * unit
    };
    let n = gradient.data.len();
    let fixed = Tensor::new(shape.clone(), (0..n).map(fixed).collect());
    let (levels, multipliers) = match step.has_row_scales(node) {
        true => row_multipliers(&fixed, &scheme.params),
        false => (levels(scheme), None),
    };
    Encoded {
        levels,
        scaled: times(&gradient, &inverse),
        errors: Tensor::new(shape, (0..n).map(errors).collect()),
        fixed,
        multipliers,
        encoding,
        scheme,
        bits,
        steps,
    }
}

/// The codes of a scheme without scales of rows.
fn levels(scheme: &Scheme) -> quant::Levels {
    quant::find(&scheme.quantizer).unwrap().levels(quant::bits(&scheme.params), true)
}

/// The steps of the tensor's range, and what each row multiplies its codes by: 2^k or 3·2^k, no more than its extremes need,
/// negative where the larger is positive.
fn row_multipliers(fixed: &Tensor, params: &Attrs) -> (quant::Levels, Option<Vec<i32>>) {
    let most = 1 << (quant::STORED_BITS - quant::bits(params));
    let hi = quant::Levels::symmetric(quant::bits(params)).hi;
    let part = if word(params, "range") == "clip" { real(params, "fraction") } else { 1.0 };
    let channels = *fixed.shape.last().unwrap() as usize;
    let pixels = if fixed.shape.len() == 4 { fixed.shape[2] as usize } else { 1 };
    // Channels of single pixels share a scale.
    let (row, apart) = (pixels * channels, if pixels == 1 { 1 } else { channels });
    let limit = (hi * most) as f64;
    let multiplier = |i: usize| {
        let of_row = || fixed.data[i / row * row..][..row].iter().skip(i % apart).step_by(apart);
        let extreme = |sign: f64| of_row().fold(0.0f64, |known, v| known.max((sign * v).min(limit)));
        let (above, below) = (extreme(1.0), extreme(-1.0));
        let steps = (0..8).flat_map(|k| [1 << k, 3 << k]).filter(|&m| m <= most);
        let covered = |m: &i64| {
            let (short, long) = ((hi * m) as f64, ((hi + 1) * m) as f64);
            above.min(below) * part <= short && above.max(below) * part <= long
        };
        let m = steps.filter(covered).min().unwrap_or(most) as i32;
        if above > below { -m } else { m }
    };
    let levels = quant::Levels { lo: -hi * most, hi: hi * most };
    (levels, Some((0..fixed.data.len()).map(multiplier).collect()))
}

/// A value in steps of the grid with eight bits behind the point in steps of its row, with as many bits as its code leaves
/// of sixteen: times the reciprocal, rounded at both places.
fn by_row(fixed: f64, multiplier: i32, bits: u32) -> f64 {
    let reciprocal = (16384.0 / f64::from(multiplier)).round();
    let point = f64::from(1u32 << (6 + bits));
    let unit = f64::from(1u32 << (16 - bits));
    (fixed * 256.0 * reciprocal / point + 0.5).floor() / unit
}

/// The gradient of a layer's accumulators (of t, where a norm follows) by the oracle, and what it is computed from: integers,
/// and by how much each weighs in the error of its coefficient.
fn by_accumulator(step: &Step, node: &Node) -> (Tensor, Vec<(Tensor, Tensor)>) {
    let (value, layer) = (node.operands[0], step.contraction(&node.path));
    let norm = step.producer(value);
    if norm.op != "batch_norm_grad" {
        let dy = step.gradient(value).expect("the operand is stored");
        let by = step.gradient_unit(value) * step.step_of(layer.operands[0]);
        let scale = step.dyadics(&format!("{}.weight_scale", node.path));
        return (times(&times(&dy, &[by]), &scale), vec![(dy.clone(), dy.map(f64::abs))]);
    }
    let dy = step.gradient(norm.operands[0]).expect("the operand is stored");
    let real_dy = times(&dy, &[step.gradient_unit(norm.operands[0])]);
    let (x, gamma) = (step.forward(norm.operands[1]), step.forward(norm.operands[2]));
    let dx = step.oracle(norm, &[&real_dy, &x, &gamma])[0].clone();
    let dx = times(&dx, &step.dyadics(&format!("{}.unit", node.path)));
    // A constant channel passes no gradient: its gain would be 1/√eps.
    let alive = step.dyadics(&format!("{}.inverse_deviation", norm.path));
    let alive: Vec<f64> = alive.iter().map(|&v| f64::from(u8::from(v > 0.0))).collect();
    // The coefficient of t is a multiple of the rounded one of dy.
    let factor = step.dyadics(&format!("{}.grad_factor", norm.path));
    let factor: Vec<f64> = factor.iter().map(|f| 1.0 + f.abs()).collect();
    let t = step.dense(&format!("{}.t", node.path), &dx.shape);
    let weighs = times(&centred(&t), &factor);
    (times(&dx, &alive), vec![(dy.clone(), centred(&dy)), (t, weighs)])
}

#[test]
fn codes_are_the_rounded_gradients() {
    let mut seen = 0;
    for (name, step) in samples() {
        for node in quantizers(step) {
            let e = encoded(step, node);
            let what = format!("{name}, {}", e.encoding);
            let quantizer = quant::find(&e.scheme.quantizer).unwrap();
            // Coefficients keep six bits beside the quietest channel: 1 % of the largest code.
            let (off, most) = (e.errors.largest(), 0.3 + e.levels.hi as f64 / 100.0);
            assert!(off < most, "{what}: coefficients are fine enough ({off})");
            let shape = &e.scaled.shape;
            let channels = *shape.last().unwrap() as usize;
            let stream = int(&node.attrs, "stream") as u64;
            let key = random::hash_key(step.rounding.seed, step.rounding.step, stream);
            let mut written = vec![];
            if step.has(&format!("{}.blocks", e.encoding)) {
                written.push(step.gradient_blocks(&e.encoding, shape));
            }
            if step.has(&format!("{}.codes", e.encoding)) {
                written.push(step.gradient_image(node, &e.encoding));
            }
            assert!(!written.is_empty(), "{what}: somebody reads it");
            let hi = e.levels.hi as f64;
            for i in 0..e.scaled.data.len() {
                let fixed = e.fixed.data[i].clamp(-hi, hi);
                close(
                    &format!("{what}, value {i}"),
                    fixed,
                    e.scaled.data[i].clamp(-hi, hi),
                    e.errors.data[i],
                );
                let block = (i / channels * channels.div_ceil(16) + i % channels / 16) as u32;
                let bits = random::block(key, block)[i % channels % 16];
                let width = quant::bits(&e.scheme.params);
                let (scaled, by, levels) = match &e.multipliers {
                    Some(of_rows) => {
                        let levels = quant::Levels::twos_complement(width);
                        (by_row(fixed, of_rows[i], width), f64::from(of_rows[i]), levels)
                    }
                    None => (fixed, 1.0, levels(e.scheme)),
                };
                let code = quantizer.encode_f64(scaled, bits, width, levels) as f64 * by;
                for codes in &written {
                    assert_eq!(codes.data[i], code, "{what}: code {i} from {fixed}");
                }
            }
            assert!(written[0].largest() >= 1.0, "{what}: codes are used");
            seen += written.len();
        }
    }
    assert!(seen >= 200, "{seen} encodings");
}

/// What is left after rounding that is unbiased: values before it have neither a gain nor an offset beyond 1 %. So sums of
/// stochastic codes over positions, which dβ and dγ of the layer before are, have none at any width.
#[test]
fn values_before_rounding_are_unbiased() {
    for (name, step) in samples() {
        for node in quantizers(step) {
            let e = encoded(step, node);
            let dot = |a: &Tensor, b: &Tensor| a.data.iter().zip(&b.data).map(|(a, b)| a * b).sum::<f64>();
            let sum = |x: &Tensor| x.data.iter().sum::<f64>();
            let (square, n) = (dot(&e.scaled, &e.scaled), e.scaled.data.len() as f64);
            let gain = dot(&e.fixed, &e.scaled) / square - 1.0;
            let offset = (sum(&e.fixed) - sum(&e.scaled)) / n / (square / n).sqrt();
            assert!(gain.abs() < 0.01, "{name}, {}: a gain of {gain}", e.encoding);
            assert!(offset.abs() < 0.01, "{name}, {}: an offset of {offset} standard deviations", e.encoding);
        }
    }
}

/// Largest |value| of each granule: the tensor, or every channel.
fn largest(x: &Tensor, granules: usize) -> Vec<f64> {
    let mut largest = vec![0.0f64; granules];
    let channels = *x.shape.last().unwrap() as usize;
    for (i, v) in x.data.iter().enumerate() {
        let granule = &mut largest[i % channels % granules];
        *granule = granule.max(v.abs());
    }
    largest
}

#[test]
fn ranges_follow_their_rules() {
    for (name, step) in samples() {
        for node in quantizers(step) {
            let e = encoded(step, node);
            let granules = e.granules(step);
            let (hi, off) = (e.levels.hi as f64, e.errors.largest());
            for (granule, largest) in largest(&e.scaled, granules).into_iter().enumerate() {
                let what = format!("{name}, {}, granule {granule}: {largest} steps", e.encoding);
                match word(&e.scheme.params, "range") {
                    // An exact bound: that of the tensor is tight, that of a channel less so.
                    "bound" => {
                        assert!(largest <= hi + off, "{what}");
                        let tight = if granules == 1 { 0.7 } else { 0.25 };
                        assert!(e.floored(step, granule) || largest >= tight * hi, "{what}");
                    }
                    "max" if e.floored(step, granule) => assert!(largest <= hi + 4.0 * off, "{what}"),
                    "max" => close(&what, largest, hi, 4.0 * off),
                    "clip" if e.multipliers.is_some() => {
                        assert!(largest <= hi + off, "{what}: rows are clipped, not the tensor");
                    }
                    "clip" => {
                        let kept = largest * real(&e.scheme.params, "fraction");
                        assert!(kept <= hi + off, "{what}");
                        assert!(e.floored(step, granule) || kept >= 0.25 * hi, "{what}");
                    }
                    "hindsight" => {
                        let range = step.dyadics_before(&format!("{}.range", e.encoding))[granule];
                        let floored = e.floored(step, granule) && e.steps[granule] * hi > range;
                        let off = if floored { f64::INFINITY } else { range * 1e-7 };
                        close(&what, e.steps[granule] * hi, range, off);
                        check_followed(step, &what, &e, granule, largest);
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The range moves towards the largest value of the step; it sees up to sixteen times itself.
fn check_followed(step: &Step, what: &str, e: &Encoded, granule: usize, largest: f64) {
    let name = format!("{}.range", e.encoding);
    let (before, after) = (step.dyadics_before(&name)[granule], step.dyadics(&name)[granule]);
    let momentum = real(&e.scheme.params, "momentum");
    let size = e.steps[granule];
    let most = (e.bits as f64 + 3.0).exp2();
    let seen = largest.min(most) * size;
    // Four fraction bits less than the codes have.
    let coarse = ((e.bits as f64) - 12.0).exp2();
    let expected = before + momentum * (seen - before);
    close(what, after, expected, momentum * (e.errors.largest() + coarse) * size + before * 1e-6);
}

#[test]
fn a_range_that_is_too_small_grows() {
    let mut grown = 0;
    for (name, module) in networks("log_gain") {
        let scheme = ("stochastic", "hindsight", "tensor", 8);
        let step = Step::run(with(module, scheme), 3, 1, |edit| {
            for name in edit.names().filter(|name| name.contains(".gradient") && name.ends_with(".range")) {
                edit.set(&name, &[packed(1e-15)]);
            }
        });
        for node in quantizers(&step).filter(|node| step.has(&format!("{}.range", step.encoding(node)))) {
            let e = encoded(&step, node);
            let range = format!("{}.range", e.encoding);
            let (before, after) = (step.dyadics_before(&range)[0], step.dyadics(&range)[0]);
            assert!(after > 2.0 * before, "{name}, {}: {before} becomes {after}", e.encoding);
            let largest = largest(&e.scaled, 1)[0];
            check_followed(&step, &format!("{name}, {}", e.encoding), &e, 0, largest);
            grown += usize::from(largest > 2.0 * e.levels.hi as f64);
        }
    }
    assert!(grown >= 6, "{grown} ranges were left behind");
}

/// Units: gradients of weights and inputs as real numbers are those that the oracle makes of the quantized gradient.
#[test]
fn contractions_of_codes_have_the_units_of_the_gradient() {
    for (name, step) in samples() {
        for node in step.module.nodes.iter().filter(|node| node.op.contains("_grad_")) {
            let by_weight = node.op.ends_with("_weight");
            if !by_weight && !node.op.ends_with("_input") {
                continue;
            }
            let what = format!("{name}, {} of {}", node.op, node.path);
            let layer = step.contraction(&node.path);
            let input_scale = step.step_of(layer.operands[0]);
            let weight_scale = step.dyadics(&format!("{}.weight_scale", node.path));
            let q = node.operands[usize::from(by_weight)];
            let (codes, encoding) = (step.gradient_codes(q), step.encoding(step.producer(q)));
            // dL/d accumulator = dL/dy·s_x·s_w.
            let own = step.dyadics(&format!("{encoding}.step"));
            let t = step.producer(step.producer(q).operands[0]).op == "batch_norm_grad";
            let down = if t { -step.int(&format!("{}.acc_shift", node.path)) } else { 0 };
            let channels = *codes.shape.last().unwrap() as usize;
            let unit = |c: usize| {
                let own = if own.len() == 1 { own[0] } else { own[c] };
                own * (down as f64).exp2() / input_scale / weight_scale[c.min(weight_scale.len() - 1)]
            };
            let dy = times(&codes, &(0..channels).map(unit).collect::<Vec<f64>>());
            if by_weight {
                let meant = &step.oracle(node, &[&step.forward(node.operands[0]), &dy])[0];
                let sums = &step.oracle(node, &[&step.codes(node.operands[0]), &codes])[0];
                let unit = step.dyadics(&format!("{}.weight_grad_unit", node.path));
                let per = sums.data.len() / channels;
                for i in 0..sums.data.len() {
                    close(&what, sums.data[i] * unit[i / per], meant.data[i], meant.largest() * 1e-6);
                }
            } else {
                let meant = &step.oracle(node, &[&dy, &step.forward(node.operands[1])])[0];
                let sums = &step.oracle(node, &[&codes, &step.weight_integers(&node.path)])[0];
                let shift = step.int(&format!("{}.grad_shift_now", node.path));
                let unit = step.dyadics(&format!("{}.grad_unit", node.path))[0] * (-shift as f64).exp2();
                for (&sum, &meant_one) in sums.data.iter().zip(&meant.data) {
                    close(&what, sum * unit, meant_one, meant.largest() * 1e-6);
                }
            }
        }
    }
}
