//! `fqtc study bits`: gradient bits for each layer under a budget of average bits, by the noise that they make.
//!
//! At weights of a short training run and at training images, the noise that each layer's quantizer makes alone in the
//! gradients of the weights is measured at every width; a width means what the model's rules mean by it. The sum of the
//! layers' noises is then made least, exactly. Measured, not extrapolated: narrow widths clip and have scales of rows, which
//! wide ones have not. Layers whose bits a narrower rule states keep them and are no part of the budget.
//!
//! The choice leaves here as rules, in a command or a model file. A policy that measured while it compiles would make what
//! a model means depend on images and on an earlier run; explicit rules train the same everywhere.

use std::path::PathBuf;

use super::calibration::{Calibration, EPOCHS};
use super::cells::command;
use super::check_folder;
use super::noise::number;
use crate::bits::budget::{Candidate, Choice, least_noise};
use crate::cli::compile;
use crate::cli::failure::Failure;
use crate::cli::images::Images;
use crate::cli::options::{Machine, Model, Settings};
use crate::cli::source::Source;
use crate::cli::terminal::{Interrupt, note, say, table};
use crate::ir::{Module, Role, Scheme, Stage};
use crate::noise::{self, Point};
use crate::ops::rules::{self, Anchors, Place};
use crate::quant;

/// Choose gradient bits for each layer under a budget of average bits, and show why.
///
/// Trains an epoch, and measures at a few images what each layer's gradient quantizer alone does to the gradients of the
/// weights at 2 to 8 bits: the energy of the noise over that of the exact gradient, the mean of all layers. Of all choices
/// whose bits are within the budget, on average over the elements of these gradients, it takes the one whose noises have the
/// least sum. The table shows what a bit less or more in a layer would change: here, and elsewhere, where bits would become
/// free or would be missing. Layers whose bits a rule for them states keep those.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Model file (.fqt), or the name of a built-in model
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Settings to change
    #[arg(value_name = "KEY=VALUE")]
    changes: Vec<String>,
    /// Bits of a gradient's element on average, 2 to 8
    #[arg(long, value_name = "BITS", value_parser = average, allow_negative_numbers = true)]
    budget: f64,
    /// Use this recipe on top of what the file says
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
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
    /// Backward passes to take the mean of, for each layer and width
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1000))]
    passes: u64,
    /// Write the model with the chosen bits into this file
    #[arg(long, value_name = "FILE.fqt")]
    write: Option<PathBuf>,
}

/// The widths to choose from.
const WIDTHS: [u32; 7] = [2, 3, 4, 5, 6, 7, 8];
/// Those whose noise the table shows.
const SHOWN: [u32; 4] = [2, 3, 4, 8];

/// A budget as the command line gives it.
fn average(text: &str) -> Result<f64, String> {
    let budget = text.parse().ok().filter(|budget| (2.0..=8.0).contains(budget));
    budget.ok_or_else(|| "a budget is a number from 2 to 8, such as 4.5".to_owned())
}

/// A layer whose gradient is quantized.
struct Layer {
    path: String,
    /// Elements of its gradient, of one image.
    elements: u64,
    /// What the rules mean by each of [`WIDTHS`].
    schemes: Vec<Scheme>,
    /// The widths that it may have, with their noise.
    candidates: Vec<Candidate>,
}

impl Layer {
    /// Whether the general width decides its bits, not a rule of its own.
    fn is_free(&self) -> bool {
        self.schemes.iter().zip(WIDTHS).all(|(scheme, bits)| quant::bits(&scheme.params) == bits)
    }
}

/// What the command works on.
struct Request<'a> {
    args: &'a Args,
    source: &'a Source,
    /// The uniform width that the choice is a change of: the widest within the budget.
    base: u32,
}

