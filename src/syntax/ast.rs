//! The syntax tree: what a file says, with the place of everything that an error may have to point at.
//!
//! Names are not resolved and numbers not checked against anything. The tree prints ([`super::print`]) and reads back.

use crate::diag::{Diagnostic, Span};

/// Where a piece of syntax was written. A place never distinguishes two trees: all places are equal.
#[derive(Clone, Debug)]
pub enum Place {
    /// In the model file.
    File(Span),
    /// In a recipe that is built into the compiler.
    BuiltIn,
    /// On the command line: the flag as the user wrote it.
    Flag(String),
}

impl PartialEq for Place {
    fn eq(&self, _: &Place) -> bool {
        true
    }
}

impl Place {
    /// The span, if it is in the model file.
    pub fn span(&self) -> Option<Span> {
        match self {
            Place::File(span) => Some(*span),
            _ => None,
        }
    }

    /// Adds this place to a diagnostic: a label in the file, or a note that names the flag or recipe.
    pub fn mark(&self, diagnostic: Diagnostic, message: impl Into<String>) -> Diagnostic {
        match self {
            Place::File(span) => diagnostic.at(*span, message),
            Place::BuiltIn => diagnostic.note("in a built-in recipe"),
            Place::Flag(flag) => diagnostic.note(format!("from `{flag}`")),
        }
    }
}

/// A name with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Name {
    /// The letters.
    pub text: String,
    /// Where.
    pub place: Place,
}

/// A file: models (one, if it is right) and recipes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct File {
    /// Models in order.
    pub models: Vec<Model>,
    /// Recipes in order.
    pub recipes: Vec<Recipe>,
}

/// `model name { … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its name.
    pub name: Name,
    /// What it contains, in order.
    pub members: Vec<Member>,
}

/// A member of a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Member {
    /// `input image: 32x32x3`.
    Input(Name, Vec<u64>, Place),
    /// `classes 10`.
    Classes(i64, Place),
    /// `use recipe bn_rectified`.
    Use(Name),
    /// `block … { … }`.
    Block(Block),
    /// `train { … }`.
    Train(Vec<Setting>),
    /// A rule of the model's own.
    Rule(Rule),
    /// A binding or the result.
    Statement(Statement),
}

/// `recipe name { … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Recipe {
    /// Its name.
    pub name: Name,
    /// Rules and settings, in order.
    pub items: Vec<RecipeItem>,
}

/// An item of a recipe.
#[derive(Clone, Debug, PartialEq)]
pub enum RecipeItem {
    /// A rule.
    Rule(Rule),
    /// `train { … }`.
    Train(Vec<Setting>),
}

/// What a rule does; the word that opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// `quantize weights with …`.
    Quantize,
    /// `rectify batch_norm with …`.
    Rectify,
    /// `replace batch_norm with …`.
    Replace,
}

impl Verb {
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            Verb::Quantize => "quantize",
            Verb::Rectify => "rectify",
            Verb::Replace => "replace",
        }
    }
}

/// A rule.
#[derive(Clone, Debug, PartialEq)]
pub enum Rule {
    /// `quantize gradients of first, basic2.conv1 with stochastic(bits = 8)`.
    Set {
        /// What is done.
        verb: Verb,
        /// To what: `weights`, `batch_norm`.
        subject: Name,
        /// Where: `first`, `last`, `logits` or layer paths; everywhere if empty.
        of: Vec<Name>,
        /// With what.
        with: Call,
    },
    /// `at gbits <= 4 { … }`.
    At {
        /// `gbits`, `wbits` or `abits`.
        what: Name,
        /// The comparison.
        comparison: Operator,
        /// The number compared with.
        number: i64,
        /// Rules in force if it holds.
        rules: Vec<Rule>,
    },
}

/// `epochs 200`, `augment pad_crop(4), flip`.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting {
    /// Its name.
    pub name: Name,
    /// One or more values: numbers or calls.
    pub values: Vec<Expr>,
}

