//! One run, one result: interpreter and code, every target, any thread count, straight or resumed.

use std::sync::atomic::AtomicBool;

use fqt_runtime::arena::Arena;
use fqt_runtime::augment::Augmentation;
use fqt_runtime::data::Dataset;
use fqt_runtime::program::{Artifact, Slot};
use fqt_runtime::session::{Mode, Session};
use fqt_runtime::train::{LAST, Options, train};
use fqtc::codegen::jit::JitStep;
use fqtc::driver::Compiled;
use fqtc::kernel::cost::{Class, cost};
use fqtc::kernel::interp;

use crate::support::runs;

const SEED: u64 = 11;

fn bytes<'a>(arena: &'a [u8], slot: &Slot) -> &'a [u8] {
    &arena[slot.offset as usize..][..slot.bytes() as usize]
}

/// One training step by the interpreter on an arena that was planned.
fn interpret(compiled: &Compiled, arena: &mut [u8]) {
    let Artifact { train, args, .. } = &compiled.artifact;
    for call in train.calls() {
        let kernel = &compiled.programs[0].kernels[call.kernel as usize];
        let args = &args[call.args as usize..][..kernel.params.len()];
        interp::run_kernel(kernel, arena, args, 0, call.items).unwrap_or_else(|trap| panic!("{trap}"));
    }
}

/// What a step leaves behind: all that later steps and the user can see.
fn outcome(artifact: &Artifact) -> impl Iterator<Item = &Slot> {
    artifact.state.iter().chain([&artifact.loss, &artifact.predictions])
}

fn assert_equal(artifact: &Artifact, got: &[u8], expected: &[u8], what: &str) {
    for slot in outcome(artifact) {
        let (got, expected) = (bytes(got, slot), bytes(expected, slot));
        if let Some(at) = (0..got.len()).find(|&i| got[i] != expected[i]) {
            panic!("{what}: byte {at} of `{}` is {}, not {}", slot.name, got[at], expected[at]);
        }
    }
}

/// Trains `steps` steps in lockstep everywhere: by the interpreter, on every target, on one, two and three threads.
fn check_steps(file: &str, words: &str, steps: u64) {
    let best = runs::targets_here().len() - 1;
    let mut on: Vec<(usize, usize)> = (0..=best).map(|target| (target, 1 + target % 2)).collect();
    on.extend([(best, 1), (best, 3)]);
    check_on(file, &runs::compiled(file, words), steps, on);
}

/// The same on some targets, each with a number of threads.
fn check_on(file: &str, compiled: &Compiled, steps: u64, on: Vec<(usize, usize)>) {
    let artifact = &compiled.artifact;
    let batch = artifact.batch as usize;
    let data = runs::images(compiled, batch * steps as usize);
    let targets = runs::targets_here();
    let mut sessions: Vec<(String, Session)> = on
        .into_iter()
        .map(|(target, threads)| {
            let what = format!("{file} on {}, {threads} threads", targets[target].name);
            let mut session = runs::session(compiled, targets[target], threads);
            session.start(SEED, &data.mean_pixel(), steps);
            (what, session)
        })
        .collect();
    let mut reference: Vec<u8> = sessions[0].1.arena().bytes().to_vec();
    let start = reference.clone();
    for step in 0..steps {
        let samples: Vec<u32> = (0..batch).map(|i| (step as usize * batch + i) as u32).collect();
        for (_, session) in &mut sessions {
            session.load(&data.train, &samples, None);
        }
        for input in [&artifact.images, &artifact.labels] {
            let loaded = bytes(sessions[0].1.arena().bytes(), input);
            reference[input.offset as usize..][..loaded.len()].copy_from_slice(loaded);
        }
        interpret(compiled, &mut reference);
        for (what, session) in &mut sessions {
            session.run(Mode::Train);
            let what = format!("{what}, step {step}");
            assert_equal(artifact, session.arena().bytes(), &reference, &what);
        }
    }
    for slot in &artifact.parameters {
        let moved = bytes(&reference, slot) != bytes(&start, slot);
        assert!(moved, "{file}: `{}` did not learn in {steps} steps", slot.name);
    }
}

#[test]
fn every_executor_trains_a_residual_network_to_the_same_bits() {
    check_steps("resnet8.fqt", "--batch 8 --gbits 4", 3);
}

#[test]
fn every_executor_trains_a_network_without_batch_norm_to_the_same_bits() {
    check_steps("lenet5.fqt", "--batch 8 --gbits 4", 3);
}

#[test]
fn every_executor_trains_bits_that_cycle_to_the_same_bits() {
    // Of four steps, the first and third begin a cycle.
    check_steps("lenet5.fqt", "--batch 8 --gbits 4 precision=cyclic(low=3,cycles=2)", 4);
    check_steps("resnet8.fqt", "--batch 8 precision=cyclic(low=2,cycles=1) activations=pact", 3);
}

#[test]
fn every_executor_trains_max_pools_and_wide_layers_to_the_same_bits() {
    check_steps("vgg_small.fqt", "--batch 1 --gbits 4", 2);
}

#[test]
fn every_executor_trains_a_deeper_network_to_the_same_bits() {
    check_steps("resnet32.fqt", "--batch 2 --gbits 4", 2);
}

#[test]
fn every_executor_trains_depthwise_convolutions_to_the_same_bits() {
    check_steps("mobilenet_v2.fqt", "--batch 2 --gbits 4", 2);
}

