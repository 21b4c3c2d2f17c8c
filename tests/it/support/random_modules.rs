//! Random well-typed modules: chains of layers with skips, projections and pools, under random rules.

use fqt_runtime::random::mix64;
use fqtc::ir::{Attr, Layers, Module, Role, Value};

use super::modules::{attrs, classify, empty, layer, rectify_all, rule};

/// A source of choices.
pub(crate) struct Choices(pub(crate) u64);

impl Choices {
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.0 = mix64(self.0);
        self.0 % n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// The module of a seed.
pub(crate) fn module(seed: u64) -> Module {
    let mut choices = Choices(mix64(seed));
    let gradients = choices.pick(&["stochastic", "nearest", "pseudo_stochastic", "logarithmic"]);
    let mut module =
        empty("random", 2, [6 + choices.below(4), 6 + choices.below(4), 1 + choices.below(3)], gradients);
    rules(&mut module, &mut choices);
    if seed.is_multiple_of(3) {
        let low = 2 + (seed / 3 % 6) as i64;
        module.training.precision =
            ("cyclic".into(), attrs(&[("low", Attr::Int(low)), ("cycles", Attr::Int(8))]));
    }
    let mut grower = Grower { module, choices, layers: 0 };
    let (image, channels) = (grower.module.image, 3 + grower.choices.below(4));
    // Others than contractions do not read the image.
    let mut x = grower.conv_chain(image, channels, 1);
    for _ in 0..1 + grower.choices.below(5) {
        x = grower.grow(x);
    }
    let last = grower.choices.pick(&["flatten", "global_avg_pool"]);
    x = grower.layer(last, &[x], &[]);
    classify(&mut grower.module, x);
    grower.module
}

fn rules(module: &mut Module, choices: &mut Choices) {
    if choices.below(3) == 0 {
        rule(module, Role::Activations, Layers::All, "pact", "pact", &[("bits", Attr::Int(4))]);
    }
    if choices.below(2) == 0 {
        let per = attrs(&[("per", Attr::Word("channel".into()))]);
        let per: Vec<(&str, Attr)> = per.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
        rule(module, Role::Gradients, Layers::All, "per_channel", "stochastic", &per);
    }
    if choices.below(3) == 0 {
        rule(
            module,
            Role::Weights,
            Layers::First,
            "first",
            "max_abs",
            &[("per", Attr::Word("tensor".into()))],
        );
    }
    let rectifier = choices.pick(&["none", "variance_hinge", "log_gain", "clamp"]);
    rectify_all(module, rectifier);
}

struct Grower {
    module: Module,
    choices: Choices,
    layers: u32,
}

impl Grower {
    fn layer(&mut self, name: &str, operands: &[Value], given: &[(&str, Attr)]) -> Value {
        self.layers += 1;
        let path = format!("{name}{}", self.layers);
        layer(&mut self.module, name, &path, operands, given)
    }

    fn size(&self, x: Value) -> (u64, u64) {
        let shape = &self.module.ty(x).shape;
        (shape[1].min(shape[2]), shape[3])
    }

    /// One to three layers more.
    fn grow(&mut self, x: Value) -> Value {
        let (size, channels) = self.size(x);
        match self.choices.below(11) {
            0 if size >= 2 => self.layer("max_pool", &[x], &[("size", Attr::Int(2))]),
            1 if size >= 2 => self.layer("avg_pool", &[x], &[("size", Attr::Int(2))]),
            2 => self.layer("relu", &[x], &[]),
            3 => {
                let y = self.conv_chain(x, channels, 1);
                let sum = self.layer("add", &[y, x], &[]);
                self.layer("relu", &[sum], &[])
            }
            4 => {
                let y = self.conv_chain(x, channels + 1, 2);
                let skip = self.conv_chain(x, channels + 1, 2);
                self.layer("add", &[skip, y], &[])
            }
            5 => {
                let stride = 1 + self.choices.below(2) as i64;
                let given = [
                    ("kernel", Attr::Ints(vec![3, 3])),
                    ("stride", Attr::Int(stride)),
                    ("bias", Attr::Bool(true)),
                ];
                self.layer("depthwise_conv", &[x], &given)
            }
            6 if size >= 3 => {
                let given = [("size", Attr::Int(3)), ("stride", Attr::Int(2)), ("padding", Attr::Int(1))];
                let x = self.layer("relu", &[x], &[]);
                self.layer("max_pool", &[x], &given)
            }
            7 => {
                let y = self.layer("batch_norm", &[x], &[]);
                self.layer("relu", &[y], &[])
            }
            8 => self.layer("add", &[x, x], &[]),
            9 => {
                let (a, b) = (self.layer("batch_norm", &[x], &[]), self.layer("batch_norm", &[x], &[]));
                let (c, d) = (self.layer("relu", &[a], &[]), self.layer("relu", &[a], &[]));
                let sum = self.layer("add", &[c, b], &[]);
                let sum = self.layer("relu", &[sum], &[]);
                self.layer("add", &[sum, d], &[])
            }
            _ => {
                let (channels, stride) = (3 + self.choices.below(4), 1 + self.choices.below(2));
                self.conv_chain(x, channels, stride)
            }
        }
    }

    /// A convolution with bias or batch norm, and perhaps what follows it.
    fn conv_chain(&mut self, x: Value, channels: u64, stride: u64) -> Value {
        let kernel = self.choices.pick(&[1, 3]);
        let norm = self.choices.below(3) > 0;
        let given = [
            ("channels", Attr::Int(channels as i64)),
            ("kernel", Attr::Ints(vec![kernel, kernel])),
            ("stride", Attr::Int(stride as i64)),
            ("bias", Attr::Bool(!norm)),
        ];
        let mut x = self.layer("conv", &[x], &given);
        if norm {
            x = self.layer("batch_norm", &[x], &[]);
        }
        if self.choices.below(2) == 0 { self.layer("relu", &[x], &[]) } else { x }
    }
}
