//! The record of a run: `metrics.jsonl` (every step and epoch) and `metrics.csv` (every epoch).
//!
//! Exact integers, no times: equal runs give equal files, but for what layers count in an epoch, which a run that was
//! stopped in it counts from there on. Losses are sums over samples in nats, Q16. Rows are appended
//! and flushed; a resumed run first drops rows of steps that it will do again.

use crate::durable;
use crate::error::{Error, ErrorKind, Result};
use crate::train::{EpochReport, StepReport};
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Every step and epoch.
const JSONL: &str = "metrics.jsonl";
const CSV_HEAD: &str =
    "epoch,step,train_samples,train_correct,train_loss_q16,test_samples,test_correct,test_loss_q16,best\n";

/// A row of the `.jsonl` file.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Row<'a> {
    Step(&'a StepReport),
    Epoch(&'a EpochReport),
}

/// A row of the `.jsonl` file that is read again.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Recorded {
    Step { step: u64 },
    Epoch(EpochReport),
}

/// The epochs that a run folder records, in order. A last row that was cut off is left out.
pub fn epochs(folder: &Path) -> Result<Vec<EpochReport>> {
    let path = folder.join(JSONL);
    let text = fs::read_to_string(&path).map_err(|error| Error::io("read", &path, &error))?;
    let mut epochs = Vec::new();
    for (number, line) in text.split_inclusive('\n').enumerate().filter(|(_, line)| line.ends_with('\n')) {
        match serde_json::from_str(line) {
            Ok(Recorded::Step { .. }) => {}
            Ok(Recorded::Epoch(report)) => epochs.push(report),
            Err(error) => {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!(
                        "`{}`: line {} is no record of a step or an epoch: {error}",
                        path.display(),
                        number + 1
                    ),
                    "the file was changed; train again",
                ));
            }
        }
    }
    Ok(epochs)
}

/// Appends to the two files of a run folder.
#[derive(Debug)]
pub struct MetricsLog {
    jsonl: (PathBuf, File),
    csv: (PathBuf, File),
}

impl MetricsLog {
    /// Opens the files of a folder for a run that has done so many steps and finished so many epochs: rows of those are
    /// kept, others not.
    pub fn open(folder: &Path, steps: u64, epochs: u32) -> Result<MetricsLog> {
        let json_kept = |line: &str| match serde_json::from_str(line) {
            Ok(Recorded::Step { step }) => step <= steps,
            Ok(Recorded::Epoch(report)) => report.epoch < epochs,
            Err(_) => false,
        };
        let csv_kept = |line: &str| {
            line.split(',').next().and_then(|first| first.parse().ok()).is_some_and(|e: u32| e < epochs)
        };
        Ok(MetricsLog {
            jsonl: reopen(folder.join(JSONL), "", json_kept)?,
            csv: reopen(folder.join("metrics.csv"), CSV_HEAD, csv_kept)?,
        })
    }

    /// Appends a step.
    pub fn step(&mut self, report: &StepReport) -> Result<()> {
        append(&mut self.jsonl, &json_row(&Row::Step(report)))
    }

    /// Appends an epoch.
    pub fn epoch(&mut self, report: &EpochReport) -> Result<()> {
        append(&mut self.jsonl, &json_row(&Row::Epoch(report)))?;
        let EpochReport { epoch, step, train, test, best, .. } = report;
        let row = format!(
            "{epoch},{step},{},{},{},{},{},{},{}\n",
            train.samples, train.correct, train.loss, test.samples, test.correct, test.loss, *best as u8
        );
        append(&mut self.csv, &row)
    }
}

fn json_row(row: &Row) -> String {
    serde_json::to_string(row).expect("plain data becomes JSON") + "\n"
}

fn append((path, file): &mut (PathBuf, File), row: &str) -> Result<()> {
    file.write_all(row.as_bytes()).map_err(|error| Error::io("write", path, &error))
}

/// Opens a file for appending, with its head and those whole rows that are kept.
fn reopen(path: PathBuf, head: &str, keep: impl Fn(&str) -> bool) -> Result<(PathBuf, File)> {
    let failure = |error| Error::io("write", &path, &error);
    let old = if path.is_file() { fs::read(&path).map_err(failure)? } else { Vec::new() };
    let old = String::from_utf8_lossy(&old);
    let kept = old.split_inclusive('\n').filter(|line| line.ends_with('\n') && keep(line));
    let text = kept.fold(head.to_owned(), |text, line| text + line);
    durable::write(&path, text.as_bytes())?;
    let file = File::options().append(true).open(&path).map_err(failure)?;
    Ok((path, file))
}
