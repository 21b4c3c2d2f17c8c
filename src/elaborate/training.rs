//! The settings of `train { … }`: optimizers, schedules and augmentations with their arguments, and the merged values.

use std::collections::BTreeMap;

use super::Report;
use super::args::{Given, bind, complete};
use crate::bits;
use crate::diag::{Diagnostic, suggest};
use crate::ir::{Attr, Attrs, Module, Training};
use crate::syntax::ast::{Arg, Expr, ExprKind, Name, Place, Setting};
use crate::types::{Kind, Literal, ParamSpec};

/// Something of the language with a name and parameters.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its name.
    pub name: &'static str,
    /// One line for `fqtc list`.
    pub doc: &'static str,
    /// Its parameters.
    pub params: &'static [ParamSpec],
}

const fn real(name: &'static str, range: (f64, f64), default: f64, doc: &'static str) -> ParamSpec {
    ParamSpec::optional(name, Kind::Real { lo: range.0, hi: range.1 }, Literal::Real(default), doc)
}

const WARMUP: ParamSpec = real(
    "warmup",
    (0.0, 1e6),
    0.0,
    "epochs of linear warm-up from zero, not necessarily whole; at most a third of the run",
);

/// Optimizers.
pub static OPTIMIZERS: &[Named] = &[Named {
    name: "sgd",
    doc: "stochastic gradient descent with momentum; weight decay spares biases and batch norm",
    params: &[
        real("lr", (1e-7, 16.0), 0.1, "learning rate; the schedule scales it"),
        real("momentum", (0.0, 0.9999), 0.9, "share of the last step's momentum that is kept"),
        real("weight_decay", (0.0, 0.0625), 0.0, "pull of the weights towards zero, added to the gradient"),
    ],
}];

/// Schedules of the learning rate. Each spans the run, however many epochs it has.
pub static SCHEDULES: &[Named] = &[
    Named { name: "constant", doc: "the same rate throughout", params: &[WARMUP] },
    Named {
        name: "step",
        doc: "times `factor` after half and after three quarters of the run",
        params: &[real("factor", (0.0, 1.0), 0.1, "what the rate is multiplied by"), WARMUP],
    },
    Named { name: "cosine", doc: "half a cosine down to zero", params: &[WARMUP] },
    Named {
        name: "one_cycle",
        doc: "half a cosine up from a twenty-fifth of the rate, and another down to zero",
        params: &[real("rise", (0.01, 0.99), 0.3, "share of the run after which the rate peaks")],
    },
];

/// Augmentations of training images.
pub static AUGMENTATIONS: &[Named] = &[
    Named {
        name: "pad_crop",
        doc: "shift by up to so many pixels in both directions, as a crop of the padded image",
        params: &[
            ParamSpec::optional("pixels", Kind::Int { lo: 0, hi: 16 }, Literal::Int(4), "largest shift"),
            ParamSpec::optional(
                "mode",
                Kind::Word(&["reflect", "mean"]),
                Literal::Word("reflect"),
                "what it is padded with: its own reflection, or the mean pixel of the training images",
            ),
        ],
    },
    Named { name: "flip", doc: "mirror left and right, half of the time", params: &[] },
];

/// The setting that holds a policy of bit-widths.
const PRECISION: &str = "precision";

/// A setting of `train`: its name and what it holds.
enum Holds {
    Number(ParamSpec),
    One(Vec<Named>),
    Many(&'static [Named]),
}

/// Policies of the bits in force; the first holds where nothing is said.
pub fn policies() -> Vec<Named> {
    bits::ALL.iter().map(|p| Named { name: p.name(), doc: p.doc(), params: p.params() }).collect()
}

fn settings() -> [(&'static str, Holds); 7] {
    let number = |name, lo, hi, default, doc| {
        (name, Holds::Number(ParamSpec::optional(name, Kind::Int { lo, hi }, Literal::Int(default), doc)))
    };
    [
        number("epochs", 1, 1_000_000, 10, "passes over the data"),
        number("batch", 1, 65_536, 128, "images a step"),
        number("seed", 0, i64::MAX, 0, "seed of initialization, order, augmentation and rounding"),
        ("optimizer", Holds::One(OPTIMIZERS.to_vec())),
        ("schedule", Holds::One(SCHEDULES.to_vec())),
        (PRECISION, Holds::One(policies())),
        ("augment", Holds::Many(AUGMENTATIONS)),
    ]
}

/// Names of the settings.
pub(super) fn setting_names() -> impl Iterator<Item = &'static str> {
    settings().into_iter().map(|(name, _)| name)
}

/// One call with what was given explicitly.
type Chosen = (Named, Attrs);

/// The settings so far.
#[derive(Default)]
pub(super) struct Settings {
    numbers: BTreeMap<&'static str, i64>,
    chosen: BTreeMap<&'static str, Vec<Chosen>>,
    /// Where the policy of bit-widths is set, if it is.
    precision: Option<Place>,
}

impl Settings {
    /// The values when nothing is said.
    pub(super) fn new() -> Settings {
        let mut result = Settings::default();
        for (name, holds) in settings() {
            match holds {
                Holds::Number(spec) => {
                    if let Some(Literal::Int(v)) = spec.default {
                        result.numbers.insert(name, v);
                    }
                }
                Holds::One(table) => {
                    let named = if name == "schedule" { table[2] } else { table[0] };
                    result.chosen.insert(name, vec![(named, Attrs::new())]);
                }
                Holds::Many(_) => {
                    result.chosen.insert(name, vec![]);
                }
            }
        }
        result
    }

