//! The training loop, evaluation and prediction.
//!
//! Reports integers; percent and rates belong to whoever prints. A run depends on the program, the data and the seed
//! only: stopping and resuming, in mid-epoch and on any number of threads, gives the same bits.

use crate::augment::Augmentation;
use crate::checkpoint::{self, Checkpoint, Progress};
use crate::data::{Dataset, Part};
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::MetricsLog;
use crate::program::MetricKind;
use crate::session::{Distortion, Mode, Session, Tally};
use crate::shuffle::permutation;
use crate::watch::{Warning, Watch};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Steps between two readings of the counters.
const READ_EVERY: u64 = 100;
/// The state at the end of the run, or where it stopped.
pub const LAST: &str = "last.safetensors";
/// The state with the best test result.
pub const BEST: &str = "best.safetensors";

/// How to train.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Epochs in all.
    pub epochs: u32,
    /// Seed of the run.
    pub seed: u64,
    /// Distortion of training images.
    pub augmentation: Augmentation,
    /// Stop after so many steps in all, as if interrupted.
    pub max_steps: Option<u64>,
    /// Where checkpoints and metrics go; none are written without.
    pub folder: Option<&'a Path>,
    /// A checkpoint to continue from.
    pub resume: Option<&'a Path>,
    /// Ends the run after the current step.
    pub stop: &'a AtomicBool,
}

/// What is told after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Steps done in all.
    pub step: u64,
    /// Batches done in this epoch.
    pub batch: u32,
    /// Batches of an epoch.
    pub batches: u32,
    /// This step.
    pub train: Tally,
    /// This epoch so far.
    #[serde(skip)]
    pub epoch_train: Tally,
}

/// A counter of a layer, summed over an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reading {
    /// Path of the layer.
    pub layer: String,
    /// What was counted.
    pub kind: MetricKind,
    /// How many.
    pub count: u64,
    /// Of how many.
    pub of: u64,
    /// Smallest and largest binary exponent, for a scale range that was observed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<(i64, i64)>,
}

/// What is told after an epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Epoch, from 0.
    pub epoch: u32,
    /// Steps done in all.
    pub step: u64,
    /// Training during the epoch.
    pub train: Tally,
    /// Test after the epoch, with running statistics: on the test part of the data set.
    pub test: Tally,
    /// Whether this is the best test result so far.
    pub best: bool,
    /// Counters, since the start of the epoch or of this process.
    pub layers: Vec<Reading>,
}

/// Hears about a run while it goes on.
pub trait Observer {
    /// After each step.
    fn on_step(&mut self, _report: &StepReport) {}
    /// After each epoch's training, before its evaluation.
    fn on_evaluation(&mut self, _epoch: u32) {}
    /// After each epoch.
    fn on_epoch(&mut self, _report: &EpochReport) {}
    /// When something looks wrong.
    fn on_warning(&mut self, _warning: &Warning) {}
    /// When a checkpoint has been written.
    fn on_saved(&mut self, _path: &Path) {}
}

/// Does not listen.
impl Observer for () {}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether all epochs are done.
    pub finished: bool,
    /// Where the run stands.
    pub progress: Progress,
    /// The result of the last evaluation in this process, if there was one.
    pub test: Option<Tally>,
}

/// Trains. The data set must have the model's shape (see [`adapt`](crate::data::adapt)).
pub fn train(
    session: &mut Session,
    data: &Dataset,
    options: &Options,
    observer: &mut dyn Observer,
) -> Result<Outcome> {
    Run::begin(session, data, options, observer)?.run()
}

struct Run<'a> {
    session: &'a mut Session,
    data: &'a Dataset,
    options: &'a Options<'a>,
    observer: &'a mut dyn Observer,
    checkpoint: Checkpoint,
    batches: u32,
    log: Option<MetricsLog>,
    watch: Watch,
    counters: Counters,
    test: Option<Tally>,
}

