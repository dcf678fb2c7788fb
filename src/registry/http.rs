//! One bounded HTTP exchange: the concurrency per host, the size of the response and the number of
//! redirects are limited, hosts that do not respond are left alone, and a redirect to another host
//! carries no credential.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use jiff::Timestamp;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};
use url::Url;

use crate::{
    clock::Clock,
    registry::{
        Digest, RegistryError,
        circuits::Circuits,
        config::{Config, authority, is_listed},
        deadline::Deadline,
        error::ErrorContext,
        error_body::{describe_response, has_error_form, is_blocked, is_name_unknown},
        rate_limits::{StatedLimit, outage_pause, stated_limit},
        transport::{OutgoingRequest, ResponseBody, Transport, TransportError},
        turns::WaitingCall,
    },
};

/// Maximum number of redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// Maximum number of bytes that are read of an error response.
const MAX_ERROR_BODY_BYTES: usize = 16 * 1024;
/// Number of hosts whose limits are kept before the unused ones are dropped.
const MAX_TRACKED_HOSTS: usize = 256;
/// Stands between a token service and its registry in the key of a circuit.
const TOKEN_SERVICE_OF: &str = " for ";
/// The header that names the digest of a manifest.
pub(super) const DIGEST_HEADER: &str = "docker-content-digest";
/// The header by which a registry identifies itself.
const API_HEADER: &str = "docker-distribution-api-version";

/// Sends requests within the limits of a [`Config`].
pub(super) struct Http {
    transport: Arc<dyn Transport>,
    clock: Clock,
    requests_per_host: usize,
    /// The hosts that are reached over plain HTTP.
    unencrypted: Vec<String>,
    hosts: Mutex<HashMap<String, Arc<Semaphore>>>,
    circuits: Circuits,
}

/// Who receives the credential of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Receivers {
    /// The origin of the URL that is requested.
    Origin,
    /// The host of the URL, which a registry has named as its token service, on any port; and the
    /// registry itself, given by the URL that precedes `/v2/`.
    TokenService { registry: Url },
}

/// Returns the authorization for an origin that a redirect names.
pub(super) type ElsewhereAuthorization<'a> = &'a (dyn Fn(&Url) -> Option<HeaderValue> + Sync);

/// A request to one host.
pub(super) struct HttpRequest<'a> {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub authorization: Option<HeaderValue>,
    pub body: Bytes,
    /// What the response contains: the noun that an error about its size uses.
    pub what: &'static str,
    /// Maximum number of bytes that are read of the response.
    pub limit: usize,
    /// Who receives `authorization`.
    pub receivers: Receivers,
    /// What other origins receive.
    pub elsewhere: Option<ElsewhereAuthorization<'a>>,
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
    /// The URL that was requested last, which differs from the first one after redirects.
    pub url: Url,
    /// Whether the URL does not receive the credential of the request.
    pub is_elsewhere: bool,
}

impl HttpRequest<'_> {
    /// Returns the key of the circuit that the request belongs to: the origin that it names, and
    /// for a token service also the registry that has named it, so that no registry can make the
    /// host of another one look unresponsive.
    fn circuit(&self) -> String {
        let origin = self.url.origin().ascii_serialization();
        match &self.receivers {
            Receivers::Origin => origin,
            Receivers::TokenService { registry } => {
                let registry = registry.origin().ascii_serialization();
                format!("{origin}{TOKEN_SERVICE_OF}{registry}")
            }
        }
    }

    /// Whether this URL receives the credential.
    fn is_received_by(&self, url: &Url) -> bool {
        same_origin(url, &self.url)
            || match &self.receivers {
                Receivers::Origin => false,
                Receivers::TokenService { registry } => {
                    same_origin(url, registry)
                        || url.host() == self.url.host() && url.scheme() == self.url.scheme()
                }
            }
    }
}

impl Http {
    pub(super) fn new(config: &Config, transport: Arc<dyn Transport>, clock: Clock) -> Self {
        Self {
            transport,
            clock,
            requests_per_host: config.concurrent_requests_per_host,
            unencrypted: config.plain_http.clone(),
            hosts: Mutex::default(),
            circuits: Circuits::default(),
        }
    }

    /// Returns the URLs of the hosts that do not respond, and how long they are left alone.
    pub(super) fn unresponsive(&self) -> Vec<(String, Duration)> {
        let open = self.circuits.open().into_iter();
        open.map(|(circuit, pause)| {
            let url = circuit.split(TOKEN_SERVICE_OF).next().unwrap_or_default();
            (url.to_owned(), pause)
        })
        .collect()
    }

