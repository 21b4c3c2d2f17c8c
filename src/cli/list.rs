//! `fqtc list`: what is built in, by kind.

use super::catalogue::Kind;
use super::data;
use super::failure::Failure;
use super::terminal::{say, table};

/// List what is built in.
#[derive(clap::Args)]
pub(super) struct Args {
    /// What to list
    #[arg(value_enum)]
    what: Kind,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    if args.what == Kind::Data {
        // Which of them are here is worth knowing too.
        return data::list();
    }
    let rows: Vec<_> = args.what.entries().iter().map(super::catalogue::Entry::line).collect();
    say(&table(&rows))
}
