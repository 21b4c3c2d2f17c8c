//! Source → syntax tree, through pest.
//!
//! pest stops at the first error. To report more of them in one run, the innermost braces around an error are emptied
//! and the text is parsed again (`recover`); the tree is built only from a text without errors.

use std::num::NonZeroUsize;
use std::sync::Once;

use pest::Parser;
use pest::error::{Error, ErrorVariant, InputLocation};

use super::ast::{Expr, File, Place};
use super::walk::Walk;
use super::{MAX_DEPTH, MAX_SOURCE, recover};
use crate::diag::{Diagnostic, Span, suggest};

/// Most syntax errors in one report: later ones are more and more likely consequences of earlier ones.
const MAX_ERRORS: usize = 8;

/// Most calls of grammar rules in one parse; an ordinary source needs about ten a byte.
const CALL_LIMIT: NonZeroUsize = NonZeroUsize::new(20_000_000).expect("it is not zero");

#[derive(pest_derive::Parser)]
#[grammar = "grammar/fqt.pest"]
pub(super) struct Grammar;

/// The text of a source; what is too large (E0102) or not UTF-8 (E0105) is an error.
pub fn text(bytes: Vec<u8>) -> Result<String, Diagnostic> {
    short(bytes.len())?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        Diagnostic::new("E0105", format!("not a text file: byte {at} is not UTF-8"))
            .help("a model file is plain UTF-8 text; check that this is the right file")
    })
}

/// Parses a model file. The tree's places point into `source`.
pub fn file(source: &str) -> Result<File, Vec<Diagnostic>> {
    parse_file(source, &Place::File)
}

/// Parses the text of a built-in recipe.
pub fn built_in(source: &str) -> Result<File, Vec<Diagnostic>> {
    parse_file(source, &|_| Place::BuiltIn)
}

/// Parses the value of a `key=value` flag: one or more numbers or calls. `flag` is what errors quote.
pub fn flag(value: &str, flag: &str) -> Result<Vec<Expr>, Diagnostic> {
    let place = |_| Place::Flag(flag.to_owned());
    // Spans point into the value, which no source shows.
    let fail = |d: Diagnostic| Place::Flag(flag.to_owned()).mark(Diagnostic { labels: vec![], ..d }, "");
    bounded(value).map_err(fail)?;
    let mut pairs = Grammar::parse(Rule::flag, value).map_err(|e| fail(syntax_error(value, &e)))?;
    let mut walk = Walk::new(&place);
    let values = walk.flag(pairs.next().expect("the rule gives one pair"));
    match walk.errors.pop() {
        Some(error) => Err(error),
        None => Ok(values),
    }
}

fn parse_file(source: &str, place: &dyn Fn(Span) -> Place) -> Result<File, Vec<Diagnostic>> {
    bounded(source).map_err(|d| vec![d])?;
    let errors = syntax_errors(source);
    if !errors.is_empty() {
        return Err(errors);
    }
    let mut pairs = Grammar::parse(Rule::file, source).map_err(|e| vec![syntax_error(source, &e)])?;
    let mut walk = Walk::new(place);
    let file = walk.file(pairs.next().expect("the rule gives one pair"));
    if walk.errors.is_empty() { Ok(file) } else { Err(walk.errors) }
}

fn short(length: usize) -> Result<(), Diagnostic> {
    if length <= MAX_SOURCE {
        return Ok(());
    }
    let message = format!("the file has more than {MAX_SOURCE} bytes, the most that a model file can have");
    Err(Diagnostic::new("E0102", message)
        .help("check that this is a model file; data does not belong into one"))
}

/// Refuses what would make pest or a later walk recurse or run for long.
fn bounded(source: &str) -> Result<(), Diagnostic> {
    static LIMIT: Once = Once::new();
    LIMIT.call_once(|| pest::set_call_limit(Some(CALL_LIMIT)));
    if source.len() > MAX_SOURCE {
        let message = format!("the file has {} bytes; a model file has at most {MAX_SOURCE}", source.len());
        return Err(Diagnostic::new("E0102", message)
            .help("check that this is a model file; data does not belong into one"));
    }
    match recover::too_deep(source, MAX_DEPTH) {
        Some(at) => Err(Diagnostic::new(
            "E0103",
            format!("brackets and conditions are nested more than {MAX_DEPTH} deep"),
        )
        .at(recover::token(source, at), format!("this opens level {}", MAX_DEPTH + 1))
        .help("name the inner parts with bindings (`half = channels / 2`) or blocks")),
        None => Ok(()),
    }
}

fn syntax_errors(source: &str) -> Vec<Diagnostic> {
    let mut text = source.to_owned();
    let mut errors = vec![];
    while errors.len() < MAX_ERRORS {
        let Err(error) = Grammar::parse(Rule::file, &text) else { break };
        errors.push(syntax_error(&text, &error));
        match recover::without_innermost(&text, position(&error)) {
            Some(shorter) => text = shorter,
            None => break,
        }
    }
    errors
}

fn position(error: &Error<Rule>) -> usize {
    match error.location {
        InputLocation::Pos(at) | InputLocation::Span((at, _)) => at,
    }
}

