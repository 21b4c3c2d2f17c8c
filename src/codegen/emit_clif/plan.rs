//! What is decided about a kernel before code is written.
//!
//! Definitions move out of the loops that they do not depend on. Loads move only from memory that the kernel does not
//! write, also not through another parameter: a call may pass one buffer for a parameter that is read and one that is
//! written, when both are alike. The emitter then writes the result down in order, with no further motion.

use crate::kernel::{Access, Amount, DType, Expr, Index, Kernel, Param, ParamDecl, Shift, Stmt, Type, Value};
use std::collections::{BTreeMap, BTreeSet};

/// A value computed from an Int once, where the Int is defined, for all its uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Derived {
    /// The half of the last bit that a rounding shift by the Int adds, in all lanes of the type.
    Half(DType),
    /// The same for 64-bit products.
    Half64,
    /// The low half of a random key, as i32.
    KeyLow,
    /// The high half of a random key, in all lanes.
    KeyHigh,
}

/// A kernel, rearranged, and what its emission needs to know ahead.
pub(super) struct Plan {
    /// Definitions that are the same for every item.
    pub(super) prologue: Vec<Stmt>,
    /// The body of an item, with invariant definitions outside of loops.
    pub(super) body: Vec<Stmt>,
    /// Values to derive right after a definition.
    pub(super) derived: BTreeMap<Value, BTreeSet<Derived>>,
    /// Loaded lanes that are only ever widened, and to what: the load widens.
    pub(super) widening: BTreeMap<Value, DType>,
}

impl Plan {
    pub(super) fn new(kernel: &Kernel) -> Plan {
        let items = Stmt::For { index: Index(0), count: kernel.items, body: kernel.body.clone() };
        let mut prologue = hoist(vec![items], &kernel.params);
        let Some(Stmt::For { body, .. }) = prologue.pop() else {
            unreachable!("definitions move to the front of the loop over the items");
        };
        let mut uses = BTreeMap::new();
        let mut derived = BTreeMap::new();
        for part in [&prologue, &body] {
            walk(part, &mut |stmt| {
                if let Stmt::Let(_, expr) = stmt {
                    derive(expr, &kernel.values, &mut derived);
                }
                count_uses(stmt, &mut uses);
            });
        }
        let mut widening = widening(&prologue, &uses);
        widening.append(&mut self::widening(&body, &uses));
        Plan { prologue, body, derived, widening }
    }
}

/// Calls `f` on every statement, outer ones first.
pub(in crate::codegen) fn walk<'a>(body: &'a [Stmt], f: &mut impl FnMut(&'a Stmt)) {
    for stmt in body {
        f(stmt);
        if let Stmt::For { body, .. } = stmt {
            walk(body, f);
        }
    }
}

fn hoist(body: Vec<Stmt>, params: &[ParamDecl]) -> Vec<Stmt> {
    let mut out = Vec::with_capacity(body.len());
    for stmt in body {
        let Stmt::For { index, count, body } = stmt else {
            out.push(stmt);
            continue;
        };
        let mut bound = BTreeSet::new();
        let mut kept = vec![];
        for stmt in hoist(body, params) {
            match &stmt {
                Stmt::Let(_, expr) if movable(expr, index, &bound, params) => out.push(stmt),
                Stmt::Let(value, _) => {
                    bound.insert(*value);
                    kept.push(stmt);
                }
                _ => kept.push(stmt),
            }
        }
        out.push(Stmt::For { index, count, body: kept });
    }
    out
}

/// Whether a call may pass one buffer for both parameters; never for two that are written.
pub(super) fn may_alias(params: &[ParamDecl], a: Param, b: Param) -> bool {
    let [p, q] = [a, b].map(|x| &params[x.0 as usize]);
    let reads = p.access == Access::Read || q.access == Access::Read;
    a == b || (reads && p.dtype == q.dtype && p.len == q.len)
}

/// Whether the kernel writes no memory that a parameter may be.
pub(super) fn is_constant(params: &[ParamDecl], param: Param) -> bool {
    let writes = |p: &ParamDecl| p.access != Access::Read;
    (0..).map(Param).zip(params).all(|(other, p)| !writes(p) || !may_alias(params, param, other))
}

fn movable(expr: &Expr, index: Index, bound: &BTreeSet<Value>, params: &[ParamDecl]) -> bool {
    let fixed = match expr {
        Expr::Load(a) | Expr::LoadPairs(a) | Expr::LoadScalar(a) => {
            is_constant(params, a.param) && a.terms.iter().all(|t| t.0 != index)
        }
        Expr::LoadAt { param, .. } => is_constant(params, *param),
        Expr::IndexValue(i) => *i != index,
        Expr::Random { block, .. } => block.0.iter().all(|t| t.0 != index),
        _ => true,
    };
    fixed && expr.operands().iter().all(|v| !bound.contains(v))
}

fn derive(expr: &Expr, types: &[Type], out: &mut BTreeMap<Value, BTreeSet<Derived>>) {
    let mut add = |value: Value, what| {
        out.entry(value).or_default().insert(what);
    };
    match *expr {
        Expr::Shift(Shift::RightRound, x, Amount::Value(k)) => {
            if let Type::Lanes(dtype) = types[x.0 as usize] {
                add(k, Derived::Half(dtype));
            }
        }
        Expr::MulShift(_, _, Amount::Value(k)) => add(k, Derived::Half64),
        Expr::Random { key, .. } => {
            add(key, Derived::KeyLow);
            add(key, Derived::KeyHigh);
        }
        _ => {}
    }
}

/// How often a value is read, and by how many widenings to which type.
#[derive(Default)]
struct Uses {
    all: usize,
    widened: BTreeMap<DType, usize>,
}

fn count_uses(stmt: &Stmt, uses: &mut BTreeMap<Value, Uses>) {
    let read = match stmt {
        Stmt::Let(_, Expr::Widen(to, v)) => {
            *uses.entry(*v).or_default().widened.entry(*to).or_default() += 1;
            vec![*v]
        }
        Stmt::Let(_, expr) => expr.operands(),
        Stmt::Store(_, v) | Stmt::Acc64(_, v) | Stmt::MaxInto(_, v) | Stmt::MinInto(_, v) => vec![*v],
        Stmt::For { .. } | Stmt::Contract(_) => vec![],
    };
    for v in read {
        uses.entry(v).or_default().all += 1;
    }
}

fn widening(body: &[Stmt], uses: &BTreeMap<Value, Uses>) -> BTreeMap<Value, DType> {
    let mut out = BTreeMap::new();
    walk(body, &mut |stmt| {
        if let Stmt::Let(value, Expr::Load(_)) = stmt
            && let Some(u) = uses.get(value)
            && let Some((&to, _)) = u.widened.iter().find(|&(_, &n)| n == u.all)
        {
            out.insert(*value, to);
        }
    });
    out
}

/// The parameters that a statement touches other than by folding into them.
pub(super) fn touched(stmt: &Stmt) -> Vec<Param> {
    match stmt {
        Stmt::Acc64(..) | Stmt::MaxInto(..) | Stmt::MinInto(..) => vec![],
        Stmt::Let(_, Expr::LoadAt { param, .. }) => vec![*param],
        _ => stmt.addresses().iter().map(|a| a.param).collect(),
    }
}
