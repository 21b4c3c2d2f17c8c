//! Everything that is said about a model, in order of precedence, as one model without recipes and conditions.

use std::collections::BTreeMap;

use super::overrides;
use super::paths::Scope;
use super::recipes;
use super::rules::{self, Choice, Entry};
use super::training::Settings;
use super::{Overrides, Report};
use crate::diag::{Diagnostic, suggest};
use crate::ir::{Attr, Role};
use crate::syntax::ast::{
    Arg, Block, ExprKind, File, Member, Model, Name, Place, Recipe, RecipeItem, Rule, Setting, Statement,
    Verb,
};
use crate::types::ParamSpec;

/// Rules of a model, each layer that one names counted.
const MAX_RULES: usize = 4000;

/// What has been read so far.
pub(super) struct State {
    /// Settings of training.
    pub(super) settings: Settings,
    /// Rules that hold unconditionally.
    pub(super) entries: Vec<Entry>,
    /// Rules from the command line; they come after all others.
    pub(super) overrides: Vec<Entry>,
    rules: Vec<Rule>,
}

impl State {
    /// The keys that `key=value` can set.
    pub(super) fn keys(&self) -> Vec<String> {
        let mut keys = self.settings.keys();
        for verb in [Verb::Quantize, Verb::Rectify] {
            for subject in rules::subjects(verb) {
                let subject_key = if verb == Verb::Rectify { verb.word() } else { subject };
                let choice = rules::fold(&self.entries, verb, subject, &Scope::All, &mut Report::default());
                keys.extend(choice.iter().flat_map(|c| c.specs).map(|p| format!("{subject_key}.{}", p.name)));
            }
        }
        keys
    }
}

/// A merged model.
pub(super) struct Merged<'a> {
    pub(super) model: &'a Model,
    pub(super) input: (&'a Name, [u64; 3], &'a Place),
    pub(super) classes: (u32, &'a Place),
    pub(super) blocks: Vec<&'a Block>,
    pub(super) statements: Vec<&'a Statement>,
    pub(super) settings: Settings,
    /// Everything that rules say, in order.
    pub(super) entries: Vec<Entry>,
    /// The same, folded for each scope.
    pub(super) rules: Vec<(Entry, Choice)>,
}

impl Merged<'_> {
    /// As a file.
    pub(super) fn file(&self) -> File {
        let keep = |m: &&Member| !matches!(m, Member::Use(_) | Member::Rule(_) | Member::Train(_));
        let kept: Vec<Member> = self.model.members.iter().filter(keep).cloned().collect();
        let declaration = |m: &Member| matches!(m, Member::Input(..) | Member::Classes(..));
        let (mut members, others): (Vec<Member>, Vec<Member>) = kept.into_iter().partition(declaration);
        members.extend(self.rules.iter().map(|(entry, choice)| Member::Rule(rules::syntax(entry, choice))));
        members.extend(others);
        members.push(Member::Train(self.settings.block()));
        File { models: vec![Model { name: self.model.name.clone(), members }], recipes: vec![] }
    }
}

/// Merges; `None` if a model cannot be made of it.
pub(super) fn merge<'a>(file: &'a File, overrides: &Overrides, report: &mut Report) -> Option<Merged<'a>> {
    check_recipes(file, report);
    let model = report.take(only_model(file))?;
    let mut state = State { settings: Settings::new(), entries: vec![], overrides: vec![], rules: vec![] };
    read_model(file, model, &mut state, report);
    if let Some(name) = &overrides.recipe {
        let name = Name { text: name.clone(), place: Place::Flag(format!("--recipe {name}")) };
        read_recipe(file, &name, &mut state, report);
    }
    state.entries = unconditional(&state.rules, report);
    overrides.merge(&mut state, report);
    let entries = conditional(&state, report);
    report.take(few(&entries))?;
    let rules = rules::normalized(&entries, report);
    check_complete(model, &rules, report);
    let input = input(model, report);
    let classes = classes(model, report);
    let blocks: Vec<&Block> =
        parts(model, |m| if let Member::Block(b) = m { Some(b) } else { None }).collect();
    let statements = parts(model, |m| if let Member::Statement(s) = m { Some(s) } else { None }).collect();
    Some(Merged {
        model,
        input: input?,
        classes: classes?,
        blocks,
        statements,
        settings: state.settings,
        entries,
        rules,
    })
}

