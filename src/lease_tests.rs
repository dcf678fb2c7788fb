use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// An API server with one lease and optimistic concurrency.
#[derive(Clone, Default)]
struct LeaseServer {
    lease: Arc<Mutex<Option<Lease>>>,
    conflicts: Arc<AtomicUsize>,
}

/// Connection of a candidate to the server. Calls hang while it is cut.
#[derive(Clone, Default)]
struct Link {
    cut: Arc<AtomicBool>,
}

impl LeaseServer {
    fn answer(&self, method: &Method, body: &[u8]) -> (u16, Value) {
        let mut stored = self.lease.lock().expect("lock");
        let version = |lease: &Lease| lease.metadata.resource_version.clone().unwrap_or_default();
        match (method, stored.as_ref()) {
            (&Method::GET, Some(lease)) => (200, serde_json::to_value(lease).expect("JSON")),
            (&Method::GET | &Method::PUT, None) => (404, status(404, "NotFound")),
            (&Method::POST, Some(_)) => (409, status(409, "AlreadyExists")),
            (&Method::POST, None) => {
                let mut lease: Lease = serde_json::from_slice(body).expect("a Lease");
                lease.metadata.resource_version = Some("1".into());
                *stored = Some(lease.clone());
                (201, serde_json::to_value(lease).expect("JSON"))
            }
            (&Method::PUT, Some(current)) => {
                let mut lease: Lease = serde_json::from_slice(body).expect("a Lease");
                if version(&lease) != version(current) {
                    self.conflicts.fetch_add(1, Ordering::Relaxed);
                    return (409, status(409, "Conflict"));
                }
                let next = version(current).parse::<u64>().expect("a version") + 1;
                lease.metadata.resource_version = Some(next.to_string());
                *stored = Some(lease.clone());
                (200, serde_json::to_value(lease).expect("JSON"))
            }
            (method, _) => panic!("unexpected {method}"),
        }
    }

    fn client(&self, link: &Link) -> Client {
        let (server, link) = (self.clone(), link.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (server, link) = (server.clone(), link.clone());
            async move {
                if link.cut.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.expect("a body");
                let (code, answer) = server.answer(&method, &body);
                let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(answer).expect("a response"),
                )
            }
        });
        Client::new(service, "default")
    }

    fn candidate(&self, identity: &str) -> (LeaderElection, Link) {
        let link = Link::default();
        (LeaderElection::new(self.client(&link), "system", "groundswell", identity), link)
    }

    fn holder(&self) -> String {
        self.lease
            .lock()
            .expect("lock")
            .as_ref()
            .map(|lease| holder(lease).to_owned())
            .unwrap_or_default()
    }

    /// Changes the lease as another client would.
    fn edit(&self, change: impl FnOnce(&mut LeaseSpec)) {
        let mut stored = self.lease.lock().expect("lock");
        let lease = stored.as_mut().expect("a lease");
        change(lease.spec.get_or_insert_default());
        lease.metadata.resource_version = Some("1000".into());
    }
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
           "message": reason, "code": code})
}

