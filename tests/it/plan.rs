//! Schedules and memory plans: what makes them, their checker, and a simulation of both that knows only bytes.

use fqtc::ir::Stage;
use fqtc::kernel::reach::{Reach, reaches};
use fqtc::kernel::{Access, Buffer, BufferId, Call, DType, Kernel, Kind, ParamDecl, Program, Range};
use fqtc::lower::{Mode, lower};
use fqtc::plan::{Plan, UNIT, lifetimes, plan};
use fqtc::schedule::{Chain, Schedule, schedule};
use fqtc::{passes, plan_check};

use crate::support::models::Random;
use crate::support::modules;

/// A program whose kernels touch what is stated, and compute nothing.
#[derive(Default)]
struct Case {
    program: Program,
    reaches: Vec<Vec<Option<Reach>>>,
}

impl Case {
    fn buffer(&mut self, kind: Kind, bytes: u64) -> BufferId {
        let id = BufferId(self.program.buffers.len() as u32);
        let (name, range) = (format!("b{}", id.0), Range::new(0, 255));
        self.program.buffers.push(Buffer {
            name,
            dtype: DType::U8,
            extents: vec![bytes as u32],
            range,
            kind,
        });
        id
    }

    fn call(&mut self, items: u32, uses: &[(BufferId, Access, Option<Reach>)]) {
        let program = &mut self.program;
        let params = uses.iter().map(|&(id, access, _)| {
            let buffer = &program.buffers[id.0 as usize];
            ParamDecl { dtype: buffer.dtype, len: buffer.len(), range: buffer.range, access }
        });
        let name = format!("k{}", program.kernels.len());
        let kernel = Kernel { name, params: params.collect(), items, values: vec![], body: vec![] };
        let args = uses.iter().map(|u| u.0).collect();
        program.calls.push(Call { kernel: program.kernels.len(), args });
        program.kernels.push(kernel);
        self.reaches.push(uses.iter().map(|u| u.2).collect());
    }

    fn schedule(&self) -> Schedule {
        schedule(&self.program, &self.reaches)
    }

    fn check(&self, schedule: &Schedule, plan: &Plan) -> Result<(), String> {
        plan_check::check(&[(&self.program, schedule, &self.reaches)], plan)
    }

    fn bytes(&self, id: BufferId) -> i128 {
        i128::from(self.program.buffers[id.0 as usize].len())
    }
}

/// What each of so many items touches of a buffer for itself.
fn own_part(bytes: i128, items: u32) -> Reach {
    let step = bytes / i128::from(items);
    Reach { first: 0, last: step - 1, step }
}

/// A program in which every call reads what earlier ones wrote, writes one new buffer, and sometimes updates old ones.
fn random_case(seed: u64) -> Case {
    let mut random = Random(seed);
    let mut case = Case::default();
    let mut ready: Vec<BufferId> = vec![];
    for kind in [Kind::State, Kind::Input, Kind::Persistent] {
        let bytes = 32 * (1 + random.below(4) as u64);
        ready.push(case.buffer(kind, bytes));
    }
    for _ in 0..3 + random.below(20) {
        let items = [1, 1, 4, 16, 32][random.below(5)];
        let bytes = 32 * (1 + random.below(20) as u64);
        let new = case.buffer(Kind::Temp, bytes);
        let mut uses = vec![(new, Access::Write, Some(own_part(bytes.into(), items)))];
        for _ in 0..random.below(4) {
            let old = ready[random.below(ready.len())];
            let own = own_part(case.bytes(old), items);
            let (access, reach) = match random.below(10) {
                0..2 => (Access::ReadWrite, Some(own)),
                2..7 => (Access::Read, Some(own)),
                7 => (Access::Read, Some(Reach { first: -1, last: own.last + 1, ..own })),
                8 => (Access::Read, Some(Reach { first: 0, last: case.bytes(old) - 1, step: 0 })),
                _ => (Access::Read, None),
            };
            if uses.iter().all(|u| u.0 != old) {
                uses.push((old, access, reach));
            }
        }
        case.call(items, &uses);
        ready.push(new);
    }
    case
}

/// A run: what lies in memory is a hash of everything that had to do with it.
struct Run<'a> {
    case: &'a Case,
    /// Where each buffer begins.
    starts: Vec<usize>,
    memory: Vec<u64>,
    /// By call, the sum over its items of what they read and wrote.
    results: Vec<u64>,
}

