//! Statements and loops of a kernel.

use super::super::emit_evex::Configuration;
use super::super::shape;
use super::accumulate::Accumulator;
use super::memory::{Base, Linear};
use super::plan::{Derived, Plan, is_constant};
use super::regions::Region;
use super::{Emitter, call};
use crate::kernel::{Amount, Contract, Expr, Index, Init, Kernel, Param, Range, Stmt, Type, Value};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, Endianness, InstBuilder, MemFlagsData, types};
use cranelift_frontend::{FunctionBuilder, Variable};
use std::collections::{BTreeMap, BTreeSet};

/// Memory accesses: never trap, any alignment, little-endian on every machine.
pub(super) fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap().with_endianness(Endianness::Little)
}

/// A value of the kernel: one, two or four CLIF values (scalars: one).
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts {
    values: [ir::Value; 4],
    n: usize,
}

impl Parts {
    pub(super) fn new(values: impl IntoIterator<Item = ir::Value>) -> Parts {
        let mut out = Parts { values: [ir::Value::from_u32(0); 4], n: 0 };
        for value in values {
            out.values[out.n] = value;
            out.n += 1;
        }
        out
    }

    pub(super) fn as_slice(&self) -> &[ir::Value] {
        &self.values[..self.n]
    }
}

/// The emission of one kernel.
pub(super) struct Body<'e, 'm, 'f> {
    pub(super) b: FunctionBuilder<'f>,
    pub(super) emitter: &'e mut Emitter<'m>,
    pub(super) kernel: &'e Kernel,
    pub(super) ranges: &'e [Range],
    pub(super) plan: &'e Plan,
    values: BTreeMap<Value, Parts>,
    derived: BTreeMap<(Value, Derived), ir::Value>,
    /// Loop indices by how deep their loop lies.
    pub(super) depth: BTreeMap<Index, usize>,
    /// Indices of loops of one turn: always zero.
    pub(super) single: BTreeSet<Index>,
    counters: BTreeMap<Index, ir::Value>,
    pub(super) linears: BTreeMap<Linear, ir::Value>,
    pub(super) accumulators: Vec<Accumulator>,
    /// Loops that are leaf functions, by their index.
    pub(super) regions: BTreeMap<Index, Region>,
}

/// Writes the function of a kernel: its body for every item from the third argument up to the fourth.
/// An error is internal.
pub(super) fn emit(
    emitter: &mut Emitter,
    kernel: &Kernel,
    ranges: &[Range],
    b: FunctionBuilder,
) -> Result<(), String> {
    let plan = Plan::new(kernel);
    let config = emitter.module.target_config();
    let mut body = Body {
        b,
        emitter,
        kernel,
        ranges,
        plan: &plan,
        values: BTreeMap::new(),
        derived: BTreeMap::new(),
        depth: BTreeMap::new(),
        single: BTreeSet::new(),
        counters: BTreeMap::new(),
        linears: BTreeMap::new(),
        accumulators: vec![],
        regions: BTreeMap::new(),
    };
    body.depths(&plan.body, 1);
    body.find_regions()?;
    body.function();
    body.b.seal_all_blocks();
    body.b.finalize(config);
    Ok(())
}

impl<'e> Body<'e, '_, '_> {
    fn depths(&mut self, stmts: &[Stmt], depth: usize) {
        self.depth.insert(Index(0), 0);
        for stmt in stmts {
            if let Stmt::For { index, count, body } = stmt {
                self.depth.insert(*index, depth);
                if *count == 1 {
                    self.single.insert(*index);
                }
                self.depths(body, depth + 1);
            }
        }
    }

