//! Emitted lane code against the interpreter, bit for bit, on every target that runs here, and which vectors it uses.

use fqtc::kernel::build::KernelBuilder;
use fqtc::kernel::*;

use crate::codegen::{I8, I16, I32, U8, WIDE, check, check_on, filled, leaves, program_of};
use crate::support::{random_kernels, runs};

/// A kernel of two items with eight blocks each; `body` maps what it loads from the inputs (128 elements an item) to
/// what is stored, a parameter each.
pub(crate) fn map_kernel(
    name: &str,
    inputs: &[(DType, Range)],
    body: impl Fn(&mut KernelBuilder, &[Value]) -> Vec<Value>,
) -> Kernel {
    map_kernel_with(name, &[], inputs, body)
}

/// The same with numbers that are loaded in front of the loop, two elements each, and follow the blocks.
fn map_kernel_with(
    name: &str,
    scalars: &[(DType, Range)],
    inputs: &[(DType, Range)],
    body: impl Fn(&mut KernelBuilder, &[Value]) -> Vec<Value>,
) -> Kernel {
    let mut kb = KernelBuilder::new(name, 2);
    let params = |kb: &mut KernelBuilder, all: &[(DType, Range)], len| -> Vec<Param> {
        all.iter().map(|&(dtype, range)| kb.param(dtype, len, range, Access::Read)).collect()
    };
    let inputs = params(&mut kb, inputs, 256);
    let scalars = params(&mut kb, scalars, 2);
    let item = kb.item();
    let scalars: Vec<Value> = scalars.iter().map(|p| kb.load_scalar(p.at(0).plus(item, 1))).collect();
    kb.for_(8, |kb, i| {
        let blocks = inputs.iter().map(|p| kb.load(p.at(0).plus(item, 128).plus(i, 16)));
        let loaded: Vec<Value> = blocks.collect::<Vec<_>>().into_iter().chain(scalars.clone()).collect();
        for result in body(kb, &loaded) {
            let (dtype, width) = match kb.type_of(result) {
                Type::Lanes(dtype) => (dtype, 16),
                Type::Pairs => (DType::I16, 32),
                Type::Int => (DType::I64, 1),
                Type::Dyadic => (DType::Dyadic, 1),
            };
            let out = kb.param(dtype, 16 * width as u64, dtype.range(), Access::Write);
            kb.store(out.at(0).plus(item, 8 * width).plus(i, width), result);
        }
    });
    kb.finish()
}

#[test]
fn lanes_widen_narrow_and_reinterpret() {
    use DType::{I8 as B, I16 as H, I32 as W, U8 as U};
    let inputs = [(B, I8), (U, U8), (H, I16), (W, I32)];
    let kernel = map_kernel("conversions", &inputs, |kb, v| {
        let [b, u, h, w] = [v[0], v[1], v[2], v[3]];
        let mut out = vec![];
        for (to, x) in [(H, b), (W, b), (H, u), (W, u), (W, h)] {
            out.push(kb.widen(to, x));
        }
        for (to, x) in [(B, h), (U, h), (H, w), (B, w), (U, w)] {
            out.push(kb.narrow(to, x));
        }
        out.extend([kb.cast(U, b), kb.cast(B, u), kb.interleave(b, b, false), kb.interleave(u, u, true)]);
        let doubled = kb.xor(h, h);
        out.extend([kb.pair(h, doubled), h, w]);
        out
    });
    check(kernel, 0..8);
}

#[test]
fn loads_that_only_widen_equal_loads_that_do_more() {
    use DType::{I8 as B, I16 as H, I32 as W, U8 as U};
    for (from, range, to) in [(B, I8, H), (B, I8, W), (U, U8, H), (U, U8, W), (H, I16, W)] {
        let kernel = map_kernel("widening", &[(from, range)], |kb, v| vec![kb.widen(to, v[0])]);
        check(kernel, 0..4);
    }
}

