//! Code in memory: compiles the kernels of a program and runs them.
//!
//! The only file of the compiler that handles raw code. Pages are writable or executable, never both. Code may call
//! the runtime's symbols and nothing else, and lives exactly as long as its [`JitStep`].

#![allow(unsafe_code, reason = "calls the code that was compiled, and frees its memory")]

use super::clock::Clocks;
use super::emit_clif::{Emitted, Emitter};
use super::peak::LoopCode;
use crate::kernel::{Kernel, Program, Stmt};
use crate::targets::{Effort, Target};
use cranelift_codegen::ir::{AbiParam, types};
use cranelift_jit::{ArenaMemoryProvider, JITBuilder, JITModule};
use cranelift_module::{FuncId, Linkage, Module, ModuleError, default_libcall_names};
use fqt_runtime::step::{KernelFn, Kernels, OFFSET_UNIT};
use std::ops::Range;
use std::sync::Mutex;

/// Address space reserved for the code of each part of a step; memory is only used as code fills it.
const RESERVED: usize = 256 << 20;

/// A module whose memory is freed with it.
struct Code(Option<JITModule>);

impl Code {
    fn new(target: &Target) -> Result<Code, String> {
        let mut builder = JITBuilder::with_isa(target.isa(Effort::Speed, false)?, default_libcall_names());
        builder.symbols(fqt_runtime::abi::symbols().map(|(name, address, _)| (name, address)));
        let memory = ArenaMemoryProvider::new_with_size(RESERVED);
        builder.memory_provider(Box::new(memory.map_err(|e| format!("no memory for code: {e}"))?));
        Ok(Code(Some(JITModule::new(builder))))
    }

    fn module(&mut self) -> &mut JITModule {
        self.0.as_mut().expect("only dropping takes the module away")
    }

    /// Emits the given kernels of a program, by number as `kernel_<n>`, and the contractions in them.
    fn emit(
        &mut self,
        program: &Program,
        numbers: &[usize],
        target: &'static Target,
        with: With,
    ) -> Result<Functions, String> {
        let mut emitter = Emitter::new(self.module(), target, with == With::Listing)?;
        if with == With::Clocks {
            emitter.with_clocks();
        }
        let one = |&i: &usize| emitter.kernel(&format!("kernel_{i}"), &program.kernels[i]);
        let ids: Result<_, _> = numbers.iter().map(one).collect();
        let clocks = emitter.take_clocks();
        Ok(Functions { ids: ids?, emitted: emitter.finish(), clocks })
    }
}

/// The kernels that went into a module, in order.
struct Functions {
    ids: Vec<FuncId>,
    emitted: Vec<Emitted>,
    /// Nothing without clocks.
    clocks: Vec<Clocks>,
}

/// What code has beside itself.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    Nothing,
    Listing,
    Clocks,
}

/// A part of a step's code: numbers of its kernels, where they are, and what was emitted.
struct Part {
    code: Code,
    kernels: Vec<(usize, KernelFn)>,
    emitted: Vec<Emitted>,
    /// By the order of `kernels`; nothing without clocks.
    clocks: Vec<Clocks>,
}

impl Part {
    fn new(
        program: &Program,
        numbers: &[usize],
        target: &'static Target,
        with: With,
    ) -> Result<Part, String> {
        let mut code = Code::new(target)?;
        let Functions { ids, emitted, clocks } = code.emit(program, numbers, target, with)?;
        code.module().finalize_definitions().map_err(|e| format!("placing code: {e}"))?;
        let address = |id| code.0.as_ref().expect("not dropped").get_finalized_function(id);
        // SAFETY: the emitter gives every kernel exactly this signature in the platform's C convention, and `code`
        // holds the memory for as long as the pointers live.
        let kernel = |id| unsafe { std::mem::transmute::<*const u8, KernelFn>(address(id)) };
        let kernels = numbers.iter().copied().zip(ids.into_iter().map(kernel)).collect();
        Ok(Part { code, kernels, emitted, clocks })
    }
}

