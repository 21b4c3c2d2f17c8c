//! What running a kernel costs by its text: products, and memory that it touches. For reports only; nothing is decided by it.

use super::touches::{Touch, touches};
use super::{Contract, Dim, Kernel, LANES, Stmt};

/// What a kernel mostly is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// It has a contraction, with whatever is done to the sums while they are in cache.
    Contraction,
    /// Lanes over many items.
    Elementwise,
    /// One item, so one thread: scalars of a tensor or a channel.
    Single,
}

impl Class {
    /// All of them.
    pub const ALL: [Class; 3] = [Class::Contraction, Class::Elementwise, Class::Single];
}

/// What all items of a kernel do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// What it mostly is.
    pub class: Class,
    /// Multiply-accumulates of contractions, those on padding included.
    pub macs: u64,
    /// Steps of single lanes of a dot product instruction: four multiply-accumulates of bytes, or two of 16 bits.
    pub dots: u64,
    /// Bytes that it reads or writes: per parameter the span from the first to the last, once for reading and once for
    /// writing, however often it happens and wherever they lie.
    pub bytes: u64,
}

/// The cost of a kernel that verifies.
pub fn cost(kernel: &Kernel) -> Cost {
    let mut sums = (0, 0);
    let contracts = count(&kernel.body, u64::from(kernel.items), &mut sums);
    let class = match (contracts, kernel.items) {
        (true, _) => Class::Contraction,
        (false, 1) => Class::Single,
        (false, _) => Class::Elementwise,
    };
    Cost { class, macs: sums.0, dots: sums.1, bytes: bytes(kernel) }
}

/// Adds the products of statements that run `turns` times to (MACs, dots); says whether there is a contraction.
fn count(body: &[Stmt], turns: u64, sums: &mut (u64, u64)) -> bool {
    let mut found = false;
    for stmt in body {
        match stmt {
            Stmt::For { count: n, body, .. } => found |= count(body, turns * u64::from(*n), sums),
            Stmt::Contract(contract) => {
                let dots = turns * dots(contract);
                sums.0 += turns * macs(contract);
                sums.1 += dots;
                found = true;
            }
            _ => {}
        }
    }
    found
}

/// Multiply-accumulates of a contraction, those on padding included.
pub fn macs(contract: &Contract) -> u64 {
    dots(contract) * contract.dot.group()
}

fn dots(contract: &Contract) -> u64 {
    let product = |dims: &[Dim]| dims.iter().map(|dim| u64::from(dim.n)).product::<u64>();
    product(&contract.points) * product(&contract.vectors) * product(&contract.k) * LANES as u64
}

fn bytes(kernel: &Kernel) -> u64 {
    let all = touches(kernel);
    let span = |param: usize, pick: &dyn Fn(&Touch<'_>) -> bool| -> u64 {
        let own = all.iter().filter(|touch| touch.param.0 as usize == param && pick(touch));
        let ends = own.map(Touch::extent).reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
        ends.map_or(0, |(first, last)| (last - first + 1) as u64)
    };
    let one = |(i, param): (usize, &super::ParamDecl)| {
        (span(i, &|touch| touch.read) + span(i, &|touch| touch.write)) * param.dtype.bytes() as u64
    };
    kernel.params.iter().enumerate().map(one).sum()
}
