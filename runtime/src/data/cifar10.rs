//! CIFAR-10, binary version (A. Krizhevsky): five training files and one test file of 3073-byte records, each a label
//! and the red, green and blue planes of a 32x32 image.

use super::{Dataset, Part, Shape, Source};
use crate::error::{Error, ErrorKind, Result};
use std::io::Read;
use std::path::Path;

const SHAPE: Shape = Shape { channels: 3, height: 32, width: 32 };
const CLASSES: usize = 10;
const RECORD: usize = 1 + 3 * 32 * 32;
/// The official files hold 10,000 images each; anything much longer is something else.
const MAX_RECORDS: u64 = 1_000_000;

const TRAIN: [&str; 5] =
    ["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"];
const TEST: &str = "test_batch.bin";

/// Whether a folder holds files of CIFAR-10.
pub fn is_in(folder: &Path) -> bool {
    TRAIN.iter().chain([&TEST]).any(|name| folder.join(name).exists())
}

/// Opens the six files of a folder.
pub fn open(folder: &Path) -> Result<Dataset> {
    let mut train = empty_part(folder);
    for name in TRAIN {
        read_into(&mut train, &folder.join(name))?;
    }
    let mut test = empty_part(folder);
    read_into(&mut test, &folder.join(TEST))?;
    Ok(Dataset { name: folder.display().to_string(), shape: SHAPE, classes: CLASSES, train, test })
}

fn empty_part(folder: &Path) -> Part {
    Part { images: Vec::new(), labels: Vec::new(), source: folder.display().to_string() }
}

/// Appends the records of one file.
fn read_into(part: &mut Part, path: &Path) -> Result<()> {
    let mut source = Source::file(path)?;
    let records = source.len / RECORD as u64;
    if source.len == 0 || source.len % RECORD as u64 != 0 || records > MAX_RECORDS {
        let what = format!("has {} bytes, which is not a whole number of {RECORD}-byte images", source.len);
        let help = "the file is truncated or not from CIFAR-10's binary version: fetch it again";
        return Err(source.error(ErrorKind::WrongLength, what, help));
    }
    let mut bytes = Vec::with_capacity(source.len as usize);
    source
        .input
        .by_ref()
        .take(source.len)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io("read", path, &error))?;
    for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
        if record[0] as usize >= CLASSES {
            let what = format!(
                "is corrupt: the label of image {i} is {}, but CIFAR-10 has {CLASSES} classes",
                record[0]
            );
            return Err(source.error(ErrorKind::LabelOutOfRange, what, "fetch the data set again"));
        }
        part.labels.push(record[0]);
        part.images.extend(&record[1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write_set(folder: &Path) {
        for (i, name) in TRAIN.iter().chain([&TEST]).enumerate() {
            let record =
                |label: usize| [vec![label as u8], vec![10 * i as u8 + label as u8; RECORD - 1]].concat();
            fs::write(folder.join(name), [record(i), record(9 - i)].concat()).unwrap();
        }
    }

    #[test]
    fn the_six_files_become_one_data_set() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("cifar-10-batches-bin");
        fs::create_dir(&inner).unwrap();
        write_set(&inner);
        let data = super::super::open(folder.path()).unwrap();
        assert_eq!(data.train.labels, [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]);
        assert_eq!(data.test.labels, [5, 4]);
        assert_eq!(data.train.image(3), [18; 3072]);
        assert_eq!((data.shape, data.classes), (SHAPE, 10));
    }

    #[test]
    fn broken_files_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let fails = |name: &str, bytes: &[u8]| {
            write_set(folder.path());
            fs::write(folder.path().join(name), bytes).unwrap();
            let error = open(folder.path()).unwrap_err();
            assert!(error.message.contains(name), "{error}");
            error.kind
        };
        assert_eq!(fails("data_batch_3.bin", b""), ErrorKind::WrongLength);
        assert_eq!(fails("test_batch.bin", &[0; RECORD + 1]), ErrorKind::WrongLength);
        assert_eq!(fails("data_batch_5.bin", &[10; RECORD]), ErrorKind::LabelOutOfRange);
        write_set(folder.path());
        fs::remove_file(folder.path().join("data_batch_2.bin")).unwrap();
        assert_eq!(open(folder.path()).unwrap_err().kind, ErrorKind::Missing);
        fs::create_dir(folder.path().join("data_batch_2.bin")).unwrap();
        assert_eq!(open(folder.path()).unwrap_err().kind, ErrorKind::Unsuitable);
    }
}
