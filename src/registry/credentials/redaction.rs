//! Takes credentials out of what others have written: builders and checks print what they like, and
//! the controller quotes the end of it.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::registry::credentials::{Credential, Keychain, KeychainEntry};

/// What stands in place of a credential.
const REDACTED: &str = "[redacted]";
/// Minimum length in bytes of a secret that is looked for. Shorter ones are part of ordinary words.
const MIN_REDACTED: usize = 6;

/// Finds the credentials of a keychain in texts.
#[derive(Default)]
pub(super) struct Redaction(Option<AhoCorasick>);

impl Redaction {
    pub(super) fn of(entries: &[KeychainEntry]) -> Self {
        let forms: Vec<String> = entries
            .iter()
            .flat_map(|entry| forms(&entry.credential))
            .filter(|form| form.len() >= MIN_REDACTED)
            .collect();
        if forms.is_empty() {
            return Self(None);
        }
        // The longest one counts: a secret may begin with another one.
        let searcher = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(forms);
        Self(searcher.ok())
    }
}

impl Keychain {
    /// Returns a text without the passwords and tokens of these credentials, as they are and in the
    /// forms in which a Docker configuration or a request has them. The text must not be cut yet:
    /// a part of a secret is not found.
    ///
    /// Whoever wants to print a secret can change it first: this is for accidents.
    #[must_use]
    pub fn redact<'t>(&self, text: &'t str) -> Cow<'t, str> {
        match &self.0.redaction.0 {
            Some(searcher) if searcher.is_match(text) => {
                let with = vec![REDACTED; searcher.patterns_len()];
                searcher.replace_all(text, &with).into()
            }
            _ => text.into(),
        }
    }
}

/// Returns the forms of a credential.
fn forms(credential: &Credential) -> Vec<String> {
    let secret = credential.secret();
    let mut forms = vec![secret.to_owned(), BASE64.encode(secret)];
    if let Credential::Password { username, .. } = credential {
        forms.push(BASE64.encode(format!("{username}:{secret}")));
    }
    forms
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn credentials_are_taken_out_in_all_their_forms() {
        let auth = BASE64.encode("robot:hunter-2-secret");
        let config = json!({ "auths": {
            "r.example.com": { "auth": auth },
            "t.example.com": { "identitytoken": "long-lived-token" },
            "s.example.com": { "username": "u", "password": "abc" },
            "l.example.com": { "identitytoken": "long-lived-token-and-more" },
        }});
        let config = config.to_string();
        let keychain = Keychain::from_secrets([("push", config.as_bytes())]).expect("a keychain");
        let encoded = BASE64.encode("hunter-2-secret");
        let printed = format!(
            "{auth} and hunter-2-secret ({encoded}), long-lived-token-and-more; abc is a word"
        );
        let shown = keychain.redact(&printed);
        assert_eq!(shown, "[redacted] and [redacted] ([redacted]), [redacted]; abc is a word");
        assert_eq!(keychain.redact("nothing"), "nothing");
    }
}