/// E0304 for more rules than can be compared with each other.
fn few(entries: &[Entry]) -> Result<(), Diagnostic> {
    let Some(entry) = entries.get(MAX_RULES) else { return Ok(()) };
    let error = Diagnostic::new("E0304", format!("the model is too large: more than {MAX_RULES} rules"));
    let help = "say what holds for all layers, or for those of a pattern (`of stage2*`), in one rule";
    Err(entry.place.mark(error, "given up here").help(help))
}

fn parts<'a, T: 'a>(model: &'a Model, part: fn(&'a Member) -> Option<T>) -> impl Iterator<Item = T> {
    model.members.iter().filter_map(part)
}

fn only_model(file: &File) -> Result<&Model, Diagnostic> {
    match &file.models[..] {
        [model] => Ok(model),
        [] => Err(Diagnostic::new("E0209", "the file has no model")
            .help("start with `model name { input image: 32x32x3 ... }`")),
        [first, second, ..] => {
            let error = second
                .name
                .place
                .mark(Diagnostic::new("E0209", "the file has more than one model"), "second model");
            Err(first.name.place.mark(error, "first model").help("keep one model in a file"))
        }
    }
}

/// Recipes of the file have different names, and their rules are right even if nothing uses them.
fn check_recipes(file: &File, report: &mut Report) {
    defined_once(file.recipes.iter().map(|recipe| &recipe.name), "recipe", report);
    for recipe in &file.recipes {
        for item in &recipe.items {
            match item {
                RecipeItem::Rule(rule) => {
                    walk(std::slice::from_ref(rule), &mut |_| true, &mut vec![], report);
                }
                RecipeItem::Train(settings) => Settings::new().read(settings, report),
            }
        }
    }
}

/// E0205 for names that are there already.
pub(super) fn defined_once<'a>(names: impl Iterator<Item = &'a Name>, what: &str, report: &mut Report) {
    let mut known: BTreeMap<&str, &Name> = BTreeMap::new();
    for name in names {
        match known.get(name.text.as_str()) {
            Some(first) => report.add(twice(first, name, what)),
            None => _ = known.insert(&name.text, name),
        }
    }
}

fn twice(first: &Name, second: &Name, what: &str) -> Diagnostic {
    let error = Diagnostic::new("E0205", format!("the {what} `{}` is defined twice", second.text));
    let error = second.place.mark(error, "defined again here");
    first.place.mark(error, "first defined here").help("choose another name for one of them")
}

fn read_model(file: &File, model: &Model, state: &mut State, report: &mut Report) {
    let trains: Vec<&Vec<Setting>> =
        parts(model, |m| if let Member::Train(t) = m { Some(t) } else { None }).collect();
    if trains.len() > 1 {
        let error = Diagnostic::new("E0209", format!("`{}` has more than one `train`", model.name.text));
        report.add(
            model.name.place.mark(error, "in this model").help("put all settings into one `train { ... }`"),
        );
    }
    for settings in trains {
        state.settings.read(settings, report);
    }
    state.rules.extend(parts(model, |m| if let Member::Rule(r) = m { Some(r.clone()) } else { None }));
    for name in parts(model, |m| if let Member::Use(name) = m { Some(name) } else { None }) {
        read_recipe(file, name, state, report);
    }
}

fn read_recipe(file: &File, name: &Name, state: &mut State, report: &mut Report) {
    let own = file.recipes.iter().find(|r| r.name.text == name.text).cloned();
    let built_in = || recipes::built_in().iter().find(|r| r.name == name.text).map(|r| r.recipe());
    let Some(Recipe { items, .. }) = own.or_else(built_in) else {
        let names = file
            .recipes
            .iter()
            .map(|r| r.name.text.as_str())
            .chain(recipes::built_in().iter().map(|r| r.name));
        let error = name
            .place
            .mark(Diagnostic::new("E0201", format!("there is no recipe `{}`", name.text)), "unknown recipe");
        report.add(Diagnostic { help: suggest::help(&name.text, names), ..error });
        return;
    };
    for item in items {
        match item {
            RecipeItem::Rule(rule) => state.rules.push(rule),
            RecipeItem::Train(settings) => state.settings.read(&settings, report),
        }
    }
}

