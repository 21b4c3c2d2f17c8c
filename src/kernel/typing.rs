//! The one type rule of every expression and memory statement, for the builder (infers) and the verifier (checks).
//!
//! Types only: extents and ranges are the verifier's.

use super::{Address, Binary, DType, Dot, Expr, Init, ParamDecl, Shift, Stmt, Type, Unary, Value};
use Type::{Dyadic, Int, Lanes, Pairs};

/// What types depend on: the values defined so far and the parameters.
pub(super) struct Types<'a> {
    pub(super) values: &'a [Type],
    pub(super) params: &'a [ParamDecl],
}

type Res<T> = Result<T, String>;

impl Types<'_> {
    fn value(&self, value: Value) -> Res<Type> {
        self.values.get(value.0 as usize).copied().ok_or_else(|| format!("%{} is not a value", value.0))
    }

    fn param(&self, address: &Address) -> Res<DType> {
        let param = address.param.0;
        let decl = self.params.get(param as usize).ok_or_else(|| format!("p{param} is not a parameter"))?;
        Ok(decl.dtype)
    }

    fn want(&self, value: Value, want: Type) -> Res<()> {
        let got = self.value(value)?;
        if got == want { Ok(()) } else { Err(format!("%{} is {got}, wanted {want}", value.0)) }
    }

    fn want_all(&self, values: &[Value], want: Type) -> Res<()> {
        values.iter().try_for_each(|&value| self.want(value, want))
    }

    fn same(&self, a: Value, b: Value) -> Res<Type> {
        let ty = self.value(a)?;
        self.want(b, ty)?;
        Ok(ty)
    }

    fn lanes(&self, value: Value) -> Res<DType> {
        match self.value(value)? {
            Lanes(dtype) => Ok(dtype),
            other => Err(format!("%{} is {other}, wanted lanes", value.0)),
        }
    }

    /// The type of an expression, or why it has none.
    pub(super) fn expr(&self, expr: &Expr) -> Res<Type> {
        match expr {
            Expr::Load(address) => match self.param(address)? {
                DType::I64 | DType::Dyadic => Err("lanes are loaded from i8, u8, i16 or i32 only".into()),
                dtype => Ok(Lanes(dtype)),
            },
            Expr::LoadPairs(address) => self.pairs_memory(address).map(|()| Pairs),
            Expr::LoadScalar(address) => Ok(scalar(self.param(address)?)),
            Expr::LoadAt { param, index } => {
                self.want(*index, Int)?;
                Ok(scalar(self.param(&param.at(0))?))
            }
            Expr::ConstLanes(dtype, lanes) => {
                let range = lane_type(*dtype)?.range();
                match lanes.iter().find(|&&lane| !range.contains(lane as i64)) {
                    Some(lane) => Err(format!("constant lane {lane} is not {}", Lanes(*dtype))),
                    None => Ok(Lanes(*dtype)),
                }
            }
            Expr::ConstInt(_) | Expr::IndexValue(_) => Ok(Int),
            Expr::ConstDyadic(..) => Ok(Dyadic),
            Expr::Splat(dtype, value) => {
                self.want(*value, Int)?;
                lane_type(*dtype).map(Lanes)
            }
            Expr::SplatPair(a, b) => self.want_all(&[*a, *b], Int).map(|()| Pairs),
            Expr::Widen(to, value) => self.widen(*to, *value),
            Expr::NarrowSat(to, value) => match (self.lanes(*value)?, to) {
                (DType::I32, DType::I16 | DType::I8 | DType::U8) | (DType::I16, DType::I8 | DType::U8) => {
                    Ok(Lanes(*to))
                }
                (from, to) => Err(format!("cannot narrow {from} to {to}")),
            },
            Expr::Cast(to, value) => match (self.lanes(*value)?, to) {
                (DType::I8, DType::U8) | (DType::U8, DType::I8) => Ok(Lanes(*to)),
                (from, to) => Err(format!("cannot cast {from} to {to}")),
            },
            Expr::Pair(a, b) => self.want_all(&[*a, *b], Lanes(DType::I16)).map(|()| Pairs),
            Expr::Dot2(a, b) => self.want_all(&[*a, *b], Pairs).map(|()| Lanes(DType::I32)),
            Expr::Binary(op, a, b) => self.binary(*op, *a, *b),
            Expr::Unary(op, value) => match (op, self.value(*value)?) {
                (Unary::Abs, Pairs | Lanes(DType::U8)) => {
                    Err("abs needs signed lanes, an int or a dyadic".into())
                }
                (Unary::Abs, ty) => Ok(ty),
                (_, Dyadic) => Ok(Dyadic),
                (op, ty) => Err(format!("{op} needs a dyadic, not {ty}")),
            },
            Expr::Shift(shift, value, amount) => {
                self.amount(*amount)?;
                match (shift, self.value(*value)?) {
                    (Shift::RightLogical, Int) => Err("the logical shift is for lanes".into()),
                    (_, ty @ (Int | Lanes(DType::I16 | DType::I32))) => Ok(ty),
                    (_, ty) => Err(format!("cannot shift {ty}")),
                }
            }
            Expr::MulShift(a, b, amount) => {
                self.amount(*amount)?;
                self.want_all(&[*a, *b], Lanes(DType::I32)).map(|()| Lanes(DType::I32))
            }
            Expr::Compare(_, a, b) => match self.same(*a, *b)? {
                Lanes(DType::U8) => Ok(Lanes(DType::I8)),
                Lanes(dtype) => Ok(Lanes(dtype)),
                Int | Dyadic => Ok(Int),
                Pairs => Err("cannot compare pairs".into()),
            },
            Expr::Select(mask, a, b) => self.select(*mask, *a, *b),
            Expr::Interleave { a, b, .. } => match self.same(*a, *b)? {
                ty @ Lanes(DType::I8 | DType::U8) => Ok(ty),
                ty => Err(format!("cannot interleave {ty}")),
            },
            Expr::Random { key, .. } => self.want(*key, Int).map(|()| Lanes(DType::I16)),
            Expr::HashKey { seed, step, tensor } => {
                self.want_all(&[*seed, *step, *tensor], Int).map(|()| Int)
            }
            Expr::DiffOfProducts(a, b, c, d) => self.want_all(&[*a, *b, *c, *d], Int).map(|()| Dyadic),
            Expr::ToDyadic(value) => self.want(*value, Int).map(|()| Dyadic),
            Expr::ToFixed(value, amount) => {
                self.amount(*amount)?;
                self.want(*value, Dyadic).map(|()| Int)
            }
            Expr::Scale(value, by) => {
                self.want(*by, Int)?;
                self.want(*value, Dyadic).map(|()| Dyadic)
            }
            Expr::Exponent(value) => self.want(*value, Dyadic).map(|()| Int),
            Expr::BitLength(value) => self.want(*value, Int).map(|()| Int),
        }
    }

    fn amount(&self, amount: super::Amount) -> Res<()> {
        match amount {
            super::Amount::Imm(_) => Ok(()),
            super::Amount::Value(value) => self.want(value, Int),
        }
    }

    fn widen(&self, to: DType, value: Value) -> Res<Type> {
        match (self.lanes(value)?, to) {
            (DType::I8 | DType::U8, DType::I16 | DType::I32) | (DType::I16, DType::I32) => Ok(Lanes(to)),
            (from, to) => Err(format!("cannot widen {from} to {to}")),
        }
    }

    fn binary(&self, op: Binary, a: Value, b: Value) -> Res<Type> {
        use Binary::*;
        match (op, self.same(a, b)?) {
            (Add | Sub | Mul | Min | Max | Div, ty @ (Int | Dyadic)) => Ok(ty),
            (And | Or | Xor, Int) => Ok(Int),
            (Add | Sub | Mul, ty @ Lanes(DType::I16 | DType::I32)) => Ok(ty),
            (Min | Max | And | Or | Xor, ty @ Lanes(_)) => Ok(ty),
            (op, ty) => Err(format!("there is no {op} of {ty}")),
        }
    }

    fn select(&self, mask: Value, a: Value, b: Value) -> Res<Type> {
        match (self.value(mask)?, self.same(a, b)?) {
            (Int, ty @ (Int | Dyadic)) => Ok(ty),
            (Lanes(m), ty @ Lanes(dtype)) if m.bytes() == dtype.bytes() => Ok(ty),
            (mask, ty) => Err(format!("cannot select {ty} by {mask}")),
        }
    }

    fn pairs_memory(&self, address: &Address) -> Res<()> {
        match self.param(address)? {
            DType::I16 => Ok(()),
            dtype => Err(format!("pairs live in i16 memory, not {dtype}")),
        }
    }

    /// Checks the types of a statement (of a loop: nothing).
    pub(super) fn stmt(&self, stmt: &Stmt) -> Res<()> {
        match stmt {
            Stmt::For { .. } => Ok(()),
            Stmt::Let(value, expr) => {
                let ty = self.expr(expr)?;
                self.want(*value, ty)
            }
            Stmt::Store(address, value) => match (self.param(address)?, self.value(*value)?) {
                (DType::I16, Pairs) | (DType::Dyadic, Dyadic) => Ok(()),
                (memory, Lanes(dtype)) if memory == dtype => Ok(()),
                (memory, Int) if memory != DType::Dyadic => Ok(()),
                (memory, ty) => Err(format!("cannot store {ty} to {memory}")),
            },
            Stmt::Acc64(address, value) => match (self.param(address)?, self.value(*value)?) {
                (DType::I64, Int | Lanes(DType::I16 | DType::I32)) => Ok(()),
                (memory, ty) => Err(format!("cannot add {ty} to {memory} by acc64")),
            },
            Stmt::MaxInto(address, value) | Stmt::MinInto(address, value) => {
                match (self.param(address)?, self.value(*value)?) {
                    (DType::I64, Int) => Ok(()),
                    (memory, Lanes(dtype)) if memory == dtype => Ok(()),
                    (memory, ty) => Err(format!("cannot fold {ty} into {memory}")),
                }
            }
            Stmt::Contract(contract) => {
                let (a, b) = contract.dot.operands();
                for (what, address, want) in
                    [("out", &contract.out, DType::I32), ("a", &contract.a, a), ("b", &contract.b, b)]
                {
                    self.memory(what, address, want)?;
                }
                match &contract.init {
                    Init::Zero | Init::Accumulate => Ok(()),
                    Init::PerVector(address, _) | Init::PerPoint(address, _) => {
                        self.memory("init", address, DType::I32)
                    }
                }
            }
        }
    }

    fn memory(&self, what: &str, address: &Address, want: DType) -> Res<()> {
        let got = self.param(address)?;
        if got == want { Ok(()) } else { Err(format!("{what} is {got}, wanted {want}")) }
    }
}

/// The type of one element of a buffer as a scalar.
fn scalar(dtype: DType) -> Type {
    if dtype == DType::Dyadic { Dyadic } else { Int }
}

fn lane_type(dtype: DType) -> Res<DType> {
    match dtype {
        DType::I64 | DType::Dyadic => Err(format!("there are no lanes of {dtype}")),
        _ => Ok(dtype),
    }
}

impl Dot {
    /// Element types of the points and the vectors side.
    pub fn operands(self) -> (DType, DType) {
        match self {
            Dot::U8I8 => (DType::U8, DType::I8),
            Dot::I8U8 => (DType::I8, DType::U8),
            Dot::I16I16 => (DType::I16, DType::I16),
        }
    }

    /// Elements in a group: products of one step of one lane.
    pub fn group(self) -> u64 {
        match self {
            Dot::U8I8 | Dot::I8U8 => 4,
            Dot::I16I16 => 2,
        }
    }
}
