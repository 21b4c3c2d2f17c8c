//! What the command line says over a model: `--recipe`, `key=value`, and named flags.

use super::merge::State;
use super::paths::Scope;
use super::rules::{self, Entry, layer};
use super::{Report, training};
use crate::diag::{Diagnostic, suggest};
use crate::ir::Role;
use crate::syntax;
use crate::syntax::ast::{Arg, Expr, ExprKind, Name, Place, Verb};

/// Overrides of a model, checked when they are merged into it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// `--recipe`: a recipe of the file or a built-in one.
    pub recipe: Option<String>,
    /// `key=value` in order: `("gradients.per", "channel")`.
    pub set: Vec<(String, String)>,
    /// `--gbits`: bits of the broadest rule for gradients.
    pub gbits: Option<i64>,
    /// `--wbits`: … for weights.
    pub wbits: Option<i64>,
    /// `--abits`: … for activations.
    pub abits: Option<i64>,
    /// `--epochs`.
    pub epochs: Option<i64>,
    /// `--batch`.
    pub batch: Option<i64>,
    /// `--lr`: of the optimizer.
    pub lr: Option<f64>,
    /// `--seed`.
    pub seed: Option<i64>,
}

impl Overrides {
    /// Splits `key=value`.
    pub fn pair(text: &str) -> Result<(String, String), Diagnostic> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(Diagnostic::new("E0208", format!("`{text}` is not of the form key=value"))
                .help("for example `train.epochs=5` or `gradients.bits=4`")),
        }
    }

    /// Merges `key=value`, then the named flags.
    pub(super) fn merge(&self, state: &mut State, report: &mut Report) {
        for (key, value) in &self.set {
            let flag = format!("{key}={value}");
            if let Some(values) = report.take(syntax::flag(value, &flag)) {
                Key { state, flag: &flag, text: key, values: &values }.merge(report);
            }
        }
        let integers = [
            ("--gbits", "gradients.bits", self.gbits),
            ("--wbits", "weights.bits", self.wbits),
            ("--abits", "activations.bits", self.abits),
            ("--epochs", "epochs", self.epochs),
            ("--batch", "batch", self.batch),
            ("--seed", "seed", self.seed),
        ];
        let numbers = integers.map(|(flag, key, value)| (flag, key, value.map(ExprKind::Int)));
        for (flag, key, kind) in
            numbers.into_iter().chain([("--lr", "optimizer.lr", self.lr.map(ExprKind::Real))])
        {
            let Some(kind) = kind else { continue };
            let mut value = Expr { kind, place: Place::BuiltIn };
            let flag = format!("{flag} {value}");
            value.place = Place::Flag(flag.clone());
            Key { state, flag: &flag, text: key, values: &[value] }.merge(report);
        }
    }
}

/// A key with its values, on its way into the state.
struct Key<'a> {
    state: &'a mut State,
    flag: &'a str,
    text: &'a str,
    values: &'a [Expr],
}

