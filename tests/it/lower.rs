//! Lowering of whole models: programs verify and run without a trap.

use fqtc::ir::{Module, Stage};
use fqtc::kernel::{self, BufferId, Kind};
use fqtc::lower::{Mode, lower};
use fqtc::passes;

use crate::support::modules;

fn models() -> Vec<Module> {
    vec![
        modules::mlp(4, 4, "nearest"),
        modules::lenet(4, 12, "nearest"),
        modules::resnet(4, 8, 4, "stochastic"),
        modules::mobile(4, 9, "stochastic"),
        modules::pools(4, 10, "nearest"),
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
