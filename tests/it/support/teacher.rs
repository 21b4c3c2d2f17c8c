//! One interpreted training step with every buffer kept, and its tensors as the oracle's: integers, or reals by units.
//!
//! Names of buffers are those that lowering gives; padded channels and borders are left out here.

use fqt_runtime::fixed::Dyadic;
use fqtc::ir::{Module, Node, Stage, Value};
use fqtc::kernel::interp::{self, Memory};
use fqtc::kernel::{BufferId, Kind, Program};
use fqtc::lower::{Mode, lower};
use fqtc::oracle::{self, Rounding};
use fqtc::passes;
use fqtc::tensor::Tensor;
use fqtc::types::{flag, int};

use super::models::Random;

/// A module, its program, and memory before and after one step.
pub(crate) struct Step {
    pub(crate) module: Module,
    program: Program,
    before: Memory,
    after: Memory,
    /// How the oracle quantizes: with the ranges and random bits of this step.
    pub(crate) rounding: Rounding,
}

impl Step {
    /// Runs `steps` steps on random images and labels and keeps the last. `seed` draws the rounding; `change` alters the
    /// memory before the first step.
    pub(crate) fn run(module: Module, seed: u64, steps: u64, change: impl Fn(&mut Edit)) -> Step {
        let module = passes::run(module, Stage::Bits, |_, _| ()).unwrap();
        let lowered = lower(&module, Mode::Train).unwrap_or_else(|error| panic!("{}", error.message));
        let program = lowered.program;
        let mut memory = Memory::new(&program);
        let mut random = Random(5);
        for (i, buffer) in program.buffers.iter().enumerate() {
            let id = BufferId(i as u32);
            if let Some(initial) = lowered.initial.get(&buffer.name) {
                memory.write(&program, id, &initial.values(buffer.len() as usize));
            }
            if buffer.kind == Kind::Input {
                let count = (buffer.range.hi - buffer.range.lo + 1) as usize;
                let values: Vec<i64> =
                    (0..buffer.len()).map(|_| buffer.range.lo + random.below(count) as i64).collect();
                memory.write(&program, id, &values);
            }
        }
        let mut edit = Edit { program: &program, memory: &mut memory };
        edit.set("input.mean", &vec![128; module.ty(module.image).shape[3] as usize]);
        edit.set("seed", &[seed as i64]);
        edit.set("steps", &[100]);
        change(&mut edit);
        let mut before = memory.clone();
        for _ in 0..steps {
            before = memory.clone();
            interp::run(&program, &mut memory).unwrap_or_else(|trap| panic!("{trap}"));
        }
        let rounding = Rounding { seed, step: steps - 1, ..Rounding::default() };
        let mut step = Step { module, program, before, after: memory, rounding };
        let quantized: Vec<String> = step.nodes("quantize").map(|node| node.path.clone()).collect();
        for path in quantized {
            let name = format!("{path}.activation.range");
            if step.find(&name).is_some() {
                let range = step.dyadics_before(&name);
                step.rounding.ranges.insert(path, range);
            }
        }
        step
    }

    pub(crate) fn nodes(&self, op: &str) -> impl Iterator<Item = &Node> {
        self.module.nodes.iter().filter(move |node| node.op == op)
    }

