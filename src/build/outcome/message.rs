//! A builder's last words: cut, cleaned of what looks like a credential, and read for whose fault it is.

use std::sync::LazyLock;

use regex::Regex;

use super::{OUT_OF_MEMORY, reason};
use crate::api::FailureClass;

/// The most bytes of a builder's log that are put into a status or an Event.
const MAX_LENGTH: usize = 1024;
/// The most bytes of a log that are looked at.
const MAX_READ: usize = 16 * 1024;

/// Which end of a text is kept when it is cut.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// The beginning.
    Start,
    /// The end.
    Tail,
}

/// A text as it may be shown: without control characters, without what looks like a credential, at most 1 KiB.
pub(super) fn readable(text: &str, end: End) -> String {
    let text = match end {
        End::Start => cut(text, MAX_READ, End::Start),
        End::Tail => cut(text, MAX_READ, End::Tail),
    };
    let plain = COLOURS.as_ref().map_or_else(|| text.into(), |colours| colours.replace_all(text, ""));
    let plain: String = plain.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let masked = SECRETS.iter().fold(plain, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned());
    let masked = masked.trim();
    let kept = cut(masked, MAX_LENGTH, end).trim();
    match (kept.len() < masked.len(), end) {
        (false, _) => kept.to_owned(),
        (true, End::Start) => format!("{kept} …"),
        (true, End::Tail) => format!("… {kept}"),
    }
}

/// At most so many bytes of a text from one end, cut between characters.
fn cut(text: &str, most: usize, end: End) -> &str {
    if text.len() <= most {
        return text;
    }
    match end {
        End::Start => text.get(..text.floor_char_boundary(most)).unwrap_or_default(),
        End::Tail => text.get(text.ceil_char_boundary(text.len() - most)..).unwrap_or_default(),
    }
}

/// The final error line of a builder's log; empty if it has none. A command of a Dockerfile may print anything before it.
pub(super) fn error_line(log: &str) -> &str {
    cut(log, MAX_READ, End::Tail)
        .lines()
        .rev()
        .find(|line| line.contains("failed to solve") || line.trim_start().starts_with("error:"))
        .unwrap_or_default()
        .trim()
}

/// Whose fault a builder's last words tell of. Only its final error line counts.
pub(super) fn classify(log: &str) -> (FailureClass, &'static str) {
    let last = error_line(log).to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| last.contains(word));
    if says(&["exit code: 137", "signal: killed", "cannot allocate memory"]) {
        return (FailureClass::Infrastructure, OUT_OF_MEMORY);
    }
    let registry = says(&[
        "failed to push",
        "failed to resolve source",
        "failed to do request",
        "failed to fetch",
        "failed to copy",
    ]) || (says(&["unexpected status"]) && !says(&["did not complete successfully"]));
    if !registry {
        return (FailureClass::Build, reason::BUILD_FAILED);
    }
    if says(&["401", "403", "unauthorized", "forbidden", "denied", "authorization failed", "insufficient_scope"]) {
        return (FailureClass::Infrastructure, reason::REGISTRY_DENIED);
    }
    if says(&["not found", "404"]) {
        return (FailureClass::Infrastructure, reason::IMAGE_NOT_FOUND);
    }
    (FailureClass::Infrastructure, reason::REGISTRY_UNAVAILABLE)
}

static COLOURS: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\x1b\[[0-9;?]*[A-Za-z]").ok());

/// Patterns of credentials, and what stands for them. A name of a variable with a value after it is taken for one when the
/// name says so.
const PATTERNS: [(&str, &str); 6] = [
    (r"(?i)(authorization:[ \t]*)[^\r\n]+", "${1}***"),
    (r"(?i)\b(bearer|basic)[ \t]+[a-z0-9+/=._~-]{8,}", "$1 ***"),
    (r"([a-z][a-z0-9+.-]*://)[^/\s@]*:[^/\s@]*@", "$1***@"),
    (
        r#"(?i)([a-z0-9_.-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|credential)[a-z0-9_-]*["']?[ \t]*[=:][ \t]*["']?)[^\s"',;&]{3,}"#,
        "${1}***",
    ),
    (r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|npm_)[A-Za-z0-9_-]{10,}", "***"),
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "***"),
];

static SECRETS: LazyLock<Vec<(Regex, &str)>> =
    LazyLock::new(|| PATTERNS.iter().filter_map(|(pattern, with)| Some((Regex::new(pattern).ok()?, *with))).collect());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(SECRETS.len(), PATTERNS.len());
        assert!(COLOURS.is_some());
    }

    #[test]
    fn what_looks_like_a_credential_is_masked() {
        for (text, shown) in [
            ("GET x Authorization: Basic dXNlcjpwYXNz", "GET x Authorization: ***"),
            ("sent bearer abcdefghijkl.mn", "sent bearer ***"),
            ("clone https://me:hunter2@host/x failed", "clone https://***@host/x failed"),
            ("DB_PASSWORD=hunter2 make", "DB_PASSWORD=*** make"),
            ("\"api_key\": \"hunter2\"", "\"api_key\": \"***\""),
            ("push with ghp_0123456789abcdefghij", "push with ***"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc is it", "*** is it"),
            ("exit code: 1", "exit code: 1"),
            ("\u{1b}[31mred\u{1b}[0m\u{7}", "red"),
        ] {
            assert_eq!(readable(text, End::Tail), shown);
        }
    }

    #[test]
    fn a_long_text_keeps_the_end_that_matters() {
        let text = format!("first {} last", "é".repeat(4000));
        let tail = readable(&text, End::Tail);
        assert!(tail.starts_with('…') && tail.ends_with("last") && tail.len() <= MAX_LENGTH + 4, "{tail}");
        let start = readable(&text, End::Start);
        assert!(start.starts_with("first") && start.ends_with('…') && start.len() <= MAX_LENGTH + 4, "{start}");
    }

    #[test]
    fn a_registry_is_told_from_a_command() {
        use FailureClass::{Build, Infrastructure};
        for (log, class, reason) in [
            (
                "error: failed to solve: process \"/bin/sh -c false\" did not complete successfully: exit code: 1",
                Build,
                reason::BUILD_FAILED,
            ),
            (
                "error: failed to solve: process \"/bin/sh -c x\" did not complete successfully: exit code: 137",
                Infrastructure,
                OUT_OF_MEMORY,
            ),
            (
                "#9 pushing layers\nerror: failed to solve: failed to push reg/a:b: unexpected status from PUT request to http://reg/v2: 401 Unauthorized",
                Infrastructure,
                reason::REGISTRY_DENIED,
            ),
            (
                "error: failed to solve: failed to push reg/a:b: unexpected status from POST request: 503 Service Unavailable",
                Infrastructure,
                reason::REGISTRY_UNAVAILABLE,
            ),
            (
                "error: failed to solve: failed to push reg/a: failed to do request: Head \"http://reg\": dial tcp: connection refused",
                Infrastructure,
                reason::REGISTRY_UNAVAILABLE,
            ),
            (
                "error: failed to solve: a@sha256:00: failed to resolve source metadata for reg/a@sha256:00: not found",
                Infrastructure,
                reason::IMAGE_NOT_FOUND,
            ),
            (
                "failed to push is what the test prints\nerror: failed to solve: process did not complete successfully: exit code: 2",
                Build,
                reason::BUILD_FAILED,
            ),
            ("", Build, reason::BUILD_FAILED),
        ] {
            assert_eq!(classify(log), (class, reason), "{log}");
        }
    }
}