    /// Reads one `train { … }`: each setting at most once.
    pub(super) fn read(&mut self, block: &[Setting], report: &mut Report) {
        let mut seen: BTreeMap<&str, &Name> = BTreeMap::new();
        for setting in block {
            if let Some(first) = seen.insert(&setting.name.text, &setting.name) {
                let error = Diagnostic::new("E0205", format!("`{}` is set twice", setting.name.text));
                let error = setting.name.place.mark(error, "set again here");
                report.add(first.place.mark(error, "first set here").help("remove one of the two"));
                continue;
            }
            self.set(&setting.name, &setting.values, report);
        }
    }

    /// Sets one setting. A call of what is chosen already changes only the arguments that it names.
    pub(super) fn set(&mut self, name: &Name, values: &[Expr], report: &mut Report) {
        let Some((key, holds)) = settings().into_iter().find(|(key, _)| *key == name.text) else {
            let error = Diagnostic::new("E0201", format!("there is no setting `{}`", name.text));
            let error = name.place.mark(error, "unknown setting");
            report.add(Diagnostic { help: suggest::help(&name.text, setting_names()), ..error });
            return;
        };
        match (holds, values) {
            (Holds::Number(spec), [value]) => {
                if let Some(Attr::Int(v)) = report.take(super::args::constant(&spec, value)) {
                    self.numbers.insert(key, v);
                }
            }
            (Holds::One(table), [value]) => {
                let old = self.chosen.get(key).and_then(|c| c.first()).cloned();
                if let Some(new) = choose(key, &table, value, old, report) {
                    self.chosen.insert(key, vec![new]);
                    self.precision =
                        (key == PRECISION).then(|| value.place.clone()).or(self.precision.take());
                }
            }
            (Holds::Many(_), [Expr { kind: ExprKind::Name(word), .. }]) if word == "none" => {
                self.chosen.insert(key, vec![]);
            }
            (Holds::Many(table), _) => {
                let mut chosen: Vec<Chosen> = vec![];
                for value in values {
                    let Some(new) = choose(key, table, value, None, report) else { continue };
                    if chosen.iter().any(|(named, _)| named.name == new.0.name) {
                        let message = format!("`{key}` has `{}` twice", new.0.name);
                        let error = value.place.mark(Diagnostic::new("E0205", message), "again here");
                        report.add(error.help("keep one of them"));
                    }
                    chosen.push(new);
                }
                self.chosen.insert(key, chosen);
            }
            _ => {
                let error = Diagnostic::new(
                    "E0204",
                    format!("`{key}` takes one value, but is given {}", values.len()),
                );
                report.add(name.place.mark(error, "this setting").help("keep one of them"));
            }
        }
    }

    /// Changes one argument of what is chosen: `optimizer.lr=0.05`. Of several calls, it is that of the first which has it.
    pub(super) fn change(&mut self, setting: &Name, argument: &Name, value: &Expr, report: &mut Report) {
        let Some(chosen) = self.chosen.get(setting.text.as_str()) else { return };
        let has = |(named, _): &Chosen| named.params.iter().any(|p| p.name == argument.text);
        let changed = chosen.iter().position(has).unwrap_or(0);
        let values = chosen.iter().enumerate().map(|(at, (named, attrs))| {
            let mut call = super::args::call_of(named.name, named.params, attrs);
            if at == changed {
                call.args.retain(|arg| arg.name.as_ref().is_none_or(|name| name.text != argument.text));
                call.args.push(Arg { name: Some(argument.clone()), value: value.clone() });
            }
            Expr { kind: ExprKind::Call(call), place: value.place.clone() }
        });
        let values: Vec<Expr> = values.collect();
        self.set(setting, &values, report);
    }

