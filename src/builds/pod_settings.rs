//! The operator's configuration of the pods that Groundswell defines itself: the resources of its
//! own steps, and resources and placement of checks.
//!
//! Family authors cannot change it. The builder's own resources and placement are those of its
//! strategy.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Affinity, PodSecurityContext, ResourceRequirements, SecurityContext, Toleration,
        TopologySpreadConstraint,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::builds::{job::quantities, strategy::unknown_field};

/// The name of the configuration in messages.
const SETTINGS: &str = "builds";
/// Resources that a request or a limit may name.
const RESOURCES: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];

/// The settings of the pods that Groundswell defines, in YAML.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodSettings {
    /// The steps `prepare` of builds and `credentials` of checks.
    pub steps: StepSettings,
    /// The pods of checks.
    pub checks: CheckSettings,
}

/// The settings of the operator's own steps.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StepSettings {
    /// Resources of each step. If empty, each has its defaults.
    pub resources: Resources,
    /// The step `prepare` of builds.
    pub prepare: StepOverride,
    /// The step `credentials` of checks.
    pub credentials: StepOverride,
}

/// The settings of one of the operator's own steps.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct StepOverride {
    /// Resources of this step. If empty, it has those of all steps.
    pub resources: Resources,
}

/// The settings of the pods of checks.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CheckSettings {
    /// Resources of the check's container. If empty, it has its defaults.
    pub resources: Resources,
    /// Labels of the nodes that may run checks.
    pub node_selector: BTreeMap<String, String>,
    /// Taints that checks tolerate.
    pub tolerations: Vec<Toleration>,
    /// Affinity of checks. If empty, they have none.
    pub affinity: Affinity,
    /// How checks are spread.
    pub topology_spread_constraints: Vec<TopologySpreadConstraint>,
    /// Priority class of checks. If empty, they have the cluster's default.
    pub priority_class_name: String,
    /// Runtime class of checks. If empty, they have the cluster's default.
    pub runtime_class_name: String,
    /// Names of Secrets for pulling the images of checks, in addition to those of all pods.
    pub image_pull_secrets: Vec<String>,
    /// Annotations of the pods.
    pub pod_annotations: BTreeMap<String, String>,
    /// Labels of the pods. Those of Groundswell take precedence.
    pub pod_labels: BTreeMap<String, String>,
    /// Security context of the pods. The seccomp profile is `RuntimeDefault` unless it is set here.
    pub pod_security_context: PodSecurityContext,
    /// Security context of the check's container. It has no capability and cannot gain privileges
    /// unless that is set here.
    pub container_security_context: SecurityContext,
}

/// Requests and limits of a container. They replace the defaults as a whole.
#[derive(Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// What the container requests.
    #[serde(deserialize_with = "quantity_list")]
    pub requests: BTreeMap<String, Quantity>,
    /// What the container may use at most.
    #[serde(deserialize_with = "quantity_list")]
    pub limits: BTreeMap<String, Quantity>,
}

/// The error for an invalid configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PodSettingsError {
    /// The text is not YAML, or a field has the wrong type or an unknown name.
    #[error("{SETTINGS}: {0}")]
    Syntax(String),
    /// A field is misspelt.
    #[error("{0} is not a field; correct or remove it")]
    UnknownField(String),
    /// A resource that a container cannot have.
    #[error("{path}: `{resource}` is not one of cpu, memory and ephemeral-storage")]
    UnknownResource {
        /// The field.
        path: String,
        /// The resource.
        resource: String,
    },
    /// A value is not a quantity.
    #[error("{path}: `{value}` is not a quantity, such as 250m or 512Mi")]
    Quantity {
        /// The field.
        path: String,
        /// The value.
        value: String,
    },
    /// A request is larger than the limit.
    #[error("{path}: the request {request} is larger than the limit {limit}")]
    RequestAboveLimit {
        /// The field with `requests` and `limits`, and the resource.
        path: String,
        /// The request.
        request: String,
        /// The limit.
        limit: String,
    },
}

