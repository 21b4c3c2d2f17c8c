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
