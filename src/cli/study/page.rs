//! A study as one HTML page that needs nothing else: charts, means, layers, and the command of every run.

use std::collections::BTreeMap;

use fqt_runtime::program::MetricKind;

use super::noise::{FIGURES, figures, number};
use super::record::duration;
use super::report::{means, state};
use super::summary::{Row, Study, Trained};
use crate::cli::display::{clock, loss, percent};
use crate::noise::Layer;

const STYLE: &str = "\
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
code { font-size: 12px; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
summary { cursor: pointer }
";

/// The page; `charts` is an SVG.
pub(super) fn html(study: &Study, charts: &str) -> String {
    let title = escaped(&format!("{} on {}", study.model, study.data));
    let about = format!(
        "Mean and standard error over seeds of the last epoch's {} accuracy. Time is of a whole run; images/s of training \
         steps. Bit-operations: multiply-accumulates times the bits of both operands, of one image in a training step.",
        study.measured
    );
    [
        format!("<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<title>{title}</title>\n"),
        format!("<style>\n{STYLE}</style>\n<h1>{title}</h1>\n<p>{}</p>\n", escaped(&about)),
        table(&means(study)),
        charts.to_owned(),
        "\n<h2>Bit-operations</h2>\n".to_owned(),
        table(&bit_operations(study)),
        "<h2>Layers</h2>\n<p>Of the last epoch, over the first image of every batch: the share of codes at an end of their \
         range, which were cut off or nearly, the share of gradient codes that are zero, and the powers of two that scales \
         were below; of a run that was stopped in that epoch, since then. At the end of training, at a few training images: the noise of gradient quantizers over the energy of what they read, the largest \
         gradient over the root mean square (crest), the mean gain |γ|/σ of the batch norm behind the layer and its spread over \
         the channels, the cosine between the gradient of the weights with quantizers and the exact one, and the norm of the \
         weights over that of their start (drift).</p>\n"
            .to_owned(),
        study.rows().iter().map(|row| layers(study, row)).collect(),
        "<h2>Runs</h2>\n".to_owned(),
        table(&runs(study)),
        "<p>The command of each run, and the hash of the weights that it gives on any number of threads:</p>\n".to_owned(),
        commands(study),
        "</html>\n".to_owned(),
    ]
    .concat()
}

/// Text as HTML shows it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The first row is the head.
fn table(rows: &[Vec<String>]) -> String {
    let row = |(i, row): (usize, &Vec<String>)| {
        let tag = if i == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escaped(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    format!("<table>\n{}</table>\n", rows.iter().enumerate().map(row).collect::<String>())
}

fn head(study: &Study, figures: &[&str]) -> Vec<String> {
    let axes = study.varied().iter().map(|axis| axis.subject.name().to_owned());
    axes.chain(figures.iter().map(|name| (*name).to_owned())).collect()
}

fn bit_operations(study: &Study) -> Vec<Vec<String>> {
    let mut rows = vec![head(study, &["forward, 10^6", "backward, 10^6", "step, 10^6"])];
    for row in study.rows() {
        let Some(bops) = row.cells.first().map(|cell| cell.bops) else { continue };
        let figures = [bops.forward, bops.backward, bops.step()].map(|n| format!("{:.1}", n as f64 / 1e6));
        rows.push(row.values.iter().cloned().chain(figures).collect());
    }
    rows
}

/// What was counted in a layer, over the seeds of a row.
#[derive(Default)]
struct Counts {
    /// How many, of how many.
    saturated: (u64, u64),
    zero: (u64, u64),
    scale: Option<(i64, i64)>,
}

fn layers(study: &Study, row: &Row) -> String {
    let mut order: Vec<&str> = vec![];
    let mut counts: BTreeMap<&str, Counts> = BTreeMap::new();
    for reading in row.cells.iter().filter_map(|cell| cell.epochs.last()).flat_map(|epoch| &epoch.layers) {
        if !counts.contains_key(reading.layer.as_str()) {
            order.push(&reading.layer);
        }
        let sums = counts.entry(&reading.layer).or_default();
        let add = |sum: &mut (u64, u64)| *sum = (sum.0 + reading.count, sum.1 + reading.of);
        match reading.kind {
            MetricKind::SaturatedCodes => add(&mut sums.saturated),
            MetricKind::ZeroGradients => add(&mut sums.zero),
            MetricKind::ScaleRange => {
                let (low, high) = (sums.scale, reading.scale);
                sums.scale = low.zip(high).map(|(a, b)| (a.0.min(b.0), a.1.max(b.1))).or(low).or(high);
            }
        }
    }
    let share = |(count, of): (u64, u64)| {
        if of == 0 { String::new() } else { format!("{:.2} %", percent(count, of)) }
    };
    let head =
        ["layer", "at an end", "zero gradients", "scales below 2^", "noise"].into_iter().chain(FIGURES);
    let mut rows = vec![head.map(str::to_owned).collect::<Vec<String>>()];
    for layer in order {
        let Counts { saturated, zero, scale } = &counts[layer];
        let scale = scale.map_or(String::new(), |(low, high)| format!("{low} to {high}"));
        let counted = [layer.to_owned(), share(*saturated), share(*zero), scale];
        let mean = mean_layer(row.cells.iter().flat_map(|cell| &cell.record.layers), layer);
        let noise = mean.noise.map_or(String::new(), number);
        rows.push(counted.into_iter().chain([noise]).chain(figures(Some(&mean))).collect());
    }
    let label = escaped(&row.label(study.varied()));
    format!("<details><summary>{label}</summary>\n{}</details>\n", table(&rows))
}

/// The mean of what runs say of one layer.
fn mean_layer<'a>(layers: impl Iterator<Item = &'a Layer>, path: &str) -> Layer {
    let said: Vec<&Layer> = layers.filter(|layer| layer.path == path).collect();
    let mean = |figure: fn(&Layer) -> Option<f64>| {
        let figures: Vec<f64> = said.iter().filter_map(|layer| figure(layer)).collect();
        (!figures.is_empty()).then(|| figures.iter().sum::<f64>() / figures.len() as f64)
    };
    Layer {
        path: path.to_owned(),
        noise: mean(|layer| layer.noise),
        crest: mean(|layer| layer.crest),
        gain: mean(|layer| layer.gain),
        spread: mean(|layer| layer.spread),
        cosine: mean(|layer| layer.cosine),
        drift: mean(|layer| layer.drift),
    }
}

fn runs(study: &Study) -> Vec<Vec<String>> {
    let row = |cell: &Trained| {
        vec![
            cell.cell.name.clone(),
            cell.record.reason.clone().unwrap_or_else(|| state(cell).to_owned()),
            cell.accuracy().map_or(String::new(), |x| format!("{x:.2} %")),
            cell.last().map_or(String::new(), |e| format!("{:.3}", loss(&e.test))),
            clock(duration(cell.record.seconds)),
        ]
    };
    let head = ["run", "ended", "accuracy", "loss", "time"].map(str::to_owned).to_vec();
    [head].into_iter().chain(study.cells.iter().map(row)).collect()
}

/// Each run with the command that does the same, and the hash of the weights it gives.
fn commands(study: &Study) -> String {
    let item = |cell: &Trained| {
        let hash = cell
            .record
            .weights
            .as_ref()
            .map_or(String::new(), |hash| format!("<br><code>blake3:{hash}</code>"));
        format!("<li><code>{}</code>{hash}</li>\n", escaped(&cell.cell.command))
    };
    format!("<ul>\n{}</ul>\n", study.cells.iter().map(item).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_layer_are_means_over_the_runs_that_have_them() {
        let layer =
            |path: &str, noise, gain| Layer { path: path.to_owned(), noise, gain, ..Layer::default() };
        let all =
            [layer("a", Some(0.5), None), layer("b", Some(9.0), None), layer("a", Some(0.25), Some(2.0))];
        assert_eq!(mean_layer(all.iter(), "a"), layer("a", Some(0.375), Some(2.0)));
        assert_eq!(mean_layer(all.iter(), "c"), layer("c", None, None));
    }

    #[test]
    fn text_of_users_is_no_markup() {
        let shown = table(&[vec!["a".into()], vec!["<b>&\"".into()]]);
        assert_eq!(shown, "<table>\n<tr><th>a</th></tr>\n<tr><td>&lt;b&gt;&amp;&quot;</td></tr>\n</table>\n");
    }
}
