//! Time of the calls of a step: a clock around each part of a call that a thread runs.
//!
//! Reading the clock takes some tens of nanoseconds for each part, which is why ordinary steps run without.

#![allow(unsafe_code, reason = "wraps kernels, which are run on a raw arena")]

use crate::step::Kernels;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How long one call took, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTime {
    /// From the end of the call before to its end, which is when all threads have done their parts.
    pub wall: u64,
    /// In the kernel, summed over the threads: at most `wall` times the threads, and less by what they wait.
    pub busy: u64,
}

/// Kernels with a clock.
pub(crate) struct Timed<'a> {
    kernels: &'a dyn Kernels,
    busy: AtomicU64,
}

impl Timed<'_> {
    pub(crate) fn new(kernels: &dyn Kernels) -> Timed<'_> {
        Timed { kernels, busy: AtomicU64::new(0) }
    }

    /// The time in kernels since this was last asked. Between two calls, every part of the first is counted: the
    /// barrier orders the additions before it.
    pub(crate) fn take(&self) -> u64 {
        self.busy.swap(0, Relaxed)
    }
}

impl Kernels for Timed<'_> {
    unsafe fn run(&self, kernel: u32, arena: *mut u8, args: *const u32, first: u32, last: u32) {
        let begin = Instant::now();
        // SAFETY: passed on from the caller.
        unsafe { self.kernels.run(kernel, arena, args, first, last) }
        self.busy.fetch_add(nanoseconds(begin.elapsed()), Relaxed);
    }
}

/// A duration as a number; 584 years are the most.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
