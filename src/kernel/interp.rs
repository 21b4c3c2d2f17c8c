//! The interpreter: the bit-exact reference for every emitter.
//!
//! It runs kernels on one byte arena, with the offsets that emitted code gets, and checks while it runs whatever the
//! verifier proves beforehand: a [`Trap`] names the statement. Buffers are little-endian. Values are looked at as
//! numbers: lanes widened to i32, pairs as two blocks (even and odd elements), dyadics packed in an i64.
//!
//! It walks the statements as they are. Only the contraction is written for speed: most of the work is there.

mod contract;

use super::*;
use fqt_runtime::fixed::{Dyadic, bit_length, div_round};
use fqt_runtime::random;
use fqt_runtime::step::OFFSET_UNIT;

/// What the interpreter refuses to do; impossible in a verified program on inputs in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trap {
    /// Name of the kernel.
    pub kernel: String,
    /// The item that was running.
    pub item: u32,
    /// The statement, as printed.
    pub statement: String,
    /// What happened.
    pub message: String,
}

impl fmt::Display for Trap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}, item {}: {}\n  at `{}`", self.kernel, self.item, self.message, self.statement)
    }
}

impl std::error::Error for Trap {}

/// A program's buffers in one arena, each in its own place. For tests and for single kernels; planned programs bring
/// their own arena and offsets to [`run_kernel`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory {
    /// The bytes.
    pub arena: Vec<u8>,
    /// Offset of each buffer, in units of 64 bytes.
    pub offsets: Vec<u32>,
}

impl Memory {
    /// Zeros, and the contents of constants.
    pub fn new(program: &Program) -> Memory {
        let mut memory = Memory { arena: vec![], offsets: vec![] };
        for buffer in &program.buffers {
            memory.offsets.push((memory.arena.len() / OFFSET_UNIT) as u32);
            let end = memory.arena.len() + buffer.bytes() as usize;
            memory.arena.resize(end.next_multiple_of(OFFSET_UNIT), 0);
        }
        for (number, buffer) in program.buffers.iter().enumerate() {
            if let Kind::Const(contents) = &buffer.kind {
                memory.write(program, BufferId(number as u32), contents);
            }
        }
        memory
    }

    fn place(&self, program: &Program, id: BufferId) -> (DType, std::ops::Range<usize>) {
        let buffer = &program.buffers[id.0 as usize];
        let start = self.offsets[id.0 as usize] as usize * OFFSET_UNIT;
        (buffer.dtype, start..start + buffer.bytes() as usize)
    }

    /// The elements of a buffer (dyadics packed).
    pub fn read(&self, program: &Program, id: BufferId) -> Vec<i64> {
        let (dtype, place) = self.place(program, id);
        self.arena[place].chunks_exact(dtype.bytes()).map(|bytes| decode(dtype, bytes)).collect()
    }

    /// Sets the elements of a buffer (dyadics packed), from the first on.
    pub fn write(&mut self, program: &Program, id: BufferId, elements: &[i64]) {
        let (dtype, place) = self.place(program, id);
        for (bytes, &element) in self.arena[place].chunks_exact_mut(dtype.bytes()).zip(elements) {
            encode(dtype, element, bytes);
        }
    }
}

/// The number in the bytes of one element; dyadics packed.
pub fn decode(dtype: DType, bytes: &[u8]) -> i64 {
    match dtype {
        DType::I8 => bytes[0] as i8 as i64,
        DType::U8 => bytes[0] as i64,
        DType::I16 => i16_at(bytes, 0) as i64,
        DType::I32 => i32_at(bytes) as i64,
        DType::I64 | DType::Dyadic => i64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")),
    }
}

/// Writes the bytes of one element.
pub fn encode(dtype: DType, element: i64, bytes: &mut [u8]) {
    let n = dtype.bytes();
    bytes[..n].copy_from_slice(&element.to_le_bytes()[..n]);
}

fn i16_at(bytes: &[u8], element: usize) -> i16 {
    i16::from_le_bytes([bytes[2 * element], bytes[2 * element + 1]])
}

