//! Meaning of model files: merging and precedence, paths, rules, limits, and the examples of the language reference.

use fqtc::diag::Diagnostic;
use fqtc::elaborate::{Elaborated, Overrides, elaborate};
use fqtc::ir::{Attr, Layers, Module, Role};
use fqtc::types::word;
use fqtc::{ir, ops, passes, syntax};

use crate::support::models::{Random, compile, overrides};
use crate::support::snapshots::{check, files};

const RESNET8: &str = include_str!("../../models/resnet8.fqt");

fn elaborated(source: &str, flags: &str) -> Elaborated {
    compile(source, &overrides(flags)).unwrap_or_else(|errors| panic!("{flags}: {errors:#?}"))
}

fn errors(source: &str) -> Vec<Diagnostic> {
    compile(source, &Overrides::default()).err().unwrap_or_default()
}

/// A model around a body.
fn model(body: &str) -> String {
    format!("model m {{ input image: 28x28x1 classes 10 use recipe plain {body} }}")
}

/// The parameters of the scheme of the last rule for a role and scope.
fn scheme<'m>(module: &'m Module, role: Role, layers: &Layers) -> &'m ir::Scheme {
    let rule = module.rules.iter().rev().find(|r| r.target == role && r.layers == *layers).unwrap();
    &module.schemes[rule.scheme.as_ref().unwrap()]
}

fn gradients(module: &Module, layers: &Layers, name: &str) -> Attr {
    scheme(module, Role::Gradients, layers).params[name].clone()
}

#[test]
fn models_elaborate_verify_and_print_the_same_twice() {
    for path in files("models", "fqt") {
        let source = std::fs::read_to_string(&path).unwrap();
        assert!(source.starts_with("// "), "{}: says what it shows", path.display());
        let once = elaborated(&source, "");
        ops::verify::verify(&once.module).unwrap_or_else(|e| panic!("{}: {e:?}", path.display()));
        let text = once.model.to_string();
        let twice = elaborated(&text, "");
        assert_eq!(text, twice.model.to_string(), "{}", path.display());
        assert_eq!(ir::print::print(&once.module), ir::print::print(&twice.module), "{}", path.display());
    }
}

#[test]
fn models_go_through_every_pass() {
    for path in files("models", "fqt") {
        let source = std::fs::read_to_string(&path).unwrap();
        for flags in
            ["", "--gbits 4", "--recipe bn_plain --gbits 2", "gradients.range=hindsight activations=pact"]
        {
            let module = elaborated(&source, flags).module;
            let mut done = 0;
            let last = passes::run(module, ir::Stage::Bits, |_, _| done += 1);
            let last = last.unwrap_or_else(|e| panic!("{} {flags}: {e:?}", path.display()));
            assert_eq!((last.stage, done), (ir::Stage::Bits, passes::ALL.len()));
        }
    }
}

#[test]
fn merged_models_are_as_expected() {
    for path in files("tests/data/models", "flags") {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let model = name.split('-').next().unwrap();
        let flags = std::fs::read_to_string(&path).unwrap();
        let source =
            std::fs::read_to_string(format!("{}/models/{model}.fqt", env!("CARGO_MANIFEST_DIR"))).unwrap();
        check(&path, &elaborated(&source, &flags).model.to_string());
    }
}

#[test]
fn overrides_merge_into_what_elaborates_to_the_same() {
    let flags = [
        "--gbits 4 --wbits 6 --abits 5 --epochs 3 --batch 16 --lr 0.25 --seed 7",
        "basic2.conv1.gradients.bits=8 gradients.per=channel train.epochs=5 optimizer.lr=0.05",
        "basic*.batch_norm2.gain=0.2 rectify=log_gain(strength=0.1) augment=none schedule=one_cycle(rise=0.4)",
        "--recipe bn_plain gradients=nearest(bits=4,range=max) basic2.gradients=none",
        "replace=1",
    ];
    for flags in &flags[..4] {
        let once = elaborated(RESNET8, flags);
        let twice = elaborated(&once.model.to_string(), "");
        assert_eq!(ir::print::print(&once.module), ir::print::print(&twice.module), "{flags}");
    }
    assert!(compile(RESNET8, &overrides(flags[4])).is_err());
}