#[test]
fn lane_arithmetic() {
    use DType::{I8 as B, I16 as H, I32 as W, U8 as U};
    let (h, w) = (Range::new(-150, 181), Range::new(-30_000, 46_340));
    for (dtype, range) in [(H, h), (W, w)] {
        let kernel = map_kernel("arithmetic", &[(dtype, range); 2], |kb, v| {
            let (x, y) = (v[0], v[1]);
            vec![kb.add(x, y), kb.sub(x, y), kb.mul(x, y), kb.abs(x)]
        });
        check(kernel, 0..4);
    }
    for (dtype, range) in [(B, I8), (U, U8), (H, I16), (W, I32)] {
        let kernel = map_kernel("bits", &[(dtype, range); 2], |kb, v| {
            let (x, y) = (v[0], v[1]);
            let mut out = vec![kb.min(x, y), kb.max(x, y), kb.and(x, y), kb.or(x, y), kb.xor(x, y)];
            for mask in [kb.eq(x, y), kb.lt(x, y), kb.le(x, y)] {
                out.extend([mask, kb.select(mask, x, y)]);
            }
            out
        });
        check(kernel, 0..4);
    }
    let kernel = map_kernel("abs", &[(B, Range::new(-127, 127))], |kb, v| vec![kb.abs(v[0])]);
    check(kernel, 0..2);
}

/// Masks that meet lanes of other widths, and each other.
#[test]
fn masks() {
    use DType::{I8 as B, I16 as H, I32 as W, U8 as U};
    let flags = Range::new(-1, 0);
    let kernel = map_kernel(
        "masks",
        &[(B, I8), (U, U8), (H, I16), (W, I32), (B, flags), (H, flags), (W, flags)],
        |kb, v| {
            let [b, u, h, w] = [v[0], v[1], v[2], v[3]];
            let (zero, bytes) = (kb.splat_const(H, 0), kb.cast(B, u));
            let (signed, unsigned, words) = (kb.lt(b, bytes), kb.le(u, u), kb.lt(zero, h));
            let wide = kb.widen(W, words);
            let (from_bytes, from_doubles) = (kb.widen(H, signed), kb.narrow(H, wide));
            let mut out = vec![kb.select(wide, w, wide), kb.select(from_bytes, h, zero)];
            let (both, one) = (kb.and(words, from_bytes), kb.xor(from_doubles, from_bytes));
            let few = kb.narrow(B, one);
            out.extend([both, kb.and(one, h), kb.select(few, b, bytes), kb.or(signed, unsigned), few]);
            let narrower = kb.lt(h, zero);
            out.extend([kb.and(words, narrower), kb.and(signed, b)]);
            let wider = kb.lt(w, wide);
            out.extend([
                kb.and(wider, w),
                kb.select(v[4], bytes, signed),
                kb.select(v[5], zero, h),
                kb.select(v[6], wide, w),
            ]);
            out
        },
    );
    check(kernel, 0..8);
}

/// True is −1, for which bytes without a sign have no code but 0.
#[test]
fn masks_as_bytes_without_a_sign() {
    let kernel = map_kernel("bytes", &[(DType::I16, I16), (DType::I32, I32)], |kb, v| {
        let (zero, none) = (kb.splat_const(DType::I16, 0), kb.splat_const(DType::I32, 0));
        let (words, doubles) = (kb.lt(zero, v[0]), kb.lt(none, v[1]));
        vec![kb.narrow(DType::U8, words), kb.narrow(DType::U8, doubles)]
    });
    check(kernel, 0..4);
}

#[test]
fn products_of_pairs() {
    use DType::I16 as H;
    let range = Range::new(-32767, 32767);
    let kernel = map_kernel("pairs", &[(H, range); 2], |kb, v| {
        let (three, four) = (kb.int(-3), kb.int(32767));
        let splat = kb.splat_pair(three, four);
        let pairs = kb.pair(v[0], v[1]);
        let memory = kb.param(H, 64, range, Access::Read);
        let item = kb.item();
        let loaded = kb.load_pairs(memory.at(0).plus(item, 32));
        vec![kb.dot2(pairs, splat), kb.dot2(pairs, loaded), kb.dot2(pairs, pairs), pairs]
    });
    check(kernel, 0..6);
}

