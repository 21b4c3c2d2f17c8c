//! Emitted code against the interpreter, bit for bit, on every target that runs here; and what the code is made of. Lanes
//! are in `lanes.rs`.

use fqtc::codegen::audit::{Count, audit};
use fqtc::codegen::jit::{JitStep, listing};
use fqtc::kernel::build::{KernelBuilder, ProgramBuilder};
use fqtc::kernel::interp::{self, Memory};
use fqtc::kernel::*;
use fqtc::targets::{self, Target};

use crate::lanes::map_kernel;
use crate::support::random_kernels;

pub(crate) const I8: Range = Range::new(-128, 127);
pub(crate) const U8: Range = Range::new(0, 255);
pub(crate) const I16: Range = Range::new(-32768, 32767);
pub(crate) const I32: Range = Range::new(i32::MIN as i64, i32::MAX as i64);
const I64: Range = Range::new(i64::MIN, i64::MAX);

/// A program that calls the kernel once, on a buffer for each parameter.
pub(crate) fn program_of(kernel: Kernel) -> Program {
    let mut program = ProgramBuilder::new();
    let mut args = vec![];
    for (number, decl) in kernel.params.iter().enumerate() {
        args.push(program.buffer(Buffer {
            name: format!("b{number}"),
            dtype: decl.dtype,
            extents: vec![decl.len as u32],
            range: decl.range,
            kind: if decl.access == Access::Read { Kind::Input } else { Kind::Persistent },
        }));
    }
    program.call(kernel, args);
    program.finish()
}

/// Buffers filled with numbers of their ranges, often the ends.
pub(crate) fn filled(program: &Program, seed: u64) -> Memory {
    let mut memory = Memory::new(program);
    let mut state = seed;
    for (number, buffer) in program.buffers.iter().enumerate() {
        let Range { lo, hi } = buffer.range;
        let mut element = || {
            state += 1;
            let bits = fqt_runtime::random::mix64(state);
            let span = (hi as i128 - lo as i128 + 1) as u128;
            match bits >> 60 {
                0 => lo,
                1 => hi,
                2 | 3 => 0.clamp(lo, hi),
                4..8 => ((bits as i64) >> (bits >> 8 & 63)).clamp(lo, hi),
                _ => (lo as i128 + (bits as u128 % span) as i128) as i64,
            }
        };
        let mut elements: Vec<i64> = (0..buffer.len()).map(|_| element()).collect();
        if buffer.dtype == DType::Dyadic {
            let dyadic = |x: &mut i64| {
                *x = fqt_runtime::fixed::Dyadic::new(*x as i32, (*x >> 40) as i32 % 40).pack() as i64;
            };
            elements.iter_mut().for_each(dyadic);
        }
        memory.write(program, BufferId(number as u32), &elements);
    }
    memory
}

fn run(program: &Program, step: &JitStep, memory: &mut Memory) {
    for call in &program.calls {
        let args: Vec<u32> = call.args.iter().map(|id| memory.offsets[id.0 as usize]).collect();
        let items = program.kernels[call.kernel].items;
        // In two parts, as threads would.
        for part in [0..items / 2, items / 2..items] {
            step.run_kernel(call.kernel, &mut memory.arena, &args, part).unwrap();
        }
    }
}

fn targets_here() -> impl Iterator<Item = &'static Target> {
    targets::ALL.iter().copied().filter(|t| (t.runs_here)())
}

/// Interpreter and code of every target that runs here agree, and the code holds no float.
pub(crate) fn check_on(program: &Program, what: &str, start: &Memory) {
    let mut expected = start.clone();
    interp::run(program, &mut expected).unwrap_or_else(|trap| panic!("{what}: {trap}\n{program}"));
    for target in targets_here() {
        let step = JitStep::new(program, target).unwrap_or_else(|e| panic!("{what}, {}: {e}", target.name));
        let mut memory = start.clone();
        run(program, &step, &mut memory);
        for (number, buffer) in program.buffers.iter().enumerate() {
            let id = BufferId(number as u32);
            let (got, want) = (memory.read(program, id), expected.read(program, id));
            if let Some(at) = (0..got.len()).find(|&i| got[i] != want[i]) {
                panic!(
                    "{what}, {}: @{}[{at}] is {}, not {}\n{program}",
                    target.name, buffer.name, got[at], want[at]
                );
            }
        }
        assert_eq!(memory, expected, "{what}, {}: bytes between buffers", target.name);
        if target.is_x86() {
            let mut count = Count::default();
            step.emitted().iter().for_each(|f| count.add(audit(f).unwrap()));
            assert!(count.instructions > 0 && count.float.is_empty(), "{what}: {:?}", count.float);
        }
    }
}