impl Run<'_> {
    fn new(case: &Case, starts: Vec<usize>, bytes: usize) -> Run<'_> {
        let mut run =
            Run { case, starts, memory: vec![0; bytes], results: vec![0; case.program.calls.len()] };
        for (id, buffer) in case.program.buffers.iter().enumerate().filter(|(_, b)| b.kind != Kind::Temp) {
            let start = run.starts[id];
            let span = run.memory.get_mut(start..start + buffer.bytes() as usize);
            span.into_iter()
                .flatten()
                .enumerate()
                .for_each(|(i, byte)| *byte = ((id as u64) << 32) + i as u64);
        }
        run
    }

    fn item(&mut self, number: usize, item: u32) {
        let call = &self.case.program.calls[number];
        let kernel = &self.case.program.kernels[call.kernel];
        let spans = call.args.iter().zip(&self.case.reaches[call.kernel]).map(|(id, reach)| {
            let end = self.case.bytes(*id);
            let all = Reach { first: 0, last: end - 1, step: 0 };
            let Reach { first, last, step } = reach.unwrap_or(all);
            let [first, last] =
                [first, last + 1].map(|at| (at + step * i128::from(item)).clamp(0, end) as usize);
            let start = self.starts[id.0 as usize];
            start + first..start + last
        });
        let spans: Vec<_> = spans.zip(&kernel.params).collect();
        let mut hash = fqt_runtime::random::mix64(((number as u64) << 32) + u64::from(item));
        for (span, _) in spans.iter().filter(|(_, param)| param.access != Access::Write) {
            // What is moved beyond the arena reads nothing, and is found out by that.
            for byte in self.memory.get(span.clone()).into_iter().flatten() {
                hash = fqt_runtime::random::mix64(hash ^ byte);
            }
        }
        for (span, _) in spans.into_iter().filter(|(_, param)| param.access != Access::Read) {
            self.memory.get_mut(span).into_iter().flatten().for_each(|byte| *byte = hash);
        }
        self.results[number] = self.results[number].wrapping_add(hash);
    }

    /// What stays when the step is over, and what each call did.
    fn outcome(mut self) -> (Vec<u64>, Vec<u64>) {
        let lasting =
            self.case.program.buffers.iter().zip(&self.starts).filter(|(b, _)| b.kind != Kind::Temp);
        let spans =
            lasting.map(|(b, &start)| self.memory.get(start..start + b.bytes() as usize).unwrap_or(&[]));
        (spans.flatten().copied().collect(), std::mem::take(&mut self.results))
    }
}

/// Call by call and item by item, each buffer by itself.
fn in_order(case: &Case) -> (Vec<u64>, Vec<u64>) {
    let mut end = 0;
    let start = |b: &Buffer| {
        end += b.bytes() as usize;
        end - b.bytes() as usize
    };
    let starts = case.program.buffers.iter().map(start).collect();
    let mut run = Run::new(case, starts, end);
    for (number, call) in case.program.calls.iter().enumerate() {
        (0..case.program.kernels[call.kernel].items).for_each(|item| run.item(number, item));
    }
    run.outcome()
}

/// As scheduled and planned, the parts of a stage in any order and at the same time.
fn scheduled(case: &Case, schedule: &Schedule, plan: &Plan, seed: u64) -> (Vec<u64>, Vec<u64>) {
    let starts = plan.offsets[0].iter().map(|&offset| (u64::from(offset) * UNIT) as usize).collect();
    let mut run = Run::new(case, starts, plan.bytes as usize);
    let mut random = Random(seed);
    for stage in &schedule.stages {
        // Every part with the calls that it has done.
        let parts =
            |chain: &usize| (0..stage[*chain].parts).map(|part| (*chain, part, 0)).collect::<Vec<_>>();
        let mut left: Vec<(usize, u32, usize)> =
            (0..stage.len()).collect::<Vec<_>>().iter().flat_map(parts).collect();
        while !left.is_empty() {
            let at = random.below(left.len());
            let (chain, part, done) = left[at];
            let Chain { calls, parts } = &stage[chain];
            let Some(&call) = calls.get(done) else {
                left.swap_remove(at);
                continue;
            };
            let items = case.program.kernels[case.program.calls[call].kernel].items / parts;
            (part * items..(part + 1) * items).for_each(|item| run.item(call, item));
            left[at].2 += 1;
        }
    }
    run.outcome()
}

