//! Sources: where a Dockerfile and the rest of its build context come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::LocalName;

/// Pattern of a relative path without `.` and `..` elements.
const FILE_PATTERN: &str = concat!(
    r"^\.{0,2}[A-Za-z0-9_@+=-][A-Za-z0-9_@+=.-]*",
    r"(/\.{0,2}[A-Za-z0-9_@+=-][A-Za-z0-9_@+=.-]*)*$"
);

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
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// URL of the repository, as `https://host/path` or `ssh://user@host/path`. It must not contain
    /// a password: use `secretRef` for credentials. At most 1024 characters.
    #[schemars(
        length(min = 8, max = 1024),
        regex(
            pattern = r"^(https://[^@\s/]+/\S+|ssh://([A-Za-z0-9_.-]+@)?[^@:\s/]+(:[0-9]+)?/\S+)$"
        )
    )]
    pub url: String,

    /// Branch, tag or full commit id to build. The controller looks up a branch or a tag every
    /// `interval`, and a new commit rebuilds the image.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_./+-]*$"))]
    pub revision: String,

    /// Directory of the repository that is the build context. Defaults to the repository's root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[A-Za-z0-9_@+=.-]+(/[A-Za-z0-9_@+=.-]+)*$")
    )]
    #[x_kube(
        validation = Rule::new("!('/' + self + '/').contains('/../')")
            .message("path must not contain `..`: name a directory below the repository's root")
    )]
    pub path: Option<String>,

    /// Path of the Dockerfile in the build context. Defaults to `Dockerfile`.
    #[serde(default = "default_dockerfile")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[A-Za-z0-9_@+=.-]+(/[A-Za-z0-9_@+=.-]+)*$")
    )]
    #[x_kube(
        validation = Rule::new("!('/' + self + '/').contains('/../')")
            .message("dockerfile must not contain `..`: name a file below `path`")
    )]
    pub dockerfile: String,

    /// Interval at which the controller looks up a branch or a tag. At least 5 seconds. Defaults to
    /// 5 minutes.
    #[serde(default = "default_interval")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('5s')")
            .message("interval must be at least 5s")
    )]
    pub interval: crate::api::Duration,

    /// Secret in the family's namespace: `username` and `password` for https, `identity` (a private
    /// key) and `known_hosts` for ssh. The Secret is sent only to the hosts listed in its
    /// annotation `groundswell.dev/hosts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalName>,
}

fn default_dockerfile() -> String {
    "Dockerfile".into()
}

const fn default_interval() -> crate::api::Duration {
    crate::api::Duration::from_secs(300)
}
