//! Sends an operation to one endpoint with the credentials that match it, one after the other, as
//! the kubelet does.
//!
//! A credential is sent only after a challenge: that of the response, or that of the registry's
//! root where the response says only that something does not exist or is not allowed. A challenge
//! of another host, to which the registry has redirected, gets no credential of the registry.

use http::{HeaderValue, StatusCode};
use url::Url;

use crate::registry::{
    RegistryError,
    authorizations::{AuthorizationKey, CachedAuthorization, KnownRoot},
    call::RegistryCall,
    challenge::Challenge,
    config::{Endpoint, Purpose, authority},
    credentials::{Credential, CredentialIdentity},
    deadline::Deadline,
    error::{AccessDenial, ErrorContext},
    http::{HttpRequest, HttpResponse},
    operation::Operation,
    rate_limits::{LimitClass, RemainingPause, RemainingPulls, StatedLimit},
    token::Applicant,
};

/// What the attempts with the credentials of one endpoint share.
struct EndpointAttempt<'a> {
    call: &'a RegistryCall<'a>,
    endpoint: &'a Endpoint,
    deadline: &'a Deadline,
    operation: &'a Operation,
    context: ErrorContext<'a>,
}

/// One of the credentials that match, or none.
#[derive(Clone, Copy)]
struct TriedCredential<'a> {
    credential: Option<&'a Credential>,
    identity: CredentialIdentity,
}

impl RegistryCall<'_> {
    /// Sends an operation to one endpoint, with each of the credentials that match it until one is
    /// accepted.
    pub(super) async fn send(
        &self,
        endpoint: &Endpoint,
        deadline: &Deadline,
        operation: &Operation,
    ) -> Result<HttpResponse, RegistryError> {
        let context = self.context(endpoint);
        let attempt = EndpointAttempt { call: self, endpoint, deadline, operation, context };
        let result = attempt.send_with_candidates().await;
        result.map_err(|error| match operation.purpose {
            Purpose::Push => error.of_push(),
            Purpose::Pull => error,
        })
    }
}

