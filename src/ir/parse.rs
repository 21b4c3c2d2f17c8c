//! Reads the text that [`super::print`] writes.
//!
//! Only the form is checked here: names of ops, quantizers and attributes are taken as they come, and the verifiers say
//! what is wrong with them. Nodes get the place of their line. Values are numbered anew, canonically.

use std::collections::BTreeMap;

use pest::Parser;
use pest::error::InputLocation;
use pest::iterators::{Pair, Pairs};

use super::canonical::canonicalize;
use super::print::VERSION;
use super::{
    Attr, Attrs, Element, GroupId, Init, Layers, Module, Node, Param, Rectification, Role,
    Rule as QuantizeRule, Scheme, Stage, TensorType, Training, Value,
};
use crate::diag::{Diagnostic, Span};

use grammar::{Grammar, Rule};

mod grammar {
    #![allow(missing_docs, reason = "the generated rules are named in grammar/ir.pest")]

    #[derive(pest_derive::Parser)]
    #[grammar = "grammar/ir.pest"]
    pub(super) struct Grammar;
}

type Parsed<T> = Result<T, Diagnostic>;

/// The module of a text, or I0101 with the place where it is not one.
pub fn parse(text: &str) -> Parsed<Module> {
    let mut file = Grammar::parse(Rule::file, text).map_err(syntax_error)?;
    let mut parts = file.next().expect("a file was parsed").into_inner();
    let version = parts.next().expect("a file begins with its version");
    let number: u32 = integer(inner(version.clone()))?;
    if number != VERSION {
        return Err(wrong(&version, format!("this is version {number} of the format; {VERSION} is known")));
    }
    Reader::default().module(parts.next().expect("a file has a module"))
}

fn syntax_error(error: pest::error::Error<Rule>) -> Diagnostic {
    let (start, end) = match error.location {
        InputLocation::Pos(at) => (at, at),
        InputLocation::Span(span) => span,
    };
    let error = error.renamed_rules(|found| match found {
        Rule::nl => "end of line".to_owned(),
        Rule::ty => "type".to_owned(),
        Rule::at => "`at` and a layer path".to_owned(),
        Rule::EOI => "end of file".to_owned(),
        other => format!("{other:?}"),
    });
    Diagnostic::new("I0101", format!("unexpected text: {}", error.variant.message()))
        .at(Span { start, end }, "here")
}

fn wrong(pair: &Pair<Rule>, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new("I0101", message).at(span(pair), "here")
}

fn span(pair: &Pair<Rule>) -> Span {
    Span { start: pair.as_span().start(), end: pair.as_span().end() }
}

/// The only part of a rule that has one.
fn inner(pair: Pair<Rule>) -> Pair<Rule> {
    pair.into_inner().next().expect("the rule has a part")
}

fn next<'t>(parts: &mut Pairs<'t, Rule>) -> Pair<'t, Rule> {
    parts.next().expect("the rule has this part")
}

fn integer<T: std::str::FromStr>(pair: Pair<Rule>) -> Parsed<T> {
    pair.as_str().parse().map_err(|_| wrong(&pair, format!("{} is out of range", pair.as_str())))
}

fn symbol(pair: &Pair<Rule>) -> String {
    pair.as_str()[1..].to_owned()
}

fn text(pair: Pair<Rule>) -> String {
    pair.as_str().to_owned()
}

fn number(pair: Pair<Rule>) -> Parsed<Attr> {
    if pair.as_rule() == Rule::int {
        return Ok(Attr::Int(integer(pair)?));
    }
    let value: f64 = integer(pair.clone())?;
    if value.is_finite() { Ok(Attr::Real(value)) } else { Err(wrong(&pair, "the number is out of range")) }
}

