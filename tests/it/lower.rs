//! Lowering of whole models: programs verify and run without a trap.

use fqtc::ir::{Attr, Module, Node, Stage, Value};
use fqtc::kernel::cost::{Class, cost};
use fqtc::kernel::{self, Access, BufferId, DType, Kind, Program};
use fqtc::lower::{Mode, lower};
use fqtc::types::{Kind as Kinds, ParamSpec, flag};
use fqtc::{ops, passes, quant};

use crate::support::models::{Random, compile, overrides};
use crate::support::random_kernels::seeds;
use crate::support::teacher::{Edit, Step};
use crate::support::{modules, random_modules, runs};

fn models() -> Vec<Module> {
    let with = |mut module: Module, range: &str| {
        let params = &mut module.schemes.get_mut("gradients").unwrap().params;
        params.insert("range".into(), Attr::Word(range.into()));
        module
    };
    vec![
        with(modules::mlp(4, 4, "nearest"), "max"),
        with(modules::mlp(4, 4, "stochastic"), "hindsight"),
        modules::mlp(4, 4, "nearest"),
        modules::lenet(4, 12, "nearest"),
        modules::resnet(4, 8, 4, "stochastic"),
        modules::mobile(4, 9, "stochastic"),
        modules::pools(4, 10, "nearest"),
    ]
}

/// The largest start that a parameter may be given.
fn largest(params: &[ParamSpec], name: &str) -> f64 {
    match params.iter().find(|param| param.name == name).map(|param| param.kind) {
        Some(Kinds::Real { hi, .. }) => hi,
        other => panic!("`{name}` is {other:?}"),
    }
}

/// Temporaries share memory: what one holds before it is written is anything.
#[test]
fn nothing_depends_on_what_temporaries_held_before_a_step() {
    let mut rows = modules::resnet(4, 8, 4, "stochastic");
    let params = &mut rows.schemes.get_mut("gradients").unwrap().params;
    params.extend([("per".into(), Attr::Word("row".into())), ("bits".into(), Attr::Int(2))]);
    for module in [models(), vec![rows, modules::signed(4, 8, "logarithmic")]].concat() {
        let step = |change: fn(&mut Edit)| Step::run(module.clone(), 3, 1, change);
        let (clean, spoilt) = (step(|_| ()), step(|edit| edit.spoil_temporaries()));
        let after = spoilt.kept();
        for (name, values) in clean.kept() {
            assert!(after[name] == values, "`{name}` of {}", module.name);
        }
    }
}

/// Shapes at the edges of blocks of lanes, pixels and samples.
#[test]
fn odd_shapes_compile() {
    let compiles = |input: &str, layers: &str, batch: u32| {
        let source = format!(
            "model m {{ input image: {input} classes 10 use recipe bn_plain {layers} train {{ batch {batch} }} }}"
        );
        let module = compile(&source, &overrides("")).unwrap().module;
        fqtc::driver::compile(module).unwrap_or_else(|e| panic!("{input}, {layers}, batch {batch}: {e:?}"));
    };
    for batch in 1..=20 {
        compiles(
            "28x28x1",
            "image |> flatten |> linear(100) |> relu |> linear(33) |> relu |> linear(10)",
            batch,
        );
    }
    for size in ["1x1x1", "2x2x1", "8x3x1", "3x9x3", "5x6x4"] {
        compiles(size, "image |> conv(8, 3x3) |> batch_norm |> relu |> flatten |> linear(10)", 4);
    }
    // Every pixel meets all outputs, and only them.
    compiles("28x28x1", "image |> conv(8, 3x3) |> relu |> flatten |> linear(256) |> relu |> linear(10)", 8);
}

/// Sums over very many channels, and weights of which each has few.
#[test]
fn wide_layers_compile_or_say_why_not() {
    let compiled = |layers: &str, flags: &str| {
        let source = format!(
            "model m {{ input image: 9x9x1 classes 10 use recipe plain image |> {layers} |> linear(10) train {{ batch 2 }} }}"
        );
        fqtc::driver::compile(compile(&source, &overrides(flags)).unwrap().module).map(|_| ())
    };
    let clips = "activations=pact";
    let wide = [
        ("flatten |> linear(8208) |> relu", clips),
        ("flatten |> linear(4112)", clips),
        ("conv(5504, 1x1) |> relu |> depthwise_conv(3x3) |> relu |> global_avg_pool", ""),
    ];
    for (layers, flags) in wide {
        compiled(layers, flags).unwrap_or_else(|e| panic!("{layers}, {flags}: {e:?}"));
    }
    let error = compiled("flatten |> linear(40000) |> relu", clips).unwrap_err();
    assert!(error.code == "E0503" && error.message.contains("one clip"), "{error:?}");
}

