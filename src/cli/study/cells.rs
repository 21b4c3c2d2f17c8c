//! The cells of a study: what varies, and the model, the name and the command of each combination.
//!
//! A name holds the values of all axes, and of nothing else: a study that gets more values keeps the cells it has.

use std::collections::BTreeSet;
use std::path::Path;

use super::Sweep;
use crate::cli::failure::Failure;
use crate::cli::images::Images;
use crate::cli::options::{Model, Settings};
use crate::cli::run_folder::LONGEST;

/// Combinations of one study.
const MAX_CELLS: usize = 10_000;

/// One thing that varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Axis {
    pub(super) subject: Subject,
    /// Its values, at least one, each once.
    pub(super) values: Vec<String>,
}

/// What varies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Recipe,
    GradientBits,
    /// The value of this key.
    Key(String),
    Seed,
}

impl Subject {
    /// The head of its column.
    pub(super) fn name(&self) -> &str {
        match self {
            Subject::Recipe => "recipe",
            Subject::GradientBits => "gradient bits",
            Subject::Key(key) => key,
            Subject::Seed => "seed",
        }
    }

    /// A value as people say it.
    pub(super) fn said(&self, value: &str) -> String {
        match self {
            Subject::Recipe => value.to_owned(),
            Subject::GradientBits => format!("{value} bits"),
            Subject::Key(key) => format!("{key}={value}"),
            Subject::Seed => format!("seed {value}"),
        }
    }

    /// A value as a part of a cell's name.
    fn label(&self, value: &str) -> String {
        let text = match self {
            Subject::Recipe => value.to_owned(),
            Subject::GradientBits => format!("g{value}"),
            Subject::Key(key) => format!("{key}={value}"),
            Subject::Seed => format!("s{value}"),
        };
        let plain = |c: char| if c.is_alphanumeric() || "._+=".contains(c) { c } else { '_' };
        text.chars().map(plain).collect()
    }
}

/// One combination of values: a training run.
pub(super) struct Cell {
    /// Its folder in that of the study.
    pub(super) name: String,
    /// Its value on each axis.
    pub(super) values: Vec<String>,
    /// What is trained.
    pub(super) model: Model,
    /// The command that trains the same.
    pub(super) command: String,
}

/// What varies, in the order of columns; the seed is last.
pub(super) fn axes(
    recipes: &[String],
    gbits: &[i64],
    changes: &[String],
    seeds: &[i64],
) -> Result<Vec<Axis>, Failure> {
    let texts = |values: &[i64]| values.iter().map(i64::to_string).collect();
    let mut axes = vec![
        Axis { subject: Subject::Recipe, values: recipes.to_vec() },
        Axis { subject: Subject::GradientBits, values: texts(gbits) },
    ];
    for change in changes {
        let Some((key, values)) = change.split_once('=') else { continue };
        let values = split(values);
        if values.len() > 1 {
            axes.push(Axis { subject: Subject::Key(key.trim().to_owned()), values });
        }
    }
    axes.push(Axis { subject: Subject::Seed, values: texts(seeds) });
    axes.retain(|axis| !axis.values.is_empty());
    for axis in &axes {
        let name = axis.subject.name();
        if axis.values.iter().any(String::is_empty) {
            return Err(Failure::usage(format!("a value of `{name}` is empty"))
                .help("separate values by one comma each, such as 8,4,2"));
        }
        let labels: BTreeSet<String> = axis.values.iter().map(|value| axis.subject.label(value)).collect();
        if labels.len() < axis.values.len() {
            return Err(Failure::usage(format!("two values of `{name}` would name the same run"))
                .help("give each value once, with letters and digits that differ"));
        }
    }
    let count = axes.iter().try_fold(1usize, |count, axis| count.checked_mul(axis.values.len()));
    if count.is_none_or(|count| count > MAX_CELLS) {
        return Err(Failure::usage(format!("these lists make more than {MAX_CELLS} combinations"))
            .help("compare fewer values at once"));
    }
    Ok(axes)
}

