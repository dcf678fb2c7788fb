//! Tells a Job's own containers from those that something else adds to its pod: a sidecar of a
//! service mesh, an agent, an init container of a policy. Only our own say how a build or a check
//! ended. Builds and checks share this.

use jiff::Timestamp;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Container, ContainerStateTerminated, ContainerStatus, Pod, PodStatus},
};

use crate::builds::{outcome::pod, own_containers::OwnTemplate};

/// The names of the containers of a Job's template that the Job was created with. Webhooks add
/// containers to the pod; those that change Jobs, to the template, too.
pub(in crate::builds) struct OwnContainers<'a> {
    /// Containers that run to completion, and whose end decides. Without init containers.
    main: Vec<&'a str>,
    /// Init containers that run to completion.
    init: Vec<&'a str>,
    /// Init containers that run next to the main containers. Their end decides nothing.
    native_sidecars: Vec<&'a str>,
}

/// What our own containers say about the end of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::builds) enum OwnEnd {
    /// Not all have ended, and none has failed.
    Unfinished,
    /// All have ended with exit code 0.
    Succeeded,
    /// One has ended with another exit code.
    Failed,
}

impl<'a> OwnContainers<'a> {
    /// Returns the containers of a Job's template; all of them if the Job does not say which ones
    /// it was created with.
    pub(in crate::builds) fn of(job: &'a Job) -> Self {
        let template = OwnTemplate::of(job);
        let (native_sidecars, init): (Vec<_>, Vec<_>) =
            template.init.into_iter().partition(|container| is_native_sidecar(container));
        let names = |containers: Vec<&'a Container>| {
            containers.into_iter().map(|container| container.name.as_str()).collect()
        };
        Self {
            main: names(template.main),
            init: names(init),
            native_sidecars: names(native_sidecars),
        }
    }

    /// Returns what the containers say about the end of a pod.
    pub(in crate::builds) fn end(&self, pod: &Pod) -> OwnEnd {
        let Some(status) = pod.status.as_ref() else { return OwnEnd::Unfinished };
        if self.failed(status).is_some() {
            return OwnEnd::Failed;
        }
        let has_ended =
            |name: &&str| self.terminated(status).any(|(ended, _)| ended.name == **name);
        if !self.main.is_empty() && self.main.iter().all(has_ended) {
            OwnEnd::Succeeded
        } else {
            OwnEnd::Unfinished
        }
    }

    /// Returns the first container that has failed.
    pub(in crate::builds) fn failed<'s>(
        &self,
        status: &'s PodStatus,
    ) -> Option<(&'s ContainerStatus, &'s ContainerStateTerminated)> {
        self.terminated(status).find(|(_, ended)| ended.exit_code != 0)
    }

    /// Returns when the last container of a pod that has ended did so.
    pub(in crate::builds) fn ended_at(&self, pod: &Pod) -> Option<Timestamp> {
        let ended = self.terminated(pod.status.as_ref()?);
        ended.filter_map(|(_, ended)| Some(ended.finished_at.as_ref()?.0)).max()
    }

    /// Whether a pod failed after its own deletion or the deletion of its Job, so that its end says
    /// nothing about its work. `requested` is the time of the deletion.
    pub(in crate::builds) fn ended_after(&self, pod: &Pod, requested: Timestamp) -> bool {
        self.ended_at(pod).is_none_or(|ended| ended >= requested)
    }

    /// Whether one of the main containers runs, whatever the phase of the pod says: it stays
    /// `Pending` while any other container cannot start.
    pub(in crate::builds) fn is_running(&self, status: &PodStatus) -> bool {
        status.container_statuses.iter().flatten().any(|container| {
            self.main.contains(&container.name.as_str())
                && container.state.as_ref().is_some_and(|state| state.running.is_some())
        })
    }

    /// Whether a container was started or has ended.
    pub(in crate::builds) fn has_started(&self, status: &PodStatus) -> bool {
        let started = |container: &ContainerStatus| {
            container
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_some() || state.terminated.is_some())
        };
        pod::containers(status).any(|container| self.contains(container) && started(container))
    }

    /// Whether a container is ours.
    pub(in crate::builds) fn contains(&self, container: &ContainerStatus) -> bool {
        let name = container.name.as_str();
        self.runs_to_completion(name) || self.native_sidecars.contains(&name)
    }

    fn runs_to_completion(&self, name: &str) -> bool {
        self.main.contains(&name) || self.init.contains(&name)
    }

    /// Returns the containers that run to completion and have ended, with how they ended.
    pub(in crate::builds) fn terminated<'s>(
        &self,
        status: &'s PodStatus,
    ) -> impl Iterator<Item = (&'s ContainerStatus, &'s ContainerStateTerminated)> {
        pod::containers(status)
            .filter(|container| self.runs_to_completion(&container.name))
            .filter_map(|container| Some((container, pod::terminated(container)?)))
    }
}

/// Whether a pod has ended, or is about to: the kubelet ends native sidecars once every other
/// container has ended, or once an init container has failed.
#[must_use]
pub fn pod_has_ended(pod: &Pod) -> bool {
    if ["Succeeded", "Failed"].contains(&pod::phase(pod)) {
        return true;
    }
    let (Some(spec), Some(status)) = (&pod.spec, &pod.status) else { return false };
    let exit_code = |name: &str| {
        pod::containers(status)
            .find(|container| container.name == name)
            .and_then(pod::terminated)
            .map(|ended| ended.exit_code)
    };
    let mut init = spec.init_containers.iter().flatten().filter(|init| !is_native_sidecar(init));
    let init_failed = init.any(|init| exit_code(&init.name).is_some_and(|code| code != 0));
    let mut main = spec.containers.iter();
    init_failed || !spec.containers.is_empty() && main.all(|main| exit_code(&main.name).is_some())
}

/// Returns when our own containers ended, if they say how a Job ended.
#[must_use]
pub fn ended_at(job: &Job, pod: &Pod) -> Option<Timestamp> {
    let own = OwnContainers::of(job);
    if own.end(pod) == OwnEnd::Unfinished { None } else { own.ended_at(pod) }
}

/// Whether an init container keeps running next to the main containers.
fn is_native_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}
