//! The kernel program: builder, printer, verifier, interpreter.

use fqtc::kernel::build::{KernelBuilder, ProgramBuilder};
use fqtc::kernel::*;

use crate::support::random_kernels;

fn buffer(name: &str, dtype: DType, len: u32, range: Range, kind: Kind) -> Buffer {
    Buffer { name: name.into(), dtype, extents: vec![len], range, kind }
}

/// `y = clamp(x >> 3, 0, 255)` on 2 items of 4 blocks.
fn clamp_kernel(name: &str) -> Kernel {
    let mut kb = KernelBuilder::new(name, 2);
    let x = kb.param(DType::I16, 128, Range::new(-1000, 1000), Access::Read);
    let y = kb.param(DType::U8, 128, Range::new(0, 125), Access::Write);
    let item = kb.item();
    kb.for_(4, |kb, i| {
        let v = kb.load(x.at(0).plus(i, 16).plus(item, 64));
        let v = kb.shift_right(v, 3);
        let v = kb.narrow(DType::U8, v);
        kb.store(y.at(0).plus(item, 64).plus(i, 8).plus(i, 8), v);
    });
    kb.finish()
}

#[test]
fn prints_as_text() {
    let mut program = ProgramBuilder::new();
    let x = program.buffer(buffer("image", DType::I16, 128, Range::new(-1000, 1000), Kind::Input));
    let y = program.buffer(buffer("conv1.y", DType::U8, 128, Range::new(0, 125), Kind::Output));
    program.call(clamp_kernel("clamp"), vec![x, y]);
    program.call(clamp_kernel("again"), vec![x, y]);
    let expected = "\
input @image: i16[128] -1000..=1000
output @conv1.y: u8[128] 0..=125

k0 = kernel clamp items 2 {
  p0: read i16[128] -1000..=1000
  p1: write u8[128] 0..=125
  for i1 in 0..4 {
    %0: i16x16 = load p0[i0*64 + i1*16]
    %1: i16x16 = shr %0, 3
    %2: u8x16 = narrow_sat u8 %1
    store p1[i0*64 + i1*16], %2
  }
}

call k0 clamp(@image, @conv1.y)
call k0 clamp(@image, @conv1.y)
";
    assert_eq!(program.finish().to_string(), expected);
}

#[test]
fn addresses_are_canonical() {
    let (p, i, j) = (Param(0), Index(1), Index(2));
    assert_eq!(p.at(3).plus(j, 2).plus(i, 5).plus(j, -2).plus(i, 1), p.at(1).offset(2).plus(i, 6).plus(j, 0));
}

#[test]
fn constants_are_shared_and_come_first() {
    let mut kb = KernelBuilder::new("constants", 1);
    let out = kb.param(DType::I64, 4, DType::I64.range(), Access::Write);
    kb.for_(4, |kb, i| {
        let (three, four) = (kb.int(3), kb.int(4));
        let seven = kb.add(three, four);
        assert_eq!(seven, kb.int(7));
        kb.store(out.at(0).plus(i, 1), seven);
    });
    let kernel = kb.finish();
    assert!(matches!(kernel.body[..], [.., Stmt::For { .. }]));
    assert_eq!(kernel.values.len(), 3);
}

/// A program of one kernel with a buffer for each parameter: constants for what it only reads.
fn program_of(kernel: Kernel, contents: &[&[i64]]) -> Program {
    let mut program = ProgramBuilder::new();
    let mut args = vec![];
    for (number, decl) in kernel.params.iter().enumerate() {
        let kind = match contents.get(number) {
            Some(contents) => Kind::Const(contents.to_vec()),
            None => Kind::Output,
        };
        args.push(program.buffer(buffer(
            &format!("b{number}"),
            decl.dtype,
            decl.len as u32,
            decl.range,
            kind,
        )));
    }
    program.call(kernel, args);
    program.finish()
}

