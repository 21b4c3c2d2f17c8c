//! Clocks around contractions, to measure them inside of a step without what else their kernels do.
//!
//! A clock is code around a leaf: it calls the leaf and adds the cycles of the time stamp counter in between. Steps that
//! train have none: this is for benchmarks. Only leaves that are bytes can be clocked, so contractions in vectors of 128
//! bits, which Cranelift makes, have no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use iced_x86::IcedError;
use iced_x86::code_asm::{CodeAssembler, qword_ptr, r10, rax, rdx};

/// What a leaf has done.
#[derive(Debug, Default)]
pub(super) struct Clock {
    ticks: AtomicU64,
    calls: AtomicU64,
    /// Multiply-accumulates of a call.
    macs: u64,
}

/// The contractions of a kernel.
#[derive(Clone, Debug, Default)]
pub struct Clocks(Vec<Arc<Clock>>);

impl Clock {
    pub(super) fn new(macs: u64) -> Clock {
        Clock { macs, ..Clock::default() }
    }

    /// A function that calls the leaf with these bytes, of up to four arguments. The clock must outlive it.
    pub(super) fn around(&self, leaf: &[u8]) -> Result<Vec<u8>, String> {
        let failed = |e: IcedError| e.to_string();
        // The counter comes in the register of the third argument.
        let (mut before, mut after) = (CodeAssembler::new(64), CodeAssembler::new(64));
        let (before, after) =
            (before.as_mut().map_err(|e| failed(e.clone()))?, after.as_mut().map_err(|e| failed(e.clone()))?);
        let counter = |a: &mut CodeAssembler| {
            a.rdtsc()?;
            a.shl(rdx, 32)?;
            a.or(rax, rdx)
        };
        let start = |a: &mut CodeAssembler| {
            a.mov(r10, rdx)?;
            counter(a)?;
            a.push(rax)?;
            a.mov(rdx, r10)
        };
        let stop = |a: &mut CodeAssembler| {
            counter(a)?;
            a.pop(rdx)?;
            a.sub(rax, rdx)?;
            a.mov(rdx, address(&self.ticks))?;
            a.lock().add(qword_ptr(rdx), rax)?;
            a.mov(rdx, address(&self.calls))?;
            a.lock().inc(qword_ptr(rdx))?;
            a.ret()
        };
        start(before).and_then(|()| stop(after)).map_err(failed)?;
        let (before, after) = (before.assemble(0).map_err(failed)?, after.assemble(0).map_err(failed)?);
        // call rel32: from behind the instruction to the leaf, which begins on a line of its own.
        let behind = before.len() + 5;
        let begin = (behind + after.len()).next_multiple_of(64);
        let distance = (begin - behind) as i32;
        let mut bytes = [&before[..], &[0xe8], &distance.to_le_bytes(), &after].concat();
        bytes.resize(begin, 0xcc);
        bytes.extend(leaf);
        Ok(bytes)
    }
}

fn address(counter: &AtomicU64) -> u64 {
    std::ptr::from_ref(counter).expose_provenance() as u64
}

impl FromIterator<Arc<Clock>> for Clocks {
    fn from_iter<I: IntoIterator<Item = Arc<Clock>>>(clocks: I) -> Clocks {
        Clocks(clocks.into_iter().collect())
    }
}

impl Clocks {
    /// Begins to count anew. Nothing may run meanwhile.
    pub fn clear(&self) {
        for clock in &self.0 {
            clock.calls.store(0, Relaxed);
            clock.ticks.store(0, Relaxed);
        }
    }

    /// Multiply-accumulates in a tick of one thread inside of the contractions so far, if there were any.
    pub fn macs_per_tick(&self) -> Option<f64> {
        let sum = |of: &dyn Fn(&Clock) -> u64| self.0.iter().map(|clock| of(clock)).sum::<u64>() as f64;
        let macs = sum(&|clock| clock.macs * clock.calls.load(Relaxed));
        (macs > 0.0).then(|| macs / sum(&|clock| clock.ticks.load(Relaxed)).max(1.0))
    }
}
