//! Random kernel programs: verified, with inputs in range, to compare executors and to test the verifier.
//!
//! A kernel grows statement by statement; what the verifier rejects is taken back. So every program passes it, and
//! values get as close to overflow as it allows: an interpreter that traps has found a hole in the verifier.
//! Outputs are declared as tight as the verifier allows.

use fqt_runtime::fixed::Dyadic;
use fqt_runtime::random::mix64;
use fqtc::kernel::interp::Memory;
use fqtc::kernel::*;

use super::rng::Rng;

/// A program and the contents of its buffers before it runs.
pub(crate) struct Case {
    pub(crate) program: Program,
    contents: Vec<Vec<i64>>,
}

impl Case {
    /// The buffers before the run, each in its own place.
    pub(crate) fn memory(&self) -> Memory {
        let mut memory = Memory::new(&self.program);
        for (number, contents) in self.contents.iter().enumerate() {
            memory.write(&self.program, BufferId(number as u32), contents);
        }
        memory
    }
}

/// The seeds to try: `FQTC_CASES` of them (else `cases`) from `FQTC_SEED` (else 0) on.
pub(crate) fn seeds(cases: u64) -> std::ops::Range<u64> {
    let number = |name: &str, otherwise: u64| {
        std::env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
    };
    let first = number("FQTC_SEED", 0);
    first..first + number("FQTC_CASES", cases)
}

/// The program of a seed.
pub(crate) fn case(seed: u64) -> Case {
    let mut rng = Rng(mix64(seed));
    let kernels: Vec<Grown> = (0..1 + rng.below(2)).map(|number| grow(&mut rng, number)).collect();
    let mut case = Case { program: Program::default(), contents: vec![] };
    for (number, grown) in kernels.into_iter().enumerate() {
        case.program.kernels.push(grown.kernel.clone());
        for call in 0..1 + rng.below(2) {
            let name = format!("k{number}c{call}");
            add_call(&mut case, &mut rng, number, &grown, &name);
        }
    }
    case
}

/// A call on buffers of its own; parameters that may be one buffer are, when the verifier agrees.
fn add_call(case: &mut Case, rng: &mut Rng, number: usize, grown: &Grown, name: &str) {
    let mut args = vec![];
    for (p, decl) in grown.kernel.params.iter().enumerate() {
        args.push(BufferId(case.program.buffers.len() as u32));
        case.program.buffers.push(Buffer {
            name: format!("{name}.p{p}"),
            dtype: decl.dtype,
            extents: vec![decl.len as u32],
            range: decl.range,
            kind: if decl.access == Access::Read { Kind::Input } else { Kind::Persistent },
        });
        case.contents.push((0..decl.len).map(|_| element(rng, decl)).collect());
    }
    case.program.calls.push(Call { kernel: number, args });
    for &(read, written) in &grown.in_place {
        let before = case.program.clone();
        let buffer = before.calls.last().unwrap().args[read as usize];
        case.program.calls.last_mut().unwrap().args[written as usize] = buffer;
        case.program.buffers[buffer.0 as usize].kind = Kind::Persistent;
        if verify::program(&case.program).is_err() {
            case.program = before;
        }
    }
}

/// An element of a parameter; often one of its ends.
fn element(rng: &mut Rng, decl: &ParamDecl) -> i64 {
    let Range { lo, hi } = decl.range;
    match (decl.dtype, rng.below(4)) {
        (DType::Dyadic, 0) => 0,
        (DType::Dyadic, _) => Dyadic::new(rng.next() as i32, rng.between(-60, 30) as i32).pack() as i64,
        (_, 0) => lo,
        (_, 1) => hi,
        _ => rng.between(lo, hi),
    }
}

/// A kernel, and which parameters may be one buffer: (read, written).
struct Grown {
    kernel: Kernel,
    in_place: Vec<(u32, u32)>,
}

