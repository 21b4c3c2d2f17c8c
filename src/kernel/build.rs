//! Builders: the only way lowering writes kernels and programs.
//!
//! Types are inferred by the rules of `typing`; misuse is a broken invariant of the caller and panics with the rule.
//! Constants are gathered at the top of the body, and a pure expression is written once in a scope, so that equal
//! kernels come out equal. Ranges and extents are not looked at here: that is [`super::verify`].

use super::typing::Types;
use super::*;
use std::collections::HashMap;

impl Param {
    /// The element `offset` of this parameter.
    pub fn at(self, offset: i64) -> Address {
        Address { param: self, terms: vec![], offset }
    }
}

impl Address {
    /// Further by `index · stride` elements: no zero strides, terms sorted, equal indices merged.
    pub fn plus(mut self, index: Index, stride: i64) -> Address {
        add_term(&mut self.terms, index, stride);
        self
    }

    /// Further by `elements`.
    pub fn offset(mut self, elements: i64) -> Address {
        self.offset += elements;
        self
    }
}

fn add_term(terms: &mut Vec<(Index, i64)>, index: Index, stride: i64) {
    match terms.binary_search_by_key(&index, |term| term.0) {
        Ok(at) => {
            terms[at].1 += stride;
            if terms[at].1 == 0 {
                terms.remove(at);
            }
        }
        Err(_) if stride == 0 => {}
        Err(at) => terms.insert(at, (index, stride)),
    }
}

impl From<u8> for Amount {
    fn from(amount: u8) -> Amount {
        Amount::Imm(amount)
    }
}

impl From<Value> for Amount {
    fn from(amount: Value) -> Amount {
        Amount::Value(amount)
    }
}

impl Dim {
    /// `n` turns with these two strides.
    pub fn new(n: u32, first: i64, second: i64) -> Dim {
        Dim { n, first, second }
    }
}

/// Writes one kernel.
pub struct KernelBuilder {
    name: String,
    items: u32,
    params: Vec<ParamDecl>,
    values: Vec<Type>,
    constants: Vec<Stmt>,
    /// Open scopes, outermost first: the statements, and the pure expressions already written in them.
    scopes: Vec<(Vec<Stmt>, HashMap<Expr, Value>)>,
    indices: u32,
}

impl KernelBuilder {
    /// A kernel of `items` items.
    pub fn new(name: impl Into<String>, items: u32) -> KernelBuilder {
        KernelBuilder {
            name: name.into(),
            items,
            params: vec![],
            values: vec![],
            constants: vec![],
            scopes: vec![Default::default()],
            indices: 1,
        }
    }

    /// The finished kernel.
    pub fn finish(mut self) -> Kernel {
        let (body, _) = self.scopes.pop().expect("the outermost scope is never closed");
        let mut all = self.constants;
        all.extend(body);
        Kernel { name: self.name, params: self.params, items: self.items, values: self.values, body: all }
    }

    /// A parameter of `len` elements in `range`.
    pub fn param(&mut self, dtype: DType, len: u64, range: Range, access: Access) -> Param {
        self.params.push(ParamDecl { dtype, len, range, access });
        Param(self.params.len() as u32 - 1)
    }

    /// Changes how a parameter is used.
    pub fn set_access(&mut self, param: Param, access: Access) {
        self.params[param.0 as usize].access = access;
    }

    /// A parameter for `buffer`.
    pub fn param_of(&mut self, buffer: &Buffer, access: Access) -> Param {
        self.param(buffer.dtype, buffer.len(), buffer.range, access)
    }

    /// The item of the call.
    pub fn item(&self) -> Index {
        Index(0)
    }

    /// The type of a value.
    pub fn type_of(&self, value: Value) -> Type {
        self.values[value.0 as usize]
    }

    /// `for index in 0..count`. Values defined inside are not visible after it.
    pub fn for_(&mut self, count: u32, body: impl FnOnce(&mut KernelBuilder, Index)) {
        let index = self.open_loop();
        body(self, index);
        self.close_loop(index, count);
    }

    /// Opens a loop whose body is all that is written until [`KernelBuilder::close_loop`].
    pub fn open_loop(&mut self) -> Index {
        let index = Index(self.indices);
        self.indices += 1;
        self.scopes.push(Default::default());
        index
    }

    /// Closes the innermost loop: `count` turns.
    pub fn close_loop(&mut self, index: Index, count: u32) {
        let (body, _) = self.scopes.pop().expect("a loop is open");
        self.push(Stmt::For { index, count, body });
    }

