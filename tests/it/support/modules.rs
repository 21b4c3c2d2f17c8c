//! Small modules that tests of the training IR share, built from layers as a model file would be.

use fqtc::ir::{Attr, Attrs, Layers, Module, Rectification, Role, Rule, Scheme, Training, Value};
use fqtc::types::defaults;
use fqtc::{ops, quant, rectify};

/// A module without layers, with rules for everything: weights per channel, gradients of the given quantizer.
pub(crate) fn empty(name: &str, batch: u32, image: [u64; 3], gradients: &str) -> Module {
    let training = Training {
        epochs: 1,
        batch,
        seed: 7,
        optimizer: (
            "sgd".into(),
            attrs(&[
                ("lr", Attr::Real(0.1)),
                ("momentum", Attr::Real(0.9)),
                ("weight_decay", Attr::Real(1e-4)),
            ]),
        ),
        schedule: ("constant".into(), Attrs::new()),
        precision: (Training::FIXED.into(), Attrs::new()),
        augment: vec![],
    };
    let mut module = Module::new(name, training, 10, image);
    rule(&mut module, Role::Weights, Layers::All, "weights", "max_abs", &[]);
    rule(&mut module, Role::Activations, Layers::All, "activations", "running_max", &[]);
    rule(&mut module, Role::Gradients, Layers::All, "gradients", gradients, &[("bits", Attr::Int(4))]);
    rule(&mut module, Role::Gradients, Layers::Logits, "logits", "stochastic", &[]);
    module
}

/// Adds a scheme (the quantizer's defaults with changes) and a rule for it.
pub(crate) fn rule(
    module: &mut Module,
    target: Role,
    layers: Layers,
    name: &str,
    quantizer: &str,
    given: &[(&str, Attr)],
) {
    let mut params = defaults(quant::find(quantizer).unwrap().params());
    params.extend(attrs(given));
    module.schemes.insert(name.into(), Scheme { quantizer: quantizer.into(), params });
    module.rules.push(Rule { target, layers, scheme: Some(name.into()) });
}

/// Adds a rectifier with its defaults for all batch norms.
pub(crate) fn rectify_all(module: &mut Module, rectifier: &str) {
    let params = defaults(rectify::find(rectifier).unwrap().params());
    module.rectify.push(Rectification { layers: Layers::All, rectifier: rectifier.into(), params });
}

