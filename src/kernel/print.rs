//! Prints kernel programs: buffers, kernels with indented loops, calls with buffer names.
//!
//! Prefixes: `@` buffers, `k` kernels, `p` parameters, `i` loop indices (`i0` is the item), `%` values.
//! One statement a line; verifier errors quote the same lines.

use super::*;
use std::fmt::{Display, Formatter, Result, Write};

/// Prints a whole program.
pub(super) fn program(program: &Program, f: &mut Formatter<'_>) -> Result {
    for buffer in &program.buffers {
        writeln!(f, "{buffer}")?;
    }
    for (number, kernel) in program.kernels.iter().enumerate() {
        write!(f, "\nk{number} = {kernel}")?;
    }
    if !program.calls.is_empty() {
        writeln!(f)?;
    }
    for call in &program.calls {
        let name = program.kernels.get(call.kernel).map_or("?", |kernel| &kernel.name);
        let args: Vec<String> = call.args.iter().map(|&id| buffer_name(program, id)).collect();
        writeln!(f, "call k{} {name}({})", call.kernel, args.join(", "))?;
    }
    Ok(())
}

fn buffer_name(program: &Program, id: BufferId) -> String {
    program
        .buffers
        .get(id.0 as usize)
        .map_or_else(|| format!("@?{}", id.0), |buffer| format!("@{}", buffer.name))
}

impl Display for Buffer {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let kind = match &self.kind {
            Kind::State => "state",
            Kind::Persistent => "persistent",
            Kind::Const(_) => "const",
            Kind::Input => "input",
            Kind::Output => "output",
            Kind::Temp => "temp",
        };
        let extents: Vec<String> = self.extents.iter().map(u32::to_string).collect();
        write!(f, "{kind} @{}: {}[{}] {}", self.name, self.dtype, extents.join(","), self.range)?;
        if let Kind::Const(contents) = &self.kind {
            let shown: Vec<String> = contents.iter().take(8).map(i64::to_string).collect();
            let more = if contents.len() > shown.len() { ", …" } else { "" };
            write!(f, " = [{}{more}]", shown.join(", "))?;
        }
        Ok(())
    }
}

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        writeln!(f, "kernel {} items {} {{", self.name, self.items)?;
        for (number, decl) in self.params.iter().enumerate() {
            writeln!(f, "  p{number}: {decl}")?;
        }
        body(&self.body, Some(self), 1, f)?;
        writeln!(f, "}}")
    }
}

impl Display for ParamDecl {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
            Access::ReadWrite => "read write",
        };
        write!(f, "{access} {}[{}] {}", self.dtype, self.len, self.range)
    }
}

fn body(stmts: &[Stmt], kernel: Option<&Kernel>, depth: usize, f: &mut Formatter<'_>) -> Result {
    let indent = "  ".repeat(depth);
    for stmt in stmts {
        write!(f, "{indent}")?;
        line(stmt, kernel, f)?;
        writeln!(f)?;
        if let Stmt::For { body: inner, .. } = stmt {
            body(inner, kernel, depth + 1, f)?;
            writeln!(f, "{indent}}}")?;
        }
    }
    Ok(())
}

/// A statement on one line (of a loop: its head), without the types of values.
pub fn stmt_text(stmt: &Stmt) -> String {
    let mut text = String::new();
    line(stmt, None, &mut text).expect("writing to a string does not fail");
    text
}

/// An expression on one line.
pub fn expr_text(expr: &Expr) -> String {
    expr.to_string()
}

fn line(stmt: &Stmt, kernel: Option<&Kernel>, f: &mut dyn Write) -> Result {
    match stmt {
        Stmt::For { index, count, .. } => write!(f, "for {index} in 0..{count} {{"),
        Stmt::Let(value, expr) => match kernel.and_then(|kernel| kernel.values.get(value.0 as usize)) {
            Some(ty) => write!(f, "{value}: {ty} = {expr}"),
            None => write!(f, "{value} = {expr}"),
        },
        Stmt::Store(address, value) => write!(f, "store {address}, {value}"),
        Stmt::Acc64(address, value) => write!(f, "acc64 {address}, {value}"),
        Stmt::MaxInto(address, value) => write!(f, "max_into {address}, {value}"),
        Stmt::MinInto(address, value) => write!(f, "min_into {address}, {value}"),
        Stmt::Contract(contract) => write!(f, "{contract}"),
    }
}

impl Display for Contract {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let dot = match self.dot {
            Dot::U8I8 => "u8i8",
            Dot::I8U8 => "i8u8",
            Dot::I16I16 => "i16i16",
        };
        write!(f, "contract {dot} {} = ", self.out)?;
        match &self.init {
            Init::Zero => write!(f, "0")?,
            Init::Accumulate => write!(f, "out")?,
            Init::PerVector(address, strides) => write!(f, "vector {address} strides {strides:?}")?,
            Init::PerPoint(address, strides) => write!(f, "point {address} strides {strides:?}")?,
        }
        write!(f, " + {} · {}", self.a, self.b)?;
        for (name, dims) in [("points", &self.points), ("vectors", &self.vectors), ("k", &self.k)] {
            let dims: Vec<String> =
                dims.iter().map(|dim| format!("{}: {}, {}", dim.n, dim.first, dim.second)).collect();
            write!(f, " {name} [{}]", dims.join("; "))?;
        }
        Ok(())
    }
}

