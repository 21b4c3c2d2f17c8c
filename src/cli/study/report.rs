//! A study as tables: rows of means for people, cells for programs.

use super::record::{State, duration};
use super::statistics::Mean;
use super::summary::{Row, Study, Trained};
use crate::cli::display::{clock, loss, percent};
use crate::cli::terminal;

/// The table of means, as printed.
pub(super) fn table(study: &Study) -> String {
    terminal::table(&means(study))
}

/// Rows of means with their head.
pub(super) fn means(study: &Study) -> Vec<Vec<String>> {
    let accuracy = format!("{} accuracy", study.measured);
    let figures = ["seeds", accuracy.as_str(), "loss", "training loss", "10^6 bit-ops", "time", "images/s"];
    let axes = study.varied().iter().map(|axis| axis.subject.name().to_owned());
    let head = axes.chain(figures.map(str::to_owned)).collect();
    let row = |row: &Row| -> Vec<String> { row.values.iter().cloned().chain(figures_of(row)).collect() };
    [head].into_iter().chain(study.rows().iter().map(row)).collect()
}

fn figures_of(row: &Row) -> [String; 7] {
    let nats = |mean: Option<Mean>| mean.map_or(String::new(), |mean| format!("{:.3}", mean.value));
    [
        row.cells.len().to_string(),
        accuracy(row),
        nats(row.mean(|_, last| loss(&last.test))),
        nats(row.mean(|_, last| loss(&last.train))),
        row.cells.first().map_or(String::new(), |cell| format!("{:.1}", cell.bops.step() as f64 / 1e6)),
        time(row),
        row.rate().map_or(String::new(), |rate| format!("{rate:.0}")),
    ]
}

/// Mean accuracy at the end, and how many cells have none.
pub(super) fn accuracy(row: &Row) -> String {
    match (row.accuracy(), row.diverged()) {
        (Some(mean), 0) => format!("{} %", plus_minus(mean, 2)),
        (Some(mean), n) => format!("{} %, {n} diverged", plus_minus(mean, 2)),
        (None, _) => "diverged".to_owned(),
    }
}

/// Mean time of a whole run.
pub(super) fn time(row: &Row) -> String {
    let seconds = row.cells.iter().map(|cell| cell.record.seconds).sum::<f64>();
    clock(duration(seconds / row.cells.len().max(1) as f64))
}

/// `85.32 ± 0.10`.
fn plus_minus(mean: Mean, digits: usize) -> String {
    let value = format!("{:.digits$}", mean.value);
    mean.error.map_or(value.clone(), |error| format!("{value} ± {error:.digits$}"))
}

/// How a cell ended, in a word.
pub(super) fn state(cell: &Trained) -> &'static str {
    match cell.record.state {
        State::Begun => "begun",
        State::Finished => "finished",
        State::Diverged => "diverged",
    }
}

/// All cells as comma-separated values: exact counts, times of this machine, and the command that trains the same.
pub(super) fn csv(study: &Study) -> String {
    let axes = study.axes.iter().map(|axis| axis.subject.name().replace(' ', "_"));
    let accuracy = format!("{}_accuracy", study.measured);
    let loss_name = format!("{}_loss", study.measured);
    let figures = [
        "state",
        "epochs_done",
        accuracy.as_str(),
        loss_name.as_str(),
        "train_accuracy",
        "train_loss",
        "seconds",
        "images_per_s",
        "bit_operations",
        "weights_hash",
        "command",
    ];
    let head: Vec<String> = axes.chain(figures.map(str::to_owned)).collect();
    let lines = study.cells.iter().map(|cell| {
        let figures = cell_figures(cell);
        cell.cell.values.iter().chain(&figures).map(|value| csv_field(value)).collect::<Vec<_>>().join(",")
    });
    [head.join(",")].into_iter().chain(lines).map(|line| line + "\n").collect()
}

fn cell_figures(cell: &Trained) -> [String; 11] {
    let last =
        |of: &dyn Fn(&fqt_runtime::train::EpochReport) -> String| cell.last().map_or(String::new(), of);
    [
        state(cell).to_owned(),
        cell.epochs.len().to_string(),
        last(&|e| format!("{:.2}", percent(e.test.correct, e.test.samples))),
        last(&|e| format!("{:.4}", loss(&e.test))),
        last(&|e| format!("{:.2}", percent(e.train.correct, e.train.samples))),
        last(&|e| format!("{:.4}", loss(&e.train))),
        format!("{:.1}", cell.record.seconds),
        cell.record.rate().map_or(String::new(), |rate| format!("{rate:.1}")),
        cell.bops.step().to_string(),
        cell.record.weights.as_ref().map_or(String::new(), |hash| format!("blake3:{hash}")),
        cell.cell.command.clone(),
    ]
}

/// A field as RFC 4180 writes it.
fn csv_field(text: &str) -> String {
    if text.contains([',', '"', '\n']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_means_as_text() {
        assert_eq!(csv_field("a=max(1,2)"), "\"a=max(1,2)\"");
        assert_eq!(csv_field("say \"x\""), "\"say \"\"x\"\"\"");
        assert_eq!(csv_field("plain"), "plain");
        assert_eq!(plus_minus(Mean { value: 85.316, error: Some(0.104) }, 2), "85.32 ± 0.10");
        assert_eq!(plus_minus(Mean { value: 85.316, error: None }, 2), "85.32");
    }
}
