//! The `fqtc` program; everything is in [`fqtc::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    fqtc::cli::main()
}
