//! What error responses say: the form that the distribution specification defines, and what a
//! message quotes of them.

use http::StatusCode;
use serde::Deserialize;

use crate::api::condition::shorten;

/// Maximum number of characters of a registry's response that a message quotes.
const MAX_QUOTE: usize = 240;
/// Minimum length of a secret that is redacted within a text. A text that contains a shorter one is
/// not quoted.
const MIN_REDACTED: usize = 4;

/// The body of an error response, as the distribution specification defines it.
#[derive(Deserialize)]
struct ErrorBody {
    errors: Vec<ErrorDetail>,
}

#[derive(Deserialize)]
struct ErrorDetail {
    code: Option<String>,
    message: Option<String>,
}

/// The code for a repository that does not exist.
const NAME_UNKNOWN: &str = "NAME_UNKNOWN";

/// Whether a body has the form that the distribution specification defines for errors.
pub(super) fn has_error_form(body: &[u8]) -> bool {
    serde_json::from_slice::<ErrorBody>(body).is_ok_and(|body| !body.errors.is_empty())
}

/// Whether the body of an error says that the repository is not known.
pub(super) fn is_name_unknown(body: &[u8]) -> bool {
    serde_json::from_slice::<ErrorBody>(body).is_ok_and(|body| {
        body.errors.iter().any(|error| error.code.as_deref() == Some(NAME_UNKNOWN))
    })
}

/// Texts of registries that do not serve what a policy blocks, in lower case: Xray in Artifactory,
/// Harbor, and the firewall of Nexus. A response may quote the name of the repository, which
/// contains no space.
const POLICY_TEXTS: [&str; 4] = [
    "download blocking policy",
    "cannot be pulled due to",
    "requested item is quarantined",
    "blocked by policy",
];
/// The code of Harbor for that. The name of a repository contains no capital letter.
const POLICY_CODE: &str = "PROJECTPOLICYVIOLATION";

/// Whether an error of this status says that a policy of the registry blocks the download. The
/// credential is not the cause, and no other one helps.
pub(super) fn is_blocked(status: StatusCode, body: &[u8]) -> bool {
    if ![StatusCode::FORBIDDEN, StatusCode::PRECONDITION_FAILED].contains(&status) {
        return false;
    }
    let text = String::from_utf8_lossy(body);
    text.contains(POLICY_CODE) || names_policy(&text)
}

/// Whether a text says that a policy blocks a download.
pub(crate) fn names_policy(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    POLICY_TEXTS.iter().any(|text| lower.contains(text))
}

/// Describes an error response: its status, and the first code and message of its body if the body
/// has the form that the distribution specification defines. `secrets` are redacted, because a
/// registry may repeat what it was sent.
pub(super) fn describe_response(status: StatusCode, body: &[u8], secrets: &[&str]) -> String {
    let first = serde_json::from_slice::<ErrorBody>(body)
        .ok()
        .and_then(|body| body.errors.into_iter().next());
    let detail = first.map(|entry| {
        [entry.code, entry.message]
            .into_iter()
            .flatten()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(": ")
    });
    let text = match detail {
        Some(detail) if !detail.is_empty() => format!("{status}, {detail}"),
        _ => status.to_string(),
    };
    let secrets = secrets.iter().filter(|secret| !secret.is_empty());
    let (long, short): (Vec<&str>, Vec<&str>) =
        secrets.partition(|secret| secret.len() >= MIN_REDACTED);
    // Redacting a short secret would leave a text that nobody can read, and that reveals it.
    if short.iter().any(|secret| text.contains(secret)) {
        return status.to_string();
    }
    let text = long.iter().fold(text, |text, secret| text.replace(secret, "[redacted]"));
    single_line(&text)
}

/// Replaces control characters with blanks and shortens the text to [`MAX_QUOTE`] characters.
pub(super) fn single_line(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shorten(line.trim(), MAX_QUOTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_quoted_without_secrets() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no\nentry for hunter2"}]}"#;
        assert_eq!(
            describe_response(StatusCode::FORBIDDEN, body, &["hunter2", ""]),
            "403 Forbidden, DENIED: no entry for [redacted]"
        );
        assert_eq!(describe_response(StatusCode::FORBIDDEN, body, &["e"]), "403 Forbidden");
        assert_eq!(describe_response(StatusCode::BAD_GATEWAY, b"<html>", &[]), "502 Bad Gateway");
        let long = format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "x".repeat(5000));
        assert_eq!(
            describe_response(StatusCode::FORBIDDEN, long.as_bytes(), &[]).chars().count(),
            MAX_QUOTE
        );
    }

    #[test]
    fn a_policy_that_blocks_a_download_is_recognized() {
        let xray = "Artifact download request rejected: base/1/manifest.json was not downloaded \
                    due to the download blocking policy configured in Xray for docker-local.";
        let harbor = r#"{"errors":[{"code":"PROJECTPOLICYVIOLATION","message":"current image"}]}"#;
        for (status, body, expected) in [
            (403, xray, true),
            (412, harbor, true),
            (403, r#"{"errors":[{"code":"DENIED","message":"access to the resource"}]}"#, false),
            (403, "denied: team/projectpolicyviolation", false),
            (404, xray, false),
            (403, "", false),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(is_blocked(status, body.as_bytes()), expected, "{status} {body}");
        }
    }

    #[test]
    fn the_form_of_a_registry_is_recognized() {
        for (body, expected) in [
            (r#"{"errors":[{"code":"NAME_UNKNOWN","message":"m","detail":{}}]}"#, true),
            (r#"{"errors":[{"status":404,"message":"m"}]}"#, true),
            (r#"{"errors":[]}"#, false),
            (r#"{"message":"no Route matched with those values"}"#, false),
            ("default backend - 404", false),
            ("<html>", false),
            ("", false),
        ] {
            assert_eq!(has_error_form(body.as_bytes()), expected, "{body}");
        }
        let unknown = |code: &str| {
            is_name_unknown(format!(r#"{{"errors":[{{"code":"{code}"}}]}}"#).as_bytes())
        };
        assert!(unknown("NAME_UNKNOWN") && !unknown("MANIFEST_UNKNOWN"));
    }
}
