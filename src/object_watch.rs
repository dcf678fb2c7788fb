//! The watches of the API server. All of them list, retry and log in the same way. Needs a client.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug},
    future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::api::condition::shorten;

/// How long a watch is denied until its namespace is given up. A permission that was granted a
/// moment ago may not have reached the API server.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// The most characters of the reason why a watch is denied.
const MAX_DENIAL_MESSAGE: usize = 512;

/// What a watch covers: one kind in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchedKind {
    /// The kind.
    pub kind: String,
    /// The namespace; empty if all are covered.
    pub namespace: String,
}

impl fmt::Display for WatchedKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace } = self;
        if namespace.is_empty() { write!(f, "{kind}") } else { write!(f, "{kind} in {namespace}") }
    }
}

/// The watches of single namespaces that the API server denies, because the permission is missing:
/// the namespace, and the Role in it, may have been deleted or do not exist yet. Clones share their
/// contents.
#[derive(Clone, Debug, Default)]
pub struct DeniedWatches {
    denials: Arc<Mutex<BTreeMap<String, BTreeMap<String, Denial>>>>,
    need: WatchNeed,
}

/// Whether a namespace can be served without a watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum WatchNeed {
    /// It cannot.
    #[default]
    Required,
    /// It can: changes are noticed later.
    Optional,
}

#[derive(Clone, Debug)]
struct Denial {
    since: Instant,
    message: String,
}

impl DeniedWatches {
    /// Notes watches without which a namespace is served all the same.
    #[must_use]
    pub fn optional() -> Self {
        Self { need: WatchNeed::Optional, ..Self::default() }
    }

    /// Returns the namespaces with a denied watch, each with the answer of the API server to one of
    /// them.
    #[must_use]
    pub fn namespaces(&self) -> BTreeMap<String, String> {
        let message = |kinds: &BTreeMap<String, Denial>| {
            kinds.values().next().map(|denial| denial.message.clone()).unwrap_or_default()
        };
        self.lock().iter().map(|(namespace, kinds)| (namespace.clone(), message(kinds))).collect()
    }

    /// Returns whether a watch of this namespace has been denied for longer than a permission needs
    /// to take effect.
    #[must_use]
    pub fn is_given_up(&self, namespace: &str) -> bool {
        self.lock()
            .get(namespace)
            .is_some_and(|kinds| kinds.values().any(|kind| kind.since.elapsed() >= GIVE_UP_AFTER))
    }

    /// Notes a denied watch, and logs the first one of a namespace.
    fn note_denied(&self, watch: &WatchedKind, error: &watcher::Error) {
        let WatchedKind { kind, namespace } = watch;
        if namespace.is_empty() && self.need == WatchNeed::Required {
            warn!(%kind, %error, "a watch is denied; grant its permission in all namespaces");
            return;
        }
        let mut denied = self.lock();
        let kinds = denied.entry(namespace.clone()).or_default();
        if kinds.is_empty() && self.need == WatchNeed::Optional {
            warn!(%namespace, %kind, %error, "a watch is denied, so that changes are noticed late; \
                grant the permissions of the chart");
        } else if kinds.is_empty() {
            warn!(%namespace, %kind, %error, "a namespace cannot be watched and is not served; \
                create it, and grant the permissions of the chart in it");
        } else {
            debug!(%namespace, %kind, %error, "a watch is denied");
        }
        let message = || shorten(&error.to_string(), MAX_DENIAL_MESSAGE);
        kinds
            .entry(kind.clone())
            .or_insert_with(|| Denial { since: Instant::now(), message: message() });
    }

    /// Notes that a watch has listed its objects, and logs the last one of a namespace.
    fn note_listed(&self, watch: &WatchedKind) {
        let WatchedKind { kind, namespace } = watch;
        let mut denied = self.lock();
        let Some(kinds) = denied.get_mut(namespace) else { return };
        kinds.remove(kind);
        if kinds.is_empty() {
            denied.remove(namespace);
            info!(%namespace, "the namespace is watched again");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, BTreeMap<String, Denial>>> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the events of a watch. It never ends: a failure is logged, and the watch is retried with
/// an increasing pause.
///
/// It lists page by page and then watches, because streaming lists are off by default in Kubernetes
/// 1.33. `selected` selects the objects.
pub fn watch_events<K>(
    api: Api<K>,
    selected: watcher::Config,
    watch: WatchedKind,
    denied: DeniedWatches,
) -> impl Stream<Item = Event<K>> + Send + 'static
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let start = move || watcher(api.clone(), selected.clone()).boxed();
    let events = stream::unfold((start(), start), |(mut events, start)| async move {
        let event = events.next().await?;
        if event.as_ref().is_err_and(is_denied) {
            // A new watch lists its objects, which shows that it is no longer denied. The old one
            // would continue silently.
            events = start();
        }
        Some((event, (events, start)))
    });
    events.default_backoff().filter_map(move |event| {
        match &event {
            Ok(Event::InitDone) => denied.note_listed(&watch),
            Ok(_) => {}
            Err(error) if is_denied(error) => denied.note_denied(&watch, error),
            Err(error) => warn!(%watch, %error, "a watch failed; it is retried"),
        }
        future::ready(event.ok())
    })
}

fn is_denied(error: &watcher::Error) -> bool {
    match error {
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status))
        | watcher::Error::WatchError(status) => status.is_forbidden(),
        _ => false,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        convert::Infallible,
        sync::atomic::{AtomicBool, Ordering},
    };

