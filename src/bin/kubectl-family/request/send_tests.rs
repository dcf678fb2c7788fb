use std::sync::{Arc, Mutex};

use http::{Method, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::*;

/// An API server that stores one request, with the status that the controller gives to it.
#[derive(Clone)]
struct FakeServer(Arc<Mutex<FakeServerState>>);

struct FakeServerState {
    /// What the controller answers; null if there is none.
    status: Value,
    /// What was created, with the query.
    created: Vec<(String, Value)>,
}

impl FakeServer {
    fn new(status: Value) -> Self {
        Self(Arc::new(Mutex::new(FakeServerState { status, created: Vec::new() })))
    }

    fn answer(&self, method: &Method, uri: &http::Uri, body: &[u8]) -> (u16, Value) {
        let mut state = self.0.lock().expect("the state");
        let query = uri.query().unwrap_or_default();
        if *method == Method::POST {
            let mut object: Value = serde_json::from_slice(body).expect("an object");
            object["metadata"]["resourceVersion"] = json!("1");
            state.created.push((query.into(), object.clone()));
            return (201, object);
        }
        if uri.path().contains("/leases/") {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                                "reason": "Forbidden", "code": 403, "message": "no"});
            return (403, status);
        }
        let mut object = state.created.last().expect("a request").1.clone();
        object["status"] = state.status.clone();
        if !query.contains("fieldSelector") {
            return (200, object);
        }
        let list = json!({"apiVersion": "groundswell.dev/v1alpha1", "kind": "FamilyRequestList",
                          "metadata": {"resourceVersion": "1"}, "items": [object]});
        (200, list)
    }

    fn cluster(&self) -> ClusterConnection {
        let server = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let server = server.clone();
            async move {
                let (parts, body) = request.into_parts();
                if parts.uri.query().unwrap_or_default().contains("watch=") {
                    std::future::pending::<()>().await;
                }
                let body = body.collect_bytes().await.expect("a body");
                let (code, answer) = server.answer(&parts.method, &parts.uri, &body);
                Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()))
            }
        });
        let timeout = crate::cluster::DEFAULT_TIMEOUT;
        ClusterConnection {
            client: Client::new(service, "team"),
            namespace: "team".into(),
            timeout,
        }
    }

    /// Sends a request, and waits for the answer only.
    async fn send(&self) -> anyhow::Result<()> {
        self.send_with(SendFlags { wait: false, timeout: Duration::from_secs(20) }).await
    }

    /// Sends a request, and waits until it is carried out.
    async fn send_and_wait(&self) -> anyhow::Result<()> {
        self.send_with(SendFlags { wait: true, timeout: Duration::from_secs(20) }).await
    }

    async fn send_with(&self, flags: SendFlags) -> anyhow::Result<()> {
        let family: ImageFamily = serde_json::from_value(json!({
            "metadata": {"name": "flask"},
            "spec": {"repository": "r.example.com/team", "upstreams": [], "images": []},
            "status": {"installation": "groundswell-system"}
        }))
        .expect("a family");
        send(&self.cluster(), &family, spec(), &flags).await
    }
}

fn spec() -> FamilyRequestSpec {
    let fields = json!({"family": "flask", "action": "Force", "image": "app", "by": "ann"});
    serde_json::from_value(fields).expect("a spec")
}

#[tokio::test(start_paused = true)]
async fn a_request_is_created_and_its_answer_awaited() {
    let server = FakeServer::new(json!({"state": "Done", "message": "app is rebuilt"}));
    server.send().await.expect("done");
    let created = server.0.lock().expect("the state").created.clone();
    assert_eq!(created.len(), 1);
    assert!(created[0].0.contains("fieldManager=kubectl-family"), "{}", created[0].0);
    assert_eq!(created[0].1["spec"], serde_json::to_value(spec()).expect("JSON"));
    let name = created[0].1["metadata"]["name"].as_str().expect("a name");
    assert!(name.starts_with("flask-force-") && name.len() == 20, "{name}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_no_error_unless_it_is_to_be_carried_out() {
    let server = FakeServer::new(json!({"state": "Waiting", "message": "no window is open"}));
    server.send().await.expect("it says what it waits for");
    let error = server.send_and_wait().await.expect_err("it is still waiting").to_string();
    assert_eq!(error, "not carried out within 20s: waiting: no window is open");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_refused_is_an_error() {
    for state in ["Refused", "Superseded"] {
        let server = FakeServer::new(json!({"state": state, "message": "why"}));
        let error = server.send().await.expect_err("not carried out").to_string();
        assert!(error.ends_with(": why"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_an_answer_the_request_stays() {
    let server = FakeServer::new(Value::Null);
    server.send().await.expect("it is created");
    let error = server.send_and_wait().await.expect_err("nobody answers").to_string();
    assert_eq!(error, "not carried out within 20s: not read by a controller yet");
}

#[test]
fn fresh_names_are_unique() {
    assert_ne!(fresh_name(&spec()), fresh_name(&spec()));
    let longest = FamilyRequestSpec { family: "f".repeat(47), ..spec() };
    assert!(fresh_name(&longest).len() <= groundswell::api::family_request::MAX_REQUEST_NAME);
}
