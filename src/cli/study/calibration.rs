//! Where gradients are measured: weights of a short training run in integers, or of a run folder, and a batch of images.

use std::path::Path;

use fqt_runtime::checkpoint;
use fqt_runtime::data::{Dataset, Part};
use fqt_runtime::session::Session;
use fqt_runtime::train::{LAST, Options, train};

use crate::cli::compile;
use crate::cli::display::Display;
use crate::cli::failure::Failure;
use crate::cli::images::Images;
use crate::cli::options::{Machine, Model};
use crate::cli::source::Source;
use crate::cli::terminal::Interrupt;
use crate::driver::IMAGE_SCALE;
use crate::ir::{Module, Param};
use crate::noise::Point;
use crate::tensor::Tensor;

/// A model that trains for so many epochs, if neither settings nor flags say otherwise.
pub(super) fn briefly(mut model: Model, epochs: u32) -> Model {
    model.changes.insert(0, format!("epochs={epochs}"));
    model
}

/// Trained weights, and the images they are for.
pub(super) struct Calibration {
    params: Vec<(Param, Tensor)>,
    pub(super) data: Dataset,
}

impl Calibration {
    /// Trains a model, or takes the last weights of a run of it.
    pub(super) fn of(
        source: &Source,
        model: &Model,
        machine: &Machine,
        images: &Images,
        run: Option<&Path>,
        interrupt: &Interrupt,
    ) -> Result<Calibration, Failure> {
        let look = |compiled: &crate::driver::Compiled| compiled.module.params.clone();
        let (ready, params) = compile::ready_and(source, model, machine, look)?;
        let mut session = Session::new(ready.artifact, ready.kernels, machine.threads())?;
        let data = images.open_for(session.shape(), session.artifact().classes as usize)?;
        match run {
            Some(folder) => {
                checkpoint::load_state(&folder.join(LAST), &mut session)?;
            }
            None => {
                let options = Options {
                    epochs: ready.epochs,
                    seed: ready.seed,
                    augmentation: ready.augmentation,
                    max_steps: None,
                    folder: None,
                    resume: None,
                    stop: interrupt.flag(),
                };
                let mut display = Display::new(ready.epochs, images.measured(), false);
                display.start();
                let outcome = train(&mut session, &data, &options, &mut display);
                display.finish();
                if !outcome?.finished {
                    return Err(Failure::Interrupted);
                }
            }
        }
        let values = crate::driver::parameters(&params, session.artifact(), session.arena());
        Ok(Calibration { params: params.into_iter().zip(values).collect(), data })
    }

    /// The weights of a module, in the order of its parameters.
    pub(super) fn params(&self, module: &Module) -> Result<Vec<Tensor>, Failure> {
        let of = |wanted: &Param| {
            let known = self.params.iter().find(|(param, _)| is_same(param, wanted));
            known.map(|(_, tensor)| tensor.clone()).ok_or_else(|| not_trained(wanted))
        };
        module.params.iter().map(of).collect()
    }

    /// The first of some images as a batch of a module, and their labels.
    pub(super) fn batch(&self, module: &Module, images: &Part) -> (Tensor, Tensor) {
        batch(&self.data, module, images)
    }
}

/// Refuses a module with weights that one which is to be trained has not.
pub(super) fn check(module: &Module, trained: &Module) -> Result<(), Failure> {
    let untrained = |wanted: &&Param| !trained.params.iter().any(|param| is_same(param, wanted));
    module.params.iter().find(untrained).map_or(Ok(()), |param| Err(not_trained(param)))
}

fn is_same(a: &Param, b: &Param) -> bool {
    a.name == b.name && a.ty.shape == b.ty.shape
}

fn not_trained(param: &Param) -> Failure {
    let (name, shape) = (&param.name, &param.ty.shape);
    Failure::failed(format!(
        "`{name}` of shape {shape:?} exists at some of the bits only, and not at those that the model trains with"
    ))
    .help("measure those bits by themselves, or leave out what changes the network under `at`")
}

/// Refuses a point at which there is no gradient to measure noise against.
pub(super) fn measurable(point: &Point) -> Result<(), Failure> {
    let Some(path) = point.unmeasurable() else { return Ok(()) };
    Err(Failure::failed(format!(
        "nothing can be measured: the exact gradient at `{path}` is zero, or no number"
    ))
    .help("train for another time or at another rate (--epochs, --lr), or look at more images (--count)"))
}

/// The first of some images of a data set as a batch of a module, and their labels.
pub(super) fn batch(data: &Dataset, module: &Module, images: &Part) -> (Tensor, Tensor) {
    let shape = module.ty(module.image).shape.clone();
    let [n, h, w, c] = [0, 1, 2, 3].map(|axis| shape[axis] as usize);
    let mean = data.mean_pixel();
    let mut pixels = Vec::with_capacity(n * h * w * c);
    // Fewer than asked for are taken again.
    let chosen = || (0..n).map(|i| i % images.len());
    for image in chosen().map(|i| images.image(i)) {
        for at in 0..h * w {
            pixels.extend(
                (0..c).map(|k| (f64::from(image[k * h * w + at]) - f64::from(mean[k])) * IMAGE_SCALE),
            );
        }
    }
    let labels = chosen().map(|i| f64::from(images.labels[i])).collect();
    (Tensor::new(shape, pixels), Tensor::new(vec![n as u64], labels))
}
