//! Errors: what is wrong, and what to do about it.

use std::fmt;
use std::io;
use std::path::Path;

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A file or folder that does not exist.
    Missing,
    /// Something that exists, but is not what is needed (a folder for a file, another format, an empty file).
    Unsuitable,
    /// A file that ends too early or goes on too long.
    WrongLength,
    /// Contents that contradict themselves.
    Corrupt,
    /// A label that is not a class.
    LabelOutOfRange,
    /// Two things that do not belong together: data and model, checkpoint and model.
    Mismatch,
    /// Reading or writing failed.
    Io,
    /// Memory or threads could not be had.
    Resources,
    /// Training left the range where it makes sense.
    Diverged,
}

/// An error with a way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The sort of error.
    pub kind: ErrorKind,
    /// What is wrong, with the place.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Error {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>, help: impl Into<String>) -> Error {
        Error { kind, message: message.into(), help: help.into() }
    }

    /// A failed access to a path: `doing` is "read", "write", …
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Error {
        let path = path.display();
        match error.kind() {
            io::ErrorKind::NotFound => Error::new(
                ErrorKind::Missing,
                format!("cannot {doing} `{path}`: there is no such file or folder"),
                "check the spelling of the path",
            ),
            io::ErrorKind::IsADirectory => Error::new(
                ErrorKind::Unsuitable,
                format!("cannot {doing} `{path}`: it is a folder"),
                "name a file instead",
            ),
            io::ErrorKind::StorageFull => Error::new(
                ErrorKind::Io,
                format!("cannot {doing} `{path}`: the disk is full"),
                "free some space; what was there before is unchanged",
            ),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Error::new(
                ErrorKind::Io,
                format!("cannot {doing} `{path}`: {error}"),
                "check the permissions, or choose another folder",
            ),
            _ => Error::new(
                ErrorKind::Io,
                format!("cannot {doing} `{path}`: {error}"),
                "check the path and the disk",
            ),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

/// The result of a fallible function of the runtime.
pub type Result<T> = std::result::Result<T, Error>;
