//! The arena: the one block of memory that a step works in.
//!
//! Zeroed, and aligned to a page. Access goes by [`Slot`], checked against the arena's length and the element type.

#![allow(unsafe_code, reason = "an aligned block of memory, seen as integers of several widths")]

use crate::error::{Error, ErrorKind, Result};
use crate::fixed::Dyadic;
use crate::program::{DType, Slot};
use std::alloc::{Layout, alloc, dealloc};
use std::ptr::NonNull;

/// Alignment of the first byte.
const ALIGN: usize = 4096;
/// Size of a huge page on the machines that have them.
const HUGE_PAGE: usize = 2 << 20;

/// Owned memory for state, inputs, outputs and temporary buffers.
#[derive(Debug)]
pub struct Arena {
    first: NonNull<u8>,
    bytes: usize,
    layout: Layout,
}

// SAFETY: the arena owns its memory, and shared references only read.
unsafe impl Send for Arena {}
// SAFETY: as above.
unsafe impl Sync for Arena {}

/// An integer type that arena memory can be seen as.
///
/// # Safety
/// Every bit pattern is a value, the size is that of the dtypes, and the alignment is at most 64 bytes.
pub unsafe trait Element: Copy {
    /// The element types that look like this.
    const DTYPES: &'static [DType];
}

// SAFETY: a plain integer.
unsafe impl Element for i8 {
    const DTYPES: &'static [DType] = &[DType::I8];
}
// SAFETY: a plain integer.
unsafe impl Element for u8 {
    const DTYPES: &'static [DType] = &[DType::U8];
}
// SAFETY: a plain integer.
unsafe impl Element for i16 {
    const DTYPES: &'static [DType] = &[DType::I16];
}
// SAFETY: a plain integer.
unsafe impl Element for i32 {
    const DTYPES: &'static [DType] = &[DType::I32];
}
// SAFETY: a plain integer.
unsafe impl Element for i64 {
    const DTYPES: &'static [DType] = &[DType::I64];
}
// SAFETY: two plain 32-bit integers, in the order in which a packed dyadic stores them.
unsafe impl Element for Dyadic {
    const DTYPES: &'static [DType] = &[DType::Dyadic];
}

impl Arena {
    /// A zeroed arena.
    pub fn new(bytes: u64) -> Result<Arena> {
        let failure = || {
            Error::new(
                ErrorKind::Resources,
                format!("cannot get {bytes} bytes of memory for the network"),
                "choose a smaller batch or a smaller model",
            )
        };
        let bytes_usize = usize::try_from(bytes).map_err(|_| failure())?;
        // An allocation has at least one byte.
        let total = bytes_usize.max(1);
        let align = if total >= HUGE_PAGE { HUGE_PAGE } else { ALIGN };
        let layout = Layout::from_size_align(total, align).map_err(|_| failure())?;
        // SAFETY: the size is not zero.
        let first = NonNull::new(unsafe { alloc(layout) }).ok_or_else(failure)?;
        prefer_huge_pages(first, layout);
        // SAFETY: the allocation has this size.
        unsafe { first.as_ptr().write_bytes(0, total) };
        Ok(Arena { first, bytes: bytes_usize, layout })
    }

    /// Bytes.
    pub fn len(&self) -> u64 {
        self.bytes as u64
    }

    /// Whether there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The first byte, for running kernels.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.first.as_ptr()
    }

    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the allocation has this length and is initialized; the borrow of self guards it.
        unsafe { std::slice::from_raw_parts(self.first.as_ptr(), self.bytes) }
    }

    /// All bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(self.first.as_ptr(), self.bytes) }
    }

    /// The bytes of a slot. Panics if it lies outside (slots are checked when a session opens).
    pub fn slot_bytes(&self, slot: &Slot) -> &[u8] {
        &self.bytes()[byte_range(slot)]
    }

    /// The bytes of a slot, to change.
    pub fn slot_bytes_mut(&mut self, slot: &Slot) -> &mut [u8] {
        &mut self.bytes_mut()[byte_range(slot)]
    }

    /// The elements of a slot. Panics if it lies outside or has another type.
    pub fn slice<T: Element>(&self, slot: &Slot) -> &[T] {
        let bytes = self.slot_bytes(slot);
        let len = checked_len::<T>(slot, bytes);
        // SAFETY: the bytes are inside the arena, aligned for T (checked) and any bits are a T.
        unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), len) }
    }

    /// The elements of a slot, to change.
    pub fn slice_mut<T: Element>(&mut self, slot: &Slot) -> &mut [T] {
        let bytes = self.slot_bytes_mut(slot);
        let len = checked_len::<T>(slot, bytes);
        // SAFETY: as in `slice`, and the borrow is unique.
        unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.first.as_ptr(), self.layout) }
    }
}

/// Asks for huge pages before the memory is touched: a step walks through all of it, and with small pages it waits for
/// translations of addresses more than for the data. What the system answers changes speed only.
#[cfg(target_os = "linux")]
fn prefer_huge_pages(first: NonNull<u8>, layout: Layout) {
    if layout.align() == HUGE_PAGE {
        let advice = rustix::mm::Advice::LinuxHugepage;
        let whole = layout.size() / HUGE_PAGE * HUGE_PAGE;
        // SAFETY: the range lies inside the allocation, and the advice does not change what it holds.
        let _ = unsafe { rustix::mm::madvise(first.as_ptr().cast(), whole, advice) };
    }
}

#[cfg(not(target_os = "linux"))]
fn prefer_huge_pages(_: NonNull<u8>, _: Layout) {}

fn byte_range(slot: &Slot) -> std::ops::Range<usize> {
    slot.offset as usize..(slot.offset + slot.bytes()) as usize
}

fn checked_len<T: Element>(slot: &Slot, bytes: &[u8]) -> usize {
    assert!(T::DTYPES.contains(&slot.dtype), "`{}` holds {:?}", slot.name, slot.dtype);
    assert!(bytes.as_ptr().cast::<T>().is_aligned(), "`{}` is not aligned", slot.name);
    bytes.len() / size_of::<T>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_share_the_memory_by_type() {
        let slot = |dtype, n, offset| Slot { name: "x".into(), dtype, extents: vec![n], offset };
        let mut arena = Arena::new(256).unwrap();
        assert_eq!(arena.as_mut_ptr() as usize % 4096, 0);
        assert!(arena.bytes().iter().all(|&b| b == 0));
        arena.slice_mut::<i64>(&slot(DType::I64, 2, 64))[1] = -2;
        assert_eq!(arena.slice::<i32>(&slot(DType::I32, 4, 64)), [0, 0, -2, -1]);
        arena.slice_mut::<Dyadic>(&slot(DType::Dyadic, 1, 128))[0] = Dyadic::ONE;
        assert_eq!(arena.slice::<i64>(&slot(DType::I64, 1, 128))[0] as u64, Dyadic::ONE.pack());
        assert_eq!(arena.slot_bytes(&slot(DType::U8, 64, 192)).len(), 64);
    }

    #[test]
    fn impossible_sizes_are_errors() {
        for bytes in [u64::MAX, u64::MAX - 64, 1 << 62] {
            assert_eq!(Arena::new(bytes).unwrap_err().kind, ErrorKind::Resources);
        }
    }
}