#[test]
fn interprets_lanes() {
    let x: Vec<i64> = (0..128).map(|i| i * 15 - 1000).collect();
    let program = program_of(clamp_kernel("clamp"), &[&x]);
    let mut memory = interp::Memory::new(&program);
    interp::run(&program, &mut memory).unwrap();
    let expected: Vec<i64> = x.iter().map(|x| (x >> 3).clamp(0, 255)).collect();
    assert_eq!(memory.read(&program, BufferId(1)), expected);
}

/// A 3-tap convolution of 5 pixels of 6 channels in steps of a group, 2 vectors, against the formula.
#[test]
fn interprets_contractions() {
    for dot in [Dot::U8I8, Dot::I8U8, Dot::I16I16] {
        let (group, (a_type, b_type)) = (dot.group() as i64, dot.operands());
        let (taps, groups, pixels) = (3, 2, 5);
        let channels = groups * group;
        let block = 16 * group;
        let mut kb = KernelBuilder::new("contract", 1);
        // 12 products of 16 bits pass 31 bits.
        let a_range = if dot == Dot::I16I16 { Range::new(-5000, 5000) } else { a_type.range() };
        let a = kb.param(a_type, ((pixels + taps - 1) * channels) as u64, a_range, Access::Read);
        let b = kb.param(b_type, (2 * taps * groups * block) as u64, b_type.range(), Access::Read);
        let init = kb.param(DType::I32, 32, DType::I32.range(), Access::Read);
        let out = kb.param(DType::I32, (pixels * 32) as u64, DType::I32.range(), Access::Write);
        kb.contract(Contract {
            dot,
            out: out.at(0),
            a: a.at(0),
            b: b.at(0),
            init: Init::PerVector(init.at(0), vec![16]),
            points: vec![Dim::new(pixels as u32, channels, 32)],
            vectors: vec![Dim::new(2, taps * groups * block, 16)],
            k: vec![Dim::new(taps as u32, channels, groups * block), Dim::new(groups as u32, group, block)],
        });
        let kernel = kb.finish();
        let numbers = |decl: &ParamDecl, factor: i64| -> Vec<i64> {
            let Range { lo, hi } = decl.range;
            (0..decl.len as i64).map(|i| lo + (i * factor).rem_euclid(hi - lo + 1)).collect()
        };
        let (x, w) = (numbers(&kernel.params[0], 37), numbers(&kernel.params[1], 101));
        let start: Vec<i64> = (0..32).map(|i| 1000 * i).collect();
        let program = program_of(kernel, &[&x, &w, &start]);
        let mut memory = interp::Memory::new(&program);
        interp::run(&program, &mut memory).unwrap();
        let result = memory.read(&program, BufferId(3));
        for (p, v, lane) in
            (0..pixels).flat_map(|p| (0..2).flat_map(move |v| (0..16).map(move |l| (p, v, l))))
        {
            let mut sum = start[(v * 16 + lane) as usize];
            for (tap, c) in (0..taps).flat_map(|tap| (0..channels).map(move |c| (tap, c))) {
                let weight =
                    ((v * taps + tap) * groups + c / group) * block + lane * group + c.rem_euclid(group);
                sum += x[((p + tap) * channels + c) as usize] * w[weight as usize];
            }
            assert_eq!(result[(p * 32 + v * 16 + lane) as usize], sum, "{dot:?} {p} {v} {lane}");
        }
    }
}

/// Writes a kernel of one item with the builder.
fn one(body: impl FnOnce(&mut KernelBuilder)) -> Kernel {
    items(1, body)
}

fn items(items: u32, body: impl FnOnce(&mut KernelBuilder)) -> Kernel {
    let mut kb = KernelBuilder::new("case", items);
    body(&mut kb);
    kb.finish()
}

/// An unbuildable kernel: the statements `body` over values of the types `values`.
fn raw(values: Vec<Type>, body: Vec<Stmt>) -> Kernel {
    let params = vec![ParamDecl {
        dtype: DType::I16,
        len: 64,
        range: Range::new(-100, 100),
        access: Access::ReadWrite,
    }];
    Kernel { name: "case".into(), params, items: 1, values, body }
}

