//! pest's pairs → syntax tree. The grammar guarantees the form of every pair; only numbers and lengths are checked.

use pest::iterators::Pair;

use super::ast::{
    self, Arg, Block, Call, Expr, ExprKind, File, Member, Model, Name, Operator, Place, Recipe, RecipeItem,
};
use super::ast::{Setting, Stage, Statement, Verb};
use super::parse::Rule;
use super::{MAX_CHAIN, MAX_STAGES};
use crate::diag::{Diagnostic, Span};

/// What to do about an expression that is too long.
const SPLIT: &str = "name parts of it with a binding, or move them into a block";

/// The builder of a tree; errors are collected and leave a harmless value in their place.
pub(super) struct Walk<'a> {
    place: &'a dyn Fn(Span) -> Place,
    pub(super) errors: Vec<Diagnostic>,
}

type Node<'i> = Pair<'i, Rule>;

/// The parts that mean something: without punctuation and keywords.
fn parts(node: Node<'_>) -> impl Iterator<Item = Node<'_>> {
    node.into_inner().filter(|p| {
        use Rule::*;
        !matches!(
            p.as_rule(),
            EOI | lparen
                | rparen
                | lbrace
                | rbrace
                | comma
                | colon
                | assign
                | pipe
                | times
                | kw_model
                | kw_recipe
                | kw_input
                | kw_classes
                | kw_use
                | kw_block
                | kw_return
                | kw_if
                | kw_else
                | kw_train
                | kw_quantize
                | kw_rectify
                | kw_replace
                | kw_at
                | kw_of
                | kw_with
        )
    })
}

fn one(node: Node<'_>) -> Node<'_> {
    next(&mut parts(node))
}

fn next<'i>(nodes: &mut impl Iterator<Item = Node<'i>>) -> Node<'i> {
    nodes.next().expect("the grammar has this part")
}

/// The span up to the last token: pest counts the blanks before a missing optional part in.
fn span(node: &Node<'_>) -> Span {
    let start = node.as_span().start();
    let mut last = node.clone();
    while let Some(inner) = last.clone().into_inner().next_back() {
        last = inner;
    }
    Span { start, end: last.as_span().end() }
}