/// How long it takes to emit a kernel, and a contraction in it, in the time that a value takes: fitted to measurements.
const KERNEL: usize = 50;
const CONTRACTION: usize = 30;

/// Kernels in parts that take about equally long; those with contractions together, because they share them.
fn parts(program: &Program, n: usize) -> Vec<Vec<usize>> {
    let contracts = |i: &usize| {
        let mut found = false;
        super::emit_clif::plan::walk(&program.kernels[*i].body, &mut |s| {
            found |= matches!(s, Stmt::Contract(_))
        });
        found
    };
    let size =
        |i: &usize| program.kernels[*i].values.len() + KERNEL + if contracts(i) { CONTRACTION } else { 0 };
    let mut order: Vec<usize> = (0..program.kernels.len()).collect();
    order.sort_by_key(|i| !contracts(i));
    let total: usize = order.iter().map(size).sum();
    let mut parts = vec![vec![]; n];
    let mut done = 0;
    for i in order {
        parts[(done * n / total.max(1)).min(n - 1)].push(i);
        done += size(&i);
    }
    parts
}

impl Drop for Code {
    fn drop(&mut self) {
        if let Some(module) = self.0.take() {
            // SAFETY: kernels only run through the step that owns this, so none runs now and none will.
            unsafe { module.free_memory() }
        }
    }
}

/// Every function of a program with its CLIF and disassembly, for any target; nothing of it can run.
pub fn listing(program: &Program, target: &'static Target) -> Result<Vec<Emitted>, String> {
    let all: Vec<usize> = (0..program.kernels.len()).collect();
    Code::new(target)?.emit(program, &all, target, With::Listing).map(|functions| functions.emitted)
}

/// The kernels of a program, compiled for one target.
pub struct JitStep {
    kernels: Vec<KernelFn>,
    /// Of each kernel: its items, and the bytes that its parameters need.
    extents: Vec<(u32, Vec<u64>)>,
    emitted: Vec<Emitted>,
    /// What code with clocks writes to.
    _clocks: Vec<Clocks>,
    /// Owns what `kernels` points to. Locked only because a module is not made to be shared: kernels run without it.
    _code: Mutex<Vec<Code>>,
}

impl JitStep {
    /// Compiles every kernel of a program once, in parts on the threads of this machine.
    ///
    /// An error says that this machine does not run the target's code, or is internal.
    pub fn new(program: &Program, target: &'static Target) -> Result<JitStep, String> {
        JitStep::with(program, target, With::Nothing).map(|(step, _)| step)
    }

    /// The same with clocks around contractions, which count as long as they are kept: those of each kernel by its
    /// number. They are empty where a target's contractions cannot be clocked.
    pub fn clocked(program: &Program, target: &'static Target) -> Result<(JitStep, Vec<Clocks>), String> {
        JitStep::with(program, target, With::Clocks)
    }

    fn with(
        program: &Program,
        target: &'static Target,
        with: With,
    ) -> Result<(JitStep, Vec<Clocks>), String> {
        if !(target.runs_here)() {
            return Err(format!("this machine does not run code for {}", target.name));
        }
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
        let parts: Vec<Result<Part, String>> = std::thread::scope(|scope| {
            let workers: Vec<_> = parts(program, threads)
                .into_iter()
                .map(|numbers| scope.spawn(move || Part::new(program, &numbers, target, with)))
                .collect();
            workers.into_iter().map(|w| w.join().expect("emission does not panic")).collect()
        });
        let (mut numbered, mut emitted, mut codes) = (vec![], vec![], vec![]);
        let mut clocks = vec![Clocks::default(); program.kernels.len()];
        for part in parts {
            let part = part?;
            part.kernels.iter().zip(part.clocks).for_each(|(kernel, own)| clocks[kernel.0] = own);
            numbered.extend(part.kernels);
            emitted.extend(part.emitted);
            codes.push(part.code);
        }
        numbered.sort_by_key(|k: &(usize, KernelFn)| k.0);
        let kernels = numbered.into_iter().map(|k| k.1).collect();
        let sizes = |k: &Kernel| k.params.iter().map(|p| p.len * p.dtype.bytes() as u64).collect();
        let extents = program.kernels.iter().map(|k| (k.items, sizes(k))).collect();
        let step = JitStep { kernels, extents, emitted, _clocks: clocks.clone(), _code: Mutex::new(codes) };
        Ok((step, clocks))
    }

