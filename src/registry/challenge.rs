//! What a registry requires after a `401`.

use http::{HeaderMap, header};
use http_auth::parser::ChallengeParser;

/// Maximum size of a challenge in bytes; larger ones are ignored.
const MAX_CHALLENGE_BYTES: usize = 4096;

/// The authentication that a registry requires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer(BearerChallenge),
}

/// A token service, and what to ask it for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BearerChallenge {
    /// The address of the service, which may be relative to the registry.
    pub realm: String,
    pub service: Option<String>,
    pub scope: Option<String>,
}

/// A challenge as a header contains it.
struct RawChallenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// Returns the challenge to answer: the token service if both a token service and Basic are
    /// offered.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let texts = values
            .filter_map(|value| value.to_str().ok())
            .filter(|value| value.len() <= MAX_CHALLENGE_BYTES);
        let known: Vec<Self> = texts.flat_map(parse).filter_map(RawChallenge::known).collect();
        let bearer = known.iter().find(|challenge| matches!(challenge, Self::Bearer(_)));
        bearer.or(known.first()).cloned()
    }
}

impl RawChallenge {
    /// Returns the challenge if it can be answered.
    fn known(self) -> Option<Challenge> {
        let parameter = |name: &str| {
            let found = self.parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        if self.scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !self.scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (service, scope) = (parameter("service"), parameter("scope"));
        Some(Challenge::Bearer(BearerChallenge { realm: parameter("realm")?, service, scope }))
    }
}

/// Parses a header as the specification defines it or, if that fails, as registries write it
/// without quotes.
fn parse(text: &str) -> Vec<RawChallenge> {
    let strict: Result<Vec<_>, _> = ChallengeParser::new(text).collect();
    let Ok(strict) = strict else { return parse_unquoted(text) };
    let raw = |challenge: http_auth::ChallengeRef<'_>| RawChallenge {
        scheme: challenge.scheme.to_owned(),
        parameters: challenge
            .params
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_unescaped()))
            .collect(),
    };
    strict.into_iter().map(raw).collect()
}

/// Parses challenges whose values may have no quotes. A value without quotes ends at a comma that
/// is followed by another parameter, or by another scheme.
fn parse_unquoted(text: &str) -> Vec<RawChallenge> {
    let mut challenges: Vec<RawChallenge> = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (word, after) = rest.split_at(rest.find(is_separator).unwrap_or(rest.len()));
        let Some(value) = after.strip_prefix('=') else {
            if !word.is_empty() {
                challenges.push(RawChallenge { scheme: word.into(), parameters: Vec::new() });
            }
            rest = after.trim_start_matches([' ', '\t', ',', '"']);
            continue;
        };
        let (value, after) = split_value(value);
        if let Some(challenge) = challenges.last_mut() {
            challenge.parameters.push((word.into(), value.into()));
        }
        rest = after.trim_start_matches([' ', '\t', ',', '"']);
    }
    challenges
}

fn is_separator(character: char) -> bool {
    "=, \t\"".contains(character)
}

/// Splits a value from what follows it.
fn split_value(text: &str) -> (&str, &str) {
    if let Some(quoted) = text.strip_prefix('"') {
        return quoted.split_once('"').unwrap_or((quoted, ""));
    }
    // A scope may contain commas: `repository:a/b:pull,push`.
    let ends = text.match_indices(',').find(|(at, _)| {
        let next = text.get(at + 1..).unwrap_or_default().trim_start();
        let word = next.split(is_separator).next().unwrap_or_default();
        let after = next.get(word.len()..).unwrap_or_default();
        after.starts_with('=') || after.starts_with(' ')
    });
    let end = ends.map_or(text.len(), |(at, _)| at);
    let end = text.get(..end).and_then(|value| value.find(' ')).unwrap_or(end);
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_str(value).expect("header"));
        }
        Challenge::from_headers(&headers)
    }

    #[test]
    fn challenges() {
        let bearer = concat!(
            r#"Bearer realm="https://auth.example/token",service="r.example","#,
            r#"scope="repository:a/b:pull,push""#
        );
        let expected = Challenge::Bearer(BearerChallenge {
            realm: "https://auth.example/token".into(),
            service: Some("r.example".into()),
            scope: Some("repository:a/b:pull,push".into()),
        });
        assert_eq!(challenge(&[bearer]).as_ref(), Some(&expected));
        assert_eq!(challenge(&["Basic realm=\"r\"", bearer]).as_ref(), Some(&expected));
        assert_eq!(challenge(&[&format!("Basic realm=\"r\", {bearer}")]).as_ref(), Some(&expected));
        assert_eq!(challenge(&["basic realm=\"r\""]), Some(Challenge::Basic));
        for unquoted in [
            "Bearer realm=https://auth.example/token,service=r.example,\
             scope=repository:a/b:pull,push",
            "Bearer realm=https://auth.example/token, service=\"r.example\", \
             scope=repository:a/b:pull,push",
            "Basic realm=r/s, Bearer scope=repository:a/b:pull,push,service=r.example,\
             realm=https://auth.example/token",
        ] {
            assert_eq!(challenge(&[unquoted]).as_ref(), Some(&expected), "{unquoted}");
        }
        for basic in [&["Bearer service=\"r\"", "Basic realm=\"r\""][..], &["Basic realm=a/b"]] {
            assert_eq!(challenge(basic), Some(Challenge::Basic), "{basic:?}");
        }
        for nothing in [
            &[][..],
            &["Negotiate"],
            &["Bearer service=\"r\""],
            &["\"\""],
            &["=,=\"=,"],
            &["Bearer"],
        ] {
            assert_eq!(challenge(nothing), None, "{nothing:?}");
        }
    }

    #[test]
    fn hostile_challenges_are_read_in_bounded_time() {
        for piece in ["=", ",", "\"", "a=", "a,", " ", "é", "Bearer realm=", "a=b,"] {
            let text = piece.repeat(MAX_CHALLENGE_BYTES / piece.len());
            drop(parse(&text));
            drop(parse_unquoted(&text));
        }
    }
}
