//! Expressions on 64-bit integers and dyadics: integers in registers, dyadics by calls into the runtime.

use super::body::{Body, flags};
use crate::kernel::{Address, Amount, Binary, Cond, DType, Expr, Param, Shift, Type, Unary, Value};
use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{self, InstBuilder, types};
use fqt_runtime::fixed::Dyadic;

impl Body<'_, '_, '_> {
    pub(super) fn scalar(&mut self, expr: &Expr, ty: Type) -> ir::Value {
        match expr {
            Expr::LoadScalar(address) => {
                let (pointer, offset) = self.address(address);
                self.load_scalar(address.param, pointer, offset)
            }
            Expr::LoadAt { param, index } => self.load_at(*param, *index),
            Expr::ConstInt(value) => self.b.ins().iconst(types::I64, *value),
            Expr::ConstDyadic(m, e) => {
                let packed = Dyadic::new(*m, *e).pack();
                self.b.ins().iconst(types::I64, packed as i64)
            }
            Expr::IndexValue(index) => self.counter(*index),
            Expr::Binary(op, a, b) => self.scalar_binary(*op, *a, *b, ty),
            Expr::Unary(op, a) => self.scalar_unary(*op, *a, ty),
            Expr::Shift(shift, a, amount) => self.scalar_shift(*shift, *a, *amount),
            Expr::Compare(cond, a, b) => self.scalar_compare(*cond, *a, *b),
            Expr::Select(condition, a, b) => {
                let [condition, a, b] = [*condition, *a, *b].map(|v| self.scalar_value(v));
                self.b.ins().select(condition, a, b)
            }
            Expr::HashKey { seed, step, tensor } => self.call("fqt_hash_key", &[*seed, *step, *tensor]),
            Expr::DiffOfProducts(a, b, c, d) => self.call("fqt_diff_of_products", &[*a, *b, *c, *d]),
            Expr::ToDyadic(a) => self.call("fqt_dyadic_from_int", &[*a]),
            Expr::ToFixed(a, amount) => {
                let k = self.amount(*amount);
                let x = self.scalar_value(*a);
                self.runtime("fqt_dyadic_to_fixed", &[x, k])
            }
            Expr::Scale(a, by) => self.call("fqt_dyadic_scale", &[*a, *by]),
            Expr::Exponent(a) => self.call("fqt_dyadic_exponent", &[*a]),
            Expr::BitLength(a) => self.bit_length(*a),
            _ => unreachable!("not a scalar expression"),
        }
    }

    fn call(&mut self, name: &'static str, args: &[Value]) -> ir::Value {
        let args: Vec<_> = args.iter().map(|&v| self.scalar_value(v)).collect();
        self.runtime(name, &args)
    }

    fn load_scalar(&mut self, param: Param, pointer: ir::Value, offset: i32) -> ir::Value {
        let flags = self.load_flags(param);
        let ins = self.b.ins();
        match self.kernel.params[param.0 as usize].dtype {
            DType::I8 => ins.sload8(types::I64, flags, pointer, offset),
            DType::U8 => ins.uload8(types::I64, flags, pointer, offset),
            DType::I16 => ins.sload16(types::I64, flags, pointer, offset),
            DType::I32 => ins.sload32(flags, pointer, offset),
            DType::I64 | DType::Dyadic => ins.load(types::I64, flags, pointer, offset),
        }
    }

    fn load_at(&mut self, param: Param, index: Value) -> ir::Value {
        let decl = &self.kernel.params[param.0 as usize];
        let (len, bytes) = (decl.len as i64, decl.dtype.bytes() as i64);
        let index = self.scalar_value(index);
        let zero = self.b.ins().iconst(types::I64, 0);
        let end = self.b.ins().iconst(types::I64, len - 1);
        let index = self.b.ins().smax(index, zero);
        let index = self.b.ins().smin(index, end);
        let base = self.pointer(&Address { param, terms: vec![], offset: 0 });
        let offset = self.b.ins().imul_imm_s(index, bytes);
        let pointer = self.b.ins().iadd(base, offset);
        self.load_scalar(param, pointer, 0)
    }

    pub(super) fn store_scalar(&mut self, address: &Address, value: Value) {
        let (pointer, offset) = self.address(address);
        let x = self.scalar_value(value);
        let ins = self.b.ins();
        match self.kernel.params[address.param.0 as usize].dtype {
            DType::I8 | DType::U8 => ins.istore8(flags(), x, pointer, offset),
            DType::I16 => ins.istore16(flags(), x, pointer, offset),
            DType::I32 => ins.istore32(flags(), x, pointer, offset),
            DType::I64 | DType::Dyadic => ins.store(flags(), x, pointer, offset),
        };
    }

    fn scalar_binary(&mut self, op: Binary, a: Value, b: Value, ty: Type) -> ir::Value {
        if ty == Type::Dyadic {
            let name = match op {
                Binary::Add => "fqt_dyadic_add",
                Binary::Sub => "fqt_dyadic_sub",
                Binary::Mul => "fqt_dyadic_mul",
                Binary::Div => "fqt_dyadic_div",
                Binary::Min => "fqt_dyadic_min",
                Binary::Max => "fqt_dyadic_max",
                Binary::And | Binary::Or | Binary::Xor => unreachable!("dyadics have no bits"),
            };
            return self.call(name, &[a, b]);
        }
        if op == Binary::Div {
            return self.call("fqt_div_round", &[a, b]);
        }
        let (x, y) = (self.scalar_value(a), self.scalar_value(b));
        let ins = self.b.ins();
        match op {
            Binary::Add => ins.iadd(x, y),
            Binary::Sub => ins.isub(x, y),
            Binary::Mul => ins.imul(x, y),
            Binary::Min => ins.smin(x, y),
            Binary::Max => ins.smax(x, y),
            Binary::And => ins.band(x, y),
            Binary::Or => ins.bor(x, y),
            Binary::Xor => ins.bxor(x, y),
            Binary::Div => unreachable!("called above"),
        }
    }

    fn scalar_unary(&mut self, op: Unary, a: Value, ty: Type) -> ir::Value {
        let name = match op {
            Unary::Abs if ty == Type::Int => {
                let x = self.scalar_value(a);
                return self.b.ins().iabs(x);
            }
            Unary::Abs => "fqt_dyadic_abs",
            Unary::Sqrt => "fqt_dyadic_sqrt",
            Unary::Rsqrt => "fqt_dyadic_rsqrt",
            Unary::Log2 => "fqt_dyadic_log2",
            Unary::Exp2 => "fqt_dyadic_exp2",
        };
        self.call(name, &[a])
    }

    fn scalar_shift(&mut self, shift: Shift, a: Value, amount: Amount) -> ir::Value {
        let x = self.scalar_value(a);
        let k = self.amount(amount);
        match shift {
            Shift::Left => self.b.ins().ishl(x, k),
            Shift::Right => self.b.ins().sshr(x, k),
            Shift::RightRound => self.scalar_round(x, k),
            Shift::RightLogical => unreachable!("the logical shift is for lanes"),
        }
    }

    /// `x >> k` to nearest, ties away from zero, by the magnitude: as an unsigned number it has room for the half.
    fn scalar_round(&mut self, x: ir::Value, k: ir::Value) -> ir::Value {
        let b = &mut self.b;
        let one = b.ins().iconst(types::I64, 1);
        let power = b.ins().ishl(one, k);
        let half = b.ins().ushr_imm_u(power, 1);
        let magnitude = b.ins().iabs(x);
        let sum = b.ins().iadd(magnitude, half);
        let quotient = b.ins().ushr(sum, k);
        let sign = b.ins().sshr_imm_u(x, 63);
        let flipped = b.ins().bxor(quotient, sign);
        b.ins().isub(flipped, sign)
    }

    fn scalar_compare(&mut self, cond: Cond, a: Value, b: Value) -> ir::Value {
        if self.type_of(a) == Type::Dyadic {
            let name = match cond {
                Cond::Eq => "fqt_dyadic_eq",
                Cond::Lt => "fqt_dyadic_lt",
                Cond::Le => "fqt_dyadic_le",
            };
            return self.call(name, &[a, b]);
        }
        let cc = match cond {
            Cond::Eq => IntCC::Equal,
            Cond::Lt => IntCC::SignedLessThan,
            Cond::Le => IntCC::SignedLessThanOrEqual,
        };
        let (x, y) = (self.scalar_value(a), self.scalar_value(b));
        let bit = self.b.ins().icmp(cc, x, y);
        self.b.ins().uextend(types::I64, bit)
    }

    fn bit_length(&mut self, a: Value) -> ir::Value {
        let x = self.scalar_value(a);
        let magnitude = self.b.ins().iabs(x);
        let zeros = self.b.ins().clz(magnitude);
        let bits = self.b.ins().iconst(types::I64, 64);
        self.b.ins().isub(bits, zeros)
    }
}
