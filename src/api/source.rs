//! Sources: where a Dockerfile and the files beside it come from.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::LocalName;

/// Where a Dockerfile and the files beside it come from: exactly one of the fields.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.inline), has(self.configMap), has(self.git)].exists_one(x, x)")
        .message("a source is exactly one of `inline`, `configMap` and `git`")
)]
pub struct Source {
    /// The Dockerfile itself; the build context is otherwise empty. At most 32 KiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32768))]
    pub inline: Option<String>,

    /// A `ConfigMap` of the family's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map: Option<ConfigMapSource>,

    /// A folder of a Git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<GitSource>,
}

/// A `ConfigMap` as a source: its keys are the files of the build context. A change of its content
/// rebuilds the image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapSource {
    /// The `ConfigMap`'s name. It must have a key `Dockerfile`, or an item with that path.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Which key becomes which file. Without items, each key becomes a file of its name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["path"]))]
    pub items: Vec<ConfigMapItem>,
}

/// A key of a `ConfigMap` and the file that it becomes.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapItem {
    /// The key.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,

    /// The file's path in the build context; relative, without `.` and `..`.
    // The pattern alone refuses these two: a rule here, 64 items in each of 1000 images, costs more
    // than the API server allows.
    #[schemars(
        length(min = 1, max = 255),
        regex(
            pattern = r"^\.{0,2}[A-Za-z0-9_@+=-][A-Za-z0-9_@+=.-]*(/\.{0,2}[A-Za-z0-9_@+=-][A-Za-z0-9_@+=.-]*)*$"
        )
    )]
    pub path: String,

    /// Whether the file is executable.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub executable: bool,
}

/// A folder of a Git repository as a source.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct GitSource {
    /// The repository, as `https://host/path` or `ssh://user@host/path`. No credentials in it: they
    /// belong in `secretRef`.
    #[schemars(
        length(min = 8, max = 1024),
        regex(
            pattern = r"^(https://[^@\s/]+/\S+|ssh://([A-Za-z0-9_.-]+@)?[^@:\s/]+(:[0-9]+)?/\S+)$"
        )
    )]
    pub url: String,

    /// A branch, a tag or a whole commit id. A branch or a tag is asked for every `interval`; its
    /// new commit rebuilds the image.
    #[schemars(length(min = 1, max = 255), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9_./+-]*$"))]
    pub revision: String,

    /// The folder that is the build context; the repository's root by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[A-Za-z0-9_@+=.-]+(/[A-Za-z0-9_@+=.-]+)*$")
    )]
    #[x_kube(validation = Rule::new("!('/' + self + '/').contains('/../')").message("path must not \
        contain `..`"))]
    pub path: Option<String>,

    /// The Dockerfile's path in the build context.
    #[serde(default = "default_dockerfile")]
    #[schemars(
        length(min = 1, max = 255),
        regex(pattern = r"^[A-Za-z0-9_@+=.-]+(/[A-Za-z0-9_@+=.-]+)*$")
    )]
    #[x_kube(validation = Rule::new("!('/' + self + '/').contains('/../')").message("dockerfile \
        must not contain `..`"))]
    pub dockerfile: String,

    /// How often a branch or a tag is asked for. At least 5 seconds; 5 minutes by default.
    #[serde(default = "default_interval")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5s')").message("interval must be \
        at least 5s"))]
    pub interval: crate::api::Duration,

    /// A Secret of the family's namespace: `username` and `password` for https, `identity` (a
    /// private key) and `known_hosts` for ssh. It is sent only to the hosts that its own annotation
    /// `groundswell.dev/hosts` lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalName>,
}

fn default_dockerfile() -> String {
    "Dockerfile".into()
}

const fn default_interval() -> crate::api::Duration {
    crate::api::Duration::from_secs(300)
}
