//! Sources: where a Dockerfile and the rest of its build context come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{LocalName, patterns};

/// Pattern of a relative path without `.` and `..` elements.
const FILE_PATTERN: &str = concat!(
    r"^\.{0,2}[A-Za-z0-9_@+=-][A-Za-z0-9_@+=.-]*",
    r"(/\.{0,2}[A-Za-z0-9_@+=-][A-Za-z0-9_@+=.-]*)*$"
);

/// Pattern of a glob: no control characters, and no white space at its ends.
const GLOB_PATTERN: &str = r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]*[^\s\x00-\x1f\x7f])?$";

/// Origin of a Dockerfile and its build context. Exactly one of the fields must be set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.configMap), has(self.git)]\
                            .exists_one(x, x)")
        .message("a source must set exactly one of `inline`, `configMap` and `git`")
)]
pub struct Source {
    /// Text of the Dockerfile. The build context is otherwise empty. At most 32768 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub inline: Option<String>,

    /// `ConfigMap` in the family's namespace that holds the build context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,

    /// Directory of a Git repository that holds the build context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
}

/// The kind of a source. A new kind is a variant here, so that the compiler leads to what handles
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind<'a> {
    /// The text of a Dockerfile.
    Inline(&'a str),
    /// A `ConfigMap` with the files.
    ConfigMap(&'a ConfigMapSource),
    /// A directory of a Git repository.
    Git(&'a GitSource),
}

impl Source {
    /// Returns whether no field is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.inline.is_none() && self.config_map.is_none() && self.git.is_none()
    }

    /// Returns the kind of the source, or `None` if it sets no field. The API server rejects such a
    /// source, and one that sets several.
    #[must_use]
    pub fn kind(&self) -> Option<SourceKind<'_>> {
        let Self { inline, config_map, git } = self;
        let inline = inline.as_deref().map(SourceKind::Inline);
        inline
            .or_else(|| config_map.as_ref().map(SourceKind::ConfigMap))
            .or_else(|| git.as_ref().map(SourceKind::Git))
    }
}

/// A `ConfigMap` whose keys are the files of the build context. A change of its content rebuilds
/// the image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapSource {
    /// Name of the `ConfigMap`. It must have a key `Dockerfile` or an item with that path.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Maps keys to files. At most 64 items. Each key becomes a file of its name if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"])
    )]
    pub items: Vec<ConfigMapItem>,
}

/// Maps a key of a `ConfigMap` to a file of the build context.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapItem {
    /// Key of the `ConfigMap`. At most 253 characters.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,

    /// Path of the file in the build context. It must be relative and must not contain `.` or `..`
    /// elements. At most 255 characters.
    // The pattern alone rejects `.` and `..`. A rule for 64 items in each of 1000 images would
    // exceed the cost limit of the API server.
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = FILE_PATTERN)
    )]
    pub path: String,

    /// Whether the file is executable. Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// A directory of a Git repository that holds the build context.
// The lists of globs have no CEL rules: 128 globs in each of 1000 images would exceed the cost
// limit of the API server.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// URL of the repository, as `https://host/path` or `ssh://user@host/path`. It must not contain
    /// a password: use `secretRef` for credentials. At most 1024 characters. Required, unless
    /// `spec.sourceDefaults.git` has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(min = 8, max = 1024),
        regex(
            pattern = r"^(https://[^@\s/]+/\S+|ssh://([A-Za-z0-9_.-]+@)?[^@:\s/]+(:[0-9]+)?/\S+)$"
        )
    )]
    pub url: String,

    /// Branch, tag or full commit id to build. The controller looks up a branch or a tag every
    /// `interval`. A commit that changes `path` rebuilds the image. It may be a template. Required,
    /// unless `spec.sourceDefaults.git` has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = patterns::GIT_REVISION_OR_TEMPLATE)
    )]
    pub revision: String,

    /// Directory of the repository that is the build context. `.` is the repository's root.
    /// `images/app`, `./images/app` and `images/app/` mean the same. It may be a template. Defaults
    /// to that of `spec.sourceDefaults.git`, or else to the root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = patterns::GIT_FOLDER_OR_TEMPLATE)
    )]
    #[x_kube(
        validation = Rule::new("!('/' + self + '/').contains('/../')")
            .message("path must not contain `..`: name a directory below the repository's root")
    )]
    pub path: Option<String>,

    /// Path of the Dockerfile in the build context. It may be a template. Defaults to that of
    /// `spec.sourceDefaults.git`, or else to `Dockerfile`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = patterns::GIT_PATH_OR_TEMPLATE)
    )]
    #[x_kube(
        validation = Rule::new("!('/' + self + '/').contains('/../')")
            .message("dockerfile must not contain `..`: name a file below `path`")
    )]
    pub dockerfile: String,

    /// Globs of the files that are the build context, as in a `.gitignore` and relative to `path`.
    /// Defaults to all files. The Dockerfile and its `.dockerignore` always belong to the context.
    /// What is left out causes no rebuild. At most 64 globs of at most 255 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 255), regex(pattern = GLOB_PATTERN)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub include: Vec<String>,

    /// Globs of the files that are left out of the build context, as in a `.gitignore` and relative
    /// to `path`. They win over `include`. At most 64 globs of at most 255 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 255), regex(pattern = GLOB_PATTERN)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    pub exclude: Vec<String>,

    /// Whether the submodules in the build context are fetched, with their own submodules. Without
    /// it, a build context that contains a submodule is rejected. Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub submodules: bool,

    /// Whether files of Git LFS are fetched. Without it, a build context that contains a pointer of
    /// Git LFS instead of the file is rejected. Defaults to false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lfs: bool,

    /// Build argument that gets a commit id, unless `args` sets it: the newest commit that has
    /// changed the build context, or, if no recent one has, the commit at which it was read. A
    /// commit that leaves the build context as it is rebuilds nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = patterns::ARG))]
    pub commit_arg: Option<String>,

    /// Interval at which the controller looks up a branch or a tag. At least 5 seconds. Defaults to
    /// that of `spec.sourceDefaults.git`, or else to 5 minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('5s')")
            .message("interval must be at least 5s")
    )]
    pub interval: Option<crate::api::Duration>,

    /// Secret in the family's namespace: `username` and `password` for https, `identity` (a private
    /// key) and `known_hosts` for ssh. The Secret is sent only to the hosts, or the
    /// paths of hosts, listed in its annotation `groundswell.dev/hosts`. Defaults to that of
    /// `spec.sourceDefaults.git`, if the URL is the one that is set there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalName>,
}

