//! Statements, blocks and layers of a merged model → nodes of a module.
//!
//! A layer with `bias = auto` has a bias unless only norms read it, which is known only when everything is built: the
//! first build finds these layers, the second leaves their biases out.

use std::collections::BTreeSet;

use super::expr;
use super::frame::{Frame, Val};
use super::merge::{Merged, defined_once};
use super::paths::CLASSES;
use super::rules;
use super::{MAX_NODES, Report};
use crate::diag::Diagnostic;
use crate::ir::{Attrs, Module, Value};
use crate::ops::{self, Part};
use crate::syntax::ast::{Block, Expr, ExprKind, Place, Statement};

/// Blocks inside each other.
const MAX_BLOCKS: usize = 100;

/// Expressions inside each other, through blocks.
const MAX_LEVELS: usize = 400;

/// Evaluated expressions, calls included.
const MAX_STEPS: usize = 100_000;

/// A built network.
pub(super) struct Network {
    pub(super) module: Module,
    /// Paths of all layers that the model uses, in order.
    pub(super) layers: Vec<String>,
}

/// Builds the network; `None` after an error.
pub(super) fn build(merged: &Merged<'_>, report: &mut Report) -> Option<Network> {
    check_blocks(merged, report);
    check_names(merged, report);
    let first = Builder::run(merged, BTreeSet::new(), report)?;
    let unbiased = first.unbiased();
    let last = if unbiased.is_empty() { first } else { Builder::run(merged, unbiased, report)? };
    Some(Network { module: live(last.module), layers: last.layers })
}

/// The module without layers that the loss does not depend on: they are no part of the network, whatever reads them.
fn live(mut module: Module) -> Module {
    let mut read = BTreeSet::from([module.loss, module.logits]);
    let mut kept = vec![];
    for node in std::mem::take(&mut module.nodes).into_iter().rev() {
        if node.results.iter().any(|value| read.contains(value)) {
            read.extend(&node.operands);
            kept.push(node);
        }
    }
    kept.reverse();
    module.nodes = kept;
    module.params.retain(|param| read.contains(&param.value));
    module
}

/// Layers of the model itself are not called what rules call layers of a kind.
fn check_names(merged: &Merged<'_>, report: &mut Report) {
    let bound = merged.statements.iter().filter_map(|statement| match statement {
        Statement::Bind(name, _) => Some(name),
        _ => None,
    });
    for name in bound {
        let (label, why) = match name.text.as_str() {
            "loss" => ("is there already", "every model has a `loss`".to_owned()),
            text if CLASSES.contains(&text) => {
                ("has a meaning in rules", format!("`of {text}` names layers by their place"))
            }
            _ => continue,
        };
        let message = format!("`{}` cannot name a part of the model", name.text);
        let error = name.place.mark(Diagnostic::new("E0205", message), label);
        report.add(error.help(format!("call it otherwise: {why}")));
    }
}

fn check_blocks(merged: &Merged<'_>, report: &mut Report) {
    defined_once(merged.blocks.iter().map(|block| &block.name), "block", report);
    for block in &merged.blocks {
        if rules::layer(&block.name.text).is_some() {
            let error = Diagnostic::new("E0205", format!("`{}` is the name of a layer", block.name.text));
            report.add(
                block
                    .name
                    .place
                    .mark(error, "a block of the same name")
                    .help("choose another name for the block"),
            );
        }
    }
}

/// The state of one build.
pub(super) struct Builder<'a> {
    pub(super) merged: &'a Merged<'a>,
    pub(super) module: Module,
    pub(super) layers: Vec<String>,
    /// Layers whose bias is undecided, with what they give.
    pub(super) undecided: Vec<(String, Value)>,
    /// Layers without bias.
    pub(super) decided: BTreeSet<String>,
    /// Blocks being written out.
    pub(super) active: Vec<&'a Block>,
    level: usize,
    steps: usize,
    /// Set when a limit is reached; everything after is poison.
    stopped: bool,
    pub(super) report: &'a mut Report,
}

impl<'a> Builder<'a> {
    fn run(merged: &Merged<'_>, decided: BTreeSet<String>, report: &mut Report) -> Option<Built> {
        let (name, image, place) = merged.input;
        let module =
            Module::new(&merged.model.name.text, merged.settings.training(), merged.classes.0, image);
        if module.ty(module.image).elements().is_none_or(|n| n >= 1 << 31) {
            let batch = module.training.batch;
            let error =
                Diagnostic::new("E0303", format!("{batch} images of this size have 2^31 elements or more"));
            report.add(place.mark(error, "too large").help("reduce `batch` or the size of the input"));
            return None;
        }
        let image = module.image;
        let mut builder = Builder {
            merged,
            module,
            layers: vec![],
            undecided: vec![],
            decided,
            active: vec![],
            level: 0,
            steps: 0,
            stopped: false,
            report,
        };
        let mut frame = Frame::new(None, merged.statements.iter().copied());
        let bound = frame.bind(name, Val::Tensor(image));
        builder.report.take(bound);
        let result = builder.statements(merged.statements.iter().copied(), &mut frame, None)?;
        builder.finish(result)?;
        let Builder { module, layers, undecided, .. } = builder;
        Some(Built { module, layers, undecided })
    }

