//! A transport that plays the exchanges of a scenario, in order, and notes what is unexpected.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use groundswell::registry::{
    Digest, OutgoingRequest, ResponseBody, Transport, TransportError, full_body,
};
use http::{HeaderName, HeaderValue, Method, Response, header};
use indexmap::IndexMap;

use crate::scenario::{FaultExchange, fill_in};

/// How long a registry may send nothing, as the real transport limits it.
const READ_TIMEOUT: Duration = Duration::from_secs(15);

/// Plays exchanges.
#[derive(Clone)]
pub struct FaultPlayer {
    contents: Arc<IndexMap<String, String>>,
    state: Arc<Mutex<PlayerState>>,
}

#[derive(Default)]
struct PlayerState {
    expected: VecDeque<PlayedExchange>,
    problems: Vec<String>,
}

/// An exchange with its digests filled in.
struct PlayedExchange {
    request: String,
    authorization: Option<String>,
    contains: Option<String>,
    answer: PlayedAnswer,
}

enum PlayedAnswer {
    Response { status: u16, headers: Vec<(String, String)>, body: String },
    Fails(String),
    Silent,
}

impl FaultPlayer {
    pub fn new(contents: IndexMap<String, String>) -> Self {
        Self { contents: Arc::new(contents), state: Arc::default() }
    }

    /// Expects these exchanges next.
    pub fn expect(&self, exchanges: &[FaultExchange]) {
        let played = exchanges.iter().map(|exchange| self.played(exchange));
        self.state.lock().expect("state").expected = played.collect();
    }

    /// Returns what was not as expected since the last call.
    pub fn problems(&self) -> Vec<String> {
        let mut state = self.state.lock().expect("state");
        let missing: Vec<_> = state.expected.drain(..).map(|exchange| exchange.request).collect();
        let mut problems = std::mem::take(&mut state.problems);
        problems.extend(missing.into_iter().map(|request| format!("not sent: {request}")));
        problems
    }

    fn played(&self, exchange: &FaultExchange) -> PlayedExchange {
        let fill = |text: &str| fill_in(text, &self.contents);
        let authorization = exchange.sends.as_deref().map(|sent| match sent.split_once(' ') {
            Some(("Bearer", _)) => sent.to_owned(),
            _ => format!("Basic {}", STANDARD.encode(sent)),
        });
        let answer = match (&exchange.fails, exchange.silent) {
            (Some(error), _) => PlayedAnswer::Fails(error.clone()),
            (None, true) => PlayedAnswer::Silent,
            (None, false) => self.response(exchange),
        };
        PlayedExchange {
            request: fill(&exchange.request),
            authorization,
            contains: exchange.contains.as_deref().map(fill),
            answer,
        }
    }

    fn response(&self, exchange: &FaultExchange) -> PlayedAnswer {
        let fill = |text: &str| fill_in(text, &self.contents);
        let own: Vec<(String, String)> = exchange
            .headers
            .iter()
            .map(|line| line.split_once(": ").expect("name: value"))
            .map(|(name, value)| (name.to_ascii_lowercase(), fill(value)))
            .collect();
        let served = exchange.serves.as_ref().map(|name| {
            self.contents.get(name).unwrap_or_else(|| panic!("no content {name}")).clone()
        });
        let headers = served.as_deref().map(content_headers).unwrap_or_default();
        let is_missing = |name: &String| {
            exchange.without.iter().any(|missing| missing.eq_ignore_ascii_case(name))
                || own.iter().any(|(replaced, _)| replaced == name)
        };
        let mut headers: Vec<_> =
            headers.into_iter().filter(|(name, _)| !is_missing(name)).collect();
        headers.extend(own);
        let body = served.unwrap_or_else(|| fill(&exchange.body));
        PlayedAnswer::Response { status: exchange.status, headers, body }
    }

    /// Returns the answer to a request. What is not expected gets a status that nothing retries.
    fn answer(&self, request: &OutgoingRequest) -> PlayedAnswer {
        let mut state = self.state.lock().expect("state");
        let line = format!("{} {}", request.method, request.url);
        let sent = request.headers.get(header::AUTHORIZATION);
        let sent = sent.map(|value| value.to_str().expect("text").to_owned());
        let Some(exchange) = state.expected.pop_front() else {
            state.problems.push(format!("unexpected: {line}"));
            return PlayedAnswer::Response {
                status: 418,
                headers: Vec::new(),
                body: String::new(),
            };
        };
        if exchange.request != line {
            state.problems.push(format!("sent {line} instead of {}", exchange.request));
        }
        if exchange.authorization != sent {
            let expected = exchange.authorization;
            state.problems.push(format!("{line} sent {sent:?} instead of {expected:?}"));
        }
        let body = String::from_utf8_lossy(&request.body);
        if exchange.contains.is_some_and(|expected| !body.contains(&expected)) {
            state.problems.push(format!("{line} sent {body}"));
        }
        exchange.answer
    }
}

/// Returns the headers of a content.
fn content_headers(content: &str) -> Vec<(String, String)> {
    let parsed: serde_json::Value = serde_json::from_str(content).unwrap_or_default();
    let media_type = parsed["mediaType"].as_str().unwrap_or("application/octet-stream");
    [
        ("content-type", media_type.to_owned()),
        ("docker-content-digest", Digest::of(content.as_bytes()).to_string()),
        ("content-length", content.len().to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

impl Transport for FaultPlayer {
    fn send(
        &self,
        request: OutgoingRequest,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
        let answer = self.answer(&request);
        async move {
            match answer {
                PlayedAnswer::Fails(error) => Err(error.into()),
                PlayedAnswer::Silent => {
                    tokio::time::sleep(READ_TIMEOUT).await;
                    Err("operation timed out".to_owned().into())
                }
                PlayedAnswer::Response { status, headers, body } => {
                    let body = if request.method == Method::HEAD { String::new() } else { body };
                    let mut response = Response::new(full_body(Bytes::from(body)));
                    *response.status_mut() = status.try_into().expect("a status");
                    for (name, value) in headers {
                        let name: HeaderName = name.parse().expect("a header's name");
                        let value = HeaderValue::from_str(&value).expect("a header's value");
                        response.headers_mut().append(name, value);
                    }
                    Ok(response)
                }
            }
        }
        .boxed()
    }
}
