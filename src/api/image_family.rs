//! `ImageFamily`: what a person writes.

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Image, ImageFamilyStatus, Policy, Upstream};

/// How a team's container images descend from one another, and how they are kept current.
///
/// When an upstream moves to a new digest, every image that stands on it is rebuilt, parents before
/// children, each exactly once; its tags are moved and the patched images are rolled out.
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
    doc = "How a team's container images descend from one another, and how they are kept current.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Images", type_ = "integer", json_path = ".status.counts.total"),
    printcolumn(name = "Current", type_ = "integer", json_path = ".status.counts.current"),
    printcolumn(name = "Building", type_ = "integer", json_path = ".status.counts.building"),
    printcolumn(name = "Failed", type_ = "integer", json_path = ".status.counts.failed"),
    printcolumn(name = "Cascade", type_ = "string", json_path = ".status.cascade.name"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].message"),
    validation = Rule::new("self.metadata.name.size() <= 47 && \
                            self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("the family's name must be a DNS label of at most 47 characters: lower case \
                  letters, digits and dashes")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // The names are listed once, in the outer `all`: asked for at each edge, they cost more than
    // the API server allows.
    validation = Rule::new("[self.upstreams.map(u, u.name)].all(names, self.images.all(i, \
                            i.from.all(e, !has(e.upstream) || e.upstream in names)))")
        .message("an image names an upstream in `from` that is not in `upstreams`: add it there or \
                  correct the name")
        .reason(Reason::FieldValueInvalid)
)]
pub struct ImageFamilySpec {
    /// Where the images go: an image is pushed to `<repository>/<image name>`. Starts with the
    /// registry's host, for example `registry.example.com/platform`.
    #[schemars(
        length(min = 3, max = 200),
        regex(
            pattern = r"^(localhost|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)+|[a-zA-Z0-9-]+(\.[a-zA-Z0-9-]+)*:[0-9]+|localhost:[0-9]+)(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$"
        )
    )]
    pub repository: String,

    /// How builds run, unless an image says otherwise.
    #[serde(default)]
    pub strategy: StrategyRef,

    /// Secrets of type `kubernetes.io/dockerconfigjson` in this namespace, for pulling, pushing and
    /// moving tags. The longest matching prefix wins, over all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub credentials: Vec<LocalName>,

    /// The images that are watched and not built here: the roots of the graph.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub upstreams: Vec<Upstream>,

    /// The images that are built, in any order.
    #[schemars(length(min = 1, max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub images: Vec<Image>,

    /// Images that other families may stand on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["image"]))]
    pub exports: Vec<Export>,

    /// When and how much is built at once, and what happens after a failure.
    #[serde(default)]
    pub policy: Policy,

    /// How much of the past is kept.
    #[serde(default)]
    pub history: History,

    /// Stops new builds, tag moves and rollouts of the whole family. Builds that run already go to
    /// their end.
    #[serde(default)]
    pub suspend: bool,
}

/// Consent that other families stand on an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Export {
    /// The image.
    #[schemars(length(min = 1, max = 63))]
    pub image: String,

    /// The namespaces whose families may name it in `from`, beside this one's; `*` for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 63), regex(pattern = r"^(\*|[a-z0-9]([-a-z0-9]*[a-z0-9])?)$")), extend("x-kubernetes-list-type" = "set"))]
    pub namespaces: Vec<String>,
}

/// How much of the past is kept.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(default)]
pub struct History {
    /// Builds in the history of each image.
    #[schemars(range(min = 1, max = 50))]
    pub builds: i32,

    /// Ended cascades: `Cascade` objects.
    #[schemars(range(min = 1, max = 50))]
    pub cascades: i32,
}

impl Default for History {
    fn default() -> Self {
        Self { builds: 10, cascades: 10 }
    }
}

/// The name of an object in the family's namespace.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord,
)]
pub struct LocalName {
    /// The object's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// Names a `BuildStrategy` and sets its parameters.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct StrategyRef {
    /// Name of a `BuildStrategy` of this cluster.
    #[serde(default = "default_strategy")]
    #[schemars(length(min = 1, max = 253))]
    pub name: String,

    /// Values for the parameters that the strategy declares.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 1024}))]
    pub parameters: BTreeMap<String, String>,
}

impl Default for StrategyRef {
    fn default() -> Self {
        Self { name: default_strategy(), parameters: BTreeMap::new() }
    }
}

fn default_strategy() -> String {
    "buildkit".into()
}
