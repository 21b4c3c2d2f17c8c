//! The interpreter's contraction: flat lists of offsets, and one inner loop over groups.
//!
//! Sums are kept in 64 bits, so that an overflow of the 32-bit result is seen and not wrapped.

use super::*;

impl Machine<'_> {
    pub(super) fn contract(&mut self, c: &Contract) -> Res {
        let (width_a, width_b) = (c.dot.group(), c.dot.group() * LANES as u64);
        let points = offsets(&c.points);
        let vectors = offsets(&c.vectors);
        let k = offsets(&c.k);
        let firsts = |list: &[(i64, i64)]| list.iter().map(|pair| pair.0).collect::<Vec<_>>();
        let seconds = |list: &[(i64, i64)]| list.iter().map(|pair| pair.1).collect::<Vec<_>>();
        let a = self.reach(&c.a, [&firsts(&points), &firsts(&k)], width_a)?;
        let b = self.reach(&c.b, [&firsts(&vectors), &seconds(&k)], width_b)?;
        let out = self.reach(&c.out, [&seconds(&points), &seconds(&vectors)], LANES as u64)?;
        let (size_a, size_b) = (self.decl(c.a.param).dtype.bytes(), self.decl(c.b.param).dtype.bytes());
        let steps: Vec<(isize, isize)> =
            k.iter().map(|&(a, b)| (a as isize * size_a as isize, b as isize * size_b as isize)).collect();
        let init = self.init(c)?;
        for (p, &(a_point, out_point)) in points.iter().enumerate() {
            let at_a = (a as i64 + a_point * size_a as i64) as usize;
            for (v, &(b_vector, out_vector)) in vectors.iter().enumerate() {
                let at_b = (b as i64 + b_vector * size_b as i64) as usize;
                let at_out = (out as i64 + (out_point + out_vector) * 4) as usize;
                let mut sums = init.block(self.arena, at_out, p, v);
                dot(c.dot, self.arena, at_a, at_b, &steps, &mut sums);
                self.store_sums(c.out.param, at_out, &sums)?;
            }
        }
        Ok(())
    }

    /// The byte of `address`, after checking that it may move by each of the first and each of the second offsets.
    fn reach(&self, address: &Address, moves: [&[i64]; 2], width: u64) -> Res<usize> {
        let first = self.affine(&address.terms, address.offset);
        let least: i64 = moves.iter().map(|list| list.iter().min().unwrap_or(&0)).sum();
        let most: i64 = moves.iter().map(|list| list.iter().max().unwrap_or(&0)).sum();
        self.check_inside(address.param, first + least, first + most + width as i64 - 1)?;
        let param = address.param.0 as usize;
        // The base itself may lie outside when strides are negative: wrap, and come back with the offsets.
        let bytes = first * self.kernel.params[param].dtype.bytes() as i64;
        Ok((self.bases[param] as i64 + bytes) as usize)
    }

    fn store_sums(&mut self, param: Param, at: usize, sums: &[i64; LANES]) -> Res {
        let mut block = [0; LANES];
        for (lane, &sum) in block.iter_mut().zip(sums) {
            *lane = i32::try_from(sum).map_err(|_| format!("the contraction's {sum} overflows i32"))?;
        }
        self.check_declared(param, &block)?;
        for (bytes, lane) in self.arena[at..at + 4 * LANES].chunks_exact_mut(4).zip(&block) {
            bytes.copy_from_slice(&lane.to_le_bytes());
        }
        Ok(())
    }

    /// The start values, gathered for every point or vector.
    fn init(&self, c: &Contract) -> Res<Start> {
        let gather = |address: &Address, dims: &[Dim], strides: &[i64]| -> Vec<Address> {
            let dims: Vec<Dim> =
                dims.iter().zip(strides).map(|(dim, &stride)| Dim { first: stride, ..*dim }).collect();
            offsets(&dims).iter().map(|&(by, _)| address.clone().offset(by)).collect()
        };
        Ok(match &c.init {
            Init::Zero => Start::Zero,
            Init::Accumulate => Start::Out,
            Init::PerVector(address, strides) => Start::PerVector(
                gather(address, &c.vectors, strides)
                    .iter()
                    .map(|address| self.load_block::<LANES>(address).map(|block| block.map(i64::from)))
                    .collect::<Res<_>>()?,
            ),
            Init::PerPoint(address, strides) => Start::PerPoint(
                gather(address, &c.points, strides)
                    .iter()
                    .map(|address| self.load_scalar(address))
                    .collect::<Res<_>>()?,
            ),
        })
    }
}

enum Start {
    Zero,
    Out,
    PerVector(Vec<[i64; LANES]>),
    PerPoint(Vec<i64>),
}

impl Start {
    fn block(&self, arena: &[u8], out: usize, point: usize, vector: usize) -> [i64; LANES] {
        match self {
            Start::Zero => [0; LANES],
            Start::Out => std::array::from_fn(|lane| i32_at(&arena[out + 4 * lane..]) as i64),
            Start::PerVector(blocks) => blocks[vector],
            Start::PerPoint(starts) => [starts[point]; LANES],
        }
    }
}

/// Both offsets of every turn of nested dimensions, outermost first.
fn offsets(dims: &[Dim]) -> Vec<(i64, i64)> {
    dims.iter().fold(vec![(0, 0)], |outer, dim| {
        let turn = |&(a, b): &(i64, i64)| {
            (0..dim.n as i64).map(move |i| (a + i * dim.first, b + i * dim.second)).collect::<Vec<_>>()
        };
        outer.iter().flat_map(turn).collect()
    })
}

/// `sums[lane] += Σ a·b` over the steps (byte offsets in both operands).
fn dot(dot: Dot, arena: &[u8], a: usize, b: usize, steps: &[(isize, isize)], sums: &mut [i64; LANES]) {
    for &(step_a, step_b) in steps {
        let a = &arena[a.wrapping_add_signed(step_a)..][..4];
        let b = &arena[b.wrapping_add_signed(step_b)..][..64];
        match dot {
            Dot::U8I8 => {
                let [a0, a1, a2, a3] = [a[0] as i32, a[1] as i32, a[2] as i32, a[3] as i32];
                for (sum, b) in sums.iter_mut().zip(b.chunks_exact(4)) {
                    let product = a0 * b[0] as i8 as i32
                        + a1 * b[1] as i8 as i32
                        + a2 * b[2] as i8 as i32
                        + a3 * b[3] as i8 as i32;
                    *sum += product as i64;
                }
            }
            Dot::I8U8 => {
                let [a0, a1, a2, a3] = [a[0], a[1], a[2], a[3]].map(|byte| byte as i8 as i32);
                for (sum, b) in sums.iter_mut().zip(b.chunks_exact(4)) {
                    let product = a0 * b[0] as i32 + a1 * b[1] as i32 + a2 * b[2] as i32 + a3 * b[3] as i32;
                    *sum += product as i64;
                }
            }
            Dot::I16I16 => {
                let (a0, a1) = (i16_at(a, 0) as i64, i16_at(a, 1) as i64);
                for (sum, b) in sums.iter_mut().zip(b.chunks_exact(4)) {
                    *sum += a0 * i16_at(b, 0) as i64 + a1 * i16_at(b, 1) as i64;
                }
            }
        }
    }
}