pub(crate) fn check(kernel: Kernel, seeds: std::ops::Range<u64>) {
    let what = kernel.name.clone();
    let program = program_of(kernel);
    verify::program(&program).unwrap_or_else(|violation| panic!("{violation}\n{program}"));
    for seed in seeds {
        check_on(&program, &format!("{what} {seed}"), &filled(&program, seed << 32));
    }
    for target in targets::ALL {
        for function in listing(&program, target).unwrap() {
            let texts = function.listing.unwrap();
            // Leaves in wide vectors are not made by Cranelift.
            let foreign = target.wide.is_some() && !function.name.starts_with("kernel_");
            assert!(foreign == texts.clif.is_empty() && !texts.asm.is_empty(), "{}", target.name);
        }
    }
}

#[test]
fn random_blocks_and_keys() {
    let mut kb = KernelBuilder::new("random", 3);
    let seeds = kb.param(DType::I64, 3, I64, Access::Read);
    let out = kb.param(DType::I16, 3 * 4 * 5 * 16, I16, Access::Write);
    let keys = kb.param(DType::I64, 3, I64, Access::Write);
    let item = kb.item();
    let words: Vec<Value> = (0..3).map(|i| kb.load_scalar(seeds.at(i))).collect();
    kb.for_(4, |kb, i| {
        let tensor = kb.index(item);
        let key = kb.hash_key(words[0], words[1], tensor);
        kb.for_(5, |kb, j| {
            let bits = kb.random(key, &[(item, 20), (i, 5), (j, 1)], (1 << 29) - 60);
            kb.store(out.at(0).plus(item, 320).plus(i, 80).plus(j, 16), bits);
        });
    });
    let key = kb.hash_key(words[2], words[1], words[0]);
    kb.store(keys.at(0).plus(item, 1), key);
    check(kb.finish(), 0..4);
}

#[test]
fn integers() {
    let mut kb = KernelBuilder::new("integers", 8);
    let small = Range::new(-(1 << 30), 1 << 31);
    let x = kb.param(DType::I64, 8, small, Access::Read);
    let y = kb.param(DType::I64, 8, small, Access::Read);
    let any = kb.param(DType::I64, 8, Range::new(-i64::MAX, i64::MAX), Access::Read);
    let k = kb.param(DType::U8, 8, Range::new(0, 31), Access::Read);
    let table = kb.param(DType::I16, 5, I16, Access::Read);
    let at = |p: Param, kb: &KernelBuilder| p.at(0).plus(kb.item(), 1);
    let [x, y, any, k] = [x, y, any, k].map(|p| kb.load_scalar(at(p, &kb)));
    let index = kb.index(kb.item());
    let divisor = kb.int(1);
    let divisor = kb.max(y, divisor);
    let mut out = vec![kb.add(x, y), kb.sub(x, y), kb.mul(x, y), kb.div(any, divisor)];
    out.extend([kb.min(x, y), kb.max(x, y), kb.and(x, any), kb.or(x, any), kb.xor(x, any), kb.abs(any)]);
    out.extend([kb.shift_left(x, k), kb.shift_right(any, k), kb.shift_right_round(x, k)]);
    out.extend([
        kb.shift_left(x, 5),
        kb.shift_right(any, 63),
        kb.shift_right_round(x, 0),
        kb.bit_length(any),
    ]);
    let conditions = [kb.eq(x, y), kb.lt(x, y), kb.le(x, y)];
    for condition in conditions {
        out.extend([condition, kb.select(condition, x, y)]);
    }
    out.extend([kb.load_at(table, x), kb.load_at(table, index), index]);
    for value in out {
        let p = kb.param(DType::I64, 8, I64, Access::Write);
        kb.store(at(p, &kb), value);
    }
    for dtype in [DType::I8, DType::U8, DType::I16, DType::I32] {
        let p = kb.param(dtype, 8, dtype.range(), Access::Write);
        let low = kb.and(any, divisor);
        let (lo, hi) = (dtype.range().lo as i32, dtype.range().hi as i32);
        let low = kb.clamp(low, lo, hi);
        kb.store(at(p, &kb), low);
    }
    check(kb.finish(), 0..8);
}

