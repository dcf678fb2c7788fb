//! A registry for fault injection: it runs on loopback, a test chooses each of its responses, and
//! it records the requests.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, StatusCode},
    response::Response,
};

/// A request as the registry received it.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
    /// Number of earlier requests with the same method and target.
    pub previous: usize,
}

/// A response of the registry, which is sent after the pause.
pub struct FaultReply {
    pub response: Response,
    pub pause: Duration,
}

pub struct FaultRegistry {
    pub address: SocketAddr,
    log: Arc<RequestLog>,
}

/// What the registry records of the requests that it receives.
#[derive(Default)]
struct RequestLog {
    requests: Mutex<Vec<RecordedRequest>>,
    running: AtomicUsize,
    max_concurrent: AtomicUsize,
}

impl FaultRegistry {
    /// Starts on a free port. It stops with the test's runtime.
    pub async fn start(
        respond: impl Fn(&RecordedRequest) -> FaultReply + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let log = Arc::new(RequestLog::default());
        let (shared, respond) = (Arc::clone(&log), Arc::new(respond));
        let handler = move |request: Request| {
            let (log, respond) = (Arc::clone(&shared), Arc::clone(&respond));
            async move {
                let running = log.running.fetch_add(1, Ordering::SeqCst) + 1;
                log.max_concurrent.fetch_max(running, Ordering::SeqCst);
                let reply = respond(&log.record(request).await);
                tokio::time::sleep(reply.pause).await;
                log.running.fetch_sub(1, Ordering::SeqCst);
                reply.response
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { address, log }
    }

    /// Returns the requests so far as `METHOD target`.
    pub fn request_lines(&self) -> Vec<String> {
        let requests = self.requests();
        requests.iter().map(|request| format!("{} {}", request.method, request.target)).collect()
    }

    /// Returns the requests so far.
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.log.requests.lock().expect("log").clone()
    }

    /// Returns the highest number of requests that ran at the same time.
    pub fn max_concurrent(&self) -> usize {
        self.log.max_concurrent.load(Ordering::SeqCst)
    }
}

impl RequestLog {
    async fn record(&self, request: Request) -> RecordedRequest {
        let (method, target) = (request.method().to_string(), request.uri().to_string());
        let authorization = text(request.headers(), "authorization");
        let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("body").to_vec();
        let mut requests = self.requests.lock().expect("log");
        let is_same = |other: &&RecordedRequest| other.method == method && other.target == target;
        let previous = requests.iter().filter(is_same).count();
        let recorded = RecordedRequest { method, target, authorization, body, previous };
        requests.push(recorded.clone());
        recorded
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.to_str().expect("text").to_owned())
}

/// Returns a response without a pause.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> FaultReply {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).expect("status");
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().expect("name");
        response.headers_mut().append(name, value.parse().expect("value"));
    }
    FaultReply { response, pause: Duration::ZERO }
}

/// Returns the response to a request for something that does not exist, in the form of a registry.
pub fn not_found(code: &str) -> FaultReply {
    reply(404, &[], format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#))
}
