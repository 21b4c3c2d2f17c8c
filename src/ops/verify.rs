//! The verifier of modules, run after every pass: structure (`ir::verify`), and here what ops, schemes and rules say.
//!
//! Text can hold anything; what passes here evaluates, differentiates and lowers without a panic.

use std::collections::{BTreeMap, BTreeSet};

use super::{find, shapes};
use crate::bits;
use crate::diag::Diagnostic;
use crate::ir::{self, Attr, Element, Module, Node, Role, Scheme, Stage, TensorType};
use crate::quant::{self, Quantizer};
use crate::rectify;
use crate::types::conform;

/// Checks a module; the error has the place of the node to blame.
pub fn verify(module: &Module) -> Result<(), Diagnostic> {
    ir::verify::verify(module)?;
    for value_type in &module.types {
        value_type.shape.iter().all(|&d| d > 0).then_some(()).ok_or_else(|| empty(value_type))?;
        shapes::bounded(value_type.clone())?;
    }
    for (name, scheme) in &module.schemes {
        check_scheme(name, scheme)?;
    }
    for rule in &module.rules {
        if let Some(name) = &rule.scheme {
            let role = scheme_quantizer(module, name)?.role();
            if role != rule.target {
                let (target, role) = (rule.target.word(), role.word());
                return Err(Diagnostic::new(
                    "E0402",
                    format!("a rule quantizes {target} with `@{name}`, which is for {role}"),
                ));
            }
        }
    }
    let (policy, params) = &module.training.precision;
    let known = bits::find(policy)
        .ok_or_else(|| Diagnostic::new("E0201", format!("there is no policy `{policy}` of bit-widths")))?;
    conform(policy, known.params(), params)?;
    for rule in &module.rectify {
        let rectifier = rectify::find(&rule.rectifier)
            .ok_or_else(|| Diagnostic::new("E0201", format!("there is no rectifier `{}`", rule.rectifier)))?;
        conform(&rule.rectifier, rectifier.params(), &rule.params)?;
    }
    for node in &module.nodes {
        check_node(module, node).map_err(|error| match node.span {
            Some(span) => error.at(span, "this node"),
            None => error.note(format!("at `{}`, op `{}`", node.path, node.op)),
        })?;
    }
    check_state(module)?;
    check_ends(module)
}

fn empty(ty: &TensorType) -> Diagnostic {
    Diagnostic::new("E0303", format!("a tensor of shape {} has no elements", shapes::show(&ty.shape)))
}

fn check_scheme(name: &str, scheme: &Scheme) -> Result<(), Diagnostic> {
    let quantizer = quant::find(&scheme.quantizer).ok_or_else(|| {
        Diagnostic::new("E0201", format!("`@{name}`: there is no quantizer `{}`", scheme.quantizer))
    })?;
    conform(&scheme.quantizer, quantizer.params(), &scheme.params)
}

fn scheme_quantizer(module: &Module, name: &str) -> Result<&'static dyn Quantizer, Diagnostic> {
    let missing = || Diagnostic::new("I0206", format!("there is no scheme `@{name}`"));
    let scheme = module.schemes.get(name).ok_or_else(missing)?;
    quant::find(&scheme.quantizer).ok_or_else(missing)
}

fn check_node(module: &Module, node: &Node) -> Result<(), Diagnostic> {
    let op =
        find(&node.op).ok_or_else(|| Diagnostic::new("I0201", format!("there is no op `{}`", node.op)))?;
    op.check_attrs(&node.attrs)?;
    let operands: Vec<&TensorType> = node.operands.iter().map(|&value| module.ty(value)).collect();
    let inferred = op.infer(&operands, &node.attrs)?;
    let given: Vec<&TensorType> = node.results.iter().map(|&value| module.ty(value)).collect();
    if inferred.iter().collect::<Vec<_>>() != given {
        let show = |types: &mut dyn Iterator<Item = &TensorType>| {
            types.map(ir::print::type_text).collect::<Vec<_>>().join(", ")
        };
        let (inferred, given) = (show(&mut inferred.iter()), show(&mut given.into_iter()));
        return Err(Diagnostic::new(
            "I0202",
            format!("`{}` gives {inferred}, but the text says {given}", node.op),
        ));
    }
    match node.attrs.get("scheme") {
        Some(Attr::Scheme(scheme)) => check_quantizer(module, node, scheme),
        _ => Ok(()),
    }
}

