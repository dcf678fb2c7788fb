use std::sync::{Arc, Mutex};

use http::{Method, Response};
use kube::{Client, client::Body};
use serde_json::{Value, json};

use super::*;

/// An API server that stores one request, with the status that the controller gives to it.
#[derive(Clone)]
struct FakeServer(Arc<Mutex<FakeServerState>>);

struct FakeServerState {
    /// The states of `app`, one for each list of images; the last one stays.
    app: Vec<&'static str>,
    /// What the controller answers; null if there is none.
    status: Value,
    /// What was created, with the query.
    created: Vec<(String, Value)>,
    /// The status codes of the next answers that are not of a creation.
    broken: Vec<u16>,
    /// The same of lists of images.
    broken_images: Vec<u16>,
}

impl FakeServer {
    fn new(status: Value) -> Self {
        let state = FakeServerState {
            app: Vec::new(),
            status,
            created: Vec::new(),
            broken: Vec::new(),
            broken_images: Vec::new(),
        };
        Self(Arc::new(Mutex::new(state)))
    }

    fn change(&self, change: impl FnOnce(&mut FakeServerState)) {
        change(&mut self.0.lock().expect("the state"));
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
        let failure = |code: u16, reason: &str| {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
                                "reason": reason, "code": code, "message": "no"});
            (code, status)
        };
        if uri.path().contains("/leases/") {
            return failure(403, "Forbidden");
        }
        if let Some(code) = state.broken.pop() {
            return failure(code, if code == 403 { "Forbidden" } else { "InternalError" });
        }
        if uri.path().ends_with("/managedimages") {
            if let Some(code) = state.broken_images.pop() {
                return failure(code, "InternalError");
            }
            let shown = if state.app.len() > 1 { state.app.remove(0) } else { state.app[0] };
            let image = |name: &str, state: &str| {
                json!({"apiVersion": "groundswell.dev/v1alpha1", "kind": "ManagedImage",
                       "metadata": {"name": format!("flask.{name}")},
                       "spec": {"family": "flask", "image": name},
                       "status": {"state": state, "reason": "R", "message": "m"}})
            };
            let list = json!({"apiVersion": "groundswell.dev/v1alpha1", "kind": "ManagedImageList",
                              "metadata": {"resourceVersion": "1"},
                              "items": [image("app", shown), image("other", "Building")]});
            return (200, list);
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
    async fn send(&self) -> anyhow::Result<Outcome> {
        self.send_with(SendFlags { dry_run: false, wait: false, timeout: Duration::from_secs(20) })
            .await
    }

    /// Sends a request, and waits until it is carried out.
    async fn send_and_wait(&self) -> anyhow::Result<Outcome> {
        self.send_with(SendFlags { dry_run: false, wait: true, timeout: Duration::from_secs(20) })
            .await
    }

    async fn send_with(&self, flags: SendFlags) -> anyhow::Result<Outcome> {
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
    assert_eq!(server.send().await.expect("done"), Outcome::Fine);
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
    _ = server.send().await.expect("it says what it waits for");
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
    _ = server.send().await.expect("it is created");
    let error = server.send_and_wait().await.expect_err("nobody answers").to_string();
    assert_eq!(error, "not carried out within 20s: not read by a controller yet");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_user_may_not_follow_is_sent() {
    let server = FakeServer::new(json!({"state": "Done", "message": "app is rebuilt"}));
    let refuse = || server.change(|state| state.broken = vec![403]);
    refuse();
    assert_eq!(server.send().await.expect("it is sent"), Outcome::Fine);
    refuse();
    let error = server.send_and_wait().await.expect_err("it cannot be followed");
    assert_eq!(format!("{error:#}"), "the request is sent, but not followed: no");
}

#[tokio::test(start_paused = true)]
async fn a_wait_outlasts_an_api_server_that_does_not_answer_for_a_while() {
    let server = FakeServer::new(json!({"state": "Done", "message": "app is rebuilt"}));
    server.change(|state| {
        (state.app, state.broken) = (vec!["Building", "Current"], vec![500, 503]);
    });
    assert_eq!(server.send_and_wait().await.expect("built"), Outcome::Fine);
    // The same while the images are built.
    server.change(|state| {
        (state.app, state.broken_images) = (vec!["Building", "Current"], vec![500, 503]);
    });
    assert_eq!(server.send_and_wait().await.expect("built"), Outcome::Fine);
}

#[test]
fn fresh_names_are_unique() {
    assert_ne!(fresh_name(&spec()), fresh_name(&spec()));
    let longest = FamilyRequestSpec { family: "f".repeat(47), ..spec() };
    assert!(fresh_name(&longest).len() <= groundswell::api::family_request::MAX_REQUEST_NAME);
}

/// Sends a request to rebuild `app`, and waits while it goes through these states.
async fn force_through(states: &[&'static str]) -> anyhow::Result<Outcome> {
    let server = FakeServer::new(json!({"state": "Done", "message": "app is rebuilt"}));
    server.0.lock().expect("the state").app = states.to_vec();
    server.send_and_wait().await
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_when_the_images_of_the_request_are_built() {
    let built = force_through(&["Queued", "Building", "Checking", "Current"]).await;
    assert_eq!(built.expect("built"), Outcome::Fine);
    let failed = force_through(&["Building", "Failed"]).await;
    assert_eq!(failed.expect("an end"), Outcome::Findings);
    let error = force_through(&["Building"]).await.expect_err("it takes longer").to_string();
    assert!(error.contains("0 of 1 image current; building: app"), "{error}");
}

const RECORDED: &str = "
apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: flask, namespace: team}
spec:
  repository: r.example.com/team
  upstreams: [{name: debian, image: docker.io/library/debian}]
  images:
  - {name: base, from: [{upstream: debian}], source: {inline: FROM x}}
  - {name: app, from: [{image: base}], source: {inline: FROM x}}
  - {name: top, from: [{image: app}], source: {inline: FROM x}}
status:
  upstreams:
  - {name: debian, reference: 'docker.io/library/debian:latest', adopted: {digest: 'sha256:d1'}}
";

/// Returns what a dry run says of a request on a family that is current, and what was sent.
async fn dry(fields: Value) -> (anyhow::Result<String>, Vec<(String, Value)>) {
    let server = FakeServer::new(Value::Null);
    let mut estate = crate::input::fixtures::estate(RECORDED);
    let mut family = estate.families.remove(0);
    make_current(&mut family);
    let mut spec = json!({"family": "flask"});
    spec.as_object_mut().expect("object").extend(fields.as_object().expect("object").clone());
    let spec = serde_json::from_value(spec).expect("a spec");
    let said = dry_run(&server.cluster(), &mut family, spec).await;
    let sent = server.0.lock().expect("the state").created.clone();
    (said, sent)
}

/// Records of each image what the controller records when nothing is left to do.
fn make_current(family: &mut EstateFamily) {
    use crate::plan::dry_run::{AssumedDigests, DryRun};
    let assumed = AssumedDigests::default();
    let now = "2026-05-01T12:00:00Z".parse().expect("a time");
    let records = {
        let mut run = DryRun::new(family, &assumed, now);
        run.make_current();
        run.image_records()
    };
    for (image, status) in family.family.spec.images.iter().zip(records) {
        let mut record = groundswell::api::ManagedImage { status, ..Default::default() };
        record.spec.image.clone_from(&image.name);
        family.images.insert(image.name.clone(), record);
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_says_what_would_be_built_and_stores_nothing() {
    let (said, sent) = dry(json!({"action": "Force", "image": "app"})).await;
    let said = said.expect("an answer");
    assert!(said.starts_with("dry run, nothing is sent: Force app\n"), "{said}");
    assert!(said.contains("it applies to 1 image"), "{said}");
    assert!(said.contains("2 images built because of it: app, top"), "{said}");
    assert_eq!(sent.len(), 1);
    assert!(sent[0].0.contains("dryRun=All"), "{}", sent[0].0);
    let (said, _) = dry(json!({"action": "Hold", "image": "app"})).await;
    let said = said.expect("an answer");
    assert!(said.contains("the same images are built as without it"), "{said}");
    let (refused, _) = dry(json!({"action": "Force", "image": "none"})).await;
    let refused = refused.expect_err("refused").to_string();
    assert!(refused.contains("would be refused"), "{refused}");
}