    fn push(&mut self, stmt: Stmt) {
        if let Err(why) = (Types { values: &self.values, params: &self.params }).stmt(&stmt) {
            panic!("kernel {}: {why}: {}", self.name, print::stmt_text(&stmt));
        }
        self.scopes.last_mut().expect("the outermost scope is never closed").0.push(stmt);
    }

    /// Defines a value: any expression. Prefer the named methods.
    pub fn define(&mut self, expr: Expr) -> Value {
        let constant = matches!(expr, Expr::ConstLanes(..) | Expr::ConstInt(_) | Expr::ConstDyadic(..));
        let memory =
            matches!(expr, Expr::Load(_) | Expr::LoadPairs(_) | Expr::LoadScalar(_) | Expr::LoadAt { .. });
        if !memory && let Some(&value) = self.scopes.iter().find_map(|(_, known)| known.get(&expr)) {
            return value;
        }
        let value = Value(self.values.len() as u32);
        match (Types { values: &self.values, params: &self.params }).expr(&expr) {
            Ok(ty) => self.values.push(ty),
            Err(why) => panic!("kernel {}: {why}: {}", self.name, print::expr_text(&expr)),
        }
        let scope = if constant { 0 } else { self.scopes.len() - 1 };
        let statements = if constant { &mut self.constants } else { &mut self.scopes[scope].0 };
        statements.push(Stmt::Let(value, expr.clone()));
        if !memory {
            self.scopes[scope].1.insert(expr, value);
        }
        value
    }

    fn constant(&self, value: Value) -> Option<i64> {
        self.constants.iter().find_map(|stmt| match stmt {
            Stmt::Let(v, Expr::ConstInt(c)) if *v == value => Some(*c),
            _ => None,
        })
    }

    // Memory.

    /// 16 consecutive elements.
    pub fn load(&mut self, address: Address) -> Value {
        self.define(Expr::Load(address))
    }

    /// 16 consecutive pairs of i16.
    pub fn load_pairs(&mut self, address: Address) -> Value {
        self.define(Expr::LoadPairs(address))
    }

    /// One element, as Int or Dyadic.
    pub fn load_scalar(&mut self, address: Address) -> Value {
        self.define(Expr::LoadScalar(address))
    }

    /// One element at a computed position, clamped into the parameter.
    pub fn load_at(&mut self, param: Param, index: Value) -> Value {
        self.define(Expr::LoadAt { param, index })
    }

    /// Writes lanes, pairs or a scalar.
    pub fn store(&mut self, address: Address, value: Value) {
        self.push(Stmt::Store(address, value));
    }

    /// `i64 memory += value`: 16 elements by I16 or I32 lanes, or one by an Int.
    pub fn acc64(&mut self, address: Address, value: Value) {
        self.push(Stmt::Acc64(address, value));
    }

    /// Maximum into memory.
    pub fn max_into(&mut self, address: Address, value: Value) {
        self.push(Stmt::MaxInto(address, value));
    }

    /// Minimum into memory.
    pub fn min_into(&mut self, address: Address, value: Value) {
        self.push(Stmt::MinInto(address, value));
    }

    /// A contraction.
    pub fn contract(&mut self, contract: Contract) {
        self.push(Stmt::Contract(Box::new(contract)));
    }

    // Constants and broadcasts.

    /// A constant Int.
    pub fn int(&mut self, value: i64) -> Value {
        self.define(Expr::ConstInt(value))
    }

    /// The constant dyadic `m · 2^e`.
    pub fn dyadic(&mut self, m: i32, e: i32) -> Value {
        self.define(Expr::ConstDyadic(m, e))
    }

    /// Constant lanes.
    pub fn const_lanes(&mut self, dtype: DType, lanes: [i32; LANES]) -> Value {
        self.define(Expr::ConstLanes(dtype, lanes))
    }

    /// All lanes equal to a constant.
    pub fn splat_const(&mut self, dtype: DType, value: i32) -> Value {
        self.const_lanes(dtype, [value; LANES])
    }

    /// A loop index as Int.
    pub fn index(&mut self, index: Index) -> Value {
        self.define(Expr::IndexValue(index))
    }

    /// All lanes equal to an Int.
    pub fn splat(&mut self, dtype: DType, value: Value) -> Value {
        match self.constant(value).map(i32::try_from) {
            Some(Ok(constant)) => self.splat_const(dtype, constant),
            _ => self.define(Expr::Splat(dtype, value)),
        }
    }

    /// Every pair `(a, b)`, of two Ints.
    pub fn splat_pair(&mut self, a: Value, b: Value) -> Value {
        self.define(Expr::SplatPair(a, b))
    }

    // Lane types.

