//! Syntax tree → canonical text. Printing and parsing give back the same tree (comments are not part of it).

use std::fmt::{self, Write};

use super::ast::{
    Arg, Block, Call, Expr, ExprKind, File, Member, Model, Name, Recipe, RecipeItem, Rule, Setting,
};
use super::ast::{Stage, Statement};

/// Columns after which a pipeline continues on the next line.
const WIDTH: usize = 100;

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let models = self.models.iter().map(Model::to_string);
        let items: Vec<String> = models.chain(self.recipes.iter().map(Recipe::to_string)).collect();
        f.write_str(&items.join("\n"))
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model {} {{", self.name.text)?;
        for (i, member) in self.members.iter().enumerate() {
            let apart = matches!(member, Member::Block(_) | Member::Train(_));
            if i > 0 && (apart || starts_part(&self.members[i - 1], member)) {
                writeln!(f)?;
            }
            f.write_str(&indented(&member.to_string()))?;
        }
        writeln!(f, "}}")
    }
}

/// Declarations, rules and statements stand in paragraphs.
fn starts_part(before: &Member, member: &Member) -> bool {
    let part = |m: &Member| match m {
        Member::Input(..) | Member::Classes(..) | Member::Use(_) => 0,
        Member::Rule(_) => 1,
        Member::Statement(_) => 2,
        Member::Block(_) | Member::Train(_) => 3,
    };
    part(before) != part(member)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") }).collect()
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Input(name, dims, _) => writeln!(f, "input {}: {}", name.text, size(dims)),
            Member::Classes(n, _) => writeln!(f, "classes {n}"),
            Member::Use(name) => writeln!(f, "use recipe {}", name.text),
            Member::Block(block) => write!(f, "{block}"),
            Member::Train(settings) => train(f, settings),
            Member::Rule(rule) => write!(f, "{rule}"),
            Member::Statement(statement) => write!(f, "{statement}"),
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "recipe {} {{", self.name.text)?;
        for item in &self.items {
            f.write_str(&indented(&item.to_string()))?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for RecipeItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecipeItem::Rule(rule) => write!(f, "{rule}"),
            RecipeItem::Train(settings) => train(f, settings),
        }
    }
}

fn train(f: &mut fmt::Formatter<'_>, settings: &[Setting]) -> fmt::Result {
    writeln!(f, "train {{")?;
    for setting in settings {
        writeln!(f, "  {} {}", setting.name.text, list(&setting.values))?;
    }
    writeln!(f, "}}")
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rule::Set { verb, subject, of, with } => {
                write!(f, "{} {}", verb.word(), subject.text)?;
                if !of.is_empty() {
                    write!(f, " of {}", names(of))?;
                }
                writeln!(f, " with {with}")
            }
            Rule::At { what, comparison, number, rules } => {
                writeln!(f, "at {} {} {number} {{", what.text, comparison.text())?;
                for rule in rules {
                    f.write_str(&indented(&rule.to_string()))?;
                }
                writeln!(f, "}}")
            }
        }
    }
}

fn names(names: &[Name]) -> String {
    names.iter().map(|n| n.text.as_str()).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params = self.params.iter().map(|(name, default)| match default {
            Some(value) => format!("{} = {value}", name.text),
            None => name.text.clone(),
        });
        writeln!(f, "block {}({}) {{", self.name.text, params.collect::<Vec<_>>().join(", "))?;
        for statement in &self.body {
            f.write_str(&indented(&statement.to_string()))?;
        }
        writeln!(f, "}}")
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (start, value) = match self {
            Statement::Bind(name, value) => (format!("{} = ", name.text), value),
            Statement::Return(value) => ("return ".to_owned(), value),
            Statement::Result(value) => (String::new(), value),
        };
        writeln!(f, "{}", wrapped(start, value))
    }
}

/// A pipeline over several lines, each but the first opening with `|>`; what fits into one line stays in one.
fn wrapped(start: String, value: &Expr) -> String {
    let whole = format!("{start}{value}");
    let ExprKind::Pipe(head, stages) = &value.kind else { return whole };
    if whole.len() <= WIDTH {
        return whole;
    }
    let mut lines = vec![format!("{start}{}", Tight(head, 1))];
    for stage in stages {
        let stage = format!("|> {stage}");
        match lines.last_mut() {
            Some(line) if line.len() + 1 + stage.len() <= WIDTH => *line += &format!(" {stage}"),
            _ => lines.push(format!("  {stage}")),
        }
    }
    lines.join("\n")
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.call)?;
        match &self.times {
            Some(times) => write!(f, " * {}", Tight(times, u8::MAX)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name.text)?;
        if self.args.is_empty() { Ok(()) } else { arguments(f, &self.args) }
    }
}

fn arguments(f: &mut fmt::Formatter<'_>, args: &[Arg]) -> fmt::Result {
    let args = args.iter().map(|arg| match &arg.name {
        Some(name) => format!("{} = {}", name.text, arg.value),
        None => arg.value.to_string(),
    });
    write!(f, "({})", args.collect::<Vec<_>>().join(", "))
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Int(v) => write!(f, "{v}"),
            ExprKind::Real(v) => write!(f, "{v:?}"),
            ExprKind::Dims(dims) => f.write_str(&size(dims)),
            ExprKind::Name(name) => f.write_str(name),
            ExprKind::Call(call) => {
                f.write_str(&call.name.text)?;
                arguments(f, &call.args)
            }
            ExprKind::Pipe(head, stages) => {
                write!(f, "{}", Tight(head, 1))?;
                stages.iter().try_for_each(|stage| write!(f, " |> {stage}"))
            }
            ExprKind::Binary(a, operator, b) => {
                let level = operator.precedence();
                write!(f, "{} {} {}", Tight(a, level), operator.text(), Tight(b, level + 1))
            }
            ExprKind::Negative(value) => write!(f, "-{}", Tight(value, u8::MAX)),
            ExprKind::If { arms, otherwise } => {
                for (i, (condition, value)) in arms.iter().enumerate() {
                    f.write_str(if i == 0 { "if " } else { " else if " })?;
                    write!(f, "{condition} {{ {value} }}")?;
                }
                write!(f, " else {{ {otherwise} }}")
            }
        }
    }
}

/// An expression where only operators of at least this precedence may stand without parentheses.
struct Tight<'a>(&'a Expr, u8);

impl fmt::Display for Tight<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let precedence = match &self.0.kind {
            ExprKind::Pipe(..) => 0,
            ExprKind::Binary(_, operator, _) => operator.precedence(),
            ExprKind::Negative(_) | ExprKind::If { .. } => u8::MAX - 1,
            ExprKind::Int(v) if *v < 0 => u8::MAX - 1,
            ExprKind::Real(v) if *v < 0.0 => u8::MAX - 1,
            _ => u8::MAX,
        };
        if precedence >= self.1 { write!(f, "{}", self.0) } else { write!(f, "({})", self.0) }
    }
}

fn size(dims: &[u64]) -> String {
    dims.iter().map(u64::to_string).collect::<Vec<_>>().join("x")
}

fn list(values: &[Expr]) -> String {
    let mut text = String::new();
    for (i, value) in values.iter().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{value}");
    }
    text
}
