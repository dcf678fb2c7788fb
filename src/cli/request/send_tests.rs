use std::sync::{Arc, Mutex};

use http::{Method, Response};
use kube::{Client, client::Body};
use serde_json::Value;

use super::*;

const RETRY: &str = r#"{"id": "r1", "action": "Retry", "by": "ann"}"#;

fn image(annotation: Option<&str>, status: Value) -> ManagedImage {
    let annotations = annotation.map(|value| json!({labels::REQUEST: value}));
    serde_json::from_value(json!({
        "metadata": {"name": "flask.app", "resourceVersion": "1", "annotations": annotations},
        "spec": {"family": "flask", "image": "app"},
        "status": status
    }))
    .expect("an image")
}

/// An API server with one image and optimistic concurrency.
#[derive(Clone)]
struct FakeServer(Arc<Mutex<FakeServerState>>);

struct FakeServerState {
    image: ManagedImage,
    /// Writes of other clients, one before each patch: an annotation, or a change of something
    /// else.
    others: Vec<Option<&'static str>>,
    /// Patches that succeeded: query and body.
    patches: Vec<(String, Value)>,
}

impl FakeServer {
    fn new(image: ManagedImage, others: &[Option<&'static str>]) -> Self {
        Self(Arc::new(Mutex::new(FakeServerState {
            image,
            others: others.to_vec(),
            patches: Vec::new(),
        })))
    }

    fn answer(&self, method: &Method, query: &str, body: &[u8]) -> (u16, Value) {
        let mut state = self.0.lock().expect("the state");
        if method == Method::GET {
            return (200, serde_json::to_value(&state.image).expect("JSON"));
        }
        assert_eq!(method, Method::PATCH);
        if let Some(other) = state.others.pop() {
            state.write(other);
        }
        let patch: Value = serde_json::from_slice(body).expect("a patch");
        if patch.pointer("/metadata/resourceVersion").and_then(Value::as_str)
            != state.image.resource_version().as_deref()
        {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                                "reason": "Conflict", "code": 409});
            return (409, status);
        }
        state.patches.push((query.into(), patch));
        (200, serde_json::to_value(&state.image).expect("JSON"))
    }

    fn cluster(&self) -> ClusterConnection {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await.expect("a body");
                let (code, answer) =
                    server.answer(&parts.method, parts.uri.query().unwrap_or_default(), &body);
                Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()))
            }
        });
        ClusterConnection { client: Client::new(service, "team"), namespace: "team".into() }
    }

    /// The result of a request, and the patches that were applied.
    async fn take(&self, fields: Value) -> (anyhow::Result<()>, Vec<(String, Value)>) {
        self.take_with(fields, flags()).await
    }

    async fn take_with(
        &self,
        fields: Value,
        flags: SendFlags,
    ) -> (anyhow::Result<()>, Vec<(String, Value)>) {
        let cluster = self.cluster();
        let request = serde_json::from_value(fields).expect("a request");
        let api: Api<ManagedImage> = cluster.api();
        let outcome = send(&cluster, &api, "flask.app", &request, &flags).await;
        (outcome, std::mem::take(&mut self.0.lock().expect("the state").patches))
    }
}

impl FakeServerState {
    fn write(&mut self, annotation: Option<&str>) {
        let version: u32 =
            self.image.resource_version().expect("a version").parse().expect("a number");
        self.image.metadata.resource_version = Some((version + 1).to_string());
        if let Some(value) = annotation {
            self.image.annotations_mut().insert(labels::REQUEST.into(), value.into());
        }
    }
}

fn force() -> Value {
    json!({"id": "r2", "action": "Force", "image": "app"})
}

fn flags() -> SendFlags {
    SendFlags { wait: false, timeout: Duration::from_secs(1), replace: false }
}

#[tokio::test]
async fn only_the_annotation_is_written() {
    let server = FakeServer::new(image(None, json!(null)), &[]);
    let (outcome, patches) = server.take(force()).await;
    outcome.expect("sent");
    let value = r#"{"id":"r2","action":"Force","image":"app"}"#;
    let wanted =
        json!({"metadata": {"resourceVersion": "1", "annotations": {labels::REQUEST: value}}});
    assert_eq!(patches.len(), 1);
    assert_eq!(patches[0].1, wanted);
    assert!(patches[0].0.contains("fieldManager=kubectl-family"), "{}", patches[0].0);
}

