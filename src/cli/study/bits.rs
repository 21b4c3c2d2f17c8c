//! `fqtc study bits`: bits of gradients, weights and activations for each layer under a budget, by the noise that they make.
//!
//! At weights of a short training run and at training images, the noise that each layer's quantizer makes alone in the
//! gradients of the weights is measured at every width ([`widths`]). The sum of the noises is then made least, exactly
//! ([`allocation`]). Layers whose bits a narrower rule states keep them.
//!
//! The choice leaves here as rules, in a command or a model file. A policy that measured while it compiles would make what
//! a model means depend on images and on an earlier run; explicit rules train the same everywhere.
//!
//! [`allocation`]: crate::bits::allocation

use std::path::PathBuf;

use super::budget::Budget;
use super::calibration::{self, Calibration};
use super::cells::command;
use super::check_place;
use super::noise::number;
use super::widths::{self, Coded};
use crate::bits::allocation::{Allocation, Problem, Width};
use crate::cli::compile;
use crate::cli::failure::Failure;
use crate::cli::images::Images;
use crate::cli::options::{Machine, Model, Settings};
use crate::cli::source::Source;
use crate::cli::terminal::{Interrupt, note, say, table};
use crate::ir::{Module, Role, Stage};
use crate::noise::Point;

/// Choose bits for each layer under a budget, and show why.
///
/// Trains five epochs, or as --epochs says, and measures at a few images what each layer's quantizer alone does to the
/// gradients of the weights at 2 to 8 bits: the energy of what changes over that of the exact gradient, the mean of all
/// layers. Of all choices that are within the budget it takes the one whose noises have the least sum. The table shows what
/// a bit less or more in a layer would change: here, and elsewhere, where bits would become free or would be missing. Layers
/// whose bits a rule for them states keep those.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: Model,
    /// What there is to spend: bits on average, 2 to 8 (4.5), bit-operations of an image's training step (600Mbops), or bytes
    /// of an image's codes and the weights' (300KiB)
    #[arg(long, value_name = "BUDGET", value_parser = Budget::parse, allow_negative_numbers = true)]
    budget: Budget,
    /// Whose bits to choose: gradients, weights, activations
    #[arg(long, value_name = "CODES,...", value_delimiter = ',', default_value = "gradients", value_parser = role)]
    choose: Vec<Role>,
    #[command(flatten)]
    machine: Machine,
    #[command(flatten)]
    images: Images,
    /// Images of the batch at which noise is measured
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(2..=1024))]
    count: u16,
    /// Backward passes to take the mean of, for each gradient and width
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=1000))]
    passes: u64,
    /// Write the model with the chosen bits into this file
    #[arg(long, value_name = "FILE.fqt")]
    write: Option<PathBuf>,
}

/// Epochs that the network trains for if nothing says otherwise. While it learns, gradients of weights shrink against those
/// that they are sums of, most in the first layers: 3 bits in the first layer of ResNet-20 make noise of 4 % of the gradient
/// of its weights after one epoch of CIFAR-10, 38 % after five. A choice after one epoch takes bits from them.
const EPOCHS: u32 = 5;

/// Those whose noise the table shows.
const SHOWN: [u32; 4] = [2, 3, 4, 8];

/// The role of a word.
fn role(text: &str) -> Result<Role, String> {
    let known = Role::ALL.into_iter().find(|role| role.word() == text);
    known.ok_or_else(|| "codes are gradients, weights or activations".to_owned())
}

/// What the command works on.
struct Request<'a> {
    args: &'a Args,
    source: &'a Source,
    /// What there is to choose from, the narrowest first.
    widths: Vec<u32>,
}

/// A module in which everything of a role has so many bits.
struct View {
    role: Role,
    bits: u32,
    /// The tensors to measure in it, by their numbers.
    places: Vec<usize>,
    module: Module,
}