const I16S: Type = Type::Lanes(DType::I16);

fn load(value: u32, address: Address) -> Stmt {
    Stmt::Let(Value(value), Expr::Load(address))
}

/// A contraction of `steps` groups of u8·i8 into an i32 panel of range ±`bound`.
fn contraction(steps: u32, bound: i64, init: Init) -> Kernel {
    one(|kb| {
        let a = kb.param(DType::U8, 4 * steps as u64, DType::U8.range(), Access::Read);
        let b = kb.param(DType::I8, 64 * steps as u64, DType::I8.range(), Access::Read);
        let out = kb.param(DType::I32, 16, Range::new(-bound, bound), Access::ReadWrite);
        kb.contract(Contract {
            dot: Dot::U8I8,
            out: out.at(0),
            a: a.at(0),
            b: b.at(0),
            init,
            points: vec![],
            vectors: vec![],
            k: vec![Dim::new(steps, 4, 64)],
        });
    })
}

/// A contraction of two points whose results lie so far apart, starting from zero or from the end of its own results.
fn points(apart: i64, from_results: bool) -> Kernel {
    one(|kb| {
        let a = kb.param(DType::U8, 8, Range::new(0, 1), Access::Read);
        let b = kb.param(DType::I8, 64, Range::new(0, 0), Access::Read);
        let out = kb.param(DType::I32, 48, Range::new(-100, 100), Access::Write);
        let zero = kb.splat_const(DType::I32, 0);
        kb.store(out.at(32), zero);
        let init = if from_results { Init::PerVector(out.at(32), vec![]) } else { Init::Zero };
        kb.contract(Contract {
            dot: Dot::U8I8,
            out: out.at(0),
            a: a.at(0),
            b: b.at(0),
            init,
            points: vec![Dim::new(2, 4, apart)],
            vectors: vec![],
            k: vec![],
        });
    })
}

/// `acc64` of `turns` lanes in 0..=100, from zero, into a parameter of range 0..=`bound`.
fn sum(turns: u32, bound: i64, reset: bool) -> Kernel {
    one(|kb| {
        let x = kb.param(DType::I16, 16 * turns as u64, Range::new(0, 100), Access::Read);
        let out = kb.param(DType::I64, 32, Range::new(0, bound), Access::Write);
        kb.for_(2, |kb, i| {
            if reset {
                let zero = kb.int(0);
                kb.for_(16, |kb, j| kb.store(out.at(0).plus(i, 16).plus(j, 1), zero));
            }
            kb.for_(turns, |kb, j| {
                let v = kb.load(x.at(0).plus(j, 16));
                kb.acc64(out.at(0).plus(i, 16), v);
            });
        });
    })
}

/// `out[item·stride + offset] = item` in `count` items, for a parameter of 64 elements.
fn scatter(count: u32, stride: i64, offset: i64) -> Kernel {
    items(count, |kb| {
        let out = kb.param(DType::I32, 64, Range::new(0, 100), Access::Write);
        let item = kb.item();
        let value = kb.index(item);
        kb.store(out.at(offset).plus(item, stride), value);
    })
}

/// `f` of an i16 block in ±100 and an Int in 0..=20, stored with the range ±200.
fn lanes(f: impl FnOnce(&mut KernelBuilder, Value, Value) -> Value) -> Kernel {
    one(|kb| {
        let x = kb.param(DType::I16, 16, Range::new(-100, 100), Access::Read);
        let k = kb.param(DType::I32, 1, Range::new(0, 20), Access::Read);
        let out = kb.param(DType::I16, 16, Range::new(-200, 200), Access::Write);
        let (x, k) = (kb.load(x.at(0)), kb.load_scalar(k.at(0)));
        let y = f(kb, x, k);
        kb.store(out.at(0), y);
    })
}

