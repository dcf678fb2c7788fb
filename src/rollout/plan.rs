//! Plans the changes after which workloads run a digest. Pure: it reads a [`WorkloadLookup`] and
//! changes nothing.

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

/// Maximum number of workloads that one image rolls out to, the same as the limit of
/// `ManagedImageStatus::rollouts`.
pub const MAX_WORKLOADS: usize = 64;
/// Maximum number of characters of a record's message.
pub(super) const MAX_MESSAGE: usize = 256;

/// The workloads and namespaces that a plan reads.
pub trait WorkloadLookup {
    /// Returns the workload of this kind, namespace and name.
    fn get(&self, key: &WorkloadKey) -> Option<Arc<WorkloadView>>;
    /// Returns the workloads of a namespace that have all of these labels, sorted by name.
    fn select(
        &self,
        kind: WorkloadKind,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<WorkloadView>>;
    /// Returns the value of the Namespace's annotation [`labels::ROLLOUT_FROM`], or `None` if the
    /// annotation or the Namespace does not exist.
    fn consent(&self, namespace: &str) -> Option<String>;
    /// Whether the controller watches this namespace.
    fn watches(&self, namespace: &str) -> bool;
}

/// The part of a plan for one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutStep {
    /// The progress of the workload, for the status.
    pub record: RolloutRecord,
    /// The change to apply; `None` if there is nothing to change or the workload is refused.
    pub patch: Option<WorkloadPatch>,
}

/// A change of one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPatch {
    /// The workload to change.
    pub key: WorkloadKey,
    /// The uid of the object that the change is planned for.
    pub uid: String,
    /// The generation of the object that the change is planned for.
    pub generation: i64,
    /// The manager that set what the change replaces, if it is another client and known.
    pub manager: Option<String>,
    /// What changes.
    pub change: WorkloadChange,
}

/// What changes in a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadChange {
    /// Sets the image of these containers.
    Image {
        /// The containers as they were observed, with their current images.
        containers: Vec<Container>,
        /// The new image, `repository@digest`.
        image: String,
    },
    /// Annotates the pod template with this digest, so that the pods are replaced.
    Restart {
        /// The digest.
        digest: String,
    },
}

impl WorkloadChange {
    /// Returns the manager that set the images that the change replaces.
    fn replaced_manager(&self) -> Option<String> {
        match self {
            Self::Image { containers, .. } => containers.iter().find_map(|c| c.manager.clone()),
            Self::Restart { .. } => None,
        }
    }
}

/// Plans how the workloads that `rollouts` select come to run `repository@digest`.
///
/// Returns one step for each workload and mode, in the order of `rollouts` and then of names, and
/// at most [`MAX_WORKLOADS`] steps. If more workloads are selected, the last step says so and the
/// remaining ones are not changed. A workload in another namespace is changed only if that
/// Namespace lists the family, the family's namespace or `*` in its annotation
/// [`labels::ROLLOUT_FROM`]. A container is changed only if it runs an image of the repository
/// already, or if the workload lists the repository in its annotation [`labels::ROLLOUT_IMAGES`].
#[must_use]
pub fn plan(
    family: RolloutFamily<'_>,
    repository: &str,
    digest: &str,
    rollouts: &[Rollout],
    lookup: &impl WorkloadLookup,
) -> Vec<RolloutStep> {
    let target =
        RolloutTarget { family, repository, digest, normalized: normalize_repository(repository) };
    let mut steps = Vec::new();
    for selection in target.selections(rollouts, lookup) {
        if steps.len() + 1 == MAX_WORKLOADS {
            let message = format!(
                "the image's `rollout` selects more than {MAX_WORKLOADS} workloads; {} and those \
                 after it are not rolled out: select fewer, or split the image's `rollout`",
                selection.workload
            );
            steps.push(target.refused(&selection.workload, &message));
            break;
        }
        steps.push(target.step(&selection));
    }
    steps
}

/// The family on whose behalf workloads are updated.
#[derive(Clone, Copy, Debug)]
pub struct RolloutFamily<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Where the digest comes from.
    pub origin: DigestOrigin,
}

/// Where a digest comes from that workloads are updated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestOrigin {
    /// A build, which was pushed with a credential of the family.
    Built,
    /// The registry: whoever writes the family need not be allowed to push there.
    Adopted,
}

/// The digest that workloads are updated to, and the family on whose behalf.
struct RolloutTarget<'a> {
    family: RolloutFamily<'a>,
    repository: &'a str,
    digest: &'a str,
    /// The normalized repository.
    normalized: String,
}

/// A workload that rollouts select, with everything that they request of it.
struct WorkloadSelection {
    /// `Kind namespace/name`, or `Kind namespace/label=value` if no workload was found.
    workload: String,
    mode: RolloutMode,
    /// The workload, or the message why there is none.
    found: Result<Arc<WorkloadView>, String>,
    /// The names of the selected containers.
    containers: BTreeSet<String>,
    /// Whether every container that runs an image of the repository is selected as well.
    whole_repository: bool,
}

