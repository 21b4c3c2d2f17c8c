//! The text of modules: it reads back as it was, junk is an error with a place, and the verifiers blame the right line.

use fqtc::diag::Diagnostic;
use fqtc::elaborate::Overrides;
use fqtc::ir::{Module, Stage, parse::parse, print::print};
use fqtc::{ops, passes};

use crate::support::random_kernels::seeds;
use crate::support::random_modules::Choices;
use crate::support::{models, modules, random_modules, snapshots};

fn without_places(mut module: Module) -> Module {
    module.nodes.iter_mut().for_each(|node| node.span = None);
    module
}

fn check_round_trip(module: &Module) {
    let text = print(module);
    let again = parse(&text).unwrap();
    assert_eq!(print(&again), text);
    assert_eq!(&without_places(again), module);
}

#[test]
fn text_reads_back_after_every_pass() {
    let known = [
        modules::resnet(2, 8, 4, "stochastic"),
        modules::lenet(2, 12, "nearest"),
        modules::mlp(2, 4, "nearest"),
    ];
    let random = seeds(30).map(random_modules::module);
    for module in known.into_iter().chain(random) {
        passes::run(module, Stage::Bits, |_, module| check_round_trip(module)).unwrap();
    }
}

#[test]
fn model_files_pass_through_every_stage() {
    for path in snapshots::files("models", "fqt") {
        let source = std::fs::read_to_string(&path).unwrap();
        let module = models::compile(&source, &Overrides::default()).unwrap().module;
        let module =
            passes::run(module, Stage::Bits, |_, module| check_round_trip(&without_places(module.clone())))
                .unwrap();
        let grouped =
            |op: &str| module.nodes.iter().filter(|node| node.op == op).all(|node| node.group.is_some());
        for op in [
            "conv2d",
            "batch_norm",
            "batch_norm_grad",
            "conv2d_grad_input",
            "conv2d_grad_weight",
            "relu_grad",
        ] {
            assert!(grouped(op), "{}: an {op} is in no group", path.display());
        }
    }
}

fn read(text: &str) -> Result<Module, Diagnostic> {
    let module = parse(text)?;
    ops::verify::verify(&module)?;
    Ok(module)
}

/// A file has `//@ error: text` on the line to blame, or on its first line where the error has no place.
#[test]
fn the_line_to_blame_is_blamed() {
    for path in snapshots::files("tests/data/verify", "fqtir") {
        let text = std::fs::read_to_string(&path).unwrap();
        let (line, message) = text
            .lines()
            .enumerate()
            .find_map(|(number, line)| Some((number, line.split_once("//@ error: ")?.1)))
            .unwrap_or_else(|| panic!("{}: no directive", path.display()));
        let Err(error) = read(&text) else { panic!("{}: accepted", path.display()) };
        assert!(error.message.contains(message), "{}: {}", path.display(), error.message);
        let blamed = error.labels.first().map_or(0, |label| text[..label.span.start].matches('\n').count());
        assert_eq!(blamed, line, "{}: {error:?}", path.display());
    }
}

/// Whatever is done to a text: reading it, and compiling what reads, ends with a module or a diagnostic.
#[test]
fn damaged_text_never_panics() {
    let mut accepted = 0;
    for seed in seeds(400) {
        let stages = [Stage::Forward, Stage::Training, Stage::Quantized, Stage::Fused];
        let mut choices = Choices(seed);
        let stage = stages[choices.below(4) as usize];
        let module = passes::run(random_modules::module(seed % 7), stage, |_, _| {}).unwrap();
        let mut text = print(&module);
        for _ in 0..1 + choices.below(3) {
            damage(&mut text, &mut choices);
        }
        if let Ok(module) = read(&text) {
            accepted += 1;
            // Errors of passes are fine; only panics are not.
            drop(passes::run(module, Stage::Bits, |_, _| {}));
        }
    }
    assert!(accepted > 10, "the damage leaves {accepted} modules: too few to test passes");
}

/// Replaces, doubles or removes a word, or swaps two.
fn damage(text: &mut String, choices: &mut Choices) {
    let mut words: Vec<&str> = text.split_inclusive([' ', '\n', ',', ')', ']', '}']).collect();
    let (at, other) =
        (choices.below(words.len() as u64) as usize, choices.below(words.len() as u64) as usize);
    match choices.below(5) {
        0 => words[at] = words[other],
        1 => words.swap(at, other),
        2 => {
            words.remove(at);
        }
        3 => words.insert(at, words[other]),
        _ => {
            words[at] =
                ["%0 ", "9999999999999999999999 ", "-1 ", "0 ", "@weights ", "1e999 ", "2 ", "{ "][other % 8]
        }
    }
    *text = words.concat();
}