#[test]
fn good_kernels_pass() {
    let cases = [
        ("clamp", clamp_kernel("clamp")),
        ("add", lanes(|kb, x, _| kb.add(x, x))),
        ("points beside each other", points(16, false)),
        ("narrowed shift", {
            lanes(|kb, x, k| {
                let k = kb.clamp(k, 0, 1);
                kb.shift_left(x, k)
            })
        }),
        ("absolute value by select", {
            lanes(|kb, x, _| {
                let zero = kb.splat_const(DType::I16, 0);
                let (negative, minus) = (kb.lt(x, zero), kb.sub(zero, x));
                let abs = kb.select(negative, minus, x);
                kb.add(abs, abs)
            })
        }),
        ("contraction", contraction(2, 8 * 255 * 128, Init::Zero)),
        ("reset sum", sum(5, 500, true)),
        ("items by blocks", scatter(4, 16, 15)),
    ];
    for (name, kernel) in cases {
        verify::kernel(&kernel).map_err(|violation| format!("{name}: {violation}")).unwrap();
    }
}

#[test]
fn bad_kernels_are_rejected() {
    let p = Param(0);
    let cases: Vec<(&str, Kernel, &str)> = vec![
        (
            "use before definition",
            raw(vec![I16S], vec![Stmt::Store(p.at(0), Value(0))]),
            "%0 is not defined here",
        ),
        ("defined twice", raw(vec![I16S], vec![load(0, p.at(0)), load(0, p.at(0))]), "%0 is defined twice"),
        (
            "out of scope",
            raw(
                vec![I16S],
                vec![
                    Stmt::For { index: Index(1), count: 2, body: vec![load(0, p.at(0))] },
                    Stmt::Store(p.at(0), Value(0)),
                ],
            ),
            "%0 is not defined here",
        ),
        ("wrong type", raw(vec![Type::Int], vec![load(0, p.at(0))]), "%0 is int, wanted i16x16"),
        ("no such parameter", raw(vec![I16S], vec![load(0, Param(3).at(0))]), "p3 is not a parameter"),
        (
            "index out of scope",
            raw(vec![I16S], vec![load(0, p.at(0).plus(Index(1), 1))]),
            "i1 is not the index of a loop around this",
        ),
        ("points on one place", points(0, false), "a contraction writes an element of p2 twice"),
        ("points that meet", points(8, false), "a contraction writes an element of p2 twice"),
        ("a start among results", points(16, true), "or reads its start there"),
        (
            "nested index",
            raw(vec![], vec![Stmt::For { index: Index(0), count: 2, body: vec![] }]),
            "i0 is the index of an earlier loop",
        ),
        (
            "empty loop",
            raw(vec![], vec![Stmt::For { index: Index(1), count: 0, body: vec![] }]),
            "at least once",
        ),
        (
            "past the end",
            raw(vec![I16S], vec![load(0, p.at(49))]),
            "touches the elements 49..=64 of p0, which has 64",
        ),
        ("before the start", scatter(4, -16, 32), "touches the elements -16..=32"),
        (
            "lane overflow",
            {
                lanes(|kb, x, _| {
                    let y = kb.mul(x, x);
                    kb.mul(y, x)
                })
            },
            "i16x16 -32768..=32767 does not hold -1000000..=1000000",
        ),
        (
            "stored range",
            lanes(|kb, x, _| kb.mul(x, x)),
            "range of p2 -200..=200 does not hold -10000..=10000",
        ),
        ("shift amount", lanes(|kb, x, k| kb.shift_right(x, k)), "shift amount 0..=15 does not hold 0..=20"),
        ("left shift", lanes(|kb, x, _| kb.shift_left(x, 9)), "does not hold -51200..=51200"),
        (
            "rounding constant",
            {
                lanes(|kb, x, _| {
                    let x = kb.mul(x, x);
                    let x = kb.add(x, x);
                    kb.shift_right_round(x, 15)
                })
            },
            "value plus rounding constant in -32768..=32767 does not hold -20000..=36384",
        ),
        (
            "splat",
            {
                lanes(|kb, x, k| {
                    let k = kb.shift_left(k, 12);
                    let k = kb.splat(DType::I16, k);
                    kb.min(x, k)
                })
            },
            "i16x16 -32768..=32767 does not hold 0..=81920",
        ),
        ("mask", lanes(|kb, x, _| kb.select(x, x, x)), "mask -1..=0 does not hold -100..=100"),
        (
            "divisor",
            {
                one(|kb| {
                    let out = kb.param(DType::I64, 1, DType::I64.range(), Access::ReadWrite);
                    let x = kb.load_scalar(out.at(0));
                    let y = kb.div(x, x);
                    kb.store(out.at(0), y);
                })
            },
            "not proven positive",
        ),
        (
            "contraction range",
            contraction(2, 8 * 255 * 128 - 1, Init::Zero),
            "does not hold -261120..=259080",
        ),
        (
            "contraction bits",
            contraction(20_000, i32::MAX as i64, Init::Zero),
            "i32 -2147483648..=2147483647 does not hold",
        ),
        (
            "sum range",
            sum(5, 499, true),
            "the declared range of p1, with all that is added, 0..=499 does not hold 0..=500",
        ),
        (
            "sum without a start",
            sum(5, 500, false),
            "p1 is only written, and this may read what was not written before",
        ),
        (
            "read parameter written",
            {
                one(|kb| {
                    let x = kb.param(DType::I64, 1, DType::I64.range(), Access::Read);
                    let zero = kb.int(0);
                    kb.store(x.at(0), zero);
                })
            },
            "p0 is only read",
        ),
        (
            "items overlap",
            {
                items(2, |kb| {
                    let x = kb.param(DType::I16, 64, Range::new(0, 1), Access::Write);
                    let zero = kb.splat_const(DType::I16, 0);
                    kb.store(x.at(0).plus(kb.item(), 8), zero);
                })
            },
            "items are not proven to touch different elements of p0",
        ),
        ("items on one place", scatter(3, 0, 0), "items are not proven to touch different elements of p0"),
        (
            "random block",
            {
                items(2, |kb| {
                    let out = kb.param(DType::I16, 32, DType::I16.range(), Access::Write);
                    let key = kb.int(1);
                    let bits = kb.random(key, &[(kb.item(), 1)], (1 << 29) - 1);
                    kb.store(out.at(0).plus(kb.item(), 16), bits);
                })
            },
            "random block number 0..=536870911 does not hold 536870911..=536870912",
        ),
    ];
    for (name, kernel, expected) in cases {
        let violation = verify::kernel(&kernel).expect_err(name);
        assert!(violation.message.contains(expected), "{name}: {violation}");
        assert_eq!(violation.place, "kernel case", "{name}");
        assert!(!violation.statement.is_empty(), "{name}");
    }
}