impl<'a> Run<'a> {
    fn begin(
        session: &'a mut Session,
        data: &'a Dataset,
        options: &'a Options,
        observer: &'a mut dyn Observer,
    ) -> Result<Run<'a>> {
        let batches = batches(session, data)?;
        let fingerprint = data.fingerprint();
        let checkpoint = match options.resume {
            Some(path) => resume(path, session, &fingerprint, batches, options)?,
            None => {
                let steps = options.epochs as u64 * batches as u64;
                session.start(options.seed, &data.mean_pixel(), steps);
                let Options { seed, augmentation, .. } = *options;
                Checkpoint { seed, data: fingerprint, augmentation, progress: Progress::default() }
            }
        };
        let open = |folder| MetricsLog::open(folder, session.steps_done(), checkpoint.progress.epoch);
        let log = options.folder.map(open).transpose()?;
        let watch = Watch::new(session.artifact().classes, session.artifact().metrics.len());
        let counters = Counters::new(session);
        Ok(Run { session, data, options, observer, checkpoint, batches, log, watch, counters, test: None })
    }

    fn run(mut self) -> Result<Outcome> {
        while self.checkpoint.progress.epoch < self.options.epochs {
            if !self.epoch()? {
                self.save(LAST)?;
                return Ok(Outcome { finished: false, progress: self.checkpoint.progress, test: self.test });
            }
        }
        if self.test.is_none() {
            // All was done before, perhaps in another folder.
            self.save(LAST)?;
        }
        Ok(Outcome { finished: true, progress: self.checkpoint.progress, test: self.test })
    }

    /// The rest of the current epoch. False: stopped before its end.
    fn epoch(&mut self) -> Result<bool> {
        let epoch = self.checkpoint.progress.epoch;
        let order = permutation(self.checkpoint.seed, epoch as u64, self.data.train.len());
        while self.checkpoint.progress.batch < self.batches {
            if self.must_stop() {
                return Ok(false);
            }
            self.step(&order)?;
        }
        self.observer.on_evaluation(epoch);
        let Some(test) = evaluate(self.session, &self.data.test, Mode::Evaluate, self.options.stop) else {
            return Ok(false);
        };
        self.end_epoch(test)?;
        Ok(true)
    }

    fn must_stop(&self) -> bool {
        let enough = self.options.max_steps.is_some_and(|max| self.session.steps_done() >= max);
        enough || self.options.stop.load(Relaxed)
    }

    fn step(&mut self, order: &[u32]) -> Result<()> {
        let Progress { epoch, batch, .. } = self.checkpoint.progress;
        let n = self.session.batch();
        let samples = &order[batch as usize * n..][..n];
        let distortion = Distortion {
            augmentation: self.checkpoint.augmentation,
            seed: self.checkpoint.seed,
            epoch: epoch as u64,
        };
        self.session.load(&self.data.train, samples, Some(distortion));
        self.session.run(Mode::Train);
        let tally = self.session.tally(n);
        let progress = &mut self.checkpoint.progress;
        progress.batch += 1;
        progress.train += tally;
        let report = StepReport {
            epoch,
            step: self.session.steps_done(),
            batch: progress.batch,
            batches: self.batches,
            train: tally,
            epoch_train: progress.train,
        };
        if let Some(log) = &mut self.log {
            log.step(&report)?;
        }
        self.observer.on_step(&report);
        let high_steps = &mut self.checkpoint.progress.high_steps;
        if let Some(warning) = self.watch.step(&tally, high_steps)? {
            self.observer.on_warning(&warning);
        }
        self.counters.steps += 1;
        if self.counters.steps == READ_EVERY {
            self.read_counters()?;
        }
        Ok(())
    }

    fn read_counters(&mut self) -> Result<()> {
        let readings = self.counters.read(self.session);
        for warning in self.watch.readings(&readings)? {
            self.observer.on_warning(&warning);
        }
        Ok(())
    }

    fn end_epoch(&mut self, test: Tally) -> Result<()> {
        if self.counters.steps > 0 {
            self.read_counters()?;
        }
        let progress = &mut self.checkpoint.progress;
        let best = progress.best.is_none_or(|best| test.correct > best.correct);
        let report = EpochReport {
            epoch: progress.epoch,
            step: self.session.steps_done(),
            train: progress.train,
            test,
            best,
            layers: self.counters.end_epoch(),
        };
        let best_so_far = if best { Some(test) } else { progress.best };
        *progress = Progress {
            epoch: progress.epoch + 1,
            batch: 0,
            train: Tally::default(),
            best: best_so_far,
            ..*progress
        };
        self.test = Some(test);
        if let Some(log) = &mut self.log {
            log.epoch(&report)?;
        }
        if best {
            self.save(BEST)?;
        }
        self.save(LAST)?;
        self.observer.on_epoch(&report);
        Ok(())
    }

    fn save(&mut self, name: &str) -> Result<()> {
        if let Some(folder) = self.options.folder {
            let path: PathBuf = folder.join(name);
            checkpoint::save(&path, self.session, &self.checkpoint)?;
            self.observer.on_saved(&path);
        }
        Ok(())
    }
}

