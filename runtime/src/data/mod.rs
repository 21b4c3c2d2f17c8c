//! Labelled images: reading them from the folders people have, and fitting them to a model.
//!
//! One file per format. Everything is checked when a data set is opened (lengths, labels), so that the training loop
//! meets no surprise. Images are kept as the file's own 8-bit pixels, planar: `[n][channel][row][column]`.

pub mod cifar10;
pub mod idx;

use crate::error::{Error, ErrorKind, Result};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Shape of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Channels: 1 grey, 3 colour (red, green, blue).
    pub channels: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Shape {
    /// Bytes of one image.
    pub fn bytes(&self) -> usize {
        self.channels * self.height * self.width
    }
}

/// `32x32x3`, as in model files.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// Images with their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Pixels of all images, planar.
    pub images: Vec<u8>,
    /// The class of each image.
    pub labels: Vec<u8>,
    /// Where the labels came from, for messages.
    pub source: String,
}

impl Part {
    /// Images.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are no images.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// The pixels of one image.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.images.len() / self.labels.len();
        &self.images[index * bytes..][..bytes]
    }

    /// An error if a label is not below `classes`; `owner` says whose classes these are.
    fn check_labels(&self, classes: usize, owner: &str) -> Result<()> {
        match self.labels.iter().position(|&label| label as usize >= classes) {
            None => Ok(()),
            Some(index) => Err(Error::new(
                ErrorKind::LabelOutOfRange,
                format!(
                    "`{}`: the label of image {index} is {}, but {owner} {classes} classes (0 to {})",
                    self.source,
                    self.labels[index],
                    classes.saturating_sub(1)
                ),
                "use a model with as many classes as the data has, or check that the file is intact",
            )),
        }
    }
}

/// A data set: training and test images of one shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// What it is and where it came from, for messages.
    pub name: String,
    /// Shape of every image.
    pub shape: Shape,
    /// Classes: every label is below.
    pub classes: usize,
    /// What to learn from.
    pub train: Part,
    /// What to measure on.
    pub test: Part,
}

impl Dataset {
    /// The mean of each channel over the training images, rounded to the nearest integer.
    pub fn mean_pixel(&self) -> Vec<u8> {
        let plane = self.shape.height * self.shape.width;
        let mut sums = vec![0u64; self.shape.channels];
        for (i, pixels) in self.train.images.chunks_exact(plane).enumerate() {
            sums[i % self.shape.channels] += pixels.iter().map(|&x| x as u64).sum::<u64>();
        }
        let n = (self.train.len() * plane) as u64;
        sums.iter().map(|sum| ((sum + n / 2) / n) as u8).collect()
    }

    /// Holds the last `n` training images out of training, in the place of the test images: to compare settings on, so
    /// that the test images are seen by none of them.
    pub fn validate_on(self, n: usize) -> Result<Dataset> {
        let Some(kept) = self.train.len().checked_sub(n).filter(|&kept| kept > 0 && n > 0) else {
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("`{}` has {} training images: {n} cannot be held out", self.name, self.train.len()),
                "hold out at least one image, and fewer than there are",
            ));
        };
        let Part { mut images, mut labels, source } = self.train;
        let test = Part {
            images: images.split_off(kept * self.shape.bytes()),
            labels: labels.split_off(kept),
            source: source.clone(),
        };
        Ok(Dataset { train: Part { images, labels, source }, test, ..self })
    }

    /// A hash of all images and labels: runs continue only on the data they began with, and are only compared on the same.
    pub fn fingerprint(&self) -> String {
        let mut hash = blake3::Hasher::new();
        hash.update(self.shape.to_string().as_bytes());
        for part in [&self.train, &self.test] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(&part.labels);
            hash.update(&part.images);
        }
        hash.finalize().to_hex().to_string()
    }
}