    /// Sends one request and reads the response, whatever its status.
    ///
    /// `GET` and `HEAD` follow redirects. The credential is sent only to those that it is meant
    /// for, not to another host that a redirect names. A redirect from HTTPS to HTTP is an error,
    /// and so is one over plain HTTP to another host that the settings do not list for that.
    pub(super) async fn send(
        &self,
        context: ErrorContext<'_>,
        deadline: &Deadline,
        request: HttpRequest<'_>,
    ) -> Result<HttpResponse, RegistryError> {
        let host = authority(&request.url);
        let circuit = request.circuit();
        let unresponsive = |pause| context.unresponsive(&host, pause);
        self.circuits.check(&circuit).map_err(unresponsive)?;
        let _slot = self.acquire_slot(context, &host, deadline).await?;
        // The host may have stopped responding meanwhile. Only what is sent at once is admitted,
        // because after a pause that is one request.
        self.circuits.admit(&circuit).map_err(unresponsive)?;
        let mut url = request.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_once(context, deadline, &request, &url).await?;
            let follows = matches!(request.method, Method::GET | Method::HEAD);
            match redirect_location(&response) {
                Some(_) if is_named_by_redirect(&request, &url, &response) => {
                    return Ok(self.of_redirect(response, url));
                }
                Some(location) if follows => {
                    url = self.follow(context, &url, &location)?;
                }
                _ => {
                    let is_named = same_origin(&url, &request.url);
                    let read = self.read(context, response, &request, url);
                    let read = timeout_at(deadline.ends_at(), read).await;
                    return read.unwrap_or_else(|_| {
                        if is_named {
                            self.circuits.note_failure(&circuit);
                        }
                        Err(context.too_slow(deadline.limit))
                    });
                }
            }
        }
        Err(context.invalid_response(format!("redirected more than {MAX_REDIRECTS} times")))
    }

    /// Returns where a redirect leads, if it is followed.
    fn follow(
        &self,
        context: ErrorContext<'_>,
        from: &Url,
        location: &str,
    ) -> Result<Url, RegistryError> {
        let to =
            redirect_target(from, location).map_err(|problem| context.invalid_response(problem))?;
        // To list what is refused would allow it.
        self.transport.check(&to).map_err(|refused| context.refused(&refused))?;
        if to.scheme() == "http" && !same_origin(from, &to) && !is_plain(&self.unencrypted, &to) {
            let host = authority(&to);
            return Err(context.invalid_response(format!(
                "redirected over plain HTTP to {host}; if that is meant, list {host} in \
                 `registries.plainHttp` of the operator's configuration"
            )));
        }
        Ok(to)
    }

    /// Sends one request without following redirects.
    async fn send_once(
        &self,
        context: ErrorContext<'_>,
        deadline: &Deadline,
        request: &HttpRequest<'_>,
        url: &Url,
    ) -> Result<Response<ResponseBody>, RegistryError> {
        // A host that a redirect names is charged with nothing: whoever redirects there may have
        // used up the time, or named the wrong port.
        let circuit = same_origin(url, &request.url).then(|| request.circuit());
        let note_failure = || {
            if let Some(circuit) = &circuit {
                self.circuits.note_failure(circuit);
            }
        };
        let mut headers = request.headers.clone();
        let authorization = if request.is_received_by(url) {
            request.authorization.clone()
        } else {
            request.elsewhere.and_then(|elsewhere| elsewhere(url))
        };
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization);
        }
        let (method, body) = (request.method.clone(), request.body.clone());
        let is_read = method.is_safe();
        let outgoing = OutgoingRequest { method, url: url.clone(), headers, body };
        let sent = timeout_at(deadline.ends_at(), self.transport.send(outgoing)).await;
        match sent {
            Ok(Ok(response)) => {
                if let Some(circuit) = &circuit {
                    self.circuits.note_response(circuit);
                }
                Ok(response)
            }
            Ok(Err(TransportError::Refused(refused))) => Err(context.refused(&refused)),
            Ok(Err(TransportError::Failed(problem))) => {
                // A write may also fail because this process may not write.
                if is_read {
                    note_failure();
                }
                Err(context.unreachable(&problem))
            }
            Err(_) => {
                note_failure();
                Err(context.too_slow(deadline.limit))
            }
        }
    }

    /// Returns the response to a `HEAD` whose redirect already says everything.
    fn of_redirect(&self, response: Response<ResponseBody>, url: Url) -> HttpResponse {
        let mut headers = response.into_parts().0.headers;
        headers.remove(header::CONTENT_TYPE);
        headers.remove(header::CONTENT_LENGTH);
        let (status, body, received_at) = (StatusCode::OK, Bytes::new(), self.clock.now());
        HttpResponse { status, headers, body, received_at, url, is_elsewhere: false }
    }

    /// Reads the body. A body of a successful response is read completely or is an error; of an
    /// error response only the beginning is read.
    async fn read(
        &self,
        context: ErrorContext<'_>,
        unread: Response<ResponseBody>,
        request: &HttpRequest<'_>,
        url: Url,
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
            is_elsewhere: !request.is_received_by(&url),
            url,
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

    /// Waits until fewer than the allowed number of requests to a host are running. That time does
    /// not count for the call, but is limited as well.
    async fn acquire_slot(
        &self,
        context: ErrorContext<'_>,
        host: &str,
        deadline: &Deadline,
    ) -> Result<Option<OwnedSemaphorePermit>, RegistryError> {
        let began = Instant::now();
        let _waiting = WaitingCall::begin();
        let slots = self.slots(host);
        let slot = timeout(deadline.limit, slots.acquire_owned())
            .await
            .map_err(|_| context.too_slow(deadline.limit))?;
        deadline.extend(began.elapsed());
        // Acquiring fails only for a closed semaphore, and these are never closed.
        Ok(slot.ok())
    }

    fn slots(&self, host: &str) -> Arc<Semaphore> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_TRACKED_HOSTS {
            hosts.retain(|_, limit| Arc::strong_count(limit) > 1);
        }
        hosts
            .entry(host.into())
            .or_insert_with(|| Arc::new(Semaphore::new(self.requests_per_host)))
            .clone()
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

    /// Returns the limit that the response states, if it does.
    pub(super) fn stated_limit(&self, quoted: &str) -> Option<StatedLimit> {
        stated_limit(self.status, &self.headers, quoted, self.received_at)
    }

    /// Returns the pause that the response names, if it does and is no limit.
    pub(super) fn outage_pause(&self) -> Option<Duration> {
        outage_pause(&self.headers, self.received_at)
    }

    /// Whether the response has the form of one of a registry. Proxies and load balancers respond
    /// in its place.
    pub(super) fn is_of_registry(&self) -> bool {
        self.headers.contains_key(API_HEADER) || has_error_form(&self.body)
    }

    /// Turns a status other than success into an error, given what a message quotes of the
    /// response.
    pub(super) fn error_for_status(
        self,
        context: ErrorContext<'_>,
        quoted: String,
    ) -> Result<Self, RegistryError> {
        if self.status.is_success() {
            return Ok(self);
        }
        if self.status.is_redirection() {
            let to = self.header(header::LOCATION).and_then(|to| self.url.join(to).ok());
            let to = to.map_or_else(|| "another address".to_owned(), |to| authority(&to));
            return Err(context.invalid_response(format!(
                "has moved: it redirects to {to} ({quoted}), which is not followed here; name the \
                 image by its new address"
            )));
        }
        if self.status == StatusCode::NOT_FOUND && !self.is_of_registry() {
            return Err(context.not_a_registry(&quoted));
        }
        if is_blocked(self.status, &self.body) {
            return Err(context.blocked(quoted));
        }
        let names_nothing = is_name_unknown(&self.body);
        let pause = self.outage_pause();
        let error = context.error_status(self.status, quoted, pause);
        Err(if names_nothing { error.of_unknown_name() } else { error })
    }

    /// Returns what a message quotes of the response. `secrets` are redacted.
    pub(super) fn quoted(&self, secrets: &[&str]) -> String {
        describe_response(self.status, &self.body, secrets)
    }
}

