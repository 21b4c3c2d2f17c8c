//! A study as data: what its cells gave, rows of cells that differ in their seed only, and the files that show it.

use std::path::Path;

use fqt_runtime::metrics;
use fqt_runtime::train::EpochReport;

use super::cells::{Axis, Cell, Subject};
use super::record::{Record, State};
use super::statistics::{Mean, mean};
use super::{page, plot, report, train_again};
use crate::bops::Bops;
use crate::cli::display::{loss, percent, result};
use crate::cli::failure::Failure;
use crate::cli::images::Images;

/// A cell with its result.
pub(super) struct Trained {
    pub(super) cell: Cell,
    pub(super) bops: Bops,
    pub(super) record: Record,
    /// Its epochs; a run that diverged has those before.
    pub(super) epochs: Vec<EpochReport>,
}

impl Trained {
    /// A cell that is done, from the files of its run, which has so many epochs.
    pub(super) fn read(
        cell: Cell,
        bops: Bops,
        record: Record,
        folder: &Path,
        count: u32,
    ) -> Result<Trained, Failure> {
        let damaged = |error| Failure::from(error).help(train_again(folder));
        let epochs = metrics::epochs(folder).map_err(damaged)?;
        if record.state == State::Finished && epochs.len() != count as usize {
            let (name, found) = (folder.display(), epochs.len());
            return Err(Failure::failed(format!(
                "`{name}` is finished, but records {found} of {count} epochs"
            ))
            .help(train_again(folder)));
        }
        Ok(Trained { cell, bops, record, epochs })
    }

    /// The last epoch, if the run came to its end.
    pub(super) fn last(&self) -> Option<&EpochReport> {
        self.epochs.last().filter(|_| self.record.state == State::Finished)
    }

    /// Percent of the images that it was tested on, at the end.
    pub(super) fn accuracy(&self) -> Option<f64> {
        self.last().map(|last| percent(last.test.correct, last.test.samples))
    }

    /// How it ended, in a line.
    pub(super) fn outcome(&self, measured: &str) -> String {
        match self.last() {
            Some(last) => format!("{measured} {}", result(&last.test)),
            None => self.record.reason.clone().unwrap_or_default(),
        }
    }
}

/// A study as far as it is done.
pub(super) struct Study {
    pub(super) model: String,
    pub(super) data: String,
    /// What accuracies are of: the word before `accuracy`.
    pub(super) measured: &'static str,
    /// What varies.
    pub(super) axes: Vec<Axis>,
    pub(super) cells: Vec<Trained>,
    /// Their numbers among all that are planned.
    numbers: Vec<usize>,
}

/// Cells that differ in nothing but their seed.
pub(super) struct Row<'a> {
    /// Values of the axes but the seed.
    pub(super) values: &'a [String],
    pub(super) cells: Vec<&'a Trained>,
}

impl Study {
    /// A study of which nothing is done.
    pub(super) fn new(model: String, images: &Images, axes: Vec<Axis>) -> Study {
        let data = match images.validation {
            Some(n) => format!("{}, the last {n} training images held out", images.data),
            None => images.data.clone(),
        };
        Study { model, data, measured: images.measured(), axes, cells: vec![], numbers: vec![] }
    }

    /// Adds the cell of that number among all that are planned; cells stay in the order of their numbers.
    pub(super) fn add(&mut self, number: usize, cell: Trained) {
        let at = self.numbers.partition_point(|&known| known < number);
        self.numbers.insert(at, number);
        self.cells.insert(at, cell);
    }

    /// What varies, but the seed.
    pub(super) fn varied(&self) -> &[Axis] {
        let seed = self.axes.iter().position(|axis| axis.subject == Subject::Seed);
        &self.axes[..seed.unwrap_or(self.axes.len())]
    }

    /// Cells by everything but the seed, in order of their first.
    pub(super) fn rows(&self) -> Vec<Row<'_>> {
        let n = self.varied().len();
        let mut rows: Vec<Row> = vec![];
        for cell in &self.cells {
            let values = &cell.cell.values[..n];
            match rows.iter_mut().find(|row| row.values == values) {
                Some(row) => row.cells.push(cell),
                None => rows.push(Row { values, cells: vec![cell] }),
            }
        }
        rows
    }
}

impl Row<'_> {
    /// Mean of what the finished cells have.
    pub(super) fn mean(&self, of: impl Fn(&Trained, &EpochReport) -> f64) -> Option<Mean> {
        mean(self.cells.iter().filter_map(|cell| cell.last().map(|last| of(cell, last))))
    }

    /// Percent right at the end.
    pub(super) fn accuracy(&self) -> Option<Mean> {
        self.mean(|_, last| percent(last.test.correct, last.test.samples))
    }

    /// Mean training loss of an epoch, over the cells that came so far.
    pub(super) fn training_loss(&self, epoch: usize) -> Option<f64> {
        let losses = self.cells.iter().filter_map(|cell| cell.epochs.get(epoch)).map(|e| loss(&e.train));
        mean(losses).map(|mean| mean.value)
    }

    /// Images a second in training steps, over all cells.
    pub(super) fn rate(&self) -> Option<f64> {
        mean(self.cells.iter().filter_map(|cell| cell.record.rate())).map(|mean| mean.value)
    }

    /// Cells that diverged.
    pub(super) fn diverged(&self) -> usize {
        self.cells.iter().filter(|cell| cell.record.state == State::Diverged).count()
    }

    /// Its values in a few words.
    pub(super) fn label(&self, axes: &[Axis]) -> String {
        let words = axes.iter().zip(self.values).map(|(axis, value)| axis.subject.said(value));
        let words: Vec<String> = words.collect();
        if words.is_empty() { "all".to_owned() } else { words.join(", ") }
    }
}

/// Writes the three files of a summary.
pub(super) fn write(study: &Study, folder: &Path) -> Result<(), Failure> {
    let charts =
        plot::svg(study).map_err(|why| Failure::failed(format!("cannot draw the summary: {why}")))?;
    let files = [
        ("summary.csv", report::csv(study)),
        ("summary.svg", charts.clone()),
        ("summary.html", page::html(study, &charts)),
    ];
    for (name, text) in files {
        fqt_runtime::durable::write(&folder.join(name), text.as_bytes())?;
    }
    Ok(())
}
