//! Real tensors of the oracle.

/// A real tensor: row-major f64 with its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Extents, outermost first.
    pub shape: Vec<u64>,
    /// Row-major elements.
    pub data: Vec<f64>,
}

impl Tensor {
    /// From a shape and its elements; they must fit (a broken invariant otherwise).
    pub fn new(shape: impl Into<Vec<u64>>, data: Vec<f64>) -> Tensor {
        let shape = shape.into();
        assert_eq!(shape.iter().product::<u64>(), data.len() as u64, "elements of a tensor fit its shape");
        Tensor { shape, data }
    }

    /// All zeros.
    pub fn zeros(shape: impl Into<Vec<u64>>) -> Tensor {
        let shape = shape.into();
        let n = shape.iter().product::<u64>() as usize;
        Tensor { shape, data: vec![0.0; n] }
    }

    /// A scalar.
    pub fn scalar(value: f64) -> Tensor {
        Tensor { shape: vec![], data: vec![value] }
    }

    /// The extent of an axis.
    pub fn dim(&self, axis: usize) -> usize {
        self.shape[axis] as usize
    }

    /// Elementwise function of two tensors of one shape.
    pub fn zip(&self, other: &Tensor, f: impl Fn(f64, f64) -> f64) -> Tensor {
        let data = self.data.iter().zip(&other.data).map(|(&a, &b)| f(a, b)).collect();
        Tensor { shape: self.shape.clone(), data }
    }

    /// Elementwise function.
    pub fn map(&self, f: impl Fn(f64) -> f64) -> Tensor {
        Tensor { shape: self.shape.clone(), data: self.data.iter().map(|&a| f(a)).collect() }
    }

    /// Largest magnitude.
    pub fn largest(&self) -> f64 {
        self.data.iter().fold(0.0, |m, v| v.abs().max(m))
    }
}
