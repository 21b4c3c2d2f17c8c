//! The folder of a run: `runs/<name>/` with the merged model, the metrics and the checkpoints.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use fqt_runtime::train::{BEST, LAST};

use super::failure::Failure;

/// Bytes of a name at most.
pub(super) const LONGEST: usize = 128;
/// Where all run folders are.
const RUNS: &str = "runs";
/// What a study notes about a run of its own.
pub(super) const CELL: &str = "cell.json";
/// The merged model in a run folder.
pub(super) const MODEL: &str = "model.fqt";

/// Every file of a run folder.
const FILES: [&str; 6] = [LAST, BEST, MODEL, "metrics.jsonl", "metrics.csv", CELL];

/// What to do about a run folder that is there already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Existing {
    /// Refuse.
    Keep,
    /// Replace its files.
    Force,
    /// Continue it; its model stays, as a checkpoint continues with no other.
    Resume,
}

/// The path of the run of that name.
pub(super) fn path(name: &str) -> Result<PathBuf, Failure> {
    let plain = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '=');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Failure::usage(format!("`{name}` cannot be the name of a run")).help(
            "give a --name of letters, digits, dashes, underscores and dots that does not begin with a dot",
        ));
    }
    if name.len() > LONGEST {
        let message = format!("`{name}` is too long for the name of a run: {} bytes", name.len());
        return Err(Failure::usage(message).help(format!("use a --name of up to {LONGEST}")));
    }
    Ok(Path::new(RUNS).join(name))
}

/// Checks, before any work, that the run may use the folder.
pub(super) fn check(folder: &Path, existing: &Existing) -> Result<(), Failure> {
    let occupied = match fs::read_dir(folder) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(Failure::file(folder, &e)),
    };
    if occupied && is_study(folder)? {
        return Err(Failure::usage(format!("`{}` is the folder of a study, not of a run", folder.display()))
            .help("choose another --name"));
    }
    if occupied && *existing == Existing::Keep {
        let saved = folder.join(LAST).is_file();
        let ways = if saved {
            "continue it with --resume, replace it"
        } else {
            "nothing of it is saved: replace it"
        };
        return Err(Failure::usage(format!("the run `{}` exists", folder.display()))
            .help(format!("{ways} with --force, or choose another --name")));
    }
    Ok(())
}

/// Whether there are runs with notes of a study in the folder, and none of its own.
fn is_study(folder: &Path) -> Result<bool, Failure> {
    if folder.join(MODEL).exists() {
        return Ok(false);
    }
    let entries = fs::read_dir(folder).map_err(|e| Failure::file(folder, &e))?;
    Ok(entries.flatten().any(|entry| entry.path().join(CELL).exists()))
}

/// Makes the folder and writes the merged model into it.
pub(super) fn prepare(folder: &Path, existing: &Existing, merged: &str) -> Result<Lock, Failure> {
    fs::create_dir_all(folder)
        .map_err(|e| Failure::file(folder, &e).help("choose a folder in which you may write"))?;
    let lock = lock(folder)?;
    if let Err(failure) = fill(folder, existing, merged) {
        discard_unused(folder);
        return Err(failure);
    }
    Ok(lock)
}

/// A replaced run loses its checkpoints first, so that the folder never holds parts of two runs.
fn fill(folder: &Path, existing: &Existing, merged: &str) -> Result<(), Failure> {
    if *existing == Existing::Force {
        for name in FILES {
            let path = folder.join(name);
            match fs::remove_file(&path) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Failure::file(&path, &e)),
                _ => {}
            }
        }
    }
    let model = folder.join(MODEL);
    if *existing == Existing::Resume && model.exists() {
        return Ok(());
    }
    Ok(fqt_runtime::durable::write(&model, merged.as_bytes())?)
}

/// Keeps other processes from training in a folder, as long as it lives.
pub(super) struct Lock {
    _folder: Option<File>,
}

/// Refuses a folder in which another process trains. Systems that cannot lock a folder leave it to their users.
fn lock(folder: &Path) -> Result<Lock, Failure> {
    let Ok(file) = File::open(folder) else { return Ok(Lock { _folder: None }) };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => {
            Err(Failure::failed(format!("another process is training in `{}`", folder.display()))
                .help("wait until it ends, or choose another --name"))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Ok(Lock { _folder: Some(file) }),
    }
}

/// Takes a run folder away in which no step was recorded and nothing is saved: a run that failed before it began.
pub(super) fn discard_unused(folder: &Path) {
    let recorded = folder.join("metrics.jsonl").metadata().is_ok_and(|meta| meta.len() > 0);
    if recorded || [LAST, BEST].iter().any(|name| folder.join(name).exists()) {
        return;
    }
    for name in FILES {
        // What cannot be removed stays; the failure that led here is what the user is told.
        let _ = fs::remove_file(folder.join(name));
    }
    for folder in folder.ancestors().take_while(|folder| !folder.as_os_str().is_empty()) {
        let _ = fs::remove_dir(folder);
    }
}

/// The last checkpoint of a run folder. The best one was chosen by the images that a run tests with.
pub(super) fn checkpoint(folder: &Path) -> Result<PathBuf, Failure> {
    let last = folder.join(LAST);
    last.is_file().then_some(last).ok_or_else(|| {
        Failure::usage(format!("`{}` holds no checkpoint", folder.display()))
            .help("name a run folder, such as runs/resnet20, or a model file with --checkpoint")
    })
}