#[test]
fn what_is_trained_starts_within_its_fixed_point() {
    let gain = largest(ops::layers().find(|layer| layer.name() == "batch_norm").unwrap().params(), "gain");
    let clip = largest(quant::find("pact").unwrap().params(), "init");
    let source = format!(
        "model m {{ input image: 8x8x3 classes 10 use recipe plain\n\
         image |> conv(16, 3x3) |> batch_norm(gain = {gain}) |> relu |> global_avg_pool |> linear(10) }}"
    );
    let clips = overrides(&format!("activations=pact activations.init={clip}"));
    let module = compile(&source, &clips).unwrap().module;
    let lowered = lower(&passes::run(module, Stage::Bits, |_, _| ()).unwrap(), Mode::Train).unwrap();
    let mut seen = 0;
    for buffer in lowered.program.buffers.iter().filter(|b| b.dtype != DType::Dyadic) {
        for value in
            lowered.initial.get(&buffer.name).into_iter().flat_map(|i| i.values(buffer.len() as usize))
        {
            assert!(buffer.range.lo <= value && value <= buffer.range.hi, "{}: {value}", buffer.name);
            seen += (value > 7 << 28) as u32;
        }
    }
    assert!(seen >= 17, "{seen} values, of 16 gains and clips");
}

#[test]
fn programs_verify_and_run_without_a_trap() {
    for module in models().into_iter().chain(seeds(20).map(random_modules::module)) {
        let module = passes::run(module, Stage::Bits, |_, _| ()).unwrap();
        for mode in [Mode::Train, Mode::Eval, Mode::EvalBatch] {
            let lowered =
                lower(&module, mode).unwrap_or_else(|e| panic!("{} {mode:?}: {}", module.name, e.message));
            let program = lowered.program;
            if let Err(violation) = kernel::verify::program(&program) {
                panic!("{} {mode:?}: {violation}", module.name);
            }
            let mut memory = kernel::interp::Memory::new(&program);
            for (i, buffer) in program.buffers.iter().enumerate() {
                let id = BufferId(i as u32);
                if let Some(initial) = lowered.initial.get(&buffer.name) {
                    memory.write(&program, id, &initial.values(buffer.len() as usize));
                }
                if buffer.kind == Kind::Input {
                    let range = buffer.range;
                    let values: Vec<i64> = (0..buffer.len() as i64)
                        .map(|i| range.lo + i * 7919 % (range.hi - range.lo + 1))
                        .collect();
                    memory.write(&program, id, &values);
                }
            }
            for step in 0..2 {
                kernel::interp::run(&program, &mut memory)
                    .unwrap_or_else(|t| panic!("{} {mode:?} step {step}: {t}", module.name));
            }
        }
    }
}

/// A policy of bit-widths moves what a training step has of them; evaluation has all.
#[test]
fn evaluation_uses_all_bits() {
    for module in models() {
        let mut moving = module.clone();
        let params = [("low", 3), ("cycles", 4)].map(|(name, v)| (name.to_owned(), Attr::Int(v)));
        moving.training.precision = ("cyclic".into(), params.into());
        let text = |module: Module, mode| {
            let module = passes::run(module, Stage::Bits, |_, _| ()).unwrap();
            lower(&module, mode).unwrap().program.to_string()
        };
        for mode in [Mode::Eval, Mode::EvalBatch] {
            assert_eq!(text(module.clone(), mode), text(moving.clone(), mode), "{} {mode:?}", module.name);
        }
        let (fixed, moving) = (text(module, Mode::Train), text(moving, Mode::Train));
        assert!(!fixed.contains("in_force") && moving.contains("in_force"));
    }
}

