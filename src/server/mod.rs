//! Health and metrics over plain HTTP: `/livez`, `/readyz` and `/metrics`. They are served inside
//! of the cluster and contain no secrets.

pub mod listener;
pub mod metrics;
pub mod readiness;

use std::{io, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::net::TcpListener;

pub use listener::listen;
pub use metrics::Metrics;
pub use readiness::Readiness;

/// How long open connections may continue once the server stops.
const SHUTDOWN_GRACE_PERIOD: Duration = Duration::from_secs(2);

/// Error that stopped the server early.
#[derive(Debug, thiserror::Error)]
#[error("the health and metrics server stopped")]
pub struct ServerError(#[from] io::Error);

/// Serves health and metrics until `shutdown` resolves.
///
/// `/livez` succeeds as long as the process answers. It depends on nothing else, so that the
/// kubelet does not kill the controller while the API server is unreachable.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let server =
        axum::serve(listener, router(readiness, metrics)).with_graceful_shutdown(async move {
            shutdown.await;
            drop(stopping);
        });
    let grace_period_over = async {
        _ = stopped.await;
        tokio::time::sleep(SHUTDOWN_GRACE_PERIOD).await;
    };
    tokio::select! {
        ended = server => Ok(ended?),
        () = grace_period_over => Ok(()),
    }
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    let ready = Router::new().route("/readyz", get(readyz)).with_state(readiness);
    let scrape = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    Router::new().route("/livez", get(|| async { "ok\n" })).merge(ready).merge(scrape)
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.missing();
    let (status, text) = if missing.is_empty() {
        (StatusCode::OK, "ok\n".to_owned())
    } else {
        let text = format!("not ready:\n- {}\n", missing.join("\n- "));
        (StatusCode::SERVICE_UNAVAILABLE, text)
    };
    let notes = match readiness.notes() {
        notes if notes.is_empty() => String::new(),
        notes => format!("note:\n- {}\n", notes.join("\n- ")),
    };
    (status, text + &notes).into_response()
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => (
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        )
            .into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode the metrics: {error}\n"))
                .into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::{body, body::Body, http::Request};
    use tower::ServiceExt as _;

    use super::*;

    async fn get(router: Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router.oneshot(request).await.expect("an answer");
        let status = response.status();
        let text = body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
        (status, String::from_utf8(text.to_vec()).expect("text"))
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_liveness_succeeds() {
        let readiness = Readiness::default();
        readiness.require("custom resources", || {
            vec!["imagefamilies.groundswell.dev is not installed".into()]
        });
        let router = router(readiness, Metrics::default());
        let (status, text) = get(router.clone(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            text,
            "not ready:\n- custom resources: imagefamilies.groundswell.dev is not installed\n"
        );
        assert_eq!(get(router, "/livez").await, (StatusCode::OK, "ok\n".into()));
    }

    #[tokio::test]
    async fn notes_are_shown_and_do_not_affect_readiness() {
        let readiness = Readiness::default();
        readiness.note(|| vec!["namespace shop is not served".into()]);
        let (status, text) = get(router(readiness.clone(), Metrics::default()), "/readyz").await;
        assert_eq!(
            (status, &*text),
            (StatusCode::OK, "ok\nnote:\n- namespace shop is not served\n")
        );
        readiness.require("caches", || vec!["Secret".into()]);
        let (status, text) = get(router(readiness, Metrics::default()), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(
            text.ends_with("- caches: Secret\nnote:\n- namespace shop is not served\n"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn metrics_are_scraped_over_a_socket_and_the_server_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server =
            tokio::spawn(serve(listener, Readiness::default(), Metrics::default(), async move {
                _ = stopped.await;
            }));
        let text = reqwest::get(format!("http://{address}/metrics"))
            .await
            .expect("an answer")
            .text()
            .await
            .expect("text");
        assert!(text.contains("groundswell_leader 0"), "{text}");
        drop(stop);
        server.await.expect("no panic").expect("ended");
    }
}
