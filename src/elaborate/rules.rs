//! Rules: which quantizer, rectifier or replacement holds where.
//!
//! A rule changes what wider and earlier rules said: with the same callee only the arguments that it names, with another
//! callee everything but the bits, which stay if it accepts them: `at gbits <= 4 { … }` cannot change what it asks for. Folding the rules for one scope gives the callee and its arguments there.

use std::collections::BTreeSet;

use super::args::{Given, bind, call_of, complete};
use super::merge::Merged;
use super::network::Network;
use super::paths::{Scope, matching};
use super::{Report, training::Named};
use crate::diag::{Diagnostic, suggest};
use crate::ir::{Attr, Attrs, Layers, Module, Rectification, Role, Rule, Scheme};
use crate::ops::{self, Layer, Part};
use crate::syntax::ast::{self, Arg, Name, Place, Verb};
use crate::types::ParamSpec;
use crate::{quant, rectify};

/// A callee that quantizes nothing.
const NONE: &str = "none";

/// A callee that replaces a layer with nothing.
pub(super) const NOTHING: &str = "nothing";

/// One rule for one scope.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) verb: Verb,
    pub(super) subject: Name,
    pub(super) scope: Scope,
    /// Where the scope is written.
    pub(super) place: Place,
    /// The callee; `None` keeps it.
    pub(super) callee: Option<Name>,
    pub(super) args: Vec<Arg>,
}

/// What the rules give for one scope.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) callee: String,
    pub(super) specs: &'static [ParamSpec],
    /// What was given explicitly.
    pub(super) given: Attrs,
}

/// What rules of a verb and subject choose from.
pub(super) fn table(verb: Verb, subject: &str) -> Vec<Named> {
    let none = Named { name: NONE, doc: "left as it is", params: &[] };
    match verb {
        Verb::Quantize => {
            let fitting = quant::ALL.iter().filter(|q| q.role().word() == subject);
            let named = fitting.map(|q| Named { name: q.name(), doc: q.doc(), params: q.params() });
            named.chain([none]).collect()
        }
        Verb::Rectify => {
            rectify::ALL.iter().map(|r| Named { name: r.name(), doc: r.doc(), params: r.params() }).collect()
        }
        Verb::Replace => {
            let count = layer(subject).map_or(1, Layer::operands);
            let fitting = ops::layers().filter(|l| l.operands() == count);
            let named = fitting.map(|l| Named { name: l.name(), doc: l.doc(), params: l.params() });
            named.chain((count == 1).then_some(Named { name: NOTHING, ..none })).collect()
        }
    }
}

/// The layer of a name.
pub(super) fn layer(name: &str) -> Option<&'static dyn Layer> {
    ops::layers().find(|layer| layer.name() == name)
}

/// What a verb can be said about.
pub(super) fn subjects(verb: Verb) -> Vec<&'static str> {
    match verb {
        Verb::Quantize => Role::ALL.iter().map(|role| role.word()).collect(),
        Verb::Rectify => {
            let norms = ops::ALL.iter().filter(|op| op.part() == Part::Norm);
            norms.filter_map(|op| op.layer()).map(|layer| layer.name()).collect()
        }
        Verb::Replace => ops::layers().map(|layer| layer.name()).collect(),
    }
}

/// The entries of a rule after checking its subject and callee.
pub(super) fn entries(
    verb: Verb,
    subject: &Name,
    of: &[Name],
    with: &ast::Call,
    report: &mut Report,
) -> Vec<Entry> {
    if !subjects(verb).contains(&subject.text.as_str()) {
        let error =
            Diagnostic::new("E0201", format!("`{}` cannot be said about `{}`", verb.word(), subject.text));
        let error = subject.place.mark(error, "unknown here");
        report.add(Diagnostic { help: suggest::help(&subject.text, subjects(verb)), ..error });
        return vec![];
    }
    let callees = table(verb, &subject.text);
    if callees.iter().all(|c| c.name != with.name.text) {
        report.add(unknown_callee(verb, subject, &with.name, &callees));
        return vec![];
    }
    if verb == Verb::Replace
        && let Some(class) = of.iter().find(|name| matches!(Scope::named(&name.text), Scope::Class(_)))
    {
        report.add(not_of_class(&class.text, &class.place));
        return vec![];
    }
    let entry = |scope: Scope, place: &Place| Entry {
        verb,
        subject: subject.clone(),
        scope,
        place: place.clone(),
        callee: Some(with.name.clone()),
        args: with.args.clone(),
    };
    match of {
        [] => vec![entry(Scope::All, &subject.place)],
        _ => of.iter().map(|name| entry(Scope::named(&name.text), &name.place)).collect(),
    }
}

/// A layer cannot be replaced by its class.
pub(super) fn not_of_class(class: &str, place: &Place) -> Diagnostic {
    let error = Diagnostic::new("E0207", format!("`replace` cannot tell which layer is `{class}`"));
    place.mark(error, "known only once all layers are").help("name the layer by its path, such as `conv1`")
}

