//! Checks: from (image, digest, check) to a Job, and from that Job and its pods to a verdict.
//!
//! A check runs in the new image itself, or in another one that looks at it. It is untrusted, as a
//! build is: it gets no service account token, no capability, and no credential but one for the
//! image that it looks at.
//!
//! - [`job`]: the Job
//! - [`outcome`]: the verdict
//! - [`credentials`]: the first step of a check in another image, from the operator's own image

pub mod credentials;
pub mod job;
pub mod outcome;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::{
    api::{Check, Duration, UserNamespace},
    builds::request::FamilyIdentity,
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
    /// What the spec says of the check.
    pub check: Check,
    /// Hash of what the spec says of the check, so that a check that was changed is another one.
    pub revision: String,
    /// Which attempt this is, from 0.
    pub attempt: i32,
    /// Names of the family's `kubernetes.io/dockerconfigjson` Secrets.
    pub credentials: Vec<String>,
    /// Whether the check must run in a user namespace of its own, as the image's builds must.
    pub user_namespace: UserNamespace,
    /// How long the ended Job, with its pod and its log, is kept.
    pub ttl_after_finished: Duration,
    /// What the Job belongs to, so that it goes when the family goes.
    pub owner: OwnerReference,
}

impl CheckRequest {
    /// The new image, by its digest.
    #[must_use]
    pub fn pinned(&self) -> String {
        format!("{}@{}", self.repository, self.digest)
    }
}