    use http::{Request, Response};
    use k8s_openapi::api::core::v1::Secret;
    use kube::{Client, client::Body};
    use serde_json::{Value, json};

    use super::*;
    use crate::telemetry::{LogFormat, tests::logged};

    /// How long a watch of the model takes until the server ends it.
    const WATCH_DURATION: Duration = Duration::from_secs(30);

    /// The longest pause between two attempts, with some reserve.
    const MAX_RETRY_PAUSE: Duration = Duration::from_secs(90);

    /// A client of an API server without streaming lists, as 1.33 is by default. It has no objects
    /// but Namespaces. It has no namespace `absent`, and denies the objects in it, until `granted`.
    pub fn client(absent: &'static str, granted: &Arc<AtomicBool>) -> Client {
        let granted = Arc::clone(granted);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (uri, granted) = (request.uri().to_string(), granted.load(Ordering::SeqCst));
            async move {
                let (code, body) = answer(&uri, (!granted).then_some(absent));
                if code == 200 && uri.contains("watch=true") {
                    tokio::time::sleep(WATCH_DURATION).await;
                }
                let body = match body {
                    Value::Null => Body::empty(),
                    body => Body::from(serde_json::to_vec(&body).expect("JSON")),
                };
                let response = Response::builder().status(code).body(body).expect("a response");
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    /// `denied` is a namespace without a Role.
    fn answer(uri: &str, denied: Option<&str>) -> (u16, Value) {
        let failure = |code: u16, reason: &str, message: &str| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": reason, "code": code, "message": message,
            });
            (code, status)
        };
        if uri.contains("sendInitialEvents=true") {
            let message = "sendInitialEvents is forbidden for watch unless the WatchList feature \
                gate is enabled";
            return failure(422, "Invalid", message);
        }
        if denied.is_some_and(|denied| uri.contains(&format!("/namespaces/{denied}/"))) {
            return failure(403, "Forbidden", "cannot list resource: no Role");
        }
        let named = uri.split_once("fieldSelector=metadata.name%3D").map(|(_, rest)| rest);
        let named = named.and_then(|rest| rest.split('&').next());
        let named = named.filter(|name| Some(*name) != denied);
        let namespace =
            |name| json!({"metadata": {"name": name, "uid": name, "resourceVersion": "1"}});
        let namespace = named.map(namespace);
        if uri.contains("watch=true") {
            let event = namespace.map(|object| json!({"type": "ADDED", "object": object}));
            return (200, event.unwrap_or_default());
        }
        let items: Vec<Value> = namespace.into_iter().collect();
        let list = json!({
            "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"},
            "items": items,
        });
        (200, list)
    }

    #[tokio::test(start_paused = true)]
    async fn a_denied_watch_is_named_and_begins_once_it_is_granted() {
        let (granted, denied) = (Arc::default(), DeniedWatches::default());
        let api: Api<Secret> = Api::namespaced(client("gone", &granted), "gone");
        let watch = WatchedKind { kind: "Secret".into(), namespace: "gone".into() };
        let events = watch_events(api, watcher::Config::default(), watch, denied.clone());
        let mut events = Box::pin(events);
        let listed = async |event| matches!(event, Event::InitDone).then_some(());
        let mut first = Box::pin(events.by_ref().filter_map(listed));
        let wait = |time| tokio::time::sleep(Duration::from_secs(time));
        tokio::select! { _ = first.next() => panic!("denied"), () = wait(4) => {} }
        let message = denied.namespaces().remove("gone").expect("a denied namespace");
        assert!(message.contains("no Role"), "{message}");
        assert!(!denied.is_given_up("gone"), "the permission may not have taken effect");
        tokio::select! { _ = first.next() => panic!("denied"), () = wait(2) => {} }
        assert!(denied.is_given_up("gone") && !denied.is_given_up("other"));
        granted.store(true, Ordering::SeqCst);
        tokio::time::timeout(MAX_RETRY_PAUSE, first.next()).await.expect("a list in time");
        assert!(denied.namespaces().is_empty() && !denied.is_given_up("gone"));

        // A watch that is resumed is denied like a new one, and lists again afterwards.
        granted.store(false, Ordering::SeqCst);
        tokio::select! { _ = first.next() => panic!("denied"), () = wait(60) => {} }
        assert!(denied.is_given_up("gone"));
        granted.store(true, Ordering::SeqCst);
        tokio::time::timeout(MAX_RETRY_PAUSE, first.next()).await.expect("a list in time");
        assert!(denied.namespaces().is_empty());
    }

    #[test]
    fn the_denied_watches_of_a_namespace_are_logged_once() {
        let watches = async {
            let (granted, denied) = (Arc::default(), DeniedWatches::default());
            let client = client("gone", &granted);
            let watch = |kind: &str| {
                let api: Api<Secret> = Api::namespaced(client.clone(), "gone");
                let watch = WatchedKind { kind: kind.into(), namespace: "gone".into() };
                watch_events(api, watcher::Config::default(), watch, denied.clone()).boxed()
            };
            let mut events = stream::select(watch("Secret"), watch("ConfigMap"));
            for granted_now in [false, true] {
                granted.store(granted_now, Ordering::SeqCst);
                let end = tokio::time::sleep(Duration::from_mins(10));
                events.by_ref().take_until(end).for_each(|_| future::ready(())).await;
            }
        };
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let log = logged(LogFormat::Text, || runtime.expect("a runtime").block_on(watches));
        for message in ["a namespace cannot be watched", "the namespace is watched again"] {
            assert_eq!(log.matches(message).count(), 1, "{message} in:\n{log}");
        }
    }
}