fn syntax_error(source: &str, error: &Error<Rule>) -> Diagnostic {
    let at = position(error);
    let span = recover::token(source, at);
    let found = match &source[span.start..span.end] {
        "" => "the end".to_owned(),
        token => format!("`{token}`"),
    };
    match &error.variant {
        ErrorVariant::ParsingError { positives, .. } => {
            let expected = expected(positives);
            let diagnostic = Diagnostic::new("E0101", format!("expected {expected}, found {found}"));
            hint(diagnostic.at(span, "unexpected"), source, at, positives)
        }
        ErrorVariant::CustomError { .. } => Diagnostic::new("E0103", "the file is too complicated to parse")
            .at(span, "given up here")
            .help("split long expressions with bindings and blocks"),
    }
}

/// Slips that people make, and what to write instead.
fn hint(diagnostic: Diagnostic, source: &str, at: usize, positives: &[Rule]) -> Diagnostic {
    let rest = &source[at..];
    let before = source[..at].trim_end();
    if rest.starts_with(';') {
        diagnostic.help("statements need no separator: leave the `;` out")
    } else if rest.starts_with("->") || rest.starts_with('|') {
        diagnostic.help("a pipeline is written `x |> relu |> conv(16, 3x3)`")
    } else if rest.starts_with('#') || rest.starts_with("/*") {
        diagnostic.help("comments are written `// to the end of the line`")
    } else if rest.is_empty() && positives.contains(&Rule::rbrace) {
        diagnostic.help("a `}` is missing")
    } else if before.ends_with(|c: char| c.is_ascii_digit()) && rest.starts_with('x') {
        diagnostic.help("a size is written without blanks: `3x3`, `32x32x3`")
    } else {
        let word: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
        diagnostic.help(meant(&word, positives).unwrap_or_else(|| match &word[..] {
            _ if rest.is_empty() => "put what is expected at the end".to_owned(),
            word if positives.contains(&Rule::name) && is_keyword(word) => {
                format!("`{word}` is a word of the language and cannot be a name")
            }
            _ => "leave it out, or put what is expected before it".to_owned(),
        }))
    }
}

/// Whether a word has a meaning of its own, so that nothing can be called by it.
fn is_keyword(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_alphabetic()) && Grammar::parse(Rule::name, word).is_err()
}

/// A keyword that was expected and nearly written, or the start of a rule whose first word was not understood.
fn meant(word: &str, positives: &[Rule]) -> Option<String> {
    let expected = positives.iter().map(|r| human(*r).trim_matches('`'));
    if word == "with" || word == "of" {
        let forms =
            "`quantize weights with ...`, `rectify batch_norm with ...` or `replace <layer> with ...`";
        return Some(format!("a rule is {forms}"));
    }
    suggest::nearest(word, expected).map(|keyword| format!("did you mean `{keyword}`?"))
}

/// "a name, `)` or an operator".
fn expected(rules: &[Rule]) -> String {
    let mut words: Vec<&str> = vec![];
    for word in rules.iter().map(|r| human(*r)) {
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.len() > 6 && rules.contains(&Rule::rbrace) {
        words = vec!["a statement", "a declaration", "`}`"];
    }
    match words.split_last() {
        None => "something else".to_owned(),
        Some((one, [])) => (*one).to_owned(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
    }
}

/// A rule of the grammar in a user's words.
fn human(part: Rule) -> &'static str {
    match part {
        Rule::EOI => "the end",
        Rule::flag | Rule::clauses | Rule::clause => "a value",
        Rule::file | Rule::model | Rule::kw_model => "`model`",
        Rule::recipe | Rule::kw_recipe => "`recipe`",
        Rule::input | Rule::kw_input => "`input`",
        Rule::classes | Rule::kw_classes => "`classes`",
        Rule::use_recipe | Rule::kw_use => "`use recipe`",
        Rule::block | Rule::kw_block => "`block`",
        Rule::train | Rule::kw_train => "`train`",
        Rule::give | Rule::kw_return => "`return`",
        Rule::bind => "a binding",
        Rule::quantize | Rule::kw_quantize => "`quantize`",
        Rule::rectify | Rule::kw_rectify => "`rectify`",
        Rule::replace | Rule::kw_replace => "`replace`",
        Rule::at | Rule::kw_at => "`at`",
        Rule::of | Rule::kw_of => "`of`",
        Rule::kw_with => "`with`",
        Rule::kw_and | Rule::kw_or | Rule::operator | Rule::minus | Rule::times => "an operator",
        Rule::kw_if | Rule::choice => "`if`",
        Rule::kw_else => "`else`",
        Rule::member | Rule::recipe_item | Rule::statement | Rule::result | Rule::rule => "a statement",
        Rule::expr | Rule::term | Rule::primary | Rule::paren => "an expression",
        Rule::branch | Rule::lbrace => "`{`",
        Rule::rbrace => "`}`",
        Rule::arguments | Rule::lparen => "`(`",
        Rule::rparen => "`)`",
        Rule::argument => "an argument",
        Rule::parameters | Rule::parameter => "a parameter",
        Rule::setting => "a setting",
        Rule::stage | Rule::call => "a layer or block",
        Rule::count => "a number of repetitions",
        Rule::comparison => "a comparison",
        Rule::name => "a name",
        Rule::path | Rule::component => "a layer path",
        Rule::number | Rule::int | Rule::real | Rule::exponent => "a number",
        Rule::dims => "a size such as `3x3`",
        Rule::comma => "`,`",
        Rule::colon => "`:`",
        Rule::assign => "`=`",
        Rule::pipe => "`|>`",
        Rule::WHITESPACE | Rule::COMMENT | Rule::keyword | Rule::word => "text",
    }
}
