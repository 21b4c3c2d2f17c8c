//! Running a step: one small loop over tables of calls, chains and stages.
//!
//! A stage is a barrier. Its chains do not depend on each other, and a chain is cut into parts that do not either: a part
//! runs the calls of its chain one after the other, each on its share of the items, so that what one call writes for some
//! images is still in the cache of a core when the next reads it.
//!
//! The loop is the same for emitted code and interpreters ([`Kernels`]), and for one or many threads
//! ([`Workers`]). The number of items and parts follows from shapes, never from threads; so neither the split nor the
//! order of parts can change a result.

#![allow(unsafe_code, reason = "kernels are compiled functions over a raw arena")]

use core::ops::Range;

/// Unit of buffer offsets in argument tables, in bytes; also the alignment of buffers.
pub const OFFSET_UNIT: usize = 64;

/// One call of a step: every item of a kernel, on some buffers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Call {
    /// Number of the kernel.
    pub kernel: u32,
    /// Position of its first argument in the argument table.
    pub args: u32,
    /// Number of items.
    pub items: u32,
}

/// A compiled kernel. `args` are buffer offsets in units of [`OFFSET_UNIT`]; it runs the items `first..last`.
pub type KernelFn = unsafe extern "C" fn(arena: *mut u8, args: *const u32, first: u32, last: u32);

/// Something that can run kernels by number.
pub trait Kernels: Sync {
    /// Runs the items `first..last` of a kernel.
    ///
    /// # Safety
    /// `arena` and `args` fit the kernel: as many arguments as it has parameters, each the offset of a buffer inside
    /// the arena that is as long as the kernel expects. Nobody else touches what these items touch.
    unsafe fn run(&self, kernel: u32, arena: *mut u8, args: *const u32, first: u32, last: u32);
}

/// Compiled kernels: number i is entry i.
impl Kernels for [KernelFn] {
    unsafe fn run(&self, kernel: u32, arena: *mut u8, args: *const u32, first: u32, last: u32) {
        // SAFETY: passed on from the caller.
        unsafe { self[kernel as usize](arena, args, first, last) }
    }
}

/// Calls that follow each other without a barrier.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Chain {
    /// How many calls.
    pub calls: u32,
    /// Into how many parts they are cut: the items of each call are a multiple.
    pub parts: u32,
}

/// What a step runs, in order.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Calls, chain by chain.
    pub calls: &'a [Call],
    /// Chains, stage by stage.
    pub chains: &'a [Chain],
    /// The number of chains of each stage.
    pub stages: &'a [u32],
    /// Arguments of the calls.
    pub args: &'a [u32],
}

/// Who runs the parts of chains.
pub trait Workers {
    /// Runs `task(chain, first, last)` over ranges that make up the parts of every chain, each part once, and returns
    /// when all are done.
    fn split(&self, chains: &[Chain], task: &(dyn Fn(usize, u32, u32) + Sync));
}

/// The calling thread alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Workers for Serial {
    fn split(&self, chains: &[Chain], task: &(dyn Fn(usize, u32, u32) + Sync)) {
        for (number, chain) in chains.iter().enumerate() {
            task(number, 0, chain.parts);
        }
    }
}

/// A pointer that several threads may use at once.
#[derive(Clone, Copy)]
struct Shared(*mut u8);

// SAFETY: the pointer is only handed to kernels, whose items are independent (the contract of `run_step`).
unsafe impl Sync for Shared {}

impl Shared {
    fn get(&self) -> *mut u8 {
        self.0
    }
}