/// Shift amounts that are constants, and Ints from memory in the same range.
#[test]
fn lane_shifts() {
    use DType::{I16 as H, I32 as W};
    for (dtype, amounts, small) in
        [(H, [0, 1, 7, 15], Range::new(-100, 127)), (W, [0, 1, 16, 31], Range::new(-30_000, 32_767))]
    {
        let all = dtype.range();
        for k in amounts {
            let kernel = map_kernel("constant shifts", &[(dtype, all), (dtype, small)], |kb, v| {
                let mut out = vec![kb.shift_right(v[0], k), kb.shift_right_logical(v[0], k)];
                if k < amounts[3] {
                    out.push(kb.shift_right_round(v[1], k));
                }
                if k <= amounts[2] {
                    let few = kb.shift_right(v[1], amounts[2]);
                    out.push(kb.shift_left(few, k));
                }
                out
            });
            check(kernel, 0..2);
        }
        for (lo, hi) in [(0, amounts[3] as i64), (1, amounts[3] as i64), (0, 3)] {
            let amounts = [Range::new(lo, hi), Range::new(lo, hi.min(6))].map(|range| (DType::I8, range));
            let kernel =
                map_kernel_with("variable shifts", &amounts, &[(dtype, all), (dtype, small)], |kb, v| {
                    let (k, few) = (v[2], v[3]);
                    vec![
                        kb.shift_right(v[0], k),
                        kb.shift_right_logical(v[0], k),
                        kb.shift_right_round(v[1], few),
                        kb.shift_left(v[1], few),
                    ]
                });
            check(kernel, 0..12);
        }
    }
}

#[test]
fn rounded_products_of_32_bits() {
    let kernel = map_kernel("mul_shift", &[(DType::I32, I32); 2], |kb, v| {
        let item = kb.item();
        let k = kb.param(DType::I8, 2, Range::new(32, 62), Access::Read);
        let k = kb.load_scalar(k.at(0).plus(item, 1));
        let narrow = kb.shift_right(v[0], 17);
        vec![kb.mul_shift(v[0], v[1], 62), kb.mul_shift(v[0], v[1], k), kb.mul_shift(narrow, narrow, 0)]
    });
    check(kernel, 0..8);
}

/// Sums, maxima and minima over two nested loops; the ranges make the emitter use each of its forms.
#[test]
fn folds_into_memory() {
    use DType::{I16 as H, I32 as W};
    let sums = Range::new(-(1 << 60), 1 << 60);
    for (dtype, range) in [
        (H, I16),
        (H, Range::new(0, 9)),
        (W, I32),
        (W, Range::new(0, 1 << 30)),
        (W, Range::new(-100_000, 100_000)),
        (W, Range::new(-(1 << 20), 1 << 22)),
    ] {
        // Counts of turns keep a loop from being one on lanes alone.
        for (outer, inner, counts) in
            [(1, 7, true), (3, 5, true), (3, 5, false), (40, 9, true), (40, 9, false), (2, 1, true)]
        {
            let mut kb = KernelBuilder::new("folds", 2);
            let x = kb.param(dtype, 2 * 2 * 32 * (outer * inner) as u64, range, Access::Read);
            let sum = kb.param(DType::I64, 2 * 32, sums, Access::ReadWrite);
            let moving = kb.param(DType::I64, 2 * 16 * outer as u64, sums, Access::ReadWrite);
            let top = kb.param(dtype, 2 * 16, range, Access::ReadWrite);
            let bottom = kb.param(dtype, 2 * 16, range, Access::ReadWrite);
            let count = kb.param(DType::I64, 2 * 2, sums, Access::ReadWrite);
            let item = kb.item();
            kb.for_(outer, |kb, i| {
                kb.for_(inner, |kb, j| {
                    let at = x.at(0).plus(item, 64 * (outer * inner) as i64).plus(i, 32 * inner as i64);
                    let (a, b) = (kb.load(at.clone().plus(j, 32)), kb.load(at.plus(j, 32).offset(16)));
                    kb.acc64(sum.at(0).plus(item, 32), a);
                    kb.acc64(sum.at(16).plus(item, 32), b);
                    kb.acc64(moving.at(0).plus(item, 16 * outer as i64).plus(i, 16), a);
                    kb.max_into(top.at(0).plus(item, 16), a);
                    kb.min_into(bottom.at(0).plus(item, 16), b);
                    if counts {
                        let turn = kb.index(j);
                        kb.acc64(count.at(0).plus(item, 2), turn);
                        kb.max_into(count.at(0).plus(item, 2).offset(1), turn);
                    }
                });
            });
            let mut kernel = kb.finish();
            // Sums and maxima of counts need parameters of their own to be held in registers; both must be right.
            kernel.name = format!("folds {dtype} {range} {outer} {inner} {counts}");
            let program = program_of(kernel);
            let start = filled(&program, 5);
            let mut quiet = start.clone();
            for id in [1, 2, 5] {
                let zeros = vec![0; program.buffers[id].len() as usize];
                quiet.write(&program, BufferId(id as u32), &zeros);
            }
            verify::kernel(&program.kernels[0]).unwrap_or_else(|violation| panic!("{violation}\n{program}"));
            check_on(&program, &program.kernels[0].name, &quiet);
        }
    }
}