/// Whether a redirect of the requested origin itself names the digest that a `HEAD` asks for.
fn is_named_by_redirect(
    request: &HttpRequest<'_>,
    url: &Url,
    response: &Response<ResponseBody>,
) -> bool {
    let digest = response.headers().get(DIGEST_HEADER).and_then(|value| value.to_str().ok());
    request.method == Method::HEAD
        && same_origin(url, &request.url)
        && digest.is_some_and(|digest| digest.parse::<Digest>().is_ok())
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

/// Whether the hosts that are reached over plain HTTP contain that of a URL, with its port.
fn is_plain(hosts: &[String], url: &Url) -> bool {
    let host = authority(url);
    let with_port = format!("{host}:{}", url.port_or_known_default().unwrap_or_default());
    is_listed(hosts, &host) || url.port().is_none() && is_listed(hosts, &with_port)
}

pub(super) fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host() == b.host()
        && a.port_or_known_default() == b.port_or_known_default()
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
    fn a_host_is_listed_with_its_port() {
        let hosts = ["s.example", "t.example:5000", "u.example:80"].map(str::to_owned);
        for (url, expected) in [
            ("http://S.example/b", true),
            ("http://s.example:80/b", true),
            ("http://t.example:5000/b", true),
            ("http://u.example/b", true),
            ("http://other.example/b", false),
            ("http://t.example/b", false),
            ("http://s.example:81/b", false),
            ("http://u.example:8080/b", false),
        ] {
            assert_eq!(is_plain(&hosts, &url.parse().expect(url)), expected, "{url}");
        }
    }
}