fn unknown_callee(verb: Verb, subject: &Name, callee: &Name, callees: &[Named]) -> Diagnostic {
    let (name, subject) = (&callee.text, &subject.text);
    let help = suggest::help(name, callees.iter().map(|c| c.name));
    let error = match (verb, quant::find(name)) {
        (Verb::Quantize, Some(q)) => {
            let message = format!("`{name}` quantizes {}, not {subject}", q.role().word());
            return callee
                .place
                .mark(Diagnostic::new("E0402", message), "made for something else")
                .help(help.unwrap_or_default());
        }
        (Verb::Quantize, None) => Diagnostic::new("E0402", format!("there is no quantizer `{name}`")),
        (Verb::Rectify, _) => Diagnostic::new("E0402", format!("there is no rectifier `{name}`")),
        (Verb::Replace, _) => {
            Diagnostic::new("E0201", format!("`{subject}` cannot be replaced with `{name}`"))
        }
    };
    Diagnostic { help, ..callee.place.mark(error, "unknown here") }
}

/// What the entries give for a verb, subject and scope; `None` if none of them says anything about it.
pub(super) fn fold(
    entries: &[Entry],
    verb: Verb,
    subject: &str,
    scope: &Scope,
    report: &mut Report,
) -> Option<Choice> {
    fold_where(entries, verb, subject, |said| said.contains(scope), report)
}

/// What those entries give whose scope is among some.
fn fold_where(
    entries: &[Entry],
    verb: Verb,
    subject: &str,
    holds: impl Fn(&Scope) -> bool,
    report: &mut Report,
) -> Option<Choice> {
    let mut said: Vec<&Entry> =
        entries.iter().filter(|e| e.is_about(verb, subject) && holds(&e.scope)).collect();
    said.sort_by_key(|e| e.scope.width());
    let callees = table(verb, subject);
    let start = Choice {
        callee: subject.to_owned(),
        specs: layer(subject).map_or(&[], Layer::params),
        given: Attrs::new(),
    };
    // A replaced layer starts as itself.
    let mut choice = (verb == Verb::Replace && !said.is_empty()).then_some(start);
    for entry in said {
        let name = entry.callee.as_ref().map(|c| c.text.as_str());
        if let Some(named) = callees.iter().find(|c| Some(c.name) == name)
            && choice.as_ref().is_none_or(|c| c.callee != named.name)
        {
            let bits = choice.as_ref().and_then(|before| accepted_bits(before, named.params));
            let given = bits.map(|bits| ("bits".to_owned(), bits)).into_iter().collect();
            choice = Some(Choice { callee: named.name.to_owned(), specs: named.params, given });
        }
        if let Some(choice) = &mut choice {
            let given: Vec<Given<'_>> = entry.args.iter().map(Given::constant).collect();
            choice.given.extend(bind(&choice.callee, choice.specs, &given, report).0);
        }
    }
    choice
}

/// The bits that were given, if they are among what a callee accepts.
fn accepted_bits(before: &Choice, specs: &[ParamSpec]) -> Option<Attr> {
    let spec = specs.iter().find(|spec| spec.name == "bits")?;
    spec.kind.accept(before.given.get("bits")?)
}

impl Entry {
    pub(super) fn is_about(&self, verb: Verb, subject: &str) -> bool {
        self.verb == verb && self.subject.text == subject
    }
}

/// One rule for each verb, subject and scope, folded, in order of first appearance; everything stated.
pub(super) fn normalized(entries: &[Entry], report: &mut Report) -> Vec<(Entry, Choice)> {
    let mut done: Vec<(Entry, Choice)> = vec![];
    for entry in entries {
        let (verb, subject, scope) = (entry.verb, &entry.subject.text, &entry.scope);
        if done.iter().any(|(e, _)| e.verb == verb && e.subject.text == *subject && e.scope == *scope) {
            continue;
        }
        if let Some(choice) = fold(entries, verb, subject, scope, report) {
            done.push((entry.clone(), choice));
        }
    }
    done
}

/// The syntax of a folded rule. A replaced layer keeps the arguments of its uses, so only given ones are stated.
pub(super) fn syntax(entry: &Entry, choice: &Choice) -> ast::Rule {
    let attrs = match entry.verb {
        Verb::Replace => choice.given.clone(),
        _ => complete(choice.specs, &choice.given),
    };
    let of = entry.scope.text().map(|text| Name { text: text.to_owned(), place: entry.place.clone() });
    ast::Rule::Set {
        verb: entry.verb,
        subject: entry.subject.clone(),
        of: of.into_iter().collect(),
        with: call_of(&choice.callee, choice.specs, &attrs),
    }
}

