//! Attributes, and the typed descriptions of parameters that layers, quantizers and rectifiers publish.
//!
//! One description serves the language (binding of arguments, "did you mean", `explain`), the verifier and the passes,
//! so that a name, a range or a default is written once. Nothing here knows any layer or quantizer.

use std::collections::BTreeMap;
use std::fmt;

use crate::diag::Diagnostic;

/// An attribute of an op, or an argument of a layer, quantizer or rectifier.
#[derive(Clone, Debug, PartialEq)]
pub enum Attr {
    /// An integer.
    Int(i64),
    /// A real number (finite).
    Real(f64),
    /// A truth value.
    Bool(bool),
    /// A word: one of a set that the op or quantizer names.
    Word(String),
    /// A list of integers.
    Ints(Vec<i64>),
    /// A scheme, written `@name`.
    Scheme(String),
}

/// Attributes, sorted by name.
pub type Attrs = BTreeMap<String, Attr>;

impl fmt::Display for Attr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Attr::Int(v) => write!(f, "{v}"),
            Attr::Real(v) => write!(f, "{v:?}"),
            Attr::Bool(v) => write!(f, "{v}"),
            Attr::Word(v) => write!(f, "{v}"),
            Attr::Ints(v) => {
                let items: Vec<String> = v.iter().map(i64::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
            Attr::Scheme(v) => write!(f, "@{v}"),
        }
    }
}

/// What a quantizer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Weights of convolutions and linear layers.
    Weights,
    /// What contractions and residual additions read.
    Activations,
    /// The loss gradient at the output of a contraction.
    Gradients,
}

impl Role {
    /// All roles.
    pub const ALL: [Role; 3] = [Role::Weights, Role::Activations, Role::Gradients];

    /// The word of recipes and of the IR text.
    pub fn word(self) -> &'static str {
        match self {
            Role::Weights => "weights",
            Role::Activations => "activations",
            Role::Gradients => "gradients",
        }
    }
}

/// What a parameter accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// An integer in `lo..=hi`.
    Int {
        /// Smallest.
        lo: i64,
        /// Largest.
        hi: i64,
    },
    /// A real number in `lo..=hi`; an integer is converted.
    Real {
        /// Smallest.
        lo: f64,
        /// Largest.
        hi: f64,
    },
    /// A truth value.
    Bool,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Height and width, each in `1..=max`: written `3x3`, held as `Attr::Ints([3, 3])`; one integer means a square.
    Size {
        /// Largest extent.
        max: i64,
    },
    /// Any word: the name of something in a table.
    Name,
    /// A shape: one to four extents.
    Shape,
    /// The name of a scheme.
    Scheme,
    /// Any of these.
    OneOf(&'static [Kind]),
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Int { lo, hi } if *hi == i64::MAX => write!(f, "an integer from {lo}"),
            Kind::Int { lo, hi } => write!(f, "an integer from {lo} to {hi}"),
            Kind::Real { lo, hi } if *hi == f64::MAX => write!(f, "a number from {lo}"),
            Kind::Real { lo, hi } => write!(f, "a number from {lo} to {hi}"),
            Kind::Bool => write!(f, "true or false"),
            Kind::Word(words) => write!(f, "{}", words.join(" or ")),
            Kind::Size { max } => write!(f, "a size such as 3x3 (each side 1 to {max})"),
            Kind::Name => write!(f, "a name"),
            Kind::Shape => write!(f, "a shape of one to four extents"),
            Kind::Scheme => write!(f, "a scheme"),
            Kind::OneOf(kinds) => {
                let kinds: Vec<String> = kinds.iter().map(Kind::to_string).collect();
                write!(f, "{}", kinds.join(", or "))
            }
        }
    }
}

impl Kind {
    /// The attribute in the form that its readers expect (`Real` for a real parameter, two `Ints` for a size), or `None`
    /// if the kind does not accept it.
    pub fn accept(&self, attr: &Attr) -> Option<Attr> {
        match (self, attr) {
            (Kind::Int { lo, hi }, Attr::Int(v)) => (lo <= v && v <= hi).then(|| attr.clone()),
            (Kind::Real { lo, hi }, Attr::Real(v)) => {
                (v.is_finite() && lo <= v && v <= hi).then(|| attr.clone())
            }
            (Kind::Real { .. }, Attr::Int(v)) => self.accept(&Attr::Real(*v as f64)),
            (Kind::Bool, Attr::Bool(_)) => Some(attr.clone()),
            (Kind::Word(words), Attr::Word(v)) => words.contains(&v.as_str()).then(|| attr.clone()),
            (Kind::Size { .. }, Attr::Int(v)) => self.accept(&Attr::Ints(vec![*v, *v])),
            (Kind::Size { max }, Attr::Ints(v)) => {
                (v.len() == 2 && v.iter().all(|d| (1..=*max).contains(d))).then(|| attr.clone())
            }
            (Kind::Name, Attr::Word(_)) => Some(attr.clone()),
            (Kind::Shape, Attr::Ints(v)) => {
                ((1..=4).contains(&v.len()) && v.iter().all(|&d| d > 0)).then(|| attr.clone())
            }
            (Kind::Scheme, Attr::Scheme(_)) => Some(attr.clone()),
            (Kind::OneOf(kinds), _) => kinds.iter().find_map(|k| k.accept(attr)),
            _ => None,
        }
    }
}

