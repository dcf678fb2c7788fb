//! Policy: when and how much is built at once, and what happens after a failure.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Duration;

/// When and how much is built at once, and what happens after a failure.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.settle) <= duration(self.maxSettle)").message("settle must not be longer than maxSettle")
)]
pub struct Policy {
    /// Quiet time before a wave starts, so that changes that come together build once. A family's first wave does not wait.
    #[serde(default = "default_settle")]
    pub settle: Duration,

    /// The longest that changes which keep coming may put a wave off.
    #[serde(default = "default_max_settle")]
    pub max_settle: Duration,

    /// How many builds of this family run at once.
    #[serde(default = "default_parallelism")]
    #[schemars(range(min = 1, max = 100))]
    pub parallelism: i32,

    /// How often a failed build is tried again.
    #[serde(default)]
    pub retries: Retries,
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
