//! Hints of registries: what a registry says to have got is polled now, and not after the interval.
//! `POST /hint`, with the header `Authorization: Bearer TOKEN`.
//!
//! A hint is never believed. It only makes a poll due: of tags that a family follows, and as often
//! as the rate of the registry's host allows.

mod notification;

use std::{path::PathBuf, sync::Arc, time::Duration};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use axum::{
    Router,
    body::Body,
    extract::{Query, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use serde::Deserialize;
use tokio::time::timeout;
use tracing::{info, warn};

pub use self::notification::HintedTag;
use self::notification::hinted_tags;

/// The most bytes of a request.
const MAX_BODY: usize = 256 * 1024;
/// How long the body of a request may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of the file with the tokens.
const MAX_TOKENS: u64 = 4096;
/// The fewest characters of a token.
const MIN_TOKEN: usize = 16;

/// Makes the polls of hinted tags due, and returns how many. `None` if this replica does not lead,
/// and polls nothing.
pub type PollHinted = dyn Fn(&[HintedTag]) -> Option<usize> + Send + Sync;

/// How hints are taken.
#[derive(Clone)]
pub struct HintSettings {
    /// The file with the tokens, one in each line. It is read for each request, so that a rotated
    /// Secret counts without a restart.
    pub tokens: PathBuf,
    /// What makes the polls due.
    pub poll: Arc<PollHinted>,
}

/// The parameters of a request.
#[derive(Deserialize)]
struct Parameters {
    /// The host by which families name the registry, if it is not the one of the notification.
    registry: Option<String>,
}

/// Returns the routes of the endpoint.
pub fn routes(settings: HintSettings) -> Router {
    Router::new().route("/hint", post(hint)).with_state(settings)
}

async fn hint(
    State(settings): State<HintSettings>,
    parameters: Query<Parameters>,
    request: Request,
) -> Response {
    let header = request.headers().get(header::AUTHORIZATION);
    let token = header.and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let is_known = match known_tokens(&settings.tokens).await {
        Ok(known) => token.is_some_and(|token| is_one_of(token, &known)),
        Err(problem) => {
            warn!(problem, "a hint is refused");
            return (StatusCode::INTERNAL_SERVER_ERROR, problem + "\n").into_response();
        }
    };
    if !is_known {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        let text = "send the token as `Authorization: Bearer TOKEN`\n";
        return (StatusCode::UNAUTHORIZED, challenge, text).into_response();
    }
    let body = match read_body(request.into_body()).await {
        Ok(body) => body,
        Err(response) => return response,
    };
    let tags = match hinted_tags(&body, parameters.0.registry.as_deref()) {
        Ok(tags) => tags,
        Err(problem) => return (StatusCode::BAD_REQUEST, problem + "\n").into_response(),
    };
    let Some(polls) = (settings.poll)(&tags) else {
        let text = "this replica does not lead; send the hint again\n";
        return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
    };
    info!(tags = tags.len(), polls, "got a hint");
    (StatusCode::ACCEPTED, format!("{polls} polls are due\n")).into_response()
}

async fn read_body(body: Body) -> Result<Vec<u8>, Response> {
    match timeout(BODY_TIMEOUT, axum::body::to_bytes(body, MAX_BODY)).await {
        Ok(Ok(body)) => Ok(body.to_vec()),
        Ok(Err(_)) => {
            let text = format!("the body is not complete, or has more than {MAX_BODY} bytes\n");
            Err((StatusCode::PAYLOAD_TOO_LARGE, text).into_response())
        }
        Err(_) => {
            Err((StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n").into_response())
        }
    }
}

/// Reads the tokens. Returns why it cannot.
async fn known_tokens(path: &std::path::Path) -> Result<Vec<String>, String> {
    let failed = |error: std::io::Error| format!("the file of tokens cannot be read: {error}");
    let size = tokio::fs::metadata(path).await.map_err(failed)?.len();
    if size > MAX_TOKENS {
        return Err(format!("the file of tokens has more than {MAX_TOKENS} bytes"));
    }
    let text = tokio::fs::read_to_string(path).await.map_err(failed)?;
    let tokens: Vec<String> =
        text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if tokens.is_empty() || tokens.iter().any(|token| token.len() < MIN_TOKEN) {
        return Err(format!(
            "the file of tokens must have one token of at least {MIN_TOKEN} characters per line"
        ));
    }
    Ok(tokens)
}

/// Whether a token is one of the known ones. The time that this takes does not depend on how much
/// of a token is right.
fn is_one_of(token: &str, known: &[String]) -> bool {
    let equal = |known: &String| verify_slices_are_equal(token.as_bytes(), known.as_bytes());
    known.iter().filter(|known| equal(known).is_ok()).count() > 0
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use axum::http::request::Builder;
    use tower::ServiceExt as _;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    #[derive(Clone, Copy, PartialEq)]
    enum Replica {
        Leader,
        Standby,
    }

    struct TestEndpoint {
        routes: Router,
        hinted: Arc<Mutex<Vec<HintedTag>>>,
        _tokens: tempfile::NamedTempFile,
    }

    fn endpoint(tokens: &str, replica: Replica) -> TestEndpoint {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), tokens).expect("tokens");
        let hinted = Arc::<Mutex<Vec<HintedTag>>>::default();
        let kept = Arc::clone(&hinted);
        let poll = move |tags: &[HintedTag]| {
            kept.lock().expect("tags").extend_from_slice(tags);
            (replica == Replica::Leader).then_some(tags.len())
        };
        let settings = HintSettings { tokens: file.path().into(), poll: Arc::new(poll) };
        TestEndpoint { routes: routes(settings), hinted, _tokens: file }
    }

    impl TestEndpoint {
        async fn answer(&self, request: Builder, body: impl Into<Body>) -> StatusCode {
            let request = request.body(body.into()).expect("a request");
            self.routes.clone().oneshot(request).await.expect("an answer").status()
        }

        fn hinted(&self) -> usize {
            self.hinted.lock().expect("tags").len()
        }
    }

    fn authorized() -> Builder {
        Request::post("/hint").header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
    }

    const ALPINE: &str = r#"{"references": ["docker.io/library/alpine:3.20"]}"#;

    #[tokio::test]
    async fn only_who_has_a_token_gives_hints() {
        let endpoint = endpoint(&format!("another-token-0000\n{TOKEN}\n"), Replica::Leader);
        assert_eq!(endpoint.answer(authorized(), ALPINE).await, StatusCode::ACCEPTED);
        assert_eq!(endpoint.hinted(), 1);
        for value in ["", "Bearer ", "Bearer 0123456789abcde", "Basic MDEyMzQ1Njc4OWFiY2RlZg=="] {
            let request = Request::post("/hint").header(header::AUTHORIZATION, value);
            let status = endpoint.answer(request, ALPINE).await;
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{value}");
        }
        assert_eq!(endpoint.answer(Request::post("/hint"), ALPINE).await, StatusCode::UNAUTHORIZED);
        assert_eq!(endpoint.hinted(), 1);
    }

    #[tokio::test]
    async fn without_a_usable_token_nobody_gives_hints() {
        for tokens in ["", "\n", "short"] {
            let endpoint = endpoint(tokens, Replica::Leader);
            let request = Request::post("/hint")
                .header(header::AUTHORIZATION, format!("Bearer {}", tokens.trim()));
            let status = endpoint.answer(request, ALPINE).await;
            assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{tokens}");
            assert_eq!(endpoint.hinted(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_no_hint_is_refused() {
        let endpoint = endpoint(TOKEN, Replica::Leader);
        for (body, status) in [
            ("{".to_owned(), StatusCode::BAD_REQUEST),
            ("[]".to_owned(), StatusCode::BAD_REQUEST),
            ("{}".to_owned(), StatusCode::BAD_REQUEST),
            ("x".repeat(MAX_BODY + 1), StatusCode::PAYLOAD_TOO_LARGE),
        ] {
            assert_eq!(endpoint.answer(authorized(), body).await, status);
        }
        assert_eq!(endpoint.hinted(), 0);
    }

    #[tokio::test]
    async fn a_standby_asks_for_the_hint_again() {
        let endpoint = endpoint(TOKEN, Replica::Standby);
        let status = endpoint.answer(authorized(), ALPINE).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
