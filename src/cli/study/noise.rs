//! `fqtc study noise`: how gradient noise grows from the last layer to the first, beside its prediction.
//!
//! Weights come from a short training run in integers, or from a run folder; the noise is measured at them in real numbers.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;

use super::calibration::{self, Calibration, EPOCHS};
use super::{check_place, widths};
use crate::cli::failure::Failure;
use crate::cli::images::Images;
use crate::cli::options::{Machine, Model, Settings};
use crate::cli::source::Source;
use crate::cli::terminal::{Interrupt, note, say, table};
use crate::cli::{compile, run_folder};
use crate::ir::{Module, Stage};
use crate::noise::{Crossing, Layer, Point};

/// Show how the noise of quantized gradients grows from the last layer to the first, and what is predicted for it.
///
/// A quantizer adds noise of c times the energy of the gradient it reads. Noise is the energy of what differs from the
/// exact gradient where a layer's gradient is quantized, over the energy of the exact one; growth, that of 1 + noise from
/// one layer to the next. Two predictions from the measured c stand beside it: by gains follows the noise of each quantizer
/// alone through the network and adds them up; as signal takes noise to be amplified as the gradient itself is, which makes
/// 1 + noise the product of all 1 + c in a chain.
///
/// --layers shows for each layer also the crest factor of its gradient (largest magnitude over root mean square), the gain
/// |γ|/σ of the batch norm behind it and how far that spreads over channels (standard deviation over mean), the cosine
/// between the gradient of its weights with all quantizers and the exact one, and the norm of its weights over that of
/// their start.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Model file (.fqt), the name of a built-in model, or the folder of a run, whose last weights are taken
    #[arg(value_name = "MODEL|RUN")]
    model: PathBuf,
    /// Settings to change
    #[arg(value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Recipes to compare; each trains a network of its own
    #[arg(long, value_name = "NAME,...", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    recipes: Vec<String>,
    /// Bits of gradients to compare, on the weights that the first trained [default: those of 8,4,3,2 that the model accepts]
    #[arg(long, value_name = "N,...", value_delimiter = ',', allow_negative_numbers = true)]
    gbits: Vec<i64>,
    /// Where all random numbers come from
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<i64>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    images: Images,
    /// Images of the batch at which noise is measured
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=1024))]
    count: u16,
    /// Backward passes with quantizers, to take the mean of
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    passes: u64,
    /// Draw the noise of each layer into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Show every layer: its noise, and what tells why
    #[arg(long)]
    layers: bool,
}

/// What was measured with one recipe and one width.
pub(super) struct Measured {
    /// If one was asked for.
    pub(super) recipe: Option<String>,
    pub(super) gbits: i64,
    pub(super) crossings: Vec<Crossing>,
    /// If they were asked for.
    pub(super) layers: Vec<Layer>,
}

impl Measured {
    /// Recipe and width in a few words.
    pub(super) fn label(&self) -> String {
        label(self.recipe.as_deref(), self.gbits)
    }
}

fn label(recipe: Option<&str>, gbits: i64) -> String {
    recipe.map_or(String::new(), |recipe| format!("{recipe}, ")) + &format!("{gbits} bits")
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    check_place(args.svg.as_deref())?;
    let run = args.model.is_dir().then_some(args.model.as_path());
    let path = run.map_or_else(|| args.model.clone(), |run| run.join(run_folder::MODEL));
    let source = Source::read(&path)?;
    if run.is_some() && !args.recipes.is_empty() {
        return Err(Failure::usage("the weights of a run belong to the recipe they were trained with")
            .help("leave --recipes out, or name a model file"));
    }
    let recipes: Vec<Option<String>> = match args.recipes[..] {
        [] => vec![None],
        _ => args.recipes.iter().cloned().map(Some).collect(),
    };
    let mut all = vec![];
    for recipe in recipes {
        let model = |gbits: i64, settings: Settings| Model {
            path: path.clone(),
            changes: args.changes.clone(),
            recipe: recipe.clone(),
            gbits: Some(gbits),
            seed: args.seed,
            settings,
        };
        // Every width is checked before anything takes its time.
        let batch = Settings { batch: Some(i64::from(args.count)), ..args.settings.clone() };
        let module = |gbits| compile::module(&source, &model(gbits, batch.clone()), Stage::Bits);
        let widths = match args.gbits[..] {
            [] => {
                let accepted = widths::accepted(|bits| module(bits.into()).map(|_| ()))?;
                [8, 4, 3, 2].into_iter().filter(|bits| accepted.contains(bits)).map(i64::from).collect()
            }
            _ => args.gbits.clone(),
        };
        let modules = widths.iter().map(|&gbits| module(gbits)).collect::<Result<Vec<Module>, Failure>>()?;
        modules.iter().try_for_each(|module| calibration::check(module, &modules[0]))?;
        let epochs = args.settings.epochs.or(run.is_none().then_some(EPOCHS));
        let first = widths.first().copied().unwrap_or(8);
        let trained = model(first, Settings { epochs, ..args.settings.clone() });
        let calibration = Calibration::of(&source, &trained, &args.machine, &args.images, run, &interrupt)?;
        for (module, &gbits) in modules.iter().zip(&widths) {
            if interrupt.requested() {
                return Err(Failure::Interrupted);
            }
            note(&format!("{}: {} backward passes", label(recipe.as_deref(), gbits), args.passes));
            let (image, labels) = calibration.batch(module, &calibration.data.test);
            let params = calibration.params(module)?;
            let point = Point::new(module, &params, &image, &labels);
            let crossings = point.measure(args.passes, args.machine.threads());
            let layers = if args.layers {
                let point = Point::of_weights(module, &params, &image, &labels);
                point.layers(args.passes, args.machine.threads())
            } else {
                vec![]
            };
            all.push(Measured { recipe: recipe.clone(), gbits, crossings, layers });
        }
    }
    if args.layers {
        all.iter().try_for_each(|measured| {
            say(&format!("{}\n{}\n", measured.label(), table(&by_layer(measured))))
        })?;
    }
    say(&table(&totals(&all)))?;
    let Some(path) = &args.svg else { return Ok(()) };
    let svg = super::plot::noise(&all).map_err(|why| Failure::failed(format!("cannot draw: {why}")))?;
    Ok(fqt_runtime::durable::write(path, svg.as_bytes())?)
}

