//! The operating system's permission to use tile registers (AMX), which a process must ask for before it touches them.
//!
//! The permission holds for all threads of the process, also later ones, and is never taken back. Code that uses tiles
//! releases them before it returns, so nobody else pays for their state.

#![allow(unsafe_code, reason = "asks the processor and the kernel")]

/// Whether this process may use tile registers with products of 8-bit numbers: the machine has them (`amx-tile`,
/// `amx-int8`) and the operating system grants their state. Asking again changes nothing.
pub fn granted() -> bool {
    machine::has_tiles() && machine::permitted()
}

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod machine {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid_count, __get_cpuid_max};

    /// `arch_prctl`, its request for the permission of a state component, and the number of the tiles' component.
    const ARCH_PRCTL: u64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;

    pub(super) fn has_tiles() -> bool {
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        __get_cpuid_max(0).0 >= 7 && __cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8
    }

    pub(super) fn permitted() -> bool {
        let refused: u64;
        // SAFETY: a system call that reads and writes no memory of the process; the kernel changes `rcx` and `r11`.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => refused,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") XFEATURE_XTILEDATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        refused == 0
    }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
mod machine {
    pub(super) fn has_tiles() -> bool {
        false
    }

    pub(super) fn permitted() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::granted;

    #[test]
    fn only_a_machine_with_tiles_grants_them() {
        let first = granted();
        assert_eq!(granted(), first);
        if first {
            let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap();
            assert!(["amx_tile", "amx_int8"].iter().all(|flag| flags.contains(flag)));
        }
    }
}