impl EndpointAttempt<'_> {
    async fn send_with_candidates(&self) -> Result<HttpResponse, RegistryError> {
        let Self { call, endpoint, operation, .. } = *self;
        let path = endpoint.repository(call.image.path());
        let wanted = operation.purpose.credential_use();
        let candidates = call.keychain.candidates(&endpoint.registry, &path, wanted);
        let all = call.keychain.identity([endpoint.registry.as_str()], &path, wanted);
        let preference = self.key(all);
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        let preferred = call.client.authorizations.preferred(&preference).min(order.len());
        if preferred > 0 && preferred < order.len() {
            order.swap(0, preferred);
        }
        let mut challenge = None;
        let mut first_denial: Option<RegistryError> = None;
        let positions = order.into_iter().map(Some).chain(candidates.is_empty().then_some(None));
        for position in positions {
            let credential = position.and_then(|position| candidates.get(position).copied());
            let candidate =
                TriedCredential { credential, identity: CredentialIdentity::of(credential) };
            match self.send_with(candidate, &mut challenge).await {
                Ok(response) => {
                    if let Some(position) = position.filter(|_| candidates.len() > 1) {
                        call.client.authorizations.prefer(preference, position);
                    }
                    return Ok(response);
                }
                Err(error) if is_about_credential(&error) => {
                    first_denial = first_denial.or(Some(error));
                }
                Err(error) => return Err(error),
            }
        }
        Err(first_denial.unwrap_or_else(|| {
            self.context.denied(AccessDenial::NotAuthenticated, "no credential could be tried")
        }))
    }

    /// Sends the operation with one credential. `challenge` is what an earlier credential of this
    /// call had to answer.
    async fn send_with(
        &self,
        candidate: TriedCredential<'_>,
        challenge: &mut Option<Challenge>,
    ) -> Result<HttpResponse, RegistryError> {
        let authorizations = &self.call.client.authorizations;
        let key = self.key(candidate.identity);
        let cached = authorizations.get(&key);
        if challenge.is_none() || cached.is_some() {
            let mut response = self.request(candidate, cached.as_ref()).await?;
            if cached.as_ref().is_some_and(|cached| may_be_expired(&response, cached)) {
                authorizations.remove(&key);
                if Challenge::from_headers(&response.headers).is_none() {
                    response = self.request(candidate, None).await?;
                }
            } else if cached.is_some() && response.status != StatusCode::UNAUTHORIZED {
                return self.checked(response, candidate, cached.map(|cached| cached.value));
            }
            match self.challenge_of(&response, candidate).await? {
                Some(found) => *challenge = Some(found),
                None => return self.checked(response, candidate, None),
            }
        }
        let Some(challenge) = challenge.as_ref() else {
            return Err(self.context.denied(AccessDenial::WithoutChallenge, "401 Unauthorized"));
        };
        self.answer(candidate, challenge, &key, cached.as_ref()).await
    }

    /// Answers a challenge with a credential, and sends the operation with what that gives.
    async fn answer(
        &self,
        candidate: TriedCredential<'_>,
        challenge: &Challenge,
        key: &AuthorizationKey,
        refused: Option<&CachedAuthorization>,
    ) -> Result<HttpResponse, RegistryError> {
        let authorizations = &self.call.client.authorizations;
        // Others that need the same authorization wait, and find it in the cache.
        let lock = authorizations.request_lock(key);
        let guard = lock.lock().await;
        let granted_meanwhile = authorizations
            .get(key)
            .filter(|cached| refused.is_none_or(|refused| refused.value != cached.value));
        if let Some(cached) = granted_meanwhile {
            drop(guard);
            let response = self.request(candidate, Some(&cached)).await?;
            return self.checked(response, candidate, Some(cached.value));
        }
        let authorization =
            self.applicant(self.context, key, candidate.credential).authorize(challenge).await?;
        authorizations.insert(key.clone(), &authorization);
        drop(guard);
        let response = self.request_authorized(candidate, authorization.value.clone()).await?;
        match response.status {
            StatusCode::UNAUTHORIZED => authorizations.remove(key),
            StatusCode::FORBIDDEN => authorizations.mark_insufficient(key),
            _ => {}
        }
        self.checked(response, candidate, Some(authorization.value))
    }

    /// Returns the challenge to answer after a response without an authorization, or `None` if the
    /// response is final.
    async fn challenge_of(
        &self,
        response: &HttpResponse,
        candidate: TriedCredential<'_>,
    ) -> Result<Option<Challenge>, RegistryError> {
        match response.status {
            StatusCode::UNAUTHORIZED if !response.is_elsewhere => {
                Ok(Challenge::from_headers(&response.headers))
            }
            // Some registries hide what is private, and name a challenge only at their root.
            StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
                if candidate.credential.is_some()
                    && !response.is_elsewhere
                    && response.stated_limit(&response.quoted(&[])).is_none() =>
            {
                self.root_challenge(candidate).await
            }
            _ => Ok(None),
        }
    }

    /// Returns what the registry's root requires.
    async fn root_challenge(
        &self,
        candidate: TriedCredential<'_>,
    ) -> Result<Option<Challenge>, RegistryError> {
        let authorizations = &self.call.client.authorizations;
        let base = &self.endpoint.base;
        if let KnownRoot::Known(challenge) = authorizations.root_challenge(base) {
            return Ok(challenge);
        }
        let Self { call, endpoint, deadline, context, .. } = *self;
        let root = Operation::root();
        let attempt = EndpointAttempt { call, endpoint, deadline, operation: &root, context };
        let response = attempt.request(candidate, None).await?;
        let challenge = match response.status {
            StatusCode::UNAUTHORIZED if !response.is_elsewhere => {
                Challenge::from_headers(&response.headers)
            }
            status if status.is_success() => None,
            // A registry that fails says nothing about what it requires.
            status if status.is_server_error() => {
                return Err(context.error_status(status, response.quoted(&[]), None));
            }
            _ => return Ok(None),
        };
        authorizations.note_root_challenge(base, challenge.clone());
        Ok(challenge)
    }

    async fn request(
        &self,
        candidate: TriedCredential<'_>,
        cached: Option<&CachedAuthorization>,
    ) -> Result<HttpResponse, RegistryError> {
        let value = cached.map(|cached| cached.value.clone());
        self.request_with_limits(candidate, value).await
    }

    async fn request_authorized(
        &self,
        candidate: TriedCredential<'_>,
        value: HeaderValue,
    ) -> Result<HttpResponse, RegistryError> {
        self.request_with_limits(candidate, Some(value)).await
    }

    /// Sends one request, unless the registry has asked for a pause, and notes what it says about
    /// its limits. If the registry redirects to a host that requires a token, requests an anonymous
    /// one there.
    async fn request_with_limits(
        &self,
        candidate: TriedCredential<'_>,
        value: Option<HeaderValue>,
    ) -> Result<HttpResponse, RegistryError> {
        let limits = &self.call.client.limits;
        let (base, class) = (&self.endpoint.base, LimitClass::of(&self.operation.method));
        if let Some(RemainingPause { pause, response }) =
            limits.remaining(base, candidate.identity, class)
        {
            return Err(self.context.limited(&response, pause));
        }
        let mut response = self.exchange(value.clone()).await?;
        if response.is_elsewhere && response.status == StatusCode::UNAUTHORIZED {
            self.authorize_elsewhere(&response).await?;
            response = self.exchange(value.clone()).await?;
        }
        let quoted = response.quoted(&secrets(candidate.credential, value.as_ref()));
        if let Some(limit) = response.stated_limit(&quoted) {
            let pause = limits.begin(base, candidate.identity, class, limit, &quoted);
            return Err(self.context.limited(&quoted, pause));
        }
        if let Some(pause) =
            response.outage_pause().filter(|_| response.status == StatusCode::SERVICE_UNAVAILABLE)
        {
            let limit = StatedLimit { pause: Some(pause) };
            limits.begin(base, candidate.identity, class, limit, &quoted);
        }
        if response.status.is_success() {
            limits.note_success(base, candidate.identity, class);
        }
        if let Some(remaining) = RemainingPulls::of(&response.headers) {
            limits.note_remaining(base, candidate.identity, remaining);
        }
        Ok(response)
    }

    async fn exchange(&self, value: Option<HeaderValue>) -> Result<HttpResponse, RegistryError> {
        let Self { call, endpoint, deadline, operation, context } = *self;
        let elsewhere = |url: &Url| {
            let cached = call.client.authorizations.get(&self.elsewhere_key(url));
            cached.map(|cached| cached.value)
        };
        let mut request: HttpRequest<'_> =
            operation.to_request(context, endpoint, call.image, value)?;
        request.elsewhere = Some(&elsewhere);
        call.client.http.send(context, deadline, request).await
    }

    /// Requests an anonymous token for a host to which the registry has redirected.
    async fn authorize_elsewhere(&self, response: &HttpResponse) -> Result<(), RegistryError> {
        let host = authority(&response.url);
        let Some(Challenge::Bearer(bearer)) = Challenge::from_headers(&response.headers) else {
            return Err(self.context.denied(
                AccessDenial::Elsewhere,
                format!(
                    "it redirects to {host}, which requires a credential and does not receive the \
                     one of the registry; name the image by that host"
                ),
            ));
        };
        let key = self.elsewhere_key(&response.url);
        let context = ErrorContext { host: &host, ..self.context };
        let authorization =
            self.applicant(context, &key, None).authorize(&Challenge::Bearer(bearer)).await;
        let authorization = authorization.map_err(RegistryError::of_other_host)?;
        self.call.client.authorizations.insert(key, &authorization);
        Ok(())
    }

    /// Returns the response if it is one of success, or else its error.
    fn checked(
        &self,
        response: HttpResponse,
        candidate: TriedCredential<'_>,
        value: Option<HeaderValue>,
    ) -> Result<HttpResponse, RegistryError> {
        let quoted = response.quoted(&secrets(candidate.credential, value.as_ref()));
        if response.status == StatusCode::UNAUTHORIZED && value.is_none() && !response.is_elsewhere
        {
            let problem = format!("{quoted}, without a challenge that the client supports");
            return Err(self.context.denied(AccessDenial::WithoutChallenge, problem));
        }
        let is_elsewhere = response.is_elsewhere;
        response
            .error_for_status(self.context, quoted)
            .map_err(|error| if is_elsewhere { error.of_other_host() } else { error })
    }

    fn applicant<'c>(
        &'c self,
        context: ErrorContext<'c>,
        key: &'c AuthorizationKey,
        credential: Option<&'c Credential>,
    ) -> Applicant<'c> {
        let client = self.call.client;
        Applicant {
            http: &client.http,
            config: &client.config,
            limits: &client.limits,
            context,
            deadline: self.deadline,
            key,
            credential,
        }
    }

    fn key(&self, identity: CredentialIdentity) -> AuthorizationKey {
        let path = self.call.image.path();
        AuthorizationKey::new(self.endpoint, path, self.operation.purpose, identity)
    }

    /// Returns the key of the anonymous authorization of another origin.
    fn elsewhere_key(&self, url: &Url) -> AuthorizationKey {
        AuthorizationKey {
            base: url.origin().ascii_serialization(),
            ..self.key(CredentialIdentity::of(None))
        }
    }
}

/// Whether another credential may be accepted where this one was not.
fn is_about_credential(error: &RegistryError) -> bool {
    matches!(
        error,
        RegistryError::Denied {
            denial: AccessDenial::NotAuthenticated | AccessDenial::NotAllowed,
            ..
        }
    )
}

/// Whether a response can be the consequence of a token that has expired.
fn may_be_expired(response: &HttpResponse, cached: &CachedAuthorization) -> bool {
    let is_token = cached.value.to_str().is_ok_and(|value| value.starts_with("Bearer "));
    let is_refusal = matches!(
        response.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
    );
    is_refusal && is_token && !cached.is_insufficient && !response.is_elsewhere
}

/// Returns what a message must not quote.
fn secrets<'a>(credential: Option<&'a Credential>, value: Option<&'a HeaderValue>) -> Vec<&'a str> {
    let sent = value.and_then(|value| value.to_str().ok()?.split_once(' ')).map(|(_, sent)| sent);
    credential.map(Credential::secret).into_iter().chain(sent).collect()
}
