//! Upstreams: images that are watched and not built.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::Duration;

/// An image that is watched and not built: a root of the graph.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Upstream {
    /// Its name in this family.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,

    /// Its repository with the registry's host and without a tag, for example
    /// `docker.io/library/alpine`.
    #[schemars(
        length(min = 3, max = 255),
        regex(pattern = r"^[a-zA-Z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+$")
    )]
    pub image: String,

    /// Which of its tags is followed.
    pub follow: Follow,

    /// How often the registry is asked whether the tag moved. Polls are jittered, and families that
    /// follow the same image with the same credential share them, at the shortest interval asked
    /// for. At least 5 seconds; 10 minutes by default.
    #[serde(default = "default_interval")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('5s')").message("interval must be \
        at least 5s"))]
    pub interval: Duration,

    /// Platforms, as `os/architecture` or `os/architecture/variant`, that a new digest must offer
    /// before it is used: a publisher may push them hours apart. Empty: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 64), regex(pattern = "^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?$")), extend("x-kubernetes-list-type" = "set"))]
    pub platforms: Vec<String>,

    /// How old a new digest must be before it is used, counted from when it was first seen: time
    /// for others to find what is wrong with it. The first digest of an upstream does not wait.
    #[serde(default)]
    pub minimum_age: Duration,

    /// Whether a person has to agree to each new digest. The first digest of an upstream needs
    /// nobody.
    #[serde(default)]
    pub approval: Approval,

    /// Keeps the upstream where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<Hold>,
}

/// Whether a person has to agree to a new digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Approval {
    /// No.
    #[default]
    Automatic,
    /// Yes: `kubectl family approve`, or the request `Approve`, for this very digest.
    Manual,
}

/// Which tag of an upstream is followed.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Follow {
    /// This one tag, as it moves from digest to digest.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9_][A-Za-z0-9_.-]*$"))]
    pub tag: String,
}

/// A person's decision that an upstream stays where it is.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct Hold {
    /// The digest that builds use while the hold lasts. Without it, the digest that is in use when
    /// the hold begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = "^sha256:[0-9a-f]{64}$"))]
    pub digest: Option<String>,

    /// When the hold ends by itself. Without it, when it is taken out of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", extend("format" = "date-time"))]
    pub until: Option<Timestamp>,

    /// Why, for those who read the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    pub reason: Option<String>,
}

impl Upstream {
    /// The reference that is watched: `<image>:<tag>`.
    #[must_use]
    pub fn reference(&self) -> String {
        format!("{}:{}", self.image, self.follow.tag)
    }

    /// The hold, if there is one that lasts at `now`.
    #[must_use]
    pub fn hold_at(&self, now: Timestamp) -> Option<&Hold> {
        self.hold.as_ref().filter(|hold| hold.until.is_none_or(|until| now < until))
    }
}

const fn default_interval() -> Duration {
    Duration::from_secs(600)
}
