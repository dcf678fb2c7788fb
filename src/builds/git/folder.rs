//! The folder of a repository that a build is made from, and why its revision is not known.

use serde::{Deserialize, Serialize};

use crate::api::{GitSource, PathOutside};

/// A folder that is a build context, and what of it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitFolder {
    /// The path below the repository's root, without `.` elements; empty for the root.
    pub path: String,
    /// The path of the Dockerfile below `path`, without `.` elements.
    pub dockerfile: String,
    /// The patterns of the files that are in the context; all files if there are none.
    pub include: Vec<String>,
    /// The patterns of the files that are not in the context.
    pub exclude: Vec<String>,
}

impl GitFolder {
    /// Returns the folder of a source. All spellings of its paths give the same folder.
    ///
    /// # Errors
    /// Returns an error if a path leaves the folder to which it is relative.
    pub fn of(source: &GitSource) -> Result<Self, PathOutside> {
        Ok(Self {
            path: source.folder()?,
            dockerfile: source.dockerfile_path()?,
            include: source.include.clone(),
            exclude: source.exclude.clone(),
        })
    }
}

/// Why one folder cannot be used, while others of the same commit may. The message begins with the
/// field of `source.git` that is to be corrected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum FolderError {
    /// The commit has no such folder.
    #[error("path: there is no folder `{path}` in commit {commit} of {url}; correct it or push it")]
    NoFolder {
        /// The path of the folder.
        path: String,
        /// The commit.
        commit: String,
        /// The repository.
        url: String,
    },
    /// The folder has no such Dockerfile.
    #[error(
        "dockerfile: there is no file `{path}` in commit {commit} of {url}; correct it or push it"
    )]
    NoDockerfile {
        /// The path of the file below the repository's root.
        path: String,
        /// The commit.
        commit: String,
        /// The repository.
        url: String,
    },
    /// A pattern of `include` matches no file.
    #[error(
        "include: `{pattern}` matches no file of the folder `{path}` in commit {commit}; correct \
         or remove it"
    )]
    NoMatch {
        /// The pattern.
        pattern: String,
        /// The path of the folder.
        path: String,
        /// The commit.
        commit: String,
    },
    /// A list of globs cannot be used.
    #[error("{field}: {problem}")]
    InvalidGlobs {
        /// `include` or `exclude`.
        field: String,
        /// What is wrong with which glob.
        problem: String,
    },
    /// A pattern of a `.dockerignore` cannot be parsed.
    #[error("{field}: `{pattern}` is no pattern: {problem}")]
    InvalidPattern {
        /// The file in the repository that has the pattern.
        field: String,
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The folder exceeds a limit.
    #[error("path: the folder `{path}` in commit {commit} is too large: {limit}")]
    TooLarge {
        /// The path of the folder.
        path: String,
        /// The commit.
        commit: String,
        /// The limit that it exceeds.
        limit: String,
    },
}