impl Display for Expr {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Expr::Load(address) => write!(f, "load {address}"),
            Expr::LoadPairs(address) => write!(f, "load_pairs {address}"),
            Expr::LoadScalar(address) => write!(f, "load_scalar {address}"),
            Expr::LoadAt { param, index } => write!(f, "load_at {param}[clamp {index}]"),
            Expr::ConstLanes(_, lanes) if lanes.iter().all(|lane| *lane == lanes[0]) => {
                write!(f, "const splat {}", lanes[0])
            }
            Expr::ConstLanes(_, lanes) => write!(f, "const {lanes:?}"),
            Expr::ConstInt(value) => write!(f, "const {value}"),
            Expr::ConstDyadic(m, e) => write!(f, "const {m}·2^{e}"),
            Expr::IndexValue(index) => write!(f, "index {index}"),
            Expr::Splat(dtype, value) => write!(f, "splat {dtype} {value}"),
            Expr::SplatPair(a, b) => write!(f, "splat_pair {a}, {b}"),
            Expr::Widen(dtype, value) => write!(f, "widen {dtype} {value}"),
            Expr::NarrowSat(dtype, value) => write!(f, "narrow_sat {dtype} {value}"),
            Expr::Cast(dtype, value) => write!(f, "cast {dtype} {value}"),
            Expr::Pair(a, b) => write!(f, "pair {a}, {b}"),
            Expr::Dot2(a, b) => write!(f, "dot2 {a}, {b}"),
            Expr::Binary(op, a, b) => write!(f, "{op} {a}, {b}"),
            Expr::Unary(op, a) => write!(f, "{op} {a}"),
            Expr::Shift(shift, value, amount) => write!(f, "{shift} {value}, {amount}"),
            Expr::MulShift(a, b, amount) => write!(f, "mul_shift {a}, {b}, {amount}"),
            Expr::Compare(cond, a, b) => write!(f, "{cond} {a}, {b}"),
            Expr::Select(mask, a, b) => write!(f, "select {mask}, {a}, {b}"),
            Expr::Interleave { a, b, high } => {
                write!(f, "interleave_{} {a}, {b}", if *high { "high" } else { "low" })
            }
            Expr::Random { key, block: (terms, offset) } => {
                write!(f, "random {key}, block ")?;
                affine(terms, *offset, f)
            }
            Expr::HashKey { seed, step, tensor } => write!(f, "hash_key {seed}, {step}, {tensor}"),
            Expr::DiffOfProducts(a, b, c, d) => write!(f, "diff_of_products {a}·{b} - {c}·{d}"),
            Expr::ToDyadic(value) => write!(f, "to_dyadic {value}"),
            Expr::ToFixed(value, amount) => write!(f, "to_fixed {value}, {amount}"),
            Expr::Scale(value, by) => write!(f, "scale {value}, {by}"),
            Expr::Exponent(value) => write!(f, "exponent {value}"),
            Expr::BitLength(value) => write!(f, "bit_length {value}"),
        }
    }
}

fn affine(terms: &[(Index, i64)], offset: i64, f: &mut Formatter<'_>) -> Result {
    for (number, (index, stride)) in terms.iter().enumerate() {
        let plus = if number == 0 { "" } else { " + " };
        write!(f, "{plus}{index}*{stride}")?;
    }
    match offset {
        _ if terms.is_empty() => write!(f, "{offset}"),
        0 => Ok(()),
        _ => write!(f, " + {offset}"),
    }
}

impl Display for Address {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}[", self.param)?;
        affine(&self.terms, self.offset, f)?;
        write!(f, "]")
    }
}

impl Display for Range {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{}..={}", self.lo, self.hi)
    }
}

impl Display for Amount {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Amount::Imm(amount) => write!(f, "{amount}"),
            Amount::Value(value) => write!(f, "{value}"),
        }
    }
}

impl Display for Type {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Type::Lanes(dtype) => write!(f, "{dtype}x16"),
            Type::Pairs => f.write_str("pairs"),
            Type::Int => f.write_str("int"),
            Type::Dyadic => f.write_str("dyadic"),
        }
    }
}

/// `Display` by a number behind a prefix, and by a word for each variant.
macro_rules! words {
    ($($prefix:literal $id:ident),*; $($word:ident { $($variant:ident $text:literal),* })*) => {
        $(impl Display for $id {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        })*
        $(impl Display for $word {
            fn fmt(&self, f: &mut Formatter<'_>) -> Result {
                f.write_str(match self { $($word::$variant => $text),* })
            }
        })*
    };
}

words! {
    "%" Value, "i" Index, "p" Param;
    DType { I8 "i8", U8 "u8", I16 "i16", I32 "i32", I64 "i64", Dyadic "dyadic" }
    Binary {
        Add "add", Sub "sub", Mul "mul", Div "div", Min "min", Max "max", And "and", Or "or", Xor "xor"
    }
    Unary { Abs "abs", Sqrt "sqrt", Rsqrt "rsqrt", Log2 "log2", Exp2 "exp2" }
    Cond { Eq "eq", Lt "lt", Le "le" }
    Shift { Left "shl", Right "shr", RightRound "shr_round", RightLogical "shr_logical" }
}
