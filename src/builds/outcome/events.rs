//! What the Events of a pod say about why it does not start. A pod whose node makes neither its
//! sandbox nor its volumes ready has no other place that says why, and neither has a Job without a
//! pod. The controller reads the Events of such pods and Jobs: see
//! [`needs_events`](crate::builds::outcome::needs_events) and
//! [`job_needs_events`](crate::builds::outcome::job_needs_events).

use std::collections::HashMap;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod},
};

use crate::{
    api::condition::Reason,
    builds::outcome::message::{Keep, sanitize},
};

/// Event reasons that say why a node does not start a pod.
const START_REASONS: [&str; 5] = [
    "FailedCreatePodSandBox",
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "NetworkNotReady",
];
/// Texts of Events with other reasons that say the same.
const START_TEXTS: [&str; 2] = ["failed to assign an ip address", "failed to create pod sandbox"];
/// How texts of nodes name user namespaces.
const USER_NAMESPACES: [&str; 3] = ["user namespace", "hostusers", "userns"];
/// How texts of nodes say that something is missing.
const UNSUPPORTED: [&str; 4] = ["not support", "n't support", "unsupported", "not enabled"];

/// An Event of a pod or of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodEvent {
    /// The reason of the Event.
    pub reason: String,
    /// The message of the Event.
    pub message: String,
}

impl PodEvent {
    /// Returns the reasons and messages of Events, the newest last.
    #[must_use]
    pub fn newest_last(mut events: Vec<Event>) -> Vec<Self> {
        events.sort_by_key(|event| {
            let series = event
                .series
                .as_ref()
                .and_then(|series| Some(series.last_observed_time.as_ref()?.0));
            let last = event.last_timestamp.as_ref().map(|time| time.0);
            let first = event.event_time.as_ref().map(|time| time.0);
            [series, last, first].into_iter().flatten().max()
        });
        let event = |event: Event| Self {
            reason: event.reason.unwrap_or_default(),
            message: event.message.unwrap_or_default(),
        };
        events.into_iter().map(event).collect()
    }
}

/// Events of pods and Jobs, by the uids of these objects. The newest Event of each is the last.
#[derive(Debug, Default)]
pub struct PodEvents(HashMap<String, Vec<PodEvent>>);

impl PodEvents {
    /// Replaces the Events of an object.
    pub fn record(&mut self, uid: &str, events: Vec<PodEvent>) {
        self.0.insert(uid.into(), events);
    }

    /// Forgets the Events of all other objects.
    pub fn retain(&mut self, is_wanted: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| is_wanted(uid));
    }

    /// Returns the Events of a pod.
    pub(in crate::builds) fn of(&self, pod: &Pod) -> &[PodEvent] {
        self.of_uid(pod.metadata.uid.as_deref())
    }

    /// Returns the Events of a Job.
    pub(in crate::builds) fn of_job(&self, job: &Job) -> &[PodEvent] {
        self.of_uid(job.metadata.uid.as_deref())
    }

    fn of_uid(&self, uid: Option<&str>) -> &[PodEvent] {
        uid.and_then(|uid| self.0.get(uid)).map_or(&[], Vec::as_slice)
    }
}

/// Why a node does not start a pod.
pub(super) struct StartProblem {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// Returns what the Events say about why a node does not start a pod, if they do.
pub(super) fn start_problem(events: &[PodEvent]) -> Option<StartProblem> {
    let newest = |says: fn(&PodEvent) -> bool| events.iter().rev().find(|event| says(event));
    if let Some(event) = newest(says_no_user_namespaces) {
        let message = format!(
            "the node gives pods no user namespaces: {}; use nodes whose container runtime \
             supports them, or a strategy that needs none",
            quote(event)
        );
        return Some(StartProblem { reason: Reason::UserNamespaceUnavailable, message });
    }
    let event = newest(says_no_start)?;
    let message = format!("the node does not start the pod: {}", quote(event));
    Some(StartProblem { reason: Reason::PodNotStarted, message })
}

fn says_no_user_namespaces(event: &PodEvent) -> bool {
    let text = event.message.to_lowercase();
    let contains = |words: &[&str]| words.iter().any(|word| text.contains(word));
    contains(&USER_NAMESPACES) && contains(&UNSUPPORTED)
}

fn says_no_start(event: &PodEvent) -> bool {
    let text = event.message.to_lowercase();
    START_REASONS.contains(&event.reason.as_str())
        || START_TEXTS.iter().any(|word| text.contains(word))
}

fn quote(event: &PodEvent) -> String {
    let text = sanitize(&event.message, Keep::Start);
    format!("{} \"{}\"", sanitize(&event.reason, Keep::Start), text.replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_newest_event_is_the_last() {
        let event = |reason: &str, at: &str| -> Event {
            serde_json::from_value(json!({"metadata": {}, "involvedObject": {}, "reason": reason,
                "lastTimestamp": at}))
            .expect("an Event")
        };
        let events = vec![event("b", "2026-01-01T00:09:00Z"), event("a", "2026-01-01T00:08:00Z")];
        let events = PodEvent::newest_last(events);
        let reasons: Vec<&str> = events.iter().map(|event| event.reason.as_str()).collect();
        assert_eq!(reasons, ["a", "b"]);
    }
}