/// Runs the stages in order; after each, when all its calls are done, says which it was.
///
/// # Safety
/// Every call fits its kernel in the sense of [`Kernels::run`], with its arguments at `args[call.args..]`; parts of
/// the chains of one stage are independent of each other; nobody else uses the arena meanwhile.
pub unsafe fn run_step<K: Kernels + ?Sized, W: Workers + ?Sized>(
    step: Step<'_>,
    kernels: &K,
    arena: *mut u8,
    workers: &W,
    after: &mut dyn FnMut(usize),
) {
    let arena = Shared(arena);
    let Step { mut calls, mut chains, stages, args } = step;
    for (stage, &n) in stages.iter().enumerate() {
        let (now, later) = chains.split_at(n as usize);
        workers.split(now, &|number, first, last| {
            let before = now[..number].iter().map(|chain| chain.calls as usize).sum();
            let calls = &calls[before..][..now[number].calls as usize];
            // SAFETY: by the contract of this function; the workers give every part to one task only.
            unsafe { run_parts(calls, args, now[number].parts, first..last, kernels, &arena) }
        });
        calls = &calls[now.iter().map(|chain| chain.calls as usize).sum()..];
        chains = later;
        after(stage);
    }
}

/// Runs some of the parts of a chain.
///
/// # Safety
/// As for [`run_step`]; nobody else runs these parts.
unsafe fn run_parts<K: Kernels + ?Sized>(
    calls: &[Call],
    args: &[u32],
    parts: u32,
    range: Range<u32>,
    kernels: &K,
    arena: &Shared,
) {
    let run = |call: &Call, range: &Range<u32>| {
        let (args, items) = (&args[call.args as usize..], call.items / parts);
        // SAFETY: passed on from the caller.
        unsafe {
            kernels.run(call.kernel, arena.get(), args.as_ptr(), range.start * items, range.end * items)
        }
    };
    match calls {
        [call] => run(call, &range),
        _ => range.for_each(|part| calls.iter().for_each(|call| run(call, &(part..part + 1)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    unsafe extern "C" fn add_one(arena: *mut u8, args: *const u32, first: u32, last: u32) {
        for i in first..last {
            // SAFETY: the test passes one argument and as many bytes as items.
            unsafe { *arena.add(*args as usize * OFFSET_UNIT + i as usize) += 1 };
        }
    }

    unsafe extern "C" fn copy(arena: *mut u8, args: *const u32, first: u32, last: u32) {
        for i in first..last {
            // SAFETY: the test passes two arguments and as many bytes as items.
            unsafe {
                let (from, to) = (*args as usize * OFFSET_UNIT, *args.add(1) as usize * OFFSET_UNIT);
                *arena.add(to + i as usize) = *arena.add(from + i as usize);
            }
        }
    }

    /// Four calls in so many stages of chains with so many calls and parts.
    fn check(stages: &[u32], chains: &[(u32, u32)]) {
        let kernels: &[KernelFn] = &[add_one, copy];
        let mut arena = [0u8; 192];
        let args = &[1, 1, 2];
        let calls = &[
            Call { kernel: 0, args: 0, items: 5 },
            Call { kernel: 0, args: 0, items: 3 },
            Call { kernel: 1, args: 1, items: 64 },
            Call { kernel: 0, args: 0, items: 64 },
        ];
        let chains: Vec<Chain> = chains.iter().map(|&(calls, parts)| Chain { calls, parts }).collect();
        let step = Step { calls, chains: &chains, stages, args };
        let mut order = vec![];
        // SAFETY: the offsets 64 and 128 hold 64 bytes each.
        unsafe { run_step(step, kernels, arena.as_mut_ptr(), &Serial, &mut |i| order.push(i)) };
        assert_eq!(order, (0..stages.len()).collect::<Vec<_>>());
        assert!(arena[..64].iter().all(|&x| x == 0));
        assert_eq!(arena[64..70], [3, 3, 3, 2, 2, 1]);
        assert_eq!(arena[128..134], [2, 2, 2, 1, 1, 0]);
    }
    #[test]
    fn calls_run_in_order_on_their_buffers() {
        check(&[1, 1, 1, 1], &[(1, 5), (1, 3), (1, 64), (1, 64)]);
        check(&[1, 1, 1], &[(1, 5), (1, 1), (2, 32)]);
        check(&[2, 1], &[(1, 1), (1, 3), (2, 64)]);
        check(&[1], &[(4, 1)]);
    }
}
