//! Policy: when builds start, how many run at once, and how the family reacts to failures.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Duration, Refresh};

/// Controls when builds start, how many run at once, and how the family reacts to failures.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.settle) <= duration(self.maxSettle)")
        .message("settle must not be longer than maxSettle: lower settle or raise maxSettle")
)]
pub struct Policy {
    /// Time without further changes before a cascade starts, so that changes that arrive together
    /// are built once. It must not be longer than `maxSettle`. The first cascade of a family starts
    /// at once. Defaults to 30 seconds.
    #[serde(default = "default_settle")]
    pub settle: Duration,

    /// Upper bound on how long a steady stream of changes can delay a cascade. Defaults to 10
    /// minutes.
    #[serde(default = "default_max_settle")]
    pub max_settle: Duration,

    /// Maximum number of builds and checks of this family that run at once, from 1 to 100. Defaults
    /// to 4.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 100))]
    pub parallelism: i32,

    /// How often a failed build is retried.
    #[serde(default)]
    pub retries: Retries,

    /// What happens to a running cascade when an upstream moves. `Finish` runs it to completion
    /// with the digests it started with. `Cancel` cancels its running builds once the quiet time
    /// has passed, and starts a new cascade with the new digests. Defaults to `Finish`.
    #[serde(default)]
    pub supersede: Supersede,

    /// When a rebuilt image counts as unchanged. An unchanged image keeps its digest, and its
    /// children are not rebuilt. `Content` compares platform, files and configuration without
    /// creation times. `Digest` compares the configuration and the layers byte for byte. `Never`
    /// counts every rebuild as a change. Defaults to `Content`.
    #[serde(default)]
    pub cutoff: Cutoff,

    /// When floating tags move. `Image` moves the tags of each image as soon as it is built and
    /// checked. `Cascade` moves all tags together once every required image of the cascade is
    /// current or held. Tags that name the build or the fingerprint are set at once in both cases.
    /// Defaults to `Image`.
    #[serde(default)]
    pub promotion: Promotion,

    /// Windows in which builds may start. Builds may start at any time if empty. A build that is
    /// running when a window closes runs to completion. At most 16 windows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub windows: Vec<Window>,

    /// Limits how fast a cascade caused by an upstream or a strategy may start builds, whatever the
    /// number of images built on it. Builds caused by a user (source, spec or request) are not
    /// limited. Without it, only `parallelism` limits the builds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,

    /// Pauses the builds of a cause from which builds keep failing.
    #[serde(default)]
    pub breaker: Breaker,

    /// Rebuilds images whose builds are old, although their inputs are unchanged. An image may have
    /// its own `refresh`. Without it, an image is rebuilt only when an input changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Refresh>,

    /// Share of the family where the operator limits builds per namespace, per cluster or per
    /// upstream: a family of weight 20 gets twice as many builds as one of weight 10. From 1 to
    /// 100. Defaults to 10.
    #[serde(default = "default_weight")]
    #[schemars(range(min = 1, max = 100))]
    pub weight: i32,
}

/// What happens to a running cascade when an upstream moves.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Supersede {
    /// The cascade runs to completion with the digests it started with, and the next cascade uses
    /// the new ones. Every cascade ends, however fast an upstream moves.
    #[default]
    Finish,
    /// The cascade ends, its running builds are cancelled, and a new cascade starts with the new
    /// digests. The new cascade runs to completion, so that no image is cancelled twice in a row.
    Cancel,
}

/// When a rebuilt image counts as unchanged.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Cutoff {
    /// Its platform, its files and its configuration are the same. Creation times are ignored.
    #[default]
    Content,
    /// Its configuration and its layers are the same byte for byte.
    Digest,
    /// Every rebuilt image counts as changed.
    Never,
}

/// When floating tags move.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Promotion {
    /// The tags of each image move as soon as it is built and checked.
    #[default]
    Image,
    /// All tags move together once every required image of the cascade is current. A cascade that
    /// does not complete moves none.
    Cascade,
}

/// A recurring time window in which builds may start.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When the window opens: a cron expression of five fields (minute, hour, day of month, month,
    /// day of week).
    #[schemars(length(min = 9, max = 100))]
    pub schedule: String,

    /// How long the window stays open, from 1 minute to 168 hours.
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1m') && duration(self) <= \
                                duration('168h')")
            .message("duration must be between 1m and 168h")
    )]
    pub duration: Duration,

    /// Time zone of the schedule: a name of the IANA database, for example `Europe/Berlin`.
    /// Defaults to `UTC`.
    #[serde(default = "default_time_zone")]
    #[schemars(length(min = 1, max = 64))]
    pub time_zone: String,
}

/// Limits how fast builds may start.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// Maximum number of builds that may start within any period of length `per`, from 1 to 1000.
    #[schemars(range(min = 1, max = 1000))]
    pub builds: i32,

    /// Length of the period in which starts are counted, from 1 second to 1 hour. Defaults to 1
    /// minute.
    #[serde(default = "default_rate_limit_span")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= \
                                duration('1h')")
            .message("rateLimit.per must be between 1s and 1h")
    )]
    pub per: Duration,
}

/// Pauses the builds of a cause from which builds keep failing.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Breaker {
    /// Number of different images whose builds must fail in a row from one cause before no further
    /// build of that cause starts, from 0 to 100. Failures of the infrastructure do not count. 0
    /// disables the breaker. Defaults to 5.
    #[serde(default = "default_consecutive_failures")]
    #[schemars(range(min = 0, max = 100))]
    pub consecutive_failures: i32,

    /// Time after the last failure at which one trial build starts. If it succeeds, the other
    /// builds continue. At least 10 seconds. Defaults to 10 minutes.
    #[serde(default = "default_probe_after")]
    #[x_kube(
        validation = Rule::new("duration(self) >= duration('10s')")
            .message("breaker.probeAfter must be at least 10s")
    )]
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

/// How often a failed build is retried, with growing pauses, before its image is `Failed`, or
/// before an outage is reported.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(default)]
pub struct Retries {
    /// Number of retries after a failure of the build itself, for example of a command of the
    /// Dockerfile. From 0 to 20. Defaults to 1.
    #[schemars(range(min = 0, max = 20))]
    pub build: i32,

    /// Number of retries after a failure of the infrastructure. After them, an image whose build
    /// ran out of memory or disk is `Failed`. An image that failed for another reason (eviction,
    /// image pull, registry) reports that reason, and is retried every few minutes until the
    /// outage ends. From 0 to 50. Defaults to 5.
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
            refresh: None,
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