/// Opens whatever data set a folder holds: CIFAR-10 binary or IDX files (MNIST and its relatives), also in the
/// subfolders that common tools make.
pub fn open(path: &Path) -> Result<Dataset> {
    let metadata = path.metadata().map_err(|error| Error::io("read", path, &error))?;
    if !metadata.is_dir() {
        return Err(Error::new(
            ErrorKind::Unsuitable,
            format!("`{}` is a file, but a data set is a folder", path.display()),
            "name the folder that holds the files of the data set",
        ));
    }
    let below = ["cifar-10-batches-bin", "MNIST/raw", "FashionMNIST/raw", "raw"].map(|sub| path.join(sub));
    for folder in std::iter::once(path.to_path_buf()).chain(below) {
        if cifar10::is_in(&folder) {
            return cifar10::open(&folder);
        }
        if idx::is_in(&folder) {
            return idx::open(&folder);
        }
    }
    Err(unrecognized(path))
}

/// What to say about a folder without a known data set.
fn unrecognized(path: &Path) -> Error {
    let has = |name: &str| path.join(name).exists();
    let help = if has("data_batch_1") || has("cifar-10-batches-py") {
        "these are the Python files of CIFAR-10; use the binary version (`cifar-10-batches-bin`)"
    } else if has("cifar-10-binary.tar.gz") {
        "unpack `cifar-10-binary.tar.gz` there first"
    } else {
        "a data set is a folder with `data_batch_1.bin` and the other files of CIFAR-10's binary version, or with \
         `train-images-idx3-ubyte[.gz]` and the other three IDX files of MNIST or Fashion-MNIST"
    };
    Error::new(
        ErrorKind::Unsuitable,
        format!("`{}` holds no data set that is known here", path.display()),
        help,
    )
}

/// Fits a data set to a model: grey repeated to colour or colour made grey, padded centrally with zeros or cropped
/// centrally. The sentence says what was done, if anything was.
pub fn adapt(data: Dataset, shape: Shape, classes: usize) -> Result<(Dataset, Option<String>)> {
    for part in [&data.train, &data.test] {
        part.check_labels(classes, "the model has")?;
    }
    if data.shape == shape {
        return Ok((data, None));
    }
    let from = data.shape;
    let mut steps = Vec::new();
    match (from.channels, shape.channels) {
        (a, b) if a == b => {}
        (1, n) => steps.push(format!("grey is repeated to {n} channels")),
        (3, 1) => steps.push("colour is made grey".to_owned()),
        (a, b) => {
            return Err(Error::new(
                ErrorKind::Mismatch,
                format!("images of `{}` have {a} channels, but the model takes {b}", data.name),
                "use a model whose input has as many channels, or data with 1 or 3 channels",
            ));
        }
    }
    if (from.height, from.width) != (shape.height, shape.width) {
        let verb = match (from.height <= shape.height, from.width <= shape.width) {
            (true, true) => "padded with zeros",
            (false, false) => "cropped",
            _ => "padded with zeros and cropped",
        };
        let (h, w, to_h, to_w) = (from.height, from.width, shape.height, shape.width);
        steps.push(format!("{h}x{w} images are {verb} centrally to {to_h}x{to_w}"));
    }
    let sentence = format!("to fit the model's input, {}", steps.join(", and "));
    let refit = |part: Part| Ok(Part { images: refit_images(&part.images, from, shape)?, ..part });
    let (train, test) = (refit(data.train)?, refit(data.test)?);
    Ok((Dataset { shape, train, test, ..data }, Some(sentence)))
}

