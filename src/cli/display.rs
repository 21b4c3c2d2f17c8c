//! What a training run shows while it goes on: a bar on a terminal, lines otherwise.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use fqt_runtime::session::Tally;
use fqt_runtime::train::{EpochReport, Observer, StepReport};
use fqt_runtime::watch::Warning;
use indicatif::{ProgressBar, ProgressStyle};

use super::terminal::note;

/// Between two lines of a run that has no terminal.
const LINE_EVERY: Duration = Duration::from_secs(15);

/// Accuracy in percent and loss in nats.
pub(super) fn result(tally: &Tally) -> String {
    format!("accuracy {:.2} %  loss {:.3}", percent(tally.correct, tally.samples), loss(tally))
}

/// Share in percent; nothing of nothing is nothing.
pub(super) fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// Mean loss in nats.
pub(super) fn loss(tally: &Tally) -> f64 {
    if tally.samples == 0 { 0.0 } else { tally.loss as f64 / 65536.0 / tally.samples as f64 }
}

/// A time as people say it: `4:05`, `1:02:03`.
pub(super) fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Shows a run on standard error.
pub(super) struct Display {
    epochs: u32,
    measured: &'static str,
    quiet: bool,
    bar: Option<ProgressBar>,
    /// Training time of this process, without evaluation, and the samples trained in it.
    trained: (Duration, u64),
    /// When the current stretch of training began, and the samples at its last step.
    running_since: Option<Instant>,
    last_line: Instant,
}

impl Display {
    /// A display for a run of so many epochs that is tested on `measured` images; a quiet one shows warnings only.
    pub(super) fn new(epochs: u32, measured: &'static str, quiet: bool) -> Display {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{prefix} [{bar:24}] {pos}/{len}  {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
            ProgressBar::new(0).with_style(style)
        });
        Display {
            epochs,
            measured,
            quiet,
            bar,
            trained: (Duration::ZERO, 0),
            running_since: None,
            last_line: Instant::now(),
        }
    }

    /// Removes the bar; nothing is shown afterwards.
    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }

    /// Begins the clock of training, at the start and after each evaluation.
    pub(super) fn start(&mut self) {
        self.running_since = Some(Instant::now());
    }

    /// Time in training steps and images in them, over the whole of this process.
    pub(super) fn trained(&self) -> (Duration, u64) {
        let running = self.running_since.map_or(Duration::ZERO, |since| since.elapsed());
        (self.trained.0 + running, self.trained.1)
    }

    /// Images a second, over the whole of this process.
    pub(super) fn rate(&self) -> f64 {
        let (time, images) = self.trained();
        if time.is_zero() { 0.0 } else { images as f64 / time.as_secs_f64() }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| note(text)),
            None => note(text),
        }
    }

    fn left(&self, report: &StepReport) -> String {
        let epochs = u64::from(self.epochs.saturating_sub(report.epoch + 1));
        let batches = epochs * u64::from(report.batches) + u64::from(report.batches - report.batch);
        let seconds = (batches * report.train.samples) as f64 / self.rate().max(1e-9);
        Duration::try_from_secs_f64(seconds).map_or_else(|_| "?".into(), clock)
    }
}

impl Observer for Display {
    fn on_step(&mut self, report: &StepReport) {
        self.trained.1 += report.train.samples;
        let due = self.bar.is_none() && self.last_line.elapsed() >= LINE_EVERY;
        if self.quiet || !(due || self.bar.is_some()) {
            return;
        }
        let message = format!(
            "{}  {:.0} images/s  {} left",
            result(&report.epoch_train),
            self.rate(),
            self.left(report)
        );
        let epoch = format!("epoch {}/{}", report.epoch + 1, self.epochs);
        match &self.bar {
            Some(bar) => {
                bar.set_prefix(epoch);
                bar.set_length(report.batches.into());
                bar.set_position(report.batch.into());
                bar.set_message(message);
            }
            None => {
                self.last_line = Instant::now();
                note(&format!("{epoch}  step {}/{}  {message}", report.batch, report.batches));
            }
        }
    }

    fn on_evaluation(&mut self, _epoch: u32) {
        if let Some(since) = self.running_since.take() {
            self.trained.0 += since.elapsed();
        }
        if let Some(bar) = &self.bar {
            bar.set_message("testing");
        }
    }

    fn on_epoch(&mut self, report: &EpochReport) {
        if !self.quiet {
            let best = if report.best { "  (best so far)" } else { "" };
            self.line(&format!(
                "epoch {}/{}  train {}  {} {}  {:.0} images/s{best}",
                report.epoch + 1,
                self.epochs,
                result(&report.train),
                self.measured,
                result(&report.test),
                self.rate()
            ));
        }
        self.last_line = Instant::now();
        self.start();
    }

    fn on_warning(&mut self, warning: &Warning) {
        self.line(&format!("warning: {warning}"));
    }

    fn on_saved(&mut self, _path: &Path) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_times_as_people_read_them() {
        let tally = Tally { samples: 2000, correct: 1707, loss: (0.4383 * 65536.0 * 2000.0) as i64 };
        assert_eq!(result(&tally), "accuracy 85.35 %  loss 0.438");
        assert_eq!(result(&Tally::default()), "accuracy 0.00 %  loss 0.000");
        assert_eq!(clock(Duration::from_secs(65)), "1:05");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
    }
}