    fn find(&self, name: &str) -> Option<BufferId> {
        self.program.buffers.iter().position(|b| b.name == name).map(|i| BufferId(i as u32))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn id(&self, name: &str) -> BufferId {
        self.find(name).unwrap_or_else(|| panic!("no buffer @{name}"))
    }

    /// Elements of a buffer after the step.
    pub(crate) fn ints(&self, name: &str) -> Vec<i64> {
        self.after.read(&self.program, self.id(name))
    }

    /// Elements of a buffer before the step.
    pub(crate) fn ints_before(&self, name: &str) -> Vec<i64> {
        self.before.read(&self.program, self.id(name))
    }

    /// The only element of a buffer.
    pub(crate) fn int(&self, name: &str) -> i64 {
        self.ints(name)[0]
    }

    /// Dyadics after the step.
    pub(crate) fn dyadics(&self, name: &str) -> Vec<f64> {
        self.ints(name).into_iter().map(real).collect()
    }

    fn dyadics_before(&self, name: &str) -> Vec<f64> {
        self.ints_before(name).into_iter().map(real).collect()
    }

    /// Evaluates a node by the oracle.
    pub(crate) fn oracle(&self, node: &Node, operands: &[&Tensor]) -> Vec<Tensor> {
        oracle::node(&self.module, node, operands, &self.rounding)
    }

    pub(crate) fn producer(&self, value: Value) -> &Node {
        &self.module.nodes[self.module.producer(value).unwrap()]
    }

    pub(crate) fn shape(&self, value: Value) -> Vec<u64> {
        self.module.ty(value).shape.clone()
    }

    /// A dense buffer `[..][channels, padded]` as tensor of integers.
    pub(crate) fn dense(&self, name: &str, shape: &[u64]) -> Tensor {
        let ints = self.ints(name);
        let c = *shape.last().unwrap() as usize;
        let data = ints.chunks_exact(c.next_multiple_of(16)).flat_map(|row| &row[..c]).map(|&v| v as f64);
        Tensor::new(shape, data.collect())
    }

    /// Activation codes above their zero code, as integers.
    pub(crate) fn codes(&self, value: Value) -> Tensor {
        if value == self.module.image {
            return self.image();
        }
        let node = self.producer(value);
        let shape = image_shape(&self.shape(value));
        let (name, zero) = match node.op.as_str() {
            "max_pool" => ("pooled", 0),
            _ => ("activation", if flag(&node.attrs, "signed") { 128 } else { 0 }),
        };
        let ints = self.ints(&format!("{}.{name}.codes", node.path));
        let [n, h, w, c] = shape;
        let cp = c.next_multiple_of(16);
        let border = |p: usize| n * (h + 2 * p) * (w + 2 * p) * cp + 16;
        let p = (0..8).find(|&p| border(p) == ints.len()).expect("a border of equal width");
        let at = |i: usize, y: usize, x: usize| ((i * (h + 2 * p) + y + p) * (w + 2 * p) + x + p) * cp;
        let data = positions(shape).flat_map(|[i, y, x]| ints[at(i, y, x)..][..c].to_vec());
        Tensor::new(self.shape(value), data.map(|v| (v - zero) as f64).collect())
    }

    /// The unit of activation codes.
    pub(crate) fn step_of(&self, value: Value) -> f64 {
        if value == self.module.image {
            return 1.0 / 64.0;
        }
        match self.producer(value) {
            node if node.op == "max_pool" => self.step_of(node.operands[0]),
            node => self.dyadics(&format!("{}.activation.step", node.path))[0],
        }
    }

    fn image(&self) -> Tensor {
        let shape = image_shape(&self.shape(self.module.image));
        let [_, h, w, c] = shape;
        let (pixels, mean) = (self.ints("images"), self.ints("input.mean"));
        let at = |i: usize, y: usize, x: usize, k: usize| ((i * c + k) * h + y) * w + x;
        let data = positions(shape)
            .flat_map(|[i, y, x]| (0..c).map(move |k| (at(i, y, x, k), k)))
            .map(|(at, k)| (pixels[at] - mean[k]) as f64);
        Tensor::new(self.shape(self.module.image), data.collect())
    }

    /// `[in][tap][out, padded]` as `[out, kernel, in]`.
    fn by_output(&self, ints: &[i64], shape: &[u64]) -> Tensor {
        let (co, ci) = (shape[0] as usize, *shape.last().unwrap() as usize);
        let taps = shape.iter().product::<u64>() as usize / (co * ci);
        let cop = co.next_multiple_of(16);
        let at = |o: usize, tap: usize, i: usize| ints[(i * taps + tap) * cop + o] as f64;
        let data = (0..co)
            .flat_map(|o| (0..taps).flat_map(move |tap| (0..ci).map(move |i| (o, tap, i))))
            .map(|(o, tap, i)| at(o, tap, i));
        Tensor::new(shape, data.collect())
    }

    /// Codes of a layer's weight, as integers.
    pub(crate) fn weight_codes(&self, path: &str, shape: &[u64]) -> Tensor {
        let ints = self.ints(&format!("{path}.weight_codes"));
        let (co, ci) = (shape[0] as usize, *shape.last().unwrap() as usize);
        let (cop, taps) = (co.next_multiple_of(16), shape.iter().product::<u64>() as usize / (co * ci));
        let rows = ints.len() / (cop * taps);
        let kept: Vec<i64> = (0..ci)
            .flat_map(|i| (0..taps).map(move |tap| (tap * rows + i) * cop))
            .flat_map(|at| ints[at..at + cop].to_vec())
            .collect();
        self.by_output(&kept, shape)
    }

    /// A weight-shaped buffer after the step, as integers.
    pub(crate) fn weight(&self, name: &str, shape: &[u64]) -> Tensor {
        self.by_output(&self.ints(name), shape)
    }

    /// A weight-shaped buffer before the step, as integers.
    pub(crate) fn weight_before(&self, name: &str, shape: &[u64]) -> Tensor {
        self.by_output(&self.ints_before(name), shape)
    }

    /// A per-channel parameter before the step.
    pub(crate) fn vector_before(&self, value: Value) -> Tensor {
        let param = self.module.params.iter().find(|p| p.value == value).unwrap();
        let n = param.ty.shape.first().map_or(1, |&n| n as usize);
        let ints = self.ints_before(&param.name);
        Tensor::new(param.ty.shape.clone(), ints[..n].iter().map(|&v| v as f64 / (1 << 28) as f64).collect())
    }

    /// Gradient codes of a layer's weight gradient, as integers.
    pub(crate) fn gradient_codes(&self, path: &str, shape: &[u64]) -> Tensor {
        let blocks = format!("{path}.gradient0.blocks");
        if !self.has(&blocks) {
            return self.bordered_gradient_codes(path, image_shape(shape));
        }
        let ints = self.ints(&blocks);
        let [n, h, w, c] = image_shape(shape);
        let cp = c.next_multiple_of(16);
        if shape.len() == 2 {
            return self.dense(&blocks, shape);
        }
        assert_eq!(ints.len(), n * h * w.div_ceil(4) * cp * 4);
        let quad = |i: usize, y: usize, x: usize| ((i * h + y) * w.div_ceil(4) + x / 4) * cp * 4 + x % 4;
        let data = positions([n, h, w, c])
            .flat_map(|[i, y, x]| (0..c).map(move |k| quad(i, y, x) + 4 * k))
            .map(|at| ints[at] as f64);
        Tensor::new(shape, data.collect())
    }

    /// The same of a depthwise convolution: NHWC with the border that its data gradient visits, above a zero code.
    fn bordered_gradient_codes(&self, path: &str, [n, h, w, c]: [usize; 4]) -> Tensor {
        let name = format!("{path}.gradient0.codes");
        let (ints, zero) =
            (self.ints(&name), (self.program.buffers[self.id(&name).0 as usize].range.hi + 1) / 2);
        let node = self.nodes("depthwise_conv2d_grad_weight").find(|node| node.path == path).unwrap();
        let (stride, padding) = (int(&node.attrs, "stride"), int(&node.attrs, "padding"));
        let (weight, input) = (self.shape(node.results[0]), self.shape(node.operands[0]));
        // Pixel i meets outputs (i + padding − tap)/stride.
        let axis = |kernel: u64, input: u64, output: usize| {
            let first = -((kernel as i64 - 1 - padding) / stride);
            let last = (input as i64 - 1 + padding) / stride;
            (first.min(0).unsigned_abs() as usize, (last - output as i64 + 1).max(0) as usize)
        };
        let (top, bottom) = axis(weight[1], input[1], h);
        let (left, right) = axis(weight[2], input[2], w);
        let (rows, columns, cp) = (h + top + bottom, w + left + right, c.next_multiple_of(16));
        assert_eq!(ints.len(), n * rows * columns * cp + 16, "{name}");
        let at = |i: usize, y: usize, x: usize| ((i * rows + y + top) * columns + x + left) * cp;
        let data = positions([n, h, w, c]).flat_map(|[i, y, x]| ints[at(i, y, x)..][..c].to_vec());
        Tensor::new([n, h, w, c].map(|e| e as u64), data.map(|v| (v - zero) as f64).collect())
    }
}

/// The memory before a step, to change.
pub(crate) struct Edit<'a> {
    program: &'a Program,
    memory: &'a mut Memory,
}