/// `block basic(x, channels, stride = 1) { … }`.
#[derive(Clone, Debug, PartialEq)]
pub struct Block {
    /// Its name.
    pub name: Name,
    /// Its parameters with their defaults.
    pub params: Vec<(Name, Option<Expr>)>,
    /// Its statements.
    pub body: Vec<Statement>,
}

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `y = …`.
    Bind(Name, Expr),
    /// `return …`.
    Return(Expr),
    /// An expression alone: the result of the model.
    Result(Expr),
}

/// An expression with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// What it is.
    pub kind: ExprKind,
    /// Where.
    pub place: Place,
}

/// Kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub enum ExprKind {
    /// An integer.
    Int(i64),
    /// A finite real number.
    Real(f64),
    /// A size: `3x3`.
    Dims(Vec<u64>),
    /// A name or word.
    Name(String),
    /// `add(y, skip)`; always with parentheses.
    Call(Call),
    /// `x |> f(1) |> g * 3`.
    Pipe(Box<Expr>, Vec<Stage>),
    /// `channels * 4`, `stride == 1`.
    Binary(Box<Expr>, Operator, Box<Expr>),
    /// `-x`.
    Negative(Box<Expr>),
    /// `if c { a } else if d { b } else { e }`.
    If {
        /// Conditions with their branches.
        arms: Vec<(Expr, Expr)>,
        /// The last branch.
        otherwise: Box<Expr>,
    },
}

/// A callee with arguments. Without parentheses in a pipeline or rule, the list is empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Block, layer, quantizer, …
    pub name: Name,
    /// Arguments in order.
    pub args: Vec<Arg>,
    /// The whole call.
    pub place: Place,
}

/// An argument.
#[derive(Clone, Debug, PartialEq)]
pub struct Arg {
    /// Its name; positional without.
    pub name: Option<Name>,
    /// Its value.
    pub value: Expr,
}

/// A stage of a pipeline.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// What is applied.
    pub call: Call,
    /// How often; once without.
    pub times: Option<Expr>,
}

/// Operators, loosest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `or`
    Or,
    /// `and`
    And,
    /// `==`
    Eq,
    /// `!=`
    Ne,
    /// `<`
    Lt,
    /// `<=`
    Le,
    /// `>`
    Gt,
    /// `>=`
    Ge,
    /// `+`
    Add,
    /// `-`
    Sub,
    /// `*`
    Mul,
    /// `/`
    Div,
}

impl Operator {
    /// Every operator with its spelling and its precedence.
    const TABLE: [(Operator, &'static str, u8); 12] = [
        (Operator::Or, "or", 1),
        (Operator::And, "and", 2),
        (Operator::Eq, "==", 3),
        (Operator::Ne, "!=", 3),
        (Operator::Lt, "<", 3),
        (Operator::Le, "<=", 3),
        (Operator::Gt, ">", 3),
        (Operator::Ge, ">=", 3),
        (Operator::Add, "+", 4),
        (Operator::Sub, "-", 4),
        (Operator::Mul, "*", 5),
        (Operator::Div, "/", 5),
    ];

    /// The operator of a spelling.
    pub fn from_text(text: &str) -> Option<Operator> {
        Operator::TABLE.iter().find(|row| row.1 == text).map(|row| row.0)
    }

    /// The spelling.
    pub fn text(self) -> &'static str {
        Operator::TABLE[self as usize].1
    }

    /// How tightly it binds, 1 to 5; equal ones group from the left.
    pub fn precedence(self) -> u8 {
        Operator::TABLE[self as usize].2
    }

    /// The truth of a comparison of integers; `None` for the other operators.
    pub fn compare(self, a: i64, b: i64) -> Option<bool> {
        Some(match self {
            Operator::Eq => a == b,
            Operator::Ne => a != b,
            Operator::Lt => a < b,
            Operator::Le => a <= b,
            Operator::Gt => a > b,
            Operator::Ge => a >= b,
            _ => return None,
        })
    }
}
