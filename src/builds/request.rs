//! What one build is asked to make: every input of a build, resolved, and none of its secrets.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::api::{ConfigMapItem, EdgeUse};

/// One build of one image, with everything that it depends on resolved.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BuildRequest {
    /// The family that the image belongs to.
    pub family: FamilyRef,
    /// The image's name in the family.
    pub image: String,
    /// The repository that the image is pushed to, with the registry's host.
    pub repository: String,
    /// The whole reference that is pushed: the repository with a tag that names the fingerprint.
    pub reference: String,
    /// The fingerprint, 40 hexadecimal digits.
    pub fingerprint: String,
    /// Which attempt at the fingerprint this is, from 0.
    pub attempt: i32,
    /// The number that the build will have, counted per image from 1.
    pub build: i64,
    /// The name of the `Cascade` that the build is part of.
    pub cascade: String,
    /// Hash of what the image itself gives to the build, without its parents.
    pub own: String,
    /// Whether the image itself changed or a person asked, rather than something below it.
    pub user_caused: bool,
    /// The references of the upstreams that caused the build.
    pub upstreams: Vec<String>,
    /// The parents, in the order of the image's `from`.
    pub parents: Vec<PinnedParent>,
    /// Where the Dockerfile and the files beside it come from.
    pub source: ResolvedSource,
    /// Build arguments.
    pub args: BTreeMap<String, String>,
    /// The stage to build, if not the last.
    pub target: Option<String>,
    /// Labels for the image.
    pub labels: BTreeMap<String, String>,
    /// OCI annotations for the image's manifest.
    pub annotations: BTreeMap<String, String>,
    /// Names of the family's `kubernetes.io/dockerconfigjson` Secrets.
    pub credentials: Vec<String>,
    /// Whether the registry that is pushed to is spoken to without TLS.
    pub plain_http: bool,
    /// What the Job belongs to, so that it goes when the family goes.
    pub owner: OwnerReference,
}

/// A family, as far as a build knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FamilyRef {
    /// Its namespace, in which the build runs.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, so that a family made anew under the same name never takes over an old one's Jobs.
    pub uid: String,
}

/// A parent and the digest that this build must stand on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PinnedParent {
    /// The parent's name in the family.
    pub name: String,
    /// The parent's repository, with the registry's host and without a tag.
    pub repository: String,
    /// Its digest.
    pub digest: String,
    /// How the Dockerfile names it.
    pub written: Written,
    /// What the Dockerfile does with it.
    pub usage: EdgeUse,
}

impl PinnedParent {
    /// The reference that the build takes instead of the written one: `repository@sha256:...`.
    #[must_use]
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}

/// How a Dockerfile names a parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// As this reference, with its default filled in.
    Reference(String),
    /// By this build argument.
    Arg(String),
}

impl Default for Written {
    fn default() -> Self {
        Self::Reference(String::new())
    }
}

/// Where a Dockerfile and the files beside it come from, as resolved before the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolvedSource {
    /// The Dockerfile itself.
    Inline(String),
    /// A `ConfigMap` of the family's namespace.
    ConfigMap {
        /// Its name.
        name: String,
        /// Which key becomes which file; all keys under their own names, if empty.
        items: Vec<ConfigMapItem>,
        /// Hash of the files, as
        /// [`source::config_map_hash`](crate::builds::source::config_map_hash) tells it.
        hash: String,
    },
    /// A commit of a Git repository.
    Git {
        /// The repository.
        url: String,
        /// The commit id, 40 hexadecimal digits.
        commit: String,
        /// The folder that is the build context; the root, if `None`.
        path: Option<String>,
        /// The Dockerfile's path in the build context.
        dockerfile: String,
        /// The Secret with the credential, and the hosts that its annotation lists.
        secret: Option<GitSecret>,
    },
}

impl Default for ResolvedSource {
    fn default() -> Self {
        Self::Inline(String::new())
    }
}

/// A Secret with a Git credential, by name: its content never passes through a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitSecret {
    /// The Secret's name.
    pub name: String,
    /// The value of its annotation [`CREDENTIAL_HOSTS`](crate::api::labels::CREDENTIAL_HOSTS).
    pub hosts: String,
}