    fn function(&mut self) {
        let entry = self.b.create_block();
        self.b.append_block_params_for_function_params(entry);
        self.b.switch_to_block(entry);
        let &[arena, args, first, last] = self.b.block_params(entry) else {
            unreachable!("kernels have four arguments");
        };
        for param in 0..self.kernel.params.len() {
            let units = self.b.ins().uload32(flags(), args, 4 * param as i32);
            let offset = self.b.ins().ishl_imm_u(units, 6);
            let base = self.b.ins().iadd(arena, offset);
            let linear = Linear { base: Base::Param(Param(param as u32)), terms: vec![] };
            self.linears.insert(linear, base);
        }
        let plan = self.plan;
        for stmt in &plan.prologue {
            self.stmt(stmt);
        }
        let first = self.b.ins().uextend(types::I64, first);
        let last = self.b.ins().uextend(types::I64, last);
        let (start, exit) = (self.b.create_block(), self.b.create_block());
        let any = self.b.ins().icmp(IntCC::UnsignedLessThan, first, last);
        self.b.ins().brif(any, start, &[], exit, &[]);
        self.b.switch_to_block(start);
        let tiles = self.emitter.shared;
        self.with_tiles(tiles, |body| body.repeat(Index(0), first, last, &plan.body));
        self.b.ins().jump(exit, &[]);
        self.b.switch_to_block(exit);
        self.b.ins().return_(&[]);
    }

    /// `for index in first..last`, at least one turn; `body` may end in another block.
    fn repeat(&mut self, index: Index, first: ir::Value, last: ir::Value, stmts: &'e [Stmt]) {
        let counter = self.variable(first);
        let running: Vec<(Linear, Variable, i64)> = self
            .linears_ending(stmts, index)
            .into_iter()
            .map(|linear| {
                let (&(_, stride), outer) = linear.terms.split_last().expect("it ends with the index");
                let outer = Linear { base: linear.base, terms: outer.to_vec() };
                let mut start = self.running(&outer);
                if index == Index(0) {
                    let offset = self.b.ins().imul_imm_s(first, stride);
                    start = self.b.ins().iadd(start, offset);
                }
                (linear, self.variable(start), stride)
            })
            .collect();
        let header = self.b.create_block();
        self.b.ins().jump(header, &[]);
        self.b.switch_to_block(header);
        let now = self.b.use_var(counter);
        self.counters.insert(index, now);
        self.touch_accumulators();
        for (linear, variable, _) in &running {
            let pointer = self.b.use_var(*variable);
            self.linears.insert(linear.clone(), pointer);
        }
        for stmt in stmts {
            self.stmt(stmt);
        }
        for (linear, variable, stride) in running {
            let pointer = self.linears.remove(&linear).expect("inserted above");
            let next = self.b.ins().iadd_imm_s(pointer, stride);
            self.b.def_var(variable, next);
        }
        let next = self.b.ins().iadd_imm_s(now, 1);
        self.b.def_var(counter, next);
        let more = self.b.ins().icmp(IntCC::UnsignedLessThan, next, last);
        let exit = self.b.create_block();
        self.b.ins().brif(more, header, &[], exit, &[]);
        self.b.seal_block(header);
        self.b.switch_to_block(exit);
        self.b.seal_block(exit);
    }

    /// A new variable that holds `value`.
    pub(super) fn variable(&mut self, value: ir::Value) -> Variable {
        let ty = self.b.func.dfg.value_type(value);
        let variable = self.b.declare_var(ty);
        self.b.def_var(variable, value);
        variable
    }

    fn stmt(&mut self, stmt: &'e Stmt) {
        match stmt {
            Stmt::For { index, .. } if self.regions.contains_key(index) => self.call_region(*index),
            Stmt::For { index, count, body } => {
                let outer = self.accumulators.len();
                self.open_accumulators(*index, *count, body);
                let first = self.b.ins().iconst(types::I64, 0);
                if *count == 1 {
                    self.counters.insert(*index, first);
                    for stmt in body {
                        self.stmt(stmt);
                    }
                } else {
                    let last = self.b.ins().iconst(types::I64, *count as i64);
                    self.repeat(*index, first, last, body);
                }
                self.close_accumulators(outer);
            }
            Stmt::Let(value, expr) => {
                let parts = self.expr(*value, expr);
                self.values.insert(*value, parts);
                self.derive(*value);
            }
            Stmt::Store(address, value) => self.store(address, *value),
            Stmt::Acc64(..) | Stmt::MaxInto(..) | Stmt::MinInto(..) => self.accumulate(stmt),
            Stmt::Contract(contract) => self.contract(contract),
        }
    }

