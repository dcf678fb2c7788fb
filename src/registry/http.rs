//! One bounded HTTP exchange: so many at once per host, so many bytes, so long, and redirects that
//! carry no credential.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use jiff::{Timestamp, fmt::rfc2822};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use url::Url;

use crate::{
    clock::Clock,
    registry::{
        RegistryError,
        config::{Config, authority},
        error::{ErrorContext, said},
        transport::{Body, OutgoingRequest, Transport},
    },
};

/// The most redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// The most bytes that are read of an answer that says no.
const MAX_ERROR_BODY_BYTES: usize = 16 * 1024;
/// The longest pause that a registry can impose.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// How many hosts' limits are kept before those that nobody uses are dropped.
const MAX_TRACKED_HOSTS: usize = 256;

/// Sends requests within the limits of a [`Config`].
pub(super) struct Http {
    transport: Arc<dyn Transport>,
    clock: Clock,
    per_host: usize,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// What is sent.
pub(super) struct HttpRequest {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub authorization: Option<HeaderValue>,
    pub body: Bytes,
    /// What the answer is called if it is too large.
    pub what: &'static str,
    /// The most bytes that are read of the answer.
    pub limit: usize,
}

/// What came back: with a body only if the request asked for one.
#[derive(Debug)]
pub(super) struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When its head came.
    pub at: Timestamp,
}

impl Http {
    pub(super) fn new(config: &Config, transport: Arc<dyn Transport>, clock: Clock) -> Self {
        Self {
            transport,
            clock,
            per_host: config.concurrent_requests_per_host,
            hosts: Mutex::default(),
        }
    }

    /// Sends one request and reads the answer, whatever its status.
    ///
    /// `GET` and `HEAD` follow redirects. The credential stays with the host that it was meant for:
    /// a redirect to another host goes without it, and none goes from HTTPS to HTTP.
    pub(super) async fn send(
        &self,
        context: ErrorContext<'_>,
        request: HttpRequest,
    ) -> Result<HttpResponse, RegistryError> {
        let _turn = self.turn(&authority(&request.url)).await;
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = request.headers.clone();
            if let Some(authorization) =
                request.authorization.clone().filter(|_| same_origin(&url, &request.url))
            {
                headers.insert(header::AUTHORIZATION, authorization);
            }
            let (method, body) = (request.method.clone(), request.body.clone());
            let outgoing = OutgoingRequest { method, url: url.clone(), headers, body };
            let response = self
                .transport
                .send(outgoing)
                .await
                .map_err(|problem| context.unreachable(&problem))?;
            let follows = matches!(request.method, Method::GET | Method::HEAD);
            match redirect(&response) {
                Some(location) if follows => {
                    url = target(&url, &location)
                        .map_err(|problem| context.invalid_response(problem))?;
                }
                _ => return self.read(context, response, &request).await,
            }
        }
        Err(context.invalid_response(format!("redirects more than {MAX_REDIRECTS} times")))
    }

    /// Reads the body: all of it or an error where the answer says yes, its beginning where it says
    /// no.
    async fn read(
        &self,
        context: ErrorContext<'_>,
        response: Response<Body>,
        request: &HttpRequest,
    ) -> Result<HttpResponse, RegistryError> {
        let (parts, mut chunks) = response.into_parts();
        let status = parts.status;
        let limit = if status.is_success() { request.limit } else { MAX_ERROR_BODY_BYTES };
        let too_large = || context.too_large(request.what, limit);
        let mut answer = HttpResponse {
            status,
            headers: parts.headers,
            body: Bytes::new(),
            at: self.clock.now(),
        };
        if status.is_success()
            && request.method != Method::HEAD
            && answer.length() > Some(limit as u64)
        {
            return Err(too_large());
        }
        let mut body = BytesMut::new();
        loop {
            match chunks.next().await {
                Some(Ok(chunk)) if body.len() + chunk.len() <= limit => {
                    body.extend_from_slice(&chunk);
                }
                None => break,
                // The status says enough.
                Some(_) if !status.is_success() => break,
                Some(Ok(_)) => return Err(too_large()),
                Some(Err(problem)) => return Err(context.unreachable(&problem)),
            }
        }
        answer.body = body.freeze();
        Ok(answer)
    }

    /// Waits until fewer than the allowed number of requests run to a host.
    async fn turn(&self, host: &str) -> Option<OwnedSemaphorePermit> {
        let limit = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.len() >= MAX_TRACKED_HOSTS {
                hosts.retain(|_, limit| Arc::strong_count(limit) > 1);
            }
            hosts
                .entry(host.into())
                .or_insert_with(|| Arc::new(Semaphore::new(self.per_host)))
                .clone()
        };
        // Fails only for a closed semaphore, and these are never closed.
        limit.acquire_owned().await.ok()
    }
}

impl HttpResponse {
    /// A header's value, if it is there and is text.
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// How long the body is said to be.
    fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// The error that the status means, if it means one.
    pub(super) fn ok(
        self,
        context: ErrorContext<'_>,
        secrets: &[&str],
    ) -> Result<Self, RegistryError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let retry_after = self.header(header::RETRY_AFTER).and_then(|value| pause(value, self.at));
        Err(context.error_status(self.status, said(self.status, &self.body, secrets), retry_after))
    }
}

/// Where an answer says to go instead; empty if it does not say where.
fn redirect(response: &Response<Body>) -> Option<String> {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308).then(|| {
        let location =
            response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        location.unwrap_or_default().to_owned()
    })
}

/// The URL that a redirect leads to, if it may be followed.
fn target(from: &Url, location: &str) -> Result<Url, &'static str> {
    let to = Some(location)
        .filter(|location| !location.is_empty())
        .and_then(|location| from.join(location).ok());
    match to.ok_or("redirects to something that is not a URL")? {
        to if to.scheme() == "https" || to.scheme() == "http" && from.scheme() == "http" => Ok(to),
        _ => Err("redirects away from HTTPS"),
    }
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// A `Retry-After`, which is a number of seconds or a date.
fn pause(value: &str, now: Timestamp) -> Option<Duration> {
    let pause = if let Ok(seconds) = value.trim().parse() {
        Duration::from_secs(seconds)
    } else {
        let until = rfc2822::parse(value.trim()).ok()?.timestamp();
        Duration::try_from(until.duration_since(now)).unwrap_or_default()
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects() {
        let follow = |from: &str, location| {
            target(&from.parse().expect(from), location).map(|to| to.to_string())
        };
        assert_eq!(follow("https://r.example/v2/a", "/b").as_deref(), Ok("https://r.example/b"));
        assert_eq!(
            follow("http://r.example/v2/a", "https://s.example/b").as_deref(),
            Ok("https://s.example/b")
        );
        assert_eq!(
            follow("http://r.example/v2/a", "http://s.example/b").as_deref(),
            Ok("http://s.example/b")
        );
        for (location, problem) in [
            ("http://r.example/b", "HTTPS"),
            ("file:///etc/passwd", "HTTPS"),
            ("", "not a URL"),
            ("http://[", "not a URL"),
        ] {
            assert!(
                follow("https://r.example/a", location).expect_err(location).contains(problem),
                "{location}"
            );
        }
    }

    #[test]
    fn retry_after() {
        let now = "2026-01-02T03:04:05Z".parse().expect("time");
        for (value, expected) in [
            ("7", Some(7)),
            ("Fri, 02 Jan 2026 03:05:05 GMT", Some(60)),
            ("Fri, 02 Jan 2026 03:00:05 GMT", Some(0)),
            ("999999999", Some(3600)),
            ("soon", None),
        ] {
            assert_eq!(pause(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }
}