#[test]
fn a_key_reaches_one_argument_of_one_augmentation() {
    let augment = |flags: &str| {
        let merged = elaborated(RESNET8, flags).model.to_string();
        merged.lines().find(|line| line.trim_start().starts_with("augment")).unwrap().trim().to_owned()
    };
    assert_eq!(augment("augment.mode=mean"), "augment pad_crop(pixels = 4, mode = mean), flip");
    assert_eq!(
        augment("augment=flip,pad_crop(2,mode=mean) augment.pixels=3 augment.mode=reflect"),
        "augment flip, pad_crop(pixels = 3, mode = reflect)"
    );
    let wrong = [
        ("augment=none augment.mode=mean", "E0208"),
        ("augment.mood=mean", "E0202"),
        ("augment.mode=edge", "E0204"),
    ];
    for (flags, code) in wrong {
        let found = compile(RESNET8, &overrides(flags)).err().unwrap_or_default();
        assert_eq!(found.iter().map(|d| d.code).collect::<Vec<_>>(), [code], "{flags}");
    }
}

#[test]
fn later_words_win() {
    let source = "
        model m {
          input image: 28x28x1
          classes 10
          use recipe one
          quantize weights with max_abs(bits = 3)
          quantize activations with running_max(bits = 3)
          image |> flatten |> linear(10)
          train { epochs 3 batch 3 seed 3 }
        }
        recipe one {
          quantize activations with running_max(bits = 4)
          quantize gradients with stochastic(bits = 4)
          train { batch 4 seed 4 }
        }
        recipe two {
          quantize gradients with stochastic(bits = 5)
          train { seed 5 }
        }";
    let bits =
        |module: &Module| Role::ALL.map(|role| scheme(module, role, &Layers::All).params["bits"].clone());
    let numbers = |module: &Module| (module.training.epochs, module.training.batch, module.training.seed);
    let cases = [
        ("", [3, 4, 4], (3, 4, 4)),
        ("--recipe two", [3, 4, 5], (3, 4, 5)),
        ("--recipe two gradients.bits=6 train.seed=6", [3, 4, 6], (3, 4, 6)),
        ("gradients.bits=6 seed=6 --gbits 7 --seed 7", [3, 4, 7], (3, 4, 7)),
        ("gradients.bits=5 gradients.bits=6", [3, 4, 6], (3, 4, 4)),
    ];
    for (flags, expected, training) in cases {
        let module = elaborated(source, flags).module;
        assert_eq!(bits(&module), expected.map(Attr::Int), "{flags}");
        assert_eq!(numbers(&module), training, "{flags}");
    }
}

#[test]
fn gbits_sets_the_broadest_rule_only() {
    let module = elaborated(RESNET8, "--gbits 4").module;
    assert_eq!(gradients(&module, &Layers::All, "bits"), Attr::Int(4));
    assert_eq!(gradients(&module, &Layers::Logits, "bits"), Attr::Int(8));
}

#[test]
fn conditions_follow_the_merged_bits() {
    for (flags, per) in
        [("", "tensor"), ("--gbits 4", "row"), ("gradients.bits=5", "row"), ("gradients.bits=8", "tensor")]
    {
        let module = elaborated(RESNET8, flags).module;
        assert_eq!(gradients(&module, &Layers::All, "per"), Attr::Word(per.into()), "{flags}");
    }
    let module = elaborated(RESNET8, "--gbits 2 gradients.per=tensor").module;
    assert_eq!(gradients(&module, &Layers::All, "per"), Attr::Word("tensor".into()));
}

