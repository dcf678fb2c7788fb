//! Parsing and rendering of Docker configurations: only `auths`, nothing that names a program.

use std::collections::BTreeMap;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;

use crate::registry::{
    credentials::{
        Credential, KeychainEntry, MAX_SECRET_BYTES, SecretError, scope::CredentialScope,
    },
    platform::null_is_absent,
    reference::DOCKER_HUB,
};

/// Accepts base64 with or without padding, as the kubelet does.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The forms in which a Secret has credentials of registries, each under a key of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretForm {
    /// A Docker configuration: the type `kubernetes.io/dockerconfigjson`.
    DockerConfigJson,
    /// Only its entries, as older versions of Docker wrote them: the type
    /// `kubernetes.io/dockercfg`.
    DockerCfg,
}

impl SecretForm {
    /// The forms. The first one that a Secret has is used, as by the kubelet.
    pub const ALL: [Self; 2] = [Self::DockerConfigJson, Self::DockerCfg];

    /// Returns the key of the Secret's data.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::DockerConfigJson => ".dockerconfigjson",
            Self::DockerCfg => ".dockercfg",
        }
    }

    /// Returns the first form that there is a value for, with the value.
    pub fn find<T>(mut value_of: impl FnMut(Self) -> Option<T>) -> Option<(Self, T)> {
        Self::ALL.into_iter().find_map(|form| Some((form, value_of(form)?)))
    }

    /// Returns what an error calls the list of entries.
    const fn entries(self) -> &'static str {
        match self {
            Self::DockerConfigJson => "auths",
            Self::DockerCfg => ".dockercfg",
        }
    }
}

/// The credentials of a Secret, not parsed yet.
#[derive(Clone, Copy)]
pub struct SecretPayload<'a> {
    /// The form of the value.
    pub form: SecretForm,
    /// The value.
    pub value: &'a [u8],
}

/// Entries by the name of their registry.
type AuthEntries = BTreeMap<String, Option<AuthEntry>>;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default, deserialize_with = "null_is_absent")]
    auths: AuthEntries,
}

#[derive(Deserialize)]
struct AuthEntry {
    username: Option<String>,
    password: Option<SecretString>,
    /// User name and password, separated by a colon, in base64.
    #[serde(rename = "auth")]
    encoded: Option<SecretString>,
    #[serde(rename = "identitytoken")]
    identity_token: Option<SecretString>,
    #[serde(rename = "registrytoken")]
    registry_token: Option<SecretString>,
}

/// The content of one Secret.
pub(super) struct ParsedSecret {
    pub entries: Vec<KeychainEntry>,
    /// The entries that cannot be used.
    pub ignored: Vec<SecretError>,
}

/// Parses the entries of one Secret. Entries that cannot be used do not affect the others; a Secret
/// without any that can be is an error.
pub(super) fn parse(
    secret: &str,
    SecretPayload { form, value }: SecretPayload<'_>,
) -> Result<ParsedSecret, SecretError> {
    let key = form.key();
    if value.len() > MAX_SECRET_BYTES {
        return Err(SecretError::TooLarge { secret: secret.into(), key, bytes: value.len() });
    }
    let entries = match form {
        SecretForm::DockerConfigJson => {
            serde_json::from_slice(value).map(|config: DockerConfig| config.auths)
        }
        SecretForm::DockerCfg => serde_json::from_slice::<AuthEntries>(value),
    };
    // The JSON error's own message may quote a value, which may be a password. Its position is
    // enough.
    let entries = entries.map_err(|error| SecretError::Malformed {
        secret: secret.into(),
        key,
        line: error.line(),
        column: error.column(),
    })?;
    let mut parsed = ParsedSecret { entries: Vec::new(), ignored: Vec::new() };
    for (key, auth) in entries {
        match entry(&key, auth) {
            Ok(Some(entry)) => parsed.entries.push(entry),
            Ok(None) => {}
            Err(problem) => parsed.ignored.push(SecretError::Entry {
                secret: secret.into(),
                entries: form.entries(),
                host: key.chars().filter(|c| !c.is_control()).take(100).collect(),
                problem,
            }),
        }
    }
    if !parsed.entries.is_empty() {
        return Ok(parsed);
    }
    let unusable = parsed.ignored.into_iter().next();
    Err(unusable.unwrap_or_else(|| SecretError::Empty { secret: secret.into(), key }))
}

/// Returns an entry of a keychain, or `None` for an entry without a credential.
fn entry(key: &str, auth: Option<AuthEntry>) -> Result<Option<KeychainEntry>, &'static str> {
    let Some(credential) = auth.map(credential).transpose()?.flatten() else { return Ok(None) };
    let scope = CredentialScope::parse(key).ok_or("is not the name of a registry")?;
    Ok(Some(KeychainEntry { scope, credential, uses: Vec::new() }))
}