/// A kernel in the making: the finished part of each open body, and the values in each scope.
struct Grower<'r> {
    rng: &'r mut Rng,
    kernel: Kernel,
    open: Vec<(Index, u32, Vec<Stmt>)>,
    scopes: Vec<Vec<Value>>,
    ranges: Vec<Range>,
    indices: u32,
    /// Whether only lanes are computed: loops of this kind may become one leaf function.
    lanes: bool,
    /// Loads of read parameters: (value, address).
    loads: Vec<(Value, Address)>,
    in_place: Vec<(u32, u32)>,
}

fn grow(rng: &mut Rng, number: usize) -> Grown {
    let items = 1 + rng.below(3) as u32;
    let kernel =
        Kernel { name: format!("random{number}"), params: vec![], items, values: vec![], body: vec![] };
    let mut grower = Grower {
        rng,
        kernel,
        open: vec![(Index(0), items, vec![])],
        scopes: vec![vec![]],
        ranges: vec![],
        indices: 1,
        lanes: false,
        loads: vec![],
        in_place: vec![],
    };
    if grower.rng.chance(2) {
        grower.lane_loop();
    }
    let steps = 20 + grower.rng.below(50);
    for _ in 0..steps {
        grower.step();
    }
    while grower.open.len() > 1 {
        grower.close();
    }
    grower.store_unused();
    Grown { kernel: grower.kernel_now(), in_place: grower.in_place }
}

const LANE_TYPES: [DType; 4] = [DType::I8, DType::U8, DType::I16, DType::I32];
const ARITHMETIC: [DType; 2] = [DType::I16, DType::I32];
/// Operations on Ints; dyadics have the first six.
const OPERATIONS: [Binary; 9] = {
    use Binary::{Add, And, Div, Max, Min, Mul, Or, Sub, Xor};
    [Add, Sub, Mul, Div, Min, Max, And, Or, Xor]
};

