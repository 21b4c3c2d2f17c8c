//! IDX files: MNIST, Fashion-MNIST and their relatives, plain or gzipped.
//!
//! Format (Y. LeCun's MNIST page): two zero bytes, the element type (8 for bytes), the number of dimensions, the
//! dimensions as big-endian u32, then the data. Gzip is recognized by its first bytes, not by the file's name.
//! Nothing is allocated on the word of a header: its size must agree with the file's length, or, compressed, be within
//! what deflate can expand (a factor of 1032).

use super::{Dataset, Part, Shape, Source};
use crate::error::{Error, ErrorKind, Result};
use flate2::read::GzDecoder;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// The largest ratio by which deflate can expand.
const MAX_EXPANSION: u64 = 1032;

/// The usual names: `{}` is `train` or `t10k`.
const IMAGES: [&str; 2] = ["{}-images-idx3-ubyte", "{}-images.idx3-ubyte"];
const LABELS: [&str; 2] = ["{}-labels-idx1-ubyte", "{}-labels.idx1-ubyte"];

/// Whether a folder holds training images in IDX form.
pub fn is_in(folder: &Path) -> bool {
    locate(folder, &IMAGES, "train").exists()
}

/// Opens the four files of a folder.
pub fn open(folder: &Path) -> Result<Dataset> {
    let file = |names, part| Source::file(&locate(folder, names, part));
    dataset(
        &folder.display().to_string(),
        [file(&IMAGES, "train")?, file(&LABELS, "train")?],
        [file(&IMAGES, "t10k")?, file(&LABELS, "t10k")?],
    )
}

/// The first of the usual names that exists, else the canonical one.
fn locate(folder: &Path, names: &[&str], part: &str) -> PathBuf {
    let name = |pattern: &str, end: &str| folder.join(pattern.replace("{}", part) + end);
    let candidates = names.iter().flat_map(|pattern| [name(pattern, ""), name(pattern, ".gz")]);
    candidates.into_iter().find(|path| path.exists()).unwrap_or_else(|| name(names[0], ""))
}

/// A data set from images and labels for training and for testing. It has as many classes as the training labels say.
pub fn dataset(name: &str, train: [Source; 2], test: [Source; 2]) -> Result<Dataset> {
    let (shape, train) = part(train)?;
    let test_name = test[0].name.clone();
    let (test_shape, test) = part(test)?;
    if test_shape != shape {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("`{test_name}` holds images of {test_shape}, but the training images are {shape}"),
            "use the training and test files of the same data set",
        ));
    }
    let classes = train.labels.iter().max().map_or(0, |&label| label as usize + 1);
    test.check_labels(classes, "the training labels have")?;
    Ok(Dataset { name: name.into(), shape, classes, train, test })
}

fn part([images, labels]: [Source; 2]) -> Result<(Shape, Part)> {
    let (images_name, source) = (images.name.clone(), labels.name.clone());
    let ([n, height, width], images) = read::<3>(images)?;
    let ([n_labels], labels) = read::<1>(labels)?;
    if n != n_labels {
        return Err(Error::new(
            ErrorKind::Mismatch,
            format!("`{images_name}` holds {n} images, but `{source}` holds {n_labels} labels"),
            "use the image and label files of the same data set",
        ));
    }
    Ok((Shape { channels: 1, height, width }, Part { images, labels, source }))
}

/// Dimensions and data of an IDX file of bytes with `N` dimensions, none of them zero.
fn read<const N: usize>(mut source: Source) -> Result<([usize; N], Vec<u8>)> {
    if source.len == 0 {
        return Err(source.error(ErrorKind::Unsuitable, "is empty", "fetch the data set again"));
    }
    let mut start = Vec::new();
    let input = std::mem::replace(&mut source.input, Box::new(io::empty()));
    let mut input = input;
    input.by_ref().take(2).read_to_end(&mut start).map_err(|error| read_error(&source, &error))?;
    let gzipped = start == [0x1f, 0x8b];
    let input = io::Cursor::new(start).chain(input);
    let mut input: Box<dyn Read> = if gzipped { Box::new(GzDecoder::new(input)) } else { Box::new(input) };

    let mut magic = [0; 4];
    input.read_exact(&mut magic).map_err(|error| read_error(&source, &error))?;
    if magic != [0, 0, 8, N as u8] {
        return Err(source.error(
            ErrorKind::Unsuitable,
            format!("is not an IDX file of bytes in {N} dimension{}", if N == 1 { "" } else { "s" }),
            "expected are the original files of MNIST or Fashion-MNIST, plain or gzipped",
        ));
    }
    let mut extents = [0; N];
    for extent in &mut extents {
        let mut bytes = [0; 4];
        input.read_exact(&mut bytes).map_err(|error| read_error(&source, &error))?;
        *extent = u32::from_be_bytes(bytes) as usize;
    }
    let bytes = check_extents(&source, &extents, gzipped)?;
    let mut data = Vec::new();
    data.try_reserve_exact(bytes as usize).map_err(|_| {
        let message = format!("promises {bytes} bytes, which do not fit into memory");
        source.error(ErrorKind::Resources, message, "check that this is the file of a data set")
    })?;
    input.take(bytes + 1).read_to_end(&mut data).map_err(|error| read_error(&source, &error))?;
    if data.len() as u64 != bytes {
        return Err(wrong_length(&source, &extents));
    }
    Ok((extents, data))
}

