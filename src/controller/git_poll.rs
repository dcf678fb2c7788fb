//! How the poller reads the folders of Git sources. Needs a client, to read credentials.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};
use url::Url;

use crate::{
    api::{GitSource, condition::Reason, labels},
    builds::git::{FolderAnswer, GitCredential, GitError, WantedFolders, subprocess::Resolver},
    controller::{
        error::call,
        folder_poller::{GitAnswer, GitPoll},
    },
    engine::Problem,
};

/// A branch, tag or commit of a repository, and the credential with which it is polled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GitKey {
    /// The repository.
    pub url: String,
    /// The branch, tag or commit.
    pub revision: String,
    /// The Secret with the credential.
    pub secret: Option<GitSecretKey>,
}

/// A Secret in one version. A changed Secret is another key, and namespaces never share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GitSecretKey {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// The resource version; empty if the Secret does not exist.
    pub version: String,
}

impl GitKey {
    /// Returns the key of a source; `version` is that of its Secret.
    #[must_use]
    pub fn new(namespace: &str, source: &GitSource, version: Option<String>) -> Self {
        let secret = source.secret_ref.as_ref();
        Self {
            url: source.url.clone(),
            revision: source.revision.clone(),
            secret: secret.map(|secret| GitSecretKey {
                namespace: namespace.into(),
                name: secret.name.clone(),
                version: version.unwrap_or_default(),
            }),
        }
    }
}

impl GitKey {
    /// Returns the host that is polled, with its port if the URL has one.
    #[must_use]
    pub fn host(&self) -> String {
        let url = Url::parse(&self.url).ok();
        let host = url.as_ref().and_then(|url| Some((url.host_str()?, url.port())));
        match host {
            Some((host, Some(port))) => format!("{host}:{port}"),
            Some((host, None)) => host.to_owned(),
            None => String::new(),
        }
    }
}

/// Reads the folders of a repository, unless its revision has not moved.
pub async fn read_folders(
    client: Client,
    resolver: &Resolver,
    poll: GitPoll,
) -> Result<Arc<GitAnswer>, Problem> {
    let GitPoll { key, folders, last } = poll;
    let credential = match &key.secret {
        None => None,
        Some(secret) => Some(credential(&client, secret, &key.url).await?),
    };
    let wanted = WantedFolders {
        url: &key.url,
        revision: &key.revision,
        credential: credential.as_ref(),
        known: last.as_ref().map(|last| last.commit.as_str()),
        folders: &folders,
        addresses: None,
    };
    let answer = resolver.read(&wanted).await.map_err(|error| problem(&error))?;
    Ok(Arc::new(match answer {
        FolderAnswer::Unmoved => {
            let last = last.as_deref().cloned().unwrap_or_default();
            let mut known = last.folders;
            known.retain(|folder, _| folders.contains(folder));
            GitAnswer { commit: last.commit, folders: known }
        }
        FolderAnswer::Read { commit, folders: revisions } => {
            let revisions = revisions.into_iter().map(|revision| revision.map(Arc::new));
            GitAnswer { commit, folders: folders.into_iter().zip(revisions).collect() }
        }
    }))
}

fn problem(error: &GitError) -> Problem {
    let reason = match error {
        GitError::NotFound { .. } => Reason::SourceNotFound,
        GitError::TooLarge { .. }
        | GitError::Unsafe { .. }
        | GitError::Unavailable { .. }
        | GitError::Disk { .. } => Reason::SourceUnavailable,
        GitError::Credential { .. } => Reason::InvalidSecret,
        GitError::Refused { .. } => Reason::AddressNotAllowed,
    };
    Problem { reason, message: error.to_string() }
}

async fn credential(
    client: &Client,
    key: &GitSecretKey,
    url: &str,
) -> Result<GitCredential, Problem> {
    let GitSecretKey { namespace, name, .. } = key;
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = call(|| format!("read Secret {namespace}/{name}"), api.get(name)).await.map_err(
        |error| {
            let reason = if error.is_not_found() {
                Reason::SecretNotFound
            } else {
                Reason::SourceUnavailable
            };
            Problem { reason, message: format!("source.git.secretRef: {error}") }
        },
    )?;
    let hosts = secret.annotations().get(labels::CREDENTIAL_HOSTS).cloned();
    let data =
        secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect();
    GitCredential::from_secret(name, &data, hosts.as_deref(), url).map_err(|error| problem(&error))
}
