//! Parameters in memory as real tensors: the way back from what lowering stores.

use super::weights::MASTER_BITS;
use crate::ir::Param;
use crate::tensor::Tensor;

/// The values of a parameter from the elements of its buffer, which has these extents: masters
/// `[in][tap][out, padded]` of a weight, or one a channel.
pub fn parameter(param: &Param, extents: &[u32], masters: &[i32]) -> Tensor {
    let shape = &param.ty.shape;
    let real = |master: i32| f64::from(master) / f64::from(1u32 << MASTER_BITS);
    let data = match (shape.len(), extents) {
        (2.., &[inputs, taps, padded]) => {
            let [inputs, taps, padded] = [inputs, taps, padded].map(|n| n as usize);
            let at = |o: usize, tap: usize, i: usize| masters[(i * taps + tap) * padded + o];
            let places = move |o| (0..taps).flat_map(move |tap| (0..inputs).map(move |i| (o, tap, i)));
            (0..shape[0] as usize).flat_map(places).map(|(o, tap, i)| real(at(o, tap, i))).collect()
        }
        _ => masters[..shape.iter().product::<u64>() as usize].iter().map(|&m| real(m)).collect(),
    };
    Tensor::new(shape.clone(), data)
}
