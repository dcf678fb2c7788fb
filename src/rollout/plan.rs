//! What is to change so that workloads run a digest. Pure: looks at [`WorkloadLookup`], changes
//! nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    api::{
        Rollout, RolloutMode, RolloutRecord, RolloutState, WorkloadKind, condition::shorten, labels,
    },
    rollout::{
        RolloutProgress, WorkloadKey, WorkloadView,
        repository::{names_digest, normalize_repository},
        workload::Container,
    },
};

/// The most workloads that one image moves; as many as `ManagedImageStatus::rollouts` holds.
pub const MAX_WORKLOADS: usize = 64;
/// The most characters of a record's message.
const MAX_MESSAGE: usize = 256;

/// What a plan looks at.
pub trait WorkloadLookup {
    /// The workload of this kind, namespace and name.
    fn get(&self, key: &WorkloadKey) -> Option<Arc<WorkloadView>>;
    /// The workloads of a namespace that have all of these labels, sorted by name.
    fn select(
        &self,
        kind: WorkloadKind,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<WorkloadView>>;
    /// The value of the Namespace's annotation [`labels::ROLLOUT_FROM`]; `None` without it, or
    /// without such a Namespace.
    fn consent(&self, namespace: &str) -> Option<String>;
    /// Whether the controller looks at this namespace at all.
    fn watches(&self, namespace: &str) -> bool;
}

/// One workload's part of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutStep {
    /// Where the workload is on its way, for the status.
    pub record: RolloutRecord,
    /// What is to be changed; `None` when it is there already, or can't be moved.
    pub patch: Option<WorkloadPatch>,
}

/// A change of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPatch {
    /// Which workload.
    pub key: WorkloadKey,
    /// The uid of the object that the change is meant for.
    pub uid: String,
    /// What changes.
    pub change: WorkloadChange,
}

/// What changes in a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadChange {
    /// These containers, as they were seen, get this image.
    Image {
        /// The containers with the images that they have now.
        containers: Vec<Container>,
        /// Their new image, `repository@digest`.
        image: String,
    },
    /// The pods are replaced; the pod template is annotated with this digest.
    Restart {
        /// The digest.
        digest: String,
    },
}

/// Plans how the workloads that `rollouts` name come to run `repository@digest`.
///
/// One step for each workload and mode, in the order of `rollouts` and then of names. At most
/// [`MAX_WORKLOADS`]; where there are more, the last step says so and the rest are left alone. A
/// workload of another namespace is touched only where that Namespace lists `family_namespace`, or
/// `*`, in its annotation [`labels::ROLLOUT_FROM`].
#[must_use]
pub fn plan(
    family_namespace: &str,
    repository: &str,
    digest: &str,
    rollouts: &[Rollout],
    lookup: &impl WorkloadLookup,
) -> Vec<RolloutStep> {
    let target = RolloutTarget {
        family_namespace,
        repository,
        digest,
        full: normalize_repository(repository),
    };
    let mut steps = Vec::new();
    for wish in target.wishes(rollouts, lookup) {
        if steps.len() + 1 == MAX_WORKLOADS {
            let message = format!(
                "more than {MAX_WORKLOADS} workloads are named; {} and those after it are left \
                 alone: name fewer, or split the image's `rollout`",
                wish.workload
            );
            steps.push(target.refused(&wish.workload, &message));
            break;
        }
        steps.push(target.step(&wish));
    }
    steps
}

/// What the workloads are moved to, and on whose behalf.
struct RolloutTarget<'a> {
    family_namespace: &'a str,
    repository: &'a str,
    digest: &'a str,
    /// The repository in its full form.
    full: String,
}

/// What the rollouts ask of one workload.
struct WorkloadSelection {
    /// `Kind namespace/name`, or `Kind namespace/label=value` where nothing was found.
    workload: String,
    mode: RolloutMode,
    found: Result<Arc<WorkloadView>, String>,
    /// Container names; empty when every container of the repository is meant.
    containers: BTreeSet<String>,
    every: bool,
}