    /// Runs items of one kernel, as [`crate::kernel::interp::run_kernel`] does. `args` are the offsets of its buffers
    /// in units of 64 bytes. An error says that the arguments do not fit the kernel and the arena.
    pub fn run_kernel(
        &self,
        kernel: usize,
        arena: &mut [u8],
        args: &[u32],
        items: Range<u32>,
    ) -> Result<(), String> {
        let (Some(code), Some((n, sizes))) = (self.kernels.get(kernel), self.extents.get(kernel)) else {
            return Err(format!("there is no kernel {kernel}"));
        };
        let fits = |(&arg, &size): (&u32, &u64)| {
            (arg as u64 * OFFSET_UNIT as u64).checked_add(size).is_some_and(|end| end <= arena.len() as u64)
        };
        if items.end > *n || args.len() != sizes.len() || !args.iter().zip(sizes).all(fits) {
            return Err(format!("kernel {kernel}: the arguments do not fit the parameters and the arena"));
        }
        // SAFETY: every buffer lies inside the arena, which is borrowed for the call; the emitter only takes kernels
        // that verify, so accesses of its items stay inside their buffers.
        unsafe { code(arena.as_mut_ptr(), args.as_ptr(), items.start, items.end) }
        Ok(())
    }

    /// What was emitted: kernels by number as `kernel_<n>`, contractions as `contract_<n>`.
    pub fn emitted(&self) -> &[Emitted] {
        &self.emitted
    }
}

/// The time stamp counter of this machine, which clocks read.
#[cfg(target_arch = "x86_64")]
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has the instruction.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Other machines run no code with clocks.
#[cfg(not(target_arch = "x86_64"))]
pub fn ticks() -> u64 {
    0
}

/// A loop that measures the machine, ready to run.
pub struct Loop {
    function: extern "C" fn(u64),
    /// Owns what `function` points to.
    _code: Code,
}

impl Loop {
    /// Places a loop. An error says that this machine does not run the target's code, or is internal.
    pub fn new(code: &LoopCode, target: &'static Target) -> Result<Loop, String> {
        if !(target.runs_here)() {
            return Err(format!("this machine does not run code for {}", target.name));
        }
        let mut memory = Code::new(target)?;
        let module = memory.module();
        let mut signature = module.make_signature();
        signature.params.push(AbiParam::new(types::I64));
        let wrong = |e: ModuleError| format!("placing a loop: {e}");
        let id = module.declare_function("loop", Linkage::Local, &signature).map_err(wrong)?;
        module.define_function_bytes(id, 64, &code.bytes, &[]).map_err(wrong)?;
        module.finalize_definitions().map_err(wrong)?;
        // SAFETY: `LoopCode` is a function of this signature in the convention of x86-64 targets (`codegen` makes it), and
        // `memory` holds its bytes for as long as the pointer lives.
        let function = unsafe {
            std::mem::transmute::<*const u8, extern "C" fn(u64)>(module.get_finalized_function(id))
        };
        Ok(Loop { function, _code: memory })
    }

    /// Runs it for so many turns, at least one.
    pub fn run(&self, turns: u64) {
        (self.function)(turns.max(1));
    }
}

impl Kernels for JitStep {
    unsafe fn run(&self, kernel: u32, arena: *mut u8, args: *const u32, first: u32, last: u32) {
        // SAFETY: passed on from the caller.
        unsafe { self.kernels.run(kernel, arena, args, first, last) }
    }
}
