//! Takes credentials out of what others have written: builders and checks print what they like, and
//! the controller quotes the end of it.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::registry::credentials::{Credential, Keychain};

/// What stands in place of a credential.
const REDACTED: &str = "[redacted]";
/// Minimum length in bytes of a secret that is looked for. Shorter ones are part of ordinary words.
const MIN_REDACTED: usize = 6;

impl Keychain {
    /// Returns a text without the passwords and tokens of these credentials, as they are and in the
    /// forms in which a Docker configuration or a request has them.
    ///
    /// Whoever wants to print a secret can change it first: this is for accidents.
    #[must_use]
    pub fn redact(&self, text: String) -> String {
        let credentials = self.0.entries.iter().map(|entry| &entry.credential);
        credentials.flat_map(forms).filter(|form| form.len() >= MIN_REDACTED).fold(
            text,
            |text, form| {
                if text.contains(&form) { text.replace(&form, REDACTED) } else { text }
            },
        )
    }
}

/// Returns the forms of a credential, the longest first: those that contain others come before them.
fn forms(credential: &Credential) -> Vec<String> {
    let secret = credential.secret();
    let mut forms = vec![secret.to_owned(), BASE64.encode(secret)];
    if let Credential::Password { username, .. } = credential {
        forms.push(BASE64.encode(format!("{username}:{secret}")));
    }
    forms.sort_by_key(|form| std::cmp::Reverse(form.len()));
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
        }});
        let config = config.to_string();
        let keychain = Keychain::from_secrets([("push", config.as_bytes())]).expect("a keychain");
        let encoded = BASE64.encode("hunter-2-secret");
        let printed =
            format!("{auth} and hunter-2-secret ({encoded}), long-lived-token; abc is a word");
        let shown = keychain.redact(printed);
        assert_eq!(shown, "[redacted] and [redacted] ([redacted]), [redacted]; abc is a word");
        assert_eq!(keychain.redact("nothing".into()), "nothing");
    }
}
