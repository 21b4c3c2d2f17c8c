//! Every quantizer, at every width: codes, errors, bias, and the derivative of its surrogate.

use fqtc::ir::{Attr, Init, Module, Node, Role, TensorType};
use fqtc::ops::{self, Tensor};
use fqtc::oracle::{Rounding, Surrogate, node};
use fqtc::quant::{self, Levels, Quantizer};

use crate::oracle::Noise;
use crate::support::modules;

/// All widths that it has, signed and, for activations, unsigned.
fn forms(quantizer: &dyn Quantizer) -> Vec<(u32, Levels)> {
    let signs: &[bool] = if quantizer.role() == Role::Activations { &[true, false] } else { &[true] };
    let bits = quantizer.params().iter().find(|spec| spec.name == "bits").unwrap();
    let has = |width: &u32| bits.check(&Attr::Int(i64::from(*width))).is_ok();
    (2..=8)
        .filter(has)
        .flat_map(|bits| signs.iter().map(move |&signed| (bits, quantizer.levels(bits, signed))))
        .collect()
}

#[test]
fn codes_stay_in_their_levels_and_near_the_value() {
    for quantizer in quant::ALL {
        for (bits, levels) in forms(*quantizer) {
            let mut noise = Noise(u64::from(bits));
            for trial in 0..2000 {
                let random = (noise.next().abs() * 65536.0) as u16;
                // A quarter of the values lies beyond the levels.
                let scaled = noise.next() * levels.hi as f64 * if trial % 4 == 0 { 3.0 } else { 1.0 };
                let code = quantizer.encode_f64(scaled, random, bits, levels);
                assert!((levels.lo..=levels.hi).contains(&code), "{} {bits}: {code}", quantizer.name());
                let clipped = scaled.clamp(levels.lo as f64, levels.hi as f64);
                let error = (code as f64 - clipped).abs();
                assert!(error <= quantizer.noise(bits), "{} {bits}: {scaled} -> {code}", quantizer.name());
            }
        }
    }
}

/// All codes: every integer of the levels, or zero and the powers of two.
fn codes(quantizer: &dyn Quantizer, levels: Levels) -> impl Iterator<Item = i64> {
    let powers = quantizer.name() == "logarithmic";
    (levels.lo..=levels.hi).filter(move |code| !powers || code.unsigned_abs().count_ones() <= 1)
}

#[test]
fn there_are_as_many_codes_as_bits_name() {
    for quantizer in quant::ALL {
        let widest = if quantizer.name() == "logarithmic" { 4 } else { 8 };
        assert_eq!(forms(*quantizer).last().unwrap().0, widest, "{}", quantizer.name());
        for (bits, levels) in forms(*quantizer) {
            let count = codes(*quantizer, levels).count();
            assert_eq!(count + usize::from(levels.lo < 0), 1 << bits, "{} {bits}", quantizer.name());
        }
    }
}

#[test]
fn codes_encode_to_themselves() {
    for quantizer in quant::ALL {
        for (bits, levels) in forms(*quantizer) {
            for code in codes(*quantizer, levels) {
                for random in [0, 1, 0x7fff, 0x8000, 0xffff] {
                    let again = quantizer.encode_f64(code as f64, random, bits, levels);
                    assert_eq!(again, code, "{} {bits}", quantizer.name());
                }
            }
        }
    }
}

#[test]
fn codes_are_symmetric_or_unsigned() {
    for quantizer in quant::ALL {
        for (bits, levels) in forms(*quantizer) {
            let evenly = -levels.lo == levels.hi && levels.hi == (1 << (bits - 1)) - 1;
            let powers = quantizer.name() == "logarithmic" && -levels.lo == levels.hi && bits <= 4;
            assert!(levels.lo == 0 && levels.hi == (1 << bits) - 1 || evenly || powers);
        }
    }
}