/// A workload that one rollout selects.
struct ResolvedWorkload {
    /// `Kind namespace/name`, or `Kind namespace/label=value` if no workload was found.
    workload: String,
    /// The workload, or the message why there is none.
    found: Result<Arc<WorkloadView>, String>,
}

impl RolloutTarget<'_> {
    /// Returns the selected workloads with everything that is requested of each. Two rollouts of
    /// one workload with the same mode result in one change.
    fn selections(
        &self,
        rollouts: &[Rollout],
        lookup: &impl WorkloadLookup,
    ) -> Vec<WorkloadSelection> {
        let mut selections: Vec<WorkloadSelection> = Vec::new();
        for rollout in rollouts {
            for ResolvedWorkload { workload, found } in self.resolve(rollout, lookup) {
                let known = selections.iter().position(|selection| {
                    selection.workload == workload && selection.mode == rollout.mode
                });
                let index = known.unwrap_or_else(|| {
                    selections.push(WorkloadSelection {
                        workload,
                        mode: rollout.mode,
                        found,
                        containers: BTreeSet::new(),
                        whole_repository: false,
                    });
                    selections.len() - 1
                });
                let Some(selection) = selections.get_mut(index) else { continue };
                match &rollout.container {
                    Some(container) => _ = selection.containers.insert(container.clone()),
                    None => selection.whole_repository = true,
                }
            }
        }
        selections
    }

    /// Returns the workloads that one rollout selects, or the reason why there are none.
    fn resolve(&self, rollout: &Rollout, lookup: &impl WorkloadLookup) -> Vec<ResolvedWorkload> {
        let Some((kind, selector)) = rollout.workload() else { return Vec::new() };
        let namespace = selector.namespace.as_deref().unwrap_or(self.family.namespace);
        let empty = BTreeMap::new();
        let match_labels = selector.match_labels.as_ref().unwrap_or(&empty);
        let name_or_labels = selector.name.clone().unwrap_or_else(|| {
            match_labels
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .join(",")
        });
        let workload = format!("{} {namespace}/{name_or_labels}", kind.as_str());
        if let Err(message) = self.check_namespace(namespace, lookup) {
            return vec![ResolvedWorkload { workload, found: Err(message) }];
        }
        if let Some(name) = &selector.name {
            let key = WorkloadKey { kind, namespace: namespace.into(), name: name.clone() };
            let found = lookup.get(&key).ok_or_else(|| {
                format!("{key} does not exist: create it, or remove it from the image's `rollout`")
            });
            return vec![ResolvedWorkload { workload, found }];
        }
        let found = if match_labels.is_empty() {
            Vec::new()
        } else {
            lookup.select(kind, namespace, match_labels)
        };
        if found.is_empty() {
            let message = format!(
                "no {} in namespace {namespace} has these labels: label one, or correct \
                 `matchLabels`",
                kind.as_str()
            );
            return vec![ResolvedWorkload { workload, found: Err(message) }];
        }
        found
            .into_iter()
            .take(MAX_WORKLOADS)
            .map(|found| ResolvedWorkload { workload: found.key.to_string(), found: Ok(found) })
            .collect()
    }

    /// Checks that the namespace is watched and consents to rollouts from the family.
    fn check_namespace(&self, namespace: &str, lookup: &impl WorkloadLookup) -> Result<(), String> {
        if !lookup.watches(namespace) {
            return Err(format!(
                "the controller does not watch namespace {namespace}: add it to `watchNamespaces`"
            ));
        }
        if namespace == self.family.namespace {
            return Ok(());
        }
        let consent = lookup.consent(namespace).unwrap_or_default();
        if consent.split(',').any(|from| self.is_from(from.trim())) {
            return Ok(());
        }
        Err(format!(
            "namespace {namespace} does not consent to this rollout: its owner can annotate it \
             with `{}: {}/{}`",
            labels::ROLLOUT_FROM,
            self.family.namespace,
            self.family.name
        ))
    }

    /// Whether an entry of a consent names the family: `*`, its namespace, or both.
    fn is_from(&self, entry: &str) -> bool {
        let RolloutFamily { namespace, name, .. } = self.family;
        match entry.split_once('/') {
            Some((of, family)) => of == namespace && family == name,
            None => entry == "*" || entry == namespace,
        }
    }

    fn step(&self, selection: &WorkloadSelection) -> RolloutStep {
        let workload = match &selection.found {
            Ok(workload) => workload,
            Err(message) => return self.refused(&selection.workload, message),
        };
        let containers = match self.containers(workload, selection) {
            Ok(containers) => containers,
            Err(message) => return self.refused(&selection.workload, &message),
        };
        let change = match selection.mode {
            RolloutMode::Digest => self.image_change(&containers),
            RolloutMode::Restart => match self.check_restart(&containers) {
                Ok(()) => (workload.restarted_for.as_deref() != Some(self.digest))
                    .then(|| WorkloadChange::Restart { digest: self.digest.into() }),
                Err(message) => return self.refused(&selection.workload, &message),
            },
        };
        if let Some(change) = change {
            return RolloutStep {
                record: self.record(
                    &selection.workload,
                    RolloutState::Progressing,
                    "the workload is being updated to the digest",
                ),
                patch: Some(WorkloadPatch {
                    key: workload.key.clone(),
                    uid: workload.uid.clone(),
                    generation: workload.generation,
                    manager: change.replaced_manager(),
                    change,
                }),
            };
        }
        let (state, message) = match &workload.progress {
            RolloutProgress::Complete(message) => (RolloutState::Complete, message),
            RolloutProgress::Progressing(message) => (RolloutState::Progressing, message),
            RolloutProgress::Stalled(message) => (RolloutState::Stalled, message),
        };
        RolloutStep { record: self.record(&selection.workload, state, message), patch: None }
    }

    /// Returns the selected containers: the named ones and, if a rollout names none, those that run
    /// an image of the repository.
    fn containers(
        &self,
        workload: &WorkloadView,
        selection: &WorkloadSelection,
    ) -> Result<Vec<Container>, String> {
        let names =
            || workload.containers.iter().map(|c| c.name.as_str()).collect::<Vec<_>>().join(", ");
        if let Some(missing) = selection
            .containers
            .iter()
            .find(|name| !workload.containers.iter().any(|c| &c.name == *name))
        {
            return Err(format!(
                "the workload has no container `{missing}`; its containers are: {}",
                names()
            ));
        }
        let containers: Vec<_> = workload
            .containers
            .iter()
            .filter(|c| {
                selection.containers.contains(&c.name)
                    || selection.whole_repository && self.runs_image(c)
            })
            .cloned()
            .collect();
        self.check_consent(workload, &containers)?;
        if containers.is_empty() {
            return Err(format!(
                "none of the workload's containers ({}) runs an image of {repository}: deploy it \
                 with one, or name a container in `container` and annotate the workload with \
                 `{}: {repository}`",
                names(),
                labels::ROLLOUT_IMAGES,
                repository = self.repository
            ));
        }
        Ok(containers)
    }

    /// Whether a container runs an image of the repository.
    fn runs_image(&self, container: &Container) -> bool {
        normalize_repository(&container.image) == self.normalized
    }

    /// Checks that the workload is one of this image: otherwise whoever may write a family could
    /// replace any container. An adopted digest does not show that the repository is the family's,
    /// so that a workload in another namespace has to name it.
    fn check_consent(
        &self,
        workload: &WorkloadView,
        containers: &[Container],
    ) -> Result<(), String> {
        let mut listed = workload.consent.iter().flat_map(|list| list.split(','));
        if listed.any(|entry| normalize_repository(entry.trim()) == self.normalized) {
            return Ok(());
        }
        if self.family.origin == DigestOrigin::Adopted
            && workload.key.namespace != self.family.namespace
        {
            return Err(format!(
                "the image was adopted and not built by the family: annotate the workload with \
                 `{}: {}`, or wait for the first build",
                labels::ROLLOUT_IMAGES,
                self.repository
            ));
        }
        match containers.iter().find(|container| !self.runs_image(container)) {
            None => Ok(()),
            Some(Container { name, image, .. }) => Err(format!(
                "container `{name}` runs {image}, which is not an image of {repository}: deploy \
                 the workload with an image of that repository, or annotate it with `{annotation}: \
                 {repository}`",
                repository = self.repository,
                annotation = labels::ROLLOUT_IMAGES
            )),
        }
    }

    fn image_change(&self, containers: &[Container]) -> Option<WorkloadChange> {
        let image = format!("{}@{}", self.repository, self.digest);
        let containers: Vec<_> = containers.iter().filter(|c| c.image != image).cloned().collect();
        (!containers.is_empty()).then_some(WorkloadChange::Image { containers, image })
    }

    /// Checks that restarting these containers updates their image. Otherwise the rollout would
    /// report an update that did not happen.
    fn check_restart(&self, containers: &[Container]) -> Result<(), String> {
        for Container { name, image, .. } in containers {
            if normalize_repository(image) != self.normalized {
                return Err(format!(
                    "container `{name}` runs {image}, which a restart does not update to this image"
                ));
            }
            if names_digest(image) {
                return Err(format!(
                    "container `{name}` references a digest, which a restart does not update: use \
                     a tag"
                ));
            }
        }
        match containers.iter().find(|container| !container.always_pulls) {
            Some(Container { name, .. }) => Err(format!(
                "container `{name}` does not pull its image on a restart: set its \
                 `imagePullPolicy` to Always"
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

    /// Returns the step of a workload that cannot be rolled out.
    fn refused(&self, workload: &str, message: &str) -> RolloutStep {
        RolloutStep { record: self.record(workload, RolloutState::Refused, message), patch: None }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