impl Request<'_> {
    /// The model with so many bits for all that is chosen; of the settings, those of the command line.
    fn model(&self, base: u32) -> Model {
        let Args { choose, model, .. } = self.args;
        let bits = |role, given| if choose.contains(&role) { Some(i64::from(base)) } else { given };
        let settings = Settings {
            wbits: bits(Role::Weights, model.settings.wbits),
            abits: bits(Role::Activations, model.settings.abits),
            // Epochs are those of the calibration.
            epochs: None,
            ..model.settings.clone()
        };
        Model { gbits: bits(Role::Gradients, model.gbits), settings, ..model.clone() }
    }

    /// The module of a model with a batch of the images at which noise is measured.
    fn module(&self, model: &Model) -> Result<Module, Failure> {
        let batch = Some(i64::from(self.args.count));
        let settings = Settings { batch, ..model.settings.clone() };
        compile::module(self.source, &Model { settings, ..model.clone() }, Stage::Bits)
    }

    /// What is chosen, in a model with so many bits for all of it.
    fn coded(&self, base: u32) -> Result<Vec<Coded>, Failure> {
        let roles = Role::ALL.into_iter().filter(|role| self.args.choose.contains(role));
        let of = |role| widths::coded(role, &self.widths, &self.model(base), &|model| self.module(model));
        Ok(roles.map(of).collect::<Result<Vec<_>, Failure>>()?.concat())
    }

    /// Trains the model at the base width.
    fn calibrate(&self, base: u32, interrupt: &Interrupt) -> Result<Calibration, Failure> {
        let mut model = calibration::briefly(self.model(base), EPOCHS);
        model.settings.epochs = self.args.model.settings.epochs;
        Calibration::of(self.source, &model, &self.args.machine, &self.args.images, None, interrupt)
    }

    /// A point of a module to measure noise at, with the forward pass as it is rounded, or with no quantizer in the exact values.
    fn point<'m>(
        &self,
        module: &'m Module,
        calibration: &Calibration,
        frozen: bool,
    ) -> Result<Point<'m>, Failure> {
        let (image, labels) = calibration.batch(module, &calibration.data.train);
        let of = if frozen { Point::of_weights } else { Point::of_step };
        let point = of(module, &calibration.params(module)?, &image, &labels);
        calibration::measurable(&point)?;
        Ok(point)
    }

    /// The noise that all quantizers of what is chosen make at once.
    fn together(&self, module: &Module, calibration: &Calibration) -> Result<f64, Failure> {
        let frozen = self.args.choose.iter().all(|&role| role == Role::Gradients);
        let point = self.point(module, calibration, frozen)?;
        Ok(point.together(&self.args.choose, self.args.passes, self.args.machine.threads()))
    }

    /// What is to be measured for the widths that something may have, with weights of the base width.
    fn views(&self, base: u32, coded: &[Coded]) -> Result<Vec<View>, Failure> {
        let trained = self.module(&self.model(base))?;
        let mut views = vec![];
        for (role, &bits) in
            Role::ALL.iter().flat_map(|&role| self.widths.iter().map(move |bits| (role, bits)))
        {
            // Widths that rules state are the same in every module.
            let is_here =
                |index: &usize| coded[*index].role == role && (coded[*index].is_free() || bits == base);
            let places: Vec<usize> = (0..coded.len()).filter(is_here).collect();
            if !places.is_empty() {
                let module = self.module(&widths::model(role, bits, &self.model(base), coded))?;
                calibration::check(&module, &trained)?;
                views.push(View { role, bits, places, module });
            }
        }
        Ok(views)
    }

    /// Measures the noise of each of some tensors in a view.
    fn measure(&self, view: &View, calibration: &Calibration, coded: &[Coded]) -> Result<Vec<f64>, Failure> {
        let View { role, bits, places, module } = view;
        note(&format!("{} of {bits} bits: the noise of each layer", role.word()));
        let point = self.point(module, calibration, *role == Role::Gradients)?;
        let paths: Vec<&str> = places.iter().map(|&index| coded[index].path.as_str()).collect();
        // Only gradients are rounded at random.
        let passes = if *role == Role::Gradients { self.args.passes } else { 1 };
        let noises = point.alone(*role, &paths, passes, self.args.machine.threads());
        match noises.iter().position(|noise| !noise.is_finite()) {
            Some(at) => Err(Failure::failed(format!(
                "the noise of {bits} bits at `{}` is beyond all numbers",
                paths[at]
            ))
            .help("train for another time or at another rate")),
            None => Ok(noises),
        }
    }

    /// Measures the noise of every width that something may have.
    fn measure_all(
        &self,
        views: &[View],
        calibration: &Calibration,
        coded: &[Coded],
    ) -> Result<Vec<Vec<Width>>, Failure> {
        let mut measured: Vec<Vec<Width>> = vec![vec![]; coded.len()];
        for view in views {
            for (&index, noise) in view.places.iter().zip(self.measure(view, calibration, coded)?) {
                measured[index].push(Width { bits: coded[index].bits(view.bits), noise });
            }
        }
        Ok(measured)
    }
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let interrupt = Interrupt::catch()?;
    let source = Source::read(&args.model.path)?;
    check_place(args.write.as_deref())?;
    stated_twice(args)?;
    let mut request = Request { args, source: &source, widths: vec![] };
    request.widths = widths::accepted(2..=8, |bits| request.module(&request.model(bits)).map(|_| ()))?;
    let (narrowest, widest) = (request.widths[0], request.widths[request.widths.len() - 1]);
    let coded = request.coded(widest)?;
    if !coded.iter().any(Coded::is_free) {
        return Err(Failure::usage("rules of their own state the bits of every layer")
            .help("leave out the rules that name layers"));
    }
    let cost = args.budget.cost(&request.module(&request.model(widest))?, &coded);
    let uniform = |bits: u32| cost.of(|index| coded[index].bits(bits));
    let Some(base) = request.widths.iter().rev().copied().find(|&bits| uniform(bits) <= cost.room) else {
        return Err(Failure::usage(format!(
            "{narrowest} bits everywhere take {}",
            args.budget.show(&cost, uniform(narrowest))
        ))
        .help("raise the budget, or choose the bits of more with --choose"));
    };
    // What the rules mean by a width of one may depend on the general width of another.
    let coded = request.coded(base)?;
    let cost = args.budget.cost(&request.module(&request.model(base))?, &coded);
    let views = request.views(base, &coded)?;
    let calibration = request.calibrate(base, &interrupt)?;
    let tensors = interrupt.unsaved(|| request.measure_all(&views, &calibration, &coded))?;
    let problem = Problem { tensors, terms: cost.terms.clone() };
    let room = cost.room.saturating_sub(cost.fixed);
    let choice =
        problem.least_noise(room).ok_or_else(|| Failure::failed("no choice is within the budget"))?;
    say(&table(&rows(&coded, &problem, &choice, room)))?;
    let mut model = request.model(base);
    model.changes.extend(coded.iter().zip(&choice.widths).flat_map(|(c, width)| c.changes(base, width.bits)));
    let module = request.module(&model)?;
    let uniform = request.module(&request.model(base))?;
    let noises =
        interrupt.unsaved(|| Ok([&module, &uniform].map(|module| request.together(module, &calibration))))?;
    let [chosen, everywhere] = noises;
    let (chosen, everywhere) = (number(chosen?), number(everywhere?));
    say(&format!(
        "\n{}. Noise in the gradients of the weights, the mean of all layers: {} as the sum of the above;\n\
         of these quantizers at once, {chosen} with these bits and {everywhere} with {base} bits everywhere.\n",
        args.budget.show(&cost, cost.fixed + choice.cost),
        number(choice.noise),
    ))?;
    finish(&request, model)
}