    /// Whether a setting holds calls, whose arguments keys such as `optimizer.lr` reach.
    pub(super) fn has_arguments(&self, setting: &str) -> bool {
        self.chosen.get(setting).is_some_and(|calls| !calls.is_empty())
    }

    /// The names that `key=value` can give to arguments: `optimizer.lr`.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = setting_names().map(|name| format!("train.{name}")).collect();
        for (setting, chosen) in &self.chosen {
            for (named, _) in chosen {
                keys.extend(named.params.iter().map(|p| format!("{setting}.{}", p.name)));
            }
        }
        keys
    }

    /// As data.
    pub(super) fn training(&self) -> Training {
        let number = |name: &str| self.numbers.get(name).copied().unwrap_or_default();
        let calls = |name: &str| {
            let chosen = self.chosen.get(name).map_or(&[][..], Vec::as_slice);
            chosen.iter().map(|(n, attrs)| (n.name.to_owned(), complete(n.params, attrs))).collect::<Vec<_>>()
        };
        let one = |name: &str| calls(name).pop().unwrap_or_default();
        Training {
            epochs: number("epochs") as u32,
            batch: number("batch") as u32,
            seed: number("seed") as u64,
            optimizer: one("optimizer"),
            schedule: one("schedule"),
            precision: one(PRECISION),
            augment: calls("augment"),
        }
    }

    /// A policy that moves the bits in force has some to move in a module of these settings.
    pub(super) fn check_precision(&self, module: &Module, report: &mut Report) {
        let Some(place) = &self.precision else { return };
        let training = &module.training;
        let moves = module.schemes.values().any(|scheme| bits::course(training, scheme).is_some());
        if training.precision.0 != Training::FIXED && !moves {
            let message = format!("`{}` moves no bit-width of this model", training.precision.0);
            let error = place.mark(Diagnostic::new("E0405", message), "nothing to move");
            let help =
                "give weights or activations more bits than a cycle begins with, or leave this setting out";
            report.add(error.help(help));
        }
    }

    /// As a `train` block that states everything, but that bit-widths are fixed.
    pub(super) fn block(&self) -> Vec<Setting> {
        let name = |text: &str| Name { text: text.to_owned(), place: Place::BuiltIn };
        let mut block = vec![];
        let fixed = |(n, _): &Chosen| n.name == Training::FIXED;
        for (key, holds) in settings() {
            if key == PRECISION && self.chosen[key].iter().all(fixed) {
                continue;
            }
            let mut values: Vec<Expr> = match (&holds, self.chosen.get(key)) {
                (Holds::Number(_), _) => vec![super::args::literal(&Attr::Int(self.numbers[key]))],
                (_, Some(chosen)) => chosen
                    .iter()
                    .map(|(n, a)| super::args::call(n.name, n.params, &complete(n.params, a)))
                    .collect(),
                _ => vec![],
            };
            if values.is_empty() {
                values.push(Expr { kind: ExprKind::Name("none".to_owned()), place: Place::BuiltIn });
            }
            block.push(Setting { name: name(key), values });
        }
        block
    }
}

/// The entry of a table that an expression names, with its arguments over those of `old` if it is the same entry.
fn choose(
    key: &str,
    table: &[Named],
    value: &Expr,
    old: Option<Chosen>,
    report: &mut Report,
) -> Option<Chosen> {
    let (name, args) = match &value.kind {
        ExprKind::Name(name) => (name, &[][..]),
        ExprKind::Call(call) => (&call.name.text, &call.args[..]),
        _ => {
            let error = Diagnostic::new("E0204", format!("`{key}` takes a name, not a number"));
            let error = value.place.mark(error, "expected a name");
            report.add(Diagnostic { help: suggest::help("", table.iter().map(|n| n.name)), ..error });
            return None;
        }
    };
    let Some(&named) = table.iter().find(|n| n.name == name) else {
        let error =
            value.place.mark(Diagnostic::new("E0201", format!("`{key}` knows no `{name}`")), "unknown name");
        report.add(Diagnostic { help: suggest::help(name, table.iter().map(|n| n.name)), ..error });
        return None;
    };
    let mut attrs = old.filter(|(n, _)| n.name == named.name).map_or_else(Attrs::new, |(_, attrs)| attrs);
    let given: Vec<Given<'_>> = args.iter().map(Given::constant).collect();
    attrs.extend(bind(named.name, named.params, &given, report).0);
    Some((named, attrs))
}