impl Grower<'_> {
    fn step(&mut self) {
        match self.rng.below(24) {
            0..=1 if self.open.len() < 4 => self.open_short_loop(),
            2 if self.open.len() > 1 => self.close(),
            3..=4 => self.store_any(),
            5 => self.accumulate(),
            6 => self.contract(),
            7..=9 => {
                let ty = self.any_type();
                self.load(ty);
            }
            _ => {
                self.expression();
            }
        }
    }

    /// A loop with enough turns, on lanes and on scalars from outside.
    fn lane_loop(&mut self) {
        for most in [7, 15, i64::MAX] {
            let (mut address, len) = self.read_place(1);
            address.param = self.param(DType::I64, len, Range::new(0, most), Access::Read);
            self.define(Type::Int, Expr::LoadScalar(address));
        }
        self.lanes = true;
        let count = self.rng.pick(&[16, 17, 24]);
        self.open_loop(count);
        for _ in 0..10 + self.rng.below(40) {
            match self.rng.below(14) {
                0 if self.open.len() < 4 => self.open_short_loop(),
                1 if self.open.len() > 2 => self.close(),
                2 => self.store_any(),
                3 => self.extreme(),
                4..=5 => {
                    let ty = self.any_type();
                    self.load(ty);
                }
                _ => {
                    self.expression();
                }
            }
        }
        while self.open.len() > 1 {
            self.close();
        }
        self.lanes = false;
    }

    /// Folds lanes into memory that moves with no loop but the items.
    fn extreme(&mut self) {
        let dtype = self.rng.pick(&ARITHMETIC);
        let Some(value) = self.operand(Type::Lanes(dtype)) else { return };
        let param = self.param(dtype, 16 * self.kernel.items as i128, dtype.range(), Access::ReadWrite);
        let address = param.at(0).plus(Index(0), 16);
        let max = self.rng.chance(2);
        self.push(if max { Stmt::MaxInto(address, value) } else { Stmt::MinInto(address, value) });
    }

    // Statements, taken back when the verifier rejects them.

    fn kernel_now(&self) -> Kernel {
        let mut bodies = self.open.iter().rev();
        let &(mut index, mut count, ref innermost) = bodies.next().expect("the item's body");
        let mut body = innermost.clone();
        for (outer_index, outer_count, outer) in bodies {
            let inner = Stmt::For { index, count, body };
            body = outer.clone();
            body.push(inner);
            (index, count) = (*outer_index, *outer_count);
        }
        Kernel { body, ..self.kernel.clone() }
    }

    fn check(&mut self) -> bool {
        match verify::kernel(&self.kernel_now()) {
            Ok(facts) => {
                self.ranges = facts.ranges;
                true
            }
            Err(_) => false,
        }
    }

    fn body(&mut self) -> &mut Vec<Stmt> {
        &mut self.open.last_mut().expect("the item's body").2
    }

    fn push(&mut self, stmt: Stmt) -> bool {
        self.body().push(stmt);
        let fine = self.check();
        if !fine {
            self.body().pop();
        }
        fine
    }

    fn define(&mut self, ty: Type, expr: Expr) -> Option<Value> {
        let value = Value(self.kernel.values.len() as u32);
        self.kernel.values.push(ty);
        if !self.push(Stmt::Let(value, expr)) {
            self.kernel.values.pop();
            return None;
        }
        self.scopes.last_mut().expect("a scope").push(value);
        Some(value)
    }

    fn open_short_loop(&mut self) {
        let count = 1 + self.rng.below(4) as u32;
        self.open_loop(count);
    }

    fn open_loop(&mut self, count: u32) {
        self.open.push((Index(self.indices), count, vec![]));
        self.indices += 1;
        self.scopes.push(vec![]);
    }

    fn close(&mut self) {
        self.store_unused();
        let (index, count, body) = self.open.pop().expect("an open loop");
        self.scopes.pop();
        self.body().push(Stmt::For { index, count, body });
    }

    /// Stores the values of the innermost scope that nothing uses, so that every result can be compared.
    fn store_unused(&mut self) {
        fn uses(body: &[Stmt], used: &mut Vec<Value>) {
            for stmt in body {
                match stmt {
                    Stmt::For { body, .. } => uses(body, used),
                    Stmt::Let(_, expr) => used.extend(expr.operands()),
                    Stmt::Store(_, value) | Stmt::Acc64(_, value) => used.push(*value),
                    Stmt::MaxInto(_, value) | Stmt::MinInto(_, value) => used.push(*value),
                    Stmt::Contract(_) => {}
                }
            }
        }
        let (mut used, body) = (vec![], &self.open.last().expect("the item's body").2);
        uses(body, &mut used);
        let scope = self.scopes.last().expect("a scope").clone();
        for value in scope.into_iter().filter(|value| !used.contains(value)) {
            self.store(value);
        }
    }

    // Parameters and addresses.

    fn param(&mut self, dtype: DType, len: i128, range: Range, access: Access) -> Param {
        self.kernel.params.push(ParamDecl { dtype, len: len as u64, range, access });
        Param(self.kernel.params.len() as u32 - 1)
    }

    /// Any place in every turn, of a parameter that is long enough: address (parameter to be set) and length.
    fn read_place(&mut self, width: i64) -> (Address, i128) {
        let loops: Vec<(Index, u32)> = self.open.iter().map(|(index, count, _)| (*index, *count)).collect();
        let mut address = Param(u32::MAX).at(self.rng.between(0, 3));
        let mut last = address.offset;
        for (index, count) in loops {
            let stride = self.rng.pick(&[0, 1, 16, width, -width, 40]);
            let span = stride * (count as i64 - 1);
            address = address.plus(index, stride).offset((-span).max(0));
            last += span.abs();
        }
        (address, (last + width + self.rng.between(0, 3)) as i128)
    }

    /// A place of its own in every turn. Loops outside of the item's stride move by multiples of one number.
    fn write_place(&mut self, width: i64) -> (Address, i128) {
        let mut loops: Vec<(Index, u32)> =
            self.open.iter().map(|(index, count, _)| (*index, *count)).collect();
        let mut address = Param(u32::MAX).at(self.rng.between(0, 2));
        let (mut span, mut past_item) = (width, false);
        while !loops.is_empty() {
            let (index, count) = loops.swap_remove(self.rng.below(loops.len()));
            let gap = if past_item { 0 } else { self.rng.pick(&[0, 0, 1, 16]) };
            address = address.plus(index, span + gap);
            span += (span + gap) * (count as i64 - 1);
            past_item |= index == Index(0);
        }
        (address.clone(), (address.offset + span) as i128)
    }

    // Operands.

    fn any_type(&mut self) -> Type {
        match self.rng.below(if self.lanes { 7 } else { 10 }) {
            0..=5 => Type::Lanes(self.rng.pick(&LANE_TYPES)),
            6 => Type::Pairs,
            7..=8 => Type::Int,
            _ => Type::Dyadic,
        }
    }

    fn visible(&self, ty: Type) -> Vec<Value> {
        let all = self.scopes.iter().flatten();
        all.copied().filter(|value| self.kernel.values[value.0 as usize] == ty).collect()
    }

    /// A value of a type: mostly one that is there.
    fn operand(&mut self, ty: Type) -> Option<Value> {
        let all = self.visible(ty);
        let outside = self.lanes && matches!(ty, Type::Int | Type::Dyadic);
        if outside && all.is_empty() {
            return None;
        }
        if !all.is_empty() && (outside || !self.rng.chance(6)) {
            // Rather a recent one, so that expressions grow deep.
            let recent = all.len() - 1 - self.rng.below(all.len().min(4));
            return Some(if self.rng.chance(3) { self.rng.pick(&all) } else { all[recent] });
        }
        if self.rng.chance(3) { self.constant(ty) } else { self.load(ty) }
    }

    fn constant(&mut self, ty: Type) -> Option<Value> {
        let expr = match ty {
            Type::Lanes(dtype) => {
                let range = self.rng.range(dtype);
                Expr::ConstLanes(dtype, std::array::from_fn(|_| self.rng.between(range.lo, range.hi) as i32))
            }
            Type::Pairs => {
                let (a, b) = (self.operand(Type::Int)?, self.operand(Type::Int)?);
                Expr::SplatPair(a, b)
            }
            Type::Int => {
                let range = self.rng.range(DType::I64);
                Expr::ConstInt(self.rng.between(range.lo, range.hi))
            }
            Type::Dyadic => Expr::ConstDyadic(self.rng.next() as i32, self.rng.between(-50, 20) as i32),
        };
        self.define(ty, expr)
    }

    fn load(&mut self, ty: Type) -> Option<Value> {
        let (dtype, width) = match ty {
            Type::Lanes(dtype) => (dtype, 16),
            Type::Pairs => (DType::I16, 32),
            Type::Int => (self.rng.pick(&[DType::I8, DType::U8, DType::I16, DType::I32, DType::I64]), 1),
            Type::Dyadic => (DType::Dyadic, 1),
        };
        let (mut address, len) = self.read_place(width);
        let range = self.rng.range(dtype);
        address.param = self.param(dtype, len, range, Access::Read);
        let expr = match ty {
            Type::Lanes(_) => Expr::Load(address.clone()),
            Type::Pairs => Expr::LoadPairs(address.clone()),
            _ if self.rng.chance(3) => {
                let index = self.operand(Type::Int)?;
                Expr::LoadAt { param: address.param, index }
            }
            _ => Expr::LoadScalar(address.clone()),
        };
        let value = self.define(ty, expr)?;
        self.loads.push((value, address));
        Some(value)
    }

    /// A shift amount in `0..=most`.
    fn amount(&mut self, most: u8) -> Option<Amount> {
        if self.rng.chance(2) {
            return Some(Amount::Imm(self.rng.below(most as usize + 1) as u8));
        }
        if self.lanes {
            return self.operand(Type::Int).map(Amount::Value);
        }
        let (value, mask) = (self.operand(Type::Int)?, (most as i64 + 1) / 2 - 1);
        let mask = self.rng.pick(&[mask, mask / 2, 1, 3]);
        let mask = self.define(Type::Int, Expr::ConstInt(mask))?;
        self.define(Type::Int, Expr::Binary(Binary::And, value, mask)).map(Amount::Value)
    }

    fn two(&mut self, ty: Type) -> Option<(Value, Value)> {
        Some((self.operand(ty)?, self.operand(ty)?))
    }

    // Expressions.

    fn expression(&mut self) -> Option<Value> {
        use Type::{Dyadic, Int, Lanes, Pairs};
        let (i16s, i32s) = (Lanes(DType::I16), Lanes(DType::I32));
        let any_lanes = Lanes(self.rng.pick(&LANE_TYPES));
        let wide = Lanes(self.rng.pick(&ARITHMETIC));
        let (ty, expr) = match self.rng.below(25) {
            0 => return self.constant(any_lanes),
            1 => {
                let (index, ..) = self.open[self.rng.below(self.open.len())];
                (Int, Expr::IndexValue(index))
            }
            2 => {
                let dtype = self.rng.pick(&LANE_TYPES);
                (Lanes(dtype), Expr::Splat(dtype, self.operand(Int)?))
            }
            3 => {
                let (from, to) = self.rng.pick(&[
                    (DType::I8, DType::I16),
                    (DType::I8, DType::I32),
                    (DType::U8, DType::I16),
                    (DType::U8, DType::I32),
                    (DType::I16, DType::I32),
                ]);
                (Lanes(to), Expr::Widen(to, self.operand(Lanes(from))?))
            }
            4 => {
                let (from, to) = self.rng.pick(&[
                    (DType::I32, DType::I16),
                    (DType::I32, DType::I8),
                    (DType::I32, DType::U8),
                    (DType::I16, DType::I8),
                    (DType::I16, DType::U8),
                ]);
                (Lanes(to), Expr::NarrowSat(to, self.operand(Lanes(from))?))
            }
            5 => {
                let (from, to) = self.rng.pick(&[(DType::I8, DType::U8), (DType::U8, DType::I8)]);
                (Lanes(to), Expr::Cast(to, self.operand(Lanes(from))?))
            }
            6 => {
                let (a, b) = self.two(i16s)?;
                (Pairs, Expr::Pair(a, b))
            }
            7 => {
                let (a, b) = self.two(Pairs)?;
                (i32s, Expr::Dot2(a, b))
            }
            8..=10 => {
                let op = self.rng.pick(&[Binary::Add, Binary::Sub, Binary::Mul]);
                let (a, b) = self.two(wide)?;
                (wide, Expr::Binary(op, a, b))
            }
            11 => {
                let op = self.rng.pick(&[Binary::Min, Binary::Max, Binary::And, Binary::Or, Binary::Xor]);
                let (a, b) = self.two(any_lanes)?;
                (any_lanes, Expr::Binary(op, a, b))
            }
            12..=13 => {
                let op = self.rng.pick(&OPERATIONS);
                let (a, b) = self.two(Int)?;
                (Int, Expr::Binary(op, a, b))
            }
            14 => {
                let op = self.rng.pick(&OPERATIONS[..6]);
                let (a, b) = self.two(Dyadic)?;
                (Dyadic, Expr::Binary(op, a, b))
            }
            15 => {
                let op = self.rng.pick(&[Unary::Abs, Unary::Sqrt, Unary::Rsqrt, Unary::Log2, Unary::Exp2]);
                (Dyadic, Expr::Unary(op, self.operand(Dyadic)?))
            }
            16 => {
                let ty = self.rng.pick(&[Lanes(DType::I8), i16s, i32s, Int]);
                (ty, Expr::Unary(Unary::Abs, self.operand(ty)?))
            }
            17..=18 => {
                let ty = self.rng.pick(&[i16s, i32s, Int]);
                let most = if ty == i16s {
                    15
                } else if ty == i32s {
                    31
                } else {
                    63
                };
                let shift =
                    self.rng.pick(&[Shift::Left, Shift::Right, Shift::RightRound, Shift::RightLogical]);
                let value = self.operand(ty)?;
                (ty, Expr::Shift(shift, value, self.amount(most)?))
            }
            19 => {
                let (a, b) = self.two(i32s)?;
                (i32s, Expr::MulShift(a, b, self.amount(62)?))
            }
            20..=21 => return self.compare_and_select(),
            22 => {
                let ty = Lanes(self.rng.pick(&[DType::I8, DType::U8]));
                let (a, b) = self.two(ty)?;
                (ty, Expr::Interleave { a, b, high: self.rng.chance(2) })
            }
            23 => {
                let block = self.read_place(1).0;
                (i16s, Expr::Random { key: self.operand(Int)?, block: (block.terms, block.offset) })
            }
            // Dyadics are scalars.
            _ if self.lanes => return None,
            _ => return self.dyadic(),
        };
        let scalar = matches!(ty, Int | Dyadic) || matches!(expr, Expr::MulShift(..));
        if self.lanes && scalar { None } else { self.define(ty, expr) }
    }

    fn compare_and_select(&mut self) -> Option<Value> {
        let ty = self.any_type();
        let (a, b) = self.two(ty)?;
        let cond = self.rng.pick(&[Cond::Eq, Cond::Lt, Cond::Le]);
        let mask = match ty {
            Type::Lanes(DType::U8) => Type::Lanes(DType::I8),
            Type::Lanes(_) => ty,
            _ => Type::Int,
        };
        let mask = self.define(mask, Expr::Compare(cond, a, b))?;
        let (x, y) = if self.rng.chance(2) { (a, b) } else { self.two(ty)? };
        self.define(ty, Expr::Select(mask, x, y))
    }

    fn dyadic(&mut self) -> Option<Value> {
        let (ty, expr) = match self.rng.below(7) {
            0 => (Type::Dyadic, Expr::ToDyadic(self.operand(Type::Int)?)),
            1 => {
                let x = self.operand(Type::Dyadic)?;
                (Type::Int, Expr::ToFixed(x, self.amount(31)?))
            }
            2 => (Type::Dyadic, Expr::Scale(self.operand(Type::Dyadic)?, self.operand(Type::Int)?)),
            3 => (Type::Int, Expr::Exponent(self.operand(Type::Dyadic)?)),
            4 => (Type::Int, Expr::BitLength(self.operand(Type::Int)?)),
            5 => {
                let ((a, b), (c, d)) = (self.two(Type::Int)?, self.two(Type::Int)?);
                (Type::Dyadic, Expr::DiffOfProducts(a, b, c, d))
            }
            _ => {
                let ((seed, step), tensor) = (self.two(Type::Int)?, self.operand(Type::Int)?);
                (Type::Int, Expr::HashKey { seed, step, tensor })
            }
        };
        self.define(ty, expr)
    }

    // Memory writes.

    fn store_any(&mut self) {
        let ty = self.any_type();
        if let Some(value) = self.operand(ty) {
            let in_place = self.rng.chance(2) && self.store_in_place(value);
            if !in_place {
                self.store(value);
            }
        }
    }

    /// Into a parameter of its own, with the range of the value.
    fn store(&mut self, value: Value) {
        let range = self.ranges[value.0 as usize];
        let (dtype, width) = match self.kernel.values[value.0 as usize] {
            Type::Lanes(dtype) => (dtype, 16),
            Type::Pairs => (DType::I16, 32),
            Type::Dyadic => (DType::Dyadic, 1),
            Type::Int => {
                let all = [DType::I64, DType::I32, DType::I16, DType::U8, DType::I8];
                let fitting: Vec<DType> =
                    all.into_iter().filter(|dtype| dtype.range().includes(range)).collect();
                (self.rng.pick(&fitting), 1)
            }
        };
        let (mut address, len) = self.write_place(width);
        let access = self.rng.pick(&[Access::Write, Access::ReadWrite]);
        address.param = self.param(dtype, len, range, access);
        self.body().push(Stmt::Store(address, value));
        let kernel = self.kernel_now();
        verify::kernel(&kernel)
            .map_err(|violation| format!("a fitting store: {violation}\n{kernel}"))
            .unwrap();
    }

    /// Where a value of this type was loaded from, under the range of what was there.
    fn store_in_place(&mut self, value: Value) -> bool {
        let (ty, scope) = (self.kernel.values[value.0 as usize], self.scopes.concat());
        let mut same = self.loads.iter().filter(|(load, _)| {
            scope.contains(load) && self.kernel.values[load.0 as usize] == ty && ty != Type::Int
        });
        let Some(mut address) = same.next_back().map(|(_, address)| address.clone()) else { return false };
        let read = address.param;
        let decl = ParamDecl { access: Access::Write, ..self.kernel.params[read.0 as usize].clone() };
        address.param = self.param(decl.dtype, decl.len as i128, decl.range, decl.access);
        let fine = self.push(Stmt::Store(address.clone(), value));
        if fine {
            self.in_place.push((read.0, address.param.0));
        } else {
            self.kernel.params.pop();
        }
        fine
    }

    /// A zeroed parameter, then a loop that adds to it, or folds into it.
    fn accumulate(&mut self) {
        let ty = self.rng.pick(&[Type::Lanes(DType::I16), Type::Lanes(DType::I32), Type::Int]);
        let fold = self.rng.chance(3);
        let (dtype, width) = match ty {
            Type::Lanes(dtype) if fold => (dtype, 16),
            Type::Int => (DType::I64, 1),
            _ => (DType::I64, 16),
        };
        let Some(zero) = self.define(Type::Int, Expr::ConstInt(0)) else { return };
        let (mut address, len) = self.write_place(width);
        let param = self.param(dtype, len, dtype.range(), Access::Write);
        address.param = param;
        let index = Index(self.indices);
        self.indices += 1;
        let body = vec![Stmt::Store(address.clone().plus(index, 1), zero)];
        let reset = Stmt::For { index, count: width as u32, body };
        assert!(self.push(reset), "zeros fit every type");
        self.open_short_loop();
        if let Some(value) = self.operand(ty) {
            let max = self.rng.chance(2);
            self.push(match (fold, max) {
                (false, _) => Stmt::Acc64(address, value),
                (true, true) => Stmt::MaxInto(address, value),
                (true, false) => Stmt::MinInto(address, value),
            });
        }
        self.close();
        self.tighten(param);
    }

    /// Gives a written parameter the smallest range ±2^r that the verifier accepts.
    fn tighten(&mut self, param: Param) {
        let all = self.kernel.params[param.0 as usize].dtype.range();
        for bits in 0..63 {
            let range = Range::new((-1 << bits).max(all.lo), (1i64 << bits).min(all.hi));
            self.kernel.params[param.0 as usize].range = range;
            if self.check() {
                return;
            }
        }
        self.kernel.params[param.0 as usize].range = all;
        assert!(self.check(), "it was accepted with this range before");
    }

    // Contractions.

    /// Random dimensions with injective second strides from `span` on; returns the new span.
    fn dims(&mut self, most: usize, span: i64) -> (Vec<Dim>, i64) {
        let mut span = span;
        let mut dims: Vec<Dim> = (0..self.rng.below(most + 1))
            .map(|_| {
                let (n, gap) = (1 + self.rng.below(6) as u32, self.rng.pick(&[0, 0, 16]));
                let dim = Dim::new(n, 0, span + gap);
                span += dim.second * (n as i64 - 1);
                dim
            })
            .collect();
        dims.reverse();
        (dims, span)
    }

    fn contract(&mut self) {
        let dot = self.rng.pick(&[Dot::U8I8, Dot::I8U8, Dot::I16I16]);
        let (group, (a_type, b_type)) = (dot.group() as i64, dot.operands());
        let (mut vectors, span) = self.dims(2, 16);
        let (mut points, span) = self.dims(3, span);
        let mut k: Vec<Dim> = (0..1 + self.rng.below(3))
            .map(|_| {
                let (first, second) =
                    (self.rng.pick(&[group, 1, 3 * group]), self.rng.pick(&[16 * group, 32 * group]));
                Dim::new(1 + self.rng.below(5) as u32, first, second)
            })
            .collect();
        points.iter_mut().for_each(|dim| dim.first = self.rng.pick(&[0, group, 2 * group, -1, 5]));
        vectors.iter_mut().for_each(|dim| dim.first = self.rng.pick(&[0, 16 * group, -16 * group]));
        if self.rng.chance(4) {
            k[0].second = -k[0].second;
        }
        let reach = |dims: &[Dim], stride: fn(&Dim) -> i64| -> (i64, i64) {
            let spans: Vec<i64> = dims.iter().map(|dim| stride(dim) * (dim.n as i64 - 1)).collect();
            (spans.iter().map(|span| (*span).min(0)).sum(), spans.iter().map(|span| (*span).max(0)).sum())
        };
        let first: fn(&Dim) -> i64 = |dim| dim.first;
        let operand = |own: &[Dim], k_reach: (i64, i64)| {
            let own = reach(own, first);
            (own.0 + k_reach.0, own.1 + k_reach.1)
        };
        let (a_reach, b_reach) =
            (operand(&points, reach(&k, first)), operand(&vectors, reach(&k, |dim| dim.second)));
        let a = self.operand_side(a_type, group, a_reach);
        let b = self.operand_side(b_type, 16 * group, b_reach);
        let (mut out, len) = self.write_place(span);
        out.param = self.param(DType::I32, len, DType::I32.range(), Access::Write);
        let init = self.init(&points, &vectors);
        let accumulate = self.rng.chance(4);
        let contract = Contract { dot, out: out.clone(), a, b, init, points, vectors, k };
        if !self.push(Stmt::Contract(Box::new(contract.clone()))) {
            self.drop_unused();
            return;
        }
        if accumulate {
            self.open_short_loop();
            self.push(Stmt::Contract(Box::new(Contract { init: Init::Accumulate, ..contract.clone() })));
            self.close();
        }
        self.tighten(out.param);
        self.use_panel(&contract);
    }

    /// Parameters that a rejected statement leaves behind.
    fn drop_unused(&mut self) {
        let used = format!("{}", self.kernel_now());
        while let Some(last) = self.kernel.params.len().checked_sub(1)
            && !used.contains(&format!("p{last}["))
        {
            self.kernel.params.pop();
        }
    }

    fn operand_side(&mut self, dtype: DType, width: i64, (lo, hi): (i64, i64)) -> Address {
        let (mut address, len) = self.read_place(width);
        let range = self.rng.range(dtype);
        address.param = self.param(dtype, len + (hi - lo) as i128, range, Access::Read);
        address.offset(-lo)
    }

    fn init(&mut self, points: &[Dim], vectors: &[Dim]) -> Init {
        let kind = self.rng.below(3);
        let (dims, width) = if kind == 1 { (vectors, 16) } else { (points, 1) };
        if kind == 0 {
            return Init::Zero;
        }
        let strides: Vec<i64> = dims.iter().map(|_| self.rng.pick(&[0, width, 3 * width])).collect();
        let most: i64 = dims.iter().zip(&strides).map(|(dim, stride)| stride * (dim.n as i64 - 1)).sum();
        let address = self.operand_side(DType::I32, width, (0, most));
        if kind == 1 { Init::PerVector(address, strides) } else { Init::PerPoint(address, strides) }
    }

    /// Loops over the points and vectors of a contraction that load its results and store them shifted.
    fn use_panel(&mut self, contract: &Contract) {
        let before = self.open.len();
        let mut address = contract.out.clone();
        for dim in contract.points.iter().chain(&contract.vectors) {
            self.open.push((Index(self.indices), dim.n, vec![]));
            self.scopes.push(vec![]);
            address = address.plus(Index(self.indices), dim.second);
            self.indices += 1;
        }
        let shift = Amount::Imm(self.rng.below(20) as u8);
        let sums = self.define(Type::Lanes(DType::I32), Expr::Load(address)).expect("the panel is written");
        if let Some(value) = self.define(Type::Lanes(DType::I32), Expr::Shift(Shift::RightRound, sums, shift))
            && let Some(value) = self.define(Type::Lanes(DType::I16), Expr::NarrowSat(DType::I16, value))
        {
            self.store(value);
        }
        while self.open.len() > before {
            self.close();
        }
    }
}