#[test]
fn bottlenecks_and_overlapping_pools_train_to_the_same_bits() {
    // Every kind of layer of the network at a size that the interpreter can do; channels are no multiples of 16.
    let changes = [
        ("224x224x3", "48x48x3"),
        ("conv(64,", "conv(20,"),
        ("bottleneck(64", "bottleneck(10"),
        ("bottleneck(128", "bottleneck(12"),
        ("bottleneck(256", "bottleneck(17"),
        ("bottleneck(512", "bottleneck(24"),
    ];
    let compiled = runs::changed("resnet50.fqt", "--batch 2 --gbits 4", &changes);
    check_on("resnet50.fqt", &compiled, 2, vec![(runs::targets_here().len() - 1, 2)]);
}

#[test]
fn fingerprints_name_what_is_trained() {
    let of = |words: &str| runs::compiled("resnet8.fqt", words).fingerprint();
    let compiled = runs::compiled("resnet8.fqt", "--batch 4");
    let same = compiled.fingerprint();
    assert_eq!(of("--batch 4"), same);
    // Other integers, and other weights to begin with.
    for words in ["--batch 4 --gbits 4", "--batch 4 --seed 5", "--batch 4 optimizer.lr=0.3"] {
        assert_ne!(of(words), same, "{words}");
    }
    // Every byte that is there before the first step counts.
    for part in 0..compiled.artifact.initial.len() {
        let mut other = compiled.clone();
        *other.artifact.initial[part].1.last_mut().unwrap() ^= 1;
        assert_ne!(other.fingerprint(), same, "part {part}");
    }
    // Tests of the network, which training does not need.
    let mut other = compiled.clone();
    other.programs[1].calls.pop();
    assert_ne!(other.fingerprint(), same);
    // Where it all lies does not count.
    let mut moved = compiled.clone();
    moved.plan.offsets.iter_mut().flatten().for_each(|offset| *offset += 1);
    moved.artifact.initial.iter_mut().for_each(|(offset, _)| *offset += fqtc::plan::UNIT);
    assert_eq!(moved.fingerprint(), same);
}

fn run(session: &mut Session, data: &Dataset, options: Options) -> bool {
    train(session, data, &options, &mut ()).unwrap().finished
}

fn state<'a>(artifact: &Artifact, arena: &'a Arena) -> Vec<&'a [u8]> {
    artifact.state.iter().map(|slot| arena.slot_bytes(slot)).collect()
}

#[test]
fn a_run_resumed_elsewhere_ends_like_the_straight_one() {
    let fixed = check_resumed("--batch 8 --gbits 4");
    // Stopped in the middle of a cycle, and where one begins.
    let cyclic = check_resumed("--batch 8 --gbits 4 precision=cyclic(low=3,cycles=5)");
    assert_ne!(fixed, cyclic);
}

/// Trains two epochs at once and in three parts; gives the hash of the weights.
fn check_resumed(words: &str) -> String {
    let compiled = runs::compiled("resnet8.fqt", words);
    let artifact = &compiled.artifact;
    let data = runs::images(&compiled, 44);
    let targets = runs::targets_here();
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    let straight = Options {
        epochs: 2,
        seed: SEED,
        augmentation: Augmentation { pad_crop: 4, flip: true, ..Augmentation::default() },
        max_steps: None,
        folder: None,
        resume: None,
        stop: &stop,
    };
    let mut expected = runs::session(&compiled, targets[0], 1);
    assert!(run(&mut expected, &data, straight));
    assert_eq!(expected.steps_done(), 10, "five whole batches an epoch");

    // Stopped in the middle of each epoch, each time continued on another target and other threads.
    let checkpoint = folder.path().join(LAST);
    let part = Options { folder: Some(folder.path()), ..straight };
    let legs = [(Some(3), None), (Some(8), Some(&*checkpoint)), (None, Some(&*checkpoint))];
    let mut last = None;
    for (leg, (max_steps, resume)) in legs.into_iter().enumerate() {
        let target = targets[(targets.len() - 1).saturating_sub(leg)];
        let mut session = runs::session(&compiled, target, 3 - leg);
        let finished = run(&mut session, &data, Options { max_steps, resume, ..part });
        assert_eq!(finished, max_steps.is_none());
        last = Some(session);
    }
    let last = last.unwrap();
    assert_eq!(last.weights_hash(), expected.weights_hash());
    assert!(state(artifact, last.arena()) == state(artifact, expected.arena()), "state besides weights");
    expected.weights_hash()
}

/// Clocks around contractions change nothing, and every contraction of a wide target has been inside of one.
#[test]
fn clocks_change_no_result() {
    let compiled = runs::compiled("resnet8.fqt", "--batch 8 --gbits 4");
    let data = runs::images(&compiled, 8);
    let step = |session: &mut Session| {
        session.start(SEED, &data.mean_pixel(), 1);
        session.load(&data.train, &(0..8).collect::<Vec<_>>(), None);
        session.run(Mode::Train);
        session.weights_hash()
    };
    let hash = step(&mut runs::session(&compiled, runs::targets_here()[0], 1));
    for target in runs::targets_here() {
        let program = &compiled.programs[0];
        let (code, clocks) = JitStep::clocked(program, target).unwrap();
        let mut session = Session::new(compiled.artifact.clone(), Box::new(code), 2).unwrap();
        assert_eq!(step(&mut session), hash, "{}", target.name);
        for (kernel, own) in program.kernels.iter().zip(&clocks) {
            let contracts = cost(kernel).class == Class::Contraction && target.wide.is_some();
            // Kernels that only evaluation calls may share a contraction with others.
            let called = program.calls.iter().any(|call| program.kernels[call.kernel] == *kernel);
            let counted = own.macs_per_tick(0).is_some();
            assert!(counted == contracts || contracts && !called, "{}, {}", target.name, kernel.name);
        }
        clocks.iter().for_each(|own| own.clear());
        assert!(clocks.iter().all(|own| own.macs_per_tick(0).is_none()), "{}", target.name);
    }
}
