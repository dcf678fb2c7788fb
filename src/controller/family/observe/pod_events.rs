//! The Events of pods whose node does not start them, and of Jobs without a pod. Nothing else says
//! why: no free address, a volume that is missing, a container runtime without user namespaces, a
//! quota or a policy that rejects the pod. Needs a client.

use std::collections::{HashMap, HashSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{Api, Client, ResourceExt, api::ListParams};
use tracing::warn;

use crate::{
    builds::outcome::{PodEvent, PodEvents, job_needs_events, needs_events},
    controller::{
        error::call,
        family::observe::{Observer, jobs::controlling_job},
        object_cache::Key,
        stores::Stores,
    },
};

/// The most pods and Jobs whose Events one reconcile reads.
const MAX_READS: usize = 8;
/// The most Events of an object that are read.
const MAX_EVENTS: u32 = 100;
/// The Events of an object are read at most once per this time.
const READ_INTERVAL: SignedDuration = SignedDuration::from_mins(1);

/// The Events of a family's pods that wait for their nodes and of its Jobs without a pod, and when
/// they were read.
#[derive(Debug, Default)]
pub struct PodEventCache {
    /// The Events.
    pub events: PodEvents,
    /// When the Events of an object were last read, by its uid.
    read_at: HashMap<String, Timestamp>,
}

impl Observer<'_> {
    /// Reads the Events of the pods that have waited for their nodes for long, and of the Jobs that
    /// have waited for their pods.
    pub(super) async fn read_pod_events(&mut self) {
        let (context, cache) = (self.context, &mut self.cache.pod_events);
        read_pod_events(&context.client, &context.stores, &self.key, cache, self.now).await;
    }
}

/// Reads the Events of a family's pods and Jobs that need them. A family without any costs no call.
async fn read_pod_events(
    client: &Client,
    stores: &Stores,
    family: &Key,
    cache: &mut PodEventCache,
    now: Timestamp,
) {
    let pods = stores.pods.group(family);
    let with_pod: HashSet<&str> =
        pods.iter().filter_map(|pod| Some(controlling_job(pod)?.uid.as_str())).collect();
    let waiting_pods = pods
        .iter()
        .filter(|pod| is_waiting(stores, pod, now))
        .filter_map(|pod| Some((pod.uid()?, format!("Pod {}", pod.name_any()))));
    let waiting_jobs = stores.jobs.group(family).into_iter().filter_map(|job| {
        let uid = job.uid()?;
        let is_waiting = !with_pod.contains(uid.as_str()) && job_needs_events(&job, now);
        is_waiting.then(|| (uid, format!("Job {}", job.name_any())))
    });
    let waiting: HashMap<String, String> = waiting_pods.chain(waiting_jobs).collect();
    cache.read_at.retain(|uid, _| waiting.contains_key(uid));
    cache.events.retain(|uid| waiting.contains_key(uid));
    let is_due = |uid: &str| {
        // A time in the future was noted before the clock was set back.
        cache
            .read_at
            .get(uid)
            .is_none_or(|at| now < *at || now.duration_since(*at) >= READ_INTERVAL)
    };
    let mut due: Vec<(&String, &String)> = waiting.iter().filter(|(uid, _)| is_due(uid)).collect();
    due.sort_by_key(|(uid, _)| cache.read_at.get(*uid).copied());
    due.truncate(MAX_READS);
    let api: Api<Event> = Api::namespaced(client.clone(), &family.namespace);
    for (uid, object) in due {
        cache.read_at.insert(uid.clone(), now);
        let selector = format!("involvedObject.uid={uid},type=Warning");
        let parameters = ListParams::default().fields(&selector).limit(MAX_EVENTS);
        let what = || format!("read the Events of {object}");
        match call(what, api.list(&parameters)).await {
            Ok(events) => cache.events.record(uid, PodEvent::newest_last(events.items)),
            // The wait is reported without them.
            Err(error) => {
                warn!(object, %error, "the Events that say what a build waits for cannot be read");
            }
        }
    }
}