/// From the last layer to the first.
fn by_layer(measured: &Measured) -> Vec<Vec<String>> {
    let head = ["layer", "c", "noise", "by gains", "as signal"].into_iter().chain(FIGURES);
    let mut rows = vec![head.map(str::to_owned).collect::<Vec<String>>()];
    rows.extend(measured.crossings.iter().map(|crossing| {
        let Crossing { layer, own, measured: noise, as_signal, by_gains, depth: _ } = crossing;
        let found = measured.layers.iter().find(|other| other.path == *layer);
        let numbers = [own, noise, by_gains, as_signal].map(|x| number(*x));
        [layer.clone()].into_iter().chain(numbers).chain(figures(found)).collect()
    }));
    rows
}

/// What is shown of a layer beside its noise.
pub(super) const FIGURES: [&str; 5] = ["crest", "gain", "spread", "cosine", "drift"];

/// The [`FIGURES`] of a layer.
pub(super) fn figures(layer: Option<&Layer>) -> [String; 5] {
    let Layer { crest, gain, spread, cosine, drift, .. } = layer.cloned().unwrap_or_default();
    [crest, gain, spread, cosine, drift].map(|figure| figure.map_or(String::new(), number))
}

/// A line for each recipe and width: how many layers the longest way crosses, noise at the first layer, and its growth per
/// layer of that way, the root of 1 + noise. Recipes have a column of their own if there are several.
fn totals(all: &[Measured]) -> Vec<Vec<String>> {
    let several = all.iter().any(|measured| measured.recipe != all[0].recipe);
    let head = [
        "gradients",
        "layers",
        "mean c",
        "noise",
        "by gains",
        "as signal",
        "growth",
        "by gains",
        "as signal",
    ];
    let recipe_head = several.then(|| "recipe".to_owned());
    let mut rows = vec![recipe_head.into_iter().chain(head.map(str::to_owned)).collect()];
    for measured @ Measured { recipe, gbits, crossings, .. } in all {
        let Some(first) = crossings.last() else { continue };
        let own = crossings.iter().map(|crossing| crossing.own).sum::<f64>() / crossings.len() as f64;
        let noises = [first.measured, first.by_gains, first.as_signal];
        let growths = noises.map(|noise| format!("{:.4}", root(1.0 + noise, first.depth.max(1))));
        let names = match recipe {
            Some(recipe) if several => vec![recipe.clone(), format!("{gbits} bits")],
            _ => vec![measured.label()],
        };
        let row = names.into_iter().chain([(first.depth + 1).to_string(), number(own)]);
        rows.push(row.chain(noises.map(number)).chain(growths).collect());
    }
    rows
}

/// The number whose `n`-th power is `x`, by halving: reports do not depend on the platform's library.
fn root(x: f64, n: usize) -> f64 {
    let power = |base: f64| (0..n).fold(1.0, |product, _| product * base);
    let (mut low, mut high) = (0.0, x.max(1.0));
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if power(middle) < x { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// Three significant digits, and an exponent where zeros would not help.
pub(super) fn number(x: f64) -> String {
    if x != 0.0 && !(1e-3..1e4).contains(&x) { format!("{x:.2e}") } else { format!("{x:.4}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_recipes_have_a_column() {
        let crossing = |depth, own, measured| Crossing {
            layer: "conv1".into(),
            depth,
            own,
            measured,
            as_signal: 0.0,
            by_gains: measured,
        };
        let of = |recipe: Option<&str>, gbits| Measured {
            recipe: recipe.map(str::to_owned),
            gbits,
            crossings: vec![crossing(0, 0.25, 0.0), crossing(1, 0.75, 0.5)],
            layers: vec![],
        };
        let first_columns = |all: &[Measured]| -> Vec<String> {
            totals(all).iter().map(|row| row[..row.len() - 6].join("|")).collect()
        };
        assert_eq!(first_columns(&[of(None, 4)]), ["gradients|layers|mean c", "4 bits|2|0.5000"]);
        let a = || of(Some("a"), 4);
        assert_eq!(first_columns(&[a()]), ["gradients|layers|mean c", "a, 4 bits|2|0.5000"]);
        let both = totals(&[a(), of(Some("b"), 8)]);
        assert_eq!(both[0][..2], ["recipe", "gradients"]);
        assert_eq!(both[1].join("|"), "a|4 bits|2|0.5000|0.5000|0.5000|0.0000|1.5000|1.5000|1.0000");
        assert_eq!(both[2][..2], ["b", "8 bits"]);
    }

    #[test]
    fn roots_and_numbers() {
        assert!((root(1024.0, 10) - 2.0).abs() < 1e-12);
        assert!((root(0.25, 2) - 0.5).abs() < 1e-12);
        assert_eq!(
            (number(1.08634), number(2.5e13), number(0.0), number(2e-5)),
            ("1.0863".into(), "2.50e13".into(), "0.0000".into(), "2.00e-5".into())
        );
    }
}
