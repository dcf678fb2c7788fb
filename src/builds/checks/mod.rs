//! Jobs of checks: turns (image, digest, check) into a Job, and that Job with its pods into a
//! verdict. (`dockerfile::edges` compares a Dockerfile with the declared edges, which is no check
//! in this sense.)
//!
//! A check runs in the new image itself, or in another image that inspects the new one. It is
//! untrusted, like a build: it gets no service account token and no capability. The kubelet pulls
//! the images of all checks with the family's credentials. The container of a check in the new
//! image gets no credential. The container of a check in another image gets one: the credential for
//! the new image, which an init container takes from those of the family's Secrets that cannot
//! push.
//!
//! - [`job`]: the Job of a check
//! - [`outcome`]: the verdict
//! - [`credentials`]: the init container of a check in another image, from the operator's own image

pub mod credentials;
pub mod job;
pub mod outcome;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::{
    api::{Check, Duration, RegistryCredential, UserNamespace},
    builds::request::FamilyIdentity,
    registry::Platform,
};

/// One attempt at one check of one digest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CheckRequest {
    /// The family that the image belongs to.
    pub family: FamilyIdentity,
    /// The image's name in the family.
    pub image: String,
    /// The image's repository, with the registry's host.
    pub repository: String,
    /// The digest that is checked.
    pub digest: String,
    /// The check as the spec declares it. Its image, if it has one, has a digest.
    pub check: Check,
    /// The platform of the image, and of the nodes that may run the check.
    pub platform: Platform,
    /// Hash of the check's declaration. A check that was changed counts as another check.
    pub revision: String,
    /// The attempt at this check, counted from 0.
    pub attempt: i32,
    /// The family's Secrets with registry credentials.
    pub credentials: Vec<RegistryCredential>,
    /// Whether the check must run in a user namespace of its own. The image's strategy decides this
    /// for builds and checks alike.
    pub user_namespace: UserNamespace,
    /// How long the finished Job is kept, with its pod and its log.
    pub ttl_after_finished: Duration,
    /// The owner of the Job, so that the Job is deleted with the family.
    pub owner: OwnerReference,
}

impl CheckRequest {
    /// Returns the reference of the new image: `repository@sha256:...`.
    #[must_use]
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}
