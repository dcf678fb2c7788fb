//! Authorization after a `401`: Basic, or a token from the service that the registry names.
//!
//! The protocol is <https://distribution.github.io/distribution/spec/auth/token/>. A credential is
//! sent only to the registry that it belongs to and to the token service that this registry names.
//! It is sent over HTTPS; plain HTTP is used only for hosts for which the operator's configuration
//! allows it. Tokens are cached by registry, repository, access and credential, and are never
//! shared between different credentials.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use http_auth::parser::ChallengeParser;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::time::Instant;
use url::{Url, form_urlencoded};

use crate::registry::{
    RegistryError,
    config::{Config, Endpoint, Purpose, authority},
    credentials::{Credential, CredentialIdentity},
    error::ErrorContext,
    http::{Http, HttpRequest},
};

/// Maximum size of a token service's response in bytes.
const MAX_TOKEN_RESPONSE_BYTES: usize = 64 * 1024;
/// Maximum size of a challenge in bytes; larger ones are ignored.
const MAX_CHALLENGE_BYTES: usize = 4096;
/// Maximum number of cached authorizations.
const MAX_CACHED_AUTHORIZATIONS: usize = 4096;
/// Lifetime of a token without `expires_in`, as the specification defines it.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(1);
/// Upper bound on how long an authorization is cached.
const MAX_AUTHORIZATION_LIFETIME: Duration = Duration::from_hours(1);

/// The authentication that a registry requires.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What an authorization is valid for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct AuthorizationKey {
    pub base: String,
    pub path: String,
    pub purpose: Purpose,
    pub identity: CredentialIdentity,
}

/// Cache of authorizations that have been granted and have not expired.
#[derive(Default)]
pub(super) struct AuthorizationCache(Mutex<HashMap<AuthorizationKey, (HeaderValue, Instant)>>);

impl AuthorizationCache {
    pub(super) fn get(&self, key: &AuthorizationKey) -> Option<HeaderValue> {
        let authorizations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        authorizations
            .get(key)
            .filter(|(_, until)| Instant::now() < *until)
            .map(|(value, _)| value.clone())
    }

    pub(super) fn insert(&self, key: AuthorizationKey, value: HeaderValue, lifetime: Duration) {
        let mut authorizations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if authorizations.len() >= MAX_CACHED_AUTHORIZATIONS {
            let now = Instant::now();
            authorizations.retain(|_, (_, until)| now < *until);
        }
        if authorizations.len() < MAX_CACHED_AUTHORIZATIONS {
            authorizations
                .insert(key, (value, Instant::now() + lifetime.min(MAX_AUTHORIZATION_LIFETIME)));
        }
    }

    pub(super) fn remove(&self, key: &AuthorizationKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }
}

impl AuthorizationKey {
    pub(super) fn new(
        endpoint: &Endpoint,
        path: &str,
        purpose: Purpose,
        identity: CredentialIdentity,
    ) -> Self {
        Self { base: endpoint.base.clone(), path: path.into(), purpose, identity }
    }

    /// Returns the scope to request if the challenge names none.
    fn default_scope(&self) -> String {
        let actions = match self.purpose {
            Purpose::Pull => "pull",
            Purpose::Push => "pull,push",
        };
        format!("repository:{}:{actions}", self.path)
    }
}

impl Challenge {
    /// Returns the challenge to answer: the token service if both a token service and Basic are
    /// offered.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut basic = None;
        for value in values
            .filter_map(|value| value.to_str().ok())
            .filter(|value| value.len() <= MAX_CHALLENGE_BYTES)
        {
            for challenge in ChallengeParser::new(value).map_while(Result::ok) {
                let parameter = |name: &str| {
                    let found =
                        challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped()).filter(|value| !value.is_empty())
                };
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                } else if challenge.scheme.eq_ignore_ascii_case("bearer") {
                    let realm = parameter("realm")?;
                    return Some(Self::Bearer {
                        realm,
                        service: parameter("service"),
                        scope: parameter("scope"),
                    });
                }
            }
        }
        basic
    }
}

