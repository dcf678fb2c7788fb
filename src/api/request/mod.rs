//! Requests: the action of a [`FamilyRequest`], as the engine reads it.
//!
//! The schema checks what a request may consist of. The conversion here checks it again, because an
//! object may be older than the schema. The engine checks whether the image exists, whether a
//! digest is still the candidate, and whether `until` is in the future.

use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{FamilyRequest, FamilyRequestSpec};

/// A user's request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Name of its object. A request is carried out once per object.
    pub name: String,
    /// Time at which the object was created. Of two requests, the later one is stronger; if both
    /// were created in the same second, the one whose name is later.
    pub created: Timestamp,
    /// Name of the requesting user, as given in the request and not verified.
    pub by: Option<String>,
    /// Why it is requested.
    pub reason: Option<String>,
    /// The action and its arguments.
    pub action: RequestedAction,
}

/// A requested action and its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestedAction {
    /// Starts stale builds now, without the quiet time.
    Trigger(RequestScope),
    /// Clears recorded failures, so that failed images are built again.
    Retry(RequestScope),
    /// Stops builds. They are not retried until an input changes or a retry is requested.
    Cancel(RequestScope),
    /// Builds images even if they are current. The request's [nonce](Request::nonce) changes their
    /// fingerprint.
    Force(RequestScope),
    /// Holds an image or an upstream.
    Hold {
        /// What is held.
        target: HoldTarget,
        /// Digest that builds use while the hold lasts, for an upstream. Defaults to the one in
        /// use.
        digest: Option<String>,
        /// Time at which the hold ends, if it ends without a request.
        until: Option<Timestamp>,
    },
    /// Ends the holds that requests have set.
    Unhold(HoldTarget),
    /// Moves floating tags to an earlier build, and holds the images there.
    Rollback {
        /// The image, alone or with those that are built on it.
        scope: RequestScope,
        /// Digest of the recorded build that the image goes back to.
        digest: String,
        /// Whether workloads go back as well.
        rollout: bool,
    },
    /// Approves a digest of an upstream whose `approval` is `Manual`.
    Approve {
        /// Name of the upstream.
        upstream: String,
        /// Digest to approve. If another digest is the candidate by then, it is not approved.
        digest: String,
    },
}

/// What a hold applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HoldTarget {
    /// The image of this name.
    Image(String),
    /// The upstream of this name.
    Upstream(String),
}

/// The images that an action applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestScope {
    /// All images of the family.
    Family,
    /// One image.
    Image(String),
    /// One image and all images that are built on it.
    Subtree(String),
}

/// Name of an action, as written in a request.
#[derive(
    JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
)]
pub enum ActionName {
    /// Starts stale builds now, without the quiet time.
    Trigger,
    /// Clears recorded failures.
    Retry,
    /// Stops builds.
    Cancel,
    /// Holds an image or an upstream.
    Hold,
    /// Ends a hold.
    Unhold,
    /// Approves a candidate.
    Approve,
    /// Builds images even if they are current.
    Force,
    /// Moves floating tags to an earlier build, and holds the images there.
    Rollback,
}

/// Reason why an object is not a request. Each message says what is wrong and what to write.
#[derive(thiserror::Error, Clone, Debug, PartialEq, Eq)]
pub enum RequestError {
    /// The request has a field that its action does not use.
    #[error("{action} does not take `{field}`: create a request without it")]
    NotTaken {
        /// Name of the action.
        action: &'static str,
        /// Name of the field.
        field: &'static str,
    },
    /// A field is missing.
    #[error("{action} needs {needed}")]
    Missing {
        /// Name of the action.
        action: &'static str,
        /// What to add.
        needed: &'static str,
    },
}

impl Request {
    /// Reads the request of an object.
    pub fn of(object: &FamilyRequest) -> Result<Self, RequestError> {
        let action = RequestedAction::of(&object.spec)?;
        if matches!(action, RequestedAction::Rollback { .. }) && object.spec.reason.is_none() {
            return Err(RequestError::Missing { action: "Rollback", needed: "`reason`" });
        }
        Ok(Self {
            name: object.name_any(),
            created: object.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            by: object.spec.by.clone(),
            reason: object.spec.reason.clone(),
            action,
        })
    }

    /// Returns the nonce with which `Force` changes fingerprints and `Retry` clears failures: the
    /// time and the name of the request. Of two nonces, that of the later request is greater, so
    /// that an earlier request never undoes what a later one has done.
    #[must_use]
    pub fn nonce(&self) -> String {
        format!("{:.0}/{}", self.created, self.name)
    }

    /// Whether the request is earlier than the one with this recorded nonce.
    #[must_use]
    pub fn is_earlier_than(&self, nonce: &str) -> bool {
        let is_time = |text: &str| text.parse::<Timestamp>().is_ok();
        let has_time = nonce.split_once('/').is_some_and(|(time, _)| is_time(time));
        has_time && self.nonce().as_str() < nonce
    }
}

/// Returns the name of the request with this nonce.
#[must_use]
pub fn name_of_nonce(nonce: &str) -> &str {
    nonce.split_once('/').map_or(nonce, |(_, name)| name)
}