/// Attributes from pairs.
pub(crate) fn attrs(pairs: &[(&str, Attr)]) -> Attrs {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

/// Appends a layer with its defaults and the given arguments.
pub(crate) fn layer(
    module: &mut Module,
    name: &str,
    path: &str,
    operands: &[Value],
    given: &[(&str, Attr)],
) -> Value {
    let layer = ops::layers().find(|layer| layer.name() == name).unwrap();
    let mut args = defaults(layer.params());
    args.extend(attrs(given));
    layer.build(module, path, operands, &args, None).unwrap()
}

/// Convolution (square kernel, `same`) and batch norm.
pub(crate) fn conv_bn(
    module: &mut Module,
    number: usize,
    x: Value,
    channels: i64,
    kernel: i64,
    stride: i64,
) -> Value {
    let given = [
        ("channels", Attr::Int(channels)),
        ("kernel", Attr::Ints(vec![kernel, kernel])),
        ("stride", Attr::Int(stride)),
        ("bias", Attr::Bool(false)),
    ];
    let x = layer(module, "conv", &format!("conv{number}"), &[x], &given);
    layer(module, "batch_norm", &format!("batch_norm{number}"), &[x], &[])
}

/// Ends a module: classifier and loss.
pub(crate) fn classify(module: &mut Module, features: Value) {
    let logits = layer(module, "linear", "linear", &[features], &[("features", Attr::Int(10))]);
    let labels = module.labels;
    module.logits = logits;
    module.loss = ops::append(module, "softmax_cross_entropy", &[logits, labels], Attrs::new(), "loss", None)
        .unwrap()[0];
}

/// First layer, a block with identity skip, a block with projection, global pool, classifier.
pub(crate) fn resnet(batch: u32, size: u64, channels: i64, gradients: &str) -> Module {
    let mut module = empty("resnet", batch, [size, size, 3], gradients);
    let m = &mut module;
    let x = conv_bn(m, 1, m.image, channels, 3, 1);
    let x = layer(m, "relu", "relu1", &[x], &[]);
    let y = conv_bn(m, 2, x, channels, 3, 1);
    let y = layer(m, "relu", "relu2", &[y], &[]);
    let y = conv_bn(m, 3, y, channels, 3, 1);
    let x = layer(m, "add", "add1", &[y, x], &[]);
    let x = layer(m, "relu", "relu3", &[x], &[]);
    let y = conv_bn(m, 4, x, 2 * channels, 3, 2);
    let y = layer(m, "relu", "relu4", &[y], &[]);
    let y = conv_bn(m, 5, y, 2 * channels, 3, 1);
    let skip = conv_bn(m, 6, x, 2 * channels, 1, 2);
    let x = layer(m, "add", "add2", &[y, skip], &[]);
    let x = layer(m, "relu", "relu5", &[x], &[]);
    let x = layer(m, "global_avg_pool", "pool", &[x], &[]);
    classify(m, x);
    module
}

/// Inverted residuals with linear bottlenecks, at stride 1 with a skip and at stride 2, and a depthwise convolution that
/// reads signed codes. No number of channels is a multiple of 16.
pub(crate) fn mobile(batch: u32, size: u64, gradients: &str) -> Module {
    let mut module = empty("mobile", batch, [size, size, 3], gradients);
    let m = &mut module;
    let depthwise = |m: &mut Module, number: usize, x: Value, kernel: i64, stride: i64| {
        let given = [
            ("kernel", Attr::Ints(vec![kernel, kernel])),
            ("stride", Attr::Int(stride)),
            ("bias", Attr::Bool(false)),
        ];
        let x = layer(m, "depthwise_conv", &format!("depthwise{number}"), &[x], &given);
        let x = layer(m, "batch_norm", &format!("depthwise_norm{number}"), &[x], &[]);
        layer(m, "relu", &format!("depthwise_relu{number}"), &[x], &[])
    };
    let x = conv_bn(m, 1, m.image, 10, 3, 1);
    let x = layer(m, "relu", "relu1", &[x], &[]);
    let y = conv_bn(m, 2, x, 24, 1, 1);
    let y = layer(m, "relu", "relu2", &[y], &[]);
    let y = depthwise(m, 1, y, 3, 1);
    let y = conv_bn(m, 3, y, 10, 1, 1);
    let x = layer(m, "add", "add", &[y, x], &[]);
    let x = conv_bn(m, 4, x, 20, 1, 1);
    let x = layer(m, "relu", "relu4", &[x], &[]);
    let x = depthwise(m, 2, x, 3, 2);
    let x = conv_bn(m, 5, x, 20, 1, 1);
    let x = depthwise(m, 3, x, 5, 1);
    let x = layer(m, "global_avg_pool", "pool", &[x], &[]);
    classify(m, x);
    module
}

/// One depthwise convolution of signed codes.
pub(crate) fn depthwise(batch: u32, size: u64, kernel: [i64; 2], stride: i64, padding: i64) -> Module {
    convolution("depthwise_conv", &[], (batch, size), kernel, stride, padding)
}

/// A convolution (by the name of its layer, with its arguments) of signed codes of ten channels.
pub(crate) fn convolution(
    kind: &str,
    arguments: &[(&str, Attr)],
    (batch, size): (u32, u64),
    kernel: [i64; 2],
    stride: i64,
    padding: i64,
) -> Module {
    let mut module = empty("convolution", batch, [size, size, 3], "stochastic");
    let m = &mut module;
    let x = conv_bn(m, 1, m.image, 10, 3, 1);
    let mut given = vec![
        ("kernel", Attr::Ints(kernel.to_vec())),
        ("stride", Attr::Int(stride)),
        ("padding", Attr::Int(padding)),
        ("bias", Attr::Bool(false)),
    ];
    given.extend(arguments.iter().cloned());
    let x = layer(m, kind, "convolution", &[x], &given);
    let x = layer(m, "batch_norm", "batch_norm", &[x], &[]);
    let x = layer(m, "relu", "relu", &[x], &[]);
    let x = layer(m, "global_avg_pool", "pool", &[x], &[]);
    classify(m, x);
    module
}

/// Pools whose windows overlap, with and without a border.
pub(crate) fn pools(batch: u32, size: u64, gradients: &str) -> Module {
    let mut module = empty("pools", batch, [size, size, 3], gradients);
    let m = &mut module;
    let pool = |m: &mut Module, name: &str, x: Value, padding: Option<i64>| {
        let mut given = vec![("size", Attr::Int(3)), ("stride", Attr::Int(2))];
        given.extend(padding.map(|p| ("padding", Attr::Int(p))));
        layer(m, name, name, &[x], &given)
    };
    let x = conv_bn(m, 1, m.image, 10, 3, 1);
    let x = layer(m, "relu", "relu1", &[x], &[]);
    let x = pool(m, "max_pool", x, Some(1));
    let x = conv_bn(m, 2, x, 20, 3, 1);
    let x = layer(m, "relu", "relu2", &[x], &[]);
    let x = pool(m, "avg_pool", x, None);
    let x = conv_bn(m, 3, x, 20, 1, 1);
    let x = layer(m, "relu", "relu3", &[x], &[]);
    let x = layer(m, "global_avg_pool", "pool", &[x], &[]);
    classify(m, x);
    module
}

/// Convolutions with bias, max and average pools, flatten, two linear layers; activations with a learned clip.
pub(crate) fn lenet(batch: u32, size: u64, gradients: &str) -> Module {
    let mut module = empty("lenet", batch, [size, size, 1], gradients);
    let m = &mut module;
    rule(m, Role::Activations, Layers::All, "pact", "pact", &[]);
    let conv = |m: &mut Module, path: &str, x: Value, channels: i64| {
        let given = [
            ("channels", Attr::Int(channels)),
            ("kernel", Attr::Ints(vec![5, 5])),
            ("bias", Attr::Bool(true)),
        ];
        layer(m, "conv", path, &[x], &given)
    };
    let x = conv(m, "conv1", m.image, 6);
    let x = layer(m, "relu", "relu1", &[x], &[]);
    let x = layer(m, "max_pool", "pool1", &[x], &[("size", Attr::Int(2))]);
    let x = conv(m, "conv2", x, 8);
    let x = layer(m, "avg_pool", "pool2", &[x], &[("size", Attr::Int(2))]);
    let x = layer(m, "relu", "relu2", &[x], &[]);
    let x = layer(m, "flatten", "flatten", &[x], &[]);
    let x = layer(m, "linear", "linear1", &[x], &[("features", Attr::Int(12))]);
    let x = layer(m, "relu", "relu3", &[x], &[]);
    classify(m, x);
    module
}

/// A value that two norms read, one that two rectifiers read and quantize each in its own way, and one added to itself.
pub(crate) fn twice(batch: u32, size: u64, gradients: &str) -> Module {
    let mut module = empty("twice", batch, [size, size, 3], gradients);
    let m = &mut module;
    let narrow = [("init", Attr::Real(0.5)), ("bits", Attr::Int(4))];
    rule(m, Role::Activations, Layers::Path("left".into()), "narrow", "pact", &narrow);
    let conv = |m: &mut Module, path: &str, x: Value| {
        layer(m, "conv", path, &[x], &[("channels", Attr::Int(10)), ("kernel", Attr::Ints(vec![3, 3]))])
    };
    let x = conv(m, "conv1", m.image);
    let a = layer(m, "batch_norm", "norm1", &[x], &[("gain", Attr::Real(0.5))]);
    let b = layer(m, "batch_norm", "norm2", &[x], &[("gain", Attr::Real(2.0))]);
    let (left, right) = (layer(m, "relu", "left", &[a], &[]), layer(m, "relu", "right", &[a], &[]));
    let (y, z) = (conv(m, "conv2", left), conv(m, "conv3", right));
    let x = layer(m, "add", "add1", &[y, z], &[]);
    let w = conv(m, "conv4", b);
    let w = layer(m, "batch_norm", "norm3", &[w], &[]);
    let w = layer(m, "relu", "relu1", &[w], &[]);
    let w = layer(m, "add", "add2", &[w, w], &[]);
    let x = layer(m, "add", "add3", &[x, w], &[]);
    let x = layer(m, "relu", "relu2", &[x], &[]);
    let x = layer(m, "global_avg_pool", "pool", &[x], &[]);
    classify(m, x);
    module
}

/// One hidden layer on the pixels.
pub(crate) fn mlp(batch: u32, size: u64, gradients: &str) -> Module {
    let mut module = empty("mlp", batch, [size, size, 1], gradients);
    let m = &mut module;
    let x = layer(m, "flatten", "flatten", &[m.image], &[]);
    let x = layer(m, "linear", "linear1", &[x], &[("features", Attr::Int(12))]);
    let x = layer(m, "relu", "relu", &[x], &[]);
    classify(m, x);
    module
}

/// Convolutions and a linear layer that read codes which can be negative, with padding, and a maximum over such.
pub(crate) fn signed(batch: u32, size: u64, gradients: &str) -> Module {
    let mut module = empty("signed", batch, [size, size, 1], gradients);
    let m = &mut module;
    let conv = |m: &mut Module, path: &str, x: Value, channels: i64| {
        let kernel = Attr::Ints(vec![3, 3]);
        let given = [("channels", Attr::Int(channels)), ("kernel", kernel), ("bias", Attr::Bool(true))];
        layer(m, "conv", path, &[x], &given)
    };
    let x = conv(m, "conv1", m.image, 8);
    let x = conv(m, "conv2", x, 20);
    let x = layer(m, "max_pool", "pool1", &[x], &[("size", Attr::Int(2))]);
    let x = conv(m, "conv3", x, 8);
    let x = layer(m, "flatten", "flatten", &[x], &[]);
    let x = layer(m, "linear", "linear1", &[x], &[("features", Attr::Int(12))]);
    let x = layer(m, "relu", "relu", &[x], &[]);
    classify(m, x);
    module
}