fn is_waiting(stores: &Stores, pod: &Pod, now: Timestamp) -> bool {
    let job = controlling_job(pod).and_then(|owner| {
        let key = Key::new(pod.metadata.namespace.as_deref()?, &owner.name);
        stores.jobs.get(&key).filter(|job| job.metadata.uid.as_ref() == Some(&owner.uid))
    });
    job.is_some_and(|job| needs_events(&job, pod, now))
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use http::{Request, Response};
    use k8s_openapi::api::batch::v1::Job;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::*;
    use crate::api::labels;

    const NOW: &str = "2026-01-01T00:10:00Z";

    /// Returns a client of an API server with two Events per pod, and the queries that it got.
    fn api_server() -> (Client, Arc<Mutex<Vec<String>>>) {
        let queries = Arc::new(Mutex::new(Vec::new()));
        let asked = Arc::clone(&queries);
        let service = tower::service_fn(move |request: Request<Body>| {
            let query = request.uri().to_string();
            asked.lock().expect("a lock").push(query);
            async move {
                let event = |reason: &str, at: &str| {
                    json!({"metadata": {}, "involvedObject": {}, "reason": reason, "message": "m",
                        "lastTimestamp": at})
                };
                let items = [
                    event("Newest", "2026-01-01T00:09:00Z"),
                    event("Oldest", "2026-01-01T00:08:00Z"),
                ];
                let answer = json!({
                    "apiVersion": "v1",
                    "kind": "EventList",
                    "metadata": {},
                    "items": items,
                });
                let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
                Ok::<_, Infallible>(Response::new(answer))
            }
        });
        (Client::new(service, "team"), queries)
    }

    /// Returns the reference to the Job of this name that controls a pod.
    fn controller(job: &str) -> Value {
        json!({"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": format!("job-{job}"),
            "controller": true})
    }

    fn add_pod(stores: &Stores, name: &str, is_ready: &str) {
        let job: Value = json!({"metadata": {
            "name": name,
            "namespace": "team",
            "uid": format!("job-{name}"),
            "resourceVersion": "1",
            "labels": {labels::FAMILY: "python"},
        }});
        stores.jobs.record_write(serde_json::from_value::<Job>(job).expect("a Job"));
        let pod: Value = json!({
            "metadata": {"name": name, "namespace": "team", "uid": name, "resourceVersion": "1",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {labels::FAMILY: "python"}, "ownerReferences": [controller(name)]},
            "status": {"phase": "Pending", "conditions": [
                {"type": "PodScheduled", "status": "True",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"},
                {"type": "PodReadyToStartContainers", "status": is_ready}]}});
        stores.pods.record_write(serde_json::from_value::<Pod>(pod).expect("a pod"));
    }

    #[tokio::test]
    async fn only_pods_that_wait_are_asked_for_and_not_more_than_once_a_minute() {
        let (client, queries) = api_server();
        let (stores, family) = (Stores::default(), Key::new("team", "python"));
        let mut cache = PodEventCache::default();
        add_pod(&stores, "started", "True");
        let now: Timestamp = NOW.parse().expect("a time");
        read_pod_events(&client, &stores, &family, &mut cache, now).await;
        assert_eq!(queries.lock().expect("a lock").len(), 0, "a quiet family costs no call");

        add_pod(&stores, "stuck", "False");
        for seconds in [0, 30, 59] {
            let now = now + SignedDuration::from_secs(seconds);
            read_pod_events(&client, &stores, &family, &mut cache, now).await;
        }
        let asked = queries.lock().expect("a lock").clone();
        assert_eq!(asked.len(), 1, "{asked:?}");
        let uri = "/api/v1/namespaces/team/events?&fieldSelector=involvedObject.uid%3Dstuck";
        assert!(asked[0].starts_with(uri) && asked[0].contains("limit="), "{asked:?}");
        let pod = stores.pods.get(&Key::new("team", "stuck")).expect("a pod");
        let job = stores.jobs.get(&Key::new("team", "stuck")).expect("a Job");
        assert!(needs_events(&job, &pod, now));
        let later = now + SignedDuration::from_secs(60);
        read_pod_events(&client, &stores, &family, &mut cache, later).await;
        assert_eq!(queries.lock().expect("a lock").len(), 2);

        for number in 0..20 {
            add_pod(&stores, &format!("stuck-{number}"), "False");
        }
        read_pod_events(&client, &stores, &family, &mut cache, later).await;
        assert_eq!(queries.lock().expect("a lock").len(), 2 + MAX_READS);
    }

    #[tokio::test]
    async fn the_events_of_a_job_are_read_if_it_has_no_pod() {
        let (client, queries) = api_server();
        let (stores, family) = (Stores::default(), Key::new("team", "python"));
        let mut cache = PodEventCache::default();
        for name in ["with-pod", "without-pod"] {
            let job = json!({
                "metadata": {"name": name, "namespace": "team", "uid": format!("job-{name}"),
                    "resourceVersion": "1", "labels": {labels::FAMILY: "python"}},
                "status": {"startTime": "2026-01-01T00:09:30Z"},
            });
            stores.jobs.record_write(serde_json::from_value::<Job>(job).expect("a Job"));
        }
        let pod = json!({"metadata": {"name": "p", "namespace": "team", "uid": "p",
            "resourceVersion": "1",
            "labels": {labels::FAMILY: "python"}, "ownerReferences": [controller("with-pod")]}});
        stores.pods.record_write(serde_json::from_value::<Pod>(pod).expect("a pod"));
        for (now, reads) in [("2026-01-01T00:09:59Z", 0), ("2026-01-01T00:10:00Z", 1)] {
            let now: Timestamp = now.parse().expect("a time");
            read_pod_events(&client, &stores, &family, &mut cache, now).await;
            assert_eq!(queries.lock().expect("a lock").len(), reads, "{now}");
        }
        let asked = queries.lock().expect("a lock").clone();
        assert!(asked[0].contains("involvedObject.uid%3Djob-without-pod"), "{asked:?}");
    }
}
