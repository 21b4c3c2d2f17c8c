//! The networks that come with the program: `models/*.fqt`, so that they can be named from any folder.

/// A model that is part of the program.
#[derive(Clone, Copy, Debug)]
pub struct Model {
    /// Its name; the file is `models/<name>.fqt`.
    pub name: &'static str,
    /// Its text; the comment at the top says what it shows.
    pub text: &'static str,
}

/// All of them, from small to large.
pub static ALL: &[Model] = &[
    Model { name: "mlp", text: include_str!("../models/mlp.fqt") },
    Model { name: "lenet5", text: include_str!("../models/lenet5.fqt") },
    Model { name: "resnet8", text: include_str!("../models/resnet8.fqt") },
    Model { name: "resnet20", text: include_str!("../models/resnet20.fqt") },
    Model { name: "plain20", text: include_str!("../models/plain20.fqt") },
    Model { name: "resnet32", text: include_str!("../models/resnet32.fqt") },
    Model { name: "vgg_small", text: include_str!("../models/vgg_small.fqt") },
    Model { name: "mobilenet_v2", text: include_str!("../models/mobilenet_v2.fqt") },
    Model { name: "resnet50", text: include_str!("../models/resnet50.fqt") },
];

/// The model of that name.
pub fn find(name: &str) -> Option<&'static Model> {
    ALL.iter().find(|model| model.name == name)
}

impl Model {
    /// What it shows: the comment at the top of its file.
    pub fn doc(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("// "));
        lines.collect::<Vec<_>>().join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_row_and_says_what_it_shows() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models");
        let entries =
            std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let files = entries.filter(|path| path.extension().is_some_and(|e| e == "fqt")).count();
        assert_eq!(files, ALL.len());
        for model in ALL {
            assert!(model.doc().ends_with('.'), "{}", model.name);
            assert!(model.text.contains(&format!("model {} {{", model.name)), "{}", model.name);
        }
    }
}