#[test]
fn keys_change_the_rules_that_hold_with_their_bits() {
    let module = elaborated(RESNET8, "activations.init=4 --abits 4").module;
    assert_eq!(scheme(&module, Role::Activations, &Layers::All).params["init"], Attr::Real(4.0));
    let source = model(
        "at gbits <= 4 { rectify batch_norm with log_gain }
         image |> conv(4, 3x3) |> batch_norm |> relu |> flatten |> linear(10)",
    );
    elaborated(&source, "rectify.strength=0.1 --gbits 4");
    let found = compile(&source, &overrides("rectify.strength=0.1 --gbits 5")).err().unwrap_or_default();
    assert_eq!(found.iter().map(|d| d.code).collect::<Vec<_>>(), ["E0208"]);
    let source = model("image |> flatten |> linear(10)").replace(
        "use recipe plain",
        "quantize weights with max_abs quantize activations with running_max
         at gbits <= 4 { quantize gradients with stochastic(per = channel) }
         at gbits > 4 { quantize gradients with stochastic(per = tensor) }",
    );
    for (flags, per) in [("--gbits 4", "channel"), ("--gbits 5", "tensor")] {
        let module = elaborated(&source, flags).module;
        assert_eq!(gradients(&module, &Layers::All, "per"), Attr::Word(per.into()), "{flags}");
    }
}

#[test]
fn narrow_rules_inherit_what_they_do_not_name() {
    let module = elaborated(RESNET8, "gradients.range=hindsight basic2.conv1.gradients.bits=3").module;
    let narrow = Layers::Path("basic2.conv1".into());
    assert_eq!(gradients(&module, &narrow, "bits"), Attr::Int(3));
    assert_eq!(gradients(&module, &narrow, "range"), Attr::Word("hindsight".into()));
    assert_eq!(gradients(&module, &Layers::All, "bits"), Attr::Int(8));
}

/// So a condition cannot change the bits that it asks for.
#[test]
fn another_quantizer_keeps_the_bits_that_it_can_have() {
    let of = |rules: &str, flags: &str| {
        let source =
            model("use recipe own image |> flatten |> linear(10)") + &format!("recipe own {{ {rules} }}");
        let module = elaborated(&source, flags).module;
        let scheme = scheme(&module, Role::Gradients, &Layers::All);
        (scheme.quantizer.clone(), scheme.params["bits"].clone())
    };
    let few = "quantize gradients with stochastic(bits = 3)";
    let nearest = "at gbits <= 4 { quantize gradients with nearest }";
    assert_eq!(of(&format!("{few} {nearest}"), ""), ("nearest".into(), Attr::Int(3)));
    assert_eq!(of(nearest, "--gbits 4"), ("nearest".into(), Attr::Int(4)));
    assert_eq!(of(few, "gradients=nearest"), ("nearest".into(), Attr::Int(3)));
    assert_eq!(of(few, "gradients=nearest(bits=5)"), ("nearest".into(), Attr::Int(5)));
    // Powers of two have 2 to 4 bits.
    assert_eq!(of(few, "gradients=logarithmic"), ("logarithmic".into(), Attr::Int(3)));
    assert_eq!(of("", "gradients=logarithmic"), ("logarithmic".into(), Attr::Int(4)));
}

/// What a layer reads may have been flattened and pooled before.
#[test]
fn activations_of_a_layer_are_those_that_it_reads() {
    let body = "quantize activations of last with running_max(bits = 3)
        image |> conv(16, 3x3) |> relu |> conv(16, 3x3) |> relu |> max_pool(2) |> flatten |> linear(10)";
    let module = elaborated(&model(body), "").module;
    let module = passes::run(module, ir::Stage::Bits, |_, _| ()).unwrap();
    let bits = |path: &str| {
        let node = module.nodes.iter().find(|node| node.op == "quantize" && node.path == path).unwrap();
        module.schemes[word(&node.attrs, "scheme")].params["bits"].clone()
    };
    assert_eq!([bits("relu1"), bits("relu2")], [8, 3].map(Attr::Int));
}