fn attrs(pair: Pair<Rule>) -> Parsed<Attrs> {
    let mut attrs = Attrs::new();
    for attr in pair.into_inner() {
        let mut parts = attr.clone().into_inner();
        let (name, value) = (text(next(&mut parts)), next(&mut parts));
        let value = match value.as_rule() {
            Rule::list => Attr::Ints(value.into_inner().map(integer).collect::<Parsed<_>>()?),
            Rule::symbol => Attr::Scheme(symbol(&value)),
            Rule::name => match value.as_str() {
                "true" => Attr::Bool(true),
                "false" => Attr::Bool(false),
                word => Attr::Word(word.to_owned()),
            },
            _ => number(value)?,
        };
        if attrs.insert(name, value).is_some() {
            return Err(wrong(&attr, "the attribute is there twice"));
        }
    }
    Ok(attrs)
}

fn call(pair: Pair<Rule>) -> Parsed<(String, Attrs)> {
    let mut parts = inner(pair).into_inner();
    Ok((text(next(&mut parts)), attrs(next(&mut parts))?))
}

fn ty(pair: Pair<Rule>) -> Parsed<TensorType> {
    let mut parts = pair.into_inner();
    let element = next(&mut parts);
    let shape = next(&mut parts).into_inner().map(integer).collect::<Parsed<_>>()?;
    let element = match (element.as_str(), element.clone().into_inner().next()) {
        (_, Some(name)) if name.as_rule() == Rule::symbol => Element::Quantized(symbol(&name)),
        ("real", _) => Element::Real,
        ("label", _) => Element::Label,
        (other, _) => return Err(wrong(&element, format!("there is no element type `{other}`"))),
    };
    Ok(TensorType { element, shape })
}

fn layers(pair: Pair<Rule>) -> Parsed<Layers> {
    let what = inner(pair);
    match (what.as_rule(), what.as_str()) {
        (Rule::layer, _) => Ok(Layers::Path(text(inner(what)))),
        (_, "all") => Ok(Layers::All),
        (_, "first") => Ok(Layers::First),
        (_, "last") => Ok(Layers::Last),
        (_, "logits") => Ok(Layers::Logits),
        (_, other) => {
            Err(wrong(&what, format!("`{other}` is none of all, first, last, logits, layer <path>")))
        }
    }
}

fn init(pair: Pair<Rule>) -> Parsed<Init> {
    let mut parts = pair.clone().into_inner();
    let (name, argument) = (next(&mut parts), number(next(&mut parts))?);
    match (name.as_str(), argument) {
        ("he_normal", Attr::Int(fan)) if fan > 0 => Ok(Init::HeNormal { fan: fan as u64 }),
        ("uniform", Attr::Int(fan)) if fan > 0 => Ok(Init::Uniform { fan: fan as u64 }),
        ("constant", Attr::Real(value)) => Ok(Init::Constant(value)),
        _ => Err(wrong(&pair, "a start is he_normal(fan), uniform(fan) or constant(1.0)")),
    }
}

/// What has been read so far.
#[derive(Default)]
struct Reader {
    values: BTreeMap<String, Value>,
    types: Vec<TensorType>,
    image: Option<Value>,
    labels: Option<Value>,
    classes: Option<u32>,
    run: Option<(u32, u32, u64)>,
    optimizer: Option<(String, Attrs)>,
    schedule: Option<(String, Attrs)>,
    precision: Option<(String, Attrs)>,
    augment: Vec<(String, Attrs)>,
    schemes: BTreeMap<String, Scheme>,
    rules: Vec<QuantizeRule>,
    rectify: Vec<Rectification>,
    params: Vec<Param>,
    nodes: Vec<Node>,
    groups: Vec<String>,
}

