//! What `fqtc bench` prints: text for people, one JSON object for programs. Rates and shares are made here.

use serde_json::{Value, json};

use super::super::terminal::table;
use super::profile::{Row, Sums, sum};
use super::{Figures, median};
use crate::kernel::cost::Class;

/// Rows of the tables of kernels: the rest is summed.
const TOP: usize = 16;

const MIB: f64 = (1 << 20) as f64;

impl Figures {
    /// Images a second: the median, the least and the most.
    pub(super) fn rate(&self) -> (f64, f64, f64) {
        let ends = self.rates.iter().fold((f64::MAX, 0.0), |(lo, hi): (f64, f64), &x| (lo.min(x), hi.max(x)));
        (median(self.rates.iter().copied()).unwrap_or(0.0), ends.0, ends.1)
    }

    fn step_ms(&self) -> f64 {
        1e3 * self.batch as f64 / self.rate().0
    }

    /// Multiply-accumulates of bytes in a cycle of one thread, at most.
    fn peak_macs_per_cycle(&self) -> Option<f64> {
        let peak = self.peak?;
        peak.dots.map(|(_, rate)| 4.0 * rate / peak.clock)
    }

    /// Multiply-accumulates in a cycle of one thread, while it runs these kernels.
    fn macs_per_cycle(&self, sums: &Sums) -> Option<f64> {
        let peak = self.peak?;
        (sums.macs > 0 && sums.busy > 0).then(|| sums.macs as f64 / (sums.busy as f64 * peak.clock))
    }

    /// Dot products of these kernels, as a share of those that the measured loop would have done in their time.
    fn share_of_peak(&self, sums: &Sums) -> Option<f64> {
        let (_, rate) = self.peak?.dots?;
        (sums.dots > 0 && sums.busy > 0).then(|| sums.dots as f64 / (sums.busy as f64 * rate))
    }

    fn share_of_step(&self, time: f64) -> f64 {
        time / self.profile.step.max(1.0)
    }
}

fn class_name(class: Class) -> &'static str {
    match class {
        Class::Contraction => "contraction",
        Class::Elementwise => "elementwise",
        Class::Single => "single item",
    }
}

/// The report for people.
pub(super) fn text(figures: &Figures) -> String {
    let by_kernel = figures.profile.by_kernel();
    let by_kernel: Vec<&Row> = by_kernel.iter().collect();
    [
        heading(figures),
        classes(figures),
        rows(figures, "kernel", &by_kernel, |row| row.kernel.clone()),
        rows(figures, "layer and kernel", &figures.profile.by_layer(), |row| {
            format!("{} {}", row.layer, row.kernel).trim_start().to_owned()
        }),
    ]
    .join("\n\n")
}

fn heading(figures: &Figures) -> String {
    let (rate, least, most) = figures.rate();
    let bits =
        figures.gradient_bits.map_or_else(|| "real gradients".into(), |n| format!("{n}-bit gradients"));
    let threads = figures.threads;
    let memory = figures.memory.map_or_else(|| "unknown".into(), |n| format!("{:.1} MiB", n as f64 / MIB));
    let mut lines = vec![
        format!(
            "{}: batch {} of random pixels, {bits}, {}, {threads} thread{}",
            figures.model,
            figures.batch,
            figures.target,
            if threads == 1 { "" } else { "s" }
        ),
        format!(
            "{rate:.0} images/s, {:.3} ms a step (median of {} times {} steps; {least:.0} to {most:.0} images/s)",
            figures.step_ms(),
            figures.rates.len(),
            figures.steps
        ),
        format!(
            "compiled in {:.0} ms; arena {:.1} MiB; at most {memory} resident above an empty process",
            figures.compile.as_secs_f64() * 1e3,
            figures.arena_bytes as f64 / MIB
        ),
    ];
    if let Some(peak) = figures.peak {
        let dots = match (peak.dots, figures.peak_macs_per_cycle()) {
            (Some((width, _)), Some(macs)) => {
                format!("{macs:.1} MACs a cycle with {width}")
            }
            _ => "no dot product instruction".into(),
        };
        lines.push(format!("one thread in registers: {:.2} GHz, {dots}", peak.clock));
    }
    lines.join("\n")
}

const NUMBERS: [&str; 10] =
    ["calls", "ms", "share", "waiting", "10^6 MACs", "MACs/cycle", "of peak", "alone", "MiB", "GiB/s"];

/// The head of a table: names to the left, numbers to the right.
fn head(what: &str) -> Vec<String> {
    [what.to_owned()].into_iter().chain(NUMBERS.map(|name| format!("{name:>8}"))).collect()
}