/// Returns the credential of one entry, or `None` for the empty entries that a credential helper
/// leaves behind.
fn credential(auth: AuthEntry) -> Result<Option<Credential>, &'static str> {
    let is_set = |secret: &SecretString| !secret.expose_secret().is_empty();
    if let Some(token) = auth.registry_token.filter(is_set) {
        return Ok(Some(Credential::RegistryToken { token }));
    }
    let decoded = auth.encoded.filter(is_set).map(|encoded| decode(&encoded)).transpose()?;
    let is_encoded = decoded.is_some();
    let (username, password) = match decoded {
        Some((username, password)) => (username, Some(password)),
        None => (auth.username.unwrap_or_default(), auth.password),
    };
    if username.contains(char::is_control) {
        return Err("has a control character in its user name");
    }
    if let Some(token) = auth.identity_token.filter(is_set) {
        return Ok(Some(Credential::IdentityToken { username, token }));
    }
    match (username.is_empty(), password.filter(is_set)) {
        (true, None) => Ok(None),
        (true, Some(password)) if is_encoded => {
            // Some services expect a token in place of the password, and no user name.
            Ok(Some(Credential::Password { username, password }))
        }
        (true, Some(_)) => Err("has a password but no user name"),
        (false, None) => Err("has a user name but no password"),
        (false, Some(_)) if username.contains(':') => Err("has a colon in its user name"),
        (false, Some(password)) => Ok(Some(Credential::Password { username, password })),
    }
}

fn decode(encoded: &SecretString) -> Result<(String, SecretString), &'static str> {
    // `base64` wraps its output at 76 columns.
    let one_line: SecretString =
        encoded.expose_secret().split_ascii_whitespace().collect::<String>().into();
    let bytes =
        BASE64.decode(one_line.expose_secret()).map_err(|_| "has an `auth` that is not base64")?;
    let text = String::from_utf8(bytes).map_err(|_| "has an `auth` that is not valid UTF-8")?;
    let (username, password) = text
        .split_once(':')
        .ok_or("has an `auth` without a colon between user name and password")?;
    Ok((username.into(), password.trim_end_matches('\0').into()))
}

/// Returns the key under which builders look up the credential of a registry.
pub(super) fn auth_key(registry: &str) -> &str {
    if registry == DOCKER_HUB { "https://index.docker.io/v1/" } else { registry }
}

