//! Prepares the output of a builder, a node or an API server for messages: cuts it and masks what
//! looks like a credential.

use std::sync::LazyLock;

use regex::Regex;

/// Maximum number of bytes of a log in a status or an Event.
const MAX_LENGTH: usize = 1024;
/// Maximum number of bytes of a log that are read.
const MAX_READ: usize = 16 * 1024;
/// Number of bytes of a log that the kubelet keeps in place of a termination message. A log of at
/// least this length was cut.
const KUBELET_LOG_LENGTH: usize = 2048;

/// Which end of a text is kept when it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::builds) enum Keep {
    /// The beginning.
    Start,
    /// The end.
    End,
}

/// Returns a text that is safe to show: without control characters, without anything that looks
/// like a credential, and at most 1 KiB long.
pub(in crate::builds) fn sanitize(text: &str, keep: Keep) -> String {
    let text = match keep {
        Keep::Start => cut(text, MAX_READ, Keep::Start),
        Keep::End => whole_lines(text),
    };
    let plain = COLORS.as_ref().map_or_else(|| text.into(), |colors| colors.replace_all(text, ""));
    let plain: String = plain.chars().filter(|c| *c == '\n' || !c.is_control()).collect();
    let masked = SECRETS
        .iter()
        .fold(plain, |text, (pattern, with)| pattern.replace_all(&text, *with).into_owned());
    let masked = masked.trim();
    let kept = cut(masked, MAX_LENGTH, keep).trim();
    match (kept.len() < masked.len(), keep) {
        (false, _) => kept.to_owned(),
        (true, Keep::Start) => format!("{kept} …"),
        (true, Keep::End) => format!("… {kept}"),
    }
}

/// Cuts a text to at most `max_chars` characters, in its middle: errors begin with what was tried,
/// and end with the cause.
pub(super) fn shorten_middle(text: &str, max_chars: usize) -> String {
    let length = text.chars().count();
    if length <= max_chars {
        return text.into();
    }
    let head = max_chars / 2;
    let tail = max_chars.saturating_sub(head + 1);
    let start = text.chars().take(head);
    start.chain(['…']).chain(text.chars().skip(length - tail)).collect()
}

/// Returns the end of a log, at most [`MAX_READ`] bytes.
pub(in crate::builds) fn tail(log: &str) -> &str {
    cut(log, MAX_READ, Keep::End)
}

/// Returns the end of a log without the line that the kubelet or [`tail`] has cut. The beginning of
/// that line may be the rest of a credential whose name was cut off, so that it cannot be
/// recognized.
fn whole_lines(log: &str) -> &str {
    if log.len() < KUBELET_LOG_LENGTH {
        return log;
    }
    let kept = tail(log);
    match (kept.split_once('\n'), kept.split_once(char::is_whitespace)) {
        (Some((_, rest)), _) if !rest.trim().is_empty() => rest,
        (_, Some((_, rest))) => rest,
        _ => "",
    }
}

/// Returns at most `max` bytes of a text from one end, cut between characters.
fn cut(text: &str, max: usize, keep: Keep) -> &str {
    if text.len() <= max {
        return text;
    }
    match keep {
        Keep::Start => text.get(..text.floor_char_boundary(max)).unwrap_or_default(),
        Keep::End => text.get(text.ceil_char_boundary(text.len() - max)..).unwrap_or_default(),
    }
}