fn refit_images(images: &[u8], from: Shape, to: Shape) -> Result<Vec<u8>> {
    let count = images.len() / from.bytes();
    let mut out = Vec::new();
    // Small images of a large set may not fit into memory once they are as large as the model wants them.
    let bytes = count.checked_mul(to.bytes()).filter(|&bytes| out.try_reserve_exact(bytes).is_ok());
    let bytes = bytes.ok_or_else(|| {
        Error::new(
            ErrorKind::Resources,
            format!("{count} images of {}x{}x{} do not fit into memory", to.height, to.width, to.channels),
            "use a model with a smaller input, or data with fewer images",
        )
    })?;
    out.resize(bytes, 0);
    for (image, target) in images.chunks_exact(from.bytes()).zip(out.chunks_exact_mut(to.bytes())) {
        let planes = image.chunks_exact(from.height * from.width);
        let targets = target.chunks_exact_mut(to.height * to.width);
        if from.channels == 3 && to.channels == 1 {
            let grey = grey(image);
            targets.for_each(|target| place(&grey, target, from, to));
        } else {
            targets.zip(planes.cycle()).for_each(|(target, plane)| place(plane, target, from, to));
        }
    }
    Ok(out)
}

/// Luma of ITU-R BT.601, in 256ths.
fn grey(image: &[u8]) -> Vec<u8> {
    let n = image.len() / 3;
    (0..n)
        .map(|i| {
            let [r, g, b] = [image[i], image[n + i], image[2 * n + i]].map(u32::from);
            ((77 * r + 150 * g + 29 * b + 128) >> 8) as u8
        })
        .collect()
}

/// Copies the part of a plane that the centred target covers.
fn place(plane: &[u8], target: &mut [u8], from: Shape, to: Shape) {
    let (rows, columns) = (from.height.min(to.height), from.width.min(to.width));
    let centre = |outer: usize, inner: usize| (outer - inner) / 2;
    for row in 0..rows {
        let source = (centre(from.height, rows) + row) * from.width + centre(from.width, columns);
        let sink = (centre(to.height, rows) + row) * to.width + centre(to.width, columns);
        target[sink..sink + columns].copy_from_slice(&plane[source..source + columns]);
    }
}

/// A file to read, or bytes that stand for one.
pub struct Source<'a> {
    /// For messages.
    name: String,
    input: Box<dyn Read + 'a>,
    len: u64,
}

