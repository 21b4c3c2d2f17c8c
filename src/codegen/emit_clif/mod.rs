//! Emission through Cranelift: every kernel as one function, for every target of Cranelift.
//!
//! A block of 16 lanes is 1, 2 or 4 vectors of 128 bits, by the type of its lanes. Kernels compile at `speed`;
//! contractions are leaf functions of their own, shared by shape, whose instructions stay in the order written here
//! (optimizing moves them to their uses and makes chains of the accumulators).
//!
//! Every form is portable. Forms that one machine does better stand beside a portable one and are chosen by the
//! target's data. The emitter never looks at the host, and trusts the kernel verifier.

mod accumulate;
mod body;
mod contract;
mod dot;
mod lanes;
mod memory;
pub(super) mod plan;
mod regions;
mod scalar;
mod tile;

pub(super) use memory::RANDOM_STRIDE;

use super::clock::{Clock, Clocks};
use super::{emit_evex, shape};
use crate::kernel::{Kernel, Stmt, cost, verify};
use crate::targets::{Effort, Target};
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::ExternalName;
use cranelift_codegen::ir::{self, AbiParam, InstBuilder, types};
use cranelift_codegen::isa::OwnedTargetIsa;
use cranelift_codegen::{Context, FinalizedRelocTarget};
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext};
use cranelift_module::{FuncId, Linkage, Module, ModuleError, ModuleReloc};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Alignment of functions: a cache line.
const ALIGNMENT: u64 = 64;

/// One emitted function, kept for audit and listings.
#[derive(Clone, Debug)]
pub struct Emitted {
    /// Symbol.
    pub name: String,
    /// Code and the constants behind it, before relocation.
    pub bytes: Vec<u8>,
    /// Places of absolute addresses inside the code, 8 bytes each.
    pub relocations: Vec<u32>,
    /// CLIF and disassembly, when asked for.
    pub listing: Option<Listing>,
}

/// Texts of one function.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Cranelift's intermediate form, as emitted.
    pub clif: String,
    /// Machine code.
    pub asm: String,
}

/// Writes kernels into a module.
pub struct Emitter<'m> {
    module: &'m mut dyn Module,
    target: &'static Target,
    kernel_isa: OwnedTargetIsa,
    contract_isa: OwnedTargetIsa,
    /// Functions of the runtime that have been declared, by name.
    symbols: BTreeMap<&'static str, FuncId>,
    /// Contractions that have been defined, and how they want tiles to be configured.
    contracts: BTreeMap<shape::Shape, (FuncId, Option<emit_evex::Configuration>)>,
    /// What configures tiles, and what gives them back.
    configurations: BTreeMap<emit_evex::Configuration, FuncId>,
    release: Option<FuncId>,
    /// Configuration of all tiles of the kernel that is being written, if it has one.
    shared: Option<emit_evex::Configuration>,
    /// Regions of wide lanes that have been defined.
    regions: usize,
    context: Context,
    frontend: FunctionBuilderContext,
    listing: bool,
    /// Nothing in code without clocks.
    clocks: Option<Clocked>,
    emitted: Vec<Emitted>,
}

/// Clocks of code.
#[derive(Default)]
struct Clocked {
    contractions: BTreeMap<shape::Shape, Arc<Clock>>,
    /// Of each kernel so far.
    kernels: Vec<Clocks>,
}

