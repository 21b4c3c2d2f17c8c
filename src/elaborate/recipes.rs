//! Recipes that are built into the compiler: `models/recipes/*.fqt`.

use crate::syntax;
use crate::syntax::ast::Recipe;

/// A built-in recipe.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// Its name.
    pub name: &'static str,
    /// Its text; the comment at the top says what it is.
    pub text: &'static str,
}

static ALL: &[BuiltIn] = &[
    BuiltIn { name: "bn_plain", text: include_str!("../../models/recipes/bn_plain.fqt") },
    BuiltIn { name: "bn_rectified", text: include_str!("../../models/recipes/bn_rectified.fqt") },
    BuiltIn { name: "plain", text: include_str!("../../models/recipes/plain.fqt") },
];

/// All built-in recipes, by name.
pub fn built_in() -> &'static [BuiltIn] {
    ALL
}

impl BuiltIn {
    /// What it is: the comment at the top of its file.
    pub fn doc(&self) -> String {
        let lines = self.text.lines().map_while(|line| line.strip_prefix("// "));
        lines.collect::<Vec<_>>().join(" ")
    }

    /// Its syntax.
    pub(super) fn recipe(&self) -> Recipe {
        let file = syntax::built_in(self.text).expect("a test parses every built-in recipe");
        file.recipes.into_iter().next().expect("a test finds a recipe in every file")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_its_recipe_and_its_row() {
        for row in ALL {
            let file = syntax::built_in(row.text).unwrap_or_else(|e| panic!("{}: {e:?}", row.name));
            assert_eq!(file.recipes.iter().map(|r| r.name.text.as_str()).collect::<Vec<_>>(), [row.name]);
            assert!(file.models.is_empty());
            assert!(row.doc().ends_with('.'), "{}", row.name);
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/models/recipes");
        let is_recipe = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|e| e == "fqt");
        let files = std::fs::read_dir(folder).map(|d| d.flatten().filter(is_recipe).count());
        assert_eq!(files.ok(), Some(ALL.len()));
    }
}
