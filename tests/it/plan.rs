//! Memory plans: the planner, its checker, and a simulation of both that knows only bytes.

use fqtc::ir::Stage;
use fqtc::kernel::{Access, Buffer, BufferId, Call, DType, Kernel, Kind, ParamDecl, Program, Range};
use fqtc::lower::{Mode, lower};
use fqtc::plan::{Plan, UNIT, lifetimes, plan};
use fqtc::{passes, plan_check};

use crate::support::models::Random;
use crate::support::modules;

fn buffer(program: &mut Program, kind: Kind, bytes: u64) -> BufferId {
    let id = BufferId(program.buffers.len() as u32);
    let name = format!("b{}", id.0);
    let range = Range::new(0, 255);
    program.buffers.push(Buffer { name, dtype: DType::U8, extents: vec![bytes as u32], range, kind });
    id
}

/// A call of a kernel whose uses of buffers are stated; planning looks at nothing else.
fn call(program: &mut Program, uses: &[(BufferId, Access)]) {
    let params = uses.iter().map(|&(id, access)| {
        let buffer = &program.buffers[id.0 as usize];
        ParamDecl { dtype: buffer.dtype, len: buffer.len(), range: buffer.range, access }
    });
    let name = format!("k{}", program.kernels.len());
    let kernel = Kernel { name, params: params.collect(), items: 1, values: vec![], body: vec![] };
    program.calls.push(Call { kernel: program.kernels.len(), args: uses.iter().map(|u| u.0).collect() });
    program.kernels.push(kernel);
}

/// A program in which every call reads what earlier ones wrote, writes one new buffer, and sometimes updates old ones.
fn random_program(seed: u64) -> Program {
    let mut random = Random(seed);
    let mut program = Program::default();
    let mut ready: Vec<BufferId> = vec![];
    for kind in [Kind::State, Kind::Input, Kind::Persistent] {
        let bytes = 1 + random.below(200) as u64;
        ready.push(buffer(&mut program, kind, bytes));
    }
    for _ in 0..3 + random.below(20) {
        let bytes = 1 + random.below(1000) as u64;
        let new = buffer(&mut program, Kind::Temp, bytes);
        let mut uses = vec![(new, Access::Write)];
        for _ in 0..random.below(4) {
            let old = ready[random.below(ready.len())];
            let access = if random.below(5) == 0 { Access::ReadWrite } else { Access::Read };
            if uses.iter().all(|u| u.0 != old) {
                uses.push((old, access));
            }
        }
        call(&mut program, &uses);
        ready.push(new);
    }
    program
}

/// Whether every reader finds the bytes of the last writer, and what lasts is never written over: each byte of an arena
/// holds who wrote it, and when.
fn runs(program: &Program, plan: &Plan) -> bool {
    let mut arena = vec![(u32::MAX, 0); plan.bytes as usize];
    let mut versions = vec![0; program.buffers.len()];
    let span = |id: BufferId| {
        let start = (plan.offsets[0][id.0 as usize] as u64 * UNIT) as usize;
        start..start + program.buffers[id.0 as usize].bytes() as usize
    };
    let lasting: Vec<BufferId> = (0..program.buffers.len() as u32)
        .map(BufferId)
        .filter(|id| program.buffers[id.0 as usize].kind != Kind::Temp)
        .collect();
    for &id in &lasting {
        let Some(bytes) = arena.get_mut(span(id)) else { return false };
        bytes.fill((id.0, 0));
    }
    let holds = |arena: &[(u32, usize)], versions: &[usize], id: BufferId| {
        let tag = (id.0, versions[id.0 as usize]);
        arena.get(span(id)).is_some_and(|bytes| bytes.iter().all(|&b| b == tag))
    };
    for (number, call) in program.calls.iter().enumerate() {
        let params = &program.kernels[call.kernel].params;
        let uses = call.args.iter().zip(params);
        if uses.clone().any(|(&id, p)| p.access != Access::Write && !holds(&arena, &versions, id)) {
            return false;
        }
        for (&id, _) in uses.clone().filter(|(_, p)| p.access != Access::Read) {
            versions[id.0 as usize] = number + 1;
            let Some(bytes) = arena.get_mut(span(id)) else { return false };
            bytes.fill((id.0, number + 1));
        }
        // The items of a call run in any order, so that all its buffers are needed until it ends.
        if !call.args.iter().chain(&lasting).all(|&id| holds(&arena, &versions, id)) {
            return false;
        }
    }
    true
}

#[test]
fn plans_of_random_programs_run_and_are_accepted() {
    for seed in 0..300 {
        let program = random_program(seed);
        let plan = plan(&[&program]).unwrap();
        assert_eq!(plan_check::check(&[&program], &plan), Ok(()), "seed {seed}");
        assert!(runs(&program, &plan), "seed {seed}");
    }
}