#[test]
fn loops_over_lanes_use_the_widest_vectors() {
    let program = &runs::compiled("resnet8.fqt", "").programs[0];
    for (target, register) in WIDE {
        let quantizers = program.kernels.iter().filter(|kernel| kernel.name == "quantize");
        let mut seen = 0;
        for kernel in quantizers {
            let program = program_of(kernel.clone());
            let wide = leaves(&program, target, "lanes_");
            assert!(!wide.is_empty() && wide.iter().all(|asm| asm.contains(register)), "no leaf\n{program}");
            seen += 1;
        }
        assert!(seen >= 7, "{target}: {seen} quantizers of activations");
    }
}

/// Half of the random kernels begin with a loop on lanes alone, and almost every one of these is a leaf.
#[test]
fn random_programs_have_loops_over_lanes() {
    for (target, register) in WIDE {
        let programs = (0..30).map(|seed| random_kernels::case(seed).program);
        let wide = programs.flat_map(|program| leaves(&program, target, "lanes_"));
        let wide = wide.filter(|asm| asm.contains(register)).count();
        assert!(wide >= 12, "{target}: {wide} leaves");
    }
}

/// Blocks `stride` apart through everything that an encoding is made of: a loop whose two blocks may share vectors.
fn encoding(stride: i64, in_place: bool, turns: u32) -> Kernel {
    use DType::{I8 as B, I16 as H, I32 as W, I64, U8 as U};
    let mut kb = KernelBuilder::new(format!("encoding {stride} {in_place} {turns}"), 2);
    let len = 2 * stride as u64 * turns as u64;
    let access = if in_place { Access::ReadWrite } else { Access::Read };
    let x = kb.param(H, len, Range::new(-32767, 32767), access);
    let u = kb.param(U, len, U8, Access::Read);
    let s = kb.param(B, len, I8, Access::Read);
    let offset = kb.param(W, 16, Range::new(-(1 << 30), 1 << 30), Access::Read);
    let factors = kb.param(H, 48, Range::new(-16384, 16384), Access::Read);
    let bias = kb.param(H, 16, Range::new(-3, 9), Access::Read);
    let amount = kb.param(I64, 1, Range::new(0, 31), Access::Read);
    let top = kb.param(H, 32, I16, Access::ReadWrite);
    let low = kb.param(H, 32, I16, Access::ReadWrite);
    let item = kb.item();
    let (wide, codes, signed) = [H, U, B].map(|d| kb.param(d, len, d.range(), Access::Write)).into();
    let wide = if in_place { x } else { wide };
    let amount = kb.load_scalar(amount.at(0));
    let key = kb.int(0x1234_5678_9ABC_DEF0);
    kb.for_(turns, |kb, i| {
        let at = |p: Param| p.at(0).plus(item, stride * turns as i64).plus(i, stride);
        let (a, b, c) = (kb.load(at(x)), kb.load(at(u)), kb.load(at(s)));
        let (b, c) = (kb.widen(H, b), kb.widen(H, c));
        let (pair, factors) = (kb.pair(a, b), kb.load_pairs(factors.at(0)));
        let (dot, offset) = (kb.dot2(pair, factors), kb.load(offset.at(0)));
        let sum = kb.add(offset, dot);
        let shifted = kb.shift_right(sum, amount);
        let narrow = kb.narrow(H, shifted);
        kb.max_into(top.at(0).plus(item, 16), narrow);
        kb.min_into(low.at(0).plus(item, 16), narrow);
        let clamped = kb.clamp(narrow, -28672, 28672);
        let random = kb.random(key, &[(item, 999), (i, 3)], 5);
        let (mask, bias) = (kb.splat_const(H, 4095), kb.load(bias.at(0)));
        let bits = kb.and(random, mask);
        let code = kb.add(clamped, bits);
        let code = kb.shift_right(code, 12);
        let code = kb.add(code, bias);
        let (code, bits) = (kb.mul(code, c), kb.shift_right_logical(b, 3));
        let bits = kb.shift_left(bits, 2);
        let code = kb.sub(code, bits);
        kb.store(at(wide), code);
        let (unsigned, code) = (kb.narrow(U, code), kb.narrow(B, code));
        kb.store(at(codes), unsigned);
        kb.store(at(signed), code);
    });
    kb.finish()
}

