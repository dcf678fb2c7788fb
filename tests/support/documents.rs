//! The project's documents: where they are, and the fenced code in them.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Reads a file; fails the test if that is not possible.
pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder, sorted.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut found: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder's entry").path())
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect();
    found.sort();
    found
}

/// All documents, as paths.
pub fn documents() -> Vec<PathBuf> {
    let named = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "dev/README.md"]
        .map(|name| root().join(name));
    let found = ["docs", "examples"].iter().flat_map(|folder| files(&root().join(folder)));
    named
        .into_iter()
        .chain(found.filter(|path| path.extension().is_some_and(|ending| ending == "md")))
        .collect()
}

/// Returns the fenced blocks of one language.
pub fn blocks(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match &mut block {
            Some(text) if line == "```" => {
                found.push(std::mem::take(text));
                block = None;
            }
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
            None if line == format!("```{language}") => block = Some(String::new()),
            None => {}
        }
    }
    found
}