/// Batches of an epoch; an error if the model cannot learn from these data.
pub fn batches(session: &Session, data: &Dataset) -> Result<u32> {
    check_data(session, data)?;
    let (images, batch) = (data.train.len(), session.batch());
    if images < batch {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("`{}` has {images} training images, less than a batch of {batch}", data.name),
            "choose a smaller batch",
        ));
    }
    Ok((images / batch) as u32)
}

fn check_data(session: &Session, data: &Dataset) -> Result<()> {
    let classes = session.artifact().classes as usize;
    if data.shape != session.shape() || data.classes > classes {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!(
                "`{}` has images of {} in {} classes, but the model takes {} in {classes}",
                data.name,
                data.shape,
                data.classes,
                session.shape()
            ),
            "use a model for such images",
        ));
    }
    Ok(())
}

/// Loads a checkpoint and checks that it continues this run: the same data, made unlike in the same way, for as long.
fn resume(
    path: &Path,
    session: &mut Session,
    fingerprint: &str,
    batches: u32,
    options: &Options,
) -> Result<Checkpoint> {
    let checkpoint = checkpoint::load(path, session)?;
    let other = |what: &str, help| {
        Error::new(ErrorKind::Mismatch, format!("`{}` belongs to a run {what}", path.display()), help)
    };
    let Progress { epoch, batch, .. } = checkpoint.progress;
    let steps = epoch as u64 * batches as u64 + batch as u64;
    if checkpoint.data != fingerprint || batch > batches || steps != session.steps_done() {
        return Err(other("on other data", "name the data set that the run began with"));
    }
    if checkpoint.seed != options.seed {
        let what = format!("with seed {}, not {}", checkpoint.seed, options.seed);
        return Err(other(&what, "use the seed that the run began with"));
    }
    if checkpoint.augmentation != options.augmentation {
        return Err(other(
            "with another augmentation of images",
            "use the `augment` that the run began with",
        ));
    }
    // The schedule of learning rates spans the run: one that goes on for longer would be another from its start.
    let (begun, asked) = (session.steps_in_all(), options.epochs as u64 * batches as u64);
    if begun != asked {
        let what = format!("with `epochs {}`, not {}", begun / batches as u64, options.epochs);
        return Err(other(&what, "use the number of epochs that the run began with, or begin a new run"));
    }
    Ok(checkpoint)
}

/// Loss and hits on a part of a data set of the model's shape; `None` if stopped. With running statistics every sample
/// counts; with the statistics of the batch, those of the last partial batch do not.
pub fn evaluate(session: &mut Session, part: &Part, mode: Mode, stop: &AtomicBool) -> Option<Tally> {
    let samples: Vec<u32> = (0..part.len() as u32).collect();
    let mut sum = Tally::default();
    for batch in samples.chunks(session.batch()) {
        if stop.load(Relaxed) {
            return None;
        }
        if mode == Mode::EvaluateBatch && batch.len() < session.batch() {
            break;
        }
        session.load(part, batch, None);
        session.run(mode);
        sum += session.tally(batch.len());
    }
    Some(sum)
}

/// The predicted class of each image; `images` are planar and of the model's shape.
pub fn predict(session: &mut Session, images: Vec<u8>) -> Vec<u32> {
    let n = images.len() / session.shape().bytes();
    let part = Part { images, labels: vec![0; n], source: String::new() };
    let samples: Vec<u32> = (0..n as u32).collect();
    let mut classes = Vec::with_capacity(n);
    for batch in samples.chunks(session.batch()) {
        session.load(&part, batch, None);
        session.run(Mode::Evaluate);
        classes.extend(session.predictions()[..batch.len()].iter().map(|&class| class as u32));
    }
    classes
}

/// The counters of all layers, summed over the epoch.
struct Counters {
    /// Steps since the last reading.
    steps: u64,
    totals: Vec<Reading>,
}

