//! One bounded HTTP exchange: the concurrency per host, the size of the response and the number of
//! redirects are limited, and a redirect to another host carries no credential.

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
        error::{ErrorContext, describe_response},
        transport::{OutgoingRequest, ResponseBody, Transport},
    },
};

/// Maximum number of redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Maximum number of bytes that are read of an error response.
const MAX_ERROR_BODY_BYTES: usize = 16 * 1024;
/// Upper bound on the pause that a registry can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);
/// Number of hosts whose limits are kept before the unused ones are dropped.
const MAX_TRACKED_HOSTS: usize = 256;

/// Sends requests within the limits of a [`Config`].
pub(super) struct Http {
    transport: Arc<dyn Transport>,
    clock: Clock,
    requests_per_host: usize,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
}

/// A request to one host.
pub(super) struct HttpRequest {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub authorization: Option<HeaderValue>,
    pub body: Bytes,
    /// What the response contains: the noun that an error about its size uses.
    pub what: &'static str,
    /// Maximum number of bytes that are read of the response.
    pub limit: usize,
}

/// A response that has been read completely, or up to its limit if it is an error. It has a body
/// only if the request asks for one.
#[derive(Debug)]
pub(super) struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When the head of the response arrived.
    pub received_at: Timestamp,
}

impl Http {
    pub(super) fn new(config: &Config, transport: Arc<dyn Transport>, clock: Clock) -> Self {
        Self {
            transport,
            clock,
            requests_per_host: config.concurrent_requests_per_host,
            hosts: Mutex::default(),
        }
    }

    /// Sends one request and reads the response, whatever its status.
    ///
    /// `GET` and `HEAD` follow redirects. The credential is sent only to the origin that it is
    /// meant for, not to another host that a redirect names. A redirect from HTTPS to HTTP is an
    /// error.
    pub(super) async fn send(
        &self,
        context: ErrorContext<'_>,
        request: HttpRequest,
    ) -> Result<HttpResponse, RegistryError> {
        let _slot = self.acquire_slot(&authority(&request.url)).await;
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
            match redirect_location(&response) {
                Some(location) if follows => {
                    url = redirect_target(&url, &location)
                        .map_err(|problem| context.invalid_response(problem))?;
                }
                _ => return self.read(context, response, &request).await,
            }
        }
        Err(context.invalid_response(format!("redirected more than {MAX_REDIRECTS} times")))
    }

    /// Reads the body. A body of a successful response is read completely or is an error; of an
    /// error response only the beginning is read.
    async fn read(
        &self,
        context: ErrorContext<'_>,
        unread: Response<ResponseBody>,
        request: &HttpRequest,
    ) -> Result<HttpResponse, RegistryError> {
        let (parts, mut chunks) = unread.into_parts();
        let status = parts.status;
        let limit = if status.is_success() { request.limit } else { MAX_ERROR_BODY_BYTES };
        let too_large = || context.too_large(request.what, limit);
        let mut response = HttpResponse {
            status,
            headers: parts.headers,
            body: Bytes::new(),
            received_at: self.clock.now(),
        };
        if status.is_success()
            && request.method != Method::HEAD
            && response.content_length() > Some(limit as u64)
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
                // The status of an error response is enough.
                Some(_) if !status.is_success() => break,
                Some(Ok(_)) => return Err(too_large()),
                Some(Err(problem)) => return Err(context.unreachable(&problem)),
            }
        }
        response.body = body.freeze();
        Ok(response)
    }

    /// Waits until fewer than the allowed number of requests to a host are running.
    async fn acquire_slot(&self, host: &str) -> Option<OwnedSemaphorePermit> {
        let limit = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            if hosts.len() >= MAX_TRACKED_HOSTS {
                hosts.retain(|_, limit| Arc::strong_count(limit) > 1);
            }
            hosts
                .entry(host.into())
                .or_insert_with(|| Arc::new(Semaphore::new(self.requests_per_host)))
                .clone()
        };
        // Acquiring fails only for a closed semaphore, and these are never closed.
        limit.acquire_owned().await.ok()
    }
}

impl HttpResponse {
    /// Returns a header's value if the header is present and is text.
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Returns the length of the body according to the header `Content-Length`.
    fn content_length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// Turns a status other than success into an error. `secrets` are redacted from its message.
    pub(super) fn error_for_status(
        self,
        context: ErrorContext<'_>,
        secrets: &[&str],
    ) -> Result<Self, RegistryError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let retry_after = self
            .header(header::RETRY_AFTER)
            .and_then(|value| parse_retry_after(value, self.received_at));
        Err(context.error_status(
            self.status,
            describe_response(self.status, &self.body, secrets),
            retry_after,
        ))
    }
}

/// Returns the location of a redirect, which is empty if the response has none; `None` if the
/// response is not a redirect.
fn redirect_location(response: &Response<ResponseBody>) -> Option<String> {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308).then(|| {
        let location =
            response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        location.unwrap_or_default().to_owned()
    })
}

/// Resolves the location of a redirect. Fails if the redirect must not be followed.
fn redirect_target(from: &Url, location: &str) -> Result<Url, &'static str> {
    let to = Some(location)
        .filter(|location| !location.is_empty())
        .and_then(|location| from.join(location).ok());
    match to.ok_or("redirected to a location that is not a URL")? {
        to if to.scheme() == "https" || to.scheme() == "http" && from.scheme() == "http" => Ok(to),
        _ => Err("redirected from HTTPS to another scheme"),
    }
}

fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
}

/// Parses a `Retry-After` header, which is a number of seconds or a date. The result is at most
/// [`MAX_RETRY_AFTER`].
fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
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
    fn a_redirect_never_leaves_https() {
        let follow = |from: &str, location| {
            redirect_target(&from.parse().expect(from), location).map(|to| to.to_string())
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
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now = "2026-01-02T03:04:05Z".parse().expect("time");
        for (value, expected) in [
            ("7", Some(7)),
            ("Fri, 02 Jan 2026 03:05:05 GMT", Some(60)),
            ("Fri, 02 Jan 2026 03:00:05 GMT", Some(0)),
            ("999999999", Some(3600)),
            ("soon", None),
        ] {
            assert_eq!(parse_retry_after(value, now), expected.map(Duration::from_secs), "{value}");
        }
    }
}
