//! An API server on loopback that has a few objects, and the kubeconfig for it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use serde_json::{Value, json};

use crate::runs::Files;

/// A server that runs until the test's runtime ends.
pub struct ApiServer {
    files: Files,
    state: Arc<ApiState>,
}

/// What the server has, and what it was asked to store.
struct ApiState {
    objects: Mutex<Vec<Value>>,
    /// What the objects are from the second list on.
    later: Vec<Value>,
    watches: AtomicUsize,
    posted: Mutex<Vec<(String, Value)>>,
    /// The kinds that nobody may list or watch, as their plurals.
    forbidden: Mutex<Vec<&'static str>>,
}

impl ApiServer {
    /// Starts a server with these objects. The first watch of images tells that it is too old, and
    /// the list after it has `later`.
    pub async fn start(objects: Vec<Value>, later: Vec<Value>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = Arc::new(ApiState {
            objects: Mutex::new(objects),
            later,
            watches: AtomicUsize::new(0),
            posted: Mutex::default(),
            forbidden: Mutex::default(),
        });
        let answering = state.clone();
        let handler = move |request: Request| {
            let state = answering.clone();
            async move { state.answer(request).await }
        };
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(handler)).await });
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "c",
                          "context": {"cluster": "c", "user": "u", "namespace": "team"}}],
        });
        Self { files: Files::new(&[("config", &config.to_string())]), state }
    }

    /// Rejects all calls about these kinds from now on.
    pub fn forbid(&self, plurals: &[&'static str]) {
        self.state.forbidden.lock().expect("the kinds").extend(plurals);
    }

    /// Returns the flag that selects the server.
    pub fn flag(&self) -> String {
        format!("--kubeconfig {}", self.files.path("config").display())
    }

    /// Returns what the server was asked to store: the query and the object.
    pub fn posted(&self) -> Vec<(String, Value)> {
        self.state.posted.lock().expect("the requests").clone()
    }
}

impl ApiState {
    async fn answer(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let path: Vec<&str> = parts.uri.path().split('/').collect();
        if parts.method == Method::POST {
            let bytes = to_bytes(body, 1 << 20).await.expect("a body");
            let object: Value = serde_json::from_slice(&bytes).expect("JSON");
            self.posted.lock().expect("the requests").push((query, object.clone()));
            return axum::Json(object).into_response();
        }
        // `.../PLURAL` of the whole cluster, or `.../namespaces/NAMESPACE/PLURAL[/NAME]`.
        let at = path.iter().position(|part| *part == "namespaces").map(|at| at + 2);
        let (plural, name) = match at.and_then(|at| path.get(at)) {
            Some(plural) => (*plural, at.and_then(|at| path.get(at + 1))),
            None => (path.last().copied().unwrap_or_default(), None),
        };
        if self.forbidden.lock().expect("the kinds").contains(&plural) {
            return forbidden(plural);
        }
        if query.contains("watch=") {
            return self.watch(plural);
        }
        let is_wanted = |object: &&Value| object["kind"] == kind_of(plural);
        let objects = self.objects.lock().expect("the objects");
        let items: Vec<&Value> = objects.iter().filter(is_wanted).collect();
        if let Some(name) = name {
            let found = items.into_iter().find(|object| object["metadata"]["name"] == *name);
            return found.map_or_else(not_found, |found| axum::Json(found).into_response());
        }
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items,
                          "metadata": {"resourceVersion": "1"}});
        axum::Json(list).into_response()
    }

    fn watch(&self, plural: &str) -> Response {
        let is_first =
            plural == "managedimages" && self.watches.fetch_add(1, Ordering::SeqCst) == 0;
        if !is_first {
            return Body::from_stream(futures::stream::pending::<Result<Vec<u8>, std::io::Error>>())
                .into_response();
        }
        self.objects.lock().expect("the objects").clone_from(&self.later);
        let expired = json!({"type": "ERROR", "object": {
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 410,
            "reason": "Expired", "message": "too old resource version"}});
        format!("{expired}\n").into_response()
    }
}

fn kind_of(plural: &str) -> &str {
    match plural {
        "imagefamilies" => "ImageFamily",
        "managedimages" => "ManagedImage",
        "cascades" => "Cascade",
        "buildstrategies" => "BuildStrategy",
        "namespaces" => "Namespace",
        "configmaps" => "ConfigMap",
        other => other,
    }
}

fn forbidden(plural: &str) -> Response {
    let message = format!("{plural} is forbidden: User \"u\" cannot list resource \"{plural}\"");
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 403,
                        "reason": "Forbidden", "message": message});
    (StatusCode::FORBIDDEN, axum::Json(status)).into_response()
}

fn not_found() -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404,
                        "reason": "NotFound", "message": "not found"});
    (StatusCode::NOT_FOUND, axum::Json(status)).into_response()
}