/// Renders a Docker configuration with these credentials by key.
pub(super) fn render(auths: &BTreeMap<String, &Credential>) -> SecretString {
    let auths: BTreeMap<_, _> = auths
        .iter()
        .map(|(key, credential)| {
            let auth = match credential {
                Credential::Password { username, password } => {
                    let auth = format!("{username}:{}", password.expose_secret());
                    json!({ "auth": STANDARD.encode(auth) })
                }
                Credential::IdentityToken { username, token } => {
                    let auth = STANDARD.encode(format!("{username}:"));
                    json!({ "auth": auth, "identitytoken": token.expose_secret() })
                }
                Credential::RegistryToken { token } => {
                    json!({ "registrytoken": token.expose_secret() })
                }
            };
            (key, auth)
        })
        .collect();
    json!({ "auths": auths }).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(secret: &str, value: &[u8]) -> Result<ParsedSecret, SecretError> {
        let payload = SecretPayload { form: SecretForm::DockerConfigJson, value };
        super::parse(secret, payload)
    }

    fn parse_single(auth: &str) -> Result<(String, String), String> {
        let payload = format!(r#"{{"auths":{{"r.example":{auth}}}}}"#);
        let parsed = parse("regcred", payload.as_bytes()).map_err(|error| error.to_string())?;
        Ok(match parsed.entries.into_iter().next().expect("one").credential {
            Credential::Password { username, password } => {
                (username, password.expose_secret().into())
            }
            Credential::IdentityToken { username, token } => {
                (username, format!("token {}", token.expose_secret()))
            }
            Credential::RegistryToken { token } => {
                (String::new(), format!("registry token {}", token.expose_secret()))
            }
        })
    }

    #[test]
    fn every_form_of_an_entry_is_accepted() {
        let expected = Ok(("user".to_owned(), "pass:word".to_owned()));
        assert_eq!(parse_single(r#"{"username":"user","password":"pass:word"}"#), expected);
        assert_eq!(parse_single(r#"{"auth":"dXNlcjpwYXNzOndvcmQ="}"#), expected);
        assert_eq!(
            parse_single(r#"{"auth":"dXNlcjpwYXNzOndvcmQ","username":"other","email":"e"}"#),
            expected
        );
        assert_eq!(
            parse_single(r#"{"auth":"dXNlcjo=","identitytoken":"t"}"#),
            Ok(("user".into(), "token t".into()))
        );
        assert_eq!(
            parse_single(r#"{"registrytoken":"t"}"#),
            Ok((String::new(), "registry token t".into()))
        );
        assert_eq!(parse_single(r#"{"auth":"OnRvaw=="}"#), Ok((String::new(), "tok".into())));
        let wrapped = r#"{"auth":"dXNlcjpw\nYXNzOn\r\ndvcmQ=\n"}"#;
        assert_eq!(parse_single(wrapped), Ok(("user".into(), "pass:word".into())));
    }

    #[test]
    fn errors_name_the_entry_and_quote_no_secret() {
        for (auth, problem) in [
            (r#"{"auth":"hunter2!"}"#, "auths[r.example] has an `auth` that is not base64"),
            (r#"{"auth":"aHVudGVyMg=="}"#, "without a colon"),
            (r#"{"auth":"//8="}"#, "not valid UTF-8"),
            (r#"{"password":"hunter2"}"#, "a password but no user name"),
            (r#"{"username":"user"}"#, "a user name but no password"),
            (r#"{"password":["hunter2"]}"#, "line 1, column"),
            (r#""hunter2""#, "line 1, column"),
            ("{}", "has no credential"),
        ] {
            let error = parse_single(auth).expect_err(auth);
            assert!(error.starts_with("Secret regcred: ") && error.contains(problem), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn credential_helpers_are_ignored() {
        let helpers =
            r#"{"credsStore":"evil","credHelpers":{"r.example":"evil"},"auths":{"r.example":{}}}"#;
        assert!(matches!(parse("s", helpers.as_bytes()), Err(SecretError::Empty { .. })));
        let mixed = r#"{"credsStore":"evil","auths":{"q.example":{},"r.example":{"auth":"dTpw"}}}"#;
        let parsed = parse("s", mixed.as_bytes()).expect("one entry");
        assert_eq!((parsed.entries.len(), parsed.ignored.len()), (1, 0));
    }

    #[test]
    fn an_entry_that_cannot_be_used_does_not_affect_the_others() {
        let mixed = r#"{"auths":{"a":{"username":"me"},"b":null,"r.example":{"auth":"dTpw"}}}"#;
        let parsed = parse("s", mixed.as_bytes()).expect("one entry");
        assert_eq!(parsed.entries.len(), 1);
        let ignored: Vec<String> = parsed.ignored.iter().map(ToString::to_string).collect();
        assert_eq!(ignored, ["Secret s: auths[a] has a user name but no password"]);
    }

    #[test]
    fn the_old_form_has_the_same_entries() {
        let old = |value: &str| {
            let value = value.as_bytes();
            super::parse("s", SecretPayload { form: SecretForm::DockerCfg, value })
        };
        let mixed = concat!(
            r#"{"https://index.docker.io/v1/":{"auth":"dTpw","email":"e"},"#,
            r#""r.example":{"username":"u","password":"p"},"b":null,"a":{"username":"me"}}"#
        );
        let parsed = old(mixed).expect("two entries");
        let scopes: Vec<String> =
            parsed.entries.iter().map(|entry| format!("{:?}", entry.scope)).collect();
        assert_eq!(scopes, ["docker.io", "r.example"]);
        let ignored: Vec<String> = parsed.ignored.iter().map(ToString::to_string).collect();
        assert_eq!(ignored, ["Secret s: .dockercfg[a] has a user name but no password"]);
        for (value, problem) in [
            ("{}", "Secret s: .dockercfg has no credential"),
            (
                r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#,
                "Secret s: .dockercfg has no credential",
            ),
            ("hunter2", "Secret s: .dockercfg is not a Docker configuration (line 1"),
        ] {
            let error = old(value).err().expect(value).to_string();
            assert!(error.starts_with(problem) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_with_both_forms_is_read_as_the_kubelet_does() {
        let (new, old) = (SecretForm::DockerConfigJson, SecretForm::DockerCfg);
        for (has, used) in [(vec![old, new], Some(new)), (vec![old], Some(old)), (vec![], None)] {
            let found = SecretForm::find(|form| has.contains(&form).then_some(()));
            assert_eq!(found.map(|(form, ())| form), used);
        }
    }

    #[test]
    fn invalid_json_and_large_secrets_are_rejected() {
        assert!(matches!(parse("s", b"hunter2"), Err(SecretError::Malformed { line: 1, .. })));
        assert!(matches!(
            parse("s", &vec![b' '; MAX_SECRET_BYTES + 1]),
            Err(SecretError::TooLarge { .. })
        ));
    }
}
