//! Getting past a `401`: Basic, or a token from the service that the registry names.
//!
//! The protocol is <https://distribution.github.io/distribution/spec/auth/token/>. A credential is
//! sent to the registry that it is kept for, or to the token service that this registry names, over
//! HTTPS, or over plain HTTP only where the operator's owner has allowed it for that host. Tokens
//! are kept by registry, repository, rights and credential, never shared between different
//! credentials.

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

/// The most bytes of a token service's answer.
const MAX_TOKEN_RESPONSE_BYTES: usize = 64 * 1024;
/// The most bytes of a challenge that are looked at.
const MAX_CHALLENGE_BYTES: usize = 4096;
/// The most authorizations that are kept.
const MAX_CACHED_AUTHORIZATIONS: usize = 4096;
/// How long a token lasts that does not say so, by the specification.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(1);
/// The longest that an authorization is kept.
const MAX_AUTHORIZATION_LIFETIME: Duration = Duration::from_hours(1);

/// What a registry wants before it answers.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// What an authorization is good for.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct AuthorizationKey {
    pub base: String,
    pub path: String,
    pub push: bool,
    pub identity: CredentialIdentity,
}

/// Authorizations that were granted and still hold.
#[derive(Default)]
pub(super) struct AuthorizationCache(Mutex<HashMap<AuthorizationKey, (HeaderValue, Instant)>>);

impl AuthorizationCache {
    pub(super) fn get(&self, grant: &AuthorizationKey) -> Option<HeaderValue> {
        let grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants
            .get(grant)
            .filter(|(_, until)| Instant::now() < *until)
            .map(|(value, _)| value.clone())
    }

    pub(super) fn put(&self, grant: AuthorizationKey, value: HeaderValue, life: Duration) {
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if grants.len() >= MAX_CACHED_AUTHORIZATIONS {
            let now = Instant::now();
            grants.retain(|_, (_, until)| now < *until);
        }
        if grants.len() < MAX_CACHED_AUTHORIZATIONS {
            grants.insert(grant, (value, Instant::now() + life.min(MAX_AUTHORIZATION_LIFETIME)));
        }
    }

    pub(super) fn drop(&self, grant: &AuthorizationKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(grant);
    }
}

impl AuthorizationKey {
    pub(super) fn new(
        endpoint: &Endpoint,
        path: &str,
        purpose: Purpose,
        identity: CredentialIdentity,
    ) -> Self {
        Self {
            base: endpoint.base.clone(),
            path: path.into(),
            push: purpose == Purpose::Push,
            identity,
        }
    }

    fn scope(&self) -> String {
        format!("repository:{}:{}", self.path, if self.push { "pull,push" } else { "pull" })
    }
}

impl Challenge {
    /// The challenge that we can answer: a token service rather than Basic where both are offered.
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

/// An `Authorization` that answers the challenge, and how long it lasts.
pub(super) async fn authorize(
    http: &Http,
    config: &Config,
    context: ErrorContext<'_>,
    challenge: Challenge,
    grant: &AuthorizationKey,
    credential: Option<&Credential>,
) -> Result<(HeaderValue, Duration), RegistryError> {
    let (realm, service, scope) = match (challenge, credential) {
        (Challenge::Basic, Some(Credential::Password { username, password })) => {
            return Ok((basic(context, username, password)?, MAX_AUTHORIZATION_LIFETIME));
        }
        (Challenge::Basic, Some(Credential::IdentityToken { .. })) => {
            return Err(
                context.denied("it wants a password, and the Secret holds an identity token")
            );
        }
        (Challenge::Basic, None) => {
            return Err(context.denied("it wants a password, and no credential is kept for it"));
        }
        (Challenge::Bearer { realm, service, scope }, _) => (realm, service, scope),
    };
    let realm: Url = realm
        .parse()
        .map_err(|_| context.invalid_response("names a token service that is not a URL"))?;
    let host = authority(&realm);
    let plain_allowed = config.is_plain_http(&host) || grant.base == format!("http://{host}");
    if realm.scheme() != "https" && !(realm.scheme() == "http" && plain_allowed) {
        return Err(context.invalid_response(format!(
            "names a token service without HTTPS, {host}, which the operator's configuration would \
             have to allow"
        )));
    }
    let fields = [("service", service), ("scope", Some(scope.unwrap_or_else(|| grant.scope())))];
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let request = token_request(context, realm, fields, credential)?;
    let secrets: Vec<&str> = credential.iter().map(|credential| secret(credential)).collect();
    let context = ErrorContext { host: &host, ..context };
    let answer = http.send(context, request).await?.ok(context, &secrets)?;
    let granted: TokenResponse = serde_json::from_slice(&answer.body)
        .map_err(|_| context.invalid_response("sends something that is not a token"))?;
    let life = granted
        .expires_in
        .map_or(DEFAULT_TOKEN_LIFETIME, Duration::from_secs)
        .min(MAX_AUTHORIZATION_LIFETIME);
    let token = granted
        .token
        .or(granted.access_token)
        .ok_or_else(|| context.invalid_response("sends an answer without a token"))?;
    let value = sensitive(context, &format!("Bearer {}", token.expose_secret()))?;
    // A token is given up early, so that it does not run out on its way.
    Ok((value, life * 9 / 10))
}

/// What of a credential must not be repeated.
pub(super) fn secret(credential: &Credential) -> &str {
    match credential {
        Credential::Password { password, .. } => password.expose_secret(),
        Credential::IdentityToken { token, .. } => token.expose_secret(),
    }
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
            what: "token",
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
        what: "token",
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
        .map_err(|_| context.invalid_response("sends a token with control characters"))?;
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
        let bearer = r#"Bearer realm="https://auth.example/token",service="r.example",scope="repository:a/b:pull,push""#;
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
    async fn grants_run_out_and_are_told_apart() {
        let keychain = crate::registry::Keychain::default();
        let grant = |push| AuthorizationKey {
            base: "https://r".into(),
            path: "a".into(),
            push,
            identity: keychain.identity(["r"], "a"),
        };
        let grants = AuthorizationCache::default();
        grants.put(grant(false), HeaderValue::from_static("Bearer t"), Duration::from_mins(1));
        assert!(grants.get(&grant(false)).is_some());
        assert!(grants.get(&grant(true)).is_none());
        tokio::time::advance(Duration::from_secs(61)).await;
        assert!(grants.get(&grant(false)).is_none());
    }
}
