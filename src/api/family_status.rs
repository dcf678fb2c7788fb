//! The status of an `ImageFamily`: a summary of bounded size that never lists every image.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{ImageState, condition::Reason, late_source::LateSource};

/// Maximum number of entries of [`ImageFamilyStatus::attention`].
pub const MAX_ATTENTION: usize = 20;

/// Maximum number of entries of [`UpstreamStatus::superseded`].
pub const MAX_SUPERSEDED: usize = 16;

/// Maximum number of entries of [`UpstreamStatus::waiting`].
pub const MAX_WAITING: usize = 5;

/// Maximum number of platforms of [`AdoptedDigest::platforms`] and [`CandidateDigest::platforms`].
pub const MAX_PLATFORM_DIGESTS: usize = 8;

/// Summary of a family, written by the controller. Each image has its own `ManagedImage`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageFamilyStatus {
    /// Generation of the spec that this status refers to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Conditions `Ready`, `Reconciling` and `Stalled`.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// Platform of the builds whose strategy names none, as `os/architecture`. It is fixed by the
    /// first of them. An image that has a build for another platform keeps that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,

    /// State of each upstream.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub upstreams: Vec<UpstreamStatus>,

    /// Number of images in each state.
    pub counts: ImageCounts,

    /// Changes for which no cascade has started yet, because `policy.settle` has not passed or
    /// something else prevents the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,

    /// Cascades that are running, the oldest first. Several run only if they have no image in
    /// common. At most 32 entries.
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub cascades: Vec<RunningCascade>,

    /// State of `policy.windows`. Not set without windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<WindowStatus>,

    /// Why no further build of a cause starts. Set while the breaker is open; if it is open for
    /// several causes, this is the one whose trial build comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStatus>,

    /// Images that need a user to change something. Lists the first 20.
    #[schemars(length(max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    pub attention: Vec<Attention>,

    /// Git sources whose next poll is more than a minute later than `interval` asks for: others
    /// come first at the rate of the host, or polls have failed. Lists the first 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub late_sources: Vec<LateSource>,

    /// Installation of Groundswell that serves the family: the namespace of its Lease. Another
    /// installation leaves the family alone as long as that Lease is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installation: Option<String>,
}

/// State of an upstream.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct UpstreamStatus {
    /// Name of the upstream.
    pub name: String,

    /// Reference that is watched, as `<image>:<tag>`.
    pub reference: String,

    /// Digest that builds use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adopted: Option<AdoptedDigest>,

    /// Newer digest that builds do not use yet, and that is adopted next: the newest one. With
    /// `minimumAge`, it is the newest one that is old enough, or else the oldest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidate: Option<CandidateDigest>,

    /// Other digests that the tag has pointed to since the adopted one, newest first, if
    /// `minimumAge` is set. They become candidates as they get older, unless the tag goes back to
    /// an earlier one. At most 5 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "atomic"))]
    pub waiting: Vec<CandidateDigest>,

    /// Time since which the tag has pointed to other digests than the adopted one, whichever they
    /// were. Not set while there is no candidate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub outdated_since: Option<Timestamp>,

    /// Digest that a user approved, if `approval` is `Manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalRecord>,

    /// Hold that a `FamilyRequest` has set. It lasts as long as that object is `Active`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold: Option<ManualHold>,

    /// Digests of tag and images that builds used before the adopted ones, newest first. If the tag
    /// points to one of them again, it is adopted after 24 hours or when a user approves it. At
    /// most 16 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub superseded: Vec<String>,

    /// Reason constant that explains why the candidate is not adopted, or why no digest could be
    /// looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Human-readable explanation of `reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,

    /// Time at which the tag is polled next. Set only if that is more than a minute later than
    /// `interval` asks for: other polls come first at the rate of the registry, or polls have
    /// failed. It is an estimate, and not set again before it has passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub next_poll: Option<Timestamp>,
}

impl UpstreamStatus {
    /// Returns the reason, or `None` if there is none or another version has recorded it.
    #[must_use]
    pub fn known_reason(&self) -> Option<Reason> {
        Reason::parse(self.reason.as_deref()?)
    }
}

/// Digest of an upstream that builds use.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct AdoptedDigest {
    /// Digest that the tag itself points to.
    pub digest: String,

    /// Digests of the images for the platforms that are built, if the tag points to an index. Each
    /// build uses that of its own platform. If the list is empty, all builds use `digest`. At most
    /// 8 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub platforms: Vec<PlatformDigest>,

    /// Time at which the digest was first observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub first_observed: Option<Timestamp>,

    /// Time at which builds began to use the digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,
}