    /// Sign- or zero-extends lanes (unchanged if they have this type already).
    pub fn widen(&mut self, dtype: DType, value: Value) -> Value {
        if self.type_of(value) == Type::Lanes(dtype) { value } else { self.define(Expr::Widen(dtype, value)) }
    }

    /// Narrows lanes with saturation.
    pub fn narrow(&mut self, dtype: DType, value: Value) -> Value {
        self.define(Expr::NarrowSat(dtype, value))
    }

    /// The same bits as the other 8-bit lane type.
    pub fn cast(&mut self, dtype: DType, value: Value) -> Value {
        self.define(Expr::Cast(dtype, value))
    }

    /// Pairs `(a_j, b_j)` of two I16 lanes.
    pub fn pair(&mut self, a: Value, b: Value) -> Value {
        self.define(Expr::Pair(a, b))
    }

    /// Sum of the two products of each pair, I32 lanes.
    pub fn dot2(&mut self, a: Value, b: Value) -> Value {
        self.define(Expr::Dot2(a, b))
    }

    /// One half of the byte interleave of two 8-bit blocks.
    pub fn interleave(&mut self, a: Value, b: Value, high: bool) -> Value {
        self.define(Expr::Interleave { a, b, high })
    }

    // Arithmetic: lanes, Int, Dyadic.

    fn binary(&mut self, op: Binary, a: Value, b: Value) -> Value {
        let folded = match (self.constant(a), self.constant(b)) {
            (Some(a), Some(b)) => match op {
                Binary::Add => a.checked_add(b),
                Binary::Sub => a.checked_sub(b),
                Binary::Mul => a.checked_mul(b),
                Binary::Min => Some(a.min(b)),
                Binary::Max => Some(a.max(b)),
                _ => None,
            },
            _ => None,
        };
        match folded {
            Some(constant) => self.int(constant),
            None => self.define(Expr::Binary(op, a, b)),
        }
    }