/// Whatever rules meet in a layer, each changes only what it names.
#[test]
fn rules_that_meet_in_a_layer_add_up() {
    let of = |flags: &str, layer: &str| {
        let once = elaborated(RESNET8, flags);
        let again = elaborated(&once.model.to_string(), "");
        assert_eq!(ir::print::print(&once.module), ir::print::print(&again.module), "{flags}");
        let value = |name| gradients(&once.module, &Layers::Path(layer.to_owned()), name);
        (value("bits"), value("range"))
    };
    let expected = |bits, range: &str| (Attr::Int(bits), Attr::Word(range.to_owned()));
    // The recipe gives logits 8 bits.
    assert_eq!(of("--gbits 2 linear1.gradients.range=max", "linear1"), expected(8, "max"));
    assert_eq!(of("--gbits 2 *.gradients.range=max", "linear1"), expected(8, "max"));
    assert_eq!(of("--gbits 2 *.gradients.range=max", "conv1"), expected(2, "max"));
    let flags = "--gbits 4 basic2.gradients.bits=8 *.conv1.gradients.range=max";
    assert_eq!(of(flags, "basic2.conv1"), expected(8, "max"));
    assert_eq!(of(flags, "basic1.conv1"), expected(4, "max"));
    assert_eq!(of(flags, "basic2.conv2").0, Attr::Int(8));
    let flags = "--gbits 4 first.gradients.bits=8 conv1.gradients.range=max";
    assert_eq!(of(flags, "conv1"), expected(8, "max"));
    // The last layer gives the logits.
    assert_eq!(of("--gbits 2 last.gradients.range=max", "linear1"), expected(8, "max"));
}

#[test]
fn patterns_reach_each_layer_that_matches() {
    let module = elaborated(RESNET8, "basic*.conv2.gradients.bits=3").module;
    let reached: Vec<&Layers> =
        module.rules.iter().map(|r| &r.layers).filter(|l| matches!(l, Layers::Path(_))).collect();
    let expected = [1, 2, 3].map(|i| Layers::Path(format!("basic{i}.conv2")));
    assert_eq!(reached, expected.iter().collect::<Vec<_>>());
    // The loss is no layer that `*` could mean.
    for subject in ["weights", "activations", "gradients"] {
        elaborated(RESNET8, &format!("*.{subject}.bits=5"));
    }
}

#[test]
fn layers_that_nothing_reads_are_no_part_of_the_network() {
    let parts = |unused: &str| {
        let body = format!("y = image |> conv(4, 3x3) |> relu {unused} y |> flatten |> linear(10)");
        let module = elaborated(&model(&body), "").module;
        let last = passes::run(module, ir::Stage::Bits, |_, _| ()).unwrap();
        let ops: Vec<String> =
            last.nodes.iter().map(|node| format!("{} at {}", node.op, node.path)).collect();
        (ops, last.params.into_iter().map(|param| param.name).collect::<Vec<_>>())
    };
    assert_eq!(parts("unused = image |> conv(8, 3x3) |> batch_norm |> relu |> conv(3, 3x3)"), parts(""));
    assert_eq!(parts("unused = y |> relu |> relu"), parts(""));
}

#[test]
fn layers_of_many_blocks_have_different_names() {
    let body =
        "block a(x) { return x |> conv(4, 3x3) |> relu } block a1(x) { return x |> conv(4, 3x3) |> relu }
                image |> a * 11 |> a1 |> flatten |> linear(10)";
    let module = elaborated(&model(body), "").module;
    let names: Vec<&str> = module.params.iter().map(|param| param.name.as_str()).collect();
    assert!(names.contains(&"a11.conv1.weight") && names.contains(&"a12.conv1.weight"), "{names:?}");
}