impl RequestedAction {
    /// Reads the action of a spec.
    pub fn of(spec: &FamilyRequestSpec) -> Result<Self, RequestError> {
        use ActionName::{Approve, Cancel, Force, Hold, Retry, Rollback, Trigger, Unhold};
        let FamilyRequestSpec { action, image, subtree, rollout, upstream, digest, until, .. } =
            spec;
        let missing = |needed| RequestError::Missing { action: action.as_str(), needed };
        let is_hold = matches!(action, Hold | Unhold);
        let takes = [
            ("image", image.is_some(), *action != Approve && !(is_hold && upstream.is_some())),
            ("subtree", *subtree, !is_hold && *action != Approve),
            ("upstream", upstream.is_some(), is_hold || *action == Approve),
            (
                "digest",
                digest.is_some(),
                matches!(action, Approve | Rollback) || *action == Hold && upstream.is_some(),
            ),
            ("rollout", *rollout, *action == Rollback),
            ("until", until.is_some(), *action == Hold),
        ];
        if let Some((field, ..)) = takes.into_iter().find(|(_, is_set, taken)| *is_set && !taken) {
            return Err(RequestError::NotTaken { action: action.as_str(), field });
        }
        let scope = || match (image.clone(), subtree) {
            (None, false) => Ok(RequestScope::Family),
            (Some(image), false) => Ok(RequestScope::Image(image)),
            (Some(image), true) => Ok(RequestScope::Subtree(image)),
            (None, true) => Err(missing(
                "`image` with `subtree`: name the image, or remove `subtree` for the whole family",
            )),
        };
        let target = || match (image.clone(), upstream.clone()) {
            (Some(image), None) => Ok(HoldTarget::Image(image)),
            (None, Some(upstream)) => Ok(HoldTarget::Upstream(upstream)),
            _ => Err(missing("either `image` or `upstream`")),
        };
        Ok(match action {
            Trigger => Self::Trigger(scope()?),
            Retry => Self::Retry(scope()?),
            Cancel => Self::Cancel(scope()?),
            Force => Self::Force(scope()?),
            Hold => Self::Hold { target: target()?, digest: digest.clone(), until: *until },
            Unhold => Self::Unhold(target()?),
            Rollback => Self::Rollback {
                scope: match scope()? {
                    RequestScope::Family => return Err(missing("`image`")),
                    scope => scope,
                },
                digest: digest.clone().ok_or_else(|| {
                    missing("`digest`: copy it from the history in the status of the ManagedImage")
                })?,
                rollout: *rollout,
            },
            Approve => Self::Approve {
                upstream: upstream.clone().ok_or_else(|| missing("`upstream`"))?,
                digest: digest.clone().ok_or_else(|| {
                    missing(
                        "`digest`: copy the candidate's digest from the family's status, so that \
                         only a digest that you have checked is approved",
                    )
                })?,
            },
        })
    }

    /// Returns the spec of a request for this action on a family.
    #[must_use]
    pub fn into_spec(self, family: &str) -> FamilyRequestSpec {
        let mut spec = FamilyRequestSpec {
            family: family.into(),
            action: self.name(),
            image: None,
            subtree: false,
            rollout: false,
            upstream: None,
            digest: None,
            until: None,
            reason: None,
            by: None,
        };
        let set_target = |spec: &mut FamilyRequestSpec, target| match target {
            HoldTarget::Image(image) => spec.image = Some(image),
            HoldTarget::Upstream(upstream) => spec.upstream = Some(upstream),
        };
        let set_scope = |spec: &mut FamilyRequestSpec, scope| {
            spec.subtree = matches!(scope, RequestScope::Subtree(_));
            spec.image = match scope {
                RequestScope::Family => None,
                RequestScope::Image(image) | RequestScope::Subtree(image) => Some(image),
            };
        };
        match self {
            Self::Trigger(scope)
            | Self::Retry(scope)
            | Self::Cancel(scope)
            | Self::Force(scope) => set_scope(&mut spec, scope),
            Self::Rollback { scope, digest, rollout } => {
                set_scope(&mut spec, scope);
                (spec.digest, spec.rollout) = (Some(digest), rollout);
            }
            Self::Hold { target, digest, until } => {
                set_target(&mut spec, target);
                (spec.digest, spec.until) = (digest, until);
            }
            Self::Unhold(target) => set_target(&mut spec, target),
            Self::Approve { upstream, digest } => {
                (spec.upstream, spec.digest) = (Some(upstream), Some(digest));
            }
        }
        spec
    }

    /// Returns the name of the action.
    #[must_use]
    pub const fn name(&self) -> ActionName {
        match self {
            Self::Trigger(_) => ActionName::Trigger,
            Self::Retry(_) => ActionName::Retry,
            Self::Cancel(_) => ActionName::Cancel,
            Self::Force(_) => ActionName::Force,
            Self::Rollback { .. } => ActionName::Rollback,
            Self::Hold { .. } => ActionName::Hold,
            Self::Unhold(_) => ActionName::Unhold,
            Self::Approve { .. } => ActionName::Approve,
        }
    }

    /// Whether the action starts builds, so that such a request may have to wait.
    #[must_use]
    pub const fn starts_builds(&self) -> bool {
        matches!(self, Self::Trigger(_) | Self::Retry(_) | Self::Force(_))
    }
}

impl ActionName {
    /// Returns the action as requests write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trigger => "Trigger",
            Self::Retry => "Retry",
            Self::Cancel => "Cancel",
            Self::Hold => "Hold",
            Self::Unhold => "Unhold",
            Self::Approve => "Approve",
            Self::Force => "Force",
            Self::Rollback => "Rollback",
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