static COLORS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\x1b\[[0-9;?]*[A-Za-z]").ok());

/// Matches a value: in quotes, which may be escaped, or up to the next space. The closing quote is
/// optional, because a value may extend to the end of a line that was cut.
macro_rules! value {
    () => {
        r#"(?:\\?"[^"\r\n]*"?|\\?'[^'\r\n]*'?|[^\s"',;&]+)"#
    };
}

/// Matches a name that indicates a secret value.
macro_rules! secret_name {
    () => {
        concat!(
            r"(?:password|passwd|passphrase|[_-]pass|secret|token|api[_-]?key|access[_-]?key|",
            r"private[_-]?key|credential|_auth|\.dockerconfigjson|\.dockercfg)"
        )
    };
}

/// Patterns of credentials, and their replacements. The value of a variable, option or field is
/// masked if the name indicates a secret. Patterns that span lines come first.
const PATTERNS: [(&str, &str); 14] = [
    // A private key: complete, without its beginning, without its end.
    (
        concat!(
            r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?",
            r"-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----"
        ),
        "***",
    ),
    (r"(?s)\A.*-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----", "***"),
    (r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*\z", "***"),
    (r#"(?i)(authorization\\?["']?[ \t]*[:=][ \t]*)[^\r\n]+"#, "${1}***"),
    (r"(?i)\b(bearer|basic)[ \t]+[a-z0-9+/=._~-]{8,}", "$1 ***"),
    // User and password, or a token alone, before a URL's host.
    (r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s]*@", "$1***@"),
    // Signed URLs, to which registries redirect for layers.
    (
        r#"(?i)([?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|sig|signature|policy|key-pair-id)=)[^&\s"']+"#,
        "${1}***",
    ),
    // An entry of a Docker configuration.
    (r#"(?i)(\\?["']auth\\?["'][ \t]*:[ \t]*\\?["'])[^"'\\\r\n]+"#, "${1}***"),
    (
        concat!(
            r#"(?i)([a-z0-9_.-]*"#,
            secret_name!(),
            r#"[a-z0-9_-]*\\?["']?[ \t]*[=:][ \t]*)"#,
            value!()
        ),
        "${1}***",
    ),
    (
        concat!(r"(?i)((?:^|\s)--?[a-z0-9-]*", secret_name!(), r"[a-z0-9-]*[ \t]+)", value!()),
        "${1}***",
    ),
    (concat!(r"(?i)((?:^|\s)(?:-u|--user)[ \t=]+[^\s:]+:)", value!()), "${1}***"),
    (concat!(r"(?i)(\blogin\b[^\r\n]*?\s-p[ \t=]*)", value!()), "${1}***"),
    (
        concat!(
            r"\b(?:gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox[abprs]-|AKIA|ASIA|AIza|npm_|pypi-|",
            r"dckr_[a-z]{3}_|hvs\.)[A-Za-z0-9_-]{10,}"
        ),
        "***",
    ),
    (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*", "***"),
];

static SECRETS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    PATTERNS.iter().filter_map(|(pattern, with)| Some((Regex::new(pattern).ok()?, *with))).collect()
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        assert_eq!(SECRETS.len(), PATTERNS.len());
        assert!(COLORS.is_some());
    }

    #[test]
    fn credentials_are_masked() {
        for (text, shown) in [
            ("GET x Authorization: Basic dXNlcjpwYXNz", "GET x Authorization: ***"),
            (r#"{"Authorization": "Bearer abc"}"#, r#"{"Authorization": ***"#),
            ("sent bearer abcdefghijkl.mn", "sent bearer ***"),
            ("clone https://me:hunter2@host/x failed", "clone https://***@host/x failed"),
            ("clone https://me:hun@ter2@host/x failed", "clone https://***@host/x failed"),
            ("clone HTTPS://sometoken@host/x failed", "clone HTTPS://***@host/x failed"),
            ("DB_PASSWORD=hunter2 make", "DB_PASSWORD=*** make"),
            ("DB_PASS=ab make", "DB_PASS=*** make"),
            ("password: \"correct horse battery\" x", "password: *** x"),
            ("password='correct horse", "password=***"),
            ("\"api_key\": \"hunter2\"", "\"api_key\": ***"),
            (r#"{\"password\":\"hunter2\",\"x\":1}"#, r#"{\"password\":***,\"x\":1}"#),
            ("curl -u me:hunter2 https://host", "curl -u me:*** https://host"),
            ("docker login -u me -p hunter2 host", "docker login -u me -p *** host"),
            ("tool --registry-token hunter2 --x", "tool --registry-token *** --x"),
            ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG", "aws_secret_access_key = ***"),
            ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
            (r#"{"auths":{"h":{"auth":"dXNlcjpwYXNz"}}}"#, r#"{"auths":{"h":{"auth":"***"}}}"#),
            (".dockerconfigjson: eyJhdXRocyI6e30= x", ".dockerconfigjson: *** x"),
            (
                "GET https://s3/x?X-Amz-Credential=a%2Fb&X-Amz-Signature=0f: 403",
                "GET https://s3/x?X-Amz-Credential=***&X-Amz-Signature=*** 403",
            ),
            ("push with ghp_0123456789abcdefghij", "push with ***"),
            ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc is it", "*** is it"),
            (
                "a\n-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----\nb",
                "a\n***\nb",
            ),
            ("MIIE\n#5 0.1 -----END OPENSSH PRIVATE KEY-----\nb", "***\nb"),
            ("a\n-----BEGIN PRIVATE KEY-----\nMIIE\nMIIF", "a\n***"),
            ("exit code: 1", "exit code: 1"),
            ("FROM docker.io/library/alpine@sha256:00", "FROM docker.io/library/alpine@sha256:00"),
            (
                "docker-image://docker.io/library/alpine@sha256:00",
                "docker-image://docker.io/library/alpine@sha256:00",
            ),
            ("RUN --mount=type=secret,id=npm make", "RUN --mount=type=secret,id=npm make"),
            ("mkdir -p /x && id -u root", "mkdir -p /x && id -u root"),
            ("\u{1b}[31mred\u{1b}[0m\u{7}", "red"),
        ] {
            assert_eq!(sanitize(text, Keep::End), shown);
        }
    }

    #[test]
    fn a_long_text_keeps_the_requested_end() {
        let text = format!("first {} last", "é".repeat(4000));
        let tail = sanitize(&text, Keep::End);
        assert!(
            tail.starts_with('…') && tail.ends_with("last") && tail.len() <= MAX_LENGTH + 4,
            "{tail}"
        );
        let start = sanitize(&text, Keep::Start);
        assert!(
            start.starts_with("first") && start.ends_with('…') && start.len() <= MAX_LENGTH + 4,
            "{start}"
        );
    }

    #[test]
    fn the_rest_of_a_cut_line_is_not_shown() {
        let log = format!("er2hunter2\n{}\nlast", "x".repeat(KUBELET_LOG_LENGTH));
        assert!(!sanitize(&log, Keep::End).contains("er2"));
        let short = "hunter2 is all\nthere is";
        assert_eq!(sanitize(short, Keep::End), short);
        assert_eq!(sanitize(&"x".repeat(3 * KUBELET_LOG_LENGTH), Keep::End), "");
        let one = format!("er2hunter2 {}", "x ".repeat(KUBELET_LOG_LENGTH));
        assert!(!whole_lines(&one).contains("er2"));
    }
}
