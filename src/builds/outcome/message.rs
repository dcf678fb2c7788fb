//! Words of a builder, a node or an API server as they may be shown: cut, and cleaned of what looks
//! like a credential.

use std::sync::LazyLock;

use regex::Regex;

/// The most bytes of a builder's log that are put into a status or an Event.
const MAX_LENGTH: usize = 1024;
/// The most bytes of a log that are looked at.
const MAX_READ: usize = 16 * 1024;
/// The kubelet keeps this many bytes of a log that stands for a termination message. One as long as
/// this was cut.
const KUBELET_CUT: usize = 2048;

/// Which end of a text is kept when it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::builds) enum Keep {
    /// The beginning.
    Start,
    /// The end.
    End,
}

/// A text as it may be shown: without control characters, without what looks like a credential, at
/// most 1 KiB.
pub(in crate::builds) fn sanitize(text: &str, keep: Keep) -> String {
    let text = match keep {
        Keep::Start => cut(text, MAX_READ, Keep::Start),
        Keep::End => whole_lines(text),
    };
    let plain =
        COLOURS.as_ref().map_or_else(|| text.into(), |colours| colours.replace_all(text, ""));
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

/// The part of a log that is looked at, from its end.
pub(in crate::builds) fn tail(log: &str) -> &str {
    cut(log, MAX_READ, Keep::End)
}

/// The end of a log without the line that the kubelet, or we, have cut: its beginning may be the
/// rest of a credential, whose name is gone.
fn whole_lines(log: &str) -> &str {
    if log.len() < KUBELET_CUT {
        return log;
    }
    let kept = tail(log);
    match (kept.split_once('\n'), kept.split_once(char::is_whitespace)) {
        (Some((_, rest)), _) if !rest.trim().is_empty() => rest,
        (_, Some((_, rest))) => rest,
        _ => "",
    }
}

/// At most so many bytes of a text from one end, cut between characters.
fn cut(text: &str, most: usize, keep: Keep) -> &str {
    if text.len() <= most {
        return text;
    }
    match keep {
        Keep::Start => text.get(..text.floor_char_boundary(most)).unwrap_or_default(),
        Keep::End => text.get(text.ceil_char_boundary(text.len() - most)..).unwrap_or_default(),
    }
}

static COLOURS: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\x1b\[[0-9;?]*[A-Za-z]").ok());

/// A value: in quotes, which may be escaped, or up to the next space. It may go on to the end of a
/// line that was cut.
macro_rules! value {
    () => {
        r#"(?:\\?"[^"\r\n]*"?|\\?'[^'\r\n]*'?|[^\s"',;&]+)"#
    };
}

/// A name that says that its value is secret.
macro_rules! secret_name {
    () => {
        r"(?:password|passwd|passphrase|[_-]pass|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credential|_auth|\.dockerconfigjson)"
    };
}

/// Patterns of credentials, and what stands for them. The name of a variable, option or field with
/// a value after it is taken for one when the name says so. Those that span lines come first.
const PATTERNS: [(&str, &str); 14] = [
    // A private key: whole, without its beginning, without its end.
    (
        r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----",
        "***",
    ),
    (r"(?s)\A.*-----END [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----", "***"),
    (r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY.*\z", "***"),
    (r#"(?i)(authorization\\?["']?[ \t]*[:=][ \t]*)[^\r\n]+"#, "${1}***"),
    (r"(?i)\b(bearer|basic)[ \t]+[a-z0-9+/=._~-]{8,}", "$1 ***"),
    // User and password, or a token alone, before a URL's host.
    (r"(?i)\b([a-z][a-z0-9+.-]*://)[^/\s]*@", "$1***@"),
    // Signed URLs, to which registries send for layers.
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
        r"\b(?:gh[pousr]_|github_pat_|gl[a-z]{2,5}-|xox[abprs]-|AKIA|ASIA|AIza|npm_|pypi-|dckr_[a-z]{3}_|hvs\.)[A-Za-z0-9_-]{10,}",
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
        assert!(COLOURS.is_some());
    }

    #[test]
    fn what_looks_like_a_credential_is_masked() {
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
    fn a_long_text_keeps_the_end_that_matters() {
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
    fn the_rest_of_a_line_that_was_cut_is_not_shown() {
        let log = format!("er2hunter2\n{}\nlast", "x".repeat(KUBELET_CUT));
        assert!(!sanitize(&log, Keep::End).contains("er2"));
        let short = "hunter2 is all\nthere is";
        assert_eq!(sanitize(short, Keep::End), short);
        assert_eq!(sanitize(&"x".repeat(3 * KUBELET_CUT), Keep::End), "");
        let one = format!("er2hunter2 {}", "x ".repeat(KUBELET_CUT));
        assert!(!whole_lines(&one).contains("er2"));
    }
}