/// Over all patterns that reach the fraction, the mean code of a stochastic quantizer is the value on its fixed point.
#[test]
fn stochastic_rounding_is_unbiased() {
    for quantizer in ["stochastic", "logarithmic"].map(|name| quant::find(name).unwrap()) {
        for (bits, levels) in forms(quantizer) {
            let fraction = 16 - quantizer.stored_bits(bits);
            for fixed in [-77i64, -1, 0, 1, 3, 100, 127, 700, -16000] {
                let scaled = fixed as f64 / f64::from(1u32 << fraction);
                if scaled.abs() > levels.hi as f64 {
                    continue;
                }
                let codes = (0..1u32 << 16).map(|r| quantizer.encode_f64(scaled, r as u16, bits, levels));
                let sum: i64 = codes.sum();
                assert_eq!(sum, fixed << (16 - fraction), "{} {bits}, {fixed}", quantizer.name());
            }
        }
    }
}

/// A module with one activation quantizer on a parameter, and its node.
fn alone(quantizer: &str, signed: bool) -> (Module, Node) {
    let mut module = modules::empty("alone", 2, [2, 2, 1], "stochastic");
    modules::rule(
        &mut module,
        Role::Activations,
        fqtc::ir::Layers::All,
        "under_test",
        quantizer,
        &[("bits", Attr::Int(3))],
    );
    let x = module.param("x", "x", TensorType::real([40]), Init::Constant(0.0));
    let mut operands = vec![x];
    let learned = quant::find(quantizer).unwrap().learned(&module.schemes["under_test"].params);
    operands.extend(
        learned.map(|learned| {
            module.param("x", learned.slot, TensorType::real([]), Init::Constant(learned.init))
        }),
    );
    let attrs =
        modules::attrs(&[("scheme", Attr::Scheme("under_test".into())), ("signed", Attr::Bool(signed))]);
    ops::append(&mut module, "quantize", &operands, attrs, "x", None).unwrap();
    let node = module.nodes[0].clone();
    (module, node)
}

#[test]
fn surrogates_have_the_slope_that_differences_show() {
    for quantizer in quant::ALL.iter().filter(|quantizer| quantizer.role() == Role::Activations) {
        for signed in [true, false] {
            let (mut module, primal) = alone(quantizer.name(), signed);
            let mut noise = Noise(8);
            let x = noise.tensor(&TensorType::real([40]));
            let dy = noise.tensor(&TensorType::real([40]));
            let clip = Tensor::scalar(0.6);
            let learned = primal.operands.len() == 2;
            let mut surrogate = Surrogate::default();
            surrogate.ranges.insert("x".into(), 0.6);
            let objective = |x: &Tensor, clip: &Tensor| {
                let operands = if learned { vec![x, clip] } else { vec![x] };
                let y = node(&module, &primal, &operands, &surrogate);
                y[0].data.iter().zip(&dy.data).map(|(y, dy)| y * dy).sum::<f64>()
            };
            let h = 1e-6;
            let by_x: Vec<f64> = (0..40)
                .map(|i| {
                    let (mut up, mut down) = (x.clone(), x.clone());
                    up.data[i] += h;
                    down.data[i] -= h;
                    (objective(&up, &clip) - objective(&down, &clip)) / (2.0 * h)
                })
                .collect();
            let by_clip =
                (objective(&x, &clip.map(|c| c + h)) - objective(&x, &clip.map(|c| c - h))) / (2.0 * h);
            assert!(by_x.iter().filter(|d| **d == 0.0).count() > 4, "some values are clipped");
            let cotangent = module.param("dy", "dy", TensorType::real([40]), Init::Constant(0.0));
            ops::of(&primal).vjp(&mut module, &primal, &[Some(cotangent)]);
            let gradient = module.nodes[1].clone();
            let operands = if learned { vec![&dy, &x, &clip] } else { vec![&dy, &x] };
            let results = node(&module, &gradient, &operands, &surrogate);
            for (got, want) in results[0].data.iter().zip(&by_x) {
                assert!((got - want).abs() < 1e-6, "{} signed {signed}: {got} {want}", quantizer.name());
            }
            if learned {
                let params = &module.schemes["under_test"].params;
                let want = by_clip + quantizer.penalty_slope(clip.data[0], params);
                assert!((results[1].data[0] - want).abs() < 1e-6, "{} signed {signed}", quantizer.name());
            }
        }
    }
}