impl PodSettings {
    /// Parses and validates the configuration. An empty text is the default.
    ///
    /// # Errors
    /// Returns a [`PodSettingsError`] that names the first field that is invalid.
    pub fn from_yaml(text: &str) -> Result<Self, PodSettingsError> {
        let syntax = |error: &dyn std::fmt::Display| PodSettingsError::Syntax(error.to_string());
        let given: Option<Value> = serde_yaml::from_str(text).map_err(|error| syntax(&error))?;
        let Some(given) = given else { return Ok(Self::default()) };
        let settings: Self =
            serde_json::from_value(given.clone()).map_err(|error| syntax(&error))?;
        // The fields of a toleration are those of Kubernetes' own type, which ignores unknown ones.
        let kept = serde_json::to_value(&settings).map_err(|error| syntax(&error))?;
        if let Some(path) = unknown_field(SETTINGS, &given, &kept) {
            return Err(PodSettingsError::UnknownField(path));
        }
        for (path, resources) in [
            ("steps.resources", &settings.steps.resources),
            ("steps.prepare.resources", &settings.steps.prepare.resources),
            ("steps.credentials.resources", &settings.steps.credentials.resources),
            ("checks.resources", &settings.checks.resources),
        ] {
            resources.validate(&format!("{SETTINGS}: {path}"))?;
        }
        Ok(settings)
    }
}

impl StepSettings {
    /// Returns the configured resources of one step: its own, or those of all steps.
    pub(super) fn of<'a>(&'a self, step: &'a StepOverride) -> &'a Resources {
        if step.resources == Resources::default() { &self.resources } else { &step.resources }
    }
}

impl PodSettings {
    /// Returns a short hash of the configuration.
    #[must_use]
    pub fn version(&self) -> String {
        let text = serde_json::to_string(self).unwrap_or_default();
        hex::encode(Sha256::digest(text)).get(..8).unwrap_or_default().to_owned()
    }
}

impl Resources {
    /// Returns the resources of a container: these, or the defaults if none is configured.
    pub(super) fn or_default(
        &self,
        requests: &[(&str, &str)],
        limits: &[(&str, &str)],
    ) -> ResourceRequirements {
        if *self == Self::default() {
            return ResourceRequirements {
                requests: Some(quantities(requests)),
                limits: Some(quantities(limits)),
                ..ResourceRequirements::default()
            };
        }
        let list = |list: &BTreeMap<String, Quantity>| (!list.is_empty()).then(|| list.clone());
        ResourceRequirements {
            requests: list(&self.requests),
            limits: list(&self.limits),
            ..ResourceRequirements::default()
        }
    }

    fn validate(&self, path: &str) -> Result<(), PodSettingsError> {
        for (list, quantities) in [("requests", &self.requests), ("limits", &self.limits)] {
            for (resource, quantity) in quantities {
                let path = format!("{path}.{list}");
                if !RESOURCES.contains(&resource.as_str()) {
                    return Err(PodSettingsError::UnknownResource {
                        path,
                        resource: resource.clone(),
                    });
                }
                if amount(&quantity.0).is_none() {
                    return Err(PodSettingsError::Quantity {
                        path: format!("{path}.{resource}"),
                        value: quantity.0.clone(),
                    });
                }
            }
        }
        let above = self.requests.iter().find_map(|(resource, request)| {
            let limit = self.limits.get(resource)?;
            (amount(&request.0)? > amount(&limit.0)?).then_some((resource, request, limit))
        });
        above.map_or(Ok(()), |(resource, request, limit)| {
            Err(PodSettingsError::RequestAboveLimit {
                path: format!("{path}, {resource}"),
                request: request.0.clone(),
                limit: limit.0.clone(),
            })
        })
    }
}

/// Reads quantities, which may be numbers: `cpu: 1`.
fn quantity_list<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, Quantity>, D::Error> {
    let list = BTreeMap::<String, Value>::deserialize(deserializer)?;
    let quantity = |value: Value| match value {
        Value::String(text) => Quantity(text),
        other => Quantity(other.to_string()),
    };
    Ok(list.into_iter().map(|(name, value)| (name, quantity(value))).collect())
}

