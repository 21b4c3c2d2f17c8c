//! Uses of layers and blocks: binding of arguments, paths, replacement, and the building of a layer's nodes.

use super::args::{Given, bind, check, complete, word_or_bool, words};
use super::expr;
use super::frame::{Frame, Val};
use super::network::Builder;
use super::paths::Scope;
use super::rules::{self, NOTHING};
use crate::diag::{Diagnostic, suggest};
use crate::ir::{Attr, Attrs, Value};
use crate::ops::{self, Layer};
use crate::syntax::ast::{Arg, Block, Call, ExprKind, Place, Verb};
use crate::types::ParamSpec;

/// The parameter that may be decided by what follows, and its undecided value.
const BIAS: (&str, &str) = ("bias", "auto");

impl<'a> Builder<'a> {
    /// Applies a layer or block to `piped` (if it is a stage) and its arguments.
    pub(super) fn call(
        &mut self,
        frame: &mut Frame<'a>,
        call: &'a Call,
        piped: Option<(Val, &'a Place)>,
    ) -> Val {
        if !self.step(&call.place) {
            return Val::Poison;
        }
        // Layers inside the arguments are not what the binding names.
        let naming = frame.naming.take();
        let block = self.merged.blocks.iter().copied().find(|b| b.name.text == call.name.text);
        if let Some(block) = block {
            return self.deeper(|b| b.block(frame, block, call, piped, naming));
        }
        match rules::layer(&call.name.text) {
            Some(layer) => self.layer(frame, layer, call, piped, naming).unwrap_or(Val::Poison),
            None => {
                let blocks = self.merged.blocks.iter().map(|b| b.name.text.as_str());
                let names = blocks.chain(ops::layers().map(|layer| layer.name()));
                let name = &call.name.text;
                let error = Diagnostic::new("E0201", format!("there is no layer or block `{name}`"));
                let error = call.name.place.mark(error, "unknown layer");
                self.report.add(Diagnostic { help: suggest::help(name, names), ..error });
                Val::Poison
            }
        }
    }

    fn block(
        &mut self,
        frame: &mut Frame<'a>,
        block: &'a Block,
        call: &'a Call,
        piped: Option<(Val, &'a Place)>,
        naming: Option<&'a str>,
    ) -> Val {
        if self.active.iter().any(|b| b.name.text == block.name.text) {
            let error = Diagnostic::new("E0206", format!("the block `{}` calls itself", block.name.text));
            let error = call.name.place.mark(error, "called from inside itself");
            self.report
                .add(block.name.place.mark(error, "this block").help("repeat a stage with `* n` instead"));
            return Val::Poison;
        }
        let given = self.block_arguments(frame, block, call, piped);
        frame.naming = naming;
        let path = frame.path(&block.name.text);
        let mut inner = Frame::new(Some(&path), block.body.iter());
        self.active.push(block);
        for ((name, default), value) in block.params.iter().zip(given) {
            let value = match (value, default) {
                (Some(value), _) => value,
                (None, Some(default)) => expr::eval(self, &mut inner, default),
                (None, None) => {
                    let message = format!("`{}` needs `{}`", block.name.text, name.text);
                    let error = call
                        .place
                        .mark(Diagnostic::new("E0203", message), format!("`{}` is missing", name.text));
                    self.report.add(
                        name.place
                            .mark(error, "this parameter has no default")
                            .help(format!("give it: `{} = ...`", name.text)),
                    );
                    Val::Poison
                }
            };
            let bound = inner.bind(name, value);
            self.report.take(bound);
        }
        let result = self.statements(block.body.iter(), &mut inner, Some(block));
        self.active.pop();
        result.map_or(Val::Poison, |(value, _)| value)
    }

    /// The value of each parameter of a block, where one is given.
    fn block_arguments(
        &mut self,
        frame: &mut Frame<'a>,
        block: &'a Block,
        call: &'a Call,
        piped: Option<(Val, &'a Place)>,
    ) -> Vec<Option<Val>> {
        let mut given: Vec<Option<Val>> = vec![None; block.params.len()];
        let mut positional = 0;
        let piped = piped.map(|(value, place)| (None, value, place));
        let mut pending: Vec<(Option<&'a Arg>, Val, &'a Place)> = piped.into_iter().collect();
        for arg in &call.args {
            pending.push((Some(arg), expr::eval(self, frame, &arg.value), &arg.value.place));
        }
        for (arg, value, place) in pending {
            let name = arg.and_then(|a| a.name.as_ref());
            let index = match name {
                Some(name) => block.params.iter().position(|(n, _)| n.text == name.text),
                None => (positional < given.len()).then_some(positional),
            };
            positional += usize::from(name.is_none());
            let owner = &block.name.text;
            let Some(index) = index else {
                let params = block.params.iter().map(|(n, _)| n.text.as_str());
                let error = match name {
                    Some(name) => {
                        let error =
                            Diagnostic::new("E0202", format!("`{owner}` has no parameter `{}`", name.text));
                        Diagnostic {
                            help: suggest::help(&name.text, params),
                            ..name.place.mark(error, "unknown parameter")
                        }
                    }
                    None => {
                        let message = format!("`{owner}` takes {} arguments, but is given more", given.len());
                        place.mark(Diagnostic::new("E0202", message), "one too many")
                    }
                };
                self.report.add(block.name.place.mark(error, "this block"));
                continue;
            };
            if given[index].replace(value).is_some() {
                let message = format!("`{}` of `{owner}` is given twice", block.params[index].0.text);
                self.report.add(
                    place
                        .mark(Diagnostic::new("E0204", message), "given again here")
                        .help("remove one of the two"),
                );
            }
        }
        given
    }

    fn layer(
        &mut self,
        frame: &mut Frame<'a>,
        layer: &'static dyn Layer,
        call: &'a Call,
        piped: Option<(Val, &'a Place)>,
        naming: Option<&'a str>,
    ) -> Option<Val> {
        let count = layer.operands();
        let positional = call.args.iter().filter(|a| a.name.is_none()).count() + usize::from(piped.is_some());
        if positional < count {
            let plural = if count == 1 { "" } else { "s" };
            let message =
                format!("`{}` takes {count} tensor{plural}, but is given {positional}", layer.name());
            let error = call.place.mark(Diagnostic::new("E0302", message), "too few tensors");
            self.report.add(
                error.help("give tensors first: in a pipeline (`x |> relu`) or as arguments (`add(x, y)`)"),
            );
            return None;
        }
        let mut operands = vec![];
        let piped_count = usize::from(piped.is_some());
        let mut values: Vec<(Val, &Place)> = piped.into_iter().collect();
        let (tensors, rest) = split(&call.args, count - piped_count);
        for arg in tensors {
            values.push((expr::eval(self, frame, &arg.value), &arg.value.place));
        }
        for (value, place) in values {
            match value {
                Val::Tensor(tensor) => operands.push(tensor),
                Val::Poison => {}
                other => {
                    let message =
                        format!("`{}` takes a tensor here, but this is {}", layer.name(), other.kind());
                    self.report.add(
                        place
                            .mark(Diagnostic::new("E0302", message), "not a tensor")
                            .help(format!("tensors come first: `x |> {}(...)`", layer.name())),
                    );
                }
            }
        }
        let (given, right) = self.arguments(frame, layer.name(), layer.params(), rest);
        frame.naming = naming;
        let path = frame.path(layer.name());
        self.layers.push(path.clone());
        if operands.len() < count || !right {
            return None;
        }
        self.replaced(layer, given, &path, &operands, call)
    }

    /// The value of each argument as its parameter holds it; names that are not bound are words where words fit.
    fn arguments(
        &mut self,
        frame: &mut Frame<'a>,
        owner: &str,
        specs: &[ParamSpec],
        args: Vec<&'a Arg>,
    ) -> (Attrs, bool) {
        let mut values = vec![];
        for arg in &args {
            let word = match &arg.value.kind {
                ExprKind::Name(name) if frame.get(name).is_none() => Some(word_or_bool(name)),
                _ => None,
            };
            let value = if word.is_none() { Some(expr::eval(self, frame, &arg.value)) } else { None };
            values.push((word, value));
        }
        let frame = &*frame;
        let given: Vec<Given<'_>> = args
            .iter()
            .zip(&values)
            .map(|(arg, (word, value))| Given {
                name: arg.name.as_ref(),
                place: &arg.value.place,
                value: Box::new(move |spec| argument(frame, spec, arg, word.as_ref(), value.as_ref())),
            })
            .collect();
        bind(owner, specs, &given, self.report)
    }

    /// Builds a layer, or what the rules put in its place. Its path stays.
    fn replaced(
        &mut self,
        layer: &'static dyn Layer,
        mut given: Attrs,
        path: &str,
        operands: &[Value],
        call: &Call,
    ) -> Option<Val> {
        let mut layer = layer;
        let scope = Scope::Path(path.to_owned());
        let choice = rules::fold(&self.merged.entries, Verb::Replace, layer.name(), &scope, self.report);
        if let Some(choice) = choice {
            if choice.callee == NOTHING {
                return operands.first().copied().map(Val::Tensor);
            }
            if choice.callee != layer.name() {
                layer = rules::layer(&choice.callee)?;
                given.clear();
            }
            given.extend(choice.given);
        }
        let specs = layer.params();
        let mut args = complete(specs, &given);
        if let Some(spec) = specs.iter().find(|s| !args.contains_key(s.name)) {
            let error = Diagnostic::new("E0203", format!("`{}` needs `{}`", layer.name(), spec.name));
            let error = call.place.mark(error, format!("`{}` is missing", spec.name));
            self.report.add(error.help(format!("{}: {}, {}", spec.name, spec.doc, spec.kind)));
            return None;
        }
        let undecided = args.get(BIAS.0) == Some(&Attr::Word(BIAS.1.to_owned()));
        if undecided {
            args.insert(BIAS.0.to_owned(), Attr::Bool(!self.decided.contains(path)));
        }
        let built = layer.build(&mut self.module, path, operands, &args, call.place.span());
        let value = self.report.take(built)?;
        if undecided {
            self.undecided.push((path.to_owned(), value));
        }
        Some(Val::Tensor(value))
    }
}

/// The first positional arguments, and all others.
fn split(args: &[Arg], count: usize) -> (Vec<&Arg>, Vec<&Arg>) {
    let mut left = count;
    args.iter().partition(|arg| {
        let tensor = arg.name.is_none() && left > 0;
        left -= usize::from(tensor);
        tensor
    })
}

fn argument(
    frame: &Frame<'_>,
    spec: &ParamSpec,
    arg: &Arg,
    word: Option<&Attr>,
    value: Option<&Val>,
) -> Result<Attr, Option<Diagnostic>> {
    let place = &arg.value.place;
    let attr = match (word, value) {
        (Some(Attr::Word(name)), _) if words(&spec.kind).is_empty() => {
            return Err(frame.find(name, place).err());
        }
        (Some(word), _) => word.clone(),
        (_, Some(Val::Poison)) => return Err(None),
        (_, Some(Val::Int(v))) => Attr::Int(*v),
        (_, Some(Val::Real(v))) => Attr::Real(*v),
        (_, Some(Val::Bool(v))) => Attr::Bool(*v),
        (_, Some(Val::Dims(dims))) => Attr::Ints(dims.iter().map(|&d| d as i64).collect()),
        _ => {
            let error =
                Diagnostic::new("E0302", format!("`{}` is {}, but this is a tensor", spec.name, spec.kind));
            return Err(Some(
                place.mark(error, "a tensor").help("a layer takes its tensors first, then its arguments"),
            ));
        }
    };
    check(spec, &attr, place).map_err(Some)
}