#[tokio::test]
async fn an_object_that_changes_meanwhile_is_read_again() {
    let server = FakeServer::new(image(None, json!(null)), &[None, None]);
    let (outcome, patches) = server.take(force()).await;
    outcome.expect("sent");
    assert_eq!(patches[0].1.pointer("/metadata/resourceVersion"), Some(&json!("3")));

    let server = FakeServer::new(image(None, json!(null)), &[Some(RETRY)]);
    let (outcome, patches) = server.take(force()).await;
    let error = outcome.expect_err("another client wrote first").to_string();
    assert!(
        error.starts_with("an earlier request by ann is not handled yet: Retry app"),
        "{error}"
    );
    assert!(patches.is_empty());

    let server = FakeServer::new(image(None, json!(null)), &[None; MAX_ATTEMPTS]);
    let (outcome, patches) = server.take(force()).await;
    assert!(outcome.expect_err("it keeps changing").to_string().contains("changed 5 times"));
    assert!(patches.is_empty());
}

#[tokio::test]
async fn an_earlier_request_is_replaced_only_with_the_flag() {
    let server = FakeServer::new(image(Some(RETRY), json!(null)), &[]);
    let (outcome, patches) = server.take(force()).await;
    assert!(outcome.is_err() && patches.is_empty());
    let (outcome, patches) =
        server.take_with(force(), SendFlags { replace: true, ..flags() }).await;
    outcome.expect("replaced");
    assert_eq!(patches.len(), 1);
    let server = FakeServer::new(image(Some(RETRY), json!({"requests": [{"id": "r1"}]})), &[]);
    assert!(server.take(force()).await.0.is_ok(), "that one was handled");
}

#[tokio::test]
async fn an_invalid_request_is_not_written() {
    let server = FakeServer::new(image(None, json!(null)), &[]);
    let (outcome, patches) =
        server.take(json!({"id": "r2", "action": "Retry", "image": "lib"})).await;
    assert!(outcome.expect_err("of another image").to_string().contains("names `lib`"));
    assert!(patches.is_empty());
}

#[test]
fn only_an_unhandled_request_is_pending() {
    let pending_id =
        |annotation, status| pending(&image(annotation, status)).map(|request| request.id);
    assert_eq!(pending_id(Some(RETRY), json!(null)).as_deref(), Some("r1"));
    assert_eq!(pending_id(Some(RETRY), json!({"requests": [{"id": "r0"}]})).as_deref(), Some("r1"));
    assert_eq!(pending_id(Some(RETRY), json!({"requests": [{"id": "r1"}]})), None);
    assert_eq!(pending_id(Some(RETRY), json!({"lastHandledRequest": "r1"})), None);
    assert_eq!(pending_id(Some("no request"), json!(null)), None);
    assert_eq!(pending_id(None, json!(null)), None);
}

#[test]
fn a_request_is_pending_until_it_is_handled_or_replaced() {
    assert_eq!(progress(Some(&image(Some(RETRY), json!(null))), "r1"), RequestProgress::Pending);
    let done =
        image(None, json!({"requests": [{"id": "r1", "outcome": "Refused", "message": "why"}]}));
    assert!(matches!(progress(Some(&done), "r1"),
            RequestProgress::Handled(handled) if handled.message == "why"));
    let other = image(Some(RETRY), json!({"requests": [{"id": "r1"}]}));
    assert_eq!(progress(Some(&other), "r2"), RequestProgress::Replaced);
    assert_eq!(progress::<ManagedImage>(None, "r1"), RequestProgress::ObjectDeleted);
}

#[test]
fn fresh_ids_are_valid_and_unique() {
    let now: Timestamp = "2026-05-01T12:00:00Z".parse().expect("a time");
    let ids = [fresh_id(now), fresh_id(now)];
    assert_ne!(ids[0], ids[1]);
    for id in ids {
        assert!(id.starts_with("20260501T120000Z-"), "{id}");
        let value = json!({"id": id, "action": "Trigger"}).to_string();
        assert_eq!(Request::parse(&value).expect("a request").id, id);
    }
}