/// A scale per channel is that of axis 0 for weights and of the last axis for gradients.
#[test]
fn granules_are_channels() {
    let mut module = modules::empty("granules", 2, [2, 2, 1], "stochastic");
    let channel = ("per", Attr::Word("channel".into()));
    modules::rule(&mut module, Role::Gradients, fqtc::ir::Layers::All, "by_channel", "nearest", &[channel]);
    let x = module.param("x", "x", TensorType::real([2, 3]), Init::Constant(0.0));
    let value = Tensor::new([2, 3], vec![1.0, 20.0, 300.0, 0.5, 10.0, 150.0]);
    for (scheme, stream, ranges) in
        [("weights", None, vec![300.0, 150.0]), ("by_channel", Some(5), vec![1.0, 20.0, 300.0])]
    {
        let mut attrs =
            modules::attrs(&[("scheme", Attr::Scheme(scheme.into())), ("signed", Attr::Bool(true))]);
        attrs.extend(stream.map(|stream| ("stream".to_owned(), Attr::Int(stream))));
        ops::append(&mut module, "quantize", &[x], attrs, "x", None).unwrap();
        let last = module.nodes.last().unwrap();
        let codes = &node(&module, last, &[&value], &Rounding::default())[0];
        for (element, (got, want)) in codes.data.iter().zip(&value.data).enumerate() {
            let range: f64 = if stream.is_some() { ranges[element % 3] } else { ranges[element / 3] };
            let scale = range / 127.0;
            assert!(
                (got / scale - (got / scale).round()).abs() < 1e-9,
                "{got} is not on the grid of {scale}"
            );
            assert!((got - want).abs() <= 0.51 * scale, "{scheme}: {want} became {got}");
        }
    }
}

/// The step of a row of a channel is the smallest that covers it of 2^k and 3·2^k of the tensor's finest steps; its longer
/// side serves the larger values.
#[test]
fn rows_have_steps_of_their_own() {
    let mut module = modules::empty("rows", 1, [2, 2, 1], "stochastic");
    let given = [("per", Attr::Word("row".into())), ("bits", Attr::Int(3))];
    modules::rule(&mut module, Role::Gradients, fqtc::ir::Layers::All, "by_row", "nearest", &given);
    let x = module.param("x", "x", TensorType::real([1, 2, 2, 2]), Init::Constant(0.0));
    // Three codes on one side, four on the other, times up to 32: the largest value is 96 finest steps. 96 and 31 take 24,
    // −13 and 6.5 take 4.
    let value = Tensor::new([1, 2, 2, 2], vec![96.0, 2.8, 31.0, -1.2, -13.0, 0.0, 6.5, 0.2]);
    let attrs = modules::attrs(&[
        ("scheme", Attr::Scheme("by_row".into())),
        ("signed", Attr::Bool(true)),
        ("stream", Attr::Int(1)),
    ]);
    ops::append(&mut module, "quantize", &[x], attrs, "x", None).unwrap();
    let last = module.nodes.last().unwrap();
    let codes = &node(&module, last, &[&value], &Rounding::default())[0];
    assert_eq!(codes.data, [96.0, 3.0, 24.0, -1.0, -12.0, 0.0, 8.0, 0.0]);
}

/// Columns of single pixels have the tensor's scale, and so its clip.
#[test]
fn columns_of_single_pixels_are_clipped_as_a_tensor() {
    let mut module = modules::empty("columns", 1, [2, 2, 1], "stochastic");
    let given = [
        ("per", Attr::Word("row".into())),
        ("range", Attr::Word("clip".into())),
        ("fraction", Attr::Real(0.5)),
        ("bits", Attr::Int(3)),
    ];
    modules::rule(&mut module, Role::Gradients, fqtc::ir::Layers::All, "by_row", "nearest", &given);
    let x = module.param("x", "x", TensorType::real([1, 2, 1, 1]), Init::Constant(0.0));
    let attrs = modules::attrs(&[
        ("scheme", Attr::Scheme("by_row".into())),
        ("signed", Attr::Bool(true)),
        ("stream", Attr::Int(1)),
    ]);
    ops::append(&mut module, "quantize", &[x], attrs, "x", None).unwrap();
    let last = module.nodes.last().unwrap();
    let value = Tensor::new([1, 2, 1, 1], vec![12.0, 5.0]);
    let codes = &node(&module, last, &[&value], &Rounding::default())[0];
    assert_eq!(codes.data, [6.0, 6.0]);
}
