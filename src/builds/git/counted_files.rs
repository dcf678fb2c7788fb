//! Which files of a folder count for its revision: those of the build context, but for those that
//! the `.dockerignore` of the folder ignores.
//!
//! `include` and `exclude` say what is in the build context; see
//! [`selection`](crate::builds::git::selection). A `.dockerignore` says what of the context the
//! builder does not use; see [`docker_ignore`](crate::builds::git::docker_ignore).

use std::path::Path;

use crate::builds::git::{
    docker_ignore::DockerIgnore,
    folder::{FolderError, GitFolder},
    selection::{Selection, SelectionProblem, TreeEntryKind},
};

/// Which files of a folder count for its revision.
pub(super) struct CountedFiles {
    context: Selection,
    docker: Option<DockerIgnore>,
    /// Globs of `include` that have matched no file yet.
    unmatched: Vec<(String, Selection)>,
}

impl CountedFiles {
    /// Returns which files of a folder with this `.dockerignore` count.
    pub fn of(folder: &GitFolder, docker: Option<DockerIgnore>) -> Result<Self, FolderError> {
        let context = selection(folder, &folder.include, &folder.exclude)?;
        let mut unmatched = Vec::new();
        for glob in folder.include.iter().filter(|glob| !glob.starts_with('!')) {
            unmatched.push((glob.clone(), selection(folder, std::slice::from_ref(glob), &[])?));
        }
        Ok(Self { context, docker, unmatched })
    }

    /// Whether every file counts.
    pub fn is_everything(&self) -> bool {
        self.context.is_everything() && self.docker.is_none()
    }

    /// Whether a file counts. `path` is its path below the folder.
    pub fn counts(&mut self, path: &str) -> bool {
        let file = Path::new(path);
        self.unmatched.retain(|(_, glob)| !glob.is_included(file));
        self.context.keeps(file, TreeEntryKind::File)
            && !self.docker.as_ref().is_some_and(|docker| docker.ignores(path))
    }

    /// Returns a glob of `include` that has matched none of the files.
    pub fn unmatched(&self) -> Option<&str> {
        self.unmatched.first().map(|(glob, _)| glob.as_str())
    }
}

/// Returns the paths at which the builder looks for the patterns of a Dockerfile, below the folder.
/// The first file that exists counts.
pub(super) fn ignore_files(dockerfile: &str) -> [String; 2] {
    [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()]
}

fn selection(
    folder: &GitFolder,
    include: &[String],
    exclude: &[String],
) -> Result<Selection, FolderError> {
    Selection::new(include, exclude, &folder.dockerfile).map_err(|problem| match problem {
        SelectionProblem::Globs { field, problem } => {
            FolderError::InvalidGlobs { field: field.to_owned(), problem }
        }
        SelectionProblem::Dockerfile(outside) => FolderError::InvalidGlobs {
            field: "dockerfile".to_owned(),
            problem: outside.to_string(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(include: &[&str], exclude: &[&str]) -> GitFolder {
        let list = |globs: &[&str]| globs.iter().map(|&glob| glob.into()).collect();
        GitFolder {
            path: String::new(),
            dockerfile: "build/Dockerfile".into(),
            include: list(include),
            exclude: list(exclude),
        }
    }

    #[test]
    fn what_counts_is_the_build_context_without_what_is_ignored() {
        for (include, exclude, path, counts) in [
            (&[][..], &[][..], "a", true),
            (&["src/"], &[], "src/a/b", true),
            (&["/src"], &[], "lib/src/a", false),
            (&["*.md"], &[], "a/b/README.md", true),
            (&[], &["*.md"], "a/README.md", false),
            (&["src"], &["src/docs"], "src/docs/a", false),
            (&["src"], &["build"], "build/Dockerfile", true),
            (&["src"], &["*ignore"], ".dockerignore", true),
        ] {
            let mut files = CountedFiles::of(&folder(include, exclude), None).expect("globs");
            assert_eq!(files.counts(path), counts, "{include:?} {exclude:?} {path}");
        }
        let error = CountedFiles::of(&folder(&[], &["a[z-a]"]), None).err().expect("no glob");
        assert!(error.to_string().contains("exclude"), "{error}");
    }

    #[test]
    fn a_glob_that_matches_no_file_is_found() {
        let mut files = CountedFiles::of(&folder(&["src", "scr", "!x"], &[]), None).expect("globs");
        assert!(files.counts("src/a") && !files.counts("b"));
        assert_eq!(files.unmatched(), Some("scr"));
    }
}
