//! The server of the page: only this machine reaches it, and only who knows its address. The
//! address has a random token, and the header `Host` must be that of the address, so that neither
//! another user of the machine nor a page of another site can ask.

use std::{io::ErrorKind, net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, anyhow, bail};
use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
};
use groundswell::connections::answer_connections;
use tokio::net::TcpListener;

use crate::ui::routes::{PageState, routes};

/// Number of random bytes of the token.
const TOKEN_BYTES: usize = 16;
/// Headers of every response: the page loads nothing from elsewhere, runs only its own scripts, and
/// no other page can show it or read it.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// A socket on loopback, and the token of its address.
pub struct PageServer {
    listener: TcpListener,
    access: Access,
}

/// Who may ask.
#[derive(Clone, Debug)]
struct Access {
    token: String,
    /// The values of `Host` that a browser sends for the address.
    hosts: [String; 2],
}

impl PageServer {
    /// Opens the socket on 127.0.0.1. Port 0 selects a free one.
    ///
    /// # Errors
    ///
    /// Returns an error if the port is in use or may not be opened.
    pub async fn bind(port: u16) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
        let listener = match listener {
            Ok(listener) => listener,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                bail!(
                    "port {port} of 127.0.0.1 is in use; name another one with --port, or leave \
                       it out for a free one"
                )
            }
            Err(error) => return Err(error).with_context(|| format!("open port {port}")),
        };
        let port = listener.local_addr()?.port();
        let mut token = [0; TOKEN_BYTES];
        rand::fill(&mut token).map_err(|_| anyhow!("this machine has no random numbers"))?;
        let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        Ok(Self { listener, access: Access { token: hex::encode(token), hosts } })
    }

    /// Returns the address of the page, with its token.
    pub fn address(&self) -> String {
        let [host, _] = &self.access.hosts;
        format!("http://{host}/{}/", self.access.token)
    }

    /// Answers requests until the future is dropped.
    ///
    /// # Errors
    ///
    /// Never: a connection that cannot be accepted or answered ends, and the others go on.
    pub async fn serve(self, state: Arc<PageState>) -> anyhow::Result<()> {
        let routes = routes(state);
        let routes = routes.layer(middleware::from_fn_with_state(self.access, guard));
        answer_connections(self.listener, routes).await;
        Ok(())
    }
}

/// Rejects requests that do not come from the page, and sets the headers of all responses.
async fn guard(State(access): State<Access>, request: Request<Body>, next: Next) -> Response {
    let mut response = match access.rejection(&request) {
        Some(status) => status.into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

impl Access {
    /// Returns the status of a request that is not answered.
    fn rejection<B>(&self, request: &Request<B>) -> Option<StatusCode> {
        let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
        if !host.is_some_and(|host| self.hosts.iter().any(|known| known == host)) {
            return Some(StatusCode::MISDIRECTED_REQUEST);
        }
        let token = request.uri().path().split('/').nth(1).unwrap_or_default();
        let is_known = verify_slices_are_equal(token.as_bytes(), self.token.as_bytes()).is_ok();
        (!is_known).then_some(StatusCode::NOT_FOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(host: Option<&str>, path: &str) -> Option<StatusCode> {
        let hosts = ["127.0.0.1:8123".into(), "localhost:8123".into()];
        let access = Access { token: "abc".into(), hosts };
        let mut request = Request::builder().uri(path);
        if let Some(host) = host {
            request = request.header(header::HOST, host);
        }
        access.rejection(&request.body(()).expect("a request"))
    }

    #[test]
    fn only_the_address_with_its_token_is_answered() {
        for host in ["127.0.0.1:8123", "localhost:8123"] {
            assert_eq!(rejection(Some(host), "/abc/"), None, "{host}");
        }
        // A name of another site that resolves to this machine.
        for host in ["rebound.example.com:8123", "127.0.0.1", "127.0.0.1:8124", ""] {
            let rejected = rejection(Some(host), "/abc/");
            assert_eq!(rejected, Some(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        assert_eq!(rejection(None, "/abc/"), Some(StatusCode::MISDIRECTED_REQUEST));
        for path in ["/", "/abd/", "/abcd/", "//abc/", "/api/state"] {
            let rejected = rejection(Some("localhost:8123"), path);
            assert_eq!(rejected, Some(StatusCode::NOT_FOUND), "{path}");
        }
    }
}