impl<'m> Emitter<'m> {
    /// Emits into a module, which must have been made for the same target and kind of code. `listing` keeps texts.
    pub fn new(
        module: &'m mut dyn Module,
        target: &'static Target,
        listing: bool,
    ) -> Result<Emitter<'m>, String> {
        let pic = module.isa().flags().is_pic();
        Ok(Emitter {
            kernel_isa: target.isa(Effort::Speed, pic)?,
            contract_isa: target.isa(Effort::None, pic)?,
            context: module.make_context(),
            module,
            target,
            symbols: BTreeMap::new(),
            contracts: BTreeMap::new(),
            configurations: BTreeMap::new(),
            release: None,
            shared: None,
            regions: 0,
            frontend: FunctionBuilderContext::new(),
            listing,
            clocks: None,
            emitted: vec![],
        })
    }

    /// Puts clocks around the contractions of all kernels that follow.
    pub(super) fn with_clocks(&mut self) {
        self.clocks = Some(Clocked::default());
    }

    /// Emits a kernel as an exported function of that name. An error is internal: the kernel does not verify, or
    /// Cranelift refuses it.
    pub fn kernel(&mut self, name: &str, kernel: &Kernel) -> Result<FuncId, String> {
        let facts = verify::kernel(kernel).map_err(|violation| violation.to_string())?;
        let mut leaves = vec![];
        plan::walk(&kernel.body, &mut |stmt| {
            if let Stmt::Contract(contract) = stmt {
                leaves.push((shape::Shape::new(contract, kernel, self.target), cost::macs(contract)));
            }
        });
        let mut wanted = BTreeSet::new();
        for (shape, macs) in &leaves {
            wanted.extend(self.contract(shape, *macs)?);
        }
        if let Some(clocks) = &mut self.clocks {
            let own = leaves.iter().filter_map(|(shape, _)| clocks.contractions.get(shape).cloned());
            clocks.kernels.push(own.collect());
        }
        self.shared = if wanted.len() == 1 { wanted.pop_first() } else { None };
        let mut func = self.function(&[self.pointer(), self.pointer(), types::I32, types::I32]);
        let mut frontend = std::mem::take(&mut self.frontend);
        let done = body::emit(self, kernel, &facts.ranges, FunctionBuilder::new(&mut func, &mut frontend));
        self.frontend = frontend;
        done?;
        self.define(name, Linkage::Export, func, Effort::Speed)
    }

    /// What was emitted, in order.
    pub fn finish(self) -> Vec<Emitted> {
        self.emitted
    }

    /// The clocks of each kernel, in order.
    pub(super) fn take_clocks(&mut self) -> Vec<Clocks> {
        self.clocks.take().map_or(vec![], |clocks| clocks.kernels)
    }

    /// Defines a contraction, unless it is defined; gives the configuration of tiles that it wants.
    fn contract(
        &mut self,
        shape: &shape::Shape,
        macs: u64,
    ) -> Result<Option<emit_evex::Configuration>, String> {
        if let Some((_, configuration)) = self.contracts.get(shape) {
            return Ok(*configuration);
        }
        let name = format!("contract_{}", self.contracts.len());
        if let Some(wide) = &self.target.wide {
            let failed = |why| format!("emitting {name}: {why}");
            let (mut bytes, configuration) = emit_evex::contract(shape, wide).map_err(failed)?;
            if let Some(clocks) = &mut self.clocks {
                let clock =
                    clocks.contractions.entry(shape.clone()).or_insert_with(|| Arc::new(Clock::new(macs)));
                bytes = clock.around(&bytes)?;
            }
            let id = self.define_leaf(&name, &[self.pointer(); 4], bytes)?;
            self.contracts.insert(shape.clone(), (id, configuration));
            if let Some(configuration) = configuration {
                self.configuration(configuration)?;
            }
            return Ok(configuration);
        }
        let mut func = self.function(&[self.pointer(); 4]);
        let mut frontend = std::mem::take(&mut self.frontend);
        let builder = FunctionBuilder::new(&mut func, &mut frontend);
        contract::emit(shape, self.target, self.module.target_config(), builder);
        self.frontend = frontend;
        let id = self.define(&name, Linkage::Local, func, Effort::None)?;
        self.contracts.insert(shape.clone(), (id, None));
        Ok(None)
    }

    /// Defines the functions around contractions in tiles, unless they are defined.
    fn configuration(&mut self, configuration: emit_evex::Configuration) -> Result<(), String> {
        if self.release.is_none() {
            self.release = Some(self.define_leaf("tiles_release", &[], emit_evex::release()?)?);
        }
        if !self.configurations.contains_key(&configuration) {
            let name = format!("tiles_{}", self.configurations.len());
            let id = self.define_leaf(&name, &[], emit_evex::configure(&configuration)?)?;
            self.configurations.insert(configuration, id);
        }
        Ok(())
    }

    /// A region as a leaf function of one pointer.
    fn region(&mut self, bytes: Vec<u8>) -> Result<FuncId, String> {
        self.regions += 1;
        self.define_leaf(&format!("lanes_{}", self.regions - 1), &[self.pointer()], bytes)
    }

    /// A leaf function that is bytes already.
    fn define_leaf(&mut self, name: &str, params: &[ir::Type], bytes: Vec<u8>) -> Result<FuncId, String> {
        let signature = self.function(params).signature.clone();
        let failed = |e: ModuleError| format!("emitting {name}: {e}");
        let id = self.module.declare_function(name, Linkage::Local, &signature).map_err(failed)?;
        self.module.define_function_bytes(id, ALIGNMENT, &bytes, &[]).map_err(failed)?;
        let listing = self.listing.then(|| emit_evex::listing(&bytes));
        self.emitted.push(Emitted { name: name.to_string(), bytes, relocations: vec![], listing });
        Ok(id)
    }

    fn pointer(&self) -> ir::Type {
        self.module.target_config().pointer_type()
    }

    fn function(&self, params: &[ir::Type]) -> ir::Function {
        let mut signature = self.module.make_signature();
        signature.params.extend(params.iter().map(|&ty| AbiParam::new(ty)));
        ir::Function::with_name_signature(ir::UserFuncName::default(), signature)
    }

    /// A function of the runtime: 64-bit integers to a 64-bit integer.
    fn symbol(&mut self, name: &'static str, arguments: usize) -> FuncId {
        if let Some(&id) = self.symbols.get(name) {
            return id;
        }
        let mut signature = self.module.make_signature();
        signature.params.resize(arguments, AbiParam::new(types::I64));
        signature.returns.push(AbiParam::new(types::I64));
        let id = self.module.declare_function(name, Linkage::Import, &signature);
        let id = id.expect("runtime symbols are declared here only, each with one signature");
        self.symbols.insert(name, id);
        id
    }

    fn define(
        &mut self,
        name: &str,
        linkage: Linkage,
        func: ir::Function,
        effort: Effort,
    ) -> Result<FuncId, String> {
        let failed = |what: &dyn std::fmt::Display| format!("emitting {name}: {what}");
        let id = self.module.declare_function(name, linkage, &func.signature).map_err(|e| failed(&e))?;
        let clif = self.listing.then(|| func.display().to_string());
        self.context.clear();
        self.context.func = func;
        self.context.set_disasm(self.listing);
        let isa = if effort == Effort::None { &self.contract_isa } else { &self.kernel_isa };
        self.context.compile(&**isa, &mut ControlPlane::default()).map_err(|e| failed(&e.inner))?;
        let code = self.context.compiled_code().expect("compilation succeeded");
        let relocations = code.buffer.relocs();
        if relocations
            .iter()
            .any(|r| matches!(r.target, FinalizedRelocTarget::ExternalName(ExternalName::LibCall(_))))
        {
            return Err(failed(&"it calls the compiler's own library"));
        }
        let module_relocations: Vec<ModuleReloc> =
            relocations.iter().map(|r| ModuleReloc::from_mach_reloc(r, &self.context.func, id)).collect();
        self.module
            .define_function_bytes(id, ALIGNMENT, code.code_buffer(), &module_relocations)
            .map_err(|e| failed(&e))?;
        self.emitted.push(Emitted {
            name: name.to_string(),
            bytes: code.code_buffer().to_vec(),
            relocations: relocations.iter().map(|r| r.offset).collect(),
            listing: clif.map(|clif| Listing { clif, asm: code.vcode.clone().unwrap_or_default() }),
        });
        Ok(id)
    }
}

/// Calls a function of the module.
fn call(b: &mut FunctionBuilder, module: &mut dyn Module, id: FuncId, args: &[ir::Value]) -> ir::Inst {
    let callee = module.declare_func_in_func(id, b.func);
    b.ins().call(callee, args)
}