#[test]
fn contractions_do_the_products_of_their_layers() {
    let compiled = runs::compiled("resnet20.fqt", "");
    let (module, program) = (&compiled.module, &compiled.programs[0]);
    // Each output of a layer takes one product with each weight of its channel.
    let products = |op: &str| -> Vec<u64> {
        let nodes = module.nodes.iter().filter(|node| node.op == op);
        let of = |node: &fqtc::ir::Node| {
            let (weights, out) = (module.ty(node.operands[1]), module.ty(node.results[0]));
            weights.elements().unwrap() * out.elements().unwrap() / out.shape.last().unwrap()
        };
        nodes.map(of).collect()
    };
    let (convs, linear) = (products("conv2d"), products("linear")[0]);
    let (first, all) = (convs[0], convs.iter().sum::<u64>());
    // By hand: 3·9·16 of each of 32² outputs; in the stages 6, 5 and 5 of 16, 32 and 64 channels on as many, the first of the
    // last two reading half; and two shortcuts.
    let stage = |channels: u64, size: u64, convs: u64| 9 * channels * channels * size * size * convs;
    let halves = |channels: u64, size: u64| (9 + 1) * channels / 2 * channels * size * size;
    let by_hand = 3 * 9 * 16 * 1024 + stage(16, 32, 6) + stage(32, 16, 5) + stage(64, 8, 5);
    assert_eq!(all, 128 * (by_hand + halves(32, 16) + halves(64, 8)));
    assert_eq!(linear, 128 * 640);
    let macs = |name: &str| -> u64 {
        let costs = program.calls.iter().map(|call| &program.kernels[call.kernel]);
        let costs: Vec<_> = costs.filter(|kernel| kernel.name == name).map(cost).collect();
        assert!(costs.iter().all(|cost| cost.class == Class::Contraction && cost.macs == 4 * cost.dots));
        costs.iter().map(|cost| cost.macs).sum()
    };
    // Padding: the image has a fourth channel; the ten logits are 16 lanes, or three groups of four where they are summed.
    assert_eq!(macs("contract"), all + first / 3);
    assert_eq!(macs("contract_logits"), linear / 10 * 16);
    assert_eq!(macs("grad_weight"), all + linear / 10 * 16);
    assert_eq!(macs("contract_grad"), all - first + linear / 10 * 12);
}

/// A buffer of NHWC codes: whose they are, its channels, the code of zero, and whether a depthwise convolution's gradient is in
/// it.
struct Codes {
    id: BufferId,
    channels: usize,
    zero: i64,
    own_channels: bool,
}

/// All buffers of codes of a program, by the names that lowering gives.
fn codes(module: &Module, program: &Program) -> Vec<Codes> {
    let layer = |path: &str| {
        let forward = |node: &&Node| node.path == path && node.op != "quantize" && !node.op.contains("_grad");
        module.nodes.iter().find(forward).unwrap_or_else(|| panic!("no layer {path}"))
    };
    let found = program.buffers.iter().enumerate().filter_map(|(i, buffer)| {
        let (path, kind) = buffer.name.strip_suffix(".codes")?.rsplit_once('.')?;
        let (layer, gradient) = (layer(path), kind.starts_with("gradient"));
        let quantized = |node: &&Node| node.op == "quantize" && node.operands[0] == layer.results[0];
        let signed = module.nodes.iter().find(quantized).is_some_and(|node| flag(&node.attrs, "signed"));
        let zero = if gradient { (buffer.range.hi + 1) / 2 } else { 128 * signed as i64 };
        let channels = *module.ty(layer.results[0]).shape.last().unwrap() as usize;
        let own_channels = gradient && layer.op == "depthwise_conv2d";
        Some(Codes { id: BufferId(i as u32), channels, zero, own_channels })
    });
    found.collect()
}

/// Two steps, call by call; `after` may change the codes that a call has written. State and loss at the end.
fn train(module: &Module, mut after: impl FnMut(&Codes, &mut [i64])) -> Vec<(String, Vec<i64>)> {
    let lowered = lower(module, Mode::Train).unwrap();
    let program = lowered.program;
    let codes = codes(module, &program);
    assert!(codes.iter().any(|codes| codes.own_channels && codes.channels % 16 > 0));
    let mut memory = kernel::interp::Memory::new(&program);
    for (i, buffer) in program.buffers.iter().enumerate() {
        let id = BufferId(i as u32);
        let n = buffer.len() as i64;
        if let Some(initial) = lowered.initial.get(&buffer.name) {
            memory.write(&program, id, &initial.values(n as usize));
        }
        if buffer.kind == Kind::Input {
            let values = (0..n).map(|i| buffer.range.lo + i * 7919 % (buffer.range.hi - buffer.range.lo + 1));
            memory.write(&program, id, &values.collect::<Vec<_>>());
        }
    }
    for call in [&program.calls[..], &program.calls[..]].concat() {
        let one = Program { calls: vec![call.clone()], ..program.clone() };
        kernel::interp::run(&one, &mut memory).unwrap_or_else(|trap| panic!("{trap}"));
        let params = &program.kernels[call.kernel].params;
        let written = call.args.iter().zip(params).filter(|(_, param)| param.access != Access::Read);
        for (&id, _) in written {
            let Some(codes) = codes.iter().find(|codes| codes.id == id) else { continue };
            let mut values = memory.read(&program, id);
            let slack = values.len() - 16;
            after(codes, &mut values[..slack]);
            memory.write(&program, id, &values);
        }
    }
    let ends =
        program.buffers.iter().enumerate().filter(|(_, b)| matches!(b.kind, Kind::State | Kind::Output));
    ends.map(|(i, b)| (b.name.clone(), memory.read(&program, BufferId(i as u32)))).collect()
}

