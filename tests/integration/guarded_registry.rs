//! A registry in front of the cluster's, which records what it receives. With an account it
//! forwards what carries the account's credential, and for one repository it repeats the credential
//! in its errors, as badly made registries do.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{Client, redirect};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinHandle};

/// Upper bound on the bytes of a request's body.
const MAX_BODY: usize = 8 << 20;

/// The name of a repository for which the credential is refused, and repeated in the error.
pub const REPEATING: &str = "repeating";

/// A registry on a port of this machine. Dropping it closes it.
pub struct GuardedRegistry {
    /// Its host and port.
    pub host: String,
    shared: Arc<Shared>,
    work: JoinHandle<()>,
}

struct Shared {
    /// The registry behind it.
    registry: String,
    /// The only value of `Authorization` that it accepts, if it has an account.
    expected: Option<String>,
    /// The host to which it redirects requests for blobs.
    blobs: Option<String>,
    requests: Mutex<Vec<String>>,
    http: Client,
}

impl GuardedRegistry {
    /// Opens a registry with one account: user name and password. Blobs are at another host.
    pub async fn open(registry: &str, account: [&str; 2], blobs: &str) -> Self {
        let [user, password] = account;
        let expected = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        Self::serve(registry, Some(expected), Some(blobs.to_owned())).await
    }

    /// Opens a registry that needs no credential.
    pub async fn without_account(registry: &str) -> Self {
        Self::serve(registry, None, None).await
    }

    async fn serve(registry: &str, expected: Option<String>, blobs: Option<String>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let http = Client::builder().redirect(redirect::Policy::none()).build().expect("a client");
        let (registry, requests) = (registry.to_owned(), Mutex::default());
        let shared = Arc::new(Shared { registry, expected, blobs, requests, http });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        let work =
            tokio::spawn(async move { axum::serve(listener, router).await.expect("the registry") });
        Self { host, shared, work }
    }

    /// What it has received: method, path and headers of each request.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Forgets what it has received.
    pub fn forget(&self) {
        self.shared.requests.lock().unwrap().clear();
    }
}

impl Drop for GuardedRegistry {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let received = format!("{} {} {:?}", request.method(), request.uri(), request.headers());
    shared.requests.lock().unwrap().push(received);
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map(|value| value.to_str().unwrap_or_default().to_owned());
    if let Some(expected) = &shared.expected
        && authorization.as_ref() != Some(expected)
    {
        let challenge = [(header::WWW_AUTHENTICATE, "Basic realm=\"guarded\"")];
        return (StatusCode::UNAUTHORIZED, challenge).into_response();
    }
    let path = request.uri().path();
    if path.split('/').any(|part| part == REPEATING) {
        return repeated(&authorization.unwrap_or_default());
    }
    match &shared.blobs {
        Some(blobs) if request.method() == Method::GET && path.contains("/blobs/sha256:") => {
            let location = format!("http://{blobs}{path}");
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, location)]).into_response()
        }
        _ => forward(&shared, request).await,
    }
}

/// Returns an error that repeats a credential as it came and in clear text.
fn repeated(authorization: &str) -> Response {
    let encoded = authorization.trim_start_matches("Basic ");
    let clear = STANDARD.decode(encoded).expect("base64");
    let message = format!("{authorization} is {} to us", String::from_utf8_lossy(&clear));
    let body = json!({ "errors": [{ "code": "DENIED", "message": message }] });
    let json = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::FORBIDDEN, json, body.to_string()).into_response()
}

async fn forward(shared: &Shared, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut headers = parts.headers;
    // The name of the host stays: the registry tells clients to send uploads there.
    for dropped in [header::AUTHORIZATION, header::CONTENT_LENGTH] {
        headers.remove(dropped);
    }
    let body = to_bytes(body, MAX_BODY).await.expect("a body");
    let url = format!("http://{}{target}", shared.registry);
    let request = shared.http.request(parts.method, url).headers(headers).body(body);
    let answer = request.send().await.expect("an answer of the registry");
    let (status, mut headers) = (answer.status(), answer.headers().clone());
    headers.remove(header::TRANSFER_ENCODING);
    let body = answer.bytes().await.expect("a body");
    (status, headers, Body::from(body)).into_response()
}
