//! What a study notes about a cell beside its run: `cell.json` in the run folder, replaced whole at every checkpoint.
//!
//! Everything that follows from model, data and seed is in the run's own files; here is how far it came, and what it took.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fqt_runtime::train::{EpochReport, Observer, StepReport};
use fqt_runtime::watch::Warning;
use serde::{Deserialize, Serialize};

use super::train_again;
use crate::cli::display::Display;
use crate::cli::failure::Failure;
use crate::cli::images::Images;
use crate::cli::run_folder::CELL;
use crate::noise::Layer;

/// How far a cell came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// Begun; it continues from its checkpoint.
    Begun,
    /// All epochs are done.
    Finished,
    /// Training diverged: a result.
    Diverged,
}

/// The note about a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    /// The data set as it was named, and how many images of it were held out.
    pub(super) data: String,
    pub(super) validation: Option<u32>,
    /// What was in it: [`Images::contents`].
    #[serde(default)]
    pub(super) contents: Option<String>,
    /// [`Compiled::fingerprint`](crate::driver::Compiled::fingerprint) of what is trained: the same model may mean other
    /// integers to another version of the compiler.
    #[serde(default)]
    pub(super) fingerprint: Option<String>,
    pub(super) state: State,
    /// Why it diverged.
    pub(super) reason: Option<String>,
    /// Time from the start of training, tests and checkpoints included.
    pub(super) seconds: f64,
    /// Time in training steps, and images in them.
    pub(super) training_seconds: f64,
    pub(super) images: u64,
    /// Threads that it was trained with; the most, if it was stopped and continued with others.
    #[serde(default)]
    pub(super) threads: Option<usize>,
    /// Hash of the weights at the end.
    pub(super) weights: Option<String>,
    /// Its layers at the end, from the last to the first.
    #[serde(default)]
    pub(super) layers: Vec<Layer>,
}

impl Record {
    /// The note about a cell that begins.
    pub(super) fn new(images: &Images, contents: &str, fingerprint: String) -> Record {
        Record {
            data: images.data.clone(),
            validation: images.validation,
            contents: Some(contents.to_owned()),
            fingerprint: Some(fingerprint),
            state: State::Begun,
            reason: None,
            seconds: 0.0,
            training_seconds: 0.0,
            images: 0,
            threads: None,
            weights: None,
            layers: vec![],
        }
    }

    /// Whether the cell learned from these images, and was tested on them.
    pub(super) fn is_on(&self, images: &Images, contents: &str) -> bool {
        self.contents.as_deref() == Some(contents) && self.validation == images.validation
    }

    /// The note in a run folder, if there is one.
    pub(super) fn read(folder: &Path) -> Result<Option<Record>, Failure> {
        let path = folder.join(CELL);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Failure::file(&path, &e)),
        };
        let record = serde_json::from_str(&text).map_err(|e| {
            Failure::failed(format!("`{}` is no record of a study: {e}", path.display()))
                .help(train_again(folder))
        })?;
        Ok(Some(record))
    }

    /// Writes the note.
    pub(super) fn write(&self, folder: &Path) -> fqt_runtime::error::Result<()> {
        let text = serde_json::to_string_pretty(self).unwrap_or_default() + "\n";
        fqt_runtime::durable::write(&folder.join(CELL), text.as_bytes())
    }

    /// Images a second in training steps.
    pub(super) fn rate(&self) -> Option<f64> {
        (self.training_seconds > 0.0).then(|| self.images as f64 / self.training_seconds)
    }
}

/// Shows a run like [`Display`], and keeps the note about it up to date.
pub(super) struct Recorder<'a> {
    pub(super) display: Display,
    folder: &'a Path,
    before: Record,
    begin: Instant,
    /// What went wrong with a note that was written while training.
    failure: Option<fqt_runtime::error::Error>,
}

impl<'a> Recorder<'a> {
    /// Continues the note of a cell.
    pub(super) fn new(display: Display, folder: &'a Path, before: Record) -> Recorder<'a> {
        Recorder { display, folder, before, begin: Instant::now(), failure: None }
    }

    /// The note as of now.
    fn now(&self) -> Record {
        let (time, images) = self.display.trained();
        Record {
            seconds: self.before.seconds + self.begin.elapsed().as_secs_f64(),
            training_seconds: self.before.training_seconds + time.as_secs_f64(),
            images: self.before.images + images,
            ..self.before.clone()
        }
    }

    /// Ends the show; the note, not yet written.
    pub(super) fn finish(self) -> Result<Record, Failure> {
        let record = self.now();
        self.display.finish();
        self.failure.map_or(Ok(record), |error| Err(error.into()))
    }
}

impl Observer for Recorder<'_> {
    fn on_step(&mut self, report: &StepReport) {
        self.display.on_step(report);
    }

    fn on_evaluation(&mut self, epoch: u32) {
        self.display.on_evaluation(epoch);
    }

    fn on_epoch(&mut self, report: &EpochReport) {
        self.display.on_epoch(report);
    }

    fn on_warning(&mut self, warning: &Warning) {
        self.display.on_warning(warning);
    }

    fn on_saved(&mut self, path: &Path) {
        self.display.on_saved(path);
        if path.ends_with(fqt_runtime::train::LAST) {
            self.failure = self.failure.take().or(self.now().write(self.folder).err());
        }
    }
}

/// A time in seconds; what no clock can measure is none.
pub(super) fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
