//! The verifier: structure, extents, order and overlap of accesses, and ranges.
//!
//! A kernel is checked alone, against the declarations of its parameters; a program then only has to pass buffers
//! that fit them. It checks and never repairs: lowering has to write what passes. What is proven:
//! - values are defined once, before use, in scope, with the right types; loops turn at least once;
//! - every access lies inside its parameter, and respects its `Access`: what a `Write` parameter gives back has been
//!   written before in the same item;
//! - items are independent: what one writes, no other touches;
//! - no operation overflows, and what is stored fits the declared range (`ranges`);
//! - sums in memory (`acc64`, `contract` with `+=`) stay in the declared range. From a covering store in the same
//!   kernel on, one element gets at most (hits since then) × (range of the addend). A sum that is started in another
//!   call is bounded over all calls of the program.

use super::ranges::{Ranges, fit, fit_range, hull};
use super::touches::{Touch, items_are_apart, touches};
use super::typing::Types;
use super::*;
use std::collections::{BTreeSet, HashSet};

pub use super::ranges::contract_range;

/// What is wrong with a kernel program: a fault of lowering, never of the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The kernel, buffer or call.
    pub place: String,
    /// The statement as printed; empty if it is none.
    pub statement: String,
    /// What does not hold, with the interval.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)?;
        if self.statement.is_empty() { Ok(()) } else { write!(f, "\n  at `{}`", self.statement) }
    }
}

impl std::error::Error for Violation {}

/// What is known of a verified kernel.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What each value can be (dyadics: the full i64 interval).
    pub ranges: Vec<Range>,
    /// What each parameter gets.
    writes: Vec<Writes>,
}

/// What a parameter gets in one call.
#[derive(Clone, Copy, Debug, Default)]
struct Writes {
    /// All that is stored, and sums that start from stores in the same kernel.
    values: Option<Range>,
    /// Bounds of what is added to one element whose sum starts elsewhere.
    growth: Option<(i128, i128)>,
}

/// Checks a kernel.
pub fn kernel(kernel: &Kernel) -> Result<Facts, Violation> {
    let fault = |(stmt, message): (Option<&Stmt>, String)| Violation {
        place: format!("kernel {}", kernel.name),
        statement: stmt.map_or(String::new(), print::stmt_text),
        message,
    };
    declarations(kernel).map_err(|message| fault((None, message)))?;
    let mut walk = Walk {
        kernel,
        ranges: Ranges::new(kernel),
        defined: vec![false; kernel.values.len()],
        visible: vec![],
        loops: vec![(Index(0), kernel.items)],
        opened: BTreeSet::from([Index(0)]),
        at: None,
    };
    walk.body(&kernel.body).map_err(|message| fault((walk.at, message)))?;
    let ranges = walk.ranges;
    let all = touches(kernel);
    accesses(kernel, &all).map_err(|(stmt, message)| fault((Some(stmt), message)))?;
    let writes = sums(kernel, &ranges, &all).map_err(|(stmt, message)| fault((Some(stmt), message)))?;
    Ok(Facts { ranges: ranges.all(), writes })
}

fn declarations(kernel: &Kernel) -> Result<(), String> {
    if kernel.items == 0 {
        return Err("there are no items".into());
    }
    for (number, decl) in kernel.params.iter().enumerate() {
        declared(decl.dtype, decl.len, decl.range).map_err(|why| format!("p{number}: {why}"))?;
    }
    Ok(())
}

fn declared(dtype: DType, len: u64, range: Range) -> Result<(), String> {
    if len == 0 || len > i64::MAX as u64 {
        return Err(format!("{len} elements"));
    }
    if range.lo > range.hi {
        return Err(format!("the range {range} is empty"));
    }
    fit_range(range, dtype.range(), dtype).map(|_| ())
}

/// Structure, types and ranges, in program order.
struct Walk<'a> {
    kernel: &'a Kernel,
    ranges: Ranges<'a>,
    /// By value: defined somewhere before.
    defined: Vec<bool>,
    /// Values in scope.
    visible: Vec<Value>,
    /// The item and the loops in scope.
    loops: Vec<(Index, u32)>,
    /// The indices of all loops so far: emitters know a loop by its index.
    opened: BTreeSet<Index>,
    at: Option<&'a Stmt>,
}

