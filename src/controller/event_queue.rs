//! Events for users that wait to be published. Whoever adds one does not wait for that: an Event is
//! never worth the delay of a build. Needs a client.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, Recorder};
use tokio::sync::Notify;
use tracing::{debug, warn};

/// The most Events that wait to be published. Beyond it, new ones are dropped.
const MAX_WAITING: usize = 1024;
/// Upper bound on the time that publishing one Event may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(5);

/// Events that wait to be published, the oldest first.
pub struct EventQueue {
    recorder: Recorder,
    waiting: Mutex<VecDeque<(Event, ObjectReference)>>,
    added: Notify,
}

impl EventQueue {
    /// Returns an empty queue of Events that this recorder publishes.
    #[must_use]
    pub fn new(recorder: Recorder) -> Self {
        Self { recorder, waiting: Mutex::default(), added: Notify::new() }
    }

    /// Adds an Event about an object. Drops it if too many wait: the API server does not take them
    /// as fast as they come.
    pub fn add(&self, event: Event, regarding: ObjectReference) {
        let mut waiting = self.lock();
        if waiting.len() >= MAX_WAITING {
            warn!(
                reason = event.reason,
                note = event.note,
                object = regarding.name,
                "an Event is not published, because too many wait"
            );
            return;
        }
        waiting.push_back((event, regarding));
        self.added.notify_one();
    }

    /// Publishes Events as they come, one after the other. Never ends.
    pub async fn publish(&self) {
        loop {
            self.publish_waiting().await;
            self.added.notified().await;
        }
    }

    /// Publishes the Events that wait.
    pub async fn publish_waiting(&self) {
        loop {
            let next = self.lock().pop_front();
            let Some((event, regarding)) = next else { return };
            let reason = &event.reason;
            let publish = self.recorder.publish(&event, &regarding);
            match tokio::time::timeout(PUBLISH_TIMEOUT, publish).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, reason, "could not publish an Event"),
                Err(_) => debug!(reason, "could not publish an Event in time"),
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Event, ObjectReference)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use http::{Request, Response};
    use kube::{
        Client,
        client::Body,
        runtime::events::{EventType, Reporter},
    };

    use super::*;

    fn event(note: usize) -> (Event, ObjectReference) {
        let event = Event {
            type_: EventType::Normal,
            reason: "Tested".into(),
            note: Some(note.to_string()),
            action: "Test".into(),
            secondary: None,
        };
        let regarding = ObjectReference {
            kind: Some("ImageFamily".into()),
            name: Some(format!("f{note}")),
            namespace: Some("team".into()),
            ..ObjectReference::default()
        };
        (event, regarding)
    }

    #[tokio::test]
    async fn nobody_waits_for_an_event_and_a_flood_is_bounded() {
        let published = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&published);
        let service = tower::service_fn(move |request: Request<Body>| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                let body = request.into_body().collect_bytes().await.expect("a body");
                Ok::<_, Infallible>(Response::new(Body::from(body)))
            }
        });
        let reporter = Reporter { controller: "groundswell".into(), instance: Some("0".into()) };
        let queue = EventQueue::new(Recorder::new(Client::new(service, "team"), reporter));
        for note in 0..MAX_WAITING + 10 {
            let (event, regarding) = event(note);
            queue.add(event, regarding);
        }
        assert_eq!(published.load(Ordering::SeqCst), 0);
        queue.publish_waiting().await;
        assert_eq!(published.load(Ordering::SeqCst), MAX_WAITING);
        let (last, regarding) = event(0);
        queue.add(last, regarding);
        queue.publish_waiting().await;
        assert_eq!(published.load(Ordering::SeqCst), MAX_WAITING + 1, "there is room again");
    }
}
