//! `BuildStrategy`: how a build runs, as data that only platform administrators write.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::Duration;

/// Describes how a build runs: a pod template whose strings are templates over a documented set of
/// variables.
///
/// A strategy is cluster-scoped and written by platform administrators only. The author of a family
/// names a strategy and sets its declared parameters, and can never add a field to the pod, because
/// templates are rendered inside of parsed strings. The controller adds the init container
/// `prepare`, the volume `workspace` (the build context) and the volume `docker-config` (the merged
/// credentials) to the pod. `docs/strategies.md` lists the variables.
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
    doc = "BuildStrategy describes how a build runs: a pod template whose strings are templates \
           over a documented set of variables. Written by platform administrators only.",
    printcolumn(name = "Description", type_ = "string", json_path = ".spec.description"),
    printcolumn(name = "Timeout", type_ = "string", json_path = ".spec.timeout"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BuildStrategySpec {
    /// Purpose of the strategy, in one sentence. At most 512 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub description: String,

    /// Namespaces whose families may use the strategy: names, or prefixes that end with `*`. Every
    /// namespace if the field is not set, and none if the list is empty. At most 256 entries.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 256),
        inner(length(min = 1, max = 63), regex(pattern = r"^([a-z0-9][-a-z0-9]*)?\*?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Option<Vec<String>>,

    /// Parameters that a family may set. At most 32 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub parameters: Vec<Parameter>,

    /// Maximum duration of one build. A build that runs longer fails. Defaults to 1 hour.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,

    /// How long a finished Job is kept, with its pod and its log. Defaults to 1 hour.
    #[serde(default = "default_ttl_after_finished")]
    pub ttl_after_finished: Duration,

    /// Whether the build must run in a user namespace of its own. `Required` rejects a build if the
    /// API server or the node gives it none, so that it never runs with a capability on the host by
    /// accident. `NotRequired` leaves the decision to the template. Defaults to `Required`.
    #[serde(default)]
    pub user_namespace: UserNamespace,

    /// Pod template with `metadata` (labels and annotations) and `spec`. Every string in it is a
    /// template. A list item that is one expression with a list as its value is replaced by the
    /// items of that list.
    #[schemars(schema_with = "pod_template_schema")]
    pub template: Value,
}

/// A parameter of a strategy.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameter {
    /// Name of the parameter, for `{{ parameters.NAME }}`. At most 63 letters, digits and
    /// underscores, not starting with a digit.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub name: String,

    /// Value of the parameter if the family sets none. Defaults to the empty string.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub default: String,

    /// Description of what the parameter does. At most 512 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub description: String,

    /// Values that the parameter may have. Any value is allowed if empty. At most 32 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        inner(length(max = 1024)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub allowed: Vec<String>,

    /// Regular expression that the whole value must match, in the syntax of
    /// <https://docs.rs/regex/1/regex/#syntax> with the classes of ASCII. At most 256 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256))]
    pub pattern: Option<String>,

    /// Smallest quantity that the parameter may have, such as `512Mi`. With a `minimum` or a
    /// `maximum`, the value must be a quantity, or empty if that is the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = QUANTITY))]
    pub minimum: Option<String>,

    /// Largest quantity that the parameter may have, such as `16Gi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = QUANTITY))]
    pub maximum: Option<String>,
}

/// Pattern of quantities that can be compared.
const QUANTITY: &str = "^[0-9]+(\\.[0-9]+)?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?$";

/// Whether a build must run in a user namespace of its own.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum UserNamespace {
    /// The template must set `hostUsers: false`, and a build that would not get a user namespace is
    /// rejected.
    #[default]
    Required,
    /// The template decides. For strategies that need no capability, or that an administrator made
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