/// The entries of rules; of those under a condition if `holds` says so.
fn walk(rules: &[Rule], holds: &mut dyn FnMut(&Rule) -> bool, entries: &mut Vec<Entry>, report: &mut Report) {
    for rule in rules {
        match rule {
            Rule::Set { verb, subject, of, with } => {
                entries.extend(rules::entries(*verb, subject, of, with, report))
            }
            Rule::At { what, rules, .. } => {
                if report.take(role(what)).is_some_and(|role| check_condition(what, role, rules, report))
                    && holds(rule)
                {
                    walk(rules, holds, entries, report);
                }
            }
        }
    }
}

fn unconditional(rules: &[Rule], report: &mut Report) -> Vec<Entry> {
    let mut entries = vec![];
    walk(rules, &mut |_| false, &mut entries, report);
    entries
}

/// All entries that hold: conditions are about the bits of the broadest unconditional rules, flags included.
fn conditional(state: &State, report: &mut Report) -> Vec<Entry> {
    let bits = Role::ALL.map(|role| decided_bits(state, role));
    let mut holds = |rule: &Rule| match rule {
        Rule::At { what, comparison, number, .. } => {
            let bits = role(what).ok().and_then(|role| bits[role as usize]);
            bits.is_some_and(|bits| comparison.compare(bits, *number) == Some(true))
        }
        Rule::Set { .. } => true,
    };
    let mut entries = vec![];
    walk(&state.rules, &mut holds, &mut entries, report);
    for change in &state.overrides {
        entries.push(change.clone());
        report.take(overrides::check(&entries));
    }
    entries
}

/// The bits that conditions are about. What else rules say is not looked at: whether it fits is known where they hold.
fn decided_bits(state: &State, role: Role) -> Option<i64> {
    let is_bits = |arg: &Arg| arg.name.as_ref().is_none_or(|name| name.text == "bits");
    let only_bits = |entry: &Entry| {
        let args = entry.args.iter().filter(|arg| is_bits(arg)).take(1).cloned().collect();
        Entry { args, ..entry.clone() }
    };
    let entries: Vec<Entry> = state.entries.iter().chain(&state.overrides).map(only_bits).collect();
    let choice = rules::fold(&entries, Verb::Quantize, role.word(), &Scope::All, &mut Report::default());
    if let Some(choice) = choice {
        return bits(choice.specs, choice.given.get("bits"));
    }
    // Where rules stand under conditions only, a flag may still say the bits.
    let of_role = |entry: &&Entry| entry.is_about(Verb::Quantize, role.word()) && entry.scope == Scope::All;
    entries.iter().rev().filter(of_role).flat_map(|entry| &entry.args).find_map(|arg| match arg.value.kind {
        ExprKind::Int(bits) => Some(bits),
        _ => None,
    })
}

fn bits(specs: &[ParamSpec], given: Option<&Attr>) -> Option<i64> {
    let default = || specs.iter().find(|s| s.name == "bits").and_then(|s| s.default).map(|d| d.attr());
    match given.cloned().or_else(default) {
        Some(Attr::Int(bits)) => Some(bits),
        _ => None,
    }
}

/// The role that `gbits`, `wbits` or `abits` speaks of.
fn role(what: &Name) -> Result<Role, Diagnostic> {
    const WORDS: [(&str, Role); 3] =
        [("wbits", Role::Weights), ("abits", Role::Activations), ("gbits", Role::Gradients)];
    WORDS.iter().find(|(word, _)| *word == what.text).map(|(_, role)| *role).ok_or_else(|| {
        let error = what
            .place
            .mark(Diagnostic::new("E0201", format!("`at` knows no `{}`", what.text)), "unknown here");
        Diagnostic { help: suggest::help(&what.text, WORDS.map(|(word, _)| word)), ..error }
    })
}