/// Returns the amount of a quantity that is not negative, or `None` for any other text.
pub(in crate::builds) fn amount(quantity: &str) -> Option<f64> {
    let digits = quantity.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(quantity.len());
    let (number, suffix) = quantity.split_at(digits);
    let factor = match suffix {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "Pi" => 1024.0 * 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "Ei" => 1024.0 * 1024.0 * 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_typed() {
        assert_eq!(PodSettings::from_yaml(""), Ok(PodSettings::default()));
        assert_eq!(PodSettings::from_yaml("{}"), Ok(PodSettings::default()));
        let settings = PodSettings::from_yaml(
            "steps: {resources: {requests: {cpu: 20m}, limits: {cpu: 1, memory: 1Gi}}}\n\
             checks:\n  tolerations: [{key: a, operator: Exists}]\n  nodeSelector: {b: c}\n",
        )
        .expect("valid");
        let resources = settings.steps.resources.or_default(&[("cpu", "1m")], &[]);
        assert_eq!(resources.requests, Some(quantities(&[("cpu", "20m")])));
        assert_eq!(resources.limits, Some(quantities(&[("cpu", "1"), ("memory", "1Gi")])));
        assert_eq!(settings.checks.tolerations[0].key.as_deref(), Some("a"));
        let defaults = settings.checks.resources.or_default(&[("cpu", "1m")], &[("cpu", "2")]);
        assert_eq!(defaults.requests, Some(quantities(&[("cpu", "1m")])));
        assert_eq!(defaults.limits, Some(quantities(&[("cpu", "2")])));
        let empty = "checks: {resources: {}, priorityClassName: '', tolerations: [], affinity: {}}";
        assert_eq!(PodSettings::from_yaml(empty), Ok(PodSettings::default()));
    }

    #[test]
    fn a_step_has_its_own_resources_or_those_of_all_steps() {
        let steps = PodSettings::from_yaml(
            "steps: {resources: {limits: {cpu: 1}}, prepare: {resources: {limits: {cpu: 2}}}}",
        )
        .expect("valid")
        .steps;
        let limits = |step| steps.of(step).or_default(&[], &[]).limits;
        assert_eq!(limits(&steps.prepare), Some(quantities(&[("cpu", "2")])));
        assert_eq!(limits(&steps.credentials), Some(quantities(&[("cpu", "1")])));
    }

    #[test]
    fn a_mistake_is_rejected_by_name() {
        for (text, said) in [
            ("steps: [", "builds: "),
            ("stages: {}", "unknown field `stages`"),
            ("checks: {colour: blue}", "unknown field `colour`"),
            ("checks: {affinity: {nodes: {}}}", "builds.checks.affinity.nodes is not a"),
            (
                "steps: {prepare: {resources: {limits: {cpu: lots}}}}",
                "steps.prepare.resources.limits.cpu: `lots` is not a quantity",
            ),
            ("checks: {tolerations: [{keys: a}]}", "builds.checks.tolerations[0].keys is not a"),
            (
                "steps: {resources: {limits: {cpus: '1'}}}",
                "steps.resources.limits: `cpus` is not one of cpu, memory",
            ),
            (
                "checks: {resources: {requests: {memory: 64Mb}}}",
                "checks.resources.requests.memory: `64Mb` is not a quantity",
            ),
            ("steps: {resources: {limits: {cpu: ''}}}", "limits.cpu: `` is not a quantity"),
            (
                "steps: {resources: {requests: {memory: 1Gi}, limits: {memory: 1000M}}}",
                "steps.resources, memory: the request 1Gi is larger than the limit 1000M",
            ),
        ] {
            let error = PodSettings::from_yaml(text).expect_err(text).to_string();
            assert!(error.contains(said), "`{said}` is not in: {error}");
        }
    }

    #[test]
    fn quantities_are_compared_by_amount() {
        assert_eq!(amount("0.5"), amount("500m"));
        assert_eq!(amount("1Ki"), Some(1024.0));
        for text in ["", "m", "-1", "1.2.3", "1 Gi", "1gi", "Gi"] {
            assert_eq!(amount(text), None, "{text}");
        }
    }
}
