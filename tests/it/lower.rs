//! Lowering of whole models: programs verify and run without a trap.

use fqtc::ir::{Module, Stage};
use fqtc::kernel::cost::{Class, cost};
use fqtc::kernel::{self, BufferId, Kind};
use fqtc::lower::{Mode, lower};
use fqtc::passes;

use crate::support::{modules, runs};

fn models() -> Vec<Module> {
    vec![
        modules::mlp(4, 4, "nearest"),
        modules::lenet(4, 12, "nearest"),
        modules::resnet(4, 8, 4, "stochastic"),
    ]
}

#[test]
fn programs_verify_and_run_without_a_trap() {
    for module in models() {
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
                    memory.write(&program, id, initial);
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
