//! The text of a module, canonical: equal modules give equal text, and reading it back gives the same module.
//!
//! Version line, declarations, then one node a line: results, op, operands, attributes, result types, layer path.
//! Types and attributes are always written, so that reading needs no table of ops. Places in the model file are left out.

use std::fmt::{self, Write};

use super::{Attrs, Element, Init, Layers, Module, Node, Param, TensorType, Training, Value};

/// Number of the text format, in its first line.
pub const VERSION: u32 = 1;

/// The text of a type: `real[8, 32, 32, 3]`, `label[8]`, `q@act[8, 10]`.
pub fn type_text(ty: &TensorType) -> String {
    let shape: Vec<String> = ty.shape.iter().map(u64::to_string).collect();
    let element = match &ty.element {
        Element::Real => "real".to_owned(),
        Element::Label => "label".to_owned(),
        Element::Quantized(scheme) => format!("q@{scheme}"),
    };
    format!("{element}[{}]", shape.join(", "))
}

/// The text of a module. Its values are numbered canonically ([`super::canonical`]) unless a pass is at work on it.
pub fn print(module: &Module) -> String {
    let mut text = String::new();
    module_text(&mut text, module).expect("a string takes all text");
    text
}

fn module_text(out: &mut String, module: &Module) -> fmt::Result {
    writeln!(out, "fqtir {VERSION}")?;
    writeln!(out, "module @{} stage({}) {{", module.name, module.stage.word())?;
    training_text(out, module)?;
    for (name, scheme) in &module.schemes {
        writeln!(out, "  scheme @{name} = {}", call(&scheme.quantizer, &scheme.params))?;
    }
    for rule in &module.rules {
        let with = rule.scheme.as_ref().map_or("none".to_owned(), |name| format!("@{name}"));
        writeln!(out, "  quantize {} of {} with {with}", rule.target.word(), layers(&rule.layers))?;
    }
    for rule in &module.rectify {
        writeln!(out, "  rectify {} with {}", layers(&rule.layers), call(&rule.rectifier, &rule.params))?;
    }
    writeln!(out, "  image {} : {}", value(module.image), type_text(module.ty(module.image)))?;
    writeln!(out, "  labels {} : {}", value(module.labels), type_text(module.ty(module.labels)))?;
    for param in &module.params {
        param_text(out, param)?;
    }
    writeln!(out, "  step {{")?;
    nodes_text(out, module)?;
    writeln!(out, "    return loss {}, logits {}", value(module.loss), value(module.logits))?;
    writeln!(out, "  }}")?;
    writeln!(out, "}}")
}

fn training_text(out: &mut String, module: &Module) -> fmt::Result {
    let training = &module.training;
    writeln!(out, "  classes {}", module.classes)?;
    writeln!(out, "  epochs {} batch {} seed {}", training.epochs, training.batch, training.seed)?;
    writeln!(out, "  optimizer {}", call(&training.optimizer.0, &training.optimizer.1))?;
    writeln!(out, "  schedule {}", call(&training.schedule.0, &training.schedule.1))?;
    if training.precision.0 != Training::FIXED {
        writeln!(out, "  precision {}", call(&training.precision.0, &training.precision.1))?;
    }
    for (name, args) in &training.augment {
        writeln!(out, "  augment {}", call(name, args))?;
    }
    Ok(())
}

fn param_text(out: &mut String, param: &Param) -> fmt::Result {
    write!(
        out,
        "  param {} @{} : {} = {}",
        value(param.value),
        param.name,
        type_text(&param.ty),
        init(&param.init)
    )?;
    match param.gradient {
        Some(gradient) => writeln!(out, " gradient {}", value(gradient)),
        None => writeln!(out),
    }
}

fn nodes_text(out: &mut String, module: &Module) -> fmt::Result {
    let mut open = None;
    for node in &module.nodes {
        if node.group != open {
            if open.is_some() {
                writeln!(out, "    }}")?;
            }
            if let Some(group) = node.group {
                writeln!(out, "    group {} {{", module.groups[group.0 as usize])?;
            }
            open = node.group;
        }
        writeln!(out, "{}{}", if open.is_some() { "      " } else { "    " }, node_text(module, node))?;
    }
    if open.is_some() {
        writeln!(out, "    }}")?;
    }
    Ok(())
}

/// The line of a node.
pub fn node_text(module: &Module, node: &Node) -> String {
    let list = |values: &[Value]| values.iter().map(|&v| value(v)).collect::<Vec<_>>().join(", ");
    let mut line = String::new();
    if !node.results.is_empty() {
        line += &format!("{} = ", list(&node.results));
    }
    line += &format!("{} {}", node.op, list(&node.operands));
    if !node.attrs.is_empty() {
        line += &format!(" {}", attrs(&node.attrs));
    }
    if !node.results.is_empty() {
        let types: Vec<String> = node.results.iter().map(|&v| type_text(module.ty(v))).collect();
        line += &format!(" : {}", types.join(", "));
    }
    if !node.path.is_empty() {
        line += &format!(" at {}", node.path);
    }
    line
}

fn value(value: Value) -> String {
    format!("%{}", value.0)
}

fn attrs(attrs: &Attrs) -> String {
    let items: Vec<String> = attrs.iter().map(|(name, attr)| format!("{name} = {attr}")).collect();
    format!("{{{}}}", items.join(", "))
}

fn call(name: &str, args: &Attrs) -> String {
    format!("{name} {}", attrs(args))
}

fn init(init: &Init) -> String {
    match init {
        Init::HeNormal { fan } => format!("he_normal({fan})"),
        Init::Uniform { fan } => format!("uniform({fan})"),
        Init::Constant(value) => format!("constant({value:?})"),
    }
}

fn layers(layers: &Layers) -> String {
    match layers {
        Layers::All => "all".to_owned(),
        Layers::First => "first".to_owned(),
        Layers::Last => "last".to_owned(),
        Layers::Logits => "logits".to_owned(),
        Layers::Path(path) => format!("layer {path}"),
    }
}