/// Verified programs run on inputs in range: the interpreter never traps what the verifier has passed.
#[test]
fn random_programs_never_trap() {
    for seed in random_kernels::seeds(30) {
        let case = random_kernels::case(seed);
        let program = &case.program;
        verify::program(program)
            .map_err(|violation| format!("FQTC_SEED={seed}: {violation}\n{program}"))
            .unwrap();
        let mut memory = case.memory();
        interp::run(program, &mut memory)
            .map_err(|trap| format!("FQTC_SEED={seed}: {trap}\n{program}"))
            .unwrap();
    }
}

/// Runs a kernel without verifying it, on the contents of its first buffers.
fn run_unverified(kernel: Kernel, contents: &[&[i64]]) -> Result<(), interp::Trap> {
    let program = program_of(kernel, contents);
    interp::run(&program, &mut interp::Memory::new(&program))
}

#[test]
fn the_interpreter_traps() {
    let block: Vec<i64> = (0..16).map(|i| 10 * i - 50).collect();
    let with =
        |k: i64, f: fn(&mut KernelBuilder, Value, Value) -> Value| run_unverified(lanes(f), &[&block, &[k]]);
    let ones = [255i64; 80_000];
    let cases = [
        ("fits", with(1, |kb, x, k| kb.shift_left(x, k)), None),
        (
            "store",
            with(0, |kb, x, _| kb.mul(x, x)),
            Some("2500 is outside the declared range -200..=200 of p2"),
        ),
        ("load", with(21, |_, x, _| x), Some("21 is outside the declared range 0..=20 of p1")),
        (
            "shift amount",
            with(16, |kb, x, k| kb.shift_right(x, k)),
            Some("shift amount 16 is outside 0..=15"),
        ),
        ("left shift", with(15, |kb, x, k| kb.shift_left(x, k)), Some("overflows i16")),
        (
            "splat",
            {
                with(20, |kb, x, k| {
                    let k = kb.shift_left(k, 12);
                    let k = kb.splat(DType::I16, k);
                    kb.min(x, k)
                })
            },
            Some("81920 does not fit i16"),
        ),
        ("mask", with(0, |kb, x, _| kb.select(x, x, x)), Some("is not a mask")),
        (
            "divisor",
            {
                with(0, |kb, x, k| {
                    kb.div(k, k);
                    x
                })
            },
            Some("divisor 0 is not positive"),
        ),
        (
            "out of bounds",
            run_unverified(scatter(4, 16, 17), &[]),
            Some("elements 65..=65 of p0 are out of bounds"),
        ),
        ("before the start", run_unverified(scatter(4, -16, 32), &[]), Some("elements -16..=-16 of p0")),
        (
            "contraction",
            run_unverified(
                contraction(20_000, i32::MAX as i64, Init::Zero),
                &[&ones, &vec![127; 20_000 * 64]],
            ),
            Some("the contraction's 2590800000 overflows i32"),
        ),
    ];
    for (name, result, expected) in cases {
        match (result, expected) {
            (Ok(()), None) => {}
            (Err(trap), Some(expected)) => {
                assert!(trap.message.contains(expected), "{name}: {trap}");
                assert!(!trap.statement.is_empty(), "{name}");
            }
            (result, expected) => panic!("{name}: {result:?}, wanted {expected:?}"),
        }
    }
}