impl Request<'_> {
    /// The model at a width; of the settings, those of the command line.
    fn model(&self, bits: u32) -> Model {
        Model {
            path: self.args.model.clone(),
            changes: self.args.changes.clone(),
            recipe: self.args.recipe.clone(),
            gbits: Some(i64::from(bits)),
            seed: self.args.seed,
            // Epochs are those of the calibration.
            settings: Settings { epochs: None, ..self.args.settings.clone() },
        }
    }

    /// Its module with a batch of the images at which noise is measured.
    fn module(&self, model: &Model) -> Result<Module, Failure> {
        let batch = Some(i64::from(self.args.count));
        let settings = Settings { batch, ..model.settings.clone() };
        compile::module(self.source, &Model { settings, ..model.clone() }, Stage::Bits)
    }

    /// Trains the model at the base width.
    fn calibrate(&self, interrupt: &Interrupt) -> Result<Calibration, Failure> {
        let Args { machine, images, settings, .. } = self.args;
        let mut model = self.model(self.base);
        model.settings.epochs = settings.epochs.or(Some(EPOCHS));
        Calibration::of(self.source, &model, machine, images, None, interrupt)
    }

    /// The noise that all quantizers of a module make at once.
    fn together(&self, module: &Module, calibration: &Calibration) -> f64 {
        let (image, labels) = calibration.batch(module, &calibration.data.train);
        let point = Point::of_weights(module, &calibration.params, &image, &labels);
        point.together(self.args.passes, self.args.machine.threads())
    }

    /// The model with the chosen widths: the base and what differs from it.
    fn chosen(&self, layers: &[Layer], choice: &Choice) -> Model {
        let mut model = self.model(self.base);
        for (layer, chosen) in layers.iter().zip(&choice.layers).filter(|(layer, _)| layer.is_free()) {
            let [from, to] = [self.base, chosen.bits].map(|bits| &layer.schemes[place(bits)]);
            model.changes.extend(changes(&layer.path, from, to));
        }
        model
    }
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let source = Source::read(&args.model)?;
    check_folder(args.write.as_deref())?;
    let request = Request { args, source: &source, base: args.budget as u32 };
    let modules = WIDTHS.map(|bits| request.module(&request.model(bits)));
    let modules = modules.into_iter().collect::<Result<Vec<Module>, Failure>>()?;
    let mut layers = layers(&modules);
    let free: u64 = layers.iter().filter(|layer| layer.is_free()).map(|layer| layer.elements).sum();
    if free == 0 {
        return Err(Failure::usage("rules of their own state the gradient bits of every layer")
            .help("leave out the rules that name layers"));
    }
    let calibration = request.calibrate(&interrupt)?;
    measure(&request, &modules, &calibration, &mut layers, &interrupt)?;
    let candidates: Vec<Vec<Candidate>> = layers.iter().map(|layer| layer.candidates.clone()).collect();
    // What a product misses of a whole number is no bit.
    let room = (args.budget * free as f64 + 1e-6) as u64;
    let choice = least_noise(&candidates, room)
        .ok_or_else(|| Failure::failed("the narrowest widths do not fit into the budget"))?;
    say(&table(&rows(&layers, &candidates, &choice, room)))?;
    let model = request.chosen(&layers, &choice);
    let module = request.module(&model)?;
    let uniform = format!("{} bits", request.base);
    say(&format!(
        "\n{:.3} bits on average. Noise in the gradients of the weights, the mean of all layers: {} as the sum of the above;\n\
         of all quantizers at once, {} with these bits and {} with {uniform} everywhere.\n",
        choice.cost as f64 / free as f64,
        number(choice.noise),
        number(request.together(&module, &calibration)),
        number(request.together(&modules[place(request.base)], &calibration)),
    ))?;
    finish(&request, model)
}

/// Says how to train what was chosen, and writes it.
fn finish(request: &Request, mut model: Model) -> Result<(), Failure> {
    let Args { images, write, .. } = request.args;
    if let Some(path) = write {
        let text = compile::front(request.source, &model)?.model.to_string();
        fqt_runtime::durable::write(path, text.as_bytes())?;
        let settings = Settings { wbits: None, abits: None, batch: None, epochs: None, lr: None };
        model =
            Model { path: path.clone(), changes: vec![], recipe: None, gbits: None, seed: None, settings };
    }
    say(&command(&model, images, None))
}

/// The layers of a model that was compiled at all widths, from the first to the last.
fn layers(modules: &[Module]) -> Vec<Layer> {
    let Some(module) = modules.first() else { return vec![] };
    let scheme = |module: &Module, path: &str| {
        let place = Place { path, contractions: vec![path] };
        let name = rules::scheme(module, &Anchors::new(module), Role::Gradients, &place)?;
        module.schemes.get(name).cloned()
    };
    let layer = |(path, elements): (&str, u64)| {
        let schemes = modules.iter().map(|module| scheme(module, path)).collect::<Option<Vec<Scheme>>>()?;
        Some(Layer { path: path.to_owned(), elements, schemes, candidates: vec![] })
    };
    noise::elements(module).into_iter().filter_map(layer).collect()
}

/// Measures the noise of every width that a layer may have.
fn measure(
    request: &Request,
    modules: &[Module],
    calibration: &Calibration,
    layers: &mut [Layer],
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    for (module, bits) in modules.iter().zip(WIDTHS) {
        if interrupt.requested() {
            return Err(Failure::Interrupted);
        }
        note(&format!("{bits} bits: the noise of each layer"));
        let (image, labels) = calibration.batch(module, &calibration.data.train);
        let point = Point::of_weights(module, &calibration.params, &image, &labels);
        // Widths that rules state are the same in every module.
        let mut measured: Vec<&mut Layer> =
            layers.iter_mut().filter(|layer| layer.is_free() || bits == request.base).collect();
        let paths: Vec<&str> = measured.iter().map(|layer| layer.path.as_str()).collect();
        let noises = point.alone(&paths, request.args.passes, request.args.machine.threads());
        for (layer, noise) in measured.iter_mut().zip(noises) {
            let candidate = if layer.is_free() {
                Candidate { bits, cost: u64::from(bits) * layer.elements, noise }
            } else {
                Candidate { bits: quant::bits(&layer.schemes[place(bits)].params), cost: 0, noise }
            };
            layer.candidates.push(candidate);
        }
    }
    Ok(())
}