fn i32_at(bytes: &[u8]) -> i32 {
    i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Runs a whole program: every item of every call, in order.
pub fn run(program: &Program, memory: &mut Memory) -> Result<(), Trap> {
    for call in &program.calls {
        let kernel = &program.kernels[call.kernel];
        let args: Vec<u32> = call.args.iter().map(|id| memory.offsets[id.0 as usize]).collect();
        run_kernel(kernel, &mut memory.arena, &args, 0, kernel.items)?;
    }
    Ok(())
}

/// Runs the items `first..last` of a kernel. `args` are the offsets of its buffers in units of 64 bytes.
pub fn run_kernel(
    kernel: &Kernel,
    arena: &mut [u8],
    args: &[u32],
    first: u32,
    last: u32,
) -> Result<(), Trap> {
    let trap = |item, statement, message| Trap { kernel: kernel.name.clone(), item, statement, message };
    let bases: Vec<usize> = args.iter().map(|&unit| unit as usize * OFFSET_UNIT).collect();
    let inside = |(base, decl): (&usize, &ParamDecl)| {
        arena.len().checked_sub(*base).is_some_and(|left| decl.len <= (left / decl.dtype.bytes()) as u64)
    };
    if bases.len() != kernel.params.len() || !bases.iter().zip(&kernel.params).all(inside) {
        return Err(trap(
            first,
            "call".into(),
            "the arguments do not fit the parameters and the arena".into(),
        ));
    }
    let n = kernel.values.len();
    let mut machine = Machine {
        kernel,
        arena,
        bases,
        indices: vec![0; 1 + last_index(&kernel.body)],
        lanes: vec![[0; LANES]; n],
        odd: vec![[0; LANES]; n],
        ints: vec![0; n],
        at: None,
    };
    for item in first..last {
        machine.indices[0] = item as i64;
        if let Err(message) = machine.body(&kernel.body) {
            let statement = machine.at.map_or(String::new(), print::stmt_text);
            return Err(trap(item, statement, message));
        }
    }
    Ok(())
}

fn last_index(body: &[Stmt]) -> usize {
    let last = |stmt: &Stmt| match stmt {
        Stmt::For { index, body, .. } => last_index(body).max(index.0 as usize),
        _ => 0,
    };
    body.iter().map(last).max().unwrap_or(0)
}

type Res<T = ()> = Result<T, String>;

struct Machine<'a> {
    kernel: &'a Kernel,
    arena: &'a mut [u8],
    /// First byte of each parameter.
    bases: Vec<usize>,
    indices: Vec<i64>,
    /// By value: lanes, and the even elements of pairs.
    lanes: Vec<[i32; LANES]>,
    /// By value: the odd elements of pairs.
    odd: Vec<[i32; LANES]>,
    /// By value: Ints and packed dyadics.
    ints: Vec<i64>,
    /// The running statement.
    at: Option<&'a Stmt>,
}

impl<'a> Machine<'a> {
    fn body(&mut self, stmts: &'a [Stmt]) -> Res {
        for stmt in stmts {
            self.at = Some(stmt);
            match stmt {
                Stmt::For { index, count, body } => {
                    for turn in 0..*count {
                        self.indices[index.0 as usize] = turn as i64;
                        self.body(body)?;
                    }
                }
                Stmt::Let(value, expr) => self.define(value.0 as usize, expr)?,
                Stmt::Store(address, value) => self.store(address, value.0 as usize)?,
                Stmt::Acc64(address, value) => self.acc64(address, value.0 as usize)?,
                Stmt::MaxInto(address, value) => self.fold(address, value.0 as usize, i64::max)?,
                Stmt::MinInto(address, value) => self.fold(address, value.0 as usize, i64::min)?,
                Stmt::Contract(contract) => self.contract(contract)?,
            }
        }
        Ok(())
    }

    // Memory.

    fn affine(&self, terms: &[(Index, i64)], offset: i64) -> i64 {
        terms.iter().fold(offset, |sum, &(index, stride)| sum + self.indices[index.0 as usize] * stride)
    }