/// Whether a schedule and a plan change nothing.
fn runs(case: &Case, schedule: &Schedule, plan: &Plan) -> bool {
    let expected = in_order(case);
    (0..3).all(|seed| scheduled(case, schedule, plan, seed) == expected)
}

#[test]
fn random_programs_run_as_scheduled_and_planned_and_are_accepted() {
    let (mut joined, mut beside) = (0, 0);
    for seed in 0..300 {
        let case = random_case(seed);
        let schedule = case.schedule();
        let plan = plan(&[(&case.program, &schedule)]).unwrap();
        assert_eq!(case.check(&schedule, &plan), Ok(()), "seed {seed}");
        assert!(runs(&case, &schedule, &plan), "seed {seed}");
        joined += schedule.stages.iter().flatten().filter(|c| c.calls.len() > 1 && c.parts > 1).count();
        beside += schedule.stages.iter().filter(|stage| stage.len() > 1).count();
    }
    assert!(
        joined > 50 && beside > 300,
        "{joined} chains of several calls in parts, {beside} stages of several"
    );
}

#[test]
fn the_checker_accepts_no_plan_that_does_not_run() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..300 {
        let case = random_case(seed);
        let schedule = case.schedule();
        let good = plan(&[(&case.program, &schedule)]).unwrap();
        let mut random = Random(seed ^ 0xabc);
        for _ in 0..20 {
            let mut moved = good.clone();
            let victim = random.below(case.program.buffers.len());
            moved.offsets[0][victim] = random.below((good.bytes / UNIT) as usize + 2) as u32;
            match case.check(&schedule, &moved) {
                Ok(()) => {
                    assert!(runs(&case, &schedule, &moved), "seed {seed}: buffer {victim} in {moved:?}");
                    accepted += 1;
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000 && accepted > 100, "{refused} refused, {accepted} accepted");
}

/// Moves a chain into another stage, or makes one chain of two.
fn disturb(schedule: &mut Schedule, random: &mut Random) {
    let from = random.below(schedule.stages.len());
    let at = random.below(schedule.stages[from].len());
    let chain = schedule.stages[from].remove(at);
    let to = random.below(schedule.stages.len());
    let beside = random.below(schedule.stages[to].len().max(1));
    match schedule.stages[to].get_mut(beside).filter(|_| random.below(2) == 0) {
        Some(other) if chain.parts.is_multiple_of(other.parts) => other.calls.extend(chain.calls),
        _ => schedule.stages[to].push(chain),
    }
}

#[test]
fn the_checker_accepts_no_schedule_that_does_not_run() {
    let (mut refused, mut accepted) = (0, 0);
    for seed in 0..300 {
        let case = random_case(seed);
        let good = case.schedule();
        let mut random = Random(seed ^ 0xdef);
        for _ in 0..20 {
            let mut other = good.clone();
            disturb(&mut other, &mut random);
            let plan = plan(&[(&case.program, &other)]).unwrap();
            match case.check(&other, &plan) {
                Ok(()) => {
                    assert!(runs(&case, &other, &plan), "seed {seed}: {other:?}");
                    accepted += usize::from(other != good);
                }
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 1000 && accepted > 100, "{refused} refused, {accepted} accepted");
}

#[test]
fn every_call_runs_once() {
    let case = small().0;
    let chain = Chain { calls: vec![0], parts: 1 };
    let check = |stages: Vec<Vec<Chain>>| {
        let schedule = Schedule { stages };
        let plan = plan(&[(&case.program, &schedule)]).unwrap();
        case.check(&schedule, &plan)
    };
    assert_eq!(check(vec![vec![chain.clone()]]), Ok(()));
    assert_eq!(check(vec![]), Err("call 0 never runs".into()));
    assert_eq!(check(vec![vec![chain.clone()], vec![chain]]), Err("call 0 runs twice".into()));
}

#[test]
fn two_live_buffers_in_one_place_are_refused() {
    let mut pairs = 0;
    for seed in 0..100 {
        let case = random_case(seed);
        let (program, schedule) = (&case.program, case.schedule());
        let good = plan(&[(program, &schedule)]).unwrap();
        let lives = lifetimes(program, &schedule);
        let temps: Vec<usize> = (0..lives.len()).filter(|&i| program.buffers[i].kind == Kind::Temp).collect();
        for &a in &temps {
            for &b in &temps {
                let (Some((first, last)), Some((other, _))) = (lives[a], lives[b]) else { continue };
                if a != b && first <= other && other <= last {
                    let mut broken = good.clone();
                    broken.offsets[0][b] = good.offsets[0][a];
                    assert!(case.check(&schedule, &broken).is_err(), "seed {seed}: {b} over {a}");
                    pairs += 1;
                }
            }
        }
    }
    assert!(pairs > 1000, "{pairs}");
}

/// One state, one buffer of a step, one call that reads the first and writes the second.
fn small() -> (Case, Schedule, Plan) {
    let mut case = Case::default();
    let state = case.buffer(Kind::State, 100);
    let temp = case.buffer(Kind::Temp, 70);
    case.call(1, &[(state, Access::Read, None), (temp, Access::Write, None)]);
    let schedule = case.schedule();
    let plan = plan(&[(&case.program, &schedule)]).unwrap();
    (case, schedule, plan)
}

#[test]
fn state_may_not_be_written_over() {
    let (case, schedule, mut plan) = small();
    plan.offsets[0][1] = 1;
    let why = case.check(&schedule, &plan).unwrap_err();
    assert_eq!(why, "call 0 (k0) writes b1 over b0");
}

#[test]
fn nothing_lies_outside_of_the_arena() {
    let (case, schedule, mut plan) = small();
    plan.offsets[0][1] = (plan.bytes / UNIT) as u32;
    let why = case.check(&schedule, &plan).unwrap_err();
    assert!(why.starts_with("buffer b1 ends at ") && why.contains("in an arena of"), "{why}");
}

#[test]
fn state_lies_at_one_place_in_all_programs() {
    let (Case { program, reaches }, schedule, one) = small();
    let two = plan(&[(&program, &schedule), (&program, &schedule)]).unwrap();
    let check = |plan: &Plan| {
        let one: plan_check::Scheduled<'_> = (&program, &schedule, &reaches);
        plan_check::check(&[one, one], plan)
    };
    assert_eq!(two.offsets[0], two.offsets[1]);
    assert_eq!(check(&two), Ok(()));
    let mut broken = two.clone();
    broken.bytes += 1024;
    broken.offsets[1][0] = (one.bytes / UNIT) as u32;
    assert_eq!(check(&broken), Err("b0 lies at two places".into()));
}

#[test]
fn what_a_step_reads_was_written_in_it() {
    let mut case = Case::default();
    let temp = case.buffer(Kind::Temp, 10);
    case.call(1, &[(temp, Access::Read, None)]);
    let schedule = case.schedule();
    let plan = plan(&[(&case.program, &schedule)]).unwrap();
    assert!(case.check(&schedule, &plan).is_err());
}

/// The most bytes that are alive in one stage: no plan can need less.
fn needed(program: &Program, schedule: &Schedule) -> u64 {
    let lives = lifetimes(program, schedule);
    let alive = |stage: usize| -> u64 {
        let buffers = program.buffers.iter().zip(&lives).filter(|(b, _)| b.kind == Kind::Temp);
        let alive =
            buffers.filter(|(_, life)| life.is_some_and(|(first, last)| first <= stage && stage <= last));
        alive.map(|(b, _)| b.bytes()).sum()
    };
    (0..schedule.stages.len()).map(alive).max().unwrap_or(0)
}

#[test]
fn a_network_takes_little_more_than_what_is_alive_at_once() {
    let module = passes::run(modules::resnet(16, 16, 16, "stochastic"), Stage::Bits, |_, _| ()).unwrap();
    let program = lower(&module, Mode::Train).unwrap().program;
    let reaches: Vec<_> = program.kernels.iter().map(reaches).collect();
    let schedule = schedule(&program, &reaches);
    let plan = plan(&[(&program, &schedule)]).unwrap();
    let (used, needed) = (plan.bytes - plan.lasting, needed(&program, &schedule));
    assert!(used >= needed && used * 10 <= needed * 12, "{used} of {needed}");
}