#[test]
fn layers_are_named_by_binding_or_ordinal() {
    let source = model(
        "block b(x) { y = x |> conv(8, 3x3)  return add(y, x |> conv(8, 1x1)) |> relu }
         conv2 = conv(image, 8, 3x3)
         body = conv2 |> conv(8, 3x3) |> conv(8, 3x3) |> b * 2
         end = body |> b
         head = end |> flatten
         result = linear(head, 10)
         result",
    );
    let module = elaborated(&source, "").module;
    let weights: Vec<&str> = module.params.iter().filter_map(|p| p.name.strip_suffix(".weight")).collect();
    let expected = "conv2 conv1 conv3 b1.y b1.conv1 b2.y b2.conv1 end.y end.conv1 result";
    assert_eq!(weights.join(" "), expected);
}

#[test]
fn biases_are_where_no_norm_follows() {
    let source = model(
        "a = image |> conv(8, 3x3)
         b = a |> batch_norm |> conv(8, 3x3)
         c = add(b |> batch_norm, b) |> conv(8, 3x3) |> batch_norm
         c |> conv(8, 3x3, bias = false) |> flatten |> linear(10)",
    );
    let biased = |flags: &str| {
        let module = elaborated(&source, flags).module;
        let names = module.params.iter().filter_map(|p| p.name.strip_suffix(".bias").map(str::to_owned));
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(biased(""), "conv1 linear1");
    assert_eq!(biased("batch_norm.eps=1e-3"), "conv1 linear1");
    assert_eq!(
        elaborated(&source, "").module.params.iter().filter(|p| p.name.ends_with(".gamma")).count(),
        3
    );
    let plain = source.replace("use recipe plain", "use recipe plain replace batch_norm with nothing");
    let module = elaborated(&plain, "").module;
    assert_eq!(module.params.iter().filter(|p| p.name.ends_with(".bias")).count(), 4);
}

#[test]
fn replacements_change_layers_in_place() {
    let gains = |flags: &str| {
        let module = elaborated(RESNET8, flags).module;
        let gammas = module.params.iter().filter(|p| p.name.ends_with("batch_norm2.gamma"));
        gammas.map(|p| p.init.clone()).collect::<Vec<_>>()
    };
    let one = ir::Init::Constant(1.0);
    let small = ir::Init::Constant(0.25);
    assert_eq!(gains(""), [one.clone(), one.clone(), one.clone()]);
    assert_eq!(gains("basic2.batch_norm2.gain=0.25"), [one.clone(), small.clone(), one]);
    assert_eq!(gains("basic*.batch_norm2.gain=0.25"), [small.clone(), small.clone(), small.clone()]);
    // Patterns that meet in a layer add up, whichever comes first.
    let crossing = "basic*.batch_norm2.gain=0.25 basic1.batch_norm*.eps=0.01";
    assert_eq!(gains(crossing), [small.clone(), small.clone(), small]);
    let norms = elaborated(RESNET8, crossing).module.nodes;
    let eps = |path: &str| norms.iter().find(|n| n.path == path).map(|n| n.attrs["eps"].clone());
    assert_eq!(eps("basic1.batch_norm2"), Some(Attr::Real(0.01)));
    assert_ne!(eps("basic2.batch_norm2"), eps("basic1.batch_norm2"));
}

#[test]
fn static_numbers_follow_the_usual_rules() {
    let source = model(
        "block b(x, n, half = n / 2) {
           y = if half * 2 == n and not_one != 1 { x } else { x }
           return y
         }
         image |> flatten |> linear(10)",
    );
    // An unused block is only parsed.
    assert!(errors(&source).is_empty());
    for (expression, features) in [
        ("1 + 2 * 3", 7),
        ("(1 + 2) * 3", 9),
        ("20 - 8 - 2", 10),
        ("64 / 8 / 2", 4),
        ("-3 + 8", 5),
        ("-(3 - 8)", 5),
        ("if 2 < 3 and 3 <= 3 or 1 / 1 == 2 { 6 } else { 7 }", 6),
        ("if 2 > 3 { 1 } else if 2 >= 2 { 2 } else { 3 }", 2),
        ("if true == false { 1 } else { 2 }", 2),
        ("if 0.5 + 1 > 1.4 { 3 } else { 4 }", 3),
    ] {
        let source = model(&format!("n = {expression} image |> flatten |> linear(n) |> linear(10)"));
        let module = elaborated(&source, "").module;
        assert_eq!(module.params[0].ty.shape[0], features, "{expression}");
    }
}

