//! A registry that misbehaves. The first part of a repository's name chooses how: see [`answer`].

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use tokio::{net::TcpListener, task::JoinHandle};

/// A registry on a port of this machine. Dropping it closes it.
pub struct OddRegistry {
    /// Its host and port.
    pub host: String,
    work: JoinHandle<()>,
}

impl OddRegistry {
    /// Opens a registry on a free port.
    pub async fn open() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        let work = tokio::spawn(async move {
            axum::serve(listener, Router::new().fallback(answer)).await.expect("the registry");
        });
        Self { host, work }
    }

    /// Returns a host and port where nothing listens.
    pub async fn closed() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        listener.local_addr().expect("an address").to_string()
    }
}

impl Drop for OddRegistry {
    fn drop(&mut self) {
        self.work.abort();
    }
}

async fn answer(request: Request) -> Response {
    let manifest = [(header::CONTENT_TYPE, "application/vnd.oci.image.manifest.v1+json")];
    match request.uri().path().split('/').nth(2) {
        Some("denied") => {
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Basic realm=\"odd\"")])
                .into_response()
        }
        Some("garbage") => {
            ([(header::CONTENT_TYPE, "text/html")], "<html>Welcome</html>").into_response()
        }
        Some("large") => (manifest, vec![b' '; 5 << 20]).into_response(),
        Some("broken") => (StatusCode::INTERNAL_SERVER_ERROR, "no").into_response(),
        Some("silent") => std::future::pending().await,
        // Any other 404 may be that of a proxy in front of a registry.
        _ => (StatusCode::NOT_FOUND, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#).into_response(),
    }
}
