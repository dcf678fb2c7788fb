//! The input of `prepare`, in one environment variable. It never contains a secret: Secrets are
//! mounted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use serde::{Deserialize, Serialize};

use crate::{
    api::{RegistryCredential, UserNamespace},
    builds::{
        dockerfile::DeclaredEdge,
        pod_paths::CONTEXTS,
        request::{BuildRequest, ResolvedSource},
        template::arguments,
    },
    identity::ParentNaming,
    registry::CaBundle,
};

/// The environment variable with the [`PrepareSpec`], as JSON.
pub const PREPARE_VARIABLE: &str = "GROUNDSWELL_PREPARE";

/// The input of `prepare` for one build.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrepareSpec {
    /// Whether the pod must run in a user namespace of its own.
    pub user_namespace: UserNamespace,
    /// The reference that the build pushes.
    pub image: String,
    /// The platform of the image.
    pub platform: String,
    /// The source of the build context.
    pub source: ResolvedSource,
    /// The declared edges.
    pub parents: Vec<DeclaredEdge>,
    /// Build arguments, including those that pin a parent.
    pub args: BTreeMap<String, String>,
    /// The stage to build, or `None` for the last one.
    pub target: Option<String>,
    /// The Secrets with registry credentials, in the order in which they are mounted.
    pub credentials: Vec<RegistryCredential>,
    /// The operator's configuration of registries.
    pub registries: serde_json::Value,
    /// Whether the builder reads the named contexts that `prepare` writes.
    #[serde(default)]
    pub strategy_reads_contexts: bool,
    /// Private certificate authorities in PEM; empty without any.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca_bundle: String,
}

impl PrepareSpec {
    /// Returns the input of `prepare` for a build.
    #[must_use]
    pub fn new(
        request: &BuildRequest,
        user_namespace: UserNamespace,
        registries: serde_json::Value,
    ) -> Self {
        let parents = request.parents.iter().map(|parent| {
            let (reference, arg) = match &parent.naming {
                ParentNaming::Reference(reference) => (Some(reference.clone()), None),
                ParentNaming::Arg(arg) => (None, Some(arg.clone())),
            };
            DeclaredEdge {
                name: parent.name.clone(),
                pinned: parent.pinned(),
                reference,
                arg,
                usage: parent.usage,
            }
        });
        Self {
            user_namespace,
            image: request.reference.clone(),
            platform: request.platform.to_string(),
            source: request.source.clone(),
            parents: parents.collect(),
            args: arguments(request),
            target: request.target.clone(),
            credentials: request.credentials.clone(),
            registries,
            strategy_reads_contexts: false,
            ca_bundle: String::new(),
        }
    }

    /// Returns the input for the builder of a rendered pod.
    #[must_use]
    pub fn with_builder(self, pod: &PodSpec) -> Self {
        let pod = serde_json::to_string(pod).unwrap_or_default();
        Self { strategy_reads_contexts: pod.contains(CONTEXTS), ..self }
    }

    /// Returns the input with private certificate authorities.
    #[must_use]
    pub fn with_ca_bundle(self, bundle: &CaBundle) -> Self {
        Self { ca_bundle: bundle.pem().to_owned(), ..self }
    }

    /// Returns the value of [`PREPARE_VARIABLE`]. It contains no `$`, because the kubelet expands
    /// `$(NAME)` and halves `$$` in the values of variables, and both are common in Dockerfiles.
    #[must_use]
    pub fn to_variable(&self) -> String {
        serde_json::to_string(self).unwrap_or_default().replace('$', "\\u0024")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_its_variable_and_the_variable_has_no_dollar() {
        let request = BuildRequest {
            source: ResolvedSource::Inline {
                dockerfile: "FROM a\nRUN echo $$ $(pwd) ${X} \"q\" \\\n".into(),
            },
            ..BuildRequest::default()
        };
        let spec =
            PrepareSpec::new(&request, UserNamespace::Required, serde_json::json!({"a": "$"}));
        let variable = spec.to_variable();
        assert!(!variable.contains('$'));
        assert_eq!(serde_json::from_str::<PrepareSpec>(&variable).expect("parses"), spec);
    }
}