#[test]
fn dyadics() {
    let mut kb = KernelBuilder::new("dyadics", 8);
    let x = kb.param(DType::Dyadic, 8, I64, Access::Read);
    let y = kb.param(DType::Dyadic, 8, I64, Access::Read);
    let i = kb.param(DType::I64, 8, Range::new(-1000, 1000), Access::Read);
    let table = kb.param(DType::Dyadic, 3, I64, Access::Read);
    let at = |p: Param, kb: &KernelBuilder| p.at(0).plus(kb.item(), 1);
    let [x, y, i] = [x, y, i].map(|p| kb.load_scalar(at(p, &kb)));
    let constant = kb.dyadic(-3 << 20, -7);
    let mut dyadic = vec![kb.add(x, y), kb.sub(x, y), kb.mul(x, y), kb.div(x, y), kb.min(x, y), kb.max(x, y)];
    dyadic.extend([kb.abs(x), kb.sqrt(x), kb.rsqrt(x), kb.log2(x), kb.exp2(x), kb.add(constant, x)]);
    dyadic.extend([kb.to_dyadic(i), kb.scale(x, i), kb.diff_of_products(i, i, i, i), kb.load_at(table, i)]);
    let conditions = [kb.eq(x, y), kb.lt(x, y), kb.le(x, y)];
    let mut ints = vec![kb.to_fixed(x, 12), kb.to_fixed(x, i), kb.exponent(x)];
    for condition in conditions {
        dyadic.push(kb.select(condition, x, y));
        ints.push(condition);
    }
    for (dtype, values) in [(DType::Dyadic, dyadic), (DType::I64, ints)] {
        for value in values {
            let p = kb.param(dtype, 8, I64, Access::Write);
            kb.store(at(p, &kb), value);
        }
    }
    check(kb.finish(), 0..8);
}

#[derive(Clone)]
struct Sides {
    dot: Dot,
    points: Vec<Dim>,
    vectors: Vec<Dim>,
    k: Vec<Dim>,
    a: Range,
    b: Range,
}

fn contraction(name: &str, sides: &Sides, init: &str) -> Kernel {
    let Sides { dot, points, vectors, k, a, b } = sides.clone();
    let reach = |dims: &[Dim], stride: fn(&Dim) -> i64| -> i64 {
        dims.iter().map(|d| stride(d) * (d.n as i64 - 1)).sum()
    };
    let first: fn(&Dim) -> i64 = |d| d.first;
    let second: fn(&Dim) -> i64 = |d| d.second;
    let group = dot.group() as i64;
    let (a_type, b_type) = dot.operands();
    let mut kb = KernelBuilder::new(format!("{name} {init}"), 2);
    let a_len = reach(&points, first) + reach(&k, first) + group;
    let b_len = reach(&vectors, first) + reach(&k, second) + 16 * group;
    let out_len = reach(&points, second) + reach(&vectors, second) + 16;
    let (pa, pb) = (
        kb.param(a_type, 2 * a_len as u64, a, Access::Read),
        kb.param(b_type, b_len as u64, b, Access::Read),
    );
    let out = kb.param(DType::I32, 2 * out_len as u64, I32, Access::Write);
    let item = kb.item();
    let start = Range::new(-(1 << 20), 1 << 20);
    let strides = |dims: &[Dim], unit: i64| -> (Vec<i64>, i64) {
        let mut stride = unit;
        let mut all: Vec<i64> = vec![];
        for d in dims.iter().rev() {
            all.insert(0, stride);
            stride *= d.n as i64;
        }
        (all, stride)
    };
    let init = match init {
        "zero" => Init::Zero,
        "accumulate" => Init::Accumulate,
        "vector" => {
            let (strides, len) = strides(&vectors, 16);
            Init::PerVector(kb.param(DType::I32, len as u64, start, Access::Read).at(0), strides)
        }
        _ => {
            let (strides, len) = strides(&points, 1);
            Init::PerPoint(kb.param(DType::I32, len as u64, start, Access::Read).at(0), strides)
        }
    };
    let (out, a) = (out.at(0).plus(item, out_len), pa.at(0).plus(item, a_len));
    let contract = Contract { dot, out, a, b: pb.at(0), init, points, vectors, k };
    if contract.init == Init::Accumulate {
        kb.contract(Contract { init: Init::Zero, ..contract.clone() });
    }
    kb.contract(contract);
    kb.finish()
}