impl Reader {
    fn module(mut self, pair: Pair<Rule>) -> Parsed<Module> {
        let mut parts = pair.clone().into_inner();
        let name = symbol(&next(&mut parts));
        let stage = next(&mut parts);
        let stage = Stage::ALL
            .into_iter()
            .find(|known| known.word() == stage.as_str())
            .ok_or_else(|| wrong(&stage, format!("there is no stage `{}`", stage.as_str())))?;
        let mut gradients = vec![];
        let mut ends = None;
        for part in parts {
            match part.as_rule() {
                Rule::step => ends = Some(self.step(part)?),
                Rule::param => gradients.push(self.param(part)?),
                _ => self.declaration(part)?,
            }
        }
        let (loss, logits) = ends.expect("a module has a step");
        for (param, gradient) in gradients.iter().enumerate() {
            self.params[param].gradient = gradient.as_ref().map(|value| self.value(value)).transpose()?;
        }
        let missing = |what: &str| wrong(&pair, format!("the module has no `{what}`"));
        let (epochs, batch, seed) = self.run.ok_or_else(|| missing("epochs"))?;
        let training = Training {
            epochs,
            batch,
            seed,
            optimizer: self.optimizer.take().ok_or_else(|| missing("optimizer"))?,
            schedule: self.schedule.take().ok_or_else(|| missing("schedule"))?,
            precision: self.precision.take().unwrap_or_else(|| (Training::FIXED.to_owned(), Attrs::new())),
            augment: self.augment,
        };
        let mut module = Module {
            name,
            stage,
            training,
            classes: self.classes.ok_or_else(|| missing("classes"))?,
            schemes: self.schemes,
            rules: self.rules,
            rectify: self.rectify,
            image: self.image.ok_or_else(|| missing("image"))?,
            labels: self.labels.ok_or_else(|| missing("labels"))?,
            params: self.params,
            types: self.types,
            nodes: self.nodes,
            groups: self.groups,
            loss,
            logits,
        };
        canonicalize(&mut module);
        Ok(module)
    }

    fn declaration(&mut self, pair: Pair<Rule>) -> Parsed<()> {
        let twice = |taken: bool| if taken { Err(wrong(&pair, "this is declared twice")) } else { Ok(()) };
        match pair.as_rule() {
            Rule::classes => twice(self.classes.replace(integer(inner(pair.clone()))?).is_some()),
            Rule::run => {
                let mut parts = pair.clone().into_inner();
                let run =
                    (integer(next(&mut parts))?, integer(next(&mut parts))?, integer(next(&mut parts))?);
                twice(self.run.replace(run).is_some())
            }
            Rule::optimizer => twice(self.optimizer.replace(call(pair.clone())?).is_some()),
            Rule::schedule => twice(self.schedule.replace(call(pair.clone())?).is_some()),
            Rule::precision => twice(self.precision.replace(call(pair.clone())?).is_some()),
            Rule::augment => {
                self.augment.push(call(pair)?);
                Ok(())
            }
            Rule::scheme => {
                let mut parts = pair.clone().into_inner();
                let name = symbol(&next(&mut parts));
                let mut parts = next(&mut parts).into_inner();
                let (quantizer, params) = (text(next(&mut parts)), attrs(next(&mut parts))?);
                twice(self.schemes.insert(name, Scheme { quantizer, params }).is_some())
            }
            Rule::rule => self.rule(pair),
            Rule::rectify => {
                let mut parts = pair.into_inner();
                let layers = layers(next(&mut parts))?;
                let mut parts = next(&mut parts).into_inner();
                let (rectifier, params) = (text(next(&mut parts)), attrs(next(&mut parts))?);
                self.rectify.push(Rectification { layers, rectifier, params });
                Ok(())
            }
            Rule::image => {
                let value = self.input(pair.clone())?;
                twice(self.image.replace(value).is_some())
            }
            _ => {
                let value = self.input(pair.clone())?;
                twice(self.labels.replace(value).is_some())
            }
        }
    }

