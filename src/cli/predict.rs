//! `fqtc predict`: the class of each image.

use fqt_runtime::train;

use super::eval::Trained;
use super::failure::Failure;
use super::images;
use super::terminal::{say, table};
use crate::datasets;

/// Say which class each image belongs to.
#[derive(clap::Args)]
#[command(mut_arg("changes", |arg| arg.value_name("IMAGE.png|KEY=VALUE").help("PNG files to classify; settings to change")))]
pub(super) struct Args {
    #[command(flatten)]
    trained: Trained,
    /// Classify test images of this data set: a name from `fqtc data list`, or a folder
    #[arg(long, value_name = "NAME|DIR", default_value = datasets::BUILT_IN)]
    data: String,
    /// First test image to classify
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: usize,
    /// How many test images to classify
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
}

/// Runs the command.
pub(super) fn run(args: Args) -> Result<(), Failure> {
    let mut trained = args.trained;
    let (files, changes): (Vec<_>, Vec<_>) =
        trained.model.changes.into_iter().partition(|argument| is_image(argument));
    trained.model.changes = changes;
    let mut session = trained.session()?;
    if !files.is_empty() {
        let pixels = images::read_files(&files, session.shape())?;
        let classes = train::predict(&mut session, pixels);
        let rows: Vec<_> =
            files.into_iter().zip(classes).map(|(path, class)| vec![path, class.to_string()]).collect();
        return say(&table(&rows));
    }
    let data = images::open_for(&args.data, session.shape(), session.artifact().classes as usize)?;
    let size = data.shape.bytes();
    let end = args.from.saturating_add(args.count as usize).min(data.test.len());
    if args.from >= end {
        return Err(Failure::usage(format!(
            "`{}` has test images 0 to {}",
            data.name,
            data.test.len().saturating_sub(1)
        )));
    }
    let classes = train::predict(&mut session, data.test.images[args.from * size..end * size].to_vec());
    let mut rows = vec![["image", "predicted", "labelled"].map(String::from).to_vec()];
    for (i, class) in (args.from..end).zip(classes) {
        rows.push(vec![i.to_string(), class.to_string(), data.test.labels[i].to_string()]);
    }
    say(&table(&rows))
}

/// Whether an argument names a file rather than a setting.
fn is_image(argument: &str) -> bool {
    argument.to_ascii_lowercase().ends_with(".png") || !argument.contains('=')
}

#[cfg(test)]
mod tests {
    use super::is_image;

    #[test]
    fn images_and_settings() {
        assert!(is_image("cat.png") && is_image("a=b.PNG") && is_image("cat"));
        assert!(!is_image("optimizer.lr=0.05"));
    }
}