impl Counters {
    /// Counters at zero, in the arena too.
    fn new(session: &mut Session) -> Counters {
        let metrics = &session.artifact().metrics;
        let totals = metrics.iter().map(|m| Reading {
            layer: m.layer.clone(),
            kind: m.kind,
            count: 0,
            of: 0,
            scale: None,
        });
        let mut counters = Counters { steps: 0, totals: totals.collect() };
        counters.read(session);
        counters.end_epoch();
        counters
    }

    /// Takes what was counted since the last reading.
    fn read(&mut self, session: &mut Session) -> Vec<Reading> {
        let steps = std::mem::take(&mut self.steps);
        let (artifact, arena) = session.parts_mut();
        let mut readings = Vec::with_capacity(self.totals.len());
        for (metric, total) in artifact.metrics.iter().zip(&mut self.totals) {
            let values = arena.slice_mut::<i64>(&metric.slot);
            let mut reading = Reading { count: 0, of: 0, scale: None, ..total.clone() };
            if metric.kind == MetricKind::ScaleRange {
                let (low, high) = (values[0], values[1]);
                values.copy_from_slice(&[1024, -1024]);
                if steps > 0 && low <= high {
                    reading.scale = Some((low, high));
                    let (a, b) = total.scale.unwrap_or((low, high));
                    total.scale = Some((a.min(low), b.max(high)));
                }
            } else {
                reading.count = std::mem::take(&mut values[0]).max(0) as u64;
                reading.of = metric.elements.saturating_mul(steps);
                total.count = total.count.saturating_add(reading.count);
                total.of = total.of.saturating_add(reading.of);
            }
            readings.push(reading);
        }
        readings
    }

    /// The sums since the last call.
    fn end_epoch(&mut self) -> Vec<Reading> {
        let zero = |r: &Reading| Reading { count: 0, of: 0, scale: None, ..r.clone() };
        let zeros = self.totals.iter().map(zero).collect();
        std::mem::replace(&mut self.totals, zeros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::Padding;
    use crate::toy::{self, Toy, artifact, dataset};
    use std::fs;

    const FLIP: Augmentation = Augmentation { pad_crop: 0, padding: Padding::Reflect, flip: true };
    static GO: AtomicBool = AtomicBool::new(false);

    fn options(folder: &Path) -> Options<'_> {
        let folder = Some(folder);
        Options { epochs: 4, seed: 5, augmentation: FLIP, max_steps: None, folder, resume: None, stop: &GO }
    }

    /// Every file of a run folder.
    fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
        let mut files: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
            .collect();
        files.sort();
        files
    }