impl RolloutTarget<'_> {
    /// The workloads that are meant, with all that is asked of each: two rollouts of one workload
    /// make one change.
    fn wishes(&self, rollouts: &[Rollout], lookup: &impl WorkloadLookup) -> Vec<WorkloadSelection> {
        let mut wishes: Vec<WorkloadSelection> = Vec::new();
        for rollout in rollouts {
            for (workload, found) in self.resolve(rollout, lookup) {
                let known = wishes
                    .iter()
                    .position(|wish| wish.workload == workload && wish.mode == rollout.mode);
                let index = known.unwrap_or_else(|| {
                    wishes.push(WorkloadSelection {
                        workload,
                        mode: rollout.mode,
                        found,
                        containers: BTreeSet::new(),
                        every: false,
                    });
                    wishes.len() - 1
                });
                let Some(wish) = wishes.get_mut(index) else { continue };
                match &rollout.container {
                    Some(container) => _ = wish.containers.insert(container.clone()),
                    None => wish.every = true,
                }
            }
        }
        wishes
    }

    /// The workloads that one rollout names, or why there are none.
    fn resolve(
        &self,
        rollout: &Rollout,
        lookup: &impl WorkloadLookup,
    ) -> Vec<(String, Result<Arc<WorkloadView>, String>)> {
        let Some((kind, wanted)) = rollout.workload() else { return Vec::new() };
        let namespace = wanted.namespace.as_deref().unwrap_or(self.family_namespace);
        let empty = BTreeMap::new();
        let selector = wanted.match_labels.as_ref().unwrap_or(&empty);
        let subject = wanted.name.clone().unwrap_or_else(|| {
            selector
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        });
        let subject = format!("{} {namespace}/{subject}", kind.as_str());
        if let Err(why) = self.may_touch(namespace, lookup) {
            return vec![(subject, Err(why))];
        }
        if let Some(name) = &wanted.name {
            let key = WorkloadKey { kind, namespace: namespace.into(), name: name.clone() };
            let found = lookup.get(&key).ok_or_else(|| {
                format!("{key} does not exist: create it, or take it out of the image's `rollout`")
            });
            return vec![(subject, found)];
        }
        let found =
            if selector.is_empty() { Vec::new() } else { lookup.select(kind, namespace, selector) };
        if found.is_empty() {
            let why = format!(
                "no {} of namespace {namespace} has these labels: label one",
                kind.as_str()
            );
            return vec![(subject, Err(why))];
        }
        found
            .into_iter()
            .take(MAX_WORKLOADS)
            .map(|workload| (workload.key.to_string(), Ok(workload)))
            .collect()
    }

    fn may_touch(&self, namespace: &str, lookup: &impl WorkloadLookup) -> Result<(), String> {
        if !lookup.watches(namespace) {
            return Err(format!(
                "the controller does not watch namespace {namespace}: add it to `watchNamespaces`"
            ));
        }
        if namespace == self.family_namespace {
            return Ok(());
        }
        let consent = lookup.consent(namespace).unwrap_or_default();
        if consent
            .split(',')
            .map(str::trim)
            .any(|from| from == "*" || from == self.family_namespace)
        {
            return Ok(());
        }
        Err(format!(
            "namespace {namespace} does not consent: its owner can annotate it with `{}: {}`",
            labels::ROLLOUT_FROM,
            self.family_namespace
        ))
    }

    fn step(&self, wish: &WorkloadSelection) -> RolloutStep {
        let workload = match &wish.found {
            Ok(workload) => workload,
            Err(why) => return self.refused(&wish.workload, why),
        };
        let containers = match self.containers(workload, wish) {
            Ok(containers) => containers,
            Err(why) => return self.refused(&wish.workload, &why),
        };
        let change = match wish.mode {
            RolloutMode::Digest => self.image_change(&containers),
            RolloutMode::Restart => match self.restartable(&containers) {
                Ok(()) => (workload.restarted_for.as_deref() != Some(self.digest))
                    .then(|| WorkloadChange::Restart { digest: self.digest.into() }),
                Err(why) => return self.refused(&wish.workload, &why),
            },
        };
        if let Some(change) = change {
            return RolloutStep {
                record: self.record(
                    &wish.workload,
                    RolloutState::Progressing,
                    "it is being moved to the digest",
                ),
                patch: Some(WorkloadPatch {
                    key: workload.key.clone(),
                    uid: workload.uid.clone(),
                    change,
                }),
            };
        }
        let (state, message) = match &workload.progress {
            RolloutProgress::Complete(message) => (RolloutState::Complete, message),
            RolloutProgress::Progressing(message) => (RolloutState::Progressing, message),
            RolloutProgress::Stalled(message) => (RolloutState::Stalled, message),
        };
        RolloutStep { record: self.record(&wish.workload, state, message), patch: None }
    }

    /// The containers that are meant: the named ones, and those of the repository where none is
    /// named.
    fn containers(
        &self,
        workload: &WorkloadView,
        wish: &WorkloadSelection,
    ) -> Result<Vec<Container>, String> {
        let names =
            || workload.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(missing) = wish
            .containers
            .iter()
            .find(|name| !workload.containers.iter().any(|c| &c.name == *name))
        {
            return Err(format!("it has no container `{missing}`; it has: {}", names()));
        }
        let containers: Vec<_> = workload
            .containers
            .iter()
            .filter(|c| {
                wish.containers.contains(&c.name)
                    || wish.every && normalize_repository(&c.image) == self.full
            })
            .cloned()
            .collect();
        if containers.is_empty() {
            return Err(format!(
                "none of its containers ({}) has an image of {}: name one in `container`",
                names(),
                self.repository
            ));
        }
        Ok(containers)
    }

    fn image_change(&self, containers: &[Container]) -> Option<WorkloadChange> {
        let image = format!("{}@{}", self.repository, self.digest);
        let containers: Vec<_> = containers.iter().filter(|c| c.image != image).cloned().collect();
        (!containers.is_empty()).then_some(WorkloadChange::Image { containers, image })
    }

    /// Whether starting these containers anew brings the image; else the rollout would report what
    /// is not so.
    fn restartable(&self, containers: &[Container]) -> Result<(), String> {
        for Container { name, image, .. } in containers {
            if normalize_repository(image) != self.full {
                return Err(format!(
                    "container `{name}` runs {image}, so that a restart does not bring this image"
                ));
            }
            if names_digest(image) {
                return Err(format!(
                    "container `{name}` names a digest, so that a restart changes nothing: use a \
                     tag"
                ));
            }
        }
        match containers.iter().find(|container| !container.always_pulls) {
            Some(Container { name, .. }) => Err(format!(
                "container `{name}` would not pull again on a restart: set its `imagePullPolicy` \
                 to Always"
            )),
            None => Ok(()),
        }
    }

    fn record(&self, workload: &str, state: RolloutState, message: &str) -> RolloutRecord {
        RolloutRecord {
            workload: workload.into(),
            digest: self.digest.into(),
            state,
            message: shorten(message, MAX_MESSAGE),
        }
    }

    fn refused(&self, workload: &str, why: &str) -> RolloutStep {
        RolloutStep { record: self.record(workload, RolloutState::Refused, why), patch: None }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
