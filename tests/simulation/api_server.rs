//! The API server as the controller uses it: a service with latency that fails, sometimes after a
//! call has taken effect.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use groundswell::controller::object_cache::Key;
use http::{Method, Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Event, Shared},
    faults::{CallFate, Moment, Refusal},
    invariants::{self, builds, calm, records},
    job_controller::{self, Work},
    objects::{Kind, ObjectError, label, uid},
};

/// How long the controller may be busy with a fault.
const FAULT_TIME: Duration = Duration::from_mins(2);

/// A call to the API server.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: Method,
    /// `None` for Events.
    pub kind: Option<Kind>,
    pub key: Key,
    pub status: bool,
    /// Whether the body is a merge patch, and not one of server-side apply.
    pub merge: bool,
    pub dry_run: bool,
    pub owner: String,
    /// The uid that Events are asked for.
    pub involved: String,
    /// The labels of the objects that are asked for.
    pub labels: Vec<(String, String)>,
    pub body: Value,
}

/// The answer: the status code and the object.
pub type Answer = (u16, Arc<Value>);

impl Call {
    fn read(head: &http::request::Parts, body: &[u8]) -> Option<Self> {
        let (method, uri) = (head.method.clone(), &head.uri);
        let merge = head
            .headers
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|kind| kind == "application/merge-patch+json");
        let parts: Vec<&str> =
            uri.path().split('/').skip_while(|part| *part != "namespaces").skip(1).collect();
        let (namespace, plural) = (*parts.first()?, *parts.get(1)?);
        let body: Value =
            if body.is_empty() { Value::Null } else { serde_json::from_slice(body).ok()? };
        let name =
            parts.get(2).copied().or_else(|| body["metadata"]["name"].as_str()).unwrap_or_default();
        let query = |name: &str| {
            let pairs = uri.query().unwrap_or_default().split('&');
            pairs
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value)
        };
        Some(Self {
            kind: Kind::of_plural(plural),
            key: Key::new(namespace, name),
            status: parts.get(3) == Some(&"status"),
            merge,
            dry_run: query("dryRun").is_some(),
            owner: query("fieldManager").unwrap_or_default().replace("%2F", "/"),
            involved: involved(query("fieldSelector").unwrap_or_default()),
            labels: selected(query("labelSelector").unwrap_or_default()),
            method,
            body,
        })
    }

    fn writes(&self) -> bool {
        self.method != Method::GET && !self.dry_run
    }

    pub fn shown(&self) -> String {
        let kind = self.kind.map_or_else(|| "Event".to_owned(), |kind| format!("{kind:?}"));
        // The name of an Event contains the real time.
        let name = if self.kind.is_some() { &self.key.name } else { "" };
        let status = if self.status { "/status" } else { "" };
        let dry = if self.dry_run { " (dry run)" } else { "" };
        format!("{} {kind} {}/{name}{status}{dry}", self.method, self.key.namespace)
    }
}

/// Returns the uid that a field selector of Events names.
fn involved(selector: &str) -> String {
    let selector = selector.replace("%3D", "=").replace("%2C", ",");
    let mut parts = selector.split(',');
    let uid = parts.find_map(|part| part.strip_prefix("involvedObject.uid="));
    uid.unwrap_or_default().to_owned()
}

/// Returns a client of the API server for the process with this number.
pub fn client(shared: &Shared, process: u64) -> kube::Client {
    let shared = shared.clone();
    let service =
        tower::service_fn(move |request: Request<Body>| serve(shared.clone(), process, request));
    kube::Client::new(service, "default")
}

fn serve(
    shared: Shared,
    process: u64,
    request: Request<Body>,
) -> BoxFuture<'static, Result<Response<Body>, tower::BoxError>> {
    async move {
        let (parts, body) = request.into_parts();
        let body = body.collect_bytes().await?;
        let call = Call::read(&parts, &body).ok_or("a path that the model does not implement")?;
        let (there, back) = shared.lock().faults.latency();
        tokio::time::sleep(there).await;
        let result = take(&shared, process, call).await;
        tokio::time::sleep(back).await;
        let (code, answer) = result?;
        let body = serde_json::to_vec(&*answer)?;
        Ok(Response::builder().status(code).body(Body::from(body))?)
    }
    .boxed()
}