impl<'a> Walk<'a> {
    pub(super) fn new(place: &'a dyn Fn(Span) -> Place) -> Walk<'a> {
        Walk { place, errors: vec![] }
    }

    fn place(&self, node: &Node<'_>) -> Place {
        (self.place)(span(node))
    }

    fn fail(&mut self, code: &'static str, node: &Node<'_>, message: String, label: &str, help: &str) {
        let diagnostic = self.place(node).mark(Diagnostic::new(code, message), label);
        self.errors.push(diagnostic.help(help));
    }

    pub(super) fn file(&mut self, node: Node<'_>) -> File {
        let mut file = File::default();
        for item in parts(node) {
            match item.as_rule() {
                Rule::model => file.models.push(self.model(item)),
                _ => file.recipes.push(self.recipe(item)),
            }
        }
        file
    }

    pub(super) fn flag(&mut self, node: Node<'_>) -> Vec<Expr> {
        self.clauses(one(node))
    }

    fn model(&mut self, node: Node<'_>) -> Model {
        let mut nodes = parts(node);
        let name = self.name(next(&mut nodes));
        Model { name, members: nodes.map(|n| self.member(n)).collect() }
    }

    fn member(&mut self, node: Node<'_>) -> Member {
        let place = self.place(&node);
        match node.as_rule() {
            Rule::input => {
                let mut nodes = parts(node);
                let name = self.name(next(&mut nodes));
                Member::Input(name, self.dims(&next(&mut nodes)), place)
            }
            Rule::classes => Member::Classes(self.int(&one(node)), place),
            Rule::use_recipe => Member::Use(self.name(one(node))),
            Rule::block => Member::Block(self.block(node)),
            Rule::train => Member::Train(self.train(node)),
            Rule::give | Rule::bind | Rule::result => Member::Statement(self.statement(node)),
            _ => Member::Rule(self.rule(node)),
        }
    }

    fn recipe(&mut self, node: Node<'_>) -> Recipe {
        let mut nodes = parts(node);
        let name = self.name(next(&mut nodes));
        let items = nodes.map(|n| match n.as_rule() {
            Rule::train => RecipeItem::Train(self.train(n)),
            _ => RecipeItem::Rule(self.rule(n)),
        });
        Recipe { name, items: items.collect() }
    }

    fn train(&mut self, node: Node<'_>) -> Vec<Setting> {
        parts(node)
            .map(|n| {
                let mut nodes = parts(n);
                Setting { name: self.name(next(&mut nodes)), values: self.clauses(next(&mut nodes)) }
            })
            .collect()
    }

    fn clauses(&mut self, node: Node<'_>) -> Vec<Expr> {
        parts(node).map(|clause| self.signed(clause)).collect()
    }

    fn rule(&mut self, node: Node<'_>) -> ast::Rule {
        let verb = match node.as_rule() {
            Rule::at => return self.at(node),
            Rule::quantize => Verb::Quantize,
            Rule::rectify => Verb::Rectify,
            _ => Verb::Replace,
        };
        let mut nodes = parts(node).peekable();
        let subject = self.name(next(&mut nodes));
        let of = nodes.next_if(|n| n.as_rule() == Rule::of);
        let of = of.map_or(vec![], |n| parts(n).map(|path| self.name(path)).collect());
        ast::Rule::Set { verb, subject, of, with: self.call(next(&mut nodes)) }
    }

    fn at(&mut self, node: Node<'_>) -> ast::Rule {
        let mut nodes = parts(node);
        let what = self.name(next(&mut nodes));
        let comparison = operator(&next(&mut nodes));
        let number = self.int(&next(&mut nodes));
        ast::Rule::At { what, comparison, number, rules: nodes.map(|n| self.rule(n)).collect() }
    }

    fn block(&mut self, node: Node<'_>) -> Block {
        let mut nodes = parts(node).peekable();
        let name = self.name(next(&mut nodes));
        let mut params = vec![];
        while let Some(parameter) = nodes.next_if(|n| n.as_rule() == Rule::parameter) {
            let mut inner = parts(parameter);
            let name = self.name(next(&mut inner));
            params.push((name, inner.next().map(|n| self.expr(n))));
        }
        Block { name, params, body: nodes.map(|n| self.statement(n)).collect() }
    }

    fn statement(&mut self, node: Node<'_>) -> Statement {
        match node.as_rule() {
            Rule::give => Statement::Return(self.expr(one(node))),
            Rule::bind => {
                let mut nodes = parts(node);
                let name = self.name(next(&mut nodes));
                Statement::Bind(name, self.expr(next(&mut nodes)))
            }
            _ => Statement::Result(self.expr(one(node))),
        }
    }

    fn expr(&mut self, node: Node<'_>) -> Expr {
        let place = self.place(&node);
        let (mut terms, mut operators, mut stages) = (vec![], vec![], vec![]);
        for part in parts(node) {
            match part.as_rule() {
                Rule::operator if operators.len() == MAX_CHAIN => {
                    self.fail(
                        "E0103",
                        &part,
                        format!("more than {MAX_CHAIN} operators in one expression"),
                        "one too many",
                        SPLIT,
                    );
                    break;
                }
                Rule::operator => operators.push(operator(&part)),
                Rule::stage if stages.len() == MAX_STAGES => {
                    self.fail(
                        "E0103",
                        &part,
                        format!("more than {MAX_STAGES} stages in one pipeline"),
                        "one too many",
                        SPLIT,
                    );
                    break;
                }
                Rule::stage => stages.push(self.stage(part)),
                _ => terms.push(self.signed(part)),
            }
        }
        let head = grouped(terms, &operators);
        if stages.is_empty() { head } else { Expr { kind: ExprKind::Pipe(Box::new(head), stages), place } }
    }

    fn stage(&mut self, node: Node<'_>) -> Stage {
        let mut nodes = parts(node);
        let call = self.call(next(&mut nodes));
        Stage { call, times: nodes.next().map(|count| self.primary(one(count))) }
    }

    /// A primary or clause with an optional sign. A sign before a number is part of the number.
    fn signed(&mut self, node: Node<'_>) -> Expr {
        let place = self.place(&node);
        let mut nodes = parts(node).peekable();
        let negative = nodes.next_if(|n| n.as_rule() == Rule::minus).is_some();
        let value = self.primary(next(&mut nodes));
        let kind = match value.kind {
            _ if !negative => return value,
            ExprKind::Int(v) => ExprKind::Int(-v),
            ExprKind::Real(v) => ExprKind::Real(-v),
            _ => ExprKind::Negative(Box::new(value)),
        };
        Expr { kind, place }
    }

    fn primary(&mut self, node: Node<'_>) -> Expr {
        let place = self.place(&node);
        let kind = match node.as_rule() {
            Rule::primary => return self.primary(one(node)),
            Rule::paren => return self.expr(one(node)),
            Rule::int => ExprKind::Int(self.int(&node)),
            Rule::real => ExprKind::Real(self.real(&node)),
            Rule::dims => ExprKind::Dims(self.dims(&node)),
            Rule::choice => self.choice(node),
            _ => {
                let bare = node.clone().into_inner().all(|n| n.as_rule() != Rule::arguments);
                let call = self.call(node);
                if bare { ExprKind::Name(call.name.text) } else { ExprKind::Call(call) }
            }
        };
        Expr { kind, place }
    }

    fn choice(&mut self, node: Node<'_>) -> ExprKind {
        let whole = node.clone();
        let (mut arms, mut condition) = (vec![], None);
        let mut otherwise = None;
        for part in parts(node) {
            match (part.as_rule(), condition.take()) {
                (Rule::branch, Some(c)) => arms.push((c, self.branch(part))),
                (Rule::branch, None) => otherwise = Some(self.branch(part)),
                _ => condition = Some(self.expr(part)),
            }
        }
        if arms.len() > MAX_STAGES {
            let message = format!("more than {MAX_STAGES} branches in one `if`");
            self.fail("E0103", &whole, message, "too many", SPLIT);
        }
        ExprKind::If { arms, otherwise: Box::new(otherwise.expect("the grammar ends an `if` with a branch")) }
    }

    fn branch(&mut self, node: Node<'_>) -> Expr {
        let whole = node.clone();
        match parts(node).next() {
            Some(inner) => self.expr(inner),
            None => {
                let help = "each branch gives a value: `if stride == 1 { x } else { x |> max_pool(2) }`";
                self.fail("E0101", &whole, "this branch is empty".into(), "expected an expression", help);
                Expr { kind: ExprKind::Int(0), place: self.place(&whole) }
            }
        }
    }

    fn call(&mut self, node: Node<'_>) -> Call {
        let place = self.place(&node);
        let mut nodes = parts(node);
        let name = self.name(next(&mut nodes));
        let args = nodes.next().map_or(vec![], |n| parts(n).map(|a| self.argument(a)).collect());
        Call { name, args, place }
    }

    fn argument(&mut self, node: Node<'_>) -> Arg {
        let mut nodes = parts(node).peekable();
        let name = nodes.next_if(|n| n.as_rule() == Rule::name).map(|n| self.name(n));
        Arg { name, value: self.expr(next(&mut nodes)) }
    }

    fn name(&mut self, node: Node<'_>) -> Name {
        Name { place: self.place(&node), text: node.as_str().to_owned() }
    }

    fn int(&mut self, node: &Node<'_>) -> i64 {
        node.as_str().parse().unwrap_or_else(|_| {
            let help = format!("use a number up to {}", i64::MAX);
            self.fail("E0104", node, "this number does not fit into 64 bits".into(), "too large", &help);
            0
        })
    }

    fn real(&mut self, node: &Node<'_>) -> f64 {
        let value: f64 = node.as_str().parse().unwrap_or(f64::INFINITY);
        if value.is_finite() {
            return value;
        }
        let help = format!("use a number up to {:e}", f64::MAX);
        self.fail("E0104", node, "this number is larger than any finite number".into(), "too large", &help);
        0.0
    }

    fn dims(&mut self, node: &Node<'_>) -> Vec<u64> {
        let sides =
            node.as_str().split('x').map(|side| side.parse::<i64>().ok().and_then(|v| u64::try_from(v).ok()));
        sides.collect::<Option<Vec<u64>>>().unwrap_or_else(|| {
            let help = format!("use sides up to {}", i64::MAX);
            self.fail(
                "E0104",
                node,
                "a side of this size does not fit into 63 bits".into(),
                "too large",
                &help,
            );
            vec![1]
        })
    }
}

fn operator(node: &Node<'_>) -> Operator {
    Operator::from_text(node.as_str()).expect("the grammar has only operators of the table")
}

/// Terms and the operators between them, grouped by precedence, equal ones from the left.
fn grouped(terms: Vec<Expr>, operators: &[Operator]) -> Expr {
    let mut terms = terms.into_iter();
    let mut done = vec![terms.next().expect("the grammar has a term")];
    let mut waiting: Vec<Operator> = vec![];
    for (&operator, term) in operators.iter().zip(terms) {
        while waiting.last().is_some_and(|w| w.precedence() >= operator.precedence()) {
            join(&mut done, &mut waiting);
        }
        waiting.push(operator);
        done.push(term);
    }
    while !waiting.is_empty() {
        join(&mut done, &mut waiting);
    }
    done.pop().expect("one expression remains")
}

fn join(done: &mut Vec<Expr>, waiting: &mut Vec<Operator>) {
    let operator = waiting.pop().expect("an operator waits");
    let right = done.pop().expect("every operator has two operands");
    let left = done.pop().expect("every operator has two operands");
    let place = match (&left.place, &right.place) {
        (Place::File(a), Place::File(b)) => Place::File(Span { start: a.start, end: b.end }),
        (place, _) => place.clone(),
    };
    done.push(Expr { kind: ExprKind::Binary(Box::new(left), operator, Box::new(right)), place });
}
