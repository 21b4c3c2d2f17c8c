//! Everything that has a name, from the tables that the compiler itself uses: what `list` shows a line of and `explain` a page.

use super::terminal::table;
use crate::datasets::SAMPLE;
use crate::elaborate::{self, Named};
use crate::ops::Layer;
use crate::types::ParamSpec;
use crate::{datasets, models, ops, passes, quant, rectify, targets};

/// A kind of named things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// What model files are made of
    Layers,
    /// Operations of the training IR
    Ops,
    /// Ways to turn weights, activations and gradients into codes
    Quantizers,
    /// Terms that keep the backward pass of batch norm in range
    Rectifiers,
    /// Ways to update weights
    Optimizers,
    /// Courses of the learning rate
    Schedules,
    /// Ways in which bit-widths move over a run
    Policies,
    /// Distortions of training images
    Augmentations,
    /// Sets of rules to `use`
    Recipes,
    /// Networks that come with the program
    Models,
    /// Steps of the compilation, in order
    Passes,
    /// Processors that code is made for
    Targets,
    /// Data sets known by name
    Data,
}

/// A named thing.
pub(super) struct Entry {
    /// Its name.
    pub(super) name: String,
    /// What it is or belongs to, a word or two.
    pub(super) of: String,
    /// One line about it.
    pub(super) doc: String,
    /// Its parameters.
    pub(super) params: Vec<ParamSpec>,
    /// How it is used, or its text.
    pub(super) example: String,
}

impl Entry {
    fn new(name: &str, of: &str, doc: &str, params: &[ParamSpec], example: String) -> Entry {
        Entry { name: name.into(), of: of.into(), doc: doc.into(), params: params.to_vec(), example }
    }

    /// A line of `list`.
    pub(super) fn line(&self) -> Vec<String> {
        let params: Vec<&str> = self.params.iter().map(|param| param.name).collect();
        let params = if params.is_empty() { String::new() } else { format!("({})", params.join(", ")) };
        vec![format!("{}{params}", self.name), self.of.clone(), self.doc.clone()]
    }

    /// A page of `explain`.
    pub(super) fn page(&self, kind: Kind) -> String {
        let row = |param: &ParamSpec| {
            let default =
                param.default.map_or("required".to_string(), |value| format!("default {}", value.attr()));
            vec![format!("  {}", param.name), param.kind.to_string(), default, param.doc.into()]
        };
        let rows: Vec<_> = self.params.iter().map(row).collect();
        let mut page = format!("{}: {}\n\n{}\n", self.name, kind.one(), wrap(&self.doc));
        if !rows.is_empty() {
            page += &format!("\n{}\n", table(&rows));
        }
        if !self.example.is_empty() {
            page += &format!("\n{}", self.example);
        }
        page.trim_end().to_string()
    }
}

impl Kind {
    /// Every kind; where two share a name, `explain` shows the first.
    pub(super) const ALL: [Kind; 13] = [
        Kind::Layers,
        Kind::Quantizers,
        Kind::Rectifiers,
        Kind::Optimizers,
        Kind::Schedules,
        Kind::Policies,
        Kind::Augmentations,
        Kind::Recipes,
        Kind::Models,
        Kind::Data,
        Kind::Ops,
        Kind::Passes,
        Kind::Targets,
    ];

