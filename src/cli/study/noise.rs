//! `fqtc study noise`: how gradient noise grows from the last layer to the first, beside its prediction.
//!
//! Weights come from a short training run in integers, or from a run folder; the noise is measured at them in real numbers.

use std::path::{Path, PathBuf};

use clap::builder::NonEmptyStringValueParser;

use super::calibration::{self, Calibration};
use super::cells::{self, Axis};
use super::{check_place, widths};
use crate::cli::failure::Failure;
use crate::cli::images::Images;
use crate::cli::options::{Machine, Model, Settings};
use crate::cli::source::Source;
use crate::cli::terminal::{Interrupt, note, say, table};
use crate::cli::{compile, run_folder};
use crate::ir::{Module, Role, Stage};
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
    /// Settings to change; values between commas are compared, and each trains a network of its own
    #[arg(value_name = "KEY=VALUE,...")]
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

/// Epochs that networks train for if nothing says otherwise: enough that weights are no longer random.
const EPOCHS: u32 = 1;

/// What was measured with one variant and one width.
pub(super) struct Measured {
    /// Its value on each axis.
    pub(super) variant: Vec<String>,
    pub(super) gbits: i64,
    /// Both in a few words.
    pub(super) label: String,
    pub(super) crossings: Vec<Crossing>,
    /// If they were asked for.
    pub(super) layers: Vec<Layer>,
}

/// A variant that is known to be possible.
struct Planned {
    /// Its value on each axis.
    values: Vec<String>,
    /// What its weights are trained as; as text, with everything merged, unless they are of a run.
    trained: Model,
    training: String,
    /// What is measured at them: networks with gradients of so many bits.
    widths: Vec<(i64, Module)>,
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
    let is_general = |change: &&String| widths::is_general(change, Role::Gradients);
    if let (true, Some(change)) = (args.gbits.is_empty(), args.changes.iter().find(is_general)) {
        return Err(Failure::usage(format!("`{change}` would be overridden: several widths are measured"))
            .help("say which with --gbits"));
    }
    let axes = cells::axes(&args.recipes, &[], &args.changes, &[])?;
    // Every variant is checked before the first one takes its time.
    let planned = cells::combinations(&axes).into_iter().map(|values| {
        let model = cells::model(&path, &args.changes, &args.settings, &axes, &values);
        plan(args, &source, values, Model { seed: args.seed, ..model })
    });
    let planned = planned.collect::<Result<Vec<Planned>, Failure>>()?;
    distinct(&axes, &planned)?;
    if run.is_some() {
        taken_as_they_are(args, &source, &path, &planned)?;
    }
    let mut all = vec![];
    for planned in planned {
        let calibration =
            Calibration::of(&source, &planned.trained, &args.machine, &args.images, run, &interrupt)?;
        for (gbits, module) in &planned.widths {
            let bits = format!("{gbits} bits");
            let label = match &label(&axes, &planned.values)[..] {
                "" => bits,
                variant => format!("{variant}, {bits}"),
            };
            note(&format!("{label}: {} backward passes", args.passes));
            let (crossings, layers) = interrupt.unsaved(|| measure(args, module, &calibration))?;
            all.push(Measured { variant: planned.values.clone(), gbits: *gbits, label, crossings, layers });
        }
    }
    if args.layers {
        all.iter()
            .try_for_each(|measured| say(&format!("{}\n{}\n", measured.label, table(&by_layer(measured)))))?;
    }
    say(&table(&totals(&axes, &all)))?;
    let Some(path) = &args.svg else { return Ok(()) };
    let svg = super::plot::noise(&all).map_err(|why| Failure::failed(format!("cannot draw: {why}")))?;
    Ok(fqt_runtime::durable::write(path, svg.as_bytes())?)
}

/// Checks that what is compared differs in what is trained or measured.
fn distinct(axes: &[Axis], planned: &[Planned]) -> Result<(), Failure> {
    for (i, one) in planned.iter().enumerate() {
        let same = |other: &&Planned| other.widths == one.widths && other.training == one.training;
        let Some(other) = planned[..i].iter().find(same) else { continue };
        let [one, other] = [one, other].map(|planned| label(axes, &planned.values));
        return Err(Failure::usage(format!("`{other}` and `{one}` are the same model"))
            .help("leave out the flag or the setting that overrides what is compared"));
    }
    Ok(())
}

/// Checks that nothing is asked of the training of a run, which is over.
fn taken_as_they_are(args: &Args, source: &Source, path: &Path, planned: &[Planned]) -> Result<(), Failure> {
    let settings =
        Settings { wbits: None, abits: None, batch: Some(i64::from(args.count)), epochs: None, lr: None };
    let model =
        Model { path: path.to_path_buf(), changes: vec![], recipe: None, gbits: None, seed: None, settings };
    let trained = compile::module(source, &model, Stage::Bits)?.training;
    let modules = planned.iter().flat_map(|planned| &planned.widths);
    if modules.map(|(_, module)| module).any(|module| module.training != trained) {
        return Err(Failure::usage(
            "the weights of a run are taken as they are: it is not trained otherwise",
        )
        .help("leave out --epochs, --lr, --seed and settings of training, or name a model file"));
    }
    Ok(())
}

