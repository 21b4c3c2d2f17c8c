//! Clocks around contractions, to measure them inside of a step without what else their kernels do.
//!
//! A clock is code around a leaf: it calls the leaf and adds the ticks of the time stamp counter in between. The counter
//! is read without waiting for what is in flight, at both ends, so that the pipeline stays full; what a clock around
//! nothing shows is taken away. Steps that train have none: this is for benchmarks. Only leaves that are bytes can be
//! clocked, so contractions in vectors of 128 bits, which Cranelift makes, have no clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::jit::Loop;
use super::peak::LoopCode;
use crate::targets::Target;
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

/// How often a clock around nothing runs to find the least that it shows.
const TRIES: u64 = 1 << 10;

/// The ticks of a clock around nothing: its own.
///
/// An error says that the target does not run here, or is internal.
pub fn own_ticks(target: &'static Target) -> Result<u64, String> {
    const RETURN: u8 = 0xc3;
    let clock = Clock::default();
    let code = Loop::new(&LoopCode { bytes: clock.around(&[RETURN])?, in_turn: 0 }, target)?;
    let once = |_| {
        clock.ticks.store(0, Relaxed);
        code.run(1);
        clock.ticks.load(Relaxed)
    };
    Ok((0..TRIES).map(once).min().unwrap_or(0))
}

impl Clock {
    pub(super) fn new(macs: u64) -> Clock {
        Clock { macs, ..Clock::default() }
    }

    /// A function that calls the leaf with these bytes, of up to four arguments. The clock must outlive it.
    pub(super) fn around(&self, leaf: &[u8]) -> Result<Vec<u8>, String> {
        let counter = |a: &mut CodeAssembler| {
            a.rdtsc()?;
            a.shl(rdx, 32)?;
            a.or(rax, rdx)
        };
        // The counter comes in the register of the third argument.
        let before = assembled(|a| {
            a.mov(r10, rdx)?;
            counter(a)?;
            a.push(rax)?;
            a.mov(rdx, r10)
        })?;
        let after = assembled(|a| {
            counter(a)?;
            a.pop(rdx)?;
            a.sub(rax, rdx)?;
            a.mov(rdx, address(&self.ticks))?;
            a.lock().add(qword_ptr(rdx), rax)?;
            a.mov(rdx, address(&self.calls))?;
            a.lock().inc(qword_ptr(rdx))?;
            a.ret()
        })?;
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

fn assembled(write: impl Fn(&mut CodeAssembler) -> Result<(), IcedError>) -> Result<Vec<u8>, String> {
    let bytes = CodeAssembler::new(64).and_then(|mut a| write(&mut a).and_then(|()| a.assemble(0)));
    bytes.map_err(|error| error.to_string())
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

    /// Multiply-accumulates in a tick of one thread inside of the contractions so far, if there were any; `own` ticks of
    /// each call are the clock's.
    pub fn macs_per_tick(&self, own: u64) -> Option<f64> {
        let sum = |of: &dyn Fn(&Clock) -> u64| self.0.iter().map(|clock| of(clock)).sum::<u64>() as f64;
        let macs = sum(&|clock| clock.macs * clock.calls.load(Relaxed));
        let ticks = |clock: &Clock| clock.ticks.load(Relaxed).saturating_sub(own * clock.calls.load(Relaxed));
        (macs > 0.0).then(|| macs / sum(&ticks).max(1.0))
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests {
    use super::*;

    #[test]
    fn a_clock_takes_some_ticks_itself_and_they_are_taken_away() {
        let own = own_ticks(crate::targets::host().expect("a target")).expect("it runs here");
        assert!((1..10_000).contains(&own), "{own}");
        let clock = Clock::new(64);
        clock.calls.store(2, Relaxed);
        clock.ticks.store(32 + 2 * own, Relaxed);
        let clocks = Clocks(vec![Arc::new(clock)]);
        assert_eq!(clocks.macs_per_tick(own), Some(4.0));
        clocks.clear();
        assert_eq!(clocks.macs_per_tick(own), None);
    }
}
