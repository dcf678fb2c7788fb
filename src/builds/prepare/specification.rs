//! What `prepare` is told, in one environment variable. Never a secret: those are mounted.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    api::{ConfigMapItem, UserNamespace},
    builds::{
        dockerfile::Declared,
        request::{BuildRequest, ResolvedSource, Written},
        template::arguments,
    },
};

/// The environment variable that holds the specification, as JSON.
pub const VARIABLE: &str = "GROUNDSWELL_PREPARE";

/// What `prepare` is told.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Specification {
    /// Whether the pod must run in a user namespace of its own.
    pub user_namespace: UserNamespace,
    /// The reference that is pushed.
    pub image: String,
    /// Where the build context comes from.
    pub source: Source,
    /// The declared edges.
    pub parents: Vec<Declared>,
    /// Build arguments, with those that pin a parent.
    pub args: BTreeMap<String, String>,
    /// The stage to build, if not the last.
    pub target: Option<String>,
    /// Names of the Secrets with registry credentials, in the order in which they are mounted.
    pub credentials: Vec<String>,
    /// The operator's configuration of registries.
    pub registries: serde_json::Value,
}

/// Where a build context comes from.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum Source {
    /// One file.
    Inline {
        /// The Dockerfile itself.
        dockerfile: String,
    },
    /// The mounted `ConfigMap`.
    ConfigMap {
        /// Its name.
        name: String,
        /// Which key becomes which file.
        items: Vec<ConfigMapItem>,
        /// The hash that its files must have.
        hash: String,
    },
    /// A Git repository.
    Git {
        /// The repository.
        url: String,
        /// The commit id.
        commit: String,
        /// The folder that is the build context.
        path: Option<String>,
        /// The Dockerfile's path in the context.
        dockerfile: String,
        /// The name of the mounted Secret, and the hosts that it may be sent to.
        secret: Option<Secret>,
    },
}

/// A mounted Git credential.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Secret {
    /// The Secret's name.
    pub name: String,
    /// The value of its annotation [`CREDENTIAL_HOSTS`](crate::api::labels::CREDENTIAL_HOSTS).
    pub hosts: String,
}

impl Specification {
    /// What `prepare` has to be told for a build.
    #[must_use]
    pub fn new(
        request: &BuildRequest,
        user_namespace: UserNamespace,
        registries: serde_json::Value,
    ) -> Self {
        let parents = request.parents.iter().map(|parent| {
            let (reference, arg) = match &parent.written {
                Written::Reference(reference) => (Some(reference.clone()), None),
                Written::Arg(arg) => (None, Some(arg.clone())),
            };
            Declared {
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
            source: Source::from(&request.source),
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

impl From<&ResolvedSource> for Source {
    fn from(source: &ResolvedSource) -> Self {
        match source {
            ResolvedSource::Inline(dockerfile) => Self::Inline { dockerfile: dockerfile.clone() },
            ResolvedSource::ConfigMap { name, items, hash } => {
                Self::ConfigMap { name: name.clone(), items: items.clone(), hash: hash.clone() }
            }
            ResolvedSource::Git { url, commit, path, dockerfile, secret } => Self::Git {
                url: url.clone(),
                commit: commit.clone(),
                path: path.clone(),
                dockerfile: dockerfile.clone(),
                secret: secret.as_ref().map(|secret| Secret {
                    name: secret.name.clone(),
                    hosts: secret.hosts.clone(),
                }),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_through_a_variable_unchanged_and_without_a_dollar() {
        let request = BuildRequest {
            source: ResolvedSource::Inline("FROM a\nRUN echo $$ $(pwd) ${X} \"q\" \\\n".into()),
            ..BuildRequest::default()
        };
        let specification =
            Specification::new(&request, UserNamespace::Required, serde_json::json!({"a": "$"}));
        let variable = specification.to_variable();
        assert!(!variable.contains('$'));
        assert_eq!(
            serde_json::from_str::<Specification>(&variable).expect("parses"),
            specification
        );
    }
}