impl Key<'_> {
    fn merge(mut self, report: &mut Report) {
        let text = self.text;
        let parts: Vec<&str> = text.strip_prefix("train.").unwrap_or(text).split('.').collect();
        let known = match parts[..] {
            [setting] if training::setting_names().any(|s| s == setting) => {
                self.state.settings.set(&self.name(setting), self.values, report);
                true
            }
            [setting, argument] if self.state.settings.has_arguments(setting) => {
                self.argument(setting, argument, report)
            }
            _ => self.rule(&parts, report),
        };
        if !known {
            report.add(self.unknown());
        }
    }

    fn name(&self, text: &str) -> Name {
        Name { text: text.to_owned(), place: Place::Flag(self.flag.to_owned()) }
    }

    fn one(&self, report: &mut Report) -> Option<Expr> {
        let [value] = self.values else {
            report.add(
                Diagnostic::new("E0204", format!("`{}` takes one value", self.text))
                    .help("keep one of them")
                    .note(format!("from `{}`", self.flag)),
            );
            return None;
        };
        Some(value.clone())
    }

    fn argument(&mut self, setting: &str, argument: &str, report: &mut Report) -> bool {
        if let Some(value) = self.one(report) {
            let (setting, argument) = (self.name(setting), self.name(argument));
            self.state.settings.change(&setting, &argument, &value, report);
        }
        true
    }

    /// `[path.]subject[.argument]`; `false` if it is no such key.
    fn rule(&mut self, parts: &[&str], report: &mut Report) -> bool {
        let Some((at, verb, subject)) = subject(parts) else { return false };
        // Of a replaced layer, the subject is the last component of the path: `basic1.batch_norm2.gain`.
        let path = if verb == Verb::Replace && parts[at] != subject { &parts[..=at] } else { &parts[..at] };
        let scope = if path.is_empty() { Scope::All } else { Scope::named(&path.join(".")) };
        if verb == Verb::Replace
            && let Scope::Class(class) = scope
        {
            report.add(rules::not_of_class(class, &Place::Flag(self.flag.to_owned())));
            return true;
        }
        let Some(value) = self.one(report) else { return true };
        let (callee, args) = match (parts.get(at + 1), value.kind) {
            (Some(argument), _) => {
                let name = Some(self.name(argument));
                (None, vec![Arg { name, value: self.values[0].clone() }])
            }
            (None, ExprKind::Name(name)) => (Some(self.name(&name)), vec![]),
            (None, ExprKind::Call(call)) => (Some(call.name), call.args),
            (None, kind) => {
                report.add(self.no_rule(verb, &kind));
                return true;
            }
        };
        let subject = self.name(subject);
        if let Some(callee) = &callee {
            let with =
                crate::syntax::ast::Call { name: callee.clone(), args: vec![], place: callee.place.clone() };
            if rules::entries(verb, &subject, &[], &with, report).is_empty() {
                return true;
            }
        }
        let place = Place::Flag(self.flag.to_owned());
        self.state.overrides.push(Entry { verb, subject, scope, place, callee, args });
        true
    }

    /// A bare number where a rule belongs: most likely the bits.
    fn no_rule(&self, verb: Verb, value: &ExprKind) -> Diagnostic {
        let key = self.text;
        let error = Diagnostic::new("E0208", format!("`{key}` is a rule, not a value"))
            .note(format!("from `{}`", self.flag));
        match value {
            ExprKind::Int(bits) if verb == Verb::Quantize => {
                error.help(format!("for its bits, `{key}.bits={bits}`"))
            }
            _ => error.help(format!(
                "give a whole rule (`{key}=<name>(...)`), or a part of it (`{key}.<argument>=...`)"
            )),
        }
    }

    fn unknown(&self) -> Diagnostic {
        let keys = self.state.keys();
        let error = Diagnostic::new("E0208", format!("there is no key `{}`", self.text))
            .note(format!("from `{}`", self.flag));
        let text = self.text;
        // An argument without what it belongs to, if only one thing has such an argument.
        let is_whole = |key: &&String| key.rsplit_once('.').is_some_and(|(_, argument)| argument == text);
        let mut whole = keys.iter().filter(is_whole);
        let whole = whole.next().filter(|_| whole.next().is_none());
        let near =
            whole.map(String::as_str).or_else(|| suggest::nearest(text, keys.iter().map(String::as_str)));
        // `<path>.gradients.bits`: the path is free, so compare what follows it.
        let tail = text.rmatch_indices('.').nth(1).and_then(|(at, _)| {
            let near = suggest::nearest(&text[at + 1..], keys.iter().map(String::as_str))?;
            Some(format!("{}.{near}", &text[..at]))
        });
        match near.map(str::to_owned).or(tail) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("keys are such as {}", sample(&keys))),
        }
    }
}

/// Whether the last of some entries, if it changes a rule, has one before it to change.
pub(super) fn check(entries: &[Entry]) -> Result<(), Diagnostic> {
    let Some((change, before)) = entries.split_last() else { return Ok(()) };
    let Entry { verb, subject: Name { text: subject, .. }, scope, place, callee, .. } = change;
    let is_there = || rules::fold(before, *verb, subject, scope, &mut Report::default()).is_some();
    if callee.is_some() || *verb == Verb::Replace || is_there() {
        return Ok(());
    }
    let flag = if let Place::Flag(flag) = place { flag } else { subject };
    let code = if *verb == Verb::Quantize { "E0401" } else { "E0208" };
    let word = if *verb == Verb::Rectify { verb.word() } else { subject };
    let rule = scope.text().map_or(word.to_owned(), |path| format!("{path}.{word}"));
    let what = format!("`{flag}` changes a rule, but no rule says how to {} {subject}", verb.word());
    Err(Diagnostic::new(code, what)
        .help(format!("give a whole rule (`{rule}=<name>(...)`), or use a recipe")))
}

fn sample(keys: &[String]) -> String {
    let shown: Vec<String> = keys.iter().map(|k| format!("`{k}`")).collect();
    shown.join(", ")
}

/// Where in a key the subject of a rule stands, with its verb. At most one component follows it.
fn subject<'a>(parts: &[&'a str]) -> Option<(usize, Verb, &'a str)> {
    let last = parts.len() - 1;
    for at in (last.saturating_sub(1)..=last).rev() {
        let part = parts[at];
        if Role::ALL.iter().any(|role| role.word() == part) {
            return Some((at, Verb::Quantize, part));
        }
        if part == Verb::Rectify.word() {
            return Some((at, Verb::Rectify, rules::subjects(Verb::Rectify).first()?));
        }
    }
    let at = last.checked_sub(1)?;
    let name = parts[at].trim_end_matches(|c: char| c.is_ascii_digit() || c == '*');
    [parts[at], name].into_iter().find(|name| layer(name).is_some()).map(|name| (at, Verb::Replace, name))
}