impl<'a> Source<'a> {
    /// A file.
    pub fn file(path: &Path) -> Result<Source<'static>> {
        let failure = |error| Error::io("read", path, &error);
        let file = File::open(path).map_err(failure)?;
        let metadata = file.metadata().map_err(failure)?;
        if metadata.is_dir() {
            return Err(failure(std::io::ErrorKind::IsADirectory.into()));
        }
        Ok(Source { name: path.display().to_string(), input: Box::new(file), len: metadata.len() })
    }

    /// Bytes under a name.
    pub fn bytes(name: &str, bytes: &'a [u8]) -> Source<'a> {
        Source { name: name.into(), input: Box::new(bytes), len: bytes.len() as u64 }
    }

    /// An error about this file.
    fn error(&self, kind: ErrorKind, what: impl fmt::Display, help: &str) -> Error {
        Error::new(kind, format!("`{}` {what}", self.name), help)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(shape: Shape, n: usize) -> Dataset {
        let images: Vec<u8> = (0..n * shape.bytes()).map(|i| (i % 251) as u8).collect();
        let part = Part { images, labels: (0..n).map(|i| (i % 3) as u8).collect(), source: "labels".into() };
        Dataset { name: "made".into(), shape, classes: 3, train: part.clone(), test: part }
    }

    fn shape(height: usize, width: usize, channels: usize) -> Shape {
        Shape { channels, height, width }
    }

    #[test]
    fn a_data_set_that_fits_is_left_alone() {
        let data = dataset(shape(4, 5, 1), 3);
        let (same, sentence) = adapt(data.clone(), shape(4, 5, 1), 3).unwrap();
        assert_eq!((same, sentence), (data, None));
    }

    #[test]
    fn small_grey_images_become_colour_in_a_frame() {
        let data = dataset(shape(2, 2, 1), 2);
        let (out, sentence) = adapt(data, shape(4, 5, 3), 10).unwrap();
        let plane =
            [0, 0, 0, 0, 0, /**/ 0, 4, 5, 0, 0, /**/ 0, 6, 7, 0, 0, /**/ 0, 0, 0, 0, 0];
        assert_eq!(out.train.image(1), [plane, plane, plane].concat());
        assert_eq!(
            sentence.unwrap(),
            "to fit the model's input, grey is repeated to 3 channels, and 2x2 images are padded with zeros centrally to 4x5"
        );
    }

    #[test]
    fn large_colour_images_are_cropped_and_made_grey() {
        let mut data = dataset(shape(3, 4, 3), 1);
        data.train.images = (0..36).map(|i| if i < 12 { 200 } else { (i % 12) as u8 }).collect();
        let (out, sentence) = adapt(data, shape(1, 2, 1), 3).unwrap();
        let luma = |x: u32| ((77 * 200 + 150 * x + 29 * x + 128) / 256) as u8;
        assert_eq!(out.train.images, [luma(5), luma(6)]);
        assert_eq!(
            sentence.unwrap(),
            "to fit the model's input, colour is made grey, and 3x4 images are cropped centrally to 1x2"
        );
    }

    #[test]
    fn what_cannot_fit_is_an_error() {
        let channels = adapt(dataset(shape(2, 2, 3), 1), shape(2, 2, 4), 3).unwrap_err();
        assert_eq!(channels.kind, ErrorKind::Mismatch);
        let classes = adapt(dataset(shape(2, 2, 1), 3), shape(2, 2, 1), 2).unwrap_err();
        assert_eq!(
            classes.message,
            "`labels`: the label of image 2 is 2, but the model has 2 classes (0 to 1)"
        );
    }

    #[test]
    fn validation_holds_the_last_training_images_out() {
        let data = dataset(shape(2, 2, 1), 5);
        let split = data.clone().validate_on(2).unwrap();
        assert_eq!((split.train.len(), split.test.len()), (3, 2));
        for i in 0..5 {
            let (part, at) = if i < 3 { (&split.train, i) } else { (&split.test, i - 3) };
            assert_eq!((part.image(at), part.labels[at]), (data.train.image(i), data.train.labels[i]));
        }
        assert_ne!(split.fingerprint(), data.fingerprint());
        for n in [0, 5, 6] {
            assert_eq!(data.clone().validate_on(n).unwrap_err().kind, ErrorKind::Mismatch);
        }
    }

    #[test]
    fn mean_pixels_are_rounded_to_nearest() {
        let mut data = dataset(shape(1, 2, 2), 2);
        data.train.images = vec![1, 2, 255, 255, 2, 2, 255, 254];
        assert_eq!(data.mean_pixel(), [2, 255]);
        data.train.images = vec![1, 1, 0, 1, 2, 1, 0, 0];
        assert_eq!(data.mean_pixel(), [1, 0]);
    }

    #[test]
    fn the_fingerprint_sees_pixels_and_labels() {
        let data = dataset(shape(2, 2, 1), 2);
        let (mut pixel, mut label) = (data.clone(), data.clone());
        pixel.train.images[3] ^= 1;
        label.train.labels[1] ^= 1;
        assert_eq!(data.fingerprint(), data.clone().fingerprint());
        assert_ne!(data.fingerprint(), pixel.fingerprint());
        assert_ne!(data.fingerprint(), label.fingerprint());
    }

    #[test]
    fn folders_without_data_say_what_is_expected() {
        let folder = tempfile::tempdir().unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(error.kind == ErrorKind::Unsuitable && error.help.contains("train-images-idx3-ubyte"));
        std::fs::create_dir(folder.path().join("cifar-10-batches-py")).unwrap();
        assert!(open(folder.path()).unwrap_err().help.contains("binary version"));
        let file = folder.path().join("file");
        std::fs::write(&file, "x").unwrap();
        assert!(open(&file).unwrap_err().message.contains("is a file"));
        assert_eq!(open(&folder.path().join("nothing")).unwrap_err().kind, ErrorKind::Missing);
    }
}