/// A constant that can stand in a static table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Literal {
    /// An integer.
    Int(i64),
    /// A real number.
    Real(f64),
    /// A truth value.
    Bool(bool),
    /// A word.
    Word(&'static str),
    /// Height and width.
    Size(i64, i64),
}

impl Literal {
    /// As an attribute.
    pub fn attr(self) -> Attr {
        match self {
            Literal::Int(v) => Attr::Int(v),
            Literal::Real(v) => Attr::Real(v),
            Literal::Bool(v) => Attr::Bool(v),
            Literal::Word(v) => Attr::Word(v.to_owned()),
            Literal::Size(h, w) => Attr::Ints(vec![h, w]),
        }
    }
}

/// A parameter of a layer, quantizer or rectifier.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ParamSpec {
    /// Its name; positional arguments bind in table order.
    pub name: &'static str,
    /// What it accepts.
    pub kind: Kind,
    /// Its default; `None` if it must be given.
    pub default: Option<Literal>,
    /// One line for `explain`.
    pub doc: &'static str,
}

impl ParamSpec {
    /// A parameter without a default.
    pub const fn required(name: &'static str, kind: Kind, doc: &'static str) -> ParamSpec {
        ParamSpec { name, kind, default: None, doc }
    }

    /// A parameter with a default.
    pub const fn optional(name: &'static str, kind: Kind, default: Literal, doc: &'static str) -> ParamSpec {
        ParamSpec { name, kind, default: Some(default), doc }
    }

    /// The value in the form that readers expect; the error (E0204) says what is accepted.
    pub fn check(&self, value: &Attr) -> Result<Attr, Diagnostic> {
        self.kind.accept(value).ok_or_else(|| {
            Diagnostic::new("E0204", format!("`{}` is {}, but {value} was given", self.name, self.kind))
                .help(format!("{}: {}", self.name, self.doc))
        })
    }
}

/// All defaults of a table.
pub fn defaults(specs: &[ParamSpec]) -> Attrs {
    specs.iter().filter_map(|s| Some((s.name.to_owned(), s.default?.attr()))).collect()
}

/// Checks that `attrs` holds exactly the parameters of `specs`, each accepted and in its canonical form.
pub fn conform(owner: &str, specs: &[ParamSpec], attrs: &Attrs) -> Result<(), Diagnostic> {
    for spec in specs {
        let Some(value) = attrs.get(spec.name) else {
            return Err(Diagnostic::new("E0203", format!("`{owner}` needs `{}`", spec.name)).help(spec.doc));
        };
        if spec.check(value)? != *value {
            return Err(Diagnostic::new(
                "E0204",
                format!("`{owner}`: `{}` is {}, but {value} was given", spec.name, spec.kind),
            ));
        }
    }
    match attrs.keys().find(|k| specs.iter().all(|s| s.name != k.as_str())) {
        Some(name) => Err(Diagnostic::new("E0202", format!("`{owner}` has no parameter `{name}`"))),
        None => Ok(()),
    }
}

/// The integer under a name; 0 where the attributes were not verified.
pub fn int(attrs: &Attrs, name: &str) -> i64 {
    match attrs.get(name) {
        Some(Attr::Int(v)) => *v,
        _ => 0,
    }
}

/// The real number under a name; 0 where the attributes were not verified.
pub fn real(attrs: &Attrs, name: &str) -> f64 {
    match attrs.get(name) {
        Some(Attr::Real(v)) => *v,
        Some(Attr::Int(v)) => *v as f64,
        _ => 0.0,
    }
}

/// The truth value under a name; false where the attributes were not verified.
pub fn flag(attrs: &Attrs, name: &str) -> bool {
    matches!(attrs.get(name), Some(Attr::Bool(true)))
}

/// The word (or scheme name) under a name; empty where the attributes were not verified.
pub fn word<'a>(attrs: &'a Attrs, name: &str) -> &'a str {
    match attrs.get(name) {
        Some(Attr::Word(v) | Attr::Scheme(v)) => v,
        _ => "",
    }
}

/// The shape under a name; empty where the attributes were not verified.
pub fn shape(attrs: &Attrs, name: &str) -> Vec<u64> {
    ints(attrs, name).iter().map(|&d| d.max(0) as u64).collect()
}

/// The integers under a name; empty where the attributes were not verified.
pub fn ints<'a>(attrs: &'a Attrs, name: &str) -> &'a [i64] {
    match attrs.get(name) {
        Some(Attr::Ints(v)) => v,
        _ => &[],
    }
}
