//! How a request leaves the process and its answer comes back, without a word on what either means.
//!
//! A seam: the limits, redirects and tokens of [`http`](crate::registry::http) are the same over
//! any transport.

use std::error::Error as _;

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt, TryFutureExt, TryStreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::{HeaderMap, Method, Response};
use reqwest::redirect::Policy;
use url::Url;

use crate::registry::{Config, RegistryError};

/// A request as it leaves.
#[derive(Clone, Debug)]
pub struct OutgoingRequest {
    /// The method.
    pub method: Method,
    /// Where it goes.
    pub url: Url,
    /// Its headers, with the credential among them.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// The body of an answer, in the pieces in which it comes; an error says how it broke off.
pub type Body = BoxStream<'static, Result<Bytes, String>>;

/// Carries one request to a host and its answer back. It follows no redirect and keeps nothing
/// between two requests but connections. An error says in words why there is no answer.
pub trait Transport: Send + Sync + 'static {
    /// Sends one request.
    fn send(&self, request: OutgoingRequest) -> BoxFuture<'static, Result<Response<Body>, String>>;
}

/// HTTP over TCP, with TLS where the URL says so.
pub(super) struct HttpTransport(reqwest::Client);

impl HttpTransport {
    pub(super) fn new(config: &Config) -> Result<Self, RegistryError> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("groundswell/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .connect_timeout(config.connect_timeout.into())
            .read_timeout(config.read_timeout.into())
            .build()
            .map_err(|error| RegistryError::Setup(chain(error)))?;
        Ok(Self(client))
    }
}

impl Transport for HttpTransport {
    fn send(&self, request: OutgoingRequest) -> BoxFuture<'static, Result<Response<Body>, String>> {
        let OutgoingRequest { method, url, headers, body } = request;
        let sent = self.0.request(method, url).headers(headers).body(body).send();
        async move {
            let mut response = sent.map_err(chain).await?;
            let mut answer = Response::new(());
            *answer.status_mut() = response.status();
            *answer.headers_mut() = std::mem::take(response.headers_mut());
            Ok(answer.map(|()| response.bytes_stream().map_err(chain).boxed()))
        }
        .boxed()
    }
}

/// A body that is there already, in one piece.
#[must_use]
pub fn whole(body: Bytes) -> Body {
    stream::iter([Ok(body)]).boxed()
}

/// An error with its causes, without the URL: the HTTP client's own text leaves out what matters.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