#[test]
fn the_checker_accepts_nothing_that_does_not_run() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..300 {
        let program = random_program(seed);
        let good = plan(&[&program]).unwrap();
        let mut random = Random(seed ^ 0xabc);
        for _ in 0..20 {
            let mut moved = good.clone();
            let victim = random.below(program.buffers.len());
            moved.offsets[0][victim] = random.below((good.bytes / UNIT) as usize + 2) as u32;
            match plan_check::check(&[&program], &moved) {
                Ok(()) => {
                    assert!(runs(&program, &moved), "seed {seed}: buffer {victim} in {moved:?}");
                    accepted += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000 && accepted > 100, "{refused} refused, {accepted} accepted");
}

#[test]
fn two_live_buffers_in_one_place_are_refused() {
    let mut pairs = 0;
    for seed in 0..100 {
        let program = random_program(seed);
        let good = plan(&[&program]).unwrap();
        let lives = lifetimes(&program);
        let temps: Vec<usize> = (0..lives.len()).filter(|&i| program.buffers[i].kind == Kind::Temp).collect();
        for &a in &temps {
            for &b in &temps {
                let (Some((first, last)), Some((other, _))) = (lives[a], lives[b]) else { continue };
                if a != b && first <= other && other <= last {
                    let mut broken = good.clone();
                    broken.offsets[0][b] = good.offsets[0][a];
                    assert!(plan_check::check(&[&program], &broken).is_err(), "seed {seed}: {b} over {a}");
                    pairs += 1;
                }
            }
        }
    }
    assert!(pairs > 1000, "{pairs}");
}

/// One state, one buffer of a step, one call that reads the first and writes the second.
fn small() -> (Program, Plan) {
    let mut program = Program::default();
    let state = buffer(&mut program, Kind::State, 100);
    let temp = buffer(&mut program, Kind::Temp, 70);
    call(&mut program, &[(state, Access::Read), (temp, Access::Write)]);
    let plan = plan(&[&program]).unwrap();
    (program, plan)
}

#[test]
fn state_may_not_be_written_over() {
    let (program, mut plan) = small();
    plan.offsets[0][1] = 1;
    let why = plan_check::check(&[&program], &plan).unwrap_err();
    assert_eq!(why, "call 0 (k0) writes b1 over b0");
}

#[test]
fn nothing_lies_outside_of_the_arena() {
    let (program, mut plan) = small();
    plan.offsets[0][1] = (plan.bytes / UNIT) as u32;
    let why = plan_check::check(&[&program], &plan).unwrap_err();
    assert!(why.starts_with("buffer b1 ends at ") && why.contains("in an arena of"), "{why}");
}

#[test]
fn state_lies_at_one_place_in_all_programs() {
    let (program, one) = small();
    let two = plan(&[&program, &program]).unwrap();
    assert_eq!(two.offsets[0], two.offsets[1]);
    assert_eq!(plan_check::check(&[&program, &program], &two), Ok(()));
    let mut broken = two.clone();
    broken.bytes += 1024;
    broken.offsets[1][0] = (one.bytes / UNIT) as u32;
    assert_eq!(plan_check::check(&[&program, &program], &broken), Err("b0 lies at two places".into()));
}

#[test]
fn what_a_step_reads_was_written_in_it() {
    let mut program = Program::default();
    let temp = buffer(&mut program, Kind::Temp, 10);
    call(&mut program, &[(temp, Access::Read)]);
    let plan = plan(&[&program]).unwrap();
    assert!(plan_check::check(&[&program], &plan).is_err());
}

/// The most bytes that are alive in one call: no plan can need less.
fn needed(program: &Program) -> u64 {
    let lives = lifetimes(program);
    let alive = |call: usize| -> u64 {
        let buffers = program.buffers.iter().zip(&lives).filter(|(b, _)| b.kind == Kind::Temp);
        let alive =
            buffers.filter(|(_, life)| life.is_some_and(|(first, last)| first <= call && call <= last));
        alive.map(|(b, _)| b.bytes()).sum()
    };
    (0..program.calls.len()).map(alive).max().unwrap_or(0)
}

#[test]
fn a_network_takes_little_more_than_what_is_alive_at_once() {
    let module = passes::run(modules::resnet(16, 16, 16, "stochastic"), Stage::Bits, |_, _| ()).unwrap();
    let program = lower(&module, Mode::Train).unwrap().program;
    let plan = plan(&[&program]).unwrap();
    let (used, needed) = (plan.bytes - plan.lasting, needed(&program));
    assert!(used >= needed && used * 10 <= needed * 12, "{used} of {needed}");
}