/// Where [`WIDTHS`] has a width.
fn place(bits: u32) -> usize {
    WIDTHS.iter().position(|&width| width == bits).unwrap_or(0)
}

/// The settings that make one scheme of a layer's gradient another.
fn changes(path: &str, from: &Scheme, to: &Scheme) -> Vec<String> {
    if from.quantizer != to.quantizer {
        let args: Vec<String> = to.params.iter().map(|(name, attr)| format!("{name}={attr}")).collect();
        return vec![format!("{path}.gradients={}({})", to.quantizer, args.join(","))];
    }
    let differs = |(name, attr): &(&String, &crate::ir::Attr)| from.params.get(*name) != Some(*attr);
    let change = |(name, attr)| format!("{path}.gradients.{name}={attr}");
    to.params.iter().filter(differs).map(change).collect()
}

/// The table: from the first layer to the last.
fn rows(layers: &[Layer], candidates: &[Vec<Candidate>], choice: &Choice, room: u64) -> Vec<Vec<String>> {
    let widths = SHOWN.map(|bits| format!("{bits} bits"));
    let head = ["layer", "elements"].into_iter().map(str::to_owned).chain(widths);
    let head = head.chain(["chosen", "noise", "a bit less", "a bit more"].map(str::to_owned));
    let row = |(index, layer): (usize, &Layer)| {
        let chosen = choice.layers[index];
        let at = |bits: u32| layer.candidates.iter().find(|candidate| candidate.bits == bits).copied();
        let noise = |bits| at(bits).map_or(String::new(), |candidate| number(candidate.noise));
        let mut row = vec![layer.path.clone(), layer.elements.to_string()];
        row.extend(SHOWN.map(noise));
        row.extend([chosen.bits.to_string(), number(chosen.noise)]);
        if layer.is_free() {
            row.extend([chosen.bits - 1, chosen.bits + 1].map(|bits| {
                at(bits).map_or(String::new(), |other| instead(candidates, choice, index, other, room))
            }));
        } else {
            row.push("stated by a rule".to_owned());
        }
        row
    };
    [head.collect()].into_iter().chain(layers.iter().enumerate().map(row)).collect()
}

/// What another width of one layer would change, with the best of the others that the budget then allows.
fn instead(
    candidates: &[Vec<Candidate>],
    choice: &Choice,
    layer: usize,
    other: Candidate,
    room: u64,
) -> String {
    let mut forced = candidates.to_vec();
    forced[layer] = vec![other];
    let Some(best) = least_noise(&forced, room) else { return "does not fit".to_owned() };
    let here = other.noise - choice.layers[layer].noise;
    let elsewhere = best.noise - choice.noise - here;
    // The others stay as they are, but sums are rounded.
    let elsewhere = if elsewhere.abs() < 1e-12 * choice.noise { 0.0 } else { elsewhere };
    format!("{} here, {} elsewhere", signed(here), signed(elsewhere))
}

fn signed(x: f64) -> String {
    let sign = if x < 0.0 { "-" } else { "+" };
    if x == 0.0 { "0".to_owned() } else { sign.to_owned() + &number(x.abs()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Attr;

    #[test]
    fn budgets_are_numbers_from_2_to_8() {
        assert_eq!(average("4.5"), Ok(4.5));
        assert_eq!((average("2"), average("8")), (Ok(2.0), Ok(8.0)));
        for text in ["1.99", "8.1", "-4", "four", "", "nan", "inf", "4,5"] {
            assert!(average(text).is_err(), "{text}");
        }
    }

    #[test]
    fn changes_are_what_differs() {
        let scheme = |quantizer: &str, bits: i64, per: &str| Scheme {
            quantizer: quantizer.to_owned(),
            params: [("bits".to_owned(), Attr::Int(bits)), ("per".to_owned(), Attr::Word(per.to_owned()))]
                .into(),
        };
        let [a, b] = [scheme("stochastic", 4, "row"), scheme("stochastic", 6, "tensor")];
        assert_eq!(changes("x.conv1", &a, &b), ["x.conv1.gradients.bits=6", "x.conv1.gradients.per=tensor"]);
        assert!(changes("x.conv1", &a, &a).is_empty());
        let other = scheme("nearest", 6, "tensor");
        assert_eq!(changes("y", &a, &other), ["y.gradients=nearest(bits=6,per=tensor)"]);
    }
}
