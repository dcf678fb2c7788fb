//! Rollouts: which workloads are moved to a new digest, and how.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A workload, or several, that are moved to each new digest of an image: exactly one of the four
/// kinds.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.deployment), has(self.statefulSet), has(self.daemonSet), \
                            has(self.cronJob)].exists_one(x, x)")
        .message("a rollout names exactly one of `deployment`, `statefulSet`, `daemonSet` and \
                  `cronJob`")
)]
pub struct Rollout {
    /// A Deployment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Workload>,

    /// A `StatefulSet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<Workload>,

    /// A `DaemonSet`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_set: Option<Workload>,

    /// A `CronJob`; its next run takes the new digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron_job: Option<Workload>,

    /// The container, or init container, that runs the image. Without it, each one whose image is
    /// of this image's repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,

    /// How the workload is moved.
    #[serde(default)]
    pub mode: RolloutMode,
}

/// Names workloads of one kind: one by name, or several by label.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) != has(self.matchLabels)").message("name a workload by \
        either `name` or `matchLabels`")
)]
pub struct Workload {
    /// The workload's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,

    /// Labels that the workloads have, all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minProperties" = 1, "maxProperties" = 8, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    pub match_labels: Option<BTreeMap<String, String>>,

    /// Their namespace, if it is not the family's. That Namespace must list the family's namespace
    /// in its annotation `groundswell.dev/rollout-from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// How a workload is moved to a new digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RolloutMode {
    /// The container's image is set to `repository@sha256:...`.
    #[default]
    Digest,
    /// The pod template is annotated, so that its pods start anew and pull: for floating tags and
    /// for specs that GitOps owns.
    Restart,
}

/// The four kinds of workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkloadKind {
    /// `apps/v1` Deployment.
    Deployment,
    /// `apps/v1` `StatefulSet`.
    StatefulSet,
    /// `apps/v1` `DaemonSet`.
    DaemonSet,
    /// `batch/v1` `CronJob`.
    CronJob,
}

impl WorkloadKind {
    /// The kind as Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::CronJob => "CronJob",
        }
    }
}

impl Rollout {
    /// The kind and the name or labels of the workloads; `None` only for an object that the schema
    /// would have refused.
    #[must_use]
    pub fn workload(&self) -> Option<(WorkloadKind, &Workload)> {
        [
            (WorkloadKind::Deployment, &self.deployment),
            (WorkloadKind::StatefulSet, &self.stateful_set),
            (WorkloadKind::DaemonSet, &self.daemon_set),
            (WorkloadKind::CronJob, &self.cron_job),
        ]
        .into_iter()
        .find_map(|(kind, workload)| Some((kind, workload.as_ref()?)))
    }
}