#[test]
fn big_inputs_end_quickly_with_a_diagnostic() {
    let million = 1 << 20;
    let chain =
        |n: usize| (0..n).map(|i| format!("block b{i}(x) {{ return x |> b{} }} ", i + 1)).collect::<String>();
    let cases = [
        ("(".repeat(million), "E0103"),
        ("{".repeat(million), "E0103"),
        (format!("model m {{ {} }}", "if 1 == 1 { 1 } else ".repeat(40_000)), "E0101"),
        (model(&format!("x = {} 1", "if 1 == 2 { 1 } else if 1 == 2 { 1 } else ")), "E0101"),
        (
            model(&format!("x = if 1 == 2 {{ 1 }} {} else {{ 2 }}", "else if 1 == 2 { 1 } ".repeat(20_000))),
            "E0103",
        ),
        (model(&format!("x = 1{}", " - 1".repeat(100_000))), "E0103"),
        (model(&format!("image {}", "|> relu ".repeat(100_000))), "E0103"),
        (model(&format!("{} image |> b0", chain(5_000))), "E0304"),
        (model(&format!("image |> flatten |> linear({})", "1, ".repeat(100_000))), "E0202"),
        (model(&"y = 1 ".repeat(100_000)), "E0205"),
        (format!("model m {{ input image: 1{} }}", "x1".repeat(400_000)), "E0209"),
        ("/".repeat(million), "E0209"),
        ("x ".repeat(million / 2), "E0101"),
        ("model ".repeat(100_000), "E0101"),
        ("recipe r { } ".repeat(50_000), "E0205"),
        (model(&format!("x = {}", "if ".repeat(200_000))), "E0103"),
        (model(&(0..60_000).map(|i| format!("a{i} = b{i} ")).collect::<String>()), "E0201"),
        (model(&(0..50_000).map(|i| format!("block b{i}() {{}} ")).collect::<String>()), "E0209"),
        (model(&"quantize weights of image with max_abs ".repeat(20_000)), "E0304"),
    ];
    for (source, code) in cases {
        let start = std::time::Instant::now();
        let found = errors(&source);
        let head: String = source.chars().take(60).collect();
        assert!(found.iter().any(|d| d.code == code), "{head}: {:?}", found.first());
        assert!(start.elapsed().as_secs() < 10, "{head}: {:?}", start.elapsed());
    }
}

#[test]
fn deep_nesting_within_the_limits_is_no_problem() {
    let parens = format!("n = {}1{}", "(".repeat(100), ")".repeat(100));
    assert!(errors(&model(&format!("{parens} image |> flatten |> linear(10)"))).is_empty());
    let blocks: String = (0..90)
        .map(|i| format!("block b{i}(x) {{ return {}x |> b{}{} }} ", "(".repeat(60), i + 1, ")".repeat(60)))
        .collect();
    let found =
        errors(&model(&format!("{blocks} block b90(x) {{ return x }} image |> b0 |> flatten |> linear(10)")));
    assert!(found.iter().all(|d| d.code == "E0304"), "{found:?}");
}

