//! What fuzzers call: one target per format that somebody outside of the operator writes.
//!
//! A target parses its input as the product does and checks what has to hold for any input: no
//! panic, texts within their bounds, and nothing that reads differently when it is read again.
//! `dev/fuzz` runs the targets with libFuzzer, and the tests here run them over the inputs in
//! `fuzz/corpus/<target>`. It is compiled for these two only.

use std::str;

use crate::{
    api::{FamilyRequestSpec, request::RequestedAction},
    builds, contents, engine, package_indexes, registry,
    terminal::printable,
};

/// A format that comes from outside.
pub struct Target {
    /// The name, which is also that of the folder of its corpus.
    pub name: &'static str,
    /// Parses an input.
    ///
    /// # Panics
    /// Panics if what has to hold does not.
    pub run: fn(&[u8]),
}

/// All formats.
pub const TARGETS: [Target; 17] = [
    Target { name: "builder-output", run: builds::fuzz::builder_output },
    Target { name: "docker-config", run: registry::fuzz::docker_config },
    Target { name: "dockerfile", run: builds::fuzz::dockerfile },
    Target { name: "family", run: engine::fuzz::family },
    Target { name: "git-files", run: builds::git::fuzz::files },
    Target { name: "git-pack", run: builds::git::fuzz::pack },
    Target { name: "image-config", run: registry::fuzz::image_config },
    Target { name: "layer", run: contents::fuzz::layer },
    Target { name: "manifest", run: registry::fuzz::manifest },
    Target { name: "package-index", run: package_indexes::fuzz::package_index },
    Target { name: "package-release", run: package_indexes::fuzz::release },
    Target { name: "package-sources", run: package_indexes::fuzz::package_sources },
    Target { name: "package-version", run: contents::fuzz::version },
    Target { name: "reference", run: registry::fuzz::reference },
    Target { name: "request", run: request },
    Target { name: "response", run: registry::fuzz::response },
    Target { name: "template", run: engine::fuzz::template },
];

/// A request as JSON, and its texts on a terminal.
fn request(input: &[u8]) {
    if let Ok(text) = str::from_utf8(input) {
        let shown = printable(text);
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "{shown:?} acts");
    }
    let Ok(spec) = serde_json::from_slice::<FamilyRequestSpec>(input) else { return };
    let Ok(action) = RequestedAction::of(&spec) else { return };
    let written = action.clone().into_spec(&spec.family);
    assert_eq!(RequestedAction::of(&written), Ok(action));
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn every_target_holds_over_its_corpus() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for Target { name, run } in TARGETS {
            let inputs = fs::read_dir(corpora.join(name)).expect("a corpus");
            let mut paths: Vec<_> = inputs.map(|input| input.expect("an entry").path()).collect();
            paths.sort();
            assert!(paths.len() > 2, "the corpus of {name} is too small");
            for path in paths {
                println!("{}", path.display());
                run(&fs::read(path).expect("an input"));
            }
        }
    }

    #[test]
    fn every_corpus_has_a_target() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let folders = fs::read_dir(corpora).expect("the corpora");
        let mut names: Vec<String> = folders
            .map(|folder| folder.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names, TARGETS.map(|target| target.name));
    }
}