/// Handles a call that has arrived. Never completes if the sender is dead or gets no answer.
async fn take(shared: &Shared, process: u64, call: Call) -> Result<Answer, tower::BoxError> {
    let outcome = {
        let mut cluster = shared.lock();
        if cluster.process == process { arrive(&mut cluster, call) } else { None }
    };
    shared.changed.notify_one();
    match outcome {
        Some(answer) => answer,
        None => std::future::pending().await,
    }
}

/// Returns the answer of a call; `None` if the sender gets none.
fn arrive(cluster: &mut Cluster, call: Call) -> Option<Result<Answer, tower::BoxError>> {
    if let Some(crash) = &mut cluster.crash {
        if crash.calls == 0 {
            let crash = *crash;
            cluster.crash = None;
            cluster.note(format_args!("crash {:?} {}", crash.moment, call.shown()));
            match crash.moment {
                Moment::Before => {}
                Moment::After => drop(execute(cluster, call)),
                Moment::Late => {
                    // A status may even arrive after the next process has begun to write: no
                    // answer is given for as long as the API server takes for a call.
                    let down = u64::try_from(crash.down.as_millis()).unwrap_or(u64::MAX);
                    let latest = if call.status { down + 20_000 } else { 3000 };
                    let late = cluster.faults.machinery.pause(1..latest);
                    cluster.schedule(late, Event::Late(cluster.process, Box::new(call)));
                }
            }
            cluster.kill(crash.down);
            return None;
        }
        crash.calls -= 1;
    }
    let creates_job = call.kind == Some(Kind::Job) && call.method == Method::POST;
    let fate = cluster.faults.fate(call.writes(), creates_job);
    if fate != CallFate::Answered {
        calm::disturb(cluster, FAULT_TIME);
    }
    match fate {
        CallFate::Answered => Some(Ok(execute(cluster, call))),
        CallFate::Refused(code, reason) => {
            cluster.note(format_args!("{code} {}", call.shown()));
            Some(Ok((code, Arc::new(status(code, reason)))))
        }
        CallFate::NotAdmitted(Refusal { code, message }) => {
            cluster.note(format_args!("{code} {}", call.shown()));
            // A Job that exists is not admitted again, either.
            let mut refused = status(code, "Forbidden");
            refused["message"] = json!(message);
            Some(Ok((code, Arc::new(refused))))
        }
        CallFate::Lost { takes_effect, reports_error } => {
            cluster.note(format_args!(
                "lost effect={takes_effect} error={reports_error} {}",
                call.shown()
            ));
            if takes_effect {
                drop(execute(cluster, call));
            }
            reports_error.then(|| Err("the connection broke".into()))
        }
    }
}

/// Executes a call.
pub fn execute(cluster: &mut Cluster, call: Call) -> Answer {
    let shown = call.shown();
    let writes = call.writes();
    let written = call.kind.filter(|_| call.status).map(|kind| (kind, call.key.clone()));
    let (code, answer) = answer(cluster, call);
    if let Some(written) = written.filter(|_| code == 200 && !cluster.is_late) {
        cluster.status_writers.insert(written, cluster.process);
    }
    if writes {
        cluster.note(format_args!("{code} {shown}"));
    }
    (code, answer)
}

fn answer(cluster: &mut Cluster, call: Call) -> Answer {
    let Some(kind) = call.kind else {
        return match call.method {
            Method::GET => (200, Arc::new(events(cluster, &call.involved))),
            _ => (201, Arc::new(call.body)),
        };
    };
    let result = match call.method.as_str() {
        "GET" if call.key.name.is_empty() => return (200, Arc::new(pods(cluster, &call))),
        "GET" => {
            if kind == Kind::Family {
                invariants::family_is_read(cluster, &call.key);
            }
            cluster.objects.get(kind, &call.key).cloned().ok_or(ObjectError::Missing)
        }
        "POST" => return create(cluster, kind, call),
        "PATCH" => return patch(cluster, kind, call),
        "DELETE" => delete(cluster, kind, &call),
        _ => return (405, Arc::new(status(405, "MethodNotAllowed"))),
    };
    finish(200, result)
}

fn finish(code: u16, result: Result<Arc<Value>, ObjectError>) -> Answer {
    match result {
        Ok(object) => (code, object),
        Err(refused) => {
            let (code, reason) = match refused {
                ObjectError::Exists => (409, "AlreadyExists"),
                ObjectError::Missing => (404, "NotFound"),
                ObjectError::Conflict => (409, "Conflict"),
            };
            (code, Arc::new(status(code, reason)))
        }
    }
}

