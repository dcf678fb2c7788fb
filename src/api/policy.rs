//! Policy: when and how much is built at once, and what happens after a failure.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::Duration;

/// When and how much is built at once, and what happens after a failure.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.settle) <= duration(self.maxSettle)").message("settle \
        must not be longer than maxSettle")
)]
pub struct Policy {
    /// Quiet time before a cascade starts, so that changes that come together build once. A
    /// family's first cascade does not wait.
    #[serde(default = "default_settle")]
    pub settle: Duration,

    /// The longest that changes which keep coming may put a cascade off.
    #[serde(default = "default_max_settle")]
    pub max_settle: Duration,

    /// How many builds of this family run at once.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 100))]
    pub parallelism: i32,

    /// How often a failed build is tried again.
    #[serde(default)]
    pub retries: Retries,

    /// What becomes of a cascade when an upstream moves while it runs.
    #[serde(default)]
    pub supersede: Supersede,

    /// Where a cascade stops early: a rebuilt image that is the same as before keeps its digest,
    /// and its children stay as they are.
    #[serde(default)]
    pub cutoff: Cutoff,

    /// When floating tags move. Tags that name the build are set at once either way.
    #[serde(default)]
    pub promotion: Promotion,

    /// When builds may start. Without any, always. Builds that run when a window closes go to their
    /// end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub windows: Vec<Window>,

    /// How fast a cascade that an upstream set off may start builds, however many images stand on
    /// it. Without it, as fast as `parallelism` allows. Builds that a person caused (source, spec,
    /// a request) are not slowed down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,

    /// Stops a cascade that only fails.
    #[serde(default)]
    pub breaker: Breaker,

    /// The family's share where the operator limits builds per namespace or cluster: a family of
    /// weight 20 gets twice as many as one of weight 10.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
}

/// What becomes of a cascade when an upstream moves while it runs.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Supersede {
    /// It goes to its end with the digests that it began with; the next cascade takes the new ones.
    /// However fast an upstream moves, every cascade ends.
    #[default]
    Finish,
    /// It ends, its builds that run are cancelled, and a new cascade begins with the new digests.
    /// The new cascade goes to its end, so that no image is cancelled twice in a row.
    Cancel,
}

/// When a rebuilt image counts as the same as before.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cutoff {
    /// When its platform, its files and its configuration are the same; times of creation do not
    /// count.
    #[default]
    Content,
    /// When its configuration and its layers are the same byte for byte.
    Digest,
    /// Never.
    Never,
}

/// When floating tags move.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Promotion {
    /// Each image's as soon as it is built and checked.
    #[default]
    Image,
    /// All together, when every required image of the cascade is current. A cascade that does not
    /// come whole moves none.
    Cascade,
}

/// A time in which builds may start.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When it opens: a cron expression of five fields (minute, hour, day of month, month, day of
    /// week).
    #[schemars(length(min = 9, max = 100))]
    pub schedule: String,

    /// How long it stays open.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= \
                                     duration('168h')").message("a window's duration is between 1m \
                                         and 168h"))]
    pub duration: Duration,

    /// The time zone of the schedule: a name of the IANA database, for example `Europe/Berlin`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

/// How fast builds may start.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// So many builds may start within `per`.
    #[schemars(range(min = 1, max = 1000))]
    pub builds: i32,

    /// The span in which they are counted; between 1 second and 1 hour.
    #[serde(default = "default_rate_limit_span")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= \
                                     duration('1h')").message("rateLimit.per is between 1s and 1h"))]
    pub per: Duration,
}

/// When a family stops starting builds because they only fail.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// After so many distinct images in a row have failed from one cause, no further build is
    /// started. 0: never.
    #[serde(default = "default_consecutive_failures")]
    #[schemars(range(min = 0, max = 100))]
    pub consecutive_failures: i32,

    /// How long after the last failure one build is let through, to see whether it still fails.
    /// When it succeeds, the others go on.
    #[serde(default = "default_probe_after")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10s')").message("breaker.probeAfter \
        is at least 10s"))]
    pub probe_after: Duration,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            consecutive_failures: default_consecutive_failures(),
            probe_after: default_probe_after(),
        }
    }
}

/// How often a failed build is tried again, with a growing pause, before its image is `Failed`.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(default)]
pub struct Retries {
    /// After a failure of the build itself: a command of the Dockerfile, for example.
    #[schemars(range(min = 0, max = 20))]
    pub build: i32,

    /// After a failure of what is around it: eviction, out of memory, image pull, registry.
    #[schemars(range(min = 0, max = 50))]
    pub infrastructure: i32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            settle: default_settle(),
            max_settle: default_max_settle(),
            parallelism: default_parallelism(),
            retries: Retries::default(),
            supersede: Supersede::default(),
            cutoff: Cutoff::default(),
            promotion: Promotion::default(),
            windows: Vec::new(),
            rate_limit: None,
            breaker: Breaker::default(),
            weight: default_weight(),
        }
    }
}

impl Default for Retries {
    fn default() -> Self {
        Self { build: 1, infrastructure: 5 }
    }
}

const fn default_settle() -> Duration {
    Duration::from_secs(30)
}

const fn default_max_settle() -> Duration {
    Duration::from_secs(600)
}

const fn default_parallelism() -> i32 {
    4
}

const fn default_consecutive_failures() -> i32 {
    5
}

const fn default_probe_after() -> Duration {
    Duration::from_secs(600)
}

const fn default_weight() -> i32 {
    10
}

const fn default_rate_limit_span() -> Duration {
    Duration::from_secs(60)
}

fn default_time_zone() -> String {
    "UTC".into()
}