/// Values between commas that stand outside of parentheses.
fn split(values: &str) -> Vec<String> {
    let (mut parts, mut depth) = (vec![String::new()], 0i32);
    for c in values.chars() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        match parts.last_mut() {
            Some(part) if c != ',' || depth > 0 => part.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

/// All combinations, as a value on each axis; the last axis varies fastest.
pub(super) fn combinations(axes: &[Axis]) -> Vec<Vec<String>> {
    let mut combinations: Vec<Vec<String>> = vec![vec![]];
    for axis in axes {
        let extend = |old: &Vec<String>| {
            let one = |value: &String| old.iter().cloned().chain([value.clone()]).collect();
            axis.values.iter().map(one).collect::<Vec<Vec<String>>>()
        };
        combinations = combinations.iter().flat_map(extend).collect();
    }
    combinations
}

/// The runs of all combinations.
pub(super) fn cells(args: &Sweep, axes: &[Axis]) -> Vec<Cell> {
    combinations(axes).into_iter().map(|values| cell(args, axes, values)).collect()
}

fn cell(args: &Sweep, axes: &[Axis], values: Vec<String>) -> Cell {
    let model = model(args.model(), &args.changes, &args.settings, axes, &values);
    let labels: Vec<String> =
        axes.iter().zip(&values).map(|(axis, value)| axis.subject.label(value)).collect();
    let name = if labels.is_empty() { "run".to_owned() } else { shortened(labels.join("-")) };
    let command = command(&model, &args.images, Some(&name));
    Cell { name, values, model, command }
}

/// A name that is short enough for a folder: what is left out of a longer one stands there as a hash of the whole.
fn shortened(name: String) -> String {
    if name.len() <= LONGEST {
        return name;
    }
    let hash = fqt_runtime::checkpoint::hex(name.as_bytes());
    let kept = (0..=LONGEST - 17).rev().find(|&at| name.is_char_boundary(at)).unwrap_or(0);
    format!("{}-{}", &name[..kept], &hash[..16])
}

/// The model of a combination.
pub(super) fn model(
    path: &Path,
    changes: &[String],
    settings: &Settings,
    axes: &[Axis],
    values: &[String],
) -> Model {
    let mut model = Model {
        path: path.to_path_buf(),
        changes: vec![],
        recipe: None,
        gbits: None,
        seed: None,
        settings: settings.clone(),
    };
    let mut varied = vec![];
    for (axis, value) in axes.iter().zip(values) {
        match &axis.subject {
            Subject::Recipe => model.recipe = Some(value.clone()),
            Subject::GradientBits => model.gbits = value.parse().ok(),
            Subject::Seed => model.seed = value.parse().ok(),
            Subject::Key(key) => varied.push((key.as_str(), format!("{key}={value}"))),
        }
    }
    // In the order of the command line, as later changes win.
    for change in changes {
        let key = change.split('=').next().unwrap_or_default().trim();
        let of_axis = varied.iter().position(|(varied, _)| *varied == key);
        match of_axis.filter(|_| change.split_once('=').is_some_and(|(_, values)| split(values).len() > 1)) {
            Some(at) => model.changes.push(varied.remove(at).1),
            None => model.changes.push(change.clone()),
        }
    }
    model
}

/// The call of `fqtc train` that trains a model. What changes no result is left out.
pub(super) fn command(model: &Model, images: &Images, name: Option<&str>) -> String {
    let number = |value: Option<i64>| value.map(|value| value.to_string());
    let varied = [
        ("--recipe", model.recipe.clone()),
        ("--gbits", number(model.gbits)),
        ("--seed", number(model.seed)),
    ];
    call("fqtc train", &model.path, &model.changes, &model.settings, images, varied, name)
}

/// The call of `fqtc study` that trains all cells. What changes no result is left out.
pub(super) fn study_command(args: &Sweep, name: &str) -> String {
    let list = |values: &[String]| (!values.is_empty()).then(|| values.join(","));
    let numbers = |values: &[i64]| list(&values.iter().map(i64::to_string).collect::<Vec<_>>());
    let varied = [
        ("--recipes", list(&args.recipes)),
        ("--gbits", numbers(&args.gbits)),
        ("--seeds", numbers(&args.seeds)),
    ];
    call("fqtc study", args.model(), &args.changes, &args.settings, &args.images, varied, Some(name))
}

fn call(
    program: &str,
    model: &Path,
    changes: &[String],
    settings: &Settings,
    images: &Images,
    [recipe, gbits, seed]: [(&str, Option<String>); 3],
    name: Option<&str>,
) -> String {
    let Settings { wbits, abits, batch, epochs, lr } = settings;
    let text = |value: &Option<i64>| value.map(|value| value.to_string());
    let options = [
        ("--data", Some(images.data.clone())),
        ("--validation", images.validation.map(|n| n.to_string())),
        recipe,
        gbits,
        ("--wbits", text(wbits)),
        ("--abits", text(abits)),
        ("--batch", text(batch)),
        ("--epochs", text(epochs)),
        ("--lr", lr.map(|lr| lr.to_string())),
        seed,
        ("--name", name.map(str::to_owned)),
    ];
    let mut words = vec![program.to_owned(), quoted(&model.to_string_lossy())];
    words.extend(changes.iter().map(|change| quoted(change)));
    for (option, value) in options {
        words.extend(value.map(|value| format!("{option} {}", quoted(&value))));
    }
    words.join(" ")
}

/// A word as a shell reads it back.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "._-+=/,:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Sweep,
    }

    fn of(words: &str) -> Result<Vec<Cell>, Failure> {
        let args = Line::try_parse_from(format!("study {words}").split(' ')).expect("arguments").args;
        Ok(cells(&args, &axes(&args.recipes, &args.gbits, &args.changes, &args.seeds)?))
    }

    #[test]
    fn cells_are_all_combinations_and_say_how_to_train_them() {
        let all =
            of("m.fqt --recipes a,b --gbits 8,4 x.range=clip,max(1,2) basic*.y=3 --seeds 0,1 --epochs 2")
                .expect("cells");
        assert_eq!(all.len(), 16);
        assert_eq!(all[0].name, "a-g8-x.range=clip-s0");
        let last = &all[15];
        assert_eq!(last.name, "b-g4-x.range=max_1_2_-s1");
        assert_eq!(last.values, ["b", "4", "max(1,2)", "1"]);
        assert_eq!(
            last.command,
            "fqtc train m.fqt 'x.range=max(1,2)' 'basic*.y=3' --data sample --recipe b --gbits 4 --epochs 2 \
             --seed 1 --name b-g4-x.range=max_1_2_-s1"
        );
        assert_eq!(of("m.fqt a=1").expect("one cell")[0].name, "run");
    }

    #[test]
    fn names_that_are_too_long_are_shortened_and_stay_different() {
        let long = "ü".repeat(70);
        let names: Vec<String> =
            of(&format!("m.fqt a={long}1,{long}2")).expect("cells").into_iter().map(|c| c.name).collect();
        assert!(names.iter().all(|name| name.len() <= LONGEST && name.starts_with("a=üü")), "{names:?}");
        assert_ne!(names[0], names[1]);
    }

    #[test]
    fn a_study_says_how_to_train_it() {
        let words =
            "m.fqt --recipes a,b --gbits 8,4 x.range=clip,max(1,2) --seeds 0,1 --validation 9 --lr 0.5";
        let args = Line::try_parse_from(format!("study {words}").split(' ')).expect("arguments").args;
        assert_eq!(
            study_command(&args, "s"),
            "fqtc study m.fqt 'x.range=clip,max(1,2)' --data sample --validation 9 --recipes a,b --gbits 8,4 \
             --lr 0.5 --seeds 0,1 --name s"
        );
    }

    #[test]
    fn values_are_given_once_and_are_not_empty() {
        for words in
            ["m.fqt --gbits 8,8", "m.fqt a=1,,2", "m.fqt a=1,", "m.fqt a=x*,x(", "m.fqt --seeds 1,01"]
        {
            assert!(of(words).is_err(), "{words}");
        }
    }
}
