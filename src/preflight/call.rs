//! Calls to the API server. Each has a timeout, and an error that the report can quote.

use std::{fmt::Debug, time::Duration};

use http::{HeaderMap, Request, StatusCode};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource, api::PostParams, client::Body, core::Status};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    api::condition::shorten,
    builds::outcome::{JobRejection, cannot_run_dry, job_rejection},
};

/// Timeout of one call.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
/// Maximum number of characters of an answer that the report quotes.
const MAX_QUOTE: usize = 600;
/// Maximum number of warnings of one answer that the report quotes.
const MAX_WARNINGS: usize = 4;
/// Parts of what the API server says when the caller lacks a right. Admission plugins do not.
const LACKS_RIGHT: [&str; 2] = [" cannot ", "in API group"];

/// Why a call failed. The text is the API server's own, shortened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The caller lacks the right.
    #[error("{0}")]
    Forbidden(String),
    /// The API server does not accept the object: a quota, a policy, Pod Security, a webhook, or
    /// its own validation. The text says what to do.
    #[error("{0}")]
    NotAdmitted(String),
    /// A webhook cannot take part in a dry run.
    #[error("{0}")]
    NoDryRun(String),
    /// The object or its kind does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The API server responded with another error.
    #[error("{0}")]
    Failed(String),
    /// There is no response. What was asked for may have been done.
    #[error("{0}")]
    NoAnswer(String),
}

/// An object that the API server would have created.
#[derive(Clone, Debug)]
pub struct DryRunAnswer<K> {
    /// The object as it would be stored.
    pub object: K,
    /// The API server's warnings.
    pub warnings: Vec<String>,
}

/// Waits for a call, at most [`CALL_TIMEOUT`].
pub async fn call<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, CallError> {
    answer(call, of_status).await
}

/// Creates an object within [`CALL_TIMEOUT`].
pub async fn create<K>(api: &Api<K>, object: &K) -> Result<K, CallError>
where
    K: Clone + Debug + Serialize + DeserializeOwned,
{
    answer(api.create(&PostParams::default(), object), of_creation).await
}

async fn answer<T>(
    call: impl Future<Output = kube::Result<T>>,
    of_status: fn(&Status) -> CallError,
) -> Result<T, CallError> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(kube::Error::Api(status))) => Err(of_status(&status)),
        Ok(Err(error)) => Err(CallError::NoAnswer(quote(&error.to_string()))),
        Err(_) => Err(CallError::NoAnswer(format!(
            "the API server did not answer within {} s",
            CALL_TIMEOUT.as_secs()
        ))),
    }
}

/// Has the API server admit and validate an object without creating it.
pub async fn dry_run<K>(
    client: &Client,
    namespace: &str,
    object: &K,
) -> Result<DryRunAnswer<K>, CallError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Serialize + DeserializeOwned,
{
    let unreadable = |error: &dyn std::fmt::Display| CallError::Failed(quote(&error.to_string()));
    let body = serde_json::to_vec(object).map_err(|error| unreadable(&error))?;
    let request = kube::core::Request::new(K::url_path(&(), Some(namespace)));
    let parameters = PostParams { dry_run: true, ..PostParams::default() };
    let request = request.create(&parameters, body).map_err(|error| unreadable(&error))?;
    let answer = call(async {
        let response = client.send(request.map(Body::from)).await?;
        let (head, body) = response.into_parts();
        Ok((head, body.collect_bytes().await?))
    });
    let (head, body) = answer.await?;
    if !head.status.is_success() {
        let status = serde_json::from_slice(&body).unwrap_or_else(|_| without_body(head.status));
        return Err(of_creation(&status));
    }
    let object = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    Ok(DryRunAnswer { object, warnings: warnings(&head.headers) })
}

/// Reads a document that the API server serves at a path, as JSON.
pub async fn document(client: &Client, path: &str) -> Result<serde_json::Value, CallError> {
    let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError);
    call(async { client.request(request?).await }).await
}

fn without_body(status: StatusCode) -> Status {
    Status { code: status.as_u16(), message: status.to_string(), ..Status::default() }
}

fn of_status(status: &Status) -> CallError {
    let text = quote(&status.message);
    match status.code {
        403 => CallError::Forbidden(text),
        404 => CallError::NotFound(text),
        code => CallError::Failed(format!("{code}: {text}")),
    }
}

/// Returns why an object is not created. The controller gets the same answer for a build.
fn of_creation(status: &Status) -> CallError {
    let lacks_right = LACKS_RIGHT.iter().all(|part| status.message.contains(part));
    if status.code == 403 && lacks_right {
        return of_status(status);
    }
    if cannot_run_dry(status) {
        return CallError::NoDryRun(quote(&status.message));
    }
    match job_rejection(status) {
        Some(JobRejection::NotNow(problem)) => CallError::NotAdmitted(quote(&problem.message)),
        Some(JobRejection::Failed(failure)) => CallError::NotAdmitted(quote(&failure.message)),
        None => of_status(status),
    }
}

/// Returns the texts of the headers `Warning: 299 - "text"`.
fn warnings(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(http::header::WARNING).iter().take(MAX_WARNINGS);
    values
        .filter_map(|value| value.to_str().ok())
        .map(|value| {
            let text = value.split_once('"').map_or(value, |(_, text)| text);
            quote(&text.strip_suffix('"').unwrap_or(text).replace("\\\"", "\""))
        })
        .collect()
}

/// Returns a text of the cluster in one line, shortened.
pub fn quote(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shorten(line.trim(), MAX_QUOTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, message: &str) -> Status {
        Status { code, message: message.into(), ..Status::default() }
    }

    #[test]
    fn a_missing_right_differs_from_a_refusal_that_says_what_to_do() {
        let lacking = "jobs.batch is forbidden: User \"a\" cannot create resource \"jobs\" in API \
                       group \"batch\" in the namespace \"b\"";
        assert!(matches!(of_creation(&status(403, lacking)), CallError::Forbidden(_)));
        assert!(matches!(of_status(&status(403, lacking)), CallError::Forbidden(_)));
        for (code, message, to_do) in [
            (403, "pods \"x\" is forbidden: exceeded quota: few", "; raise the quota"),
            (403, "pods \"x\" is forbidden: violates PodSecurity \"baseline:latest\"", "label"),
            (400, "admission webhook \"w\" denied the request: no", "; change the policy"),
            (422, "Job.batch \"x\" is invalid: spec: wrong", "; change what forbids it"),
        ] {
            let CallError::NotAdmitted(text) = of_creation(&status(code, message)) else {
                panic!("{message}");
            };
            assert!(text.starts_with(message) && text.contains(to_do), "{text}");
        }
        let no_dry_run = status(400, "admission webhook \"w\" does not support dry run");
        assert!(matches!(of_creation(&no_dry_run), CallError::NoDryRun(_)));
        assert!(matches!(of_creation(&status(404, "x")), CallError::NotFound(_)));
        assert_eq!(of_creation(&status(500, "a\nb")), CallError::Failed("500: a b".into()));
    }

    #[test]
    fn warnings_are_read_from_headers() {
        let headers = [
            "299 - \"would violate PodSecurity \\\"restricted:latest\\\"\"",
            "unexpected",
            "299 - \"a\"",
            "299 - \"b\"",
            "299 - \"too many\"",
        ];
        let headers = headers.map(|value| (http::header::WARNING, value.parse().expect("a value")));
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name, value);
        }
        let expected = ["would violate PodSecurity \"restricted:latest\"", "unexpected", "a", "b"];
        assert_eq!(warnings(&map), expected);
    }
}
