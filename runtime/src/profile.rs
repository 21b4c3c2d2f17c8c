//! Time of the calls of a step: a clock around each part of a call that a thread runs.
//!
//! Reading the clock takes some tens of nanoseconds for each part, which is why ordinary steps run without.

#![allow(unsafe_code, reason = "wraps kernels, which are run on a raw arena")]

use crate::program::Steps;
use crate::step::Kernels;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long one call took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTime {
    /// Of the time from the end of the stage before to the end of its own, its part by `busy`.
    pub wall: u64,
    /// In the kernel, summed over the threads: at most `wall` times the threads, and less by what they wait.
    pub busy: u64,
}

/// Kernels with a clock.
pub(crate) struct Timed<'a> {
    kernels: &'a dyn Kernels,
    /// The arguments of all calls: where those of a call lie says which it is.
    args: &'a [u32],
    /// Time in kernels by the position of a call's arguments.
    busy: Vec<AtomicU64>,
}

impl Timed<'_> {
    pub(crate) fn new<'a>(kernels: &'a dyn Kernels, args: &'a [u32]) -> Timed<'a> {
        let busy = (0..=args.len()).map(|_| AtomicU64::new(0)).collect();
        Timed { kernels, args, busy }
    }

    /// The times of all calls of a program that has run once, its stages for so long.
    pub(crate) fn times(&self, steps: &Steps, walls: &[u64]) -> Vec<CallTime> {
        let mut calls = steps.calls();
        let mut times = vec![];
        for (n, &wall) in steps.calls_of_stages().zip(walls) {
            let (now, later) = calls.split_at(n);
            let busy = now.iter().map(|call| self.busy[call.args as usize].load(Relaxed));
            let all = busy.clone().sum::<u64>().max(1);
            let part = |busy| (u128::from(wall) * u128::from(busy) / u128::from(all)) as u64;
            times.extend(busy.map(|busy| CallTime { wall: part(busy), busy }));
            calls = later;
        }
        times
    }
}

impl Kernels for Timed<'_> {
    unsafe fn run(&self, kernel: u32, arena: *mut u8, args: *const u32, first: u32, last: u32) {
        let begin = Instant::now();
        // SAFETY: passed on from the caller.
        unsafe { self.kernels.run(kernel, arena, args, first, last) }
        let position = (args.addr() - self.args.as_ptr().addr()) / size_of::<u32>();
        self.busy[position].fetch_add(nanoseconds(begin.elapsed()), Relaxed);
    }
}

/// A duration as a number; 584 years are the most.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
