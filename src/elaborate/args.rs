//! Arguments: binding to the parameters that tables describe, and back to syntax.

use super::Report;
use crate::diag::{Diagnostic, suggest};
use crate::ir::{Attr, Attrs};
use crate::syntax::ast::{Arg, Call, Expr, ExprKind, Name, Place};
use crate::types::{Kind, ParamSpec, defaults};

/// An argument whose value is known, or the syntax that gives it once the parameter is known.
pub(super) struct Given<'a> {
    /// Its name; positional without.
    pub(super) name: Option<&'a Name>,
    /// Where its value stands.
    pub(super) place: &'a Place,
    /// Its value for a parameter, or the error, if that is not reported yet.
    pub(super) value: Box<ValueFor<'a>>,
}

type ValueFor<'a> = dyn Fn(&ParamSpec) -> Result<Attr, Option<Diagnostic>> + 'a;

impl<'a> Given<'a> {
    /// An argument of a rule or setting: names are words.
    pub(super) fn constant(arg: &'a Arg) -> Given<'a> {
        let value = Box::new(|spec: &ParamSpec| constant(spec, &arg.value).map_err(Some));
        Given { name: arg.name.as_ref(), place: &arg.value.place, value }
    }
}

/// Binds arguments to parameters: positional ones in table order, then by name. What is not given is not in the result;
/// the truth value says whether everything was right.
pub(super) fn bind(
    owner: &str,
    specs: &[ParamSpec],
    given: &[Given<'_>],
    report: &mut Report,
) -> (Attrs, bool) {
    let mut attrs = Attrs::new();
    let mut right = true;
    let mut positional = 0;
    for arg in given {
        let spec = match arg.name {
            Some(name) => specs.iter().find(|s| s.name == name.text),
            None => specs.get(positional),
        };
        let Some(spec) = spec else {
            report.add(unknown(owner, specs, arg));
            right = false;
            continue;
        };
        positional += usize::from(arg.name.is_none());
        let value = match (arg.value)(spec) {
            Ok(value) => value,
            Err(error) => {
                error.into_iter().for_each(|error| report.add(error));
                right = false;
                continue;
            }
        };
        if attrs.insert(spec.name.to_owned(), value).is_some() {
            let error = Diagnostic::new("E0204", format!("`{}` of `{owner}` is given twice", spec.name));
            report.add(arg.place.mark(error, "given again here").help("remove one of the two"));
        }
    }
    (attrs, right)
}

fn unknown(owner: &str, specs: &[ParamSpec], arg: &Given<'_>) -> Diagnostic {
    let Some(name) = arg.name else {
        let count = specs.len();
        let plural = if count == 1 { "" } else { "s" };
        let error = Diagnostic::new(
            "E0202",
            format!("`{owner}` takes {count} argument{plural}, but more were given"),
        );
        let names: Vec<String> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
        let help = if names.is_empty() {
            "leave it out".to_owned()
        } else {
            format!("they are {}", names.join(", "))
        };
        return arg.place.mark(error, "one too many").help(help);
    };
    let error = Diagnostic::new("E0202", format!("`{owner}` has no parameter `{}`", name.text));
    let error = name.place.mark(error, "unknown parameter");
    let help = suggest::help(&name.text, specs.iter().map(|s| s.name));
    Diagnostic { help: help.or_else(|| Some(format!("`{owner}` takes no arguments"))), ..error }
}

/// The given arguments with the defaults of the others.
pub(super) fn complete(specs: &[ParamSpec], given: &Attrs) -> Attrs {
    let mut attrs = defaults(specs);
    attrs.extend(given.iter().map(|(name, value)| (name.clone(), value.clone())));
    attrs
}

/// The value of a constant expression for a parameter; names are words.
pub(super) fn constant(spec: &ParamSpec, value: &Expr) -> Result<Attr, Diagnostic> {
    let attr = match &value.kind {
        ExprKind::Int(v) => Attr::Int(*v),
        ExprKind::Real(v) => Attr::Real(*v),
        ExprKind::Dims(dims) => Attr::Ints(dims.iter().map(|&d| d as i64).collect()),
        ExprKind::Name(word) => word_or_bool(word),
        _ => {
            let error =
                Diagnostic::new("E0204", format!("`{}` needs a plain number or word here", spec.name));
            return Err(value
                .place
                .mark(error, "not a plain value")
                .help(format!("{} is {}", spec.name, spec.kind)));
        }
    };
    check(spec, &attr, &value.place)
}

/// `true` and `false` are truth values, everything else is a word.
pub(super) fn word_or_bool(word: &str) -> Attr {
    match word {
        "true" => Attr::Bool(true),
        "false" => Attr::Bool(false),
        _ => Attr::Word(word.to_owned()),
    }
}

/// The value as the parameter holds it, or what it should have been.
pub(super) fn check(spec: &ParamSpec, value: &Attr, place: &Place) -> Result<Attr, Diagnostic> {
    spec.check(value).map_err(|error| {
        let code = if spec.name == "bits" { "E0403" } else { error.code };
        let given = match value {
            // With its point: a whole number may be refused because it is written as a real one.
            Attr::Real(v) => format!("{v:?}"),
            _ => literal(value).to_string(),
        };
        let message = format!("`{}` is {}, but {given} was given", spec.name, spec.kind);
        let error = place.mark(Diagnostic { code, message, ..error }, "not accepted");
        match (value, words(&spec.kind)) {
            (Attr::Word(word), words) if !words.is_empty() => {
                let near =
                    suggest::nearest(word, words.iter().copied()).map(|w| format!("did you mean `{w}`?"));
                Diagnostic { help: near.or(error.help), ..error }
            }
            _ => error,
        }
    })
}

/// The words that a kind accepts.
pub(super) fn words(kind: &Kind) -> Vec<&'static str> {
    match kind {
        Kind::Word(words) => words.to_vec(),
        Kind::Bool => vec!["true", "false"],
        Kind::OneOf(kinds) => kinds.iter().flat_map(words).collect(),
        _ => vec![],
    }
}

/// The syntax of a call that states these arguments, in table order.
pub(super) fn call(name: &str, specs: &[ParamSpec], attrs: &Attrs) -> Expr {
    let call = call_of(name, specs, attrs);
    let kind = if call.args.is_empty() { ExprKind::Name(call.name.text) } else { ExprKind::Call(call) };
    Expr { kind, place: Place::BuiltIn }
}

/// As [`call`], for rules.
pub(super) fn call_of(name: &str, specs: &[ParamSpec], attrs: &Attrs) -> Call {
    let word = |text: &str| Name { text: text.to_owned(), place: Place::BuiltIn };
    let args = specs.iter().filter_map(|spec| {
        let value = attrs.get(spec.name)?;
        Some(Arg { name: Some(word(spec.name)), value: literal(value) })
    });
    Call { name: word(name), args: args.collect(), place: Place::BuiltIn }
}

/// The syntax of a value.
pub(super) fn literal(value: &Attr) -> Expr {
    let kind = match value {
        Attr::Int(v) => ExprKind::Int(*v),
        // Whole numbers are integers: `warmup = 5`.
        Attr::Real(v) if v.fract() == 0.0 && v.abs() < 1e15 => ExprKind::Int(*v as i64),
        Attr::Real(v) => ExprKind::Real(*v),
        Attr::Bool(v) => ExprKind::Name(v.to_string()),
        Attr::Word(word) | Attr::Scheme(word) => ExprKind::Name(word.clone()),
        Attr::Ints(dims) => ExprKind::Dims(dims.iter().map(|&d| d.unsigned_abs()).collect()),
    };
    Expr { kind, place: Place::BuiltIn }
}
