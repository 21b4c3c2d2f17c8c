//! One interpreted training step with every buffer kept, and its tensors as the oracle's: integers, or reals by units.
//!
//! Names of buffers are those that lowering gives; padded channels and borders are left out here.

use std::collections::BTreeMap;

use fqt_runtime::fixed::Dyadic;
use fqtc::ir::canonical::canonicalize;
use fqtc::ir::{Module, Node, Role, Value};
use fqtc::kernel::interp::{self, Memory};
use fqtc::kernel::{Access, Buffer, BufferId, DType, Kind, Program};
use fqtc::lower::{Mode, lower};
use fqtc::numbers::packed;
use fqtc::oracle::{self, Rounding};
use fqtc::passes;
use fqtc::quant::{self, Quantization};
use fqtc::tensor::Tensor;
use fqtc::types::{flag, int, word};

use super::models::Random;

/// Steps of the run that a step belongs to.
const STEPS: i64 = 100;

/// A module, its program, and memory before and after one step.
pub(crate) struct Step {
    pub(crate) module: Module,
    pub(crate) mode: Mode,
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
        Step::without(module, &[], seed, steps, change)
    }

    /// The same, of a module that skipped some passes.
    pub(crate) fn without(
        mut module: Module,
        skipped: &[&str],
        seed: u64,
        steps: u64,
        change: impl Fn(&mut Edit),
    ) -> Step {
        canonicalize(&mut module);
        for pass in passes::ALL {
            if skipped.contains(&pass.name) {
                module.stage = pass.gives;
            } else {
                module = pass.run(module).unwrap();
            }
        }
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
        edit.set("steps", &[STEPS]);
        change(&mut edit);
        let mut before = memory.clone();
        for _ in 0..steps {
            before = memory.clone();
            interp::run(&program, &mut memory).unwrap_or_else(|trap| panic!("{trap}"));
        }
        let rounding = Rounding { seed, step: steps - 1, ..Rounding::default() };
        let mut step = Step { module, mode: Mode::Train, program, before, after: memory, rounding };
        step.know_ranges();
        step.know_largest_codes();
        step
    }

    /// Repeats the last step of `other`, with the program of this module: from the same state and inputs, and with the
    /// contents of every buffer that `shared` names replaced by those of `other` as soon as it is written. Gives also what
    /// this program itself wrote there.
    pub(crate) fn beside(
        mut self,
        other: &Step,
        shared: impl Fn(&str) -> bool,
    ) -> (Step, BTreeMap<String, Vec<i64>>) {
        for (i, buffer) in self.program.buffers.iter().enumerate() {
            if matches!(buffer.kind, Kind::State | Kind::Persistent | Kind::Input) {
                self.before.write(&self.program, BufferId(i as u32), &other.ints_before(&buffer.name));
            }
        }
        let (mut memory, mut own) = (self.before.clone(), BTreeMap::new());
        for call in &self.program.calls {
            let kernel = &self.program.kernels[call.kernel];
            let args: Vec<u32> = call.args.iter().map(|id| memory.offsets[id.0 as usize]).collect();
            interp::run_kernel(kernel, &mut memory.arena, &args, 0, kernel.items)
                .unwrap_or_else(|trap| panic!("{trap}"));
            for (&id, param) in call.args.iter().zip(&kernel.params) {
                let name = &self.program.buffers[id.0 as usize].name;
                if param.access != Access::Read && shared(name) {
                    own.insert(name.clone(), memory.read(&self.program, id));
                    memory.write(&self.program, id, &other.ints(name));
                }
            }
        }
        self.after = memory;
        self.rounding = other.rounding.clone();
        (self, own)
    }

    /// The evaluation of what this step began with, on its images.
    pub(crate) fn evaluated(&self, mode: Mode) -> Step {
        let program = lower(&self.module, mode).unwrap_or_else(|error| panic!("{}", error.message)).program;
        let mut before = Memory::new(&program);
        for (i, buffer) in program.buffers.iter().enumerate() {
            if matches!(buffer.kind, Kind::State | Kind::Persistent | Kind::Input) {
                before.write(&program, BufferId(i as u32), &self.ints_before(&buffer.name));
            }
        }
        let mut after = before.clone();
        interp::run(&program, &mut after).unwrap_or_else(|trap| panic!("{trap}"));
        let rounding = Rounding { ranges: self.rounding.ranges.clone(), ..Rounding::default() };
        Step { module: self.module.clone(), mode, program, before, after, rounding }
    }

    /// Gives the oracle the ranges with which the step began.
    fn know_ranges(&mut self) {
        let known = |node: &Node| {
            let name = format!("{}.activation.range", node.path);
            self.has(&name).then(|| (oracle::range_key(node), self.dyadics_before(&name)))
        };
        let ranges: Vec<(String, Vec<f64>)> = self.activations().filter_map(known).collect();
        self.rounding.ranges.extend(ranges);
    }

    /// Gives the oracle the largest codes in force of a cycle, by its formula.
    fn know_largest_codes(&mut self) {
        let (policy, params) = &self.module.training.precision;
        if policy != "cyclic" {
            return;
        }
        let (low, cycles) = (int(params, "low") as f64, int(params, "cycles") as f64);
        let t = (self.rounding.step as f64 * cycles / STEPS as f64).fract();
        let risen = 0.5 - 0.5 * (std::f64::consts::PI * t).cos();
        let forward = |node: &&Node| !node.attrs.contains_key("stream");
        let largest = |node: &Node| {
            let bits = self.bits(node) as f64;
            let now = (low + (bits - low).max(0.0) * risen).round().min(bits) as u32;
            let now = if flag(&node.attrs, "signed") { now - 1 } else { now };
            (oracle::range_key(node), (1 << now) - 1)
        };
        self.rounding.largest_codes = self.nodes("quantize").filter(forward).map(largest).collect();
    }

    /// The codes of a quantizer that are in force.
    pub(crate) fn levels(&self, node: &Node) -> quant::Levels {
        let scheme = &self.module.schemes[word(&node.attrs, "scheme")];
        let quantizer = quant::find(&scheme.quantizer).unwrap();
        let levels = quantizer.levels(self.bits(node), flag(&node.attrs, "signed"));
        self.rounding.largest_code(node).map_or(levels, |hi| levels.up_to(hi))
    }

    /// The quantizers of activations.
    pub(crate) fn activations(&self) -> impl Iterator<Item = &Node> {
        self.nodes("quantize").filter(|node| self.is_activation(node))
    }

    /// Whether a quantizer is one of activations.
    pub(crate) fn is_activation(&self, node: &Node) -> bool {
        let scheme = &self.module.schemes[word(&node.attrs, "scheme")];
        quant::find(&scheme.quantizer).unwrap().role() == Role::Activations
    }

    /// Names of the buffers that outlive the step.
    pub(crate) fn state(&self) -> impl Iterator<Item = &str> {
        let lasting = |b: &&Buffer| matches!(b.kind, Kind::State | Kind::Persistent | Kind::Output);
        self.program.buffers.iter().filter(lasting).map(|b| b.name.as_str())
    }

    /// Names of all buffers.
    pub(crate) fn buffers(&self) -> impl Iterator<Item = &str> {
        self.program.buffers.iter().map(|b| b.name.as_str())
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

    /// All that outlives the step.
    pub(crate) fn kept(&self) -> BTreeMap<&str, Vec<i64>> {
        let buffers = self.program.buffers.iter().filter(|buffer| buffer.kind != Kind::Temp);
        buffers.map(|buffer| (buffer.name.as_str(), self.ints(&buffer.name))).collect()
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

    /// Dyadics before the step.
    pub(crate) fn dyadics_before(&self, name: &str) -> Vec<f64> {
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
        let name = match node.op.as_str() {
            "reshape" => return Tensor::new(self.shape(value), self.codes(node.operands[0]).data),
            "max_pool" => format!("{}.pooled.codes", node.path),
            _ => format!("{}.activation.codes", node.path),
        };
        self.codes_in(value, &self.ints(&name))
    }

    /// The same from the contents of the buffer of codes.
    pub(crate) fn codes_in(&self, value: Value, ints: &[i64]) -> Tensor {
        let node = self.producer(value);
        let shape = image_shape(&self.shape(value));
        let zero = self.zero_code(node);
        let [n, h, w, c] = shape;
        let cp = c.next_multiple_of(16);
        let border = |p: usize| n * (h + 2 * p) * (w + 2 * p) * cp + 16;
        let p = (0..8).find(|&p| border(p) == ints.len()).expect("a border of equal width");
        let at = |i: usize, y: usize, x: usize| ((i * (h + 2 * p) + y + p) * (w + 2 * p) + x + p) * cp;
        let data = positions(shape).flat_map(|[i, y, x]| ints[at(i, y, x)..][..c].to_vec());
        Tensor::new(self.shape(value), data.map(|v| (v - zero) as f64).collect())
    }

    /// The code of zero in what a quantizer writes, or a view of it.
    fn zero_code(&self, node: &Node) -> i64 {
        match node.op.as_str() {
            "max_pool" => self.zero_code(self.producer(node.operands[0])),
            _ if flag(&node.attrs, "signed") => 1 << (self.bits(node) - 1),
            _ => 0,
        }
    }

    /// The bit-width of a quantizer's codes as they are stored.
    pub(crate) fn bits(&self, node: &Node) -> u32 {
        if self.has_row_scales(node) {
            return quant::STORED_BITS;
        }
        let scheme = &self.module.schemes[word(&node.attrs, "scheme")];
        quant::find(&scheme.quantizer).unwrap().stored_bits(quant::bits(&scheme.params))
    }

    /// Whether rows of a gradient have scales.
    pub(crate) fn has_row_scales(&self, node: &Node) -> bool {
        let shape = self.shape(node.results[0]);
        let params = &self.module.schemes[word(&node.attrs, "scheme")].params;
        params.contains_key("per") && quant::per_row(params) && quant::row_of(&shape).is_some()
    }

    /// The unit of activation codes.
    pub(crate) fn step_of(&self, value: Value) -> f64 {
        if value == self.module.image {
            return 1.0 / 64.0;
        }
        let node = self.producer(value);
        match node.op.as_str() {
            "reshape" | "max_pool" => self.step_of(node.operands[0]),
            _ => self.dyadics(&format!("{}.activation.step", node.path))[0],
        }
    }

    /// The contraction of a layer.
    pub(crate) fn contraction(&self, path: &str) -> &Node {
        let ops = ["conv2d", "depthwise_conv2d", "linear"];
        let mut found = self.module.nodes.iter().filter(|n| ops.contains(&n.op.as_str()));
        found.find(|n| n.path == path).unwrap()
    }

    /// The shape of a layer's weight; that of a linear layer on an image as if it were a convolution with one output place.
    pub(crate) fn weight_shape(&self, path: &str) -> Vec<u64> {
        let node = self.contraction(path);
        let shape = self.shape(node.operands[1]);
        let reshaped = self.module.producer(node.operands[0]).map(|i| &self.module.nodes[i]);
        match reshaped.filter(|n| n.op == "reshape") {
            Some(view) => [&shape[..1], &self.shape(view.operands[0])[1..]].concat(),
            None => shape,
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

    /// Gradient codes of an encoding, as a layer's weight gradient reads them.
    pub(crate) fn gradient_blocks(&self, encoding: &str, shape: &[u64]) -> Tensor {
        let name = format!("{encoding}.blocks");
        let ints = self.ints(&name);
        let [n, h, w, c] = image_shape(shape);
        let cp = c.next_multiple_of(16);
        if ints.len() == n * cp && (h, w) == (1, 1) {
            return self.dense(&name, shape);
        }
        assert_eq!(ints.len(), n * h * w.div_ceil(4) * cp * 4);
        let quad = |i: usize, y: usize, x: usize| ((i * h + y) * w.div_ceil(4) + x / 4) * cp * 4 + x % 4;
        let data = positions([n, h, w, c])
            .flat_map(|[i, y, x]| (0..c).map(move |k| quad(i, y, x) + 4 * k))
            .map(|at| ints[at] as f64);
        Tensor::new(shape, data.collect())
    }
}

/// Gradient codes with a border: what is around them are zero codes.
impl Step {
    /// Codes that a quantizer of a gradient made, as its layer's data gradient reads them.
    pub(crate) fn gradient_image(&self, node: &Node, encoding: &str) -> Tensor {
        let ints = self.ints(&format!("{encoding}.codes"));
        let zero = 1 << (self.bits(node) - 1);
        let shape = self.shape(node.results[0]);
        let [n, h, w, c] = image_shape(&shape);
        let [(top, bottom), (left, right)] = self.gradient_border(self.contraction(&node.path));
        let (rows, columns, cp) = (h + top + bottom, w + left + right, c.next_multiple_of(16));
        assert_eq!(ints.len(), n * rows * columns * cp + 16, "{encoding}");
        let pixel = |[i, y, x]: [usize; 3]| &ints[((i * rows + y) * columns + x) * cp..][..cp];
        let inside = |[_, y, x]: [usize; 3]| (top..top + h).contains(&y) && (left..left + w).contains(&x);
        let mut border = positions([n, rows, columns, c]).filter(|&at| !inside(at));
        assert!(border.all(|at| pixel(at).iter().all(|&v| v == zero)), "{encoding}: a border of zeros");
        let data = positions([n, h, w, c]).flat_map(|[i, y, x]| &pixel([i, y + top, x + left])[..c]);
        Tensor::new(shape, data.map(|v| (v - zero) as f64).collect())
    }

    /// How far the data gradient of a layer reads beyond the gradient of its output, before and after: rows and columns.
    fn gradient_border(&self, layer: &Node) -> [(usize, usize); 2] {
        if layer.op == "linear" {
            return [(0, 0); 2];
        }
        let (stride, padding) = (int(&layer.attrs, "stride"), int(&layer.attrs, "padding"));
        let [weight, input, output] =
            [layer.operands[1], layer.operands[0], layer.results[0]].map(|value| self.shape(value));
        // Pixel i meets outputs (i + padding − tap)/stride.
        [1, 2].map(|axis| {
            let first = -((weight[axis] as i64 - 1 - padding) / stride);
            let last = (input[axis] as i64 - 1 + padding) / stride;
            (first.min(0).unsigned_abs() as usize, (last - output[axis] as i64 + 1).max(0) as usize)
        })
    }
}

/// The memory before a step, to change.
pub(crate) struct Edit<'a> {
    program: &'a Program,
    memory: &'a mut Memory,
}

impl Edit<'_> {
    /// Names of all buffers.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + use<> {
        let names: Vec<String> = self.program.buffers.iter().map(|b| b.name.clone()).collect();
        names.into_iter()
    }

    /// Writes the first elements of a buffer.
    pub(crate) fn set(&mut self, name: &str, values: &[i64]) {
        let id = self.program.buffers.iter().position(|b| b.name == name).unwrap();
        self.memory.write(self.program, BufferId(id as u32), values);
    }

    /// Fills every temporary with what it may hold.
    pub(crate) fn spoil_temporaries(&mut self) {
        let mut random = Random(11);
        for (i, buffer) in self.program.buffers.iter().enumerate().filter(|(_, b)| b.kind == Kind::Temp) {
            let count = (buffer.range.hi as i128 - buffer.range.lo as i128 + 1).min(1 << 20) as usize;
            let value = |random: &mut Random| match buffer.dtype {
                DType::Dyadic => packed(random.below(1000) as f64),
                _ => buffer.range.lo + random.below(count) as i64,
            };
            let values: Vec<i64> = (0..buffer.len()).map(|_| value(&mut random)).collect();
            self.memory.write(self.program, BufferId(i as u32), &values);
        }
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
