//! Images for a run: the data set that `--data` means, fitted to the model; and single image files.

use std::io::Cursor;
use std::path::Path;

use fqt_runtime::data::{self, Dataset, Part, Shape, Source, idx};
use image::imageops::FilterType;
use image::{ImageFormat, ImageReader};

use super::data::unknown;
use super::failure::Failure;
use super::terminal::note;
use crate::datasets::{self, LocateError, Location, SAMPLE};

/// The images of a run.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Images {
    /// Images to learn: a name from `fqtc data list`, or a folder
    #[arg(long, value_name = "NAME|DIR", default_value = datasets::BUILT_IN)]
    pub(super) data: String,
    /// Hold the last N training images out and test on them: to choose settings without looking at the test images
    #[arg(long, value_name = "N")]
    pub(super) validation: Option<u32>,
}

impl Images {
    /// Opens the data set, fitted to a model, saying so if anything had to be done.
    pub(super) fn open_for(&self, shape: Shape, classes: usize) -> Result<Dataset, Failure> {
        let data = open_for(&self.data, shape, classes)?;
        Ok(match self.validation {
            Some(n) => data.validate_on(n as usize)?,
            None => data,
        })
    }

    /// Names what is in the data set, whatever it is called.
    pub(super) fn contents(&self) -> Result<String, Failure> {
        Ok(open(&self.data)?.fingerprint())
    }

    /// What results are measured on: the word before `accuracy`.
    pub(super) fn measured(&self) -> &'static str {
        if self.validation.is_some() { "validation" } else { "test" }
    }
}

/// The data set that a name or path means.
pub(super) fn open(name_or_path: &str) -> Result<Dataset, Failure> {
    match datasets::locate(name_or_path, &datasets::root()) {
        Ok(Location::BuiltIn) => Ok(built_in()?),
        Ok(Location::Folder(folder)) => Ok(data::open(&folder)?),
        Err(LocateError::NotFetched(name, folder)) => Err(Failure::failed(format!(
            "`{name}` is not on this machine: there is no folder `{}`",
            folder.display()
        ))
        .help(format!(
            "fetch it with `fqtc data fetch {name}`, or say where data sets are with {}",
            datasets::ROOT_VARIABLE
        ))),
        Err(LocateError::NotAFolder(path)) => {
            Err(Failure::usage(format!("`{}` is a file, but a data set is a folder", path.display()))
                .help("name the folder that holds the files of the data set"))
        }
        Err(LocateError::Unknown(name)) if name.contains(std::path::MAIN_SEPARATOR) => {
            Err(Failure::usage(format!("there is no folder `{name}`")).help("check the path"))
        }
        Err(LocateError::Unknown(name)) => Err(unknown(&name)),
    }
}

/// Opens a data set and fits its images to a model, saying so if anything had to be done.
pub(super) fn open_for(name_or_path: &str, shape: Shape, classes: usize) -> Result<Dataset, Failure> {
    let (data, change) = data::adapt(open(name_or_path)?, shape, classes)?;
    if let Some(change) = change {
        note(&format!("data: {}: {change}", data.name));
    }
    Ok(data)
}

fn built_in() -> fqt_runtime::error::Result<Dataset> {
    let source = |name, bytes| Source::bytes(name, bytes);
    idx::dataset(
        "built-in sample of Fashion-MNIST",
        [
            source("built-in training images", SAMPLE.train_images),
            source("built-in training labels", SAMPLE.train_labels),
        ],
        [
            source("built-in test images", SAMPLE.test_images),
            source("built-in test labels", SAMPLE.test_labels),
        ],
    )
}

/// Reads PNG files as planar images of a model's shape; those of another size are scaled and cropped centrally.
pub(super) fn read_files(paths: &[impl AsRef<Path>], shape: Shape) -> Result<Vec<u8>, Failure> {
    let mut pixels = Vec::with_capacity(paths.len() * shape.bytes());
    for path in paths {
        pixels.extend(read_file(path.as_ref(), shape)?);
    }
    Ok(pixels)
}

fn read_file(path: &Path, shape: Shape) -> Result<Vec<u8>, Failure> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|e| Failure::file(path, &e))?;
    // Its limits keep a small file from becoming a huge image.
    let reader = ImageReader::with_format(Cursor::new(&bytes), ImageFormat::Png);
    let image = reader.decode().map_err(|e| {
        Failure::failed(format!("cannot read `{name}` as an image: {e}")).help("images must be PNG files")
    })?;
    let (width, height) = (shape.width as u32, shape.height as u32);
    let image = if (image.width(), image.height()) == (width, height) {
        image
    } else {
        note(&format!("{name}: {}x{} is scaled to {height}x{width}", image.height(), image.width()));
        let (cut_width, cut_height) = cut((image.width(), image.height()), (width, height));
        let (x, y) = ((image.width() - cut_width) / 2, (image.height() - cut_height) / 2);
        image.crop_imm(x, y, cut_width, cut_height).resize_exact(width, height, FilterType::Triangle)
    };
    match shape.channels {
        1 => Ok(image.into_luma8().into_raw()),
        3 => {
            let interleaved = image.into_rgb8().into_raw();
            Ok((0..3).flat_map(|channel| interleaved.iter().skip(channel).step_by(3).copied()).collect())
        }
        n => Err(Failure::failed(format!(
            "the model takes images of {n} channels, but a PNG file gives 1 or 3"
        ))),
    }
}

/// The size of the largest part of an image that has the proportions of another size, as near as pixels allow. Cut before
/// it is scaled, an image of any proportions needs no more memory than it has.
fn cut((width, height): (u32, u32), (to_width, to_height): (u32, u32)) -> (u32, u32) {
    let scaled = |x: u32, by: u32, over: u32| (u64::from(x) * u64::from(by) / u64::from(over.max(1))) as u32;
    let (fit_width, fit_height) = (scaled(height, to_width, to_height), scaled(width, to_height, to_width));
    (fit_width.clamp(1, width.max(1)), fit_height.clamp(1, height.max(1)))
}

/// Lines about a data set: parts, shape, classes, mean pixel.
pub(super) fn describe(data: &Dataset) -> String {
    let counts = |part: &Part| {
        let mut counts = vec![0u64; data.classes];
        for &label in &part.labels {
            counts[usize::from(label)] += 1;
        }
        let (least, most) =
            (counts.iter().min().copied().unwrap_or(0), counts.iter().max().copied().unwrap_or(0));
        format!("{} images, {least} to {most} of a class", part.len())
    };
    let mean: Vec<String> = data.mean_pixel().iter().map(u8::to_string).collect();
    format!(
        "{}\nimages    {} of 8 bits, {} classes\ntraining  {}\ntest      {}\nmean      pixel {}",
        data.name,
        data.shape,
        data.classes,
        counts(&data.train),
        counts(&data.test),
        mean.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_has_the_proportions_of_the_target() {
        assert_eq!(cut((100, 60), (32, 32)), (60, 60));
        assert_eq!(cut((60, 100), (28, 14)), (60, 30));
        assert_eq!(cut((1, 2_000_000), (28, 28)), (1, 1));
        assert_eq!(cut((u32::MAX, 3), (28, 28)), (3, 3));
        assert_eq!(cut((5, 5), (1, 1000)), (1, 5));
    }
}
