//! Rollouts: which workloads are updated to a new digest, and how.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::RolloutState;

/// Workloads that are updated to each new digest of an image. Exactly one of `deployment`,
/// `statefulSet`, `daemonSet` and `cronJob` must be set.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.deployment), has(self.statefulSet), has(self.daemonSet), \
                            has(self.cronJob)].exists_one(x, x)")
        .message("a rollout must set exactly one of `deployment`, `statefulSet`, `daemonSet` and \
                  `cronJob`")
)]
pub struct Rollout {
    /// Selects Deployments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<Workload>,

    /// Selects `StatefulSets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<Workload>,

    /// Selects `DaemonSets`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub daemon_set: Option<Workload>,

    /// Selects `CronJobs`. Their next run uses the new digest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron_job: Option<Workload>,

    /// Name of the container, or init container, that runs the image. Defaults to every container
    /// whose image is in this image's repository. A container that runs another image is changed
    /// only if its workload lists the repository in its annotation
    /// `groundswell.dev/rollout-images`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub container: Option<String>,

    /// How the workload is updated. `Digest` sets the container's image to `repository@sha256:...`.
    /// `Restart` annotates the pod template, so that the pods are recreated and pull their image
    /// again: use it with floating tags, and for specs that a GitOps tool owns. Defaults to
    /// `Digest`.
    #[serde(default)]
    pub mode: RolloutMode,
}

/// Selects workloads of one kind, either one by name or several by their labels.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.name) != has(self.matchLabels)")
        .message("a workload must set either `name` or `matchLabels`, and not both")
)]
pub struct Workload {
    /// Name of the workload. Mutually exclusive with `matchLabels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub name: Option<String>,

    /// Labels that a workload must all have to be selected, 1 to 8 entries. Mutually exclusive with
    /// `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        extend(
            "minProperties" = 1,
            "maxProperties" = 8,
            "additionalProperties" = {"type": "string", "maxLength": 63}
        )
    )]
    pub match_labels: Option<BTreeMap<String, String>>,

    /// Namespace of the workloads. Its Namespace object must list the family, as
    /// `namespace/family`, the family's namespace or `*` in its annotation
    /// `groundswell.dev/rollout-from`. Defaults to the family's namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub namespace: Option<String>,
}

/// How a workload is updated to a new digest.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RolloutMode {
    /// The container's image is set to `repository@sha256:...`.
    #[default]
    Digest,
    /// The pod template is annotated, so that its pods are recreated and pull their image again.
    /// Use it with floating tags, and for specs that a GitOps tool owns.
    Restart,
}

/// Kind of a workload.
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
    /// Returns the kind as Kubernetes writes it.
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

impl RolloutState {
    /// All states, in the order of their definition.
    pub const ALL: [Self; 5] =
        [Self::Progressing, Self::Complete, Self::Stalled, Self::Contested, Self::Refused];

    /// Returns the state as manifests and metrics write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Progressing => "Progressing",
            Self::Complete => "Complete",
            Self::Stalled => "Stalled",
            Self::Contested => "Contested",
            Self::Refused => "Refused",
        }
    }
}

impl Rollout {
    /// Returns the kind of the workloads and their selection. Returns `None` only for an object
    /// that the schema would have rejected.
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