/// The operands, sign and stream of a node that quantizes fit its scheme.
fn check_quantizer(module: &Module, node: &Node, scheme: &str) -> Result<(), Diagnostic> {
    let quantizer = scheme_quantizer(module, scheme)?;
    let params = &module.schemes[scheme].params;
    let tensors = if node.op == "quantize" { 1 } else { 2 };
    let wanted = tensors + usize::from(quantizer.learned(params).is_some());
    let wrong = |message: String| Err(Diagnostic::new("I0207", message));
    if node.operands.len() != wanted {
        return wrong(format!("`{}` with `@{scheme}` takes {wanted} values", node.op));
    }
    let signed = node.attrs.get("signed") == Some(&Attr::Bool(true));
    if quantizer.role() != Role::Activations && !signed {
        return wrong(format!("`@{scheme}` is for {}, which are signed", quantizer.role().word()));
    }
    let stream = node.attrs.contains_key("stream");
    if node.op == "quantize" && stream != (quantizer.role() == Role::Gradients) {
        return wrong(format!(
            "a gradient quantizer has a stream and no other has, unlike this one with `@{scheme}`"
        ));
    }
    if quant::per_channel(params) && module.ty(node.operands[0]).shape.is_empty() {
        return wrong(format!("`@{scheme}` has a scale per channel, but a scalar has no channels"));
    }
    Ok(())
}

/// The state of a quantizer has one owner: paths of activation quantizers and streams are distinct, and a derivative
/// finds the quantizer with its path.
fn check_state(module: &Module) -> Result<(), Diagnostic> {
    let fail = |node: &Node, message: String| {
        let error = Diagnostic::new("I0208", message);
        Err(match node.span {
            Some(span) => error.at(span, "this node"),
            None => error,
        })
    };
    let mut owners = BTreeMap::new();
    let mut streams = BTreeSet::new();
    for node in &module.nodes {
        let Some(Attr::Scheme(scheme)) = node.attrs.get("scheme") else { continue };
        if scheme_quantizer(module, scheme)?.role() == Role::Weights {
            continue;
        }
        match node.attrs.get("stream") {
            Some(Attr::Int(stream)) if !streams.insert(*stream) => {
                return fail(node, format!("two quantizers have stream {stream}"));
            }
            Some(_) => {}
            None if node.op == "quantize" && owners.insert(&node.path, &node.operands[..]).is_some() => {
                return fail(node, format!("two activations at `{}` are quantized", node.path));
            }
            None if node.op == "quantize" => {}
            None if owners.get(&node.path) != Some(&&node.operands[1..]) => {
                return fail(node, format!("no quantizer at `{}` has these operands", node.path));
            }
            None => {}
        }
    }
    Ok(())
}

/// Loss, logits and gradients are what later stages take them for.
fn check_ends(module: &Module) -> Result<(), Diagnostic> {
    let wrong = |message: &str| Err(Diagnostic::new("I0203", message));
    if !module.ty(module.loss).shape.is_empty() || module.producer(module.loss).is_none() {
        return wrong("the loss is not a computed scalar");
    }
    let batch = u64::from(module.training.batch);
    if module.ty(module.logits).shape != [batch, u64::from(module.classes)] {
        return wrong("the logits are not of shape [batch, classes]");
    }
    if module.ty(module.image).shape.len() != 4 || module.ty(module.image).shape[0] != batch {
        return wrong("the image is not of shape [batch, height, width, channels]");
    }
    if module.ty(module.image).element != Element::Real || module.ty(module.labels).element != Element::Label
    {
        return wrong("the inputs are not an image of reals and labels");
    }
    for param in &module.params {
        if param.ty.element != Element::Real {
            return wrong("a parameter is not real");
        }
        let gradient = param.gradient.map(|value| module.ty(value));
        if gradient.is_some_and(|ty| ty.shape != param.ty.shape) {
            return wrong("a gradient is not of the shape of its parameter");
        }
        if module.stage == Stage::Forward && gradient.is_some() {
            return wrong("a forward module has no gradients");
        }
    }
    Ok(())
}
