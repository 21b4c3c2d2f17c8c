//! How far integers may be from the values that they stand for: what the coefficients of a grid are off, and what edges between
//! groups round.

use fqtc::ir::{Node, Value};
use fqtc::lower::Mode;
use fqtc::tensor::Tensor;

use super::teacher::Step;

impl Step {
    /// One unit of 2^−k of the grid of `path`, in steps of the grid.
    pub(crate) fn fine(&self, path: &str) -> f64 {
        (-self.int(&format!("{path}.shift")) as f64).exp2()
    }

    /// How far integer coefficients may move each element from the real value, in steps of the grid of `path`: half a
    /// unit of every coefficient times its (centred) source, and of every offset.
    pub(crate) fn grid_error(&self, path: &str, value: Value) -> Vec<f64> {
        self.coefficient_error(path, &self.sources(value, IN_GROUPS))
    }

    fn coefficient_error(&self, path: &str, sources: &Tensor) -> Vec<f64> {
        let channels = *sources.shape.last().unwrap() as usize;
        let cut_off = self.cut_off(path);
        let error = |v: f64| (0.5 * v + 2.0) * self.fine(path) + 1e-4;
        let all = sources.data.iter().enumerate();
        all.map(|(i, &v)| if cut_off[i % channels] { f64::INFINITY } else { error(v) }).collect()
    }

    /// Channels of which a coefficient has reached its limit: a norm's that is too quiet for a scale that it shares.
    fn cut_off(&self, path: &str) -> Vec<bool> {
        let quiet = [0, 1].map(|term| self.has(&format!("{path}.audible{term}")));
        let coefficients = self.ints(&format!("{path}.coef0"));
        let cut = |(term, a): (usize, &i64)| quiet[term] && a.abs() == 1 << 14;
        coefficients.chunks(2).map(|pair| pair.iter().enumerate().any(cut)).collect()
    }

    /// The name of the grid of a value that is stored at an edge between groups.
    fn edge(&self, value: Value) -> Option<String> {
        let node = self.module.producer(value).map(|i| &self.module.nodes[i])?;
        let name = format!("{}.{}", node.path, node.op);
        self.has(&format!("{name}.wide")).then_some(name)
    }

    /// How far the edges between groups that lie behind `value` may move it: of each, half a step of its 16 bits and what
    /// its own coefficients are off.
    pub(crate) fn edge_error(&self, value: Value) -> Vec<f64> {
        let node = self.producer(value);
        let mut error = vec![0.0; self.shape(value).iter().product::<u64>() as usize];
        let mut add = |more: Vec<f64>| error.iter_mut().zip(more).for_each(|(e, more)| *e += more);
        if matches!(node.op.as_str(), "relu" | "add") {
            node.operands.iter().for_each(|&operand| add(self.edge_error(operand)));
        }
        if let Some(grid) = self.edge(value) {
            let step = self.dyadics(&format!("{grid}.step"))[0];
            let coefficients = self.coefficient_error(&grid, &self.computed_from(value, AT_EDGES));
            add(coefficients.into_iter().map(|e| (0.5 + e) * step).collect());
        }
        error
    }

    /// How far an element on the grid of `path` may be from the real value, in steps: by the grid and the edges behind it.
    pub(crate) fn whole_error(&self, path: &str, value: Value) -> Vec<f64> {
        let step = self.dyadics(&format!("{path}.step"))[0];
        let edges = self.edge_error(value);
        self.grid_error(path, value).iter().zip(edges).map(|(own, edge)| own + edge / step).collect()
    }

    /// The sum of the sizes of the sources that an affine value combines, codes raised to so many bits.
    fn sources(&self, value: Value, bits: u32) -> Tensor {
        match self.edge(value) {
            Some(grid) => self.dense(&format!("{grid}.wide"), &self.shape(value)).map(f64::abs),
            None => self.computed_from(value, bits),
        }
    }

    fn computed_from(&self, value: Value, bits: u32) -> Tensor {
        let node = self.producer(value);
        let sources = |operand: usize| self.sources(node.operands[operand], bits);
        match node.op.as_str() {
            "relu" => sources(0),
            "add" => sources(0).zip(&sources(1), |a, b| a + b),
            "batch_norm" if self.mode == Mode::Eval => self.off_running_mean(node),
            "batch_norm" => centred(&self.before_norm(node.operands[0])),
            "quantize" | "max_pool" => {
                let raised = self.raised(value, bits);
                self.integers(value).map(|code| code.abs() * raised)
            }
            _ => self.integers(value).map(f64::abs),
        }
    }

    /// The distance of what a norm reads from its running mean.
    fn off_running_mean(&self, node: &Node) -> Tensor {
        let means = self.dyadics(&format!("{}.running_mean", node.path));
        let (x, before) = (self.before_norm(node.operands[0]), self.producer(node.operands[0]));
        let units = match before.op.as_str() {
            "quantize" | "max_pool" => {
                vec![self.step_of(node.operands[0]) / self.raised(node.operands[0], AT_EDGES)]
            }
            _ => self.dyadics(&format!("{}.unit", before.path)),
        };
        let c = *x.shape.last().unwrap() as usize;
        let distance = |(i, x): (usize, &f64)| (x - means[i % c] / units[i % c % units.len()]).abs();
        Tensor::new(x.shape.clone(), x.data.iter().enumerate().map(distance).collect())
    }

    /// The integers that a norm reads.
    fn before_norm(&self, value: Value) -> Tensor {
        let codes = matches!(self.producer(value).op.as_str(), "quantize" | "max_pool");
        let raised = if codes { self.raised(value, AT_EDGES) } else { 1.0 };
        self.integers(value).map(|x| x * raised)
    }

    /// What codes are multiplied by to be of so many bits.
    fn raised(&self, codes: Value, bits: u32) -> f64 {
        ((bits - self.bits(self.quantizer(codes))) as f64).exp2()
    }

    /// The integers of a stored value: codes, accumulators shifted down to 16 bits, or sums of windows.
    fn integers(&self, value: Value) -> Tensor {
        let node = self.producer(value);
        let slot = match node.op.as_str() {
            "quantize" | "max_pool" => return self.codes(value),
            "avg_pool" | "global_avg_pool" => "sum",
            _ => "t",
        };
        self.dense(&format!("{}.{slot}", node.path), &self.shape(value))
    }

    /// The quantizer whose codes a value has.
    fn quantizer(&self, value: Value) -> &Node {
        let node = self.producer(value);
        if node.op == "quantize" { node } else { self.quantizer(node.operands[0]) }
    }
}

/// Bits to which codes are raised beside 16-bit integers: those of the narrow ones, and at edges and before norms all.
const IN_GROUPS: u32 = 8;
const AT_EDGES: u32 = 15;

/// The distance of every element from the mean of its channel.
pub(crate) fn centred(x: &Tensor) -> Tensor {
    let channels = *x.shape.last().unwrap() as usize;
    let mean = |c: usize| {
        let n = (x.data.len() / channels) as f64;
        x.data.iter().skip(c).step_by(channels).sum::<f64>() / n
    };
    let means: Vec<f64> = (0..channels).map(mean).collect();
    let data = x.data.iter().enumerate().map(|(i, v)| (v - means[i % channels]).abs());
    Tensor::new(x.shape.clone(), data.collect())
}
