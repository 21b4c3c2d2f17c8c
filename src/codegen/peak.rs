//! What the machine can do at most: register-only loops, to measure kernels by.
//!
//! A loop of independent dot products gives the peak of a vector width or of tiles, a chain of dependent multiplications the
//! clock. Both run where the kernels run and at the same time, so that shares hold on a machine whose clock changes.
//! Nothing here is part of a step.

use std::time::{Duration, Instant};

use iced_x86::code_asm::{CodeAssembler, CodeLabel, ptr, rax, rcx, rdi};
use iced_x86::{Code, IcedError, Instruction, Register};

use super::jit::{self, Loop};
use crate::targets::{DotForm, Target};

/// Size of the operands of a dot product instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 128 bits.
    Xmm,
    /// 256 bits.
    Ymm,
    /// 512 bits.
    Zmm,
    /// Matrices of 16 rows of 512 bits.
    Tile,
}

impl Width {
    /// Sums of four products that an instruction adds up.
    pub fn lanes(self) -> u64 {
        match self {
            Width::Xmm => 4,
            Width::Ymm => 8,
            Width::Zmm => 16,
            // 16 rows by 16 columns, each over 16 groups of four.
            Width::Tile => 16 * 16 * 16,
        }
    }

    fn register(self, number: u32) -> Register {
        let first = match self {
            Width::Xmm => Register::XMM0,
            Width::Ymm => Register::YMM0,
            Width::Zmm => Register::ZMM0,
            Width::Tile => Register::TMM0,
        };
        first + number
    }
}

impl std::fmt::Display for Width {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Width::Tile => write!(f, "products of 16 by 64 and 64 by 16 bytes"),
            vector => write!(f, "{}-bit dot products", 32 * vector.lanes()),
        }
    }
}

/// The vectors that a target's contractions use, if it has a dot product instruction that can be measured.
pub fn width(target: &Target) -> Option<Width> {
    let known = target.is_x86() && target.dot == DotForm::SignedFirst;
    known.then_some(match target.wide.map(|wide| wide.bytes) {
        _ if target.wide.is_some_and(|wide| wide.tiles.is_some()) => Width::Tile,
        Some(64) => Width::Zmm,
        Some(_) => Width::Ymm,
        None => Width::Xmm,
    })
}

/// What was measured, on one thread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Peak {
    /// Cycles in a nanosecond.
    pub clock: f64,
    /// Width of the dot products, and how many lanes of them are done in a nanosecond, four products each.
    pub dots: Option<(Width, f64)>,
}

/// The code of a loop `fn(turns)`. It uses registers that a function may change, and ends: only `codegen` makes one.
pub struct LoopCode {
    /// Machine code.
    pub(super) bytes: Vec<u8>,
    /// Instructions of interest in a turn.
    pub(super) in_turn: u64,
}

/// Independent accumulations: more than latency times throughput of any machine so far.
const ACCUMULATORS: u32 = 14;
/// Multiplications in a turn of the chain.
const CHAIN: u64 = 64;
/// Cycles from one 64-bit multiplication to the next that needs it: the same on Intel since 2008 and on AMD since 2017.
const MULTIPLY_LATENCY: f64 = 3.0;
/// How long a loop runs at least to be timed: long beside reading the clock, short beside the slices of a scheduler.
const LONG_ENOUGH: Duration = Duration::from_micros(200);
/// Timings of which the shortest counts: others were interrupted.
const TRIES: usize = 80;

/// Measures this machine, or nothing where the target is no x86-64.
///
/// An error says that the target does not run here, or is internal.
pub fn measure(target: &'static Target) -> Result<Option<Peak>, String> {
    if !target.is_x86() {
        return Ok(None);
    }
    let mut clock = Timing::new(&chain().map_err(broken)?, target)?;
    let mut dots = width(target).map(|width| Thread::new(width, target)).transpose()?;
    for _ in 0..TRIES {
        clock.again();
        if let Some(dots) = &mut dots {
            dots.timing.again();
        }
    }
    let dots = dots.map(|dots| (dots.width, dots.timing.rate() * dots.width.lanes() as f64));
    Ok(Some(Peak { clock: clock.rate() * MULTIPLY_LATENCY, dots }))
}

/// Dot products without memory on as many threads as a step has, to run again and again: the clock of a machine
/// changes, but is the same for what ran just before.
pub struct Dots(Vec<Thread>);

