//! Authorization after a `401`: Basic, or a token from the service that the registry names.
//!
//! The protocol is <https://distribution.github.io/distribution/spec/auth/token/>. A credential is
//! sent only to the registry that it belongs to and to the token service that this registry names
//! in its own response, not in that of a host to which it redirects. It is sent over HTTPS; plain
//! HTTP is used only for hosts for which the operator's configuration allows it. Tokens are cached
//! by registry, repository, access and credential, and are never shared between different
//! credentials.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;
use url::{Url, form_urlencoded};

use crate::registry::{
    RegistryError,
    authorizations::{AuthorizationKey, MAX_AUTHORIZATION_LIFETIME},
    challenge::{BearerChallenge, Challenge},
    config::{Config, authority},
    credentials::{Credential, CredentialIdentity},
    deadline::Deadline,
    error::{AccessDenial, ErrorContext},
    http::{Http, HttpRequest, Receivers},
    rate_limits::{LimitClass, RateLimits, RemainingPause},
};

/// Maximum size of a token service's response in bytes.
const MAX_TOKEN_RESPONSE_BYTES: usize = 64 * 1024;
/// Lifetime of a token without `expires_in`, as the specification defines it.
const DEFAULT_TOKEN_LIFETIME: Duration = Duration::from_mins(1);

/// Who asks for an authorization, and for what.
pub(super) struct Applicant<'a> {
    pub http: &'a Http,
    pub config: &'a Config,
    pub limits: &'a RateLimits,
    pub context: ErrorContext<'a>,
    pub deadline: &'a Deadline,
    /// What the authorization is for.
    pub key: &'a AuthorizationKey,
    /// The credential of the host that has sent the challenge.
    pub credential: Option<&'a Credential>,
}

/// An `Authorization` header and how long it can be used.
pub(super) struct Authorization {
    pub value: HeaderValue,
    pub lifetime: Duration,
}

impl Applicant<'_> {
    /// Returns an `Authorization` header that answers the challenge.
    pub(super) async fn authorize(
        &self,
        challenge: &Challenge,
    ) -> Result<Authorization, RegistryError> {
        let Self { context, credential, .. } = *self;
        let lifetime = MAX_AUTHORIZATION_LIFETIME;
        let denied =
            |problem: &str| context.denied(AccessDenial::NotAuthenticated, problem.to_owned());
        match (challenge, credential) {
            (_, Some(Credential::RegistryToken { token })) => {
                let value = sensitive(context, &format!("Bearer {}", token.expose_secret()))?;
                Ok(Authorization { value, lifetime })
            }
            (Challenge::Basic, Some(Credential::Password { username, password })) => {
                Ok(Authorization { value: basic(context, username, password)?, lifetime })
            }
            (Challenge::Basic, Some(Credential::IdentityToken { .. })) => {
                Err(denied("it requires a password, but the Secret has an identity token"))
            }
            (Challenge::Basic, None) => {
                Err(denied("it requires a password, but no credential matches this repository"))
            }
            (Challenge::Bearer(bearer), _) => self.request_token(bearer).await,
        }
    }

    /// Requests a token from the service that the challenge names.
    async fn request_token(
        &self,
        bearer: &BearerChallenge,
    ) -> Result<Authorization, RegistryError> {
        let Self { context, key, credential, .. } = *self;
        let (registry, realm) = self.realm(bearer)?;
        let (host, base) = (authority(&realm), realm.origin().ascii_serialization());
        let context = ErrorContext { host: &host, ..context };
        let identity = CredentialIdentity::of(credential);
        if let Some(RemainingPause { pause, response }) =
            self.limits.remaining(&base, identity, LimitClass::Token)
        {
            return Err(context.limited(&response, pause));
        }
        let scope = bearer.scope.clone().unwrap_or_else(|| key.default_scope());
        let fields = [("service", bearer.service.clone()), ("scope", Some(scope))];
        let fields = fields.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let mut request = token_request(context, realm, fields, credential)?;
        request.receivers = Receivers::TokenService { registry };
        let is_secret = request.authorization.is_some();
        let response = self.http.send(context, self.deadline, request).await?;
        let secrets: Vec<&str> = credential.map(Credential::secret).into_iter().collect();
        let quoted = response.quoted(&secrets);
        if let Some(limit) = response.stated_limit(&quoted) {
            let pause = self.limits.begin(&base, identity, LimitClass::Token, limit, &quoted);
            return Err(context.limited(&quoted, pause));
        }
        if is_secret && response.is_elsewhere {
            let to = authority(&response.url);
            return Err(context.denied(
                AccessDenial::NotAuthenticated,
                format!("it redirects to {to}, which does not receive the credential"),
            ));
        }
        if response.status == StatusCode::NOT_FOUND {
            let problem = format!("is named as the token service and responded with {quoted}");
            return Err(context.invalid_response(problem));
        }
        let response = response.error_for_status(context, quoted)?;
        self.limits.note_success(&base, identity, LimitClass::Token);
        granted(context, &response.body)
    }

    /// Returns the URLs of the registry and of the token service that it names.
    fn realm(&self, bearer: &BearerChallenge) -> Result<(Url, Url), RegistryError> {
        let Self { context, config, key, .. } = *self;
        let not_a_url =
            || context.invalid_response("names a token service whose address is not a URL");
        let registry: Url = key.base.parse().map_err(|_| not_a_url())?;
        let realm = registry.join(&bearer.realm).map_err(|_| not_a_url())?;
        let host = authority(&realm);
        let plain_allowed = config.is_plain_http(&host) || key.base == format!("http://{host}");
        if realm.scheme() == "https" || realm.scheme() == "http" && plain_allowed {
            return Ok((registry, realm));
        }
        Err(context.invalid_response(format!(
            "names the token service {host} without HTTPS; the operator's configuration must list \
             it in `plainHttp`"
        )))
    }
}