#[test]
fn padding_lanes_hold_zero_and_nobody_looks_at_them() {
    let module = passes::run(modules::mobile(2, 6, "stochastic"), Stage::Bits, |_, _| ()).unwrap();
    let padding = |codes: &Codes, i: usize| i % codes.channels.next_multiple_of(16) >= codes.channels;
    let clean = train(&module, |codes, values| {
        let zero = values.iter().enumerate().all(|(i, v)| !padding(codes, i) || *v == codes.zero);
        assert!(zero, "a padding lane of {} channels is not {}", codes.channels, codes.zero);
    });
    let mut random = Random(1);
    let mut poisoned = 0;
    let dirty = train(&module, |codes, values| {
        // The channels of a depthwise convolution are apart, padding included: its gradient stays in its lane.
        let lanes = values.iter_mut().enumerate().filter(|(i, _)| !codes.own_channels && padding(codes, *i));
        for (_, value) in lanes {
            *value = random.below(2 * codes.zero.max(4) as usize) as i64;
            poisoned += 1;
        }
    });
    assert!(poisoned > 10_000, "{poisoned}");
    for ((name, clean), (_, dirty)) in clean.iter().zip(&dirty) {
        assert!(clean == dirty, "`{name}` depends on padding lanes");
    }
}

/// Accumulators of 2-bit codes are small integers, whose variances lie below one: that is not what rounding left of them.
#[test]
fn few_bits_have_gradients() {
    let mut module = modules::mobile(4, 9, "stochastic");
    for scheme in ["weights", "activations"] {
        module.schemes.get_mut(scheme).unwrap().params.insert("bits".into(), Attr::Int(2));
    }
    let step = Step::run(module, 3, 2, |_| ());
    let mut seen = 0;
    let before_norms: Vec<Value> = step.nodes("batch_norm_grad").map(|node| node.results[0]).collect();
    for node in step.nodes("quantize").filter(|node| before_norms.contains(&node.operands[0])) {
        assert!(step.gradient_codes(node.results[0]).largest() > 0.0, "{}: no gradient", node.path);
        seen += 1;
    }
    assert!(seen >= 8, "{seen} layers");
}

/// In a sum of two norms, a channel that is too quiet in one is as loud as ever in the other, whichever comes first: what is
/// loud fills the scale that all share, and what is quiet does not.
#[test]
fn each_norm_of_a_sum_is_judged_by_its_own_variance() {
    const CHANNEL: usize = 2;
    for first in ["conv5", "conv6"] {
        let mut module = modules::resnet(4, 8, 8, "stochastic");
        module.schemes.get_mut("weights").unwrap().params.insert("per".into(), Attr::Word("tensor".into()));
        let sum = module.nodes.iter_mut().find(|node| node.path == "add2").unwrap();
        if first == "conv6" {
            sum.operands.swap(0, 1);
        }
        let step = Step::run(module, 3, 1, |edit| {
            // A weight or two are left.
            edit.scale_channel("conv5.weight", CHANNEL, |v| v / 220);
            edit.scale_channel("conv6.weight", CHANNEL, |v| v >> 3);
        });
        let coefficients = step.ints("relu5.activation.coef0");
        let quiet = 2 * CHANNEL + usize::from(first == "conv6");
        let loud = quiet ^ 1;
        let of = |i: usize| coefficients[i].abs();
        let largest = (0..coefficients.len()).filter(|&i| i != quiet).map(of).max().unwrap();
        assert_eq!(of(quiet), 1 << 14, "{first} first: what is quiet is not constant, and does not fit");
        assert_eq!(largest, of(loud), "{first} first: the least loud has the largest coefficient");
        assert!((1 << 13..1 << 14).contains(&largest), "{first} first: {largest}");
    }
}

/// Codes of 2 bits and a sign have one step to each side; what is less than half of it still tells how far a range is too wide.
#[test]
fn ranges_of_single_codes_follow_the_largest_value() {
    let mut module = modules::signed(4, 8, "stochastic");
    module.schemes.get_mut("activations").unwrap().params.insert("bits".into(), Attr::Int(2));
    let step = Step::run(module, 3, 1, |_| ());
    let mut seen = 0;
    for node in step.activations().filter(|node| flag(&node.attrs, "signed")) {
        let name = format!("{}.activation.range", node.path);
        let largest = step.forward(node.operands[0]).largest();
        let meant = 6.0 + (largest - 6.0) / 16.0;
        let off = (step.dyadics(&name)[0] - meant).abs();
        // A sixteenth of a step, a sixteenth of the way.
        assert!(off <= 6.0 / 256.0, "{}: {off} from {meant}", node.path);
        seen += 1;
    }
    assert!(seen >= 3, "{seen} signed activations");
}
