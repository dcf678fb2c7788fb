//! `ImageFamily`: the object that users write.

// The derive of the schema copies the structs, and nothing reads the copy of a skipped field.
#![allow(dead_code, reason = "`left_out` is skipped in the schema")]

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{
    Adoption, Image, ImageFamilyStatus, Policy, RegistryCredential, SourceDefaults, Upstream,
    UpstreamDefaults, condition::Problem,
};

/// Pattern of a repository prefix: a registry's host, which has a dot, a port or is `localhost`,
/// and path elements.
const REPOSITORY_PATTERN: &str = concat!(
    r"^(localhost|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*:[0-9]+|",
    r"localhost:[0-9]+)(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$"
);

/// Describes how container images are built on one another, and how they are kept current.
///
/// When an upstream moves to a new digest, every image that is built on it is rebuilt exactly once,
/// parents before children. Then its tags are moved, and its workloads are updated.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "groundswell.dev",
    version = "v1alpha1",
    kind = "ImageFamily",
    plural = "imagefamilies",
    shortname = "imgfam",
    category = "groundswell",
    namespaced,
    status = "ImageFamilyStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "ImageFamily describes how container images are built on one another, and how they are \
           kept current.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions\
        [?(@.type==\"Ready\")].status"),
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.counts.total"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.counts.current"),
    printcolumn(name = "Building", type_ = "integer", json_path = ".status.counts.building"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Cascade", type_ = "string", json_path = ".status.cascades[0].name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions\
        [?(@.type==\"Ready\")].message"),
    validation = Rule::new("self.metadata.name.size() <= 47 && \
                            self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be a DNS label of at most 47 characters: use lower case \
                  letters, digits and dashes")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // The outer `all` lists the names once. Listing them at each edge would exceed the cost limit
    // of the API server. Templates are rendered by the controller.
    validation = Rule::new("[self.upstreams.map(u, u.name)].all(names, self.images.all(i, \
                            i.from.all(e, !has(e.upstream) || e.upstream in names || \
                            e.upstream.contains('{{'))))")
        .message("an image names an upstream in `from` that is not in `upstreams`: add it there or \
                  correct the name")
        .reason(Reason::FieldValueInvalid)
)]
pub struct ImageFamilySpec {
    /// Repository prefix: each image is pushed to `<repository>/<path of the image>`. It starts
    /// with the registry's host, for example `registry.example.com/platform`. At most 200
    /// characters.
    #[schemars(
        length(min = 3, max = 200),
        regex(pattern = REPOSITORY_PATTERN)
    )]
    pub repository: String,

    /// Strategy that builds the images. An image may name another one.
    #[serde(default)]
    pub strategy: StrategyRef,

    /// Secrets with registry credentials in the family's namespace. The longest matching prefix
    /// over all Secrets is used. At most 8 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub credentials: Vec<RegistryCredential>,

    /// Images that are watched and not built: the roots of the graph. At most 64 entries.
    #[serde(default)]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub upstreams: Vec<Upstream>,

    /// Settings of the upstreams that Dockerfiles name and `upstreams` does not list. They apply to
    /// images with `edges: Dockerfile`. A family has at most 64 upstreams, with those that are
    /// listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream_defaults: Option<UpstreamDefaults>,

    /// Defaults of the images' sources. It saves repeating the repository in each image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_defaults: Option<SourceDefaults>,

    /// Images to build, in any order. 1 to 1000 entries, which may stand for at most 1000 images.
    #[schemars(
        length(min = 1, max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub images: Vec<Image>,

    /// Images that other families may be built on. At most 1000 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 1000),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["image"])
    )]
    pub exports: Vec<Export>,

    /// Begins with the images that the floating tags point to already, and builds nothing for them.
    /// It applies to images that have no build yet. Without it, each image is built once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adopt: Option<Adoption>,

    /// Controls when builds start, how many run at once, and how the family reacts to failures.
    #[serde(default)]
    pub policy: Policy,

    /// How many past builds and cascades are kept.
    #[serde(default)]
    pub history: History,

    /// Stops new builds, checks, tag moves and rollouts of the whole family. What runs completes.
    /// Defaults to false.
    #[serde(default)]
    pub suspend: bool,

    /// The images that [`expand`](crate::engine::expansion::expand) has left out of `images`. It is
    /// no field of the manifest.
    #[serde(skip)]
    pub left_out: Vec<LeftOutImage>,
}

/// An image that the family does without, because its entry cannot be expanded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOutImage {
    /// Name of the image; as its entry writes it if it cannot be rendered.
    pub image: String,
    /// What is wrong.
    pub problem: Problem,
}

/// Allows other families to build on an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// Name of the image.
    #[schemars(length(min = 1, max = 63))]
    pub image: String,

    /// Namespaces whose families may name the image in `from`, in addition to the family's own. `*`
    /// allows all namespaces. At most 64 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        inner(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Vec<String>,
}

/// How many past builds and cascades are kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(default)]
pub struct History {
    /// Number of builds in the history of each image, from 1 to 50. Defaults to 10.
    #[schemars(range(min = 1, max = 50))]
    pub builds: i32,

    /// Number of finished `Cascade` objects, from 1 to 50. Defaults to 10.
    #[schemars(range(min = 1, max = 50))]
    pub cascades: i32,
}

impl Default for History {
    fn default() -> Self {
        Self { builds: 10, cascades: 10 }
    }
}

/// Reference to an object in the family's namespace.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub struct LocalName {
    /// Name of the object.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Reference to a `BuildStrategy`, with values for its parameters.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StrategyRef {
    /// Name of the `BuildStrategy`. That of an image defaults to that of its family, and that of a
    /// family to `buildkit`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Values of parameters that the strategy declares. Those of an image are added to those of its
    /// family, unless it names another strategy. At most 32 entries.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024})
    )]
    pub parameters: BTreeMap<String, String>,
}

impl Default for StrategyRef {
    fn default() -> Self {
        Self { name: Self::DEFAULT_NAME.into(), parameters: BTreeMap::new() }
    }
}

impl StrategyRef {
    /// Name of the strategy of a family that names none.
    pub const DEFAULT_NAME: &str = "buildkit";
}