/// Bytes of data that the header promises, if the file can hold them.
fn check_extents(source: &Source, extents: &[usize], gzipped: bool) -> Result<u64> {
    if extents.contains(&0) {
        return Err(source.error(ErrorKind::Unsuitable, "holds no data", "fetch the data set again"));
    }
    let bytes = extents.iter().try_fold(1u64, |product, &n| product.checked_mul(n as u64));
    let header = 4 + 4 * extents.len() as u64;
    let possible = match bytes {
        None => false,
        Some(bytes) if gzipped => bytes <= source.len.saturating_mul(MAX_EXPANSION),
        Some(bytes) => bytes.checked_add(header) == Some(source.len),
    };
    bytes.filter(|_| possible).ok_or_else(|| wrong_length(source, extents))
}

fn wrong_length(source: &Source, extents: &[usize]) -> Error {
    let extents = extents.iter().map(usize::to_string).collect::<Vec<_>>().join("x");
    source.error(
        ErrorKind::WrongLength,
        format!("({} bytes) does not hold the {extents} bytes that its header says", source.len),
        "the file is truncated or corrupt: fetch it again",
    )
}

/// The compressed stream and the plain file fail in the same few ways.
fn read_error(source: &Source, error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            source.error(ErrorKind::WrongLength, "ends too early", "the file is truncated: fetch it again")
        }
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => source.error(
            ErrorKind::Corrupt,
            "is corrupt: its compressed data does not decode",
            "fetch it again",
        ),
        _ => Error::io("read", Path::new(&source.name), error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write;

    fn idx(extents: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, extents.len() as u8];
        extents.iter().for_each(|n| bytes.extend(n.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn images(bytes: &[u8]) -> Result<([usize; 3], Vec<u8>)> {
        read::<3>(Source::bytes("file", bytes))
    }

    fn kind(bytes: &[u8]) -> ErrorKind {
        images(bytes).unwrap_err().kind
    }

    #[test]
    fn plain_and_gzipped_files_read_the_same() {
        let data: Vec<u8> = (0..24).collect();
        let plain = idx(&[2, 3, 4], &data);
        assert_eq!(images(&plain).unwrap(), ([2, 3, 4], data.clone()));
        assert_eq!(images(&gz(&plain)).unwrap(), ([2, 3, 4], data));
    }

    #[test]
    fn broken_files_are_errors() {
        let plain = idx(&[2, 3, 4], &[7; 24]);
        let zipped = gz(&plain);
        assert_eq!(kind(b""), ErrorKind::Unsuitable);
        assert_eq!(kind(b"junk junk junk"), ErrorKind::Unsuitable);
        assert_eq!(kind(&idx(&[24], &[7; 24])), ErrorKind::Unsuitable);
        assert_eq!(kind(&idx(&[0, 3, 4], &[])), ErrorKind::Unsuitable);
        for cut in [1, 3, 6, 15, 30] {
            assert_eq!(kind(&plain[..cut]), ErrorKind::WrongLength, "{cut}");
        }
        assert_eq!(kind(&[&plain[..], &[0]].concat()), ErrorKind::WrongLength);
        for cut in 2..zipped.len() {
            assert_eq!(kind(&zipped[..cut]), ErrorKind::WrongLength, "{cut}");
        }
        let mut corrupt = zipped.clone();
        let crc = corrupt.len() - 8;
        corrupt[crc] ^= 1;
        assert_eq!(kind(&corrupt), ErrorKind::Corrupt);
        assert_eq!(kind(&gz(&idx(&[2, 3, 4], &[7; 25]))), ErrorKind::WrongLength);
        assert_eq!(kind(&gz(&idx(&[2, 3, 4], &[7; 23]))), ErrorKind::WrongLength);
    }

    #[test]
    fn a_header_alone_allocates_nothing() {
        assert_eq!(kind(&idx(&[u32::MAX; 3], &[])), ErrorKind::WrongLength);
        assert_eq!(kind(&gz(&idx(&[u32::MAX; 3], &[]))), ErrorKind::WrongLength);
        assert_eq!(kind(&gz(&idx(&[60000, 1000, 1000], &[]))), ErrorKind::WrongLength);
    }

    fn write_set(folder: &Path, test_labels: &[u8]) {
        let write = |name: &str, bytes: Vec<u8>| std::fs::write(folder.join(name), bytes).unwrap();
        write("train-images-idx3-ubyte", idx(&[3, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]));
        write("train-labels-idx1-ubyte.gz", gz(&idx(&[3], &[0, 4, 2])));
        write("t10k-images-idx3-ubyte.gz", gz(&idx(&[1, 2, 2], &[9; 4])));
        write("t10k-labels.idx1-ubyte", idx(&[test_labels.len() as u32], test_labels));
    }

    #[test]
    fn a_folder_opens_under_the_usual_names() {
        let folder = tempfile::tempdir().unwrap();
        let raw = folder.path().join("MNIST/raw");
        std::fs::create_dir_all(&raw).unwrap();
        write_set(&raw, &[3]);
        let data = super::super::open(folder.path()).unwrap();
        assert_eq!(data.shape, Shape { channels: 1, height: 2, width: 2 });
        assert_eq!(
            (data.classes, data.train.labels.as_slice(), data.train.image(1)),
            (5, &[0, 4, 2][..], &[5, 6, 7, 8][..])
        );
        assert_eq!((data.test.len(), data.test.labels[0]), (1, 3));
    }

    #[test]
    fn parts_that_do_not_belong_together_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        write_set(folder.path(), &[5]);
        let error = open(folder.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::LabelOutOfRange);
        assert!(error.message.contains("the label of image 0 is 5"), "{error}");
        write_set(folder.path(), &[1, 2]);
        let error = open(folder.path()).unwrap_err();
        assert!(
            error.message.contains("holds 1 images") && error.message.contains("holds 2 labels"),
            "{error}"
        );
        std::fs::remove_file(folder.path().join("t10k-labels.idx1-ubyte")).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(
            error.kind == ErrorKind::Missing && error.message.contains("t10k-labels-idx1-ubyte"),
            "{error}"
        );
    }
}