struct Thread {
    width: Width,
    timing: Timing,
}

/// Runs in a row of which the median counts.
const RUNS: usize = 5;

impl Dots {
    /// Those of a target, if it has any that can be measured.
    ///
    /// An error says that the target does not run here, or is internal.
    pub fn new(target: &'static Target, threads: usize) -> Result<Option<Dots>, String> {
        let Some(width) = width(target) else { return Ok(None) };
        (0..threads).map(|_| Thread::new(width, target)).collect::<Result<_, _>>().map(Dots).map(Some)
    }

    /// Lanes in a tick of the time stamp counter now, four products each: the mean of the threads, which run together.
    pub fn per_tick(&mut self) -> f64 {
        let threads = self.0.len().max(1) as f64;
        let rates = std::thread::scope(|scope| {
            let running: Vec<_> = self.0.iter_mut().map(|thread| scope.spawn(|| thread.per_tick())).collect();
            running.into_iter().map(|thread| thread.join().expect("a loop does not panic")).sum::<f64>()
        });
        rates / threads
    }
}

impl Thread {
    fn new(width: Width, target: &'static Target) -> Result<Thread, String> {
        let code = match width {
            Width::Tile => products(),
            vector => dots(vector, target.has("has_avx512vnni")),
        };
        let code = code.map_err(broken)?;
        Ok(Thread { width, timing: Timing::new(&code, target)? })
    }

    fn per_tick(&mut self) -> f64 {
        let ticks = |_| {
            let begin = jit::ticks();
            self.timing.once();
            // Counters of two cores may differ.
            jit::ticks().saturating_sub(begin)
        };
        let mut runs: Vec<u64> = (0..RUNS).map(ticks).collect();
        runs.sort_unstable();
        (self.timing.instructions * self.width.lanes()) as f64 / runs[RUNS / 2].max(1) as f64
    }
}

fn broken(error: IcedError) -> String {
    format!("a loop to measure the machine: {error}")
}

/// A loop with the shortest time that it took.
struct Timing {
    code: Loop,
    turns: u64,
    instructions: u64,
    best: Duration,
}

impl Timing {
    fn new(code: &LoopCode, target: &'static Target) -> Result<Timing, String> {
        let mut timing =
            Timing { code: Loop::new(code, target)?, turns: 1 << 10, instructions: 0, best: Duration::MAX };
        while timing.once() < LONG_ENOUGH {
            timing.turns *= 2;
        }
        timing.instructions = timing.turns * code.in_turn;
        Ok(timing)
    }

    fn once(&self) -> Duration {
        let begin = Instant::now();
        self.code.run(self.turns);
        begin.elapsed()
    }

    fn again(&mut self) {
        self.best = self.best.min(self.once());
    }

    /// Instructions in a nanosecond.
    fn rate(&self) -> f64 {
        self.instructions as f64 / self.best.as_nanos().max(1) as f64
    }
}