    /// The result of the statements of a block, or of the model if `block` is none.
    pub(super) fn statements(
        &mut self,
        statements: impl Iterator<Item = &'a Statement>,
        frame: &mut Frame<'a>,
        block: Option<&'a Block>,
    ) -> Option<(Val, &'a Expr)> {
        let mut result: Option<(Val, &'a Expr)> = None;
        for statement in statements {
            match (statement, block) {
                (Statement::Bind(name, _), Some(_)) if result.is_some() => {
                    let error = Diagnostic::new("E0209", format!("`{}` is bound after `return`", name.text));
                    let error = name.place.mark(error, "nothing can use it");
                    self.report.add(error.help("put `return` at the end of the block"));
                    return None;
                }
                (Statement::Bind(name, value), _) => {
                    frame.naming = single_layer(value).then_some(name.text.as_str());
                    let value = expr::eval(self, frame, value);
                    frame.naming = None;
                    let bound = frame.bind(name, value);
                    self.report.take(bound);
                }
                (Statement::Return(value), Some(_)) | (Statement::Result(value), None) => {
                    if let Some((_, first)) = &result {
                        let error = Diagnostic::new("E0209", "there is more than one result");
                        let error = value.place.mark(error, "second result");
                        self.report
                            .add(first.place.mark(error, "first result").help("bind all but one to names"));
                        return None;
                    }
                    result = Some((expr::eval(self, frame, value), value));
                }
                (Statement::Return(value), None) => {
                    let error =
                        value.place.mark(Diagnostic::new("E0209", "a model does not `return`"), "in a model");
                    self.report.add(error.help("write the pipeline alone: what it gives is the result"));
                    return None;
                }
                (Statement::Result(value), Some(_)) => {
                    let error = value.place.mark(
                        Diagnostic::new("E0209", "nothing uses this value"),
                        "neither bound nor returned",
                    );
                    self.report.add(error.help("write `return ...`, or bind it: `name = ...`"));
                    return None;
                }
            }
        }
        if result.is_none() {
            let (owner, help) = match block {
                Some(block) => (&block.name, "end it with `return ...`"),
                None => (
                    &self.merged.model.name,
                    "write the pipeline of its layers: `image |> ... |> linear(10)`",
                ),
            };
            let error = Diagnostic::new("E0209", format!("`{}` has no result", owner.text));
            self.report.add(owner.place.mark(error, "gives nothing").help(help));
        }
        result
    }

    /// Logits and loss.
    fn finish(&mut self, (result, place): (Val, &Expr)) -> Option<()> {
        let logits = match result {
            Val::Tensor(logits) => logits,
            Val::Poison => return None,
            other => {
                let error = Diagnostic::new(
                    "E0302",
                    format!("the result of a model is a tensor, but this is {}", other.kind()),
                );
                self.report
                    .add(place.place.mark(error, "the result").help("start the pipeline with the input"));
                return None;
            }
        };
        let (classes, declared) = self.merged.classes;
        let shape = &self.module.ty(logits).shape;
        if shape[..] != [u64::from(self.module.training.batch), u64::from(classes)] {
            let message = format!("the model gives {shape:?}, but {classes} classes need [batch, {classes}]");
            let error = place.place.mark(Diagnostic::new("E0305", message), format!("gives {shape:?}"));
            let error = declared.mark(error, format!("{classes} classes"));
            self.report.add(error.help(format!(
                "end the model with `linear({classes})`, after `flatten` or `global_avg_pool`"
            )));
            return None;
        }
        let operands = [logits, self.module.labels];
        let loss =
            ops::append(&mut self.module, "softmax_cross_entropy", &operands, Attrs::new(), "loss", None);
        self.module.logits = logits;
        self.module.loss = *self.report.take(loss)?.first()?;
        Some(())
    }

    /// Counts work; `false` once a limit is reached, which is reported once.
    pub(super) fn step(&mut self, place: &Place) -> bool {
        self.steps += 1;
        let limits = [
            (self.module.nodes.len().max(self.layers.len()) > MAX_NODES, "more than 10,000 nodes"),
            (self.steps > MAX_STEPS, "more than 100,000 evaluated expressions"),
            (self.active.len() > MAX_BLOCKS, "more than 100 blocks inside each other"),
            (self.level > MAX_LEVELS, "more than 400 expressions inside each other, through blocks"),
        ];
        self.stopped |= self.report.is_full();
        if let Some((_, what)) = limits.iter().find(|(reached, _)| *reached)
            && !self.stopped
        {
            self.stopped = true;
            let error = Diagnostic::new("E0304", format!("the model is too large: {what}"));
            self.report
                .add(place.mark(error, "given up here").help("repeat less, or nest blocks less deeply"));
        }
        !self.stopped
    }

    /// Runs `work` one level deeper.
    pub(super) fn deeper<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        self.level += 1;
        let result = work(self);
        self.level -= 1;
        result
    }
}

/// A finished build.
struct Built {
    module: Module,
    layers: Vec<String>,
    undecided: Vec<(String, Value)>,
}

impl Built {
    /// The undecided layers that only norms read.
    fn unbiased(&self) -> BTreeSet<String> {
        let readers = self.module.readers();
        let norms = |value: &Value| {
            let readers = &readers[value.0 as usize];
            !readers.is_empty()
                && readers.iter().all(|&n| ops::of(&self.module.nodes[n]).part() == Part::Norm)
        };
        self.undecided.iter().filter(|(_, value)| norms(value)).map(|(path, _)| path.clone()).collect()
    }
}

/// Whether an expression is one use of one layer or block, which a binding then names.
fn single_layer(value: &Expr) -> bool {
    match &value.kind {
        ExprKind::Call(_) => true,
        ExprKind::Pipe(_, stages) => matches!(&stages[..], [stage] if stage.times.is_none()),
        _ => false,
    }
}