impl Edit<'_> {
    /// Writes the first elements of a buffer.
    pub(crate) fn set(&mut self, name: &str, values: &[i64]) {
        let id = self.program.buffers.iter().position(|b| b.name == name).unwrap();
        self.memory.write(self.program, BufferId(id as u32), values);
    }

    /// Changes one output channel of a weight.
    pub(crate) fn scale_channel(&mut self, name: &str, channel: usize, f: impl Fn(i64) -> i64) {
        let at = self.program.buffers.iter().position(|b| b.name == name).unwrap();
        let cop = *self.program.buffers[at].extents.last().unwrap() as usize;
        let mut values = self.memory.read(self.program, BufferId(at as u32));
        values.iter_mut().skip(channel).step_by(cop).for_each(|v| *v = f(*v));
        self.memory.write(self.program, BufferId(at as u32), &values);
    }
}

fn real(packed: i64) -> f64 {
    let Dyadic { m, e } = Dyadic::unpack(packed as u64);
    m as f64 * (e as f64).exp2()
}

/// Extents as images; vectors are images of one pixel.
fn image_shape(shape: &[u64]) -> [usize; 4] {
    match *shape {
        [n, c] => [n as usize, 1, 1, c as usize],
        [n, h, w, c] => [n, h, w, c].map(|e| e as usize),
        _ => panic!("no image: {shape:?}"),
    }
}

fn positions([n, h, w, _]: [usize; 4]) -> impl Iterator<Item = [usize; 3]> {
    (0..n).flat_map(move |i| (0..h).flat_map(move |y| (0..w).map(move |x| [i, y, x])))
}

/// A tensor times one factor, or one a channel.
pub(crate) fn times(x: &Tensor, factors: &[f64]) -> Tensor {
    let channels = x.shape.last().map_or(1, |&c| c as usize);
    let factor = |i: usize| if factors.len() == 1 { factors[0] } else { factors[i % channels] };
    Tensor { shape: x.shape.clone(), data: x.data.iter().enumerate().map(|(i, v)| v * factor(i)).collect() }
}