impl<'a> Walk<'a> {
    fn body(&mut self, stmts: &'a [Stmt]) -> Result<(), String> {
        let visible = self.visible.len();
        for stmt in stmts {
            self.at = Some(stmt);
            if let Stmt::For { index, count, body } = stmt {
                self.open_loop(*index, *count)?;
                self.body(body)?;
                self.loops.pop();
            } else {
                self.statement(stmt)?;
            }
        }
        self.visible.truncate(visible);
        Ok(())
    }

    fn open_loop(&mut self, index: Index, count: u32) -> Result<(), String> {
        if count == 0 {
            return Err("a loop turns at least once".into());
        }
        if !self.opened.insert(index) {
            return Err(format!("{index} is the index of an earlier loop"));
        }
        self.loops.push((index, count));
        Ok(())
    }

    fn statement(&mut self, stmt: &'a Stmt) -> Result<(), String> {
        for value in operands(stmt) {
            if !self.visible.contains(&value) {
                return Err(format!("{value} is not defined here"));
            }
        }
        for address in stmt.addresses() {
            self.address(address)?;
        }
        Types { values: &self.kernel.values, params: &self.kernel.params }.stmt(stmt)?;
        match stmt {
            Stmt::Let(value, expr) => self.define(*value, expr),
            Stmt::Store(address, value) | Stmt::MaxInto(address, value) | Stmt::MinInto(address, value) => {
                self.fits(address, *value)
            }
            Stmt::Contract(contract) => self.contract(contract),
            Stmt::Acc64(..) | Stmt::For { .. } => Ok(()),
        }
    }

    fn address(&self, address: &Address) -> Result<(), String> {
        if address.param.0 as usize >= self.kernel.params.len() {
            return Err(format!("{} is not a parameter", address.param));
        }
        self.terms(&address.terms)
    }

    fn terms(&self, terms: &[(Index, i64)]) -> Result<(), String> {
        if !terms.is_sorted_by(|a, b| a.0 < b.0) || terms.iter().any(|term| term.1 == 0) {
            return Err("terms are ascending, without zero strides".into());
        }
        match terms.iter().find(|(index, _)| !self.loops.iter().any(|(other, _)| index == other)) {
            Some((index, _)) => Err(format!("{index} is not the index of a loop around this")),
            None => Ok(()),
        }
    }

    fn define(&mut self, value: Value, expr: &'a Expr) -> Result<(), String> {
        if self.defined[value.0 as usize] {
            return Err(format!("{value} is defined twice"));
        }
        match expr {
            Expr::Random { block: (terms, _), .. } => self.terms(terms)?,
            Expr::IndexValue(index) => self.terms(&[(*index, 1)])?,
            _ => {}
        }
        let loops = &self.loops;
        let indices = |index: Index| {
            let found = loops.iter().find(|(other, _)| *other == index);
            Range::new(0, found.map_or(0, |found| found.1 as i64 - 1))
        };
        self.ranges.define(value, expr, &indices)?;
        self.defined[value.0 as usize] = true;
        self.visible.push(value);
        Ok(())
    }

    fn fits(&self, address: &Address, value: Value) -> Result<(), String> {
        let decl = &self.kernel.params[address.param.0 as usize];
        if decl.dtype == DType::Dyadic {
            return Ok(());
        }
        fit_range(self.ranges.of(value), decl.range, format!("the declared range of {}", address.param))
            .map(|_| ())
    }

    fn contract(&self, c: &Contract) -> Result<(), String> {
        let dims = || c.points.iter().chain(&c.vectors).chain(&c.k);
        if dims().any(|dim| dim.n == 0) {
            return Err("a dimension of a contraction turns at least once".into());
        }
        match &c.init {
            Init::PerVector(_, strides) if strides.len() != c.vectors.len() => {
                return Err("one stride of init for each dimension of vectors".into());
            }
            Init::PerPoint(_, strides) if strides.len() != c.points.len() => {
                return Err("one stride of init for each dimension of points".into());
            }
            _ => {}
        }
        let sum = contract_sum(self.kernel, c)?;
        if c.init == Init::Accumulate {
            return Ok(());
        }
        let declared = self.kernel.params[c.out.param.0 as usize].range;
        fit_range(sum, declared, format!("the declared range of {}", c.out.param)).map(|_| ())
    }
}