/// A copy of 32 elements as kernel, with these declarations.
fn copy(from: Range, to: Range) -> Kernel {
    items(2, |kb| {
        let x = kb.param(DType::I16, 32, from, Access::Read);
        let y = kb.param(DType::I16, 32, to, Access::Write);
        let v = kb.load(x.at(0).plus(kb.item(), 16));
        kb.store(y.at(0).plus(kb.item(), 16), v);
    })
}

/// `out += 1` of one i64 in `range`.
fn count(range: Range) -> Kernel {
    one(|kb| {
        let out = kb.param(DType::I64, 1, range, Access::ReadWrite);
        let one = kb.int(1);
        kb.acc64(out.at(0), one);
    })
}

#[test]
fn calls_are_checked() {
    let (small, large) = (Range::new(0, 10), Range::new(0, 99));
    let numbers = |range: Range, kind: Kind, name: &str| buffer(name, DType::I16, 32, range, kind);
    let (input, output) = (numbers(small, Kind::Input, "x"), numbers(large, Kind::Output, "y"));
    let program = |buffers: &[&Buffer], calls: &[(&Kernel, &[u32])]| {
        let mut pb = ProgramBuilder::new();
        buffers.iter().for_each(|&buffer| _ = pb.buffer(buffer.clone()));
        for (kernel, args) in calls {
            pb.call((*kernel).clone(), args.iter().map(|&arg| BufferId(arg)).collect());
        }
        verify::program(&pb.finish())
    };
    let (copies, shifted) = (copy(large, large), {
        one(|kb| {
            let x = kb.param(DType::I16, 32, large, Access::Read);
            let y = kb.param(DType::I16, 32, large, Access::Write);
            let v = kb.load(x.at(16));
            kb.store(y.at(0), v);
        })
    });
    let twice = one(|kb| {
        let x = kb.param(DType::I16, 32, large, Access::Read);
        let [y, z] = [0; 2].map(|_| kb.param(DType::I16, 32, large, Access::Write));
        let v = kb.load(x.at(0));
        kb.store(y.at(0), v);
        kb.store(z.at(0), v);
    });
    let counter = |range, kind| buffer("n", DType::I64, 1, range, kind);
    let full = DType::I64.range();
    let temp = numbers(large, Kind::Temp, "t");
    let constant = numbers(small, Kind::Const(vec![1; 32]), "c");
    let cases: Vec<(&str, Result<(), verify::Violation>, Option<&str>)> = vec![
        ("fits", program(&[&input, &output], &[(&copies, &[0, 1])]), None),
        ("in place", program(&[&input, &output], &[(&copies, &[0, 1]), (&copies, &[1, 1])]), None),
        ("temporary", program(&[&input, &temp, &output], &[(&copies, &[0, 1]), (&copies, &[1, 2])]), None),
        ("counter", program(&[&counter(full, Kind::Persistent)], &[(&count(full), &[0])]), None),
        ("arguments", program(&[&input], &[(&copies, &[0])]), Some("1 arguments for 2 parameters")),
        ("no buffer", program(&[&input], &[(&copies, &[0, 1])]), Some("there is no buffer 1")),
        (
            "type",
            program(&[&input, &counter(full, Kind::Temp)], &[(&copies, &[0, 1])]),
            Some("@n for p1 (write i16[32] 0..=99): it is i64[1]"),
        ),
        (
            "read range",
            program(&[&input, &output], &[(&copy(Range::new(0, 9), large), &[0, 1])]),
            Some("@x for p0 (read i16[32] 0..=9): it may hold 0..=10"),
        ),
        (
            "written range",
            program(&[&input, &numbers(small, Kind::Output, "y")], &[(&copies, &[0, 1])]),
            Some("@y for p1 (write i16[32] 0..=99): it may only hold 0..=10"),
        ),
        (
            "written constant",
            program(&[&input, &numbers(large, Kind::Const(vec![99; 32]), "c")], &[(&copies, &[0, 1])]),
            Some("it is constant"),
        ),
        (
            "constants",
            program(&[&numbers(small, Kind::Const(vec![11; 32]), "c")], &[]),
            Some("the constant 11 is outside 0..=10"),
        ),
        (
            "number of constants",
            program(&[&numbers(small, Kind::Const(vec![1; 31]), "c")], &[]),
            Some("31 constants for 32 elements"),
        ),
        ("names", program(&[&input, &input], &[]), Some("the name is taken twice")),
        (
            "read before written",
            program(&[&temp, &output], &[(&copies, &[0, 1])]),
            Some("no call before this one has written it"),
        ),
        (
            "aliases",
            program(&[&constant, &output], &[(&copies, &[0, 1]), (&shifted, &[1, 1])]),
            Some("@y is both p0 and p1, whose accesses are not the same"),
        ),
        (
            "written twice",
            program(&[&input, &output], &[(&twice, &[0, 1, 1])]),
            Some("@y is both p1 and p2, which are both written"),
        ),
        (
            "counter over steps",
            program(
                &[&counter(Range::new(0, 1000), Kind::Persistent)],
                &[(&count(Range::new(0, 1000)), &[0])],
            ),
            Some("its range 0..=1000 does not hold 0..=4294967296"),
        ),
    ];
    for (name, result, expected) in cases {
        match (result, expected) {
            (Ok(()), None) => {}
            (Err(violation), Some(expected)) => {
                assert!(violation.to_string().contains(expected), "{name}: {violation}")
            }
            (result, expected) => panic!("{name}: {result:?}, wanted {expected:?}"),
        }
    }
}

#[test]
fn costs_are_products_and_spans() {
    let cost = cost::cost(&clamp_kernel("clamp"));
    // Two items of four blocks: 128 halfwords are read, as many bytes written.
    assert_eq!(cost, cost::Cost { class: cost::Class::Elementwise, macs: 0, dots: 0, bytes: 256 + 128 });
}
