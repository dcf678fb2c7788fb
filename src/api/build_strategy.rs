//! `BuildStrategy`: how a build runs, as data, written by platform admins only.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::Duration;

/// How a build runs: a pod template whose strings are templates over a documented set of variables.
///
/// Cluster-scoped and written by platform admins only. A family's author names a strategy and sets
/// its declared parameters, and can never add a field to the pod: templates are rendered inside of
/// parsed strings. The controller adds to the pod the step `prepare`, the volume `workspace` (the
/// build context) and the volume `docker-config` (the merged credentials). The variables stand in
/// `docs/strategies.md`.
#[derive(CustomResource, JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "groundswell.dev",
    version = "v1alpha1",
    kind = "BuildStrategy",
    plural = "buildstrategies",
    shortname = "bstrat",
    category = "groundswell",
    derive = "PartialEq",
    derive = "Default",
    doc = "How a build runs: a pod template whose strings are templates over a documented set of \
           variables.",
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"),
    printcolumn(name = "Timeout", type_ = "string", json_path = ".spec.timeout"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BuildStrategySpec {
    /// What it is for, in a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub description: String,

    /// Parameters that a family may set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub parameters: Vec<Parameter>,

    /// The longest that one build may run; then it has failed.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,

    /// How long a finished Job is kept, with its pod and its log.
    #[serde(default = "default_ttl_after_finished")]
    pub ttl_after_finished: Duration,

    /// Whether the build must run in a user namespace of its own. With `Required`, a build is
    /// refused where the API server or the node does not give it one, and never runs with a
    /// capability on the host by accident.
    #[serde(default)]
    pub user_namespace: UserNamespace,

    /// The pod template: `metadata` (labels and annotations) and `spec`. Every string in it is a
    /// template. A list item that is one expression with a list as its value becomes as many items.
    #[schemars(schema_with = "pod_template_schema")]
    pub template: Value,
}

/// A parameter of a strategy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameter {
    /// Its name, for `{{ parameters.NAME }}`.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,

    /// Its value where the family sets none.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub default: String,

    /// What it does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub description: String,

    /// The values that it may have; any, if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 1024)), extend("x-kubernetes-list-type" = "set"))]
    pub allowed: Vec<String>,
}

/// Whether a build must run in a user namespace of its own.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UserNamespace {
    /// The template must say `hostUsers: false`, and a build that would not get it is refused.
    #[default]
    Required,
    /// The template decides; for strategies that need no capability, or that an admin made
    /// privileged on purpose.
    NotRequired,
}

fn pod_template_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

const fn default_timeout() -> Duration {
    Duration::from_secs(3600)
}

const fn default_ttl_after_finished() -> Duration {
    Duration::from_secs(3600)
}
