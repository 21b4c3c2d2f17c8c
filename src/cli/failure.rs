//! How a command ends when it does not succeed: the message and the exit code.

use std::io;
use std::path::Path;
use std::process::ExitCode;

use super::terminal;

impl From<fqt_runtime::error::Error> for Failure {
    fn from(error: fqt_runtime::error::Error) -> Failure {
        Failure::Failed(error.message, Some(error.help))
    }
}

/// A command that did not succeed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request makes no sense as it stands (exit code 2): what is wrong, and what to do.
    Usage(String, Option<String>),
    /// The model has errors, rendered (exit code 2).
    Diagnostics(String),
    /// The compiler has an error, rendered (exit code 1): never looks like the user's.
    Internal(String),
    /// The work failed (exit code 1): what is wrong, and what to do.
    Failed(String, Option<String>),
    /// The user stopped it (exit code 130); what was saved is said already.
    Interrupted,
    /// The reader of standard output went away, such as `head`: nothing is wrong.
    OutputClosed,
}

impl Failure {
    /// A usage error without advice.
    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure::Usage(message.into(), None)
    }

    /// A failure without advice.
    pub(super) fn failed(message: impl Into<String>) -> Failure {
        Failure::Failed(message.into(), None)
    }

    /// A file that cannot be read or written.
    pub(super) fn file(path: &Path, error: &io::Error) -> Failure {
        Failure::failed(format!("{}: {error}", path.display()))
    }

    /// With advice.
    pub(super) fn help(self, help: impl Into<String>) -> Failure {
        match self {
            Failure::Usage(message, _) => Failure::Usage(message, Some(help.into())),
            Failure::Failed(message, _) => Failure::Failed(message, Some(help.into())),
            other => other,
        }
    }

    /// What is wrong, in one line.
    pub(super) fn headline(&self) -> &str {
        match self {
            Failure::Usage(text, _)
            | Failure::Failed(text, _)
            | Failure::Diagnostics(text)
            | Failure::Internal(text) => text.lines().next().unwrap_or_default(),
            Failure::Interrupted => "stopped",
            Failure::OutputClosed => "",
        }
    }

    /// Writes the message to standard error; returns the exit code.
    pub(super) fn report(self) -> ExitCode {
        let (code, message, help) = match self {
            Failure::Usage(message, help) => (2, message, help),
            Failure::Failed(message, help) => (1, message, help),
            Failure::Diagnostics(text) => {
                terminal::note(text.trim_end());
                return ExitCode::from(2);
            }
            Failure::Internal(text) => {
                terminal::note(text.trim_end());
                return ExitCode::FAILURE;
            }
            Failure::Interrupted => return ExitCode::from(130),
            Failure::OutputClosed => return ExitCode::SUCCESS,
        };
        terminal::note(&format!("error: {message}"));
        if let Some(help) = help {
            terminal::note(&format!("  help: {help}"));
        }
        ExitCode::from(code)
    }
}