    fn rule(&mut self, pair: Pair<Rule>) -> Parsed<()> {
        let mut parts = pair.into_inner();
        let target = next(&mut parts);
        let target = Role::ALL
            .into_iter()
            .find(|role| role.word() == target.as_str())
            .ok_or_else(|| wrong(&target, "this is none of weights, activations, gradients"))?;
        let layers = layers(next(&mut parts))?;
        let with = next(&mut parts);
        let scheme = match (with.as_rule(), with.as_str()) {
            (Rule::symbol, _) => Some(symbol(&with)),
            (_, "none") => None,
            _ => return Err(wrong(&with, "this is neither a scheme nor `none`")),
        };
        self.rules.push(QuantizeRule { target, layers, scheme });
        Ok(())
    }

    fn input(&mut self, pair: Pair<Rule>) -> Parsed<Value> {
        let mut parts = pair.into_inner();
        let value = next(&mut parts);
        let ty = ty(next(&mut parts))?;
        self.define(&value, ty)
    }

    /// Reads a parameter; its gradient is a value that is still to come.
    fn param<'t>(&mut self, pair: Pair<'t, Rule>) -> Parsed<Option<Pair<'t, Rule>>> {
        let mut parts = pair.into_inner();
        let (value, name) = (next(&mut parts), symbol(&next(&mut parts)));
        let ty = ty(next(&mut parts))?;
        let init = init(next(&mut parts))?;
        let value = self.define(&value, ty.clone())?;
        self.params.push(Param { name, ty, init, value, gradient: None });
        Ok(parts.next().map(inner))
    }

    fn step(&mut self, pair: Pair<Rule>) -> Parsed<(Value, Value)> {
        let mut ends = None;
        for part in pair.into_inner() {
            match part.as_rule() {
                Rule::group => {
                    let mut parts = part.into_inner();
                    let group = GroupId(self.groups.len() as u32);
                    self.groups.push(text(next(&mut parts)));
                    parts.try_for_each(|node| self.node(node, Some(group)))?;
                }
                Rule::node => self.node(part, None)?,
                _ => {
                    let mut parts = part.into_inner();
                    ends = Some((self.value(&next(&mut parts))?, self.value(&next(&mut parts))?));
                }
            }
        }
        Ok(ends.expect("a step ends with `return`"))
    }

    fn node(&mut self, pair: Pair<Rule>, group: Option<GroupId>) -> Parsed<()> {
        let span = span(&pair);
        let mut node = Node {
            op: String::new(),
            operands: vec![],
            attrs: Attrs::new(),
            results: vec![],
            path: String::new(),
            group,
            span: Some(span),
        };
        let (mut results, mut types) = (vec![], vec![]);
        for part in pair.clone().into_inner() {
            match part.as_rule() {
                Rule::results => results = part.into_inner().collect(),
                Rule::name => node.op = text(part),
                Rule::operands => {
                    node.operands =
                        part.into_inner().map(|value| self.value(&value)).collect::<Parsed<_>>()?;
                }
                Rule::attrs => node.attrs = attrs(part)?,
                Rule::types => types = part.into_inner().map(ty).collect::<Parsed<_>>()?,
                _ => node.path = text(inner(part)),
            }
        }
        if results.len() != types.len() {
            let message = format!("{} results have {} types", results.len(), types.len());
            return Err(wrong(&pair, message));
        }
        for (value, ty) in results.iter().zip(types) {
            node.results.push(self.define(value, ty)?);
        }
        self.nodes.push(node);
        Ok(())
    }

    fn define(&mut self, pair: &Pair<Rule>, ty: TensorType) -> Parsed<Value> {
        let value = Value(self.types.len() as u32);
        self.types.push(ty);
        match self.values.insert(pair.as_str().to_owned(), value) {
            None => Ok(value),
            Some(_) => Err(wrong(pair, format!("{} is defined twice", pair.as_str()))),
        }
    }

    fn value(&self, pair: &Pair<Rule>) -> Parsed<Value> {
        let undefined = || wrong(pair, format!("{} is read before it is defined", pair.as_str()));
        self.values.get(pair.as_str()).copied().ok_or_else(undefined)
    }
}