    /// First byte of `width` elements, which lie inside the parameter.
    fn place(&self, address: &Address, width: u64) -> Res<usize> {
        let first = self.affine(&address.terms, address.offset);
        self.check_inside(address.param, first, first + width as i64 - 1)?;
        let param = address.param.0 as usize;
        Ok(self.bases[param] + first as usize * self.kernel.params[param].dtype.bytes())
    }

    fn check_inside(&self, param: Param, first: i64, last: i64) -> Res {
        let len = self.kernel.params[param.0 as usize].len;
        if first < 0 || last >= len as i64 {
            return Err(format!("elements {first}..={last} of {param} are out of bounds ({len} elements)"));
        }
        Ok(())
    }

    fn decl(&self, param: Param) -> &'a ParamDecl {
        &self.kernel.params[param.0 as usize]
    }

    /// Traps numbers that the declaration of the parameter excludes.
    fn check_declared(&self, param: Param, numbers: &[i32]) -> Res {
        let Range { lo, hi } = self.decl(param).range;
        match numbers.iter().find(|&&number| (number as i64) < lo || number as i64 > hi) {
            Some(number) => Err(format!("{number} is outside the declared range {lo}..={hi} of {param}")),
            None => Ok(()),
        }
    }

    fn check_scalar(&self, param: Param, number: i64) -> Res {
        let ParamDecl { dtype, range, .. } = self.decl(param);
        if *dtype != DType::Dyadic && !range.contains(number) {
            return Err(format!("{number} is outside the declared range {range} of {param}"));
        }
        Ok(())
    }

    /// `N` consecutive elements of at most 32 bits.
    fn load_block<const N: usize>(&self, address: &Address) -> Res<[i32; N]> {
        let at = self.place(address, N as u64)?;
        let (dtype, bytes) = (self.decl(address.param).dtype, &self.arena[at..]);
        let mut block = [0; N];
        match dtype {
            DType::I8 => block.iter_mut().zip(bytes).for_each(|(lane, &byte)| *lane = byte as i8 as i32),
            DType::U8 => block.iter_mut().zip(bytes).for_each(|(lane, &byte)| *lane = byte as i32),
            DType::I16 => {
                let elements = bytes.chunks_exact(2);
                block.iter_mut().zip(elements).for_each(|(lane, bytes)| *lane = i16_at(bytes, 0) as i32)
            }
            _ => {
                let elements = bytes.chunks_exact(4);
                block.iter_mut().zip(elements).for_each(|(lane, bytes)| *lane = i32_at(bytes))
            }
        }
        self.check_declared(address.param, &block)?;
        Ok(block)
    }

    fn store_block(&mut self, address: &Address, block: &[i32]) -> Res {
        let at = self.place(address, block.len() as u64)?;
        self.check_declared(address.param, block)?;
        let width = self.decl(address.param).dtype.bytes();
        for (bytes, lane) in self.arena[at..].chunks_exact_mut(width).zip(block) {
            bytes.copy_from_slice(&lane.to_le_bytes()[..width]);
        }
        Ok(())
    }

    fn load_scalar(&self, address: &Address) -> Res<i64> {
        let at = self.place(address, 1)?;
        let number = decode(self.decl(address.param).dtype, &self.arena[at..]);
        self.check_scalar(address.param, number)?;
        Ok(number)
    }

    fn store_scalar(&mut self, address: &Address, number: i64) -> Res {
        let at = self.place(address, 1)?;
        self.check_scalar(address.param, number)?;
        encode(self.decl(address.param).dtype, number, &mut self.arena[at..]);
        Ok(())
    }

    fn store(&mut self, address: &Address, value: usize) -> Res {
        match self.kernel.values[value] {
            Type::Lanes(_) => {
                let block = self.lanes[value];
                self.store_block(address, &block)
            }
            Type::Pairs => {
                let mut block = [0; 2 * LANES];
                for j in 0..LANES {
                    (block[2 * j], block[2 * j + 1]) = (self.lanes[value][j], self.odd[value][j]);
                }
                self.store_block(address, &block)
            }
            Type::Int | Type::Dyadic => self.store_scalar(address, self.ints[value]),
        }
    }

    /// The numbers of a value: its lanes, or the one Int.
    fn numbers(&self, value: usize) -> ([i64; LANES], usize) {
        match self.kernel.values[value] {
            Type::Int => ([self.ints[value]; LANES], 1),
            _ => (self.lanes[value].map(i64::from), LANES),
        }
    }

    fn acc64(&mut self, address: &Address, value: usize) -> Res {
        let (numbers, n) = self.numbers(value);
        for (lane, number) in numbers[..n].iter().enumerate() {
            let element = address.clone().offset(lane as i64);
            let sum = self.load_scalar(&element)?.checked_add(*number).ok_or("the sum overflows i64")?;
            self.store_scalar(&element, sum)?;
        }
        Ok(())
    }

    fn fold(&mut self, address: &Address, value: usize, op: fn(i64, i64) -> i64) -> Res {
        let (numbers, n) = self.numbers(value);
        for (lane, number) in numbers[..n].iter().enumerate() {
            let element = address.clone().offset(lane as i64);
            let folded = op(self.load_scalar(&element)?, *number);
            self.store_scalar(&element, folded)?;
        }
        Ok(())
    }

    // Expressions.

    fn int(&self, value: Value) -> i64 {
        self.ints[value.0 as usize]
    }

    fn dyadic(&self, value: Value) -> Dyadic {
        Dyadic::unpack(self.int(value) as u64)
    }

    fn is_lanes(&self, value: Value) -> Option<DType> {
        match self.kernel.values[value.0 as usize] {
            Type::Lanes(dtype) => Some(dtype),
            _ => None,
        }
    }

    fn amount(&self, amount: Amount) -> i64 {
        match amount {
            Amount::Imm(amount) => amount as i64,
            Amount::Value(value) => self.int(value),
        }
    }

    /// A shift amount in `0..=most`.
    fn shift_amount(&self, amount: Amount, most: u32) -> Res<u32> {
        let amount = self.amount(amount);
        match u32::try_from(amount) {
            Ok(k) if k <= most => Ok(k),
            _ => Err(format!("shift amount {amount} is outside 0..={most}")),
        }
    }

    fn define(&mut self, out: usize, expr: &Expr) -> Res {
        match expr {
            Expr::Load(address) => self.lanes[out] = self.load_block(address)?,
            Expr::LoadPairs(address) => {
                let block: [i32; 2 * LANES] = self.load_block(address)?;
                for j in 0..LANES {
                    (self.lanes[out][j], self.odd[out][j]) = (block[2 * j], block[2 * j + 1]);
                }
            }
            Expr::LoadScalar(address) => self.ints[out] = self.load_scalar(address)?,
            Expr::LoadAt { param, index } => {
                let last = self.decl(*param).len as i64 - 1;
                let element = self.int(*index).clamp(0, last.max(0));
                self.ints[out] = self.load_scalar(&param.at(element))?;
            }
            Expr::ConstLanes(_, lanes) => self.lanes[out] = *lanes,
            Expr::ConstInt(value) => self.ints[out] = *value,
            Expr::ConstDyadic(m, e) => self.set_dyadic(out, Dyadic::new(*m, *e)),
            Expr::IndexValue(index) => self.ints[out] = self.indices[index.0 as usize],
            Expr::Splat(dtype, value) => self.lanes[out] = [self.splat(*dtype, *value)?; LANES],
            Expr::SplatPair(a, b) => {
                self.lanes[out] = [self.splat(DType::I16, *a)?; LANES];
                self.odd[out] = [self.splat(DType::I16, *b)?; LANES];
            }
            Expr::Widen(_, value) => self.lanes[out] = self.lanes[value.0 as usize],
            Expr::NarrowSat(dtype, value) => {
                let Range { lo, hi } = dtype.range();
                self.map(out, *dtype, *value, |x| x.clamp(lo, hi))?
            }
            Expr::Cast(DType::U8, value) => self.map(out, DType::U8, *value, |x| x as u8 as i64)?,
            Expr::Cast(dtype, value) => self.map(out, *dtype, *value, |x| x as i8 as i64)?,
            Expr::Pair(a, b) => {
                (self.lanes[out], self.odd[out]) = (self.lanes[a.0 as usize], self.lanes[b.0 as usize])
            }
            Expr::Dot2(a, b) => self.dot2(out, a.0 as usize, b.0 as usize)?,
            Expr::Binary(op, a, b) => match self.kernel.values[out] {
                Type::Lanes(dtype) => self.binary_lanes(out, dtype, *op, *a, *b)?,
                Type::Dyadic => {
                    let result = binary_dyadic(*op, self.dyadic(*a), self.dyadic(*b));
                    self.set_dyadic(out, result);
                }
                _ => self.ints[out] = binary_int(*op, self.int(*a), self.int(*b))?,
            },
            Expr::Unary(op, value) => self.unary(out, *op, *value)?,
            Expr::Shift(shift, value, amount) => self.shift(out, *shift, *value, *amount)?,
            Expr::MulShift(a, b, amount) => {
                let k = self.shift_amount(*amount, 62)?;
                self.zip(out, DType::I32, *a, *b, |a, b| shift_round(a * b, k))?
            }
            Expr::Compare(cond, a, b) => self.compare(out, *cond, *a, *b)?,
            Expr::Select(mask, a, b) => self.select(out, *mask, *a, *b)?,
            Expr::Interleave { a, b, high } => {
                let from = if *high { LANES / 2 } else { 0 };
                for j in 0..LANES / 2 {
                    self.lanes[out][2 * j] = self.lanes[a.0 as usize][from + j];
                    self.lanes[out][2 * j + 1] = self.lanes[b.0 as usize][from + j];
                }
            }
            Expr::Random { key, block: (terms, offset) } => {
                let block = self.affine(terms, *offset);
                if !(0..1 << 29).contains(&block) {
                    return Err(format!("random block {block} is outside 0..2^29"));
                }
                let bits = random::block(self.int(*key) as u64, block as u32);
                self.lanes[out] = bits.map(|pattern| pattern as i16 as i32);
            }
            Expr::HashKey { seed, step, tensor } => {
                let [seed, step, tensor] = [seed, step, tensor].map(|&value| self.int(value) as u64);
                self.ints[out] = random::hash_key(seed, step, tensor) as i64;
            }
            Expr::DiffOfProducts(a, b, c, d) => {
                let [a, b, c, d] = [a, b, c, d].map(|&value| self.int(value));
                self.set_dyadic(out, Dyadic::diff_of_products(a, b, c, d));
            }
            Expr::ToDyadic(value) => self.set_dyadic(out, Dyadic::from_i64(self.int(*value))),
            Expr::ToFixed(value, amount) => {
                self.ints[out] = self.dyadic(*value).to_fixed(self.amount(*amount));
            }
            Expr::Scale(value, by) => self.set_dyadic(out, self.dyadic(*value).scale(self.int(*by))),
            Expr::Exponent(value) => self.ints[out] = self.dyadic(*value).exponent(),
            Expr::BitLength(value) => self.ints[out] = bit_length(self.int(*value)),
        }
        Ok(())
    }

    fn set_dyadic(&mut self, out: usize, x: Dyadic) {
        self.ints[out] = x.pack() as i64;
    }

    fn splat(&self, dtype: DType, value: Value) -> Res<i32> {
        let (range, number) = (dtype.range(), self.int(value));
        if range.contains(number) { Ok(number as i32) } else { Err(format!("{number} does not fit {dtype}")) }
    }

    fn map(&mut self, out: usize, dtype: DType, value: Value, f: impl Fn(i64) -> i64) -> Res {
        self.zip(out, dtype, value, value, |x, _| f(x))
    }

    /// Lane by lane on exact numbers; the results must fit `dtype`.
    fn zip(&mut self, out: usize, dtype: DType, a: Value, b: Value, f: impl Fn(i64, i64) -> i64) -> Res {
        let (x, y) = (&self.lanes[a.0 as usize], &self.lanes[b.0 as usize]);
        let mut results = [0; LANES];
        let mut overflow = None;
        for ((result, &x), &y) in results.iter_mut().zip(x).zip(y) {
            let exact = f(x as i64, y as i64);
            let fits = if dtype == DType::I32 {
                exact as i32 as i64 == exact
            } else {
                dtype.range().contains(exact)
            };
            if !fits {
                overflow = Some(exact);
            }
            *result = exact as i32;
        }
        self.lanes[out] = results;
        overflow.map_or(Ok(()), |exact| Err(format!("{exact} overflows {dtype}")))
    }

    fn dot2(&mut self, out: usize, a: usize, b: usize) -> Res {
        for j in 0..LANES {
            let even = self.lanes[a][j] as i64 * self.lanes[b][j] as i64;
            let sum = even + self.odd[a][j] as i64 * self.odd[b][j] as i64;
            self.lanes[out][j] = i32::try_from(sum).map_err(|_| format!("{sum} overflows i32"))?;
        }
        Ok(())
    }

    fn binary_lanes(&mut self, out: usize, dtype: DType, op: Binary, a: Value, b: Value) -> Res {
        match op {
            Binary::Add => self.zip(out, dtype, a, b, |a, b| a + b),
            Binary::Sub => self.zip(out, dtype, a, b, |a, b| a - b),
            Binary::Mul => self.zip(out, dtype, a, b, |a, b| a * b),
            Binary::Min => self.zip(out, dtype, a, b, i64::min),
            Binary::Max => self.zip(out, dtype, a, b, i64::max),
            Binary::And => self.zip(out, dtype, a, b, |a, b| a & b),
            Binary::Or => self.zip(out, dtype, a, b, |a, b| a | b),
            Binary::Xor => self.zip(out, dtype, a, b, |a, b| a ^ b),
            Binary::Div => Err("lanes do not divide".into()),
        }
    }

    fn unary(&mut self, out: usize, op: Unary, value: Value) -> Res {
        let x = self.dyadic(value);
        match (op, self.kernel.values[out]) {
            (Unary::Abs, Type::Lanes(dtype)) => return self.map(out, dtype, value, i64::abs),
            (Unary::Abs, Type::Int) => {
                self.ints[out] = self.int(value).checked_abs().ok_or("the absolute value overflows i64")?;
            }
            (Unary::Abs, _) => self.set_dyadic(out, x.abs()),
            (Unary::Sqrt, _) => self.set_dyadic(out, x.sqrt()),
            (Unary::Rsqrt, _) => self.set_dyadic(out, x.rsqrt()),
            (Unary::Log2, _) => self.set_dyadic(out, x.log2()),
            (Unary::Exp2, _) => self.set_dyadic(out, x.exp2()),
        }
        Ok(())
    }

    fn shift(&mut self, out: usize, shift: Shift, value: Value, amount: Amount) -> Res {
        let Some(dtype) = self.is_lanes(value) else {
            let k = self.shift_amount(amount, 63)?;
            self.ints[out] = shift_int(shift, self.int(value), k)?;
            return Ok(());
        };
        let bits = 8 * dtype.bytes() as u32;
        let k = self.shift_amount(amount, bits - 1)?;
        match shift {
            Shift::Left => self.map(out, dtype, value, |x| x << k),
            Shift::Right => self.map(out, dtype, value, |x| x >> k),
            Shift::RightLogical if dtype == DType::I16 => {
                self.map(out, dtype, value, |x| (x as u16 >> k) as i16 as i64)
            }
            Shift::RightLogical => self.map(out, dtype, value, |x| (x as u32 >> k) as i32 as i64),
            Shift::RightRound => {
                let (half, most) = ((1 << k) >> 1, dtype.range().hi);
                if let Some(lane) = self.lanes[value.0 as usize].iter().find(|&&x| x as i64 + half > most) {
                    return Err(format!("{lane} and the rounding constant overflow {dtype}"));
                }
                self.map(out, dtype, value, |x| shift_round(x, k))
            }
        }
    }

    fn compare(&mut self, out: usize, cond: Cond, a: Value, b: Value) -> Res {
        match (self.kernel.values[a.0 as usize], self.kernel.values[out]) {
            (Type::Lanes(_), Type::Lanes(dtype)) => match cond {
                Cond::Eq => self.zip(out, dtype, a, b, |a, b| -((a == b) as i64)),
                Cond::Lt => self.zip(out, dtype, a, b, |a, b| -((a < b) as i64)),
                Cond::Le => self.zip(out, dtype, a, b, |a, b| -((a <= b) as i64)),
            },
            (Type::Dyadic, _) => {
                let (a, b) = (self.dyadic(a), self.dyadic(b));
                self.ints[out] = match cond {
                    Cond::Eq => a == b,
                    Cond::Lt => a < b,
                    Cond::Le => a <= b,
                } as i64;
                Ok(())
            }
            _ => {
                let (a, b) = (self.int(a), self.int(b));
                self.ints[out] = match cond {
                    Cond::Eq => a == b,
                    Cond::Lt => a < b,
                    Cond::Le => a <= b,
                } as i64;
                Ok(())
            }
        }
    }

    fn select(&mut self, out: usize, mask: Value, a: Value, b: Value) -> Res {
        if self.is_lanes(a).is_none() {
            self.ints[out] = if self.int(mask) != 0 { self.int(a) } else { self.int(b) };
            return Ok(());
        }
        for j in 0..LANES {
            self.lanes[out][j] = match self.lanes[mask.0 as usize][j] {
                0 => self.lanes[b.0 as usize][j],
                -1 => self.lanes[a.0 as usize][j],
                other => return Err(format!("{other} is not a mask")),
            };
        }
        Ok(())
    }
}

