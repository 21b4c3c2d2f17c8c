//! The kernel program: builder, printer, verifier, interpreter.

use fqtc::kernel::build::{KernelBuilder, ProgramBuilder};
use fqtc::kernel::*;

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
