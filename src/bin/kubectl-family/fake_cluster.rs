//! An API server for tests: a function that answers each request.

use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use crate::cluster::{ClusterConnection, DEFAULT_TIMEOUT};

/// What the API server answers.
pub enum FakeReply {
    Json(Value),
    Text(String),
    /// An error with this status code, and this message.
    Refused(u16, &'static str),
}

/// Returns a connection to an API server that answers with this function, in the namespace `team`.
pub fn cluster(
    answer: impl Fn(&Request<Vec<u8>>) -> FakeReply + Clone + Send + Sync + 'static,
) -> ClusterConnection {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect_bytes().await.expect("a body").to_vec();
            let (code, text) = match answer(&Request::from_parts(parts, body)) {
                FakeReply::Json(value) => (200, value.to_string()),
                FakeReply::Text(text) => (200, text),
                FakeReply::Refused(code, message) => (code, refusal(code, message).to_string()),
            };
            Response::builder().status(code).body(Body::from(text.into_bytes()))
        }
    });
    let client = Client::new(service, "team");
    ClusterConnection { client, namespace: "team".into(), timeout: DEFAULT_TIMEOUT }
}

fn refusal(code: u16, message: &str) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        422 => "Invalid",
        _ => "InternalError",
    };
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
           "code": code, "message": message})
}

/// Returns a list of objects.
pub fn list(kind: &str, items: &[Value]) -> FakeReply {
    let version = items.first().map_or(json!("v1"), |item| item["apiVersion"].clone());
    FakeReply::Json(json!({"apiVersion": version, "kind": format!("{kind}List"),
                           "metadata": {"resourceVersion": "1"}, "items": items}))
}
