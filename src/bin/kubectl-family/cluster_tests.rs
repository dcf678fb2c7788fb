use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use groundswell::api::ManagedImage;
use http::{Request, Response};
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

#[test]
fn no_proxy_excludes_the_api_server_from_the_proxy_of_the_environment_only() {
    let url = "http://proxy.example.com:3128";
    let used = |configured: &str, excluded: &str| {
        let cluster = "https://api.example.com:6443".parse().expect("a URL");
        let mut config = Config::new(cluster);
        config.proxy_url = Some(configured.parse().expect("a URL"));
        let variable = |name: &str| match name {
            "HTTPS_PROXY" => Some(url.to_owned()),
            "no_proxy" => Some(excluded.to_owned()),
            _ => None,
        };
        proxy(&config, variable).map(|used| used.to_string())
    };
    for excluded in ["", "other.example.com", "10.0.0.0/8"] {
        assert_eq!(used(url, excluded), Some(format!("{url}/")), "{excluded}");
    }
    for excluded in ["api.example.com", ".example.com", "*"] {
        assert_eq!(used(url, excluded), None, "{excluded}");
    }
    let of_kubeconfig = "http://other.example.com:3128";
    assert_eq!(used(of_kubeconfig, "*"), Some(format!("{of_kubeconfig}/")));
}

/// A connection to an API server that answers the nth call with `answer(n, query)`.
fn connection(
    answer: impl Fn(usize, &str) -> (u16, Value) + Send + Sync + 'static,
) -> ClusterConnection {
    let (calls, answer) = (Arc::new(AtomicUsize::new(0)), Arc::new(answer));
    let service = tower::service_fn(move |request: Request<Body>| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        let (code, body) = answer(call, request.uri().query().unwrap_or_default());
        let body = Body::from(body.to_string().into_bytes());
        async move { Response::builder().status(code).body(body) }
    });
    ClusterConnection {
        client: Client::new(service, "team"),
        namespace: "team".into(),
        timeout: DEFAULT_TIMEOUT,
    }
}

/// A page of images; the next one has this token.
fn page(images: std::ops::Range<usize>, next: &str) -> (u16, Value) {
    let image = |number: usize| {
        json!({"metadata": {"name": format!("f.i{number:05}"), "namespace": "team"},
            "spec": {"family": "f", "image": format!("i{number}")}})
    };
    let items: Vec<Value> = images.map(image).collect();
    let list = json!({"apiVersion": "groundswell.dev/v1alpha1", "kind": "ManagedImageList",
        "metadata": {"resourceVersion": "1", "continue": next}, "items": items});
    (200, list)
}

fn failure(code: u16, reason: &str, message: &str) -> (u16, Value) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
        "reason": reason, "code": code, "message": message});
    (code, status)
}

async fn images(cluster: &ClusterConnection) -> anyhow::Result<Vec<ManagedImage>> {
    cluster.list(cluster.api(), ListParams::default()).await
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page() {
    let cluster = connection(|call, query| {
        assert_eq!(query.contains(&format!("continue=after-{call}")), call > 0, "{query}");
        let next = if call < 14 { format!("after-{}", call + 1) } else { String::new() };
        page(call * 500..(call + 1) * 500, &next)
    });
    assert_eq!(images(&cluster).await.expect("a list").len(), 7_500);
}

#[tokio::test]
async fn a_list_whose_next_page_has_expired_is_read_again() {
    let expired = || failure(410, "Expired", "the token is too old");
    let cluster = connection(move |call, _| match call {
        1 => expired(),
        0 | 2 => page(0..2, "next"),
        _ => page(2..3, ""),
    });
    assert_eq!(images(&cluster).await.expect("a list").len(), 3);
    let cluster =
        connection(move |call, _| if call % 2 == 0 { page(0..2, "next") } else { expired() });
    let error = images(&cluster).await.expect_err("half a list").to_string();
    assert!(error.contains("changes faster than it can be read"), "{error}");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let message = "managedimages.groundswell.dev is forbidden: User \"x\" cannot list resource";
    let cluster = connection(move |_, _| failure(403, "Forbidden", message));
    assert_eq!(images(&cluster).await.expect_err("forbidden").to_string(), message);
}

#[test]
fn a_watch_that_is_rejected_names_the_right_and_one_that_breaks_off_does_not() {
    let answer = |code: u16, reason: &str| {
        let status = json!({"status": "Failure", "code": code, "reason": reason,
                            "message": "ann cannot watch cascades"});
        kube::Error::Api(serde_json::from_value(status).expect("a status"))
    };
    let forbidden = watcher::Error::WatchStartFailed(answer(403, "Forbidden"));
    let error = rejection(&forbidden).expect("a rejection");
    assert!(error.is::<MissingRights>());
    assert_eq!(error.to_string(), "ann cannot watch cascades");
    let of_wait = wait::Error::ProbeFailed(forbidden);
    assert!(rejection_of_wait(&of_wait).is_some_and(|error| error.is::<MissingRights>()));
    let unknown = watcher::Error::InitialListFailed(answer(404, "NotFound"));
    let error = rejection(&unknown).expect("a rejection").to_string();
    assert_eq!(error, "the API server rejects the watch: ann cannot watch cascades");
    let away = watcher::Error::InitialListFailed(answer(503, "ServiceUnavailable"));
    assert!(rejection(&away).is_none());
}