/// Forward of a 3×3 convolution: rows and columns of a padded image, packed weights.
fn forward(channels: i64, size: i64, dot: Dot, a: Range, b: Range) -> Sides {
    let (row, blocks) = ((size + 2) * channels, channels / 16);
    let taps = [Dim::new(3, row, 3 * channels * 16), Dim::new(3, channels, channels * 16)];
    let group = dot.group() as i64;
    Sides {
        dot,
        points: vec![Dim::new(2, row, size * channels), Dim::new(size as u32, channels, channels)],
        vectors: vec![Dim::new(blocks as u32, 9 * channels * 16, 16)],
        k: [&taps[..], &[Dim::new((channels / group) as u32, group, 16 * group)]].concat(),
        a,
        b,
    }
}

#[test]
fn contractions_as_layers_use_them() {
    for init in ["zero", "accumulate", "vector", "point"] {
        check(contraction("forward 16", &forward(16, 8, Dot::U8I8, U8, I8), init), 0..1);
        check(contraction("forward 32", &forward(32, 5, Dot::I8U8, I8, Range::new(0, 15)), init), 0..1);
        check(contraction("narrow", &forward(16, 7, Dot::U8I8, Range::new(0, 15), I8), init), 0..1);
        let small = Range::new(-1000, 1000);
        check(contraction("i16", &forward(16, 3, Dot::I16I16, small, small), init), 0..1);
    }
}

/// Points that lie one byte apart, and extents that no tile divides.
#[test]
fn contractions_over_unaligned_groups() {
    for (ci, kx, vectors) in [(3, 3, 1), (5, 1, 2), (1, 7, 1), (1, 1, 3)] {
        let sides = Sides {
            dot: Dot::U8I8,
            points: vec![Dim::new(ci, 7 * 12, kx as i64 * 48), Dim::new(kx, 1, 48)],
            vectors: vec![Dim::new(vectors, 64, 16)],
            k: vec![Dim::new(7, 12, 3 * 2 * 64), Dim::new(2, 4, 3 * 64)],
            a: U8,
            b: I8,
        };
        check(contraction("weight gradient", &sides, "accumulate"), 0..2);
    }
    let alone =
        Sides { dot: Dot::U8I8, points: vec![], vectors: vec![], k: vec![Dim::new(37, 4, 64)], a: U8, b: I8 };
    check(contraction("one output", &alone, "vector"), 0..2);
}

/// Every sign, start, remainder and order of strides that contractions in tiles have, in tiles.
#[test]
fn contractions_in_tiles() {
    let small = Range::new(0, 15);
    let wide = |channels, size, rows, dot, a, b| {
        let mut sides = forward(channels, size, dot, a, b);
        sides.points[0].n = rows;
        sides
    };
    let planes = Sides {
        dot: Dot::U8I8,
        points: vec![Dim::new(16, 20 * 36, 9 * 32), Dim::new(3, 36, 3 * 32), Dim::new(3, 1, 32)],
        vectors: vec![Dim::new(2, 64, 16)],
        k: vec![Dim::new(14, 36, 8 * 128), Dim::new(8, 4, 128)],
        a: small,
        b: I8,
    };
    let flat = Sides {
        dot: Dot::I8U8,
        points: vec![Dim::new(60, 80, 64)],
        vectors: vec![Dim::new(4, 20 * 64, 16)],
        k: vec![Dim::new(20, 4, 64)],
        a: I8,
        b: small,
    };
    let cases = [
        ("16 channels", wide(16, 32, 8, Dot::U8I8, U8, I8), "tdpbusd"),
        ("32 channels", wide(32, 14, 7, Dot::I8U8, I8, small), "tdpbsud"),
        ("64 channels", wide(64, 8, 8, Dot::U8I8, U8, I8), "tdpbusd"),
        ("planes", planes, "tdpbusd"),
        ("flat", flat, "tdpbsud"),
    ];
    for (name, sides, product) in cases {
        for init in ["zero", "accumulate", "vector"] {
            let kernel = contraction(name, &sides, init);
            let program = program_of(kernel.clone());
            let text = |prefix| leaves(&program, "x86_64_amx", prefix).concat();
            for (leaf, instruction) in
                [("contract_", product), ("tiles_0", "ldtilecfg"), ("tiles_release", "tilerelease")]
            {
                assert!(text(leaf).contains(instruction), "{name} {init}\n{}", text(leaf));
            }
            check(kernel, 0..2);
        }
    }
}

#[test]
fn random_programs() {
    for seed in random_kernels::seeds(20) {
        let case = random_kernels::case(seed);
        check_on(&case.program, &format!("FQTC_SEED={seed}"), &case.memory());
    }
}