/// What a contraction computes; with `+=`, what it adds.
fn contract_sum(kernel: &Kernel, c: &Contract) -> Result<Range, String> {
    let range = |address: &Address| kernel.params[address.param.0 as usize].range;
    let init = match &c.init {
        Init::Zero | Init::Accumulate => Range::new(0, 0),
        Init::PerVector(address, _) | Init::PerPoint(address, _) => range(address),
    };
    let steps = c.k.iter().try_fold(1u64, |steps, dim| steps.checked_mul(dim.n as u64));
    contract_range(c.dot, range(&c.a), range(&c.b), steps.ok_or("too many steps")?, init)
}

/// Values that a statement uses.
fn operands(stmt: &Stmt) -> Vec<Value> {
    match stmt {
        Stmt::Let(_, expr) => expr.operands(),
        Stmt::Store(_, value) | Stmt::Acc64(_, value) | Stmt::MaxInto(_, value) | Stmt::MinInto(_, value) => {
            vec![*value]
        }
        Stmt::For { .. } | Stmt::Contract(_) => vec![],
    }
}

type Fault<'a> = (&'a Stmt, String);

/// Whether what sums start from is no result: emitters read and write in an order of their own.
fn starts_elsewhere(contract: &Contract) -> bool {
    match &contract.init {
        Init::PerVector(address, _) | Init::PerPoint(address, _) => address.param != contract.out.param,
        Init::Zero | Init::Accumulate => true,
    }
}

/// Extents, access modes, and independence of items.
fn accesses<'a>(kernel: &Kernel, all: &[Touch<'a>]) -> Result<(), Fault<'a>> {
    for touch in all {
        let (param, decl) = (touch.param, &kernel.params[touch.param.0 as usize]);
        if let Stmt::Contract(contract) = touch.stmt
            && touch.write
            && !(touch.is_injective() && starts_elsewhere(contract))
        {
            let message =
                format!("a contraction writes an element of {param} twice, or reads its start there");
            return Err((touch.stmt, message));
        }
        let (first, last) = touch.extent();
        if first < 0 || last >= decl.len as i128 {
            let message = format!("touches the elements {first}..={last} of {param}, which has {}", decl.len);
            return Err((touch.stmt, message));
        }
        match decl.access {
            Access::Read if touch.write => return Err((touch.stmt, format!("{param} is only read"))),
            Access::Write if touch.read && touch.covered_at(all).is_none() => {
                let message =
                    format!("{param} is only written, and this may read what was not written before");
                return Err((touch.stmt, message));
            }
            _ => {}
        }
    }
    for number in 0..kernel.params.len() as u32 {
        let of_param: Vec<&Touch<'a>> = all.iter().filter(|touch| touch.param == Param(number)).collect();
        let Some(written) = of_param.iter().find(|touch| touch.write) else { continue };
        if kernel.items > 1 && !items_are_apart(kernel.items, &of_param) {
            let message = format!("items are not proven to touch different elements of p{number}");
            return Err((written.stmt, message));
        }
    }
    Ok(())
}