/// Anything that the parser and the elaborator make of a text, except a panic.
fn survives(source: &str, flags: &Overrides) {
    let Ok(file) = syntax::file(source) else { return };
    let text = file.to_string();
    let again = syntax::file(&text).unwrap_or_else(|e| panic!("{source}\n{text}\n{e:?}"));
    assert_eq!(file, again, "{source}");
    if let Ok(elaborated) = elaborate(&file, flags) {
        ops::verify::verify(&elaborated.module).unwrap_or_else(|e| panic!("{source}: {e:?}"));
    }
}

#[test]
fn mutated_models_never_panic() {
    let sources: Vec<String> = files("models", "fqt")
        .iter()
        .chain(&files("models/recipes", "fqt"))
        .map(|p| std::fs::read_to_string(p).unwrap())
        .collect();
    let words: Vec<&str> =
        sources.iter().flat_map(|s| s.split_inclusive([' ', '\n', '(', ')', ','])).collect();
    let numbers =
        ["0", "-1", "2", "33", "65536", "2147483648", "9223372036854775807", "1e308", "0x0", "3x", "é", "\0"];
    let mut random = Random(1);
    for round in 0..4000 {
        let mut parts: Vec<&str> =
            sources[round % sources.len()].split_inclusive([' ', '\n', '(', ')', ',']).collect();
        for _ in 0..=random.below(4) {
            let at = random.below(parts.len());
            match random.below(4) {
                0 => drop(parts.remove(at)),
                1 => parts.insert(at, words[random.below(words.len())]),
                2 => parts[at] = numbers[random.below(numbers.len())],
                _ => {
                    let other = random.below(parts.len());
                    parts.swap(at, other);
                }
            }
        }
        survives(&parts.concat(), &Overrides::default());
    }
}

#[test]
fn random_text_never_panics() {
    let alphabet: Vec<char> = "modelrcipx=|>(){},.:*-+/<0123456789 \n\"é😀_ifatw\u{0}".chars().collect();
    let mut random = Random(2);
    for _ in 0..1000 {
        let length = random.below(80);
        let text: String = (0..length).map(|_| alphabet[random.below(alphabet.len())]).collect();
        survives(&text, &Overrides::default());
        survives(&model(&text), &Overrides::default());
        let mut flags = Overrides { recipe: Some(text.clone()), ..Overrides::default() };
        flags.set.push((text.clone(), text));
        survives(RESNET8, &flags);
    }
}

#[test]
fn random_keys_never_panic() {
    let parts = [
        "gradients",
        "weights",
        "bits",
        "basic1",
        "conv1",
        "batch_norm",
        "gain",
        "rectify",
        "train",
        "optimizer",
        "lr",
        "*",
        "",
        "first",
    ];
    let values = ["4", "none", "stochastic(bits=4)", "channel", "-1", "1e9", "3x3", "a,b", "0.5"];
    let mut random = Random(3);
    for _ in 0..500 {
        let key: Vec<&str> = (0..=random.below(4)).map(|_| parts[random.below(parts.len())]).collect();
        let set = vec![(key.join("."), values[random.below(values.len())].to_owned())];
        survives(RESNET8, &Overrides { set, ..Overrides::default() });
    }
}

/// The fenced examples of the reference; `error: E0201` in the line before says which error one shows.
#[test]
fn examples_of_the_reference_compile() {
    let text = include_str!("../../grammar/README.md");
    let mut count = 0;
    let mut pieces = text.split("```fqt\n");
    let mut before = pieces.next().unwrap();
    for piece in pieces {
        let (example, after) = piece.split_once("```").unwrap();
        let expected = before.trim_end().rsplit('\n').next().unwrap().strip_prefix("error: ");
        let found: Vec<&str> = errors(example).iter().map(|d| d.code).collect();
        match expected {
            None => assert!(found.is_empty(), "{example}\n{:#?}", errors(example)),
            Some(code) => assert_eq!(found, [code], "{example}"),
        }
        count += 1;
        before = after;
    }
    assert!(count >= 5, "{count} examples");
}