/// The tree of a dot product of bytes must become one instruction: a miss is silent and costs fourteen.
#[test]
fn dot_products_fold_into_one_instruction() {
    let program = program_of(contraction("forward", &forward(16, 8, Dot::U8I8, U8, I8), "vector"));
    for (target, dot, chain) in [
        ("x86_64_avx_vnni", "vpdpbusd", ["vpmull", "vpmadd", "vphadd"]),
        ("x86_64_avx512_vnni", "vpdpbusd", ["vpmull", "vpmadd", "vphadd"]),
        ("aarch64_i8mm", "usdot", ["smull", "umull", "addp"]),
    ] {
        let functions = listing(&program, targets::by_name(target).unwrap()).unwrap();
        let leaf = functions.iter().find(|f| f.name.starts_with("contract")).unwrap();
        let asm = &leaf.listing.as_ref().unwrap().asm;
        assert!(asm.matches(dot).count() >= 36, "{target}\n{asm}");
        for part in chain {
            assert!(!asm.contains(part), "{target}: {part}\n{asm}");
        }
    }
}

/// The text of the leaf functions of a program whose names begin so.
pub(crate) fn leaves(program: &Program, target: &str, prefix: &str) -> Vec<String> {
    let functions = listing(program, targets::by_name(target).unwrap()).unwrap();
    let leaves = functions.into_iter().filter(|f| f.name.starts_with(prefix));
    leaves.map(|f| f.listing.unwrap().asm).collect()
}

/// Narrow code is right as well, so that only this notices it.
#[test]
fn contractions_use_the_widest_vectors() {
    let small = Range::new(-1000, 1000);
    for (target, register) in WIDE {
        for (dot, instruction, a, b) in [
            (Dot::U8I8, "vpdpbusd", U8, I8),
            (Dot::I8U8, "vpdpbusd", I8, Range::new(0, 15)),
            (Dot::I16I16, "vpdpwssd", small, small),
        ] {
            let program = program_of(contraction("forward", &forward(32, 8, dot, a, b), "vector"));
            let asm = &leaves(&program, target, "contract_")[0];
            let dots: Vec<&str> = asm.lines().filter(|line| line.contains(instruction)).collect();
            assert!(dots.len() >= 8, "{target}, {dot:?}: {} dot products\n{asm}", dots.len());
            assert!(dots.iter().all(|line| line.contains(register)), "{target}, {dot:?}\n{asm}");
        }
    }
}

pub(crate) const WIDE: [(&str, &str); 2] =
    [("x86_64_avx_vnni_ymm", "ymm"), ("x86_64_avx512_vnni_zmm", "zmm")];

#[test]
fn running_checks_its_arguments() {
    let kernel = map_kernel("copy", &[(DType::I16, I16)], |_, v| v.to_vec());
    let step = JitStep::new(&program_of(kernel), targets::host().unwrap()).unwrap();
    let mut arena = vec![0; 1024];
    assert!(step.run_kernel(0, &mut arena, &[0, 8], 0..2).is_ok());
    assert!(step.run_kernel(0, &mut arena, &[0, 9], 0..2).is_err(), "the second buffer ends outside");
    assert!(step.run_kernel(0, &mut arena, &[0], 0..2).is_err());
    assert!(step.run_kernel(0, &mut arena, &[0, 2], 0..3).is_err());
    assert!(step.run_kernel(1, &mut arena, &[0, 8], 0..2).is_err());
}

/// Among random programs are contractions of every form and start, on targets of every width.
#[test]
fn random_programs_contract_in_every_form() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..400 {
        let program = random_kernels::case(seed).program;
        let mut collect = |stmt: &Stmt| {
            if let Stmt::Contract(c) = stmt {
                let start = match c.init {
                    Init::Zero => "zero",
                    Init::Accumulate => "accumulate",
                    Init::PerVector(..) => "vector",
                    Init::PerPoint(..) => "point",
                };
                seen.insert((format!("{:?}", c.dot), start));
            }
        };
        program.kernels.iter().for_each(|kernel| contractions(&kernel.body, &mut collect));
    }
    assert_eq!(seen.len(), 3 * 4, "{seen:?}");
}

fn contractions(body: &[Stmt], collect: &mut impl FnMut(&Stmt)) {
    for stmt in body {
        match stmt {
            Stmt::For { body, .. } => contractions(body, collect),
            _ => collect(stmt),
        }
    }
}