/// A condition on bits cannot set these bits.
fn check_condition(what: &Name, role: Role, rules: &[Rule], report: &mut Report) -> bool {
    let mut right = true;
    for rule in rules {
        let (subject, of, with) = match rule {
            Rule::Set { verb: Verb::Quantize, subject, of, with } => (subject, of, with),
            Rule::At { rules, .. } => {
                right &= check_condition(what, role, rules, report);
                continue;
            }
            Rule::Set { .. } => continue,
        };
        let sets = with.args.iter().find(|a| a.name.as_ref().is_none_or(|n| n.text == "bits"));
        if let Some(arg) = sets
            && subject.text == role.word()
            && of.is_empty()
        {
            let message = format!("`at {}` depends on the bits that it sets here", what.text);
            let error = arg.value.place.mark(Diagnostic::new("E0404", message), "sets the bits");
            report.add(what.place.mark(error, "tests the bits").help("set the bits outside of the block"));
            right = false;
        }
    }
    right
}

fn check_complete(model: &Model, rules: &[(Entry, Choice)], report: &mut Report) {
    let said = |role: &Role| {
        let broad =
            |e: &Entry| e.verb == Verb::Quantize && e.subject.text == role.word() && e.scope == Scope::All;
        rules.iter().any(|(entry, _)| broad(entry))
    };
    let missing: Vec<&str> = Role::ALL.iter().filter(|role| !said(role)).map(|role| role.word()).collect();
    // After an error about a rule, a missing one may be that one.
    if missing.is_empty() || report.errors.iter().any(|e| e.code.starts_with("E04") || e.code == "E0201") {
        return;
    }
    let message = format!("nothing says how to quantize {}", missing.join(", "));
    let error = model.name.place.mark(Diagnostic::new("E0401", message), "in this model");
    let names: Vec<String> = recipes::built_in().iter().map(|r| format!("`{}`", r.name)).collect();
    report.add(
        error.help(format!(
            "write `use recipe <name>` with one of {}, or rules of your own",
            names.join(", ")
        )),
    );
}

fn input<'a>(model: &'a Model, report: &mut Report) -> Option<(&'a Name, [u64; 3], &'a Place)> {
    let all: Vec<_> =
        parts(model, |m| if let Member::Input(n, d, p) = m { Some((n, d, p)) } else { None }).collect();
    let (name, dims, place) =
        *report.take(exactly_one(model, &all, "input", "`input image: 32x32x3`", |i| i.2))?;
    let Ok([h, w, c]) = <[u64; 3]>::try_from(&dims[..]) else {
        let message = format!("an image has three sides, but the input has {}", dims.len());
        let error = place.mark(Diagnostic::new("E0301", message), "height x width x channels");
        report.add(error.help("grey images have one channel: `input image: 28x28x1`"));
        return None;
    };
    if let Some(side) = [h, w, c].into_iter().find(|side| !(1..=65_536).contains(side)) {
        let message = format!("a side of the input must be 1 to 65536, but is {side}");
        report.add(
            place
                .mark(Diagnostic::new("E0303", message), "out of range")
                .help("give height x width x channels in pixels"),
        );
        return None;
    }
    Some((name, [h, w, c], place))
}

fn classes<'a>(model: &'a Model, report: &mut Report) -> Option<(u32, &'a Place)> {
    let all: Vec<_> =
        parts(model, |m| if let Member::Classes(n, p) = m { Some((*n, p)) } else { None }).collect();
    let (count, place) = *report.take(exactly_one(model, &all, "classes", "`classes 10`", |c| c.1))?;
    match u32::try_from(count) {
        Ok(n @ 2..=65_536) => Some((n, place)),
        _ => {
            let message = format!("the number of classes must be 2 to 65536, but is {count}");
            report.add(
                place
                    .mark(Diagnostic::new("E0303", message), "out of range")
                    .help("give the number of different labels"),
            );
            None
        }
    }
}

fn exactly_one<'a, T>(
    model: &Model,
    all: &'a [T],
    what: &str,
    example: &str,
    place: fn(&T) -> &Place,
) -> Result<&'a T, Diagnostic> {
    match all {
        [one] => Ok(one),
        [] => {
            let error = Diagnostic::new("E0209", format!("`{}` has no `{what}`", model.name.text));
            Err(model.name.place.mark(error, "in this model").help(format!("add {example}")))
        }
        [first, second, ..] => {
            let error = Diagnostic::new("E0209", format!("`{}` has more than one `{what}`", model.name.text));
            let error = place(second).mark(error, "second one");
            Err(place(first).mark(error, "first one").help("remove one of them"))
        }
    }
}