/// The error for a path that leaves the folder to which it is relative.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`source.git.{field}: {path}` must not contain `..`: name a path below {below}")]
pub struct PathOutside {
    field: &'static str,
    path: String,
    below: &'static str,
}

impl GitSource {
    /// The path of the Dockerfile in the build context if none is set.
    pub const DOCKERFILE: &str = "Dockerfile";
    /// How often a branch or a tag is looked up if no interval is set.
    const INTERVAL: crate::api::Duration = crate::api::Duration::from_secs(300);

    /// Returns how often a branch or a tag is looked up.
    #[must_use]
    pub fn interval(&self) -> crate::api::Duration {
        self.interval.unwrap_or(Self::INTERVAL)
    }

    /// Returns the directory that is the build context, relative to the repository's root. All
    /// spellings of a directory give the same text, and the root is the empty text.
    ///
    /// # Errors
    /// Returns an error if the path contains `..`.
    pub fn folder(&self) -> Result<String, PathOutside> {
        let path = self.path.as_deref().unwrap_or_default();
        plain_path(path).ok_or_else(|| PathOutside {
            field: "path",
            path: path.to_owned(),
            below: "the repository's root",
        })
    }

    /// Returns the path of the Dockerfile relative to the build context. All spellings of a path
    /// give the same text.
    ///
    /// # Errors
    /// Returns an error if the path contains `..`.
    pub fn dockerfile_path(&self) -> Result<String, PathOutside> {
        plain_path(&self.dockerfile).ok_or_else(|| PathOutside {
            field: "dockerfile",
            path: self.dockerfile.clone(),
            below: "`path`",
        })
    }
}

/// Returns a relative path without `.`, empty elements and a slash at its end; `None` if it
/// contains `..`.
fn plain_path(path: &str) -> Option<String> {
    let elements: Vec<&str> =
        path.split('/').filter(|element| !matches!(*element, "" | ".")).collect();
    (!elements.contains(&"..")).then(|| elements.join("/"))
}

/// Defaults of the images' sources.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceDefaults {
    /// Each field is the default of the images whose `source.git` does not set it. An image without
    /// a `source` has this one. In templates, `{{ name }}` is the name of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Case 20 of the trees: everybody's word for the root is `.`.
    #[test]
    fn all_spellings_of_a_path_mean_the_same() {
        for (path, folder) in [
            (None, ""),
            (Some("."), ""),
            (Some("./"), ""),
            (Some("images/app"), "images/app"),
            (Some("./images/app"), "images/app"),
            (Some("images/app/"), "images/app"),
            (Some("images/./app"), "images/app"),
            (Some(".github/x..y"), ".github/x..y"),
        ] {
            let source = GitSource {
                path: path.map(Into::into),
                dockerfile: "./build/Dockerfile".into(),
                ..GitSource::default()
            };
            assert_eq!(source.folder().as_deref(), Ok(folder), "{path:?}");
            assert_eq!(source.dockerfile_path().as_deref(), Ok("build/Dockerfile"));
        }
    }

    #[test]
    fn a_path_outside_of_the_repository_is_refused_by_name() {
        for path in ["..", "../x", "a/../../b", "a/.."] {
            let source = GitSource {
                path: Some(path.into()),
                dockerfile: path.into(),
                ..GitSource::default()
            };
            let said = source.folder().expect_err(path).to_string();
            assert!(said.contains(&format!("`source.git.path: {path}` must not")), "{said}");
            let said = source.dockerfile_path().expect_err(path).to_string();
            assert!(said.contains(&format!("`source.git.dockerfile: {path}`")), "{said}");
        }
    }
}
