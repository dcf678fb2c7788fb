//! Takes credentials out of what others have written: builders and checks print what they like, and
//! the controller quotes the end of it.

use std::{borrow::Cow, ops::Range};

use aho_corasick::AhoCorasick;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD as BASE64, URL_SAFE},
};

use crate::registry::credentials::{
    Credential, Keychain, KeychainEntry,
    decoded_text::{DecodedText, TextEncoding},
};

/// What stands in place of a credential.
const REDACTED: &str = "[redacted]";
/// Minimum length in bytes of a secret that is looked for. Shorter ones are part of ordinary words.
const MIN_REDACTED: usize = 6;

/// Finds the credentials of a keychain in texts.
#[derive(Default)]
pub(super) struct Redaction(Option<Searchers>);

/// What is looked for: secrets as they are, and in base64.
struct Searchers {
    plain: AhoCorasick,
    base64: AhoCorasick,
}

impl Redaction {
    pub(super) fn of(entries: &[KeychainEntry]) -> Self {
        let plain = entries.iter().flat_map(|entry| plain_forms(&entry.credential));
        let base64 = entries.iter().flat_map(|entry| base64_forms(&entry.credential));
        let searchers = || Some(Searchers { plain: searcher(plain)?, base64: searcher(base64)? });
        Self(searchers().filter(|it| it.plain.patterns_len() + it.base64.patterns_len() > 0))
    }
}

fn searcher(forms: impl Iterator<Item = Vec<u8>>) -> Option<AhoCorasick> {
    let mut forms: Vec<Vec<u8>> = forms.filter(|form| form.len() >= MIN_REDACTED).collect();
    forms.sort_unstable();
    forms.dedup();
    AhoCorasick::new(forms).ok()
}

impl Keychain {
    /// Returns a text without the passwords and tokens of these credentials, as they are, in
    /// base64, and as a Docker configuration has them, also if lines are wrapped or if characters
    /// are escaped as in a URL or in JSON. The text must not be cut yet: a part of a secret is not
    /// found.
    ///
    /// Whoever wants to print a secret can change it first: this is for accidents.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let places = self.0.redaction.0.as_ref().map(|searchers| searchers.find(text));
        match places {
            Some(places) if !places.is_empty() => without(text, &places).into(),
            _ => text.into(),
        }
    }
}

impl Searchers {
    /// Returns where secrets are in a text, in order and without overlaps.
    fn find(&self, text: &str) -> Vec<Range<usize>> {
        let decoded = TextEncoding::ALL.into_iter();
        let decoded = decoded.filter_map(|encoding| DecodedText::of(text, encoding));
        let mut places: Vec<Range<usize>> =
            decoded.flat_map(|decoded| self.find_in(&decoded)).collect();
        places.sort_unstable_by_key(|place| place.end);
        merged(places)
    }

    fn find_in(&self, decoded: &DecodedText) -> Vec<Range<usize>> {
        let found = |searcher: &AhoCorasick| {
            merged(searcher.find_overlapping_iter(&decoded.bytes).map(|it| it.range()))
        };
        let base64 = found(&self.base64).into_iter().map(|core| whole_base64(decoded, core));
        let found = found(&self.plain).into_iter().chain(base64);
        found.filter_map(|range| decoded.place(range)).collect()
    }
}

/// Returns the base64 of which a secret is a part. The characters next to it have bits of it, too.
fn whole_base64(decoded: &DecodedText, core: Range<usize>) -> Range<usize> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"+/-_".contains(&byte);
    let end = decoded.extended(core, is_part);
    let padded = decoded.extended(end.clone(), |byte| byte == b'=');
    end.start..padded.end
}

/// Returns ranges, which are in the order of their ends, with those that touch as one.
fn merged(ranges: impl IntoIterator<Item = Range<usize>>) -> Vec<Range<usize>> {
    let mut merged: Vec<Range<usize>> = Vec::new();
    for mut range in ranges {
        while let Some(last) = merged.pop_if(|last| range.start <= last.end) {
            range.start = range.start.min(last.start);
        }
        merged.push(range);
    }
    merged
}

/// Returns a text without these places, which are in order.
fn without(text: &str, places: &[Range<usize>]) -> String {
    let starts = std::iter::once(0).chain(places.iter().map(|place| place.end));
    let ends = places.iter().map(|place| place.start).chain([text.len()]);
    let kept = starts.zip(ends).map(|(start, end)| text.get(start..end).unwrap_or_default());
    kept.collect::<Vec<_>>().join(REDACTED)
}