/// What each parameter gets, with the proof that sums stay in the declared ranges.
fn sums<'a>(kernel: &Kernel, ranges: &Ranges<'_>, all: &[Touch<'a>]) -> Result<Vec<Writes>, Fault<'a>> {
    let mut writes = vec![Writes::default(); kernel.params.len()];
    let mut local = vec![(0i128, 0i128); kernel.params.len()];
    for touch in all.iter().filter(|touch| touch.write) {
        let param = touch.param.0 as usize;
        let value = match touch.stmt {
            Stmt::Contract(c) => contract_sum(kernel, c).map_err(|message| (touch.stmt, message))?,
            Stmt::Store(_, value)
            | Stmt::Acc64(_, value)
            | Stmt::MaxInto(_, value)
            | Stmt::MinInto(_, value) => ranges.of(*value),
            _ => continue,
        };
        if !touch.accumulates() {
            let known = &mut writes[param].values;
            *known = Some(known.map_or(value, |known| hull(known, value)));
            continue;
        }
        let covered = touch.covered_at(all);
        let hits = touch.hits(covered);
        let sum =
            if covered.is_some() { &mut local[param] } else { writes[param].growth.get_or_insert((0, 0)) };
        let bound = |end: i64| hits.saturating_mul(end as i128);
        *sum = (sum.0.saturating_add(bound(value.lo.min(0))), sum.1.saturating_add(bound(value.hi.max(0))));
    }
    for (param, (lo, hi)) in local.into_iter().enumerate() {
        let Some(values) = writes[param].values else { continue };
        let (lo, hi) = (lo.saturating_add(values.lo as i128), hi.saturating_add(values.hi as i128));
        let (decl, of_param) = (&kernel.params[param], |touch: &&Touch<'a>| touch.param.0 as usize == param);
        if decl.dtype == DType::Dyadic {
            continue;
        }
        let last =
            all.iter().filter(of_param).rfind(|touch| touch.write).map_or(all[0].stmt, |touch| touch.stmt);
        let what = format!("the declared range of p{param}, with all that is added,");
        writes[param].values = Some(fit(lo, hi, decl.range, what).map_err(|message| (last, message))?);
    }
    Ok(writes)
}

/// Whether two parameters have the same accesses, so that they may be one buffer.
fn elementwise(kernel: &Kernel, a: usize, b: usize) -> bool {
    let all = touches(kernel);
    let places = |param: usize| -> Vec<_> {
        let of_param = all.iter().filter(|touch| touch.param == Param(param as u32));
        of_param.map(|touch| (touch.offset, &touch.terms, touch.width)).collect()
    };
    let (a, b) = (places(a), places(b));
    a.iter().all(|place| b.contains(place)) && b.iter().all(|place| a.contains(place))
}

/// Checks a program.
pub fn program(program: &Program) -> Result<(), Violation> {
    calls(program, &kernels(program)?)
}

/// Checks the kernels of a program.
pub fn kernels(program: &Program) -> Result<Vec<Facts>, Violation> {
    program.kernels.iter().map(kernel).collect()
}

/// Checks buffers and calls, with what is known of the kernels.
pub fn calls(program: &Program, facts: &[Facts]) -> Result<(), Violation> {
    let fault = |place: String, message: String| Violation { place, statement: String::new(), message };
    buffers(program).map_err(|(name, message)| fault(format!("buffer @{name}"), message))?;
    let mut written: Vec<bool> =
        program.buffers.iter().map(|buffer| !matches!(buffer.kind, Kind::Temp | Kind::Output)).collect();
    let mut contents = vec![Contents::default(); program.buffers.len()];
    for (number, call) in program.calls.iter().enumerate() {
        let place = |kernel: &str| format!("call {number} of {kernel}");
        let (Some(kernel), Some(facts)) = (program.kernels.get(call.kernel), facts.get(call.kernel)) else {
            return Err(fault(place("?"), format!("there is no kernel {}", call.kernel)));
        };
        signature(program, kernel, call, &mut written)
            .map_err(|message| fault(place(&kernel.name), message))?;
        for (id, writes) in call.args.iter().zip(&facts.writes) {
            contents[id.0 as usize].add(writes);
        }
    }
    for (buffer, contents) in program.buffers.iter().zip(&contents) {
        contents.check(buffer).map_err(|message| fault(format!("buffer @{}", buffer.name), message))?;
    }
    Ok(())
}

fn buffers(program: &Program) -> Result<(), (&str, String)> {
    let mut names = HashSet::new();
    for buffer in &program.buffers {
        let fault = |message: String| (buffer.name.as_str(), message);
        if !names.insert(&buffer.name) {
            return Err(fault("the name is taken twice".into()));
        }
        declared(buffer.dtype, buffer.len(), buffer.range).map_err(fault)?;
        if let Kind::Const(contents) = &buffer.kind {
            if contents.len() as u64 != buffer.len() {
                return Err(fault(format!("{} constants for {} elements", contents.len(), buffer.len())));
            }
            let outside = |element: &&i64| buffer.dtype != DType::Dyadic && !buffer.range.contains(**element);
            if let Some(outside) = contents.iter().find(outside) {
                return Err(fault(format!("the constant {outside} is outside {}", buffer.range)));
            }
        }
    }
    Ok(())
}

/// Checks the arguments of a call; notes what it writes.
fn signature(program: &Program, kernel: &Kernel, call: &Call, written: &mut [bool]) -> Result<(), String> {
    if call.args.len() != kernel.params.len() {
        return Err(format!("{} arguments for {} parameters", call.args.len(), kernel.params.len()));
    }
    for (number, (id, decl)) in call.args.iter().zip(&kernel.params).enumerate() {
        let buffer =
            program.buffers.get(id.0 as usize).ok_or_else(|| format!("there is no buffer {}", id.0))?;
        argument(buffer, decl, written[id.0 as usize])
            .map_err(|why| format!("@{} for p{number} ({decl}): {why}", buffer.name))?;
        for (other, _) in call.args[..number].iter().enumerate().filter(|(_, other)| *other == id) {
            let why = match [decl, &kernel.params[other]].map(|p| p.access == Access::Read) {
                [true, true] => continue,
                [false, false] => "which are both written",
                _ if elementwise(kernel, other, number) => continue,
                _ => "whose accesses are not the same",
            };
            return Err(format!("@{} is both p{other} and p{number}, {why}", buffer.name));
        }
    }
    for (id, decl) in call.args.iter().zip(&kernel.params) {
        written[id.0 as usize] |= decl.access != Access::Read;
    }
    Ok(())
}

fn argument(buffer: &Buffer, decl: &ParamDecl, written: bool) -> Result<(), String> {
    let (reads, writes) = (decl.access != Access::Write, decl.access != Access::Read);
    if (buffer.dtype, buffer.len()) != (decl.dtype, decl.len) {
        return Err(format!("it is {}[{}]", buffer.dtype, buffer.len()));
    }
    let ranged = decl.dtype != DType::Dyadic;
    if ranged && reads && !decl.range.includes(buffer.range) {
        return Err(format!("it may hold {}", buffer.range));
    }
    if ranged && writes && !buffer.range.includes(decl.range) {
        return Err(format!("it may only hold {}", buffer.range));
    }
    if writes && matches!(buffer.kind, Kind::Const(_)) {
        return Err("it is constant".into());
    }
    if reads && !written {
        return Err("no call before this one has written it".into());
    }
    Ok(())
}

/// Steps that a sum over steps must withstand.
const STEPS: i128 = 1 << 32;

/// What a step writes into a buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Contents {
    values: Option<Range>,
    growth: Option<(i128, i128)>,
}

impl Contents {
    fn add(&mut self, writes: &Writes) {
        if let Some(values) = writes.values {
            self.values = Some(self.values.map_or(values, |known| hull(known, values)));
        }
        if let Some((lo, hi)) = writes.growth {
            let (known_lo, known_hi) = self.growth.unwrap_or((0, 0));
            self.growth = Some((known_lo.saturating_add(lo), known_hi.saturating_add(hi)));
        }
    }

    /// A sum over calls starts from what the step stores; a sum over steps may run for 2^32 of them.
    fn check(&self, buffer: &Buffer) -> Result<(), String> {
        let Some((lo, hi)) = self.growth else { return Ok(()) };
        let (base, steps) = match self.values {
            Some(values) => (values, 1),
            None => (Range::new(0, 0), STEPS),
        };
        let bound = |end: i128, start: i64| end.saturating_mul(steps).saturating_add(start as i128);
        fit(bound(lo, base.lo), bound(hi, base.hi), buffer.range, "with all that is added to it, its range")
            .map(|_| ())
    }
}