/// Puts rules of single layers in place of those for paths: which rules hold together there, for all layers, `first`, `last`
/// and `logits`, blocks and other paths, is known only of a layer. Reports paths that reach none.
pub(super) fn resolve(merged: &mut Merged<'_>, network: &Network, report: &mut Report) {
    let written: BTreeSet<&String> = network.layers.iter().collect();
    for verb in [Verb::Quantize, Verb::Rectify] {
        for subject in subjects(verb) {
            let entries: Vec<&Entry> =
                merged.entries.iter().filter(|entry| entry.is_about(verb, subject)).collect();
            let of_path = |entry: &&&Entry| matches!(entry.scope, Scope::Path(_));
            for entry in entries.iter().filter(of_path) {
                report.take(reached(entry, &network.layers));
            }
            let role = Role::ALL.into_iter().find(|role| role.word() == subject);
            let mut rules = vec![];
            let layers = ops::rules::layers(&network.module, role);
            // Nobody writes the loss: a pattern does not mean it.
            for (layer, classes) in layers.into_iter().filter(|(layer, _)| written.contains(layer)) {
                let here = Scope::Path(layer);
                let holds = |scope: &Scope| match scope {
                    Scope::Class(class) => classes.contains(class),
                    scope => scope.contains(&here),
                };
                let said: BTreeSet<&Scope> =
                    entries.iter().map(|entry| &entry.scope).filter(|scope| holds(scope)).collect();
                let narrow = said.iter().filter(|scope| ***scope != Scope::All).count();
                let Some(last) = entries.iter().rfind(|entry| holds(&entry.scope)) else { continue };
                // What a single rule says of `first`, `last` or `logits` needs no rule of a layer.
                if narrow == 0 || narrow == 1 && said.iter().any(|scope| matches!(scope, Scope::Class(_))) {
                    continue;
                }
                if let Some(choice) = fold_where(&merged.entries, verb, subject, holds, report) {
                    rules.push((Entry { scope: here.clone(), ..(*last).clone() }, choice));
                }
            }
            let is_replaced =
                |entry: &Entry| entry.is_about(verb, subject) && matches!(entry.scope, Scope::Path(_));
            merged.rules.retain(|(entry, _)| !is_replaced(entry));
            merged.rules.extend(rules);
        }
    }
}

/// The module with rules for weights, activations, gradients and batch norm; reports scopes that reach no layer.
pub(super) fn apply(merged: &Merged<'_>, network: Network, report: &mut Report) -> Option<Module> {
    let Network { mut module, layers } = network;
    for (entry, choice) in &merged.rules {
        let reached = report.take(reached(entry, &layers))?;
        let params = complete(choice.specs, &choice.given);
        match entry.verb {
            Verb::Quantize => {
                let target = *Role::ALL.iter().find(|role| role.word() == entry.subject.text)?;
                let scheme =
                    (choice.callee != NONE).then(|| scheme(&mut module, target, &choice.callee, &params));
                let rule = |layers| Rule { target, layers, scheme: scheme.clone() };
                module.rules.extend(reached.into_iter().map(rule));
            }
            Verb::Rectify => {
                let rule = |layers| Rectification {
                    layers,
                    rectifier: choice.callee.clone(),
                    params: params.clone(),
                };
                module.rectify.extend(reached.into_iter().map(rule));
            }
            Verb::Replace => {}
        }
    }
    Some(module)
}

/// The name of a scheme of the module with this meaning: `gradients`, `gradients2`, …
fn scheme(module: &mut Module, target: Role, quantizer: &str, params: &Attrs) -> String {
    let scheme = Scheme { quantizer: quantizer.to_owned(), params: params.clone() };
    let mut name = target.word().to_owned();
    let mut ordinal = 1;
    while module.schemes.get(&name).is_some_and(|s| *s != scheme) {
        ordinal += 1;
        name = format!("{}{ordinal}", target.word());
    }
    module.schemes.insert(name.clone(), scheme);
    name
}

fn reached(entry: &Entry, layers: &[String]) -> Result<Vec<Layers>, Diagnostic> {
    let path = match &entry.scope {
        Scope::All => return Ok(vec![Layers::All]),
        Scope::Class("first") => return Ok(vec![Layers::First]),
        Scope::Class("last") => return Ok(vec![Layers::Last]),
        Scope::Class(_) => return Ok(vec![Layers::Logits]),
        Scope::Path(path) => path,
    };
    let found = matching(path, layers);
    if !found.is_empty() {
        return Ok(found.into_iter().map(Layers::Path).collect());
    }
    let mut known: Vec<&str> = vec![];
    for layer in layers {
        let blocks = layer.match_indices('.').map(|(at, _)| &layer[..at]);
        for path in blocks.chain([layer.as_str()]) {
            if !known.contains(&path) {
                known.push(path);
            }
        }
    }
    let error = entry
        .place
        .mark(Diagnostic::new("E0207", format!("the model has no layer `{path}`")), "no such layer");
    Err(Diagnostic { help: suggest::help(path, known), ..error })
}