/// Returns what a credential looks like without base64, in texts whose lines are joined.
fn plain_forms(credential: &Credential) -> Vec<Vec<u8>> {
    let secret = DecodedText::of(credential.secret(), TextEncoding::Plain);
    secret.into_iter().map(|secret| secret.bytes).collect()
}

/// Returns what a credential looks like in base64: as it is or inside of a longer text such as a
/// file, and so does the base64 in which a Docker configuration has it.
fn base64_forms(credential: &Credential) -> Vec<Vec<u8>> {
    let mut forms = base64_cores(credential.secret());
    if let Credential::Password { username, .. } = credential {
        let auth = BASE64.encode(format!("{username}:{}", credential.secret()));
        forms.extend(base64_cores(&auth));
        forms.push(auth.into_bytes());
    }
    forms
}

/// Returns the characters that a text determines in the base64 of what contains it. What precedes
/// the text moves it by up to two bytes in a group of three, and the first and the last characters
/// also depend on its surroundings.
fn base64_cores(text: &str) -> Vec<Vec<u8>> {
    let mut cores = Vec::new();
    for moved in 0..3 {
        let bytes: Vec<u8> = std::iter::repeat_n(0, moved).chain(text.bytes()).collect();
        let determined = (moved * 8).div_ceil(6)..bytes.len() * 8 / 6;
        for alphabet in [&BASE64, &URL_SAFE] {
            let encoded = alphabet.encode(&bytes);
            let core = encoded.as_bytes().get(determined.clone());
            cores.extend(core.map(<[u8]>::to_vec));
        }
    }
    cores
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keychain(auths: &serde_json::Value) -> Keychain {
        let config = json!({ "auths": auths }).to_string();
        Keychain::from_secrets([("push", config.as_bytes())]).expect("a keychain")
    }

    #[test]
    fn credentials_are_taken_out_in_all_their_forms() {
        let auth = BASE64.encode("robot:hunter-2-secret");
        let keychain = keychain(&json!({
            "r.example.com": { "auth": auth },
            "t.example.com": { "identitytoken": "long-lived-token" },
            "s.example.com": { "username": "u", "password": "abc" },
            "l.example.com": { "identitytoken": "long-lived-token-and-more" },
        }));
        let encoded = BASE64.encode("hunter-2-secret");
        let printed = format!(
            "{auth} and hunter-2-secret ({encoded}), long-lived-token-and-more; abc is a word"
        );
        let shown = keychain.redact(&printed);
        assert_eq!(shown, "[redacted] and [redacted] ([redacted]), [redacted]; abc is a word");
        assert_eq!(keychain.redact("nothing"), "nothing");
        assert!(matches!(keychain.redact("100% of nothing\n"), Cow::Borrowed(_)));
    }

    /// Returns a text in lines of this width.
    fn wrapped(text: &str, width: usize, separator: &str) -> String {
        let lines: Vec<&str> = text
            .as_bytes()
            .chunks(width)
            .filter_map(|line| std::str::from_utf8(line).ok())
            .collect();
        lines.join(separator)
    }

    /// Asserts that no part of a secret is left that has six characters, however the base64 of what
    /// is left is moved.
    fn assert_gone(keychain: &Keychain, printed: &str, secret: &str, what: &str) {
        let shown = keychain.redact(printed).into_owned();
        assert!(shown.contains(REDACTED), "{what}: {shown}");
        let joined: String = shown.split_whitespace().collect();
        let mut windows = secret.as_bytes().windows(6);
        let is_left = |window: &[u8]| {
            let plain = std::str::from_utf8(window).expect("ASCII");
            let cores = base64_cores(plain);
            joined.contains(plain)
                || cores
                    .iter()
                    .any(|core| joined.contains(std::str::from_utf8(core).expect("text")))
        };
        assert!(!windows.any(is_left), "{what}: {shown}");
    }

    #[test]
    fn base64_is_found_at_any_place_in_any_alphabet_and_width() {
        let secret = "p\u{7f}?>~ss>>w??rd-of-a-robot";
        let auths = json!({
            "r.example.com": { "username": "robot", "password": secret },
        });
        let keychain = keychain(&auths);
        for before in ["", "a", "ab", "abc"] {
            for after in ["", "\n", "xy", "xyz"] {
                let plain = format!("{before}{secret}{after}");
                for encoded in [BASE64.encode(&plain), URL_SAFE.encode(&plain)] {
                    let unpadded = encoded.trim_end_matches('=');
                    for printed in [encoded.as_str(), unpadded] {
                        let shown = keychain.redact(printed).into_owned();
                        assert_eq!(shown, REDACTED, "{before:?} {after:?} {printed}");
                        for separator in ["\n", "\r\n", "\n  ", "\n#12 0.345 "] {
                            let printed = wrapped(printed, 7, separator);
                            assert_gone(&keychain, &printed, secret, &printed);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_configuration_in_base64_shows_no_credential() {
        let secret = "hunter-2-secret-of-a-robot";
        let auth = BASE64.encode(format!("robot:{secret}"));
        for entry in [
            json!({ "auth": auth }),
            json!({ "username": "robot", "password": secret }),
            json!({ "username": "robot", "password": secret, "auth": auth }),
        ] {
            let auths = json!({ "r.example.com": entry });
            let keychain = keychain(&auths);
            for indent in ["", " ", "  "] {
                let config = format!("{indent}{}", json!({ "auths": auths }));
                let encoded = BASE64.encode(&config);
                for (what, printed) in [
                    ("one line", encoded.clone()),
                    ("wrapped", wrapped(&encoded, 76, "\n")),
                    ("in JSON", json!({ "log": wrapped(&encoded, 76, "\n") }).to_string()),
                    ("in a query", format!("https://x.example/?c={}", percent(&encoded))),
                    ("as it is", config.clone()),
                    ("in JSON as it is", json!({ "log": config }).to_string()),
                ] {
                    assert_gone(&keychain, &printed, secret, what);
                    assert_gone(&keychain, &printed, &auth, what);
                }
            }
        }
    }

    fn percent(text: &str) -> String {
        url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
    }

    #[test]
    fn escaped_secrets_are_found() {
        let secret = "a\"b\\c/d&e<f>g h\u{e9}i";
        let auths = json!({ "r.example.com": { "username": "robot", "password": secret } });
        let keychain = keychain(&auths);
        let json = json!(secret).to_string();
        let of_go = json.replace('&', "\\u0026").replace('<', "\\u003c").replace('>', "\\u003E");
        let url: url::Url = "https://x.example/".parse().expect("a URL");
        let mut with_password = url.clone();
        with_password.set_password(Some(secret)).expect("a password");
        let mut with_query = url;
        with_query.set_query(Some(secret));
        for printed in [
            secret.to_owned(),
            json,
            of_go,
            percent(secret).replace('+', "%20"),
            percent(secret).replace('+', "%20").to_ascii_lowercase(),
            with_password.to_string(),
            with_query.to_string(),
        ] {
            let printed = format!("before {printed} after");
            let shown = keychain.redact(&printed).into_owned();
            assert!(shown.starts_with("before ") && shown.ends_with(" after"), "{shown}");
            assert!(shown.contains(REDACTED) && !shown.contains("%22"), "{printed}: {shown}");
            assert!(!shown.contains("d&e") && !shown.contains("0026"), "{printed}: {shown}");
        }
    }

    #[test]
    fn a_secret_of_several_lines_is_found() {
        let secret = "{\n  \"private_key\": \"hunter-2\"\n}\n";
        let auths = json!({ "r.example.com": { "username": "_json_key", "password": secret } });
        let keychain = keychain(&auths);
        for printed in [
            secret.to_owned(),
            json!(secret).to_string(),
            BASE64.encode(secret),
            format!("#12 0.345 {}", secret.replace('\n', "\n#12 0.345 ")),
        ] {
            let shown = keychain.redact(&printed).into_owned();
            assert!(shown.contains(REDACTED) && !shown.contains("hunter"), "{printed}: {shown}");
        }
    }

    #[test]
    fn what_surrounds_a_secret_stays() {
        let auths = json!({ "r.example.com": { "username": "u", "password": "hunter-2" } });
        let keychain = keychain(&auths);
        let encoded = BASE64.encode("hunter-2\n");
        let printed = format!("one\n{encoded}\ntwo token={encoded}, three %41 \\u0041");
        let shown = keychain.redact(&printed).into_owned();
        assert_eq!(shown, "one\n[redacted]\ntwo token=[redacted], three %41 \\u0041");
    }

    #[test]
    fn many_secrets_inside_of_each_other_are_one() {
        let auths: serde_json::Map<String, serde_json::Value> = (0..200)
            .map(|number| {
                let password = "a".repeat(6 + number);
                let entry = json!({ "username": "u", "password": password });
                (format!("r{number}.example.com"), entry)
            })
            .collect();
        let keychain = keychain(&auths.into());
        for (part, is_secret) in
            [("a", true), ("YWFh", true), ("%", false), ("\\", false), ("\\u", false)]
        {
            let text = part.repeat(4096);
            let expected = if is_secret { REDACTED } else { &text };
            assert_eq!(keychain.redact(&text), expected, "{part}");
        }
    }
}
