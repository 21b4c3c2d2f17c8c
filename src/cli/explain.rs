//! `fqtc explain`: what an error code or a built-in name means.

use super::catalogue::{Kind, wrap};
use super::failure::Failure;
use super::terminal::say;
use crate::diag::{codes, suggest};

/// Explain an error code or a built-in name.
#[derive(clap::Args)]
pub(super) struct Args {
    /// An error code such as E0301, or a name that `fqtc list` prints
    #[arg(value_name = "CODE|NAME")]
    name: String,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    if let Some(code) = codes::find(&args.name) {
        return say(&format!("{}: {}\n\n{}", code.code, code.title, wrap(code.explanation)));
    }
    let mut names: Vec<String> = codes::all().map(|code| code.code.into()).collect();
    for kind in Kind::ALL {
        for entry in kind.entries() {
            if entry.name == args.name {
                return say(&entry.page(kind));
            }
            names.push(entry.name);
        }
    }
    let failure = Failure::usage(format!("nothing built in is called `{}`", args.name));
    Err(match suggest::nearest(&args.name, names.iter().map(String::as_str)) {
        Some(name) => failure.help(format!("did you mean `{name}`?")),
        None => failure.help("`fqtc list --help` shows the kinds of names; error codes look like E0301"),
    })
}