    fn names(folder: &Path) -> Vec<String> {
        files(folder).into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn a_run_learns_and_reports() {
        let (folder, data) = (tempfile::tempdir().unwrap(), dataset(83, 21));
        let mut session = toy::session(2);
        #[derive(Default)]
        struct Heard(Vec<StepReport>, Vec<EpochReport>, usize);
        impl Observer for Heard {
            fn on_step(&mut self, report: &StepReport) {
                self.0.push(*report);
            }
            fn on_epoch(&mut self, report: &EpochReport) {
                self.1.push(report.clone());
            }
            fn on_saved(&mut self, _: &Path) {
                self.2 += 1;
            }
        }
        let mut heard = Heard::default();
        let outcome = train(&mut session, &data, &options(folder.path()), &mut heard).unwrap();
        assert!(outcome.finished && outcome.test.unwrap().samples == 21);
        assert!(outcome.test.unwrap().correct >= 19, "{outcome:?}");
        assert_eq!(heard.0.len(), 40, "ten full batches an epoch");
        assert_eq!((heard.0[39].step, heard.0[39].batch, heard.0[39].epoch_train.samples), (40, 10, 80));
        for (epoch, report) in heard.1.iter().enumerate() {
            let steps = &heard.0[10 * epoch..10 * epoch + 10];
            let mut sum = Tally::default();
            steps.iter().for_each(|step| sum += step.train);
            assert_eq!((report.train, report.step), (sum, 10 * epoch as u64 + 10));
            assert_eq!((report.layers[0].count, report.layers[0].of), (20, 480));
            assert_eq!(report.layers[1].scale, Some((-6, 0)));
        }
        assert_eq!(session.arena().slice::<u8>(&session.artifact().mean), data.mean_pixel());
        assert_eq!(
            names(folder.path()),
            ["best.safetensors", "last.safetensors", "metrics.csv", "metrics.jsonl"]
        );
        assert!(heard.2 > 4);
        let jsonl = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        let rows: Vec<serde_json::Value> =
            jsonl.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(rows.len(), 44);
        assert_eq!(rows[10]["kind"], "epoch");
        assert_eq!(rows[10]["layers"][0]["kind"], "saturated_codes");
        assert_eq!(rows[9]["train"]["loss"], heard.0[9].train.loss);
        let csv = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
        let (train, test) = (heard.1[1].train, heard.1[1].test);
        let row = format!("1,20,80,{},{},21,{},{},", train.correct, train.loss, test.correct, test.loss);
        assert!(csv.lines().nth(2).unwrap().starts_with(&row), "{csv}");
    }

    #[test]
    fn threads_and_interruptions_change_nothing() {
        let data = dataset(83, 21);
        let straight = tempfile::tempdir().unwrap();
        let mut session = toy::session(1);
        train(&mut session, &data, &options(straight.path()), &mut ()).unwrap();
        for (threads, stops) in [(3, vec![]), (2, vec![1]), (1, vec![7, 10, 23, 39])] {
            let folder = tempfile::tempdir().unwrap();
            let last = folder.path().join(LAST);
            let mut resume = None;
            for (i, &stop) in stops.iter().enumerate() {
                let options = Options { max_steps: Some(stop), resume, ..options(folder.path()) };
                let outcome =
                    train(&mut toy::session(1 + (threads + i) % 3), &data, &options, &mut ()).unwrap();
                assert!(!outcome.finished);
                resume = Some(last.as_path());
            }
            let mut other = toy::session(threads);
            train(&mut other, &data, &Options { resume, ..options(folder.path()) }, &mut ()).unwrap();
            assert_eq!(other.weights_hash(), session.weights_hash());
            let names = ["best.safetensors", "last.safetensors", "metrics.csv"];
            for name in names {
                let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
                assert!(read(folder.path()) == read(straight.path()), "{name} after stops at {stops:?}");
            }
        }
    }

    #[test]
    fn rows_beyond_the_checkpoint_are_written_again() {
        let (folder, data) = (tempfile::tempdir().unwrap(), dataset(83, 21));
        let early = Options { max_steps: Some(12), ..options(folder.path()) };
        train(&mut toy::session(1), &data, &early, &mut ()).unwrap();
        let kept = folder.path().join("kept.safetensors");
        fs::copy(folder.path().join(LAST), &kept).unwrap();
        train(
            &mut toy::session(1),
            &data,
            &Options { resume: Some(&kept), ..options(folder.path()) },
            &mut (),
        )
        .unwrap();
        let first = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
        train(
            &mut toy::session(1),
            &data,
            &Options { resume: Some(&kept), ..options(folder.path()) },
            &mut (),
        )
        .unwrap();
        assert_eq!(fs::read_to_string(folder.path().join("metrics.csv")).unwrap(), first);
        let jsonl = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        assert_eq!(jsonl.lines().count(), 44);
        let epochs = crate::metrics::epochs(folder.path()).unwrap();
        let steps: Vec<_> = epochs.iter().map(|report| (report.epoch, report.step)).collect();
        assert_eq!(steps, [(0, 10), (1, 20), (2, 30), (3, 40)]);
        assert!(epochs.iter().all(|report| report.test.samples == data.test.len() as u64));
    }

    #[test]
    fn the_stop_flag_ends_the_run_after_the_step_also_during_evaluation() {
        struct StopAt<'a>(u64, &'a AtomicBool);
        impl Observer for StopAt<'_> {
            fn on_step(&mut self, report: &StepReport) {
                self.1.fetch_or(report.step == self.0, Relaxed);
            }
        }
        let data = dataset(83, 21);
        for (at, epoch, batch) in [(3, 0, 3), (20, 1, 10)] {
            let (folder, stop) = (tempfile::tempdir().unwrap(), AtomicBool::new(false));
            let options = Options { stop: &stop, ..options(folder.path()) };
            let outcome = train(&mut toy::session(2), &data, &options, &mut StopAt(at, &stop)).unwrap();
            assert_eq!(
                (outcome.finished, outcome.progress.epoch, outcome.progress.batch),
                (false, epoch, batch)
            );
            stop.store(false, Relaxed);
            let (last, kept) = (folder.path().join(LAST), folder.path().join("kept.safetensors"));
            fs::copy(&last, &kept).unwrap();
            let mut resumed = toy::session(2);
            let outcome =
                train(&mut resumed, &data, &Options { resume: Some(&last), ..options }, &mut ()).unwrap();
            assert!(outcome.finished && resumed.steps_done() == 40);
            // Continued once more from a checkpoint of before an evaluation that is in the record by now.
            train(&mut toy::session(1), &data, &Options { resume: Some(&kept), ..options }, &mut ()).unwrap();
            let jsonl = fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
            assert_eq!(jsonl.lines().count(), 44);
            let csv = fs::read_to_string(folder.path().join("metrics.csv")).unwrap();
            assert_eq!(csv.lines().count(), 1 + 4);
        }
    }

    #[test]
    fn evaluation_counts_every_sample_once() {
        let data = dataset(40, 21);
        let mut session = toy::session(2);
        session.start(0, &data.mean_pixel(), 1);
        let all = evaluate(&mut session, &data.test, Mode::Evaluate, &GO).unwrap();
        let classes = predict(&mut session, data.test.images.clone());
        let hits = classes.iter().zip(&data.test.labels).filter(|(c, l)| **c == **l as u32).count();
        assert_eq!((all.samples, all.correct), (21, hits as u64));
        let mut singles = Tally::default();
        for i in 0..21 {
            let part = Part {
                images: data.test.image(i).to_vec(),
                labels: vec![data.test.labels[i]],
                source: String::new(),
            };
            singles += evaluate(&mut session, &part, Mode::Evaluate, &GO).unwrap();
        }
        assert_eq!(all, singles);
        assert_eq!(evaluate(&mut session, &data.test, Mode::EvaluateBatch, &GO).unwrap().samples, 16);
    }

    #[test]
    fn divergence_ends_the_run_with_an_error() {
        let (folder, data) = (tempfile::tempdir().unwrap(), dataset(800, 8));
        let mut session = Session::new(artifact(), Box::new(Toy { penalty: 5 << 16 }), 1).unwrap();
        struct Warnings(Vec<Warning>);
        impl Observer for Warnings {
            fn on_warning(&mut self, warning: &Warning) {
                self.0.push(warning.clone());
            }
        }
        let mut heard = Warnings(Vec::new());
        let error = train(&mut session, &data, &options(folder.path()), &mut heard).unwrap_err();
        assert_eq!((error.kind, session.steps_done()), (ErrorKind::Diverged, 300));
        assert_eq!(heard.0, [Warning::HighLoss { steps: 100 }]);
    }

    #[test]
    fn data_and_checkpoints_that_do_not_fit_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let fails = |data: &Dataset, options: &Options| {
            train(&mut toy::session(1), data, options, &mut ()).unwrap_err()
        };
        let fresh = options(folder.path());
        assert!(fails(&dataset(7, 8), &fresh).message.contains("less than a batch of 8"));
        let mut classes = dataset(16, 8);
        classes.classes = 4;
        assert_eq!(fails(&classes, &fresh).kind, ErrorKind::Mismatch);
        let missing = folder.path().join("no");
        assert_eq!(fails(&dataset(16, 8), &options(&missing)).kind, ErrorKind::Missing);
        train(&mut toy::session(1), &dataset(16, 8), &fresh, &mut ()).unwrap();
        let last = folder.path().join(LAST);
        let resumed = Options { resume: Some(&last), ..fresh };
        let error = fails(&dataset(17, 8), &resumed);
        assert!(error.message.contains("other data"), "{error}");
        let same = dataset(16, 8);
        for (other, said) in [
            (Options { seed: 6, ..resumed }, "with seed 5, not 6"),
            (Options { augmentation: Augmentation::default(), ..resumed }, "another augmentation"),
            (Options { epochs: 5, ..resumed }, "with `epochs 4`, not 5"),
        ] {
            let error = fails(&same, &other);
            assert!(error.kind == ErrorKind::Mismatch && error.message.contains(said), "{error}");
        }
        train(&mut toy::session(1), &same, &resumed, &mut ()).unwrap();
    }
}