#[test]
fn blocks_that_share_vectors() {
    for (stride, in_place, turns) in [(16, false, 6), (16, true, 32), (48, false, 8), (64, true, 6)] {
        check(encoding(stride, in_place, turns), 0..4);
    }
    let program = program_of(encoding(16, true, 32));
    for (target, register) in WIDE {
        let asm = &leaves(&program, target, "lanes_")[0];
        assert!(asm.contains(&format!("vpackssdw {register}")), "{asm}");
    }
}

/// Four blocks of bytes, transposed, and in other orders.
#[test]
fn shuffles_of_bytes() {
    for (swapped, apart, instruction) in
        [(false, 16, "vpshufb"), (true, 16, "vpunpck"), (false, 32, "vpunpck")]
    {
        let mut kb = KernelBuilder::new("shuffle", 2);
        let len = 2 * 8 * 4 * apart as u64;
        let from = kb.param(DType::I8, len, I8, Access::Read);
        let to = kb.param(DType::I8, len, I8, Access::Write);
        let item = kb.item();
        kb.for_(8, |kb, i| {
            let place = |p: Param, n: i64| p.at(n * apart).plus(item, 32 * apart).plus(i, 4 * apart);
            let [a, b, c, d] = [0, 1, 2, 3].map(|n| kb.load(place(from, n)));
            let (a, b) = if swapped { (b, a) } else { (a, b) };
            let pairs = [(a, c, false), (a, c, true), (b, d, false), (b, d, true)];
            let [e, f, g, h] = pairs.map(|(a, b, high)| kb.interleave(a, b, high));
            let pairs = [(e, g, false), (e, g, true), (f, h, false), (f, h, true)];
            for (n, (a, b, high)) in (0..).zip(pairs) {
                let mixed = kb.interleave(a, b, high);
                let mixed = if swapped { kb.max(mixed, a) } else { mixed };
                kb.store(place(to, n), mixed);
            }
        });
        let kernel = kb.finish();
        let asm = &leaves(&program_of(kernel.clone()), "x86_64_avx512_vnni_zmm", "lanes_")[0];
        assert!(asm.contains(instruction), "{asm}");
        check(kernel, 0..2);
    }
}