/// The values of a variant in a few words.
fn label(axes: &[Axis], values: &[String]) -> String {
    let said = axes.iter().zip(values).map(|(axis, value)| axis.subject.said(value));
    said.collect::<Vec<_>>().join(", ")
}

/// Checks a variant at every width.
fn plan(args: &Args, source: &Source, values: Vec<String>, model: Model) -> Result<Planned, Failure> {
    let module = |gbits| {
        let settings = Settings { batch: Some(i64::from(args.count)), ..model.settings.clone() };
        compile::module(source, &Model { gbits: Some(gbits), settings, ..model.clone() }, Stage::Bits)
    };
    let widths = match args.gbits[..] {
        [] => {
            let accepted = widths::accepted([8, 4, 3, 2], |bits| module(bits.into()).map(|_| ()))?;
            accepted.into_iter().map(i64::from).collect()
        }
        _ => args.gbits.clone(),
    };
    let with_module = |&gbits: &i64| Ok((gbits, module(gbits)?));
    let widths = widths.iter().map(with_module).collect::<Result<Vec<(i64, Module)>, Failure>>()?;
    widths.iter().try_for_each(|(_, module)| calibration::check(module, &widths[0].1))?;
    let gbits = widths.first().map_or(8, |(gbits, _)| *gbits);
    let model = Model { gbits: Some(gbits), ..model };
    if args.model.is_dir() {
        return Ok(Planned { values, trained: model, training: String::new(), widths });
    }
    let trained = calibration::briefly(model, EPOCHS);
    let training = compile::front(source, &trained)?.model.to_string();
    Ok(Planned { values, trained, training, widths })
}

/// The noise of a network at trained weights, and its layers if they are asked for.
fn measure(
    args: &Args,
    module: &Module,
    calibration: &Calibration,
) -> Result<(Vec<Crossing>, Vec<Layer>), Failure> {
    let (image, labels) = calibration.batch(module, &calibration.data.test);
    let params = calibration.params(module)?;
    let (passes, threads) = (args.passes, args.machine.threads());
    let point = Point::new(module, &params, &image, &labels);
    calibration::measurable(&point)?;
    let crossings = point.measure(passes, threads);
    let layers = || Point::of_weights(module, &params, &image, &labels).layers(passes, threads);
    Ok((crossings, if args.layers { layers() } else { vec![] }))
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

/// A line for each variant and width: how many layers the longest way crosses, noise at the first layer, and its growth per
/// layer of that way, the root of 1 + noise.
fn totals(axes: &[Axis], all: &[Measured]) -> Vec<Vec<String>> {
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
    let names = axes.iter().map(|axis| axis.subject.name());
    let mut rows = vec![names.chain(head).map(str::to_owned).collect::<Vec<String>>()];
    for Measured { variant, gbits, crossings, .. } in all {
        let Some(first) = crossings.last() else { continue };
        let own = crossings.iter().map(|crossing| crossing.own).sum::<f64>() / crossings.len() as f64;
        let noises = [first.measured, first.by_gains, first.as_signal];
        let growths = noises.map(|noise| format!("{:.4}", root(1.0 + noise, first.depth.max(1))));
        let of = [format!("{gbits} bits"), (first.depth + 1).to_string(), number(own)];
        let row = variant.iter().cloned().chain(of);
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
    fn what_varies_has_a_column() {
        let crossing = |depth, own, measured| Crossing {
            layer: "conv1".into(),
            depth,
            own,
            measured,
            as_signal: 0.0,
            by_gains: measured,
        };
        let of = |variant: &[&str], gbits| Measured {
            variant: variant.iter().copied().map(str::to_owned).collect(),
            gbits,
            label: String::new(),
            crossings: vec![crossing(0, 0.25, 0.0), crossing(1, 0.75, 0.5)],
            layers: vec![],
        };
        let joined = |axes: &[Axis], all: &[Measured]| -> Vec<String> {
            totals(axes, all).iter().map(|row| row.join("|")).collect()
        };
        let tail = "2|0.5000|0.5000|0.5000|0.0000|1.5000|1.5000|1.0000";
        assert_eq!(joined(&[], &[of(&[], 4)])[1], format!("4 bits|{tail}"));
        let changes = ["rectify=none,log_gain".to_owned()];
        let axes = cells::axes(&["a".to_owned()], &[], &changes, &[]).expect("axes");
        let rows = joined(&axes, &[of(&["a", "none"], 4), of(&["a", "log_gain"], 8)]);
        assert!(rows[0].starts_with("recipe|rectify|gradients|layers|mean c|"), "{}", rows[0]);
        assert_eq!(rows[1..], [format!("a|none|4 bits|{tail}"), format!("a|log_gain|8 bits|{tail}")]);
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