/// A loop over a body, with some code before and after it.
fn looped(
    before: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    body: impl FnOnce(&mut CodeAssembler) -> Result<u64, IcedError>,
    after: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Result<LoopCode, IcedError> {
    let mut asm = CodeAssembler::new(64)?;
    let mut top: CodeLabel = asm.create_label();
    asm.mov(rcx, rdi)?;
    before(&mut asm)?;
    asm.set_label(&mut top)?;
    let in_turn = body(&mut asm)?;
    asm.dec(rcx)?;
    asm.jnz(top)?;
    after(&mut asm)?;
    asm.ret()?;
    Ok(LoopCode { bytes: asm.assemble(0)?, in_turn })
}

/// Multiplications, each of which needs the one before.
fn chain() -> Result<LoopCode, IcedError> {
    let body = |asm: &mut CodeAssembler| {
        for _ in 0..CHAIN {
            asm.imul_2(rax, rax)?;
        }
        Ok(CHAIN)
    };
    looped(|asm| asm.mov(rax, 3u64), body, |_| Ok(()))
}

/// Dot products that do not need each other.
fn dots(width: Width, evex: bool) -> Result<LoopCode, IcedError> {
    let code = match (width, evex) {
        (Width::Xmm, false) => Code::VEX_Vpdpbusd_xmm_xmm_xmmm128,
        (Width::Ymm, false) => Code::VEX_Vpdpbusd_ymm_ymm_ymmm256,
        (Width::Xmm, true) => Code::EVEX_Vpdpbusd_xmm_k1z_xmm_xmmm128b32,
        (Width::Ymm, true) => Code::EVEX_Vpdpbusd_ymm_k1z_ymm_ymmm256b32,
        (Width::Zmm | Width::Tile, _) => Code::EVEX_Vpdpbusd_zmm_k1z_zmm_zmmm512b32,
    };
    let (a, b) = (width.register(ACCUMULATORS), width.register(ACCUMULATORS + 1));
    let body = |asm: &mut CodeAssembler| {
        for i in 0..ACCUMULATORS {
            asm.add_instruction(Instruction::with3(code, width.register(i), a, b)?)?;
        }
        Ok(u64::from(ACCUMULATORS))
    };
    // What the registers hold does not matter. Code after a loop of wide registers is slow on some machines unless
    // their upper parts are cleared.
    looped(|_| Ok(()), body, CodeAssembler::vzeroupper)
}

/// Products of tiles: two of each operand meet in four sums.
fn products() -> Result<LoopCode, IcedError> {
    // All eight registers have 16 rows of 64 bytes.
    let mut shapes = [0; 64];
    shapes[0] = 1;
    (0..8).for_each(|i| (shapes[16 + 2 * i], shapes[48 + i]) = (64, 16));
    let before = |asm: &mut CodeAssembler| {
        let (mut constant, mut behind) = (asm.create_label(), asm.create_label());
        asm.jmp(behind)?;
        asm.set_label(&mut constant)?;
        asm.db(&shapes)?;
        asm.set_label(&mut behind)?;
        asm.ldtilecfg(ptr(constant))
    };
    let body = |asm: &mut CodeAssembler| {
        let tile = |i: u32| Width::Tile.register(i);
        let code = Code::VEX_Tdpbusd_tmm_tmm_tmm;
        for i in 0..4 {
            let (a, b) = (tile(4 + i / 2), tile(6 + i % 2));
            asm.add_instruction(Instruction::with3(code, tile(i), a, b)?)?;
        }
        Ok(4)
    };
    looped(before, body, CodeAssembler::tilerelease)
}

#[cfg(test)]
mod tests {
    use super::*;
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    #[test]
    fn a_turn_has_as_many_instructions_as_it_says() {
        let count = |code: &LoopCode, mnemonic| {
            let decoder = Decoder::new(64, &code.bytes, DecoderOptions::NONE);
            decoder.into_iter().filter(|i| i.mnemonic() == mnemonic).count() as u64
        };
        let loops = [(Width::Xmm, false), (Width::Ymm, false), (Width::Xmm, true), (Width::Ymm, true)];
        for (width, evex) in loops.into_iter().chain([(Width::Zmm, true)]) {
            let code = dots(width, evex).expect("it assembles");
            assert_eq!(count(&code, Mnemonic::Vpdpbusd), code.in_turn, "{width:?}");
        }
        let tiles = products().expect("it assembles");
        assert_eq!(count(&tiles, Mnemonic::Tdpbusd), tiles.in_turn);
        let chain = chain().expect("it assembles");
        assert_eq!(count(&chain, Mnemonic::Imul), chain.in_turn);
    }

    #[test]
    fn the_machine_is_one_that_exists() {
        for target in crate::targets::ALL.iter().filter(|target| (target.runs_here)()) {
            let Some(peak) = measure(target).expect("this machine runs it") else { continue };
            // Shared machines lose time; none gains any.
            assert!((0.1..8.0).contains(&peak.clock), "{peak:?}");
            assert_eq!(peak.dots.is_some(), width(target).is_some());
            if let Some((width, rate)) = peak.dots {
                let instructions = rate / width.lanes() as f64 / peak.clock;
                // A product of tiles takes 16 cycles.
                let least = if width == Width::Tile { 0.01 } else { 0.05 };
                assert!((least..4.5).contains(&instructions), "{peak:?}");
                // Counters of time run between a fifth and five times the clock.
                let mut dots =
                    Dots::new(target, 2).expect("this machine runs it").expect("it has dot products");
                let instructions = dots.per_tick() / width.lanes() as f64;
                assert!((least / 5.0..4.5 * 5.0).contains(&instructions), "{instructions} a tick");
            }
        }
    }
}