/// `x >> k` to nearest, ties away from zero; `x` and the rounding constant must fit an i64 together.
fn shift_round(x: i64, k: u32) -> i64 {
    if k == 0 { x } else { (x + (1 << (k - 1)) + (x >> 63)) >> k }
}

fn shift_int(shift: Shift, x: i64, k: u32) -> Res<i64> {
    match shift {
        Shift::Left => {
            let shifted = x << k;
            if shifted >> k == x { Ok(shifted) } else { Err(format!("{x} << {k} overflows i64")) }
        }
        Shift::Right => Ok(x >> k),
        Shift::RightRound if k > 0 && x.checked_add(1i64.wrapping_shl(k - 1)).is_none() => {
            Err(format!("{x} and the rounding constant overflow i64"))
        }
        Shift::RightRound => Ok(shift_round(x, k)),
        Shift::RightLogical => Err("an Int has no logical shift".into()),
    }
}

fn binary_int(op: Binary, a: i64, b: i64) -> Res<i64> {
    let result = match op {
        Binary::Add => a.checked_add(b),
        Binary::Sub => a.checked_sub(b),
        Binary::Mul => a.checked_mul(b),
        Binary::Div if b <= 0 => return Err(format!("divisor {b} is not positive")),
        Binary::Div => Some(div_round(a, b)),
        Binary::Min => Some(a.min(b)),
        Binary::Max => Some(a.max(b)),
        Binary::And => Some(a & b),
        Binary::Or => Some(a | b),
        Binary::Xor => Some(a ^ b),
    };
    result.ok_or_else(|| format!("{op} of {a} and {b} overflows i64"))
}

fn binary_dyadic(op: Binary, a: Dyadic, b: Dyadic) -> Dyadic {
    match op {
        Binary::Add => a.add(b),
        Binary::Sub => a.sub(b),
        Binary::Mul => a.mul(b),
        Binary::Div => a.div(b),
        Binary::Min => a.min(b),
        // Bitwise operations have no dyadics: the type rules exclude them.
        Binary::Max | Binary::And | Binary::Or | Binary::Xor => a.max(b),
    }
}
