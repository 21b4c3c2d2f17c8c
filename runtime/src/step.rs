//! Running a step: one small loop over a table of calls, each a barrier.
//!
//! The loop is the same for emitted code, object files and interpreters ([`Kernels`]), and for one or many threads
//! ([`Workers`]). The number of items follows from shapes, never from threads, and items of one call do not depend on
//! each other; so neither the split nor the order of items can change a result.

#![allow(unsafe_code, reason = "kernels are compiled functions over a raw arena")]

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

/// Who runs the items of a call.
pub trait Workers {
    /// Runs `task(first, last)` over parts that make up `0..items`, each item once, and returns when all are done.
    fn split(&self, items: u32, task: &(dyn Fn(u32, u32) + Sync));
}

/// The calling thread alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct Serial;

impl Workers for Serial {
    fn split(&self, items: u32, task: &(dyn Fn(u32, u32) + Sync)) {
        task(0, items);
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

/// Runs the calls in order; after each, when all its items are done, says its position.
///
/// # Safety
/// Every call fits its kernel in the sense of [`Kernels::run`], with its arguments at `table[call.args..]`; items of
/// one call are independent of each other; nobody else uses the arena meanwhile.
pub unsafe fn run_step<K: Kernels + ?Sized, W: Workers + ?Sized>(
    calls: &[Call],
    table: &[u32],
    kernels: &K,
    arena: *mut u8,
    workers: &W,
    after: &mut dyn FnMut(usize),
) {
    let arena = Shared(arena);
    for (position, call) in calls.iter().enumerate() {
        let args = &table[call.args as usize..];
        workers.split(call.items, &|first, last| {
            // SAFETY: by the contract of this function; the workers give every item to one task only.
            unsafe { kernels.run(call.kernel, arena.get(), args.as_ptr(), first, last) }
        });
        after(position);
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

    #[test]
    fn calls_run_in_order_on_their_buffers() {
        let kernels: &[KernelFn] = &[add_one, copy];
        let mut arena = [0u8; 192];
        let table = [1, 1, 2];
        let calls = [
            Call { kernel: 0, args: 0, items: 5 },
            Call { kernel: 0, args: 0, items: 3 },
            Call { kernel: 1, args: 1, items: 64 },
            Call { kernel: 0, args: 0, items: 64 },
        ];
        let mut order = vec![];
        // SAFETY: the offsets 64 and 128 hold 64 bytes each.
        unsafe { run_step(&calls, &table, kernels, arena.as_mut_ptr(), &Serial, &mut |i| order.push(i)) };
        assert_eq!(order, [0, 1, 2, 3]);
        assert!(arena[..64].iter().all(|&x| x == 0));
        assert_eq!(arena[64..70], [3, 3, 3, 2, 2, 1]);
        assert_eq!(arena[128..134], [2, 2, 2, 1, 1, 0]);
    }
}
