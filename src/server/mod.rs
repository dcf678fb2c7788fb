//! Health and metrics over HTTP: `/livez`, `/readyz`, `/metrics`. Plain HTTP inside of the cluster,
//! nothing secret in it.

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

pub use metrics::Metrics;
pub use readiness::Readiness;

/// How long open connections may go on once the server is to stop.
const GRACE: Duration = Duration::from_secs(2);

/// Why the server ended before it was to.
#[derive(Debug, thiserror::Error)]
#[error("the health and metrics server stopped")]
pub struct Error(#[from] io::Error);

/// Serves health and metrics until `shutdown` resolves.
///
/// The process lives as long as it answers: `/livez` asks nothing, so that an API server that is
/// away does not make the kubelet kill the controller.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Error> {
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let server =
        axum::serve(listener, router(readiness, metrics)).with_graceful_shutdown(async move {
            shutdown.await;
            drop(stopping);
        });
    let too_late = async {
        _ = stopped.await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = server => Ok(ended?),
        () = too_late => Ok(()),
    }
}

fn router(readiness: Readiness, metrics: Metrics) -> Router {
    let ready = Router::new().route("/readyz", get(readyz)).with_state(readiness);
    let scrape = Router::new().route("/metrics", get(scrape)).with_state(metrics);
    Router::new().route("/livez", get(|| async { "ok\n" })).merge(ready).merge(scrape)
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let missing = readiness.missing();
    if missing.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready:\n- {}\n", missing.join("\n- ")))
        .into_response()
}

async fn scrape(State(metrics): State<Metrics>) -> Response {
    match metrics.encode() {
        Ok(text) => (
            [(
                header::CONTENT_TYPE,
                "application/openmetrics-text; version=1.0.0; \
            charset=utf-8",
            )],
            text,
        )
            .into_response(),
        Err(error) => {
            (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot write the metrics: {error}\n"))
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
    async fn readiness_names_what_is_missing_and_liveness_stays_green() {
        let readiness = Readiness::default();
        readiness.require("custom resources", || {
            vec![
                "imagefamilies.groundswell.dev is not \
            installed"
                    .into(),
            ]
        });
        let router = router(readiness, Metrics::default());
        let (status, text) = get(router.clone(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            text,
            "not ready:\n- custom resources: imagefamilies.groundswell.dev is not \
                          installed\n"
        );
        assert_eq!(get(router, "/livez").await, (StatusCode::OK, "ok\n".into()));
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