fn create(cluster: &mut Cluster, kind: Kind, call: Call) -> Answer {
    let mut object = call.body;
    object["metadata"]["namespace"] = json!(call.key.namespace);
    if call.dry_run {
        let exists = cluster.objects.get(kind, &call.key).is_some();
        return finish(201, if exists { Err(ObjectError::Exists) } else { Ok(Arc::new(object)) });
    }
    let result = cluster.create(kind, object);
    if let (Kind::Job, Ok(job)) = (kind, &result) {
        builds::created(cluster, job);
        job_controller::created(cluster, job);
    }
    if let (Kind::Cascade, Ok(cascade)) = (kind, &result) {
        records::opened(cluster, cascade);
    }
    finish(201, result)
}

fn patch(cluster: &mut Cluster, kind: Kind, call: Call) -> Answer {
    let now = cluster.time.truth();
    let before = cluster.objects.get(kind, &call.key).cloned();
    let result = if call.merge {
        cluster.objects.merge(kind, &call.key, &call.body)
    } else {
        cluster.objects.apply(kind, &call.key, &call.owner, call.body, call.status, now)
    };
    cluster.schedule_delivery(kind);
    if let Ok(object) = &result {
        if before.is_none() {
            cluster.object_created(kind, object);
        }
        records::written(cluster, kind, before.as_deref(), object);
    }
    finish(200, result)
}

fn delete(cluster: &mut Cluster, kind: Kind, call: &Call) -> Result<Arc<Value>, ObjectError> {
    let foreground = call.body["propagationPolicy"] == "Foreground";
    for field in ["uid", "resourceVersion"] {
        let wanted = &call.body["preconditions"][field];
        if let Some(known) = cluster.objects.get(kind, &call.key)
            && !wanted.is_null()
            && known["metadata"][field] != *wanted
        {
            return Err(ObjectError::Conflict);
        }
    }
    if kind == Kind::Job && foreground {
        let now = cluster.time.truth();
        let job = cluster.objects.mark_deleted(kind, &call.key, now)?;
        cluster.schedule_delivery(kind);
        if let Some(work) = cluster.work.get(uid(&job)).cloned() {
            builds::deleted(cluster, &work);
        }
        job_controller::deleted(cluster, &job, Duration::ZERO);
        return Ok(job);
    }
    let object = cluster.objects.get(kind, &call.key).cloned().ok_or(ObjectError::Missing)?;
    cluster.remove(kind, &call.key);
    Ok(object)
}

fn status(code: u16, reason: &str) -> Value {
    json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": format!("the model says {reason}"),
        "reason": reason,
        "code": code,
    })
}

/// Returns the labels of a selector, which is encoded as a part of a query.
fn selected(selector: &str) -> Vec<(String, String)> {
    let pairs = selector.split("%2C").filter_map(|pair| pair.split_once("%3D"));
    pairs.map(|(name, value)| (name.replace("%2F", "/"), value.to_owned())).collect()
}

/// Returns the pods with the labels that are asked for.
fn pods(cluster: &Cluster, call: &Call) -> Value {
    let has_labels =
        |pod: &Value| call.labels.iter().all(|(name, value)| label(pod, name) == value);
    let found = cluster
        .objects
        .all(Kind::Pod)
        .filter(|(key, pod)| key.namespace == call.key.namespace && has_labels(pod));
    let items: Vec<&Value> = found.map(|(_, pod)| &**pod).collect();
    json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items})
}

/// Returns the Events of an object: why the pod of a Job is not created.
fn events(cluster: &Cluster, uid: &str) -> Value {
    let work = cluster.work.get(uid).filter(|work| work.refused);
    let has_pod = |work: &Work| cluster.objects.get(Kind::Pod, &work.pod()).is_some();
    let refused = work.filter(|work| !has_pod(work)).map(|work| {
        json!({
            "metadata": {},
            "involvedObject": {"uid": uid},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": format!(
                "Error creating: pods \"{}-x\" is forbidden: exceeded quota: pods", work.key.name
            ),
        })
    });
    let items: Vec<Value> = refused.into_iter().collect();
    json!({"apiVersion": "v1", "kind": "EventList", "metadata": {}, "items": items})
}