fn cells(figures: &Figures, name: String, sums: &Sums) -> Vec<String> {
    let right = |text: String, head: &str| format!("{text:>width$}", width = head.len().max(8));
    let some = |value: Option<f64>, text: fn(f64) -> String| value.map(text).unwrap_or_default();
    let macs = (sums.macs > 0).then_some(sums.macs as f64 / 1e6);
    let numbers = [
        sums.calls.to_string(),
        format!("{:.3}", sums.time / 1e6),
        format!("{:.1} %", 100.0 * figures.share_of_step(sums.time)),
        format!("{:.3}", sums.waiting / 1e6),
        some(macs, |x| format!("{x:.1}")),
        some(figures.macs_per_cycle(sums), |x| format!("{x:.1}")),
        some(figures.share_of_peak(sums), |x| format!("{:.1} %", 100.0 * x)),
        some(sums.share_alone(), |x| format!("{:.1} %", 100.0 * x)),
        format!("{:.2}", sums.bytes as f64 / MIB),
        format!("{:.1}", sums.bytes as f64 / sums.time.max(1.0) * 1e9 / (1 << 30) as f64),
    ];
    let numbers = numbers.into_iter().zip(NUMBERS).map(|(text, head)| right(text, head));
    [name].into_iter().chain(numbers).collect()
}

/// What the step is made of; the lines add up to the step.
fn classes(figures: &Figures) -> String {
    let mut lines = vec![head("class")];
    for class in Class::ALL {
        lines.push(cells(figures, class_name(class).into(), &figures.profile.class(class)));
    }
    let time = |name: &str, time: f64| {
        let all = cells(figures, name.into(), &Sums { time, ..Sums::default() });
        [all[0].clone(), " ".repeat(8), all[2].clone(), all[3].clone()].to_vec()
    };
    lines.push(time("waiting", sum(figures.profile.rows.iter()).waiting));
    lines.push(time("step", figures.profile.step));
    table(&lines)
}

/// The rows that take longest, and the sum of the others.
fn rows(figures: &Figures, what: &str, rows: &[&Row], name: impl Fn(&Row) -> String) -> String {
    let (shown, others) = rows.split_at(rows.len().min(TOP));
    let mut lines = vec![head(what)];
    lines.extend(shown.iter().map(|row| cells(figures, name(row), &row.sums)));
    if !others.is_empty() {
        let rest = sum(others.iter().copied());
        lines.push(cells(figures, format!("{} others", others.len()), &rest));
    }
    table(&lines)
}

/// The report for programs: one object, in one line.
pub(super) fn json(figures: &Figures) -> String {
    let (rate, least, most) = figures.rate();
    let peak = figures.peak;
    let profile = &figures.profile;
    let class = |class: Class| {
        let sums = profile.class(class);
        json!({ "class": class_name(class), "share": figures.share_of_step(sums.time), "sums": sums_json(figures, &sums) })
    };
    let row = |row: &Row| json!({ "layer": row.layer, "kernel": row.kernel, "class": class_name(row.class), "sums": sums_json(figures, &row.sums) });
    let object = json!({
        "model": figures.model,
        "batch": figures.batch,
        "gbits": figures.gradient_bits,
        "target": figures.target,
        "threads": figures.threads,
        "images_per_s": rate,
        "images_per_s_min": least,
        "images_per_s_max": most,
        "ms_per_step": figures.step_ms(),
        "repetitions": figures.rates.len(),
        "steps": figures.steps,
        "compile_ms": figures.compile.as_secs_f64() * 1e3,
        "arena_bytes": figures.arena_bytes,
        "peak_rss_mib_above_empty": figures.memory.map(|bytes| bytes as f64 / MIB),
        "clock_ghz": peak.map(|peak| peak.clock),
        "peak_of": peak.and_then(|peak| peak.dots).map(|(width, _)| width.to_string()),
        "peak_macs_per_cycle": figures.peak_macs_per_cycle(),
        "profiled_step_ms": profile.step / 1e6,
        "waiting_ms": sum(profile.rows.iter()).waiting / 1e6,
        "classes": Class::ALL.map(class),
        "kernels": profile.rows.iter().map(row).collect::<Vec<_>>(),
        "against": figures.against.iter().map(super::against::Comparison::json).collect::<Vec<_>>(),
    });
    object.to_string()
}

fn sums_json(figures: &Figures, sums: &Sums) -> Value {
    json!({
        "calls": sums.calls,
        "ms": sums.time / 1e6,
        "waiting_ms": sums.waiting / 1e6,
        "busy_ms": sums.busy as f64 / 1e6,
        "macs": sums.macs,
        "macs_per_cycle": figures.macs_per_cycle(sums),
        "share_of_peak": figures.share_of_peak(sums),
        "share_of_peak_alone": sums.share_alone(),
        "bytes": sums.bytes,
    })
}
