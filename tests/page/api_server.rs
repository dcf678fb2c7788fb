//! A played API server: lists and watches of a few objects, a pod, and its log.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, RawQuery, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
    routing::get,
};
use futures::stream;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// What the log of every pod says.
pub const LOG: &str = "step 7 of 9\n<b>make: *** [all] Error 2</b>\n";

/// The server. It ends with this value.
pub struct ApiServer {
    shared: Arc<SharedObjects>,
    folder: tempfile::TempDir,
    server: JoinHandle<()>,
}

struct SharedObjects {
    /// By plural and name.
    objects: Mutex<BTreeMap<(String, String), Value>>,
    /// All changes so far; the version of each is its position, counted from 1.
    changes: watch::Sender<Vec<Change>>,
}

#[derive(Clone)]
struct Change {
    plural: String,
    event: Value,
}

impl ApiServer {
    /// Starts a server that has these objects.
    pub async fn start(objects: Vec<Value>) -> Self {
        let objects = objects.into_iter().map(|object| (key(&object), object)).collect();
        let changes = watch::Sender::new(Vec::new());
        let shared = Arc::new(SharedObjects { objects: Mutex::new(objects), changes });
        let own = "/apis/groundswell.dev/v1alpha1/namespaces/{namespace}/{plural}";
        let routes = Router::new()
            .route(own, get(list_or_watch))
            .route("/api/v1/namespaces/{namespace}/pods", get(pods))
            .route("/api/v1/namespaces/{namespace}/pods/{pod}/log", get(|| async { LOG }))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            axum::serve(listener, routes).await.expect("it serves");
        });
        let folder = tempfile::tempdir().expect("a folder");
        let config = json!({
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {
                "cluster": "c", "user": "u", "namespace": "web",
            }}],
            "current-context": "x",
        });
        std::fs::write(folder.path().join("config"), config.to_string()).expect("a file");
        Self { shared, folder, server }
    }

    /// Returns the path of a configuration for this server.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("config")
    }

    /// Changes an object, and reports it to all watches.
    pub fn change(&self, plural: &str, name: &str, change: impl FnOnce(&mut Value)) {
        let mut objects = self.shared.objects.lock().expect("no panic");
        let object = objects.get_mut(&(plural.into(), name.into())).expect("the object");
        change(object);
        self.shared.changes.send_modify(|changes| {
            let mut object = object.clone();
            object["metadata"]["resourceVersion"] = json!((changes.len() + 1).to_string());
            let event = json!({"type": "MODIFIED", "object": object});
            changes.push(Change { plural: plural.into(), event });
        });
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Returns the plural and the name of an object.
fn key(object: &Value) -> (String, String) {
    let kind = object["kind"].as_str().expect("a kind").to_lowercase();
    let plural = match kind.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{kind}s"),
    };
    (plural, object["metadata"]["name"].as_str().expect("a name").to_owned())
}

async fn list_or_watch(
    State(shared): State<Arc<SharedObjects>>,
    Path((_, plural)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Response {
    let query = query.unwrap_or_default();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let query: BTreeMap<_, _> = pairs.collect();
    if query.get("watch").is_some_and(|watch| watch == "true") {
        let version = query.get("resourceVersion").and_then(|version| version.parse().ok());
        return watched(&shared, plural, version.expect("a version"));
    }
    let objects = shared.objects.lock().expect("no panic");
    let of_kind = objects.iter().filter(|((of, _), _)| *of == plural);
    let items: Vec<&Value> = of_kind.map(|(_, object)| object).collect();
    let version = shared.changes.borrow().len().to_string();
    let list = json!({
        "apiVersion": "groundswell.dev/v1alpha1",
        "kind": "List",
        "metadata": {"resourceVersion": version},
        "items": items,
    });
    Json(list).into_response()
}

/// Sends the changes after a version, and then every new one.
fn watched(shared: &SharedObjects, plural: String, version: usize) -> Response {
    let changes = shared.changes.subscribe();
    let lines = stream::unfold((changes, version), move |(mut changes, mut at)| {
        let plural = plural.clone();
        async move {
            loop {
                let next = changes.borrow_and_update().get(at).cloned();
                match next {
                    Some(change) => {
                        at += 1;
                        if change.plural == plural {
                            let line = Bytes::from(change.event.to_string() + "\n");
                            return Some((Ok::<_, Infallible>(line), (changes, at)));
                        }
                    }
                    None => changes.changed().await.ok()?,
                }
            }
        }
    });
    (StatusCode::OK, Body::from_stream(lines)).into_response()
}

async fn pods() -> Json<Value> {
    let terminated = json!({"state": {"terminated": {"exitCode": 2}}, "name": "build",
        "image": "i", "imageID": "", "ready": false, "restartCount": 0});
    Json(json!({
        "apiVersion": "v1",
        "kind": "PodList",
        "metadata": {},
        "items": [{
            "metadata": {"name": "tool-pod", "namespace": "web"},
            "status": {"containerStatuses": [terminated]},
        }],
    }))
}
