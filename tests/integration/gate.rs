//! A proxy between the controller and the API server: records the requests, and cuts the connection
//! at a chosen write.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use kube::Client;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// Upper bound on the bytes of a request's body.
const MAX_BODY: usize = 8 << 20;

/// A gate on a port of this machine. Dropping it closes it.
pub struct Gate {
    /// A kubeconfig that leads through it.
    pub kubeconfig: PathBuf,
    shared: Arc<Shared>,
    work: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

struct Shared {
    client: Client,
    requests: Mutex<Vec<String>>,
    cut: Mutex<Option<Cut>>,
    cuts: watch::Sender<usize>,
}

/// The write at which the connection is cut.
#[derive(Clone, Copy, Debug)]
struct Cut {
    /// How many more writes are forwarded first.
    after: usize,
    /// Whether that write still reaches the API server, so that only its answer is lost.
    arrives: bool,
}

impl Gate {
    /// Opens a gate that forwards with `client`.
    pub async fn open(client: &Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = folder.path().join("kubeconfig");
        let text = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "gate",
            "clusters": [{ "name": "gate", "cluster": { "server": format!("http://{address}") } }],
            "users": [{ "name": "gate", "user": {} }],
            "contexts": [{ "name": "gate", "context": { "cluster": "gate", "user": "gate" } }],
        });
        std::fs::write(&kubeconfig, text.to_string()).expect("a file");
        let shared = Arc::new(Shared {
            client: client.clone(),
            requests: Mutex::default(),
            cut: Mutex::default(),
            cuts: watch::channel(0).0,
        });
        let router = Router::new().fallback(forward).with_state(Arc::clone(&shared));
        let work =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("the gate") });
        Self { kubeconfig, shared, work, _folder: folder }
    }

    /// Cuts the connection at the write after the next `after` writes. It stays cut until
    /// [`Gate::mend`].
    pub fn cut_after(&self, after: usize, arrives: bool) {
        *self.shared.cut.lock().unwrap() = Some(Cut { after, arrives });
    }

    /// Forwards everything again.
    pub fn mend(&self) {
        *self.shared.cut.lock().unwrap() = None;
    }

    /// The number of cuts that have happened, as it grows.
    pub fn cuts(&self) -> watch::Receiver<usize> {
        self.shared.cuts.subscribe()
    }

    /// Returns and forgets the requests since the last call: method, path and query. Requests for
    /// the Lease are left out.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.shared.requests.lock().unwrap())
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.work.abort();
    }
}

impl Shared {
    /// Whether this write is cut and, if so, whether it still reaches the API server.
    fn is_cut(&self) -> Option<bool> {
        let mut cut = self.cut.lock().unwrap();
        let cut = cut.as_mut()?;
        if cut.after > 0 {
            cut.after -= 1;
            return None;
        }
        let arrives = std::mem::take(&mut cut.arrives);
        self.cuts.send_modify(|count| *count += 1);
        Some(arrives)
    }
}

async fn forward(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let path = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
    let is_lease = path.contains("/leases");
    let cut = if request.method() == Method::GET || is_lease { None } else { shared.is_cut() };
    if !is_lease {
        shared.requests.lock().unwrap().push(format!("{} {path}", request.method()));
    }
    if cut == Some(false) {
        return StatusCode::BAD_GATEWAY.into_response();
    }
    let answer = send(&shared, request).await;
    if cut.is_some() { StatusCode::BAD_GATEWAY.into_response() } else { answer }
}

async fn send(shared: &Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, MAX_BODY).await.expect("a body").to_vec();
    let mut onward = http::Request::builder()
        .method(parts.method)
        .uri(parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    for name in [header::CONTENT_TYPE, header::ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            onward = onward.header(name, value);
        }
    }
    let onward = onward.body(kube::client::Body::from(body)).expect("a request");
    match shared.client.send(onward).await {
        Ok(answer) => {
            let (parts, body) = answer.into_parts();
            let mut answer = Response::new(Body::new(body));
            *answer.status_mut() = parts.status;
            if let Some(media_type) = parts.headers.get(header::CONTENT_TYPE) {
                answer.headers_mut().insert(header::CONTENT_TYPE, media_type.clone());
            }
            answer
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}