    /// `a + b`.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Add, a, b)
    }

    /// `a − b`.
    pub fn sub(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Sub, a, b)
    }

    /// `a · b`.
    pub fn mul(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Mul, a, b)
    }

    /// `a / b`: Int to nearest, ties away from zero; Dyadic.
    pub fn div(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Div, a, b)
    }

    /// The smaller.
    pub fn min(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Min, a, b)
    }

    /// The larger.
    pub fn max(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Max, a, b)
    }

    /// Bitwise and.
    pub fn and(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::And, a, b)
    }

    /// Bitwise or.
    pub fn or(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Or, a, b)
    }

    /// Bitwise exclusive or.
    pub fn xor(&mut self, a: Value, b: Value) -> Value {
        self.binary(Binary::Xor, a, b)
    }

    /// A constant of the type of `like`: a splat, or an Int.
    pub fn same(&mut self, like: Value, constant: i32) -> Value {
        match self.type_of(like) {
            Type::Lanes(dtype) => self.splat_const(dtype, constant),
            Type::Int => self.int(constant as i64),
            Type::Dyadic => self.dyadic(constant, 0),
            Type::Pairs => panic!("kernel {}: there are no constant pairs", self.name),
        }
    }

    /// `max(lo, min(hi, value))` with constant bounds.
    pub fn clamp(&mut self, value: Value, lo: i32, hi: i32) -> Value {
        let (lo, hi) = (self.same(value, lo), self.same(value, hi));
        let value = self.min(value, hi);
        self.max(value, lo)
    }

    /// `|a|`.
    pub fn abs(&mut self, a: Value) -> Value {
        self.define(Expr::Unary(Unary::Abs, a))
    }

    /// Square root of a dyadic.
    pub fn sqrt(&mut self, a: Value) -> Value {
        self.define(Expr::Unary(Unary::Sqrt, a))
    }

    /// Reciprocal square root of a dyadic.
    pub fn rsqrt(&mut self, a: Value) -> Value {
        self.define(Expr::Unary(Unary::Rsqrt, a))
    }

    /// Binary logarithm of a dyadic.
    pub fn log2(&mut self, a: Value) -> Value {
        self.define(Expr::Unary(Unary::Log2, a))
    }

    /// Two to the power of a dyadic.
    pub fn exp2(&mut self, a: Value) -> Value {
        self.define(Expr::Unary(Unary::Exp2, a))
    }

    fn shift(&mut self, shift: Shift, value: Value, amount: Amount) -> Value {
        self.define(Expr::Shift(shift, value, amount))
    }

    /// `value << amount`.
    pub fn shift_left(&mut self, value: Value, amount: impl Into<Amount>) -> Value {
        self.shift(Shift::Left, value, amount.into())
    }

    /// `value >> amount`, towards minus infinity.
    pub fn shift_right(&mut self, value: Value, amount: impl Into<Amount>) -> Value {
        self.shift(Shift::Right, value, amount.into())
    }

    /// `value >> amount`, to nearest, ties away from zero.
    pub fn shift_right_round(&mut self, value: Value, amount: impl Into<Amount>) -> Value {
        self.shift(Shift::RightRound, value, amount.into())
    }

    /// Logical right shift of lanes.
    pub fn shift_right_logical(&mut self, value: Value, amount: impl Into<Amount>) -> Value {
        self.shift(Shift::RightLogical, value, amount.into())
    }

    /// `(a·b) >> amount` of I32 lanes by a 64-bit product, to nearest, ties away.
    pub fn mul_shift(&mut self, a: Value, b: Value, amount: impl Into<Amount>) -> Value {
        self.define(Expr::MulShift(a, b, amount.into()))
    }

    /// `a = b`.
    pub fn eq(&mut self, a: Value, b: Value) -> Value {
        self.define(Expr::Compare(Cond::Eq, a, b))
    }

    /// `a < b`.
    pub fn lt(&mut self, a: Value, b: Value) -> Value {
        self.define(Expr::Compare(Cond::Lt, a, b))
    }

    /// `a ≤ b`.
    pub fn le(&mut self, a: Value, b: Value) -> Value {
        self.define(Expr::Compare(Cond::Le, a, b))
    }

    /// `mask ? a : b`.
    pub fn select(&mut self, mask: Value, a: Value, b: Value) -> Value {
        self.define(Expr::Select(mask, a, b))
    }

    // Random bits and scalars.

    /// 16 random 16-bit patterns of the logical block `block` (an address without its parameter).
    pub fn random(&mut self, key: Value, terms: &[(Index, i64)], offset: i64) -> Value {
        let mut sorted = vec![];
        terms.iter().for_each(|&(index, stride)| add_term(&mut sorted, index, stride));
        self.define(Expr::Random { key, block: (sorted, offset) })
    }

    /// The random key of a tensor in a step.
    pub fn hash_key(&mut self, seed: Value, step: Value, tensor: Value) -> Value {
        self.define(Expr::HashKey { seed, step, tensor })
    }

    /// `a·b − c·d` of Ints, as dyadic.
    pub fn diff_of_products(&mut self, a: Value, b: Value, c: Value, d: Value) -> Value {
        self.define(Expr::DiffOfProducts(a, b, c, d))
    }

    /// An Int as dyadic.
    pub fn to_dyadic(&mut self, a: Value) -> Value {
        self.define(Expr::ToDyadic(a))
    }

    /// `round(x · 2^amount)` as Int.
    pub fn to_fixed(&mut self, x: Value, amount: impl Into<Amount>) -> Value {
        self.define(Expr::ToFixed(x, amount.into()))
    }

    /// `x · 2^by` of a dyadic by an Int.
    pub fn scale(&mut self, x: Value, by: Value) -> Value {
        self.define(Expr::Scale(x, by))
    }

    /// The smallest r with |x| < 2^r of a dyadic.
    pub fn exponent(&mut self, x: Value) -> Value {
        self.define(Expr::Exponent(x))
    }

    /// The smallest r with |x| < 2^r of an Int.
    pub fn bit_length(&mut self, x: Value) -> Value {
        self.define(Expr::BitLength(x))
    }
}

/// Writes a program; kernels that are equal but for their name are stored once, under the first name.
#[derive(Default)]
pub struct ProgramBuilder {
    program: Program,
    kernels: HashMap<Kernel, usize>,
}

impl ProgramBuilder {
    /// An empty program.
    pub fn new() -> ProgramBuilder {
        ProgramBuilder::default()
    }

    /// Adds a buffer.
    pub fn buffer(&mut self, buffer: Buffer) -> BufferId {
        self.program.buffers.push(buffer);
        BufferId(self.program.buffers.len() as u32 - 1)
    }

    /// The buffer `id`.
    pub fn get(&self, id: BufferId) -> &Buffer {
        &self.program.buffers[id.0 as usize]
    }

    /// Adds a call.
    pub fn call(&mut self, kernel: Kernel, args: Vec<BufferId>) {
        let name = kernel.name.clone();
        let key = Kernel { name: String::new(), ..kernel };
        let kernels = &mut self.program.kernels;
        let kernel = *self.kernels.entry(key).or_insert_with_key(|key| {
            kernels.push(Kernel { name, ..key.clone() });
            kernels.len() - 1
        });
        self.program.calls.push(Call { kernel, args });
    }

    /// The finished program.
    pub fn finish(self) -> Program {
        self.program
    }
}