#[tokio::test(start_paused = true)]
async fn the_second_leads_only_after_the_first_has_stopped() {
    let server = LeaseServer::default();
    let (first, link) = server.candidate("first");
    let (second, _) = server.candidate("second");
    let leading = first.acquire().await;
    let waiting = tokio::spawn(async move { (second.acquire().await, Instant::now()) });
    sleep(3 * LEASE_DURATION).await;
    assert!(!waiting.is_finished(), "both lead");

    link.cut.store(true, Ordering::Relaxed);
    let cut_at = Instant::now();
    leading.lost().await;
    let lost_at = Instant::now();
    let (_second, taken_at) = waiting.await.expect("the second leads");
    assert!(lost_at - cut_at <= RENEW_DEADLINE, "{:?}", lost_at - cut_at);
    assert!(taken_at - lost_at >= Duration::from_secs(3), "{:?}", taken_at - lost_at);
    assert!(taken_at - cut_at < Duration::from_secs(20), "{:?}", taken_at - cut_at);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_writes_nothing_after_the_deadline() {
    let server = LeaseServer::default();
    let (first, link) = server.candidate("first");
    let fence = first.fence();
    assert!(!fence.is_open(), "it does not lead yet");
    let leading = first.acquire().await;
    sleep(2 * LEASE_DURATION).await;
    assert!(fence.is_open(), "renewals keep it open");
    link.cut.store(true, Ordering::Relaxed);
    let cut_at = Instant::now();
    // The process is not scheduled: no task of it runs, and the deadline passes.
    tokio::time::advance(RENEW_DEADLINE).await;
    assert!(!fence.is_open(), "whether or not the loss was noticed");
    leading.lost().await;
    assert_eq!(cut_at.elapsed(), RENEW_DEADLINE);

    let released = server.candidate("first").0;
    let fence = released.fence();
    let leading = released.acquire().await;
    assert!(fence.is_open());
    leading.release().await;
    assert!(!fence.is_open());
}

#[tokio::test(start_paused = true)]
async fn the_holder_names_its_version_and_another_installation_notices_it() {
    let server = LeaseServer::default();
    let candidate = |identity: &str, installation: &str| {
        let of = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let annotations =
            [of(labels::INSTALLATION, installation), of(labels::CONTROLLER_VERSION, identity)];
        server.candidate(identity).0.with_annotations(annotations.into())
    };
    let annotation = |name: &str| {
        let stored = server.lease.lock().expect("lock");
        stored.as_ref()?.metadata.annotations.as_ref()?.get(name).cloned()
    };
    let leading = candidate("first", "a").acquire().await;
    assert_eq!(annotation(labels::CONTROLLER_VERSION).as_deref(), Some("first"));
    let (replica, stranger) = (candidate("second", "a"), candidate("third", "b"));
    let (known_to_replica, known) = (replica.other_installation(), stranger.other_installation());
    let replica = tokio::spawn(replica.acquire());
    let waiting = tokio::spawn(stranger.acquire());
    sleep(2 * RETRY_INTERVAL).await;
    assert_eq!(known.name().as_deref(), Some("a"));
    assert_eq!(known_to_replica.name(), None, "it is a replica of the same installation");
    replica.abort();
    leading.release().await;
    let _leading = waiting.await.expect("the other installation leads");
    assert_eq!(known.name(), None);
    assert_eq!(annotation(labels::INSTALLATION).as_deref(), Some("b"));
    assert_eq!(annotation(labels::CONTROLLER_VERSION).as_deref(), Some("third"));
}

#[tokio::test(start_paused = true)]
async fn a_released_lease_is_taken_at_the_next_read() {
    let server = LeaseServer::default();
    let leading = server.candidate("first").0.acquire().await;
    let second = server.candidate("second").0;
    let waiting = tokio::spawn(second.acquire());
    sleep(RETRY_INTERVAL).await;
    let released_at = Instant::now();
    leading.release().await;
    let _second = waiting.await.expect("the second leads");
    assert!(released_at.elapsed() <= RETRY_INTERVAL, "{:?}", released_at.elapsed());
    assert_eq!(server.holder(), "second");
}

#[tokio::test(start_paused = true)]
async fn one_of_many_candidates_leads() {
    let server = LeaseServer::default();
    let leaders = Arc::new(AtomicUsize::new(0));
    for n in 0..5 {
        let (election, leaders) =
            (server.candidate(&format!("candidate-{n}")).0, Arc::clone(&leaders));
        tokio::spawn(async move {
            let leading = election.acquire().await;
            leaders.fetch_add(1, Ordering::Relaxed);
            leading.lost().await;
            leaders.fetch_sub(1, Ordering::Relaxed);
        });
    }
    for _ in 0..100 {
        sleep(Duration::from_secs(1)).await;
        assert_eq!(leaders.load(Ordering::Relaxed), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_took_is_lost_at_the_next_renewal() {
    let server = LeaseServer::default();
    let leading = server.candidate("first").0.acquire().await;
    server.edit(|spec| spec.holder_identity = Some("intruder".into()));
    let taken_at = Instant::now();
    leading.lost().await;
    assert!(taken_at.elapsed() <= RETRY_INTERVAL, "{:?}", taken_at.elapsed());
    assert_eq!(server.conflicts.load(Ordering::Relaxed), 1);
    assert_eq!(server.holder(), "intruder");
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_an_own_write_is_not_a_loss() {
    let server = LeaseServer::default();
    let leading = server.candidate("first").0.acquire().await;
    server.edit(|spec| spec.strategy = Some("touched".into()));
    assert!(timeout(2 * LEASE_DURATION, leading.lost()).await.is_err(), "lost");
    assert_eq!(server.conflicts.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn another_machines_clock_does_not_matter() {
    let server = LeaseServer::default();
    let leading = server.candidate("first").0.acquire().await;
    drop(leading);
    // A renewal with a time in 1970 was still observed only now.
    server.edit(|spec| spec.renew_time = Some(MicroTime(Timestamp::UNIX_EPOCH)));
    let observed_at = Instant::now();
    let _second = server.candidate("second").0.acquire().await;
    assert!(observed_at.elapsed() >= LEASE_DURATION, "{:?}", observed_at.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_restarted_process_continues_with_its_own_lease() {
    let server = LeaseServer::default();
    drop(server.candidate("pod").0.acquire().await);
    let restarted_at = Instant::now();
    let _again = server.candidate("pod").0.acquire().await;
    assert!(restarted_at.elapsed() < RETRY_INTERVAL);
}
