//! The same network in PyTorch, in turns with ours: a machine that others use too drifts by more than the programs
//! differ, but both sides of a round see the same machine.

use std::path::Path;
use std::process::{Command, Stdio};

use fqt_runtime::session::Session;
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::terminal::{note, say};
use super::{Args, Figures, median, rates};

/// Arithmetic of the other program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DType {
    /// Single precision
    Fp32,
    /// Products in bfloat16
    Bf16,
    /// Single precision that imitates quantization, drawing its random numbers
    Fakequant,
    /// The same with random numbers that were drawn before
    FakequantPredrawn,
}

impl DType {
    fn name(self) -> &'static str {
        match self {
            DType::Fp32 => "fp32",
            DType::Bf16 => "bf16",
            DType::Fakequant => "fakequant",
            DType::FakequantPredrawn => "fakequant-predrawn",
        }
    }

    fn arguments(self) -> &'static [&'static str] {
        match self {
            DType::Fp32 => &["--dtype", "fp32"],
            DType::Bf16 => &["--dtype", "bf16"],
            DType::Fakequant => &["--dtype", "fakequant", "--noise", "plain"],
            DType::FakequantPredrawn => &["--dtype", "fakequant", "--noise", "predrawn"],
        }
    }
}

/// Rounds with one arithmetic.
pub(super) struct Comparison {
    dtype: DType,
    version: String,
    /// Images a second: ours, theirs.
    rounds: Vec<(f64, f64)>,
    /// Largest resident memory above that after the import, over all rounds, in MiB.
    memory: f64,
    /// Our memory over theirs.
    memory_ratio: Option<f64>,
}

impl Comparison {
    /// The median of the rounds' ratios.
    fn ratio(&self) -> f64 {
        median(self.rounds.iter().map(|(ours, theirs)| ours / theirs)).unwrap_or(0.0)
    }

    fn text(&self) -> String {
        let memory =
            self.memory_ratio.map_or_else(String::new, |ratio| format!(", {ratio:.2} of its memory"));
        format!(
            "over PyTorch {} {}: {:.2} times the images/s (median of {}){memory}",
            self.version,
            self.dtype.name(),
            self.ratio(),
            self.rounds.len()
        )
    }

    pub(super) fn json(&self) -> Value {
        let round =
            |(ours, theirs): &(f64, f64)| json!({ "ours": ours, "theirs": theirs, "ratio": ours / theirs });
        json!({
            "peer": "pytorch",
            "version": self.version,
            "dtype": self.dtype.name(),
            "ratio": self.ratio(),
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
            "peak_rss_mib_above_import": self.memory,
            "memory_ratio": self.memory_ratio,
        })
    }
}

/// Fails, before any work, if there is no script.
pub(super) fn check(script: &Path) -> Result<(), Failure> {
    if script.is_file() {
        return Ok(());
    }
    Err(Failure::failed(format!(
        "the program for PyTorch is not here: there is no file `{}`",
        script.display()
    ))
    .help("run this in the root of the repository, or name the file with --script PATH"))
}

/// Runs both programs in turns.
pub(super) fn compare(
    args: &Args,
    figures: &Figures,
    session: &mut Session,
) -> Result<Vec<Comparison>, Failure> {
    args.dtype.iter().map(|&dtype| one(args, dtype, figures, session)).collect()
}

fn one(args: &Args, dtype: DType, figures: &Figures, session: &mut Session) -> Result<Comparison, Failure> {
    let mut comparison =
        Comparison { dtype, version: String::new(), rounds: vec![], memory: 0.0, memory_ratio: None };
    for round in 1..=args.rounds {
        let ours = median(rates(session, args.repetitions, args.steps)).unwrap_or(0.0);
        let theirs = pytorch(args, dtype, figures)?;
        comparison.rounds.push((ours, theirs.images_per_s));
        comparison.memory = comparison.memory.max(theirs.memory);
        comparison.version = theirs.version;
        let line = format!(
            "{} round {round}/{}: {ours:.0} and {:.0} images/s, {:.2} times",
            dtype.name(),
            args.rounds,
            theirs.images_per_s,
            ours / theirs.images_per_s
        );
        if args.json { note(&line) } else { say(&line)? }
    }
    comparison.memory_ratio = figures.memory.map(|ours| ours as f64 / (1 << 20) as f64 / comparison.memory);
    if !args.json {
        say(&comparison.text())?;
    }
    Ok(comparison)
}

struct Theirs {
    version: String,
    images_per_s: f64,
    memory: f64,
}

/// One run of the other program.
fn pytorch(args: &Args, dtype: DType, figures: &Figures) -> Result<Theirs, Failure> {
    let python = args.python.display();
    let output = Command::new(&args.python)
        .arg(&args.script)
        .args(["--network", &figures.model])
        .args(["--batch", &figures.batch.to_string(), "--threads", &figures.threads.to_string()])
        .args(dtype.arguments())
        .stdin(Stdio::null())
        .output()
        .map_err(|e| {
            Failure::failed(format!("cannot run `{python}`: {e}"))
                .help("name a Python that has PyTorch with --python PATH")
        })?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim();
        return Err(Failure::failed(format!("{} failed: {last}", args.script.display()))
            .help("tests/bench/README.md says how to install PyTorch; name its Python with --python PATH"));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    theirs(&text).ok_or_else(|| {
        Failure::failed(format!("{} did not print its figures as JSON", args.script.display()))
            .help("use the script that comes with this version of fqtc")
    })
}

/// Reads the last line.
fn theirs(text: &str) -> Option<Theirs> {
    let object: Value = serde_json::from_str(text.lines().next_back()?).ok()?;
    let number = |name: &str| object.get(name)?.as_f64();
    Some(Theirs {
        version: object.get("version")?.as_str()?.to_owned(),
        images_per_s: number("images_per_s").filter(|&rate| rate > 0.0)?,
        memory: number("peak_rss_mib")? - number("rss_after_import_mib")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_the_script_are_read() {
        let line =
            r#"{"version": "2", "images_per_s": 400.5, "peak_rss_mib": 700, "rss_after_import_mib": 200.5}"#;
        let read = theirs(&format!("a warning\n{line}\n")).expect("complete figures");
        assert_eq!((read.images_per_s, read.memory), (400.5, 499.5));
        assert!(theirs("").is_none() && theirs("{}").is_none());
        assert!(theirs(&line.replace("400.5", "0")).is_none(), "no ratio over nothing");
    }
}
