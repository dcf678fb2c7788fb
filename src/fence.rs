//! The fence around everything that only the leader may write: the objects of the cluster, and the
//! tags and images of registries.
//!
//! A process that gets no CPU for a while learns late that its lease is lost, and its work may go
//! on in that moment, before it is stopped. So each write asks, when it is sent, whether the
//! renewals of the lease still cover it. Reads always pass.

use std::time::Duration;

use http::Request;
use kube::{Client, client::Body};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tower::{BoxError, service_fn};

/// Says until when this process may write. Closed until it leads.
#[derive(Clone, Debug, Default)]
pub struct Fence(watch::Sender<Option<Instant>>);

/// The error of a write that was not sent.
#[derive(Debug, thiserror::Error)]
#[error("this replica has not renewed its Lease in time, so that it must not write any more")]
pub struct NotLeader;

impl Fence {
    /// Whether this process may write now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Allows writes for a time that began at `since`.
    pub(crate) fn open(&self, since: Instant, duration: Duration) {
        self.0.send_replace(Some(since + duration));
    }

    /// Allows no more writes.
    pub(crate) fn close(&self) {
        self.0.send_replace(None);
    }

    /// Waits until no more writes are allowed.
    pub(crate) async fn closed(&self) {
        let mut opened = self.0.subscribe();
        loop {
            let Some(until) = *opened.borrow_and_update() else { return };
            if timeout_at(until, opened.changed()).await.is_err() {
                return;
            }
        }
    }

    /// Returns a client that sends no write while the fence is closed.
    #[must_use]
    pub fn guard(&self, client: &Client) -> Client {
        let (fence, inner) = (self.clone(), client.clone());
        let send = move |request: Request<Body>| {
            let (fence, inner) = (fence.clone(), inner.clone());
            async move {
                if !request.method().is_safe() && !fence.is_open() {
                    return Err(BoxError::from(NotLeader));
                }
                inner.send(request).await.map_err(BoxError::from)
            }
        };
        Client::new(service_fn(send), client.default_namespace())
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc, sync::atomic::AtomicUsize, sync::atomic::Ordering};

    use http::Response;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{
        Api,
        api::{DeleteParams, Patch, PatchParams, PostParams},
    };

    use super::*;

    const TERM: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn no_write_is_sent_once_the_renewals_do_not_cover_it() {
        let sent = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&sent);
        let answer = move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::Relaxed);
            let map = Body::from(br#"{"kind": "ConfigMap", "apiVersion": "v1"}"#.to_vec());
            async { Ok::<_, Infallible>(Response::new(map)) }
        };
        let fence = Fence::default();
        let client = fence.guard(&Client::new(service_fn(answer), "team"));
        let api: Api<ConfigMap> = Api::default_namespaced(client);
        let patch = Patch::Merge(ConfigMap::default());
        let mut expected = 0;
        let mut writes = async |allowed: bool| {
            let written = [
                api.create(&PostParams::default(), &ConfigMap::default()).await.is_ok(),
                api.replace("a", &PostParams::default(), &ConfigMap::default()).await.is_ok(),
                api.patch("a", &PatchParams::default(), &patch).await.is_ok(),
                api.delete("a", &DeleteParams::default()).await.is_ok(),
            ];
            assert_eq!(written, [allowed; 4]);
            assert!(api.get("a").await.is_ok(), "reads pass");
            expected += if allowed { 5 } else { 1 };
            assert_eq!(sent.load(Ordering::Relaxed), expected);
        };
        writes(false).await;
        // The process asked for the renewal two seconds ago.
        fence.open(Instant::now() - Duration::from_secs(2), TERM);
        writes(true).await;
        // It gets no CPU for eight seconds, and has not noticed that the lease is lost.
        tokio::time::advance(Duration::from_millis(7999)).await;
        writes(true).await;
        tokio::time::advance(Duration::from_millis(1)).await;
        writes(false).await;
        fence.open(Instant::now(), TERM);
        writes(true).await;
        fence.close();
        writes(false).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_noticed_without_a_word_from_whoever_renews() {
        let fence = Fence::default();
        fence.open(Instant::now(), TERM);
        let begun = Instant::now();
        let renewing = fence.clone();
        tokio::spawn(async move {
            tokio::time::sleep(TERM / 2).await;
            renewing.open(Instant::now(), TERM);
        });
        fence.closed().await;
        assert_eq!(begun.elapsed(), TERM + TERM / 2);
    }
}
