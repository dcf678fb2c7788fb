//! Upstreams: images that Groundswell watches and does not build.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::Duration;

/// An image that Groundswell watches and does not build: a root of the graph.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// Name of the upstream, unique within the family. A DNS label of 1 to 63 characters.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Repository of the upstream, with the registry's host and without a tag, for example
    /// `docker.io/library/alpine`.
    #[schemars(
        length(min = 3, max = 255),
        regex(pattern = r"^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$")
    )]
    pub image: String,

    /// Selects the tag that the controller follows. Defaults to the tag `latest`, which an image
    /// without a tag has everywhere.
    #[serde(default)]
    pub follow: Follow,

    /// Interval at which the controller queries the registry for the tag's digest. Polls are
    /// jittered. Families that follow the same image with the same credential share their polls, at
    /// the shortest of their intervals. At least 5 seconds. Defaults to 10 minutes.
    #[serde(default = "default_interval")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('5s')")
            .message("interval must be at least 5s")
    )]
    pub interval: Duration,

    /// Platforms, as `os/architecture` or `os/architecture/variant`, that a new digest must offer
    /// before it is adopted. Use it when a publisher pushes platforms hours apart. At most 16
    /// entries. Any digest is accepted if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(max = 64), regex(pattern = "^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub platforms: Vec<String>,

    /// Minimum age of a new digest before it is adopted, counted from when the controller first
    /// observed it. It gives others time to find problems. The first digest of an upstream is
    /// adopted at once. Defaults to 0 seconds.
    #[serde(default)]
    pub minimum_age: Duration,

    /// Whether a user must approve each new digest before it is adopted. `Automatic` adopts digests
    /// without approval. `Manual` waits for `kubectl family approve`, or for a request with the
    /// action `Approve` that names the digest. The first digest of an upstream needs no approval.
    /// Defaults to `Automatic`.
    #[serde(default)]
    pub approval: Approval,

    /// Holds the upstream at its current digest, or at the digest that the hold names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Whether a user must approve a new digest before it is adopted.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Approval {
    /// New digests are adopted without approval.
    #[default]
    Automatic,
    /// A new digest is adopted after `kubectl family approve`, or a request with the action
    /// `Approve`, has named it.
    Manual,
}

/// Selects the tag of an upstream that the controller follows.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Follow {
    /// Tag to follow as it moves from digest to digest. At most 128 characters. Defaults to
    /// `latest`.
    #[serde(default = "default_tag")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub tag: String,
}

impl Default for Follow {
    fn default() -> Self {
        Self { tag: default_tag() }
    }
}

/// What applies to the upstreams that Dockerfiles name and `upstreams` does not list, for images
/// with `edges: Dockerfile`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct UpstreamDefaults {
    /// See `interval` of an upstream. Defaults to 10 minutes.
    #[serde(default = "default_interval")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('5s')")
            .message("interval must be at least 5s")
    )]
    pub interval: Duration,

    /// See `platforms` of an upstream. At most 16 entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(max = 64), regex(pattern = "^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub platforms: Vec<String>,

    /// See `minimumAge` of an upstream. Defaults to 0 seconds.
    #[serde(default)]
    pub minimum_age: Duration,

    /// See `approval` of an upstream. Defaults to `Automatic`.
    #[serde(default)]
    pub approval: Approval,
}

impl Default for UpstreamDefaults {
    fn default() -> Self {
        Self {
            interval: default_interval(),
            platforms: Vec::new(),
            minimum_age: Duration::default(),
            approval: Approval::default(),
        }
    }
}

impl UpstreamDefaults {
    /// Returns the upstream of this name that follows a tag with these settings.
    #[must_use]
    pub fn upstream(&self, name: String, image: String, tag: String) -> Upstream {
        let Self { interval, platforms, minimum_age, approval } = self.clone();
        let follow = Follow { tag };
        Upstream { name, image, follow, interval, platforms, minimum_age, approval, hold: None }
    }
}

/// A user's decision to hold an upstream at its current digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// Digest that builds use while the hold lasts, as `sha256:` and 64 hexadecimal digits.
    /// Defaults to the digest in use when the hold begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,

    /// Time at which the hold ends. Without it, the hold lasts until it is removed from the
    /// manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Reason for the hold, shown in the status. At most 256 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

impl Upstream {
    /// Returns the reference that is watched: `<image>:<tag>`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}:{}", self.image, self.follow.tag)
    }

    /// Returns the hold if there is one and it has not ended at `now`.
    #[must_use]
    pub fn hold_at(&self, now: Timestamp) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| hold.until.is_none_or(|until| now < until))
    }
}

fn default_tag() -> String {
    "latest".into()
}

const fn default_interval() -> Duration {
    Duration::from_secs(600)
}