/// Digest of an upstream that was observed and that builds do not use yet.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct CandidateDigest {
    /// Digest that the tag itself points to.
    pub digest: String,

    /// Digests of the images for the platforms that are built, if the tag points to an index. At
    /// most 8 entries.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub platforms: Vec<PlatformDigest>,

    /// Time at which the digest was first observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub first_observed: Option<Timestamp>,

    /// Whether it lacks an image for a platform that it must offer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub incomplete: bool,
}

/// Image of an upstream for one platform.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct PlatformDigest {
    /// Platform, as `os/architecture` or `os/architecture/variant`.
    pub platform: String,

    /// Digest of the image.
    pub digest: String,
}

/// What the tag of an upstream points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagContent<'a> {
    /// The digest of the tag itself.
    pub digest: &'a str,
    /// The digests of its images by platform; empty if builds use `digest`.
    pub platforms: &'a [PlatformDigest],
}

impl UpstreamStatus {
    /// Returns the digests that were observed since the adopted one, newest first.
    #[must_use]
    pub fn observed(&self) -> Vec<&CandidateDigest> {
        let mut observed: Vec<&CandidateDigest> = self.waiting.iter().collect();
        if let Some(candidate) = &self.candidate {
            let is_older =
                |other: &&CandidateDigest| other.first_observed <= candidate.first_observed;
            let position = observed.iter().position(is_older).unwrap_or(observed.len());
            observed.insert(position, candidate);
        }
        observed
    }
}

impl AdoptedDigest {
    /// Returns what the tag pointed to when it was adopted.
    #[must_use]
    pub fn content(&self) -> TagContent<'_> {
        TagContent { digest: &self.digest, platforms: &self.platforms }
    }
}

impl CandidateDigest {
    /// Returns what the tag points to.
    #[must_use]
    pub fn content(&self) -> TagContent<'_> {
        TagContent { digest: &self.digest, platforms: &self.platforms }
    }
}

impl<'a> TagContent<'a> {
    /// Returns the digest that a build for a platform uses, or `None` if it is not known.
    #[must_use]
    pub fn for_platform(self, platform: &str) -> Option<&'a str> {
        if self.platforms.is_empty() {
            return Some(self.digest);
        }
        let mut images = self.platforms.iter();
        images.find(|image| image.platform == platform).map(|image| image.digest.as_str())
    }

    /// Returns the digests that builds use.
    pub fn built(self) -> impl Iterator<Item = &'a str> {
        let tag = self.platforms.is_empty().then_some(self.digest);
        tag.into_iter().chain(self.platforms.iter().map(|image| image.digest.as_str()))
    }

    /// Whether this is the digest of the tag or of one of its images.
    #[must_use]
    pub fn names(self, digest: &str) -> bool {
        self.digest == digest || self.platforms.iter().any(|image| image.digest == digest)
    }
}

/// A user's approval of a digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ApprovalRecord {
    /// Digest that was approved.
    pub digest: String,

    /// Name of the user who approved the digest, as given in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,

    /// Name of the `FamilyRequest`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request: String,

    /// Time of the approval.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub at: Option<Timestamp>,
}

/// Hold that a request has set.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ManualHold {
    /// Digest that builds use while the hold lasts. Set for upstreams only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,

    /// Time at which the hold ends. Without it, the hold lasts until a request ends it, or until
    /// the request that has set it is deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Reason for the hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,

    /// Name of the user who set the hold, as given in the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,

    /// Name of the `FamilyRequest`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request: String,

    /// Time at which the hold was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,
}

/// Whether builds may start according to `policy.windows`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct WindowStatus {
    /// Whether a window is open.
    pub open: bool,

    /// Time at which `open` changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,
}

/// State of an open breaker.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct BreakerStatus {
    /// Time at which the failure that opened the breaker was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,

    /// Cause that the failed builds have in common.
    pub cause: String,

    /// Names of the images that failed. At most 10 entries.
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub failures: Vec<String>,

    /// Time at which one trial build starts. Not set if no image is left to try before the next
    /// cascade.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub probe_at: Option<Timestamp>,
}

/// Number of images in each state.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(default)]
pub struct ImageCounts {
    /// Number of all images.
    pub total: i32,
    /// Number of images that are built from their current inputs.
    pub current: i32,
    /// Number of stale images that are ready to build, or that only a gate prevents from building.
    pub queued: i32,
    /// Number of images that wait for a parent or an input.
    pub waiting: i32,
    /// Number of images with a running build.
    pub building: i32,
    /// Number of images whose build has finished and whose result is being checked.
    pub checking: i32,
    /// Number of stale images that a user holds at their current digest.
    pub held: i32,
    /// Number of images that are built on a failed image.
    pub blocked: i32,
    /// Number of images that failed and stay so until an input changes, the next cascade starts, or
    /// a user requests a retry.
    pub failed: i32,
}