/// Bits cannot be given and chosen.
fn stated_twice(args: &Args) -> Result<(), Failure> {
    let flags = [
        (Role::Gradients, "--gbits", args.model.gbits),
        (Role::Weights, "--wbits", args.model.settings.wbits),
        (Role::Activations, "--abits", args.model.settings.abits),
    ];
    for (role, flag, bits) in flags.into_iter().filter(|(role, ..)| args.choose.contains(role)) {
        let change = args.model.changes.iter().find(|change| widths::is_general(change, role));
        let Some(given) = bits.map(|_| flag).or(change.map(String::as_str)) else { continue };
        return Err(Failure::usage(format!(
            "`{given}` states the bits of {}, which are to be chosen",
            role.word()
        ))
        .help(format!("leave out `{given}`, or name other codes with --choose")));
    }
    Ok(())
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

/// The table: from the first layer to the last, for each kind of codes.
fn rows(coded: &[Coded], problem: &Problem, choice: &Allocation, room: u64) -> Vec<Vec<String>> {
    let widths = SHOWN.map(|bits| format!("{bits} bits"));
    let head = ["layer", "codes", "elements"].into_iter().map(str::to_owned).chain(widths);
    let head = head.chain(["chosen", "noise", "a bit less", "a bit more"].map(str::to_owned));
    let row = |(index, layer): (usize, &Coded)| {
        let chosen = choice.widths[index];
        let at = |bits: u32| problem.tensors[index].iter().find(|width| width.bits == bits).copied();
        let noise = |bits| at(bits).map_or(String::new(), |width| number(width.noise));
        let mut row = vec![layer.path.clone(), layer.role.word().to_owned(), layer.elements.to_string()];
        row.extend(SHOWN.map(noise));
        row.extend([chosen.bits.to_string(), number(chosen.noise)]);
        if layer.is_free() {
            row.extend([chosen.bits - 1, chosen.bits + 1].map(|bits| {
                at(bits).map_or(String::new(), |other| instead(problem, choice, index, other, room))
            }));
        } else {
            row.push("stated by a rule".to_owned());
        }
        row
    };
    [head.collect()].into_iter().chain(coded.iter().enumerate().map(row)).collect()
}

/// What another width of one layer would change, with the best of the others that the budget then allows.
fn instead(problem: &Problem, choice: &Allocation, layer: usize, other: Width, room: u64) -> String {
    let mut forced = problem.clone();
    forced.tensors[layer] = vec![other];
    let Some(best) = forced.least_noise(room) else { return "does not fit".to_owned() };
    let here = other.noise - choice.widths[layer].noise;
    let elsewhere = best.noise - choice.noise - here;
    // The others stay as they are, but sums are rounded.
    let elsewhere = if elsewhere.abs() < 1e-12 * choice.noise { 0.0 } else { elsewhere };
    format!("{} here, {} elsewhere", signed(here), signed(elsewhere))
}

fn signed(x: f64) -> String {
    let sign = if x < 0.0 { "-" } else { "+" };
    if x == 0.0 { "0".to_owned() } else { sign.to_owned() + &number(x.abs()) }
}
