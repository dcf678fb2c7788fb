//! A registry on loopback whose every answer a test chooses, and that remembers what it was asked.

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

/// One request, as it came in.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    pub method: String,
    /// Path and query.
    pub target: String,
    pub authorization: Option<String>,
    pub body: Vec<u8>,
    /// How many requests of this method and path came before.
    pub previous: usize,
}

/// What the registry answers. The pause comes before it.
pub struct FaultReply {
    pub response: Response,
    pub pause: Duration,
}

pub struct FaultRegistry {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<RecordedRequest>>>,
    max_concurrent: Arc<AtomicUsize>,
}

impl FaultRegistry {
    /// Starts on a free port and ends with the test's runtime.
    pub async fn start(
        answer: impl Fn(&RecordedRequest) -> FaultReply + Send + Sync + 'static,
    ) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address");
        let (seen, max_concurrent) =
            (Arc::new(Mutex::new(Vec::<RecordedRequest>::new())), Arc::new(AtomicUsize::new(0)));
        let (log, most, running, answer) = (
            Arc::clone(&seen),
            Arc::clone(&max_concurrent),
            Arc::new(AtomicUsize::new(0)),
            Arc::new(answer),
        );
        let handler = move |request: Request| {
            let (log, most, running, answer) =
                (log.clone(), most.clone(), running.clone(), answer.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let reply = answer(&record(&log, request).await);
                tokio::time::sleep(reply.pause).await;
                running.fetch_sub(1, Ordering::SeqCst);
                reply.response
            }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        Self { address, seen, max_concurrent }
    }

    /// What it was asked so far, as `METHOD target`.
    pub fn requests(&self) -> Vec<String> {
        self.seen().into_iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect()
    }

    pub fn seen(&self) -> Vec<RecordedRequest> {
        self.seen.lock().expect("log").clone()
    }

    pub fn max_concurrent(&self) -> usize {
        self.max_concurrent.load(Ordering::SeqCst)
    }
}

async fn record(log: &Mutex<Vec<RecordedRequest>>, request: Request) -> RecordedRequest {
    let (method, target) = (request.method().to_string(), request.uri().to_string());
    let authorization = text(request.headers(), "authorization");
    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.expect("body").to_vec();
    let mut log = log.lock().expect("log");
    let previous = log.iter().filter(|seen| seen.method == method && seen.target == target).count();
    let seen = RecordedRequest { method, target, authorization, body, previous };
    log.push(seen.clone());
    seen
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name).map(|value| value.to_str().expect("text").to_owned())
}

/// An answer at once.
pub fn reply(status: u16, headers: &[(&str, &str)], body: impl Into<Body>) -> FaultReply {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(status).expect("status");
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().expect("name");
        response.headers_mut().append(name, value.parse().expect("value"));
    }
    FaultReply { response, pause: Duration::ZERO }
}
