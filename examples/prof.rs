#![allow(unsafe_code, missing_docs, clippy::all)]
use fqt_runtime::step::Kernels;
use std::collections::BTreeMap;
use std::time::Instant;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let bits: i64 = std::env::args().nth(2).map_or(4, |v| v.parse().unwrap());
    let text = std::fs::read_to_string(&path).unwrap();
    let file = fqtc::syntax::file(&text).ok().unwrap();
    let ov = fqtc::elaborate::Overrides { gbits: Some(bits), ..Default::default() };
    let e = fqtc::elaborate::elaborate(&file, &ov).ok().unwrap();
    let c = fqtc::driver::compile(e.module).ok().unwrap();
    let t = fqtc::targets::host().unwrap();
    let j = fqtc::codegen::jit::JitStep::new(&c.programs[0], t).unwrap();
    let a = &c.artifact;
    let mut arena = vec![0u8; a.arena_bytes as usize + 4096];
    let off = arena.as_ptr().align_offset(4096);
    for (o, b) in &a.initial {
        arena[off + *o as usize..][..b.len()].copy_from_slice(b);
    }
    let im = a.images.offset as usize;
    let n = a.images.len() as usize;
    let mut x = 12345u32;
    for i in 0..n {
        x = x.wrapping_mul(1664525).wrapping_add(1013904223);
        arena[off + im + i] = (x >> 24) as u8;
    }
    let p = unsafe { arena.as_mut_ptr().add(off) };
    let mut by: BTreeMap<String, (f64, u32)> = BTreeMap::new();
    let mut best = vec![f64::MAX; a.train.len()];
    for _ in 0..6 {
        for (i, call) in a.train.iter().enumerate() {
            let s = Instant::now();
            unsafe { j.run(call.kernel, p, a.args[call.args as usize..].as_ptr(), 0, call.items) };
            best[i] = best[i].min(s.elapsed().as_secs_f64());
        }
    }
    let mut total = 0.0;
    for (i, call) in a.train.iter().enumerate() {
        let k = &c.programs[0].kernels[call.kernel as usize];
        let buf = &c.programs[0].buffers[c.programs[0].calls[i].args[0].0 as usize].name;
        total += best[i];
        let e = by.entry(k.name.clone()).or_default();
        e.0 += best[i];
        e.1 += 1;
        if best[i] > 300e-6 {
            println!("{:24} {:40} items {:3} {:8.1} us", k.name, buf, call.items, best[i] * 1e6);
        }
    }
    let mut v: Vec<_> = by.into_iter().collect();
    v.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    for (k, (t, n)) in v {
        println!("{k:24} {n:4} calls {:9.1} us {:5.1} %", t * 1e6, t / total * 100.0);
    }
    println!(
        "total {:.1} ms one thread, {:.0} images/s; arena {} MB, {} kernels",
        total * 1e3,
        a.batch as f64 / total,
        a.arena_bytes >> 20,
        c.programs[0].kernels.len()
    );
}