/// Returns an `Authorization` header that answers the challenge, and its lifetime.
pub(super) async fn authorize(
    http: &Http,
    config: &Config,
    context: ErrorContext<'_>,
    challenge: Challenge,
    key: &AuthorizationKey,
    credential: Option<&Credential>,
) -> Result<(HeaderValue, Duration), RegistryError> {
    let (realm, service, scope) = match (challenge, credential) {
        (Challenge::Basic, Some(Credential::Password { username, password })) => {
            return Ok((basic(context, username, password)?, MAX_AUTHORIZATION_LIFETIME));
        }
        (Challenge::Basic, Some(Credential::IdentityToken { .. })) => {
            return Err(
                context.denied("it requires a password, but the Secret has an identity token")
            );
        }
        (Challenge::Basic, None) => {
            return Err(
                context.denied("it requires a password, but no credential matches this repository")
            );
        }
        (Challenge::Bearer { realm, service, scope }, _) => (realm, service, scope),
    };
    let realm: Url = realm.parse().map_err(|_| {
        context.invalid_response("names a token service whose address is not a URL")
    })?;
    let host = authority(&realm);
    let plain_allowed = config.is_plain_http(&host) || key.base == format!("http://{host}");
    if realm.scheme() != "https" && !(realm.scheme() == "http" && plain_allowed) {
        return Err(context.invalid_response(format!(
            "names the token service {host} without HTTPS; the operator's configuration must list \
             it in `plainHttp`"
        )));
    }
    let fields =
        [("service", service), ("scope", Some(scope.unwrap_or_else(|| key.default_scope())))];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let request = token_request(context, realm, fields, credential)?;
    let secrets: Vec<&str> = credential.map(Credential::secret).into_iter().collect();
    let context = ErrorContext { host: &host, ..context };
    let response = http.send(context, request).await?.error_for_status(context, &secrets)?;
    let granted: TokenResponse = serde_json::from_slice(&response.body)
        .map_err(|_| context.invalid_response("sent a response that is not a token"))?;
    let lifetime = granted
        .expires_in
        .map_or(DEFAULT_TOKEN_LIFETIME, Duration::from_secs)
        .min(MAX_AUTHORIZATION_LIFETIME);
    let token = granted
        .token
        .or(granted.access_token)
        .ok_or_else(|| context.invalid_response("sent a response without a token"))?;
    let value = sensitive(context, &format!("Bearer {}", token.expose_secret()))?;
    // A token is dropped before it expires, so that it is still valid when it reaches the registry.
    Ok((value, lifetime * 9 / 10))
}

fn token_request(
    context: ErrorContext<'_>,
    mut realm: Url,
    fields: impl Iterator<Item = (&'static str, String)>,
    credential: Option<&Credential>,
) -> Result<HttpRequest, RegistryError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(Credential::IdentityToken { token, .. }) = credential {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs([("grant_type", "refresh_token"), ("client_id", "groundswell")]);
        form.append_pair("refresh_token", token.expose_secret()).extend_pairs(fields);
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        let body = Bytes::from(form.finish());
        return Ok(HttpRequest {
            method: Method::POST,
            url: realm,
            headers,
            authorization: None,
            body,
            what: "token response",
            limit: MAX_TOKEN_RESPONSE_BYTES,
        });
    }
    realm.query_pairs_mut().extend_pairs(fields);
    let authorization = match credential {
        Some(Credential::Password { username, password }) => {
            Some(basic(context, username, password)?)
        }
        _ => None,
    };
    Ok(HttpRequest {
        method: Method::GET,
        url: realm,
        headers,
        authorization,
        body: Bytes::new(),
        what: "token response",
        limit: MAX_TOKEN_RESPONSE_BYTES,
    })
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
    expires_in: Option<u64>,
}

fn basic(
    context: ErrorContext<'_>,
    username: &str,
    password: &SecretString,
) -> Result<HeaderValue, RegistryError> {
    sensitive(
        context,
        &format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.expose_secret()))),
    )
}

fn sensitive(context: ErrorContext<'_>, value: &str) -> Result<HeaderValue, RegistryError> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| context.invalid_response("sent a token with control characters"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
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
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("r.example".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(challenge(&[bearer]).as_ref(), Some(&expected));
        assert_eq!(challenge(&["Basic realm=\"r\"", bearer]).as_ref(), Some(&expected));
        assert_eq!(challenge(&[&format!("Basic realm=\"r\", {bearer}")]).as_ref(), Some(&expected));
        assert_eq!(challenge(&["basic realm=\"r\""]), Some(Challenge::Basic));
        for nothing in [&[][..], &["Negotiate"], &["Bearer service=\"r\""], &["\"\""]] {
            assert_eq!(challenge(nothing), None, "{nothing:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn authorizations_expire_and_are_separate_per_purpose() {
        let keychain = crate::registry::Keychain::default();
        let key = |purpose| AuthorizationKey {
            base: "https://r".into(),
            path: "a".into(),
            purpose,
            identity: keychain.identity(["r"], "a", crate::api::CredentialUse::Pull),
        };
        let cache = AuthorizationCache::default();
        cache.insert(
            key(Purpose::Pull),
            HeaderValue::from_static("Bearer t"),
            Duration::from_mins(1),
        );
        assert!(cache.get(&key(Purpose::Pull)).is_some());
        assert!(cache.get(&key(Purpose::Push)).is_none());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(cache.get(&key(Purpose::Pull)).is_none());
    }
}