    fn expr(&mut self, value: Value, expr: &Expr) -> Parts {
        match self.type_of(value) {
            Type::Lanes(_) | Type::Pairs => {
                self.lanes(expr, self.plan.widening.get(&value).copied(), self.type_of(value))
            }
            Type::Int | Type::Dyadic => Parts::new([self.scalar(expr, self.type_of(value))]),
        }
    }

    pub(super) fn type_of(&self, value: Value) -> Type {
        self.kernel.values[value.0 as usize]
    }

    pub(super) fn range(&self, value: Value) -> Range {
        self.ranges[value.0 as usize]
    }

    /// Whether a load of this value has already widened it.
    pub(super) fn loaded_wide(&self, value: Value) -> bool {
        self.plan.widening.contains_key(&value)
    }

    pub(super) fn parts(&self, value: Value) -> Parts {
        self.values[&value]
    }

    /// The one CLIF value of a scalar.
    pub(super) fn scalar_value(&self, value: Value) -> ir::Value {
        self.values[&value].values[0]
    }

    pub(super) fn counter(&self, index: Index) -> ir::Value {
        self.counters[&index]
    }

    /// A shift amount; the verifier has proven that it is below the width.
    pub(super) fn amount(&mut self, amount: Amount) -> ir::Value {
        match amount {
            Amount::Imm(k) => self.b.ins().iconst(types::I64, k as i64),
            Amount::Value(v) => self.scalar_value(v),
        }
    }

    /// Flags of loads from a parameter: from memory that is never written, the compiler may move them.
    pub(super) fn load_flags(&self, param: Param) -> MemFlagsData {
        match is_constant(&self.kernel.params, param) {
            true => flags().with_readonly().with_can_move(),
            false => flags(),
        }
    }

    pub(super) fn derived(&self, value: Value, what: Derived) -> ir::Value {
        self.derived[&(value, what)]
    }

    fn derive(&mut self, value: Value) {
        let plan = self.plan;
        for &what in plan.derived.get(&value).into_iter().flatten() {
            let scalar = self.scalar_value(value);
            let derived = self.derive_one(scalar, what);
            self.derived.insert((value, what), derived);
        }
    }

    fn contract(&mut self, c: &Contract) {
        let shape = shape::Shape::new(c, self.kernel, self.emitter.target);
        let (id, tiles) = self.emitter.contracts[&shape];
        let out = self.pointer(&c.out);
        let a = self.pointer(&c.a);
        let b = self.pointer(&c.b);
        let init = match &c.init {
            Init::Zero | Init::Accumulate => out,
            Init::PerVector(address, _) | Init::PerPoint(address, _) => self.pointer(address),
        };
        let tiles = if self.emitter.shared.is_some() { None } else { tiles };
        self.with_tiles(tiles, |body| {
            call(&mut body.b, body.emitter.module, id, &[out, a, b, init]);
        });
    }

    /// Code that finds tiles configured, if it wants them so; they are given back behind it.
    fn with_tiles(&mut self, tiles: Option<Configuration>, inner: impl FnOnce(&mut Self)) {
        if let Some(tiles) = tiles {
            let id = self.emitter.configurations[&tiles];
            call(&mut self.b, self.emitter.module, id, &[]);
        }
        inner(self);
        if let (Some(_), Some(release)) = (tiles, self.emitter.release) {
            call(&mut self.b, self.emitter.module, release, &[]);
        }
    }

    /// Calls a function of the runtime.
    pub(super) fn runtime(&mut self, name: &'static str, args: &[ir::Value]) -> ir::Value {
        let id = self.emitter.symbol(name, args.len());
        let call = call(&mut self.b, self.emitter.module, id, args);
        self.b.inst_results(call)[0]
    }
}