/// Reads the response of a token service.
fn granted(context: ErrorContext<'_>, body: &[u8]) -> Result<Authorization, RegistryError> {
    let granted: TokenResponse = serde_json::from_slice(body)
        .map_err(|_| context.invalid_response("sent a response that is not a token"))?;
    let is_set = |token: &SecretString| !token.expose_secret().is_empty();
    let token = granted
        .token
        .filter(is_set)
        .or_else(|| granted.access_token.filter(is_set))
        .ok_or_else(|| context.invalid_response("sent a response without a token"))?;
    let value = sensitive(context, &format!("Bearer {}", token.expose_secret()))?;
    // A token is dropped before it expires, so that it is still valid when it reaches the registry.
    Ok(Authorization { value, lifetime: lifetime(granted.expires_in.as_ref()) * 9 / 10 })
}

/// Returns the lifetime of a token. What a service says about it is advice: what cannot be read
/// counts as nothing said.
fn lifetime(expires_in: Option<&Value>) -> Duration {
    let seconds = match expires_in {
        Some(Value::Number(number)) => number.as_f64(),
        Some(Value::String(text)) => text.trim().parse().ok(),
        _ => None,
    };
    let lifetime = seconds.map(|seconds: f64| Duration::try_from_secs_f64(seconds.max(0.0)));
    match lifetime {
        None => DEFAULT_TOKEN_LIFETIME,
        Some(lifetime) => {
            lifetime.unwrap_or(DEFAULT_TOKEN_LIFETIME).min(MAX_AUTHORIZATION_LIFETIME)
        }
    }
}

fn token_request(
    context: ErrorContext<'_>,
    mut realm: Url,
    fields: impl Iterator<Item = (&'static str, String)>,
    credential: Option<&Credential>,
) -> Result<HttpRequest<'static>, RegistryError> {
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
            receivers: Receivers::Origin,
            elsewhere: None,
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
        receivers: Receivers::Origin,
        elsewhere: None,
    })
}

#[derive(Deserialize)]
struct TokenResponse {
    token: Option<SecretString>,
    access_token: Option<SecretString>,
    expires_in: Option<Value>,
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

    #[test]
    fn the_lifetime_of_a_token_is_advice() {
        for (expires_in, expected) in [
            ("300", 300.0),
            ("\"300\"", 300.0),
            ("299.9", 299.9),
            ("-1", 0.0),
            ("0", 0.0),
            ("1e12", 3600.0),
            ("1e300", 60.0),
            ("\"soon\"", 60.0),
            ("{}", 60.0),
        ] {
            let value: Value = serde_json::from_str(expires_in).expect(expires_in);
            let lifetime = lifetime(Some(&value)).as_secs_f64();
            assert!((lifetime - expected).abs() < 0.001, "{expires_in}: {lifetime}");
        }
        assert_eq!(lifetime(None), DEFAULT_TOKEN_LIFETIME);
    }
}