/// Changes for which no cascade has started yet, because `policy.settle` has not passed or
/// something else prevents the start.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Pending {
    /// Hash of what has changed. A new value restarts the quiet time.
    pub change: String,

    /// Time at which the first of the changes was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub since: Option<Timestamp>,

    /// Time at which the last of the changes was observed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub last_change: Option<Timestamp>,

    /// Whether the changes wait until running cascades have built what they have in common with
    /// them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_cascade: bool,
}

/// Cascade that is running.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningCascade {
    /// Name of the `Cascade`.
    pub name: String,

    /// Time at which the cascade started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub started_at: Option<Timestamp>,
}

/// An image that needs a user to change something.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Attention {
    /// Name of the image.
    pub image: String,
    /// State of the image.
    pub state: ImageState,
    /// Reason constant that explains `state`.
    pub reason: String,
    /// Human-readable explanation of `reason`, shortened.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        condition::{self, ConditionUpdate, MAX_MESSAGE, READY, RECONCILING, Reason, STALLED},
        family_request::{MAX_BY, MAX_REASON, MAX_REQUEST_NAME},
        late_source::{MAX_LATE_SOURCE_MESSAGE, MAX_LATE_SOURCES},
    };

    /// Returns a text of this many characters, each as long in UTF-8 as one can be.
    fn text(characters: usize) -> String {
        "\u{1f9ca}".repeat(characters)
    }

    #[test]
    fn the_longest_status_is_far_below_the_limit_of_the_api_server() {
        let (at, digest) = (Some(Timestamp::MAX), "d".repeat(71));
        let platform = PlatformDigest { platform: "p".repeat(3 * 32 + 2), digest: digest.clone() };
        let platforms = vec![platform; MAX_PLATFORM_DIGESTS];
        let upstream = |index: usize| UpstreamStatus {
            name: format!("{index:063}"),
            reference: "r".repeat(255 + 1 + 128),
            adopted: Some(AdoptedDigest {
                digest: digest.clone(),
                platforms: platforms.clone(),
                first_observed: at,
                since: at,
            }),
            candidate: Some(CandidateDigest {
                digest: digest.clone(),
                platforms: platforms.clone(),
                first_observed: at,
                incomplete: true,
            }),
            // Several wait only if few platforms are built.
            waiting: vec![CandidateDigest {
                digest: digest.clone(),
                platforms: platforms.clone(),
                first_observed: at,
                incomplete: true,
            }],
            outdated_since: at,
            approval: Some(ApprovalRecord {
                digest: digest.clone(),
                by: Some(text(MAX_BY)),
                request: "r".repeat(MAX_REQUEST_NAME),
                at,
            }),
            hold: Some(ManualHold {
                digest: Some(digest.clone()),
                until: at,
                reason: Some(text(MAX_REASON)),
                by: Some(text(MAX_BY)),
                request: "r".repeat(MAX_REQUEST_NAME),
                since: at,
            }),
            superseded: vec![digest.clone(); MAX_SUPERSEDED],
            reason: Some(Reason::AwaitingApproval.into()),
            message: Some(text(MAX_MESSAGE)),
            next_poll: at,
        };
        let attention = Attention {
            image: "i".repeat(63),
            state: ImageState::Failed,
            reason: Reason::InfrastructureFailed.into(),
            message: text(256),
        };
        let late_source = LateSource {
            url: "u".repeat(1024),
            revision: "r".repeat(255),
            next_poll: at,
            reason: Some(Reason::SourceUnavailable.into()),
            message: Some(text(MAX_LATE_SOURCE_MESSAGE)),
        };
        let mut status = ImageFamilyStatus {
            late_sources: vec![late_source; MAX_LATE_SOURCES],
            upstreams: (0..64).map(upstream).collect(),
            attention: vec![attention; MAX_ATTENTION],
            breaker: Some(BreakerStatus {
                since: at,
                cause: text(MAX_MESSAGE),
                failures: vec!["i".repeat(63); 10],
                probe_at: at,
            }),
            ..ImageFamilyStatus::default()
        };
        for type_ in [READY, RECONCILING, STALLED] {
            let message = text(2 * MAX_MESSAGE);
            let update = ConditionUpdate {
                type_,
                status: true,
                reason: Reason::Current,
                message: &message,
                observed_generation: Some(1),
            };
            condition::set(&mut status.conditions, update, Timestamp::MAX);
        }
        let bytes = serde_json::to_string(&status).expect("JSON").len();
        assert!(bytes < 1024 * 1024, "{bytes}");
    }
}
