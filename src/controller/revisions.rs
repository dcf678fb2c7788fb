//! The revisions of Git sources, as the poller asks for them.

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};

use super::error::call;
use crate::{
    api::{GitSource, condition::reason},
    build::git::{self, GitCredential},
    engine::Fault,
};

/// A branch or tag of a repository, and with whose credential it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GitKey {
    /// The repository.
    pub url: String,
    /// The branch, tag or commit.
    pub revision: String,
    /// Namespace, name and version of the Secret: a changed one is another key, and never shared across namespaces.
    pub secret: Option<(String, String, String)>,
}

impl GitKey {
    /// The key of a source; `version` is that of its Secret.
    #[must_use]
    pub fn new(namespace: &str, source: &GitSource, version: Option<String>) -> Self {
        let secret = source.secret_ref.as_ref();
        Self {
            url: source.url.clone(),
            revision: source.revision.clone(),
            secret: secret.map(|secret| (namespace.into(), secret.name.clone(), version.unwrap_or_default())),
        }
    }
}

/// Asks the repository for the commit.
pub async fn resolve(client: Client, key: GitKey) -> Result<String, Fault> {
    let credential = match &key.secret {
        None => None,
        Some((namespace, name, _)) => Some(credential(&client, namespace, name, &key.url).await?),
    };
    git::resolve(&key.url, &key.revision, credential.as_ref())
        .await
        .map_err(|error| Fault { reason: error.reason(), message: error.to_string() })
}

async fn credential(client: &Client, namespace: &str, name: &str, url: &str) -> Result<GitCredential, Fault> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = call(|| format!("read Secret {namespace}/{name}"), api.get(name)).await.map_err(|error| {
        let reason = if error.is_not_found() { reason::SECRET_NOT_FOUND } else { reason::SOURCE_UNAVAILABLE };
        Fault { reason, message: format!("source.git.secretRef: {error}") }
    })?;
    let data = secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
    let annotations = secret.metadata.annotations.unwrap_or_default();
    GitCredential::from_secret(name, &data, &annotations, url)
        .map_err(|error| Fault { reason: error.reason(), message: error.to_string() })
}
