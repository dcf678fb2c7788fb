//! The request for one build: every input of the build, resolved, and none of its secrets.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::{Deserialize, Serialize};

use crate::{
    api::{ConfigMapItem, RegistryCredential},
    builds::pod_paths::DOCKERFILE,
    identity::{BuildIdentity, PinnedParent},
    registry::Platform,
};

/// One build of one image, with all of its inputs resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuildRequest {
    /// The family that the image belongs to.
    pub family: FamilyIdentity,
    /// The image's name in the family.
    pub image: String,
    /// The repository that the image is pushed to, with the registry's host.
    pub repository: String,
    /// The reference that the build pushes: the repository with a tag that names the fingerprint.
    pub reference: String,
    /// Which build it is, and what it is started for.
    pub identity: BuildIdentity,
    /// The platform of the image, and of the nodes that may build it.
    pub platform: Platform,
    /// The parents, in the order of the image's `from`.
    pub parents: Vec<PinnedParent>,
    /// The source of the build context.
    pub source: ResolvedSource,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to build, or `None` for the last one.
    pub target: Option<String>,
    /// Labels for the image.
    pub labels: BTreeMap<String, String>,
    /// OCI annotations for the image's manifest.
    pub annotations: BTreeMap<String, String>,
    /// The family's Secrets with registry credentials.
    pub credentials: Vec<RegistryCredential>,
    /// Whether the registry of `repository` is reached without TLS.
    pub plain_http: bool,
    /// Whether nothing of the build may come from a cache: it is to fetch what has changed outside
    /// of its inputs.
    pub no_cache: bool,
    /// The owner of the Job, so that the Job is deleted with the family.
    pub owner: OwnerReference,
}

/// A family, as far as a build knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyIdentity {
    /// The namespace of the family, in which the build runs.
    pub namespace: String,
    /// The name of the family.
    pub name: String,
    /// The uid of the family. A family that is recreated under the same name never takes over the
    /// Jobs of the old one.
    pub uid: String,
}

/// Where a build context comes from: fixed when the build is requested, and passed unchanged to
/// `prepare`.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(
    tag = "type",
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub enum ResolvedSource {
    /// A Dockerfile and no other file.
    Inline {
        /// The text of the Dockerfile.
        dockerfile: String,
    },
    /// A `ConfigMap` of the family's namespace, mounted into `prepare`.
    ConfigMap {
        /// The name of the `ConfigMap`.
        name: String,
        /// Which key becomes which file. If empty, every key becomes a file of its own name.
        items: Vec<ConfigMapItem>,
        /// The hash that the files must have, as
        /// [`config_map_hash`](crate::builds::config_map::config_map_hash) returns it.
        hash: String,
    },
    /// A commit of a Git repository.
    Git {
        /// The URL of the repository.
        url: String,
        /// The commit id, 40 hexadecimal digits.
        commit: String,
        /// The folder that is the build context, or `None` for the root.
        path: Option<String>,
        /// The Dockerfile's path in the build context.
        dockerfile: String,
        /// Globs of the files that are the build context; all if empty.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        include: Vec<String>,
        /// Globs of the files that are left out.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        exclude: Vec<String>,
        /// Whether submodules are fetched.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        submodules: bool,
        /// Whether files of Git LFS are fetched.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        lfs: bool,
        /// The Secret with the credential, and the hosts that it may be sent to.
        secret: Option<GitSecret>,
    },
}

impl ResolvedSource {
    /// The Dockerfile's path in the build context.
    #[must_use]
    pub fn dockerfile_path(&self) -> &str {
        match self {
            Self::Inline { .. } | Self::ConfigMap { .. } => DOCKERFILE,
            Self::Git { dockerfile, .. } => dockerfile,
        }
    }
}

impl Default for ResolvedSource {
    fn default() -> Self {
        Self::Inline { dockerfile: String::new() }
    }
}

/// A Secret with a Git credential, by name. Its content never passes through a request: `prepare`
/// reads it from a mount.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct GitSecret {
    /// The name of the Secret.
    pub name: String,
    /// The value of its annotation [`CREDENTIAL_HOSTS`](crate::api::labels::CREDENTIAL_HOSTS).
    pub hosts: String,
}