    /// One of this kind, with its article.
    fn one(self) -> &'static str {
        match self {
            Kind::Layers => "a layer",
            Kind::Ops => "an operation of the training IR",
            Kind::Quantizers => "a quantizer",
            Kind::Rectifiers => "a rectifier of batch norm",
            Kind::Optimizers => "an optimizer",
            Kind::Schedules => "a schedule of the learning rate",
            Kind::Policies => "a policy of bit-widths",
            Kind::Augmentations => "an augmentation of training images",
            Kind::Recipes => "a recipe",
            Kind::Models => "a model",
            Kind::Passes => "a pass",
            Kind::Targets => "a target",
            Kind::Data => "a data set",
        }
    }

    /// All of this kind, in the order of their table.
    pub(super) fn entries(self) -> Vec<Entry> {
        let named = |table: &[Named], of: &str| {
            let entry = |n: &Named| {
                Entry::new(
                    n.name,
                    of,
                    n.doc,
                    n.params,
                    format!("  train {{ {of} {} }}", called(n.name, n.params)),
                )
            };
            table.iter().map(entry).collect()
        };
        match self {
            Kind::Layers => ops::ALL.iter().filter_map(|op| op.layer()).map(layer).collect(),
            Kind::Ops => {
                let entry =
                    |op: &&dyn ops::Op| Entry::new(op.name(), "", op.doc(), op.attrs(), String::new());
                ops::ALL.iter().map(entry).collect()
            }
            Kind::Quantizers => quant::ALL.iter().map(|q| quantizer(*q)).collect(),
            Kind::Rectifiers => rectify::ALL.iter().map(|r| rectifier(*r)).collect(),
            Kind::Optimizers => named(elaborate::OPTIMIZERS, "optimizer"),
            Kind::Schedules => named(elaborate::SCHEDULES, "schedule"),
            Kind::Policies => named(&elaborate::policies(), "precision"),
            Kind::Augmentations => named(elaborate::AUGMENTATIONS, "augment"),
            Kind::Recipes => {
                let entry = |r: &elaborate::BuiltIn| Entry::new(r.name, "", &r.doc(), &[], r.text.into());
                elaborate::built_in().iter().map(entry).collect()
            }
            Kind::Models => {
                models::ALL.iter().map(|m| Entry::new(m.name, "", &m.doc(), &[], m.text.into())).collect()
            }
            Kind::Passes => {
                let stages = |pass: &passes::Pass| format!("{} to {}", pass.needs.word(), pass.gives.word());
                passes::ALL
                    .iter()
                    .map(|p| Entry::new(p.name, &stages(p), p.doc, &[], String::new()))
                    .collect()
            }
            Kind::Targets => {
                let here = |t: &targets::Target| if (t.runs_here)() { "runs here" } else { "" };
                let entry = |t: &&targets::Target| {
                    Entry::new(
                        t.name,
                        here(t),
                        t.about,
                        &[],
                        format!("  fqtc train MODEL --features {}", t.name),
                    )
                };
                targets::ALL.iter().map(entry).collect()
            }
            Kind::Data => {
                [built_in_data()].into_iter().chain(datasets::ALL.iter().map(fetched_data)).collect()
            }
        }
    }
}

/// How something is called: without brackets if it takes no arguments.
fn called(name: &str, params: &[ParamSpec]) -> String {
    if params.is_empty() { name.into() } else { format!("{name}(...)") }
}

fn layer(layer: &dyn Layer) -> Entry {
    let example = match layer.operands() {
        1 => format!("  x |> {}", called(layer.name(), layer.params())),
        _ => format!("  {}(x, y)", layer.name()),
    };
    Entry::new(layer.name(), "", layer.doc(), layer.params(), example)
}

fn quantizer(q: &dyn quant::Quantizer) -> Entry {
    let role = q.role().word();
    Entry::new(q.name(), role, q.doc(), q.params(), format!("  quantize {role} with {}(...)", q.name()))
}

fn rectifier(r: &dyn rectify::Rectifier) -> Entry {
    Entry::new(
        r.name(),
        "batch_norm",
        r.doc(),
        r.params(),
        format!("  rectify batch_norm with {}", called(r.name(), r.params())),
    )
}

fn data(name: &str, title: &str, images: (usize, usize), example: String) -> Entry {
    let doc = format!("{title}. {} training and {} test images", images.0, images.1);
    Entry::new(name, "", &doc, &[], example)
}

fn built_in_data() -> Entry {
    let example = format!("  fqtc train MODEL --data {}", datasets::BUILT_IN);
    data(datasets::BUILT_IN, SAMPLE.title, SAMPLE.images, example)
}

fn fetched_data(set: &datasets::Dataset) -> Entry {
    let example = format!("Licence: {}.\n\n  fqtc data fetch {}", set.licence, set.name);
    data(set.name, set.title, set.images, example)
}

/// Lines of at most 100 characters.
pub(super) fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().expect("there is always a line");
        if !last.is_empty() && last.chars().count() + 1 + word.chars().count() > 100 {
            lines.push(word.to_string());
        } else {
            if !last.is_empty() {
                last.push(' ');
            }
            last.push_str(word);
        }
    }
    lines.join("\n")
}
