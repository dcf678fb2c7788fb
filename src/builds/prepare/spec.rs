//! What `prepare` is told, in one environment variable. Never a secret: those are mounted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    api::UserNamespace,
    builds::{
        dockerfile::DeclaredEdge,
        request::{BuildRequest, ParentNaming, ResolvedSource},
        template::arguments,
    },
};

/// The environment variable that holds the specification, as JSON.
pub const VARIABLE: &str = "GROUNDSWELL_PREPARE";

/// What `prepare` is told.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PrepareSpec {
    /// Whether the pod must run in a user namespace of its own.
    pub user_namespace: UserNamespace,
    /// The reference that is pushed.
    pub image: String,
    /// Where the build context comes from.
    pub source: ResolvedSource,
    /// The declared edges.
    pub parents: Vec<DeclaredEdge>,
    /// Build arguments, with those that pin a parent.
    pub args: BTreeMap<String, String>,
    /// The stage to build, if not the last.
    pub target: Option<String>,
    /// Names of the Secrets with registry credentials, in the order in which they are mounted.
    pub credentials: Vec<String>,
    /// The operator's configuration of registries.
    pub registries: serde_json::Value,
}

impl PrepareSpec {
    /// What `prepare` has to be told for a build.
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
            source: request.source.clone(),
            parents: parents.collect(),
            args: arguments(request),
            target: request.target.clone(),
            credentials: request.credentials.clone(),
            registries,
        }
    }

    /// The value of [`VARIABLE`]. It has no `$`: the kubelet expands `$(NAME)` and halves `$$` in
    /// the values of variables, and a Dockerfile is full of them.
    #[must_use]
    pub fn to_variable(&self) -> String {
        serde_json::to_string(self).unwrap_or_default().replace('$', "\\u0024")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_through_a_variable_unchanged_and_without_a_dollar() {
        let request = BuildRequest {
            source: ResolvedSource::Inline {
                dockerfile: "FROM a\nRUN echo $$ $(pwd) ${X} \"q\" \\\n".into(),
            },
            ..BuildRequest::default()
        };
        let specification =
            PrepareSpec::new(&request, UserNamespace::Required, serde_json::json!({"a": "$"}));
        let variable = specification.to_variable();
        assert!(!variable.contains('$'));
        assert_eq!(serde_json::from_str::<PrepareSpec>(&variable).expect("parses"), specification);
    }
}
