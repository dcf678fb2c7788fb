//! One call: it tries the mirrors of a registry and the registry itself, repeats what failed
//! briefly, and keeps to the limits of hosts.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::atomic::Ordering,
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::registry::{
    Client, Keychain, Reference, RegistryError, client::ClientInner, config::Endpoint,
    deadline::Deadline, error::ErrorContext, http::HttpResponse, operation::Operation,
};

/// Upper bound on a pause within a call. If a registry asks for a longer pause, the call fails and
/// its error reports that pause.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
/// The first pause before a request is repeated. It doubles.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often a request is repeated.
const MAX_RETRIES: usize = 3;
/// How often a request is repeated that was limited, for a pause that the registry has named.
const MAX_LIMITED_RETRIES: usize = 1;
/// Upper bound on the time that a mirror gets.
const MAX_MIRROR_TIME: Duration = Duration::from_secs(10);
/// The part of a call's time that a mirror gets.
const MIRROR_SHARE: u32 = 4;

/// A call about one image.
pub(super) struct RegistryCall<'a> {
    pub client: &'a ClientInner,
    pub image: &'a Reference,
    pub keychain: &'a Keychain,
    /// The image's full name, for errors.
    pub name: String,
}

impl<'a> RegistryCall<'a> {
    pub(super) fn new(client: &'a Client, image: &'a Reference, keychain: &'a Keychain) -> Self {
        Self { client: &client.0, image, keychain, name: image.to_string() }
    }

    /// Returns the context of errors of this endpoint.
    pub(super) fn context<'c>(&'c self, endpoint: &'c Endpoint) -> ErrorContext<'c> {
        ErrorContext { image: &self.name, host: &endpoint.registry }
    }

    /// Executes an operation at the mirrors, one after the other, and then at the registry itself.
    /// What the registry says counts, and a mirror only if it has what is asked for.
    pub(super) async fn execute<T>(
        &self,
        operation: &Operation,
        read: impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let registry = self.image.registry();
        let endpoints = self.client.config.endpoints(registry, operation.purpose);
        let mut failed: Option<(&Endpoint, RegistryError)> = None;
        for mirror in endpoints.iter().filter(|endpoint| endpoint.mirrored.is_some()) {
            match self.ask_mirror(mirror, operation, &read).await {
                Ok(value) => return Ok(value),
                Err(error) => failed = Some((mirror, error)),
            }
        }
        let origin = self.client.config.origin(registry);
        self.ask_registry(&origin, operation, &read).await.map_err(|error| match &failed {
            Some((mirror, failure)) => error.after_mirror(&mirror.registry, failure),
            None => error,
        })
    }

    /// Executes an operation at a mirror: once, and within a short time.
    pub(super) async fn ask_mirror<T>(
        &self,
        mirror: &Endpoint,
        operation: &Operation,
        read: &impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let limit = Duration::from(self.client.config.timeout) / MIRROR_SHARE;
        let deadline = Deadline::after(limit.min(MAX_MIRROR_TIME));
        self.attempt(mirror, &deadline, operation, read).await
    }

    /// Executes an operation at the registry itself within the configured timeout. It is repeated
    /// with a pause as long as the registry fails briefly.
    pub(super) async fn ask_registry<T>(
        &self,
        origin: &Endpoint,
        operation: &Operation,
        read: &impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let deadline = Deadline::after(self.client.config.timeout.into());
        let mut pauses = ExponentialBuilder::new()
            .with_min_delay(MIN_RETRY_PAUSE)
            .with_max_delay(MAX_RETRY_PAUSE)
            .with_max_times(MAX_RETRIES)
            .with_jitter()
            .with_jitter_seed(self.jitter_seed())
            .build();
        let mut limited = 0;
        loop {
            let error = match self.attempt(origin, &deadline, operation, read).await {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let pause = match (&error, error.retry_after()) {
                (_, Some(wanted)) if wanted > MAX_RETRY_PAUSE => None,
                (RegistryError::Limited { pause, .. }, _) if limited < MAX_LIMITED_RETRIES => {
                    limited += 1;
                    Some(*pause)
                }
                (_, wanted) if error.is_brief() => {
                    pauses.next().map(|pause| pause.max(wanted.unwrap_or_default()))
                }
                _ => None,
            };
            let now = tokio::time::Instant::now();
            match pause.filter(|pause| now + *pause < deadline.ends_at()) {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }

    /// Executes an operation once at one endpoint.
    async fn attempt<T>(
        &self,
        endpoint: &Endpoint,
        deadline: &Deadline,
        operation: &Operation,
        read: &impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let response = self.send(endpoint, deadline, operation).await?;
        read(self.context(endpoint), response)
    }

    /// Returns a different seed for each call, so that calls that fail at the same time are not
    /// retried at the same time.
    fn jitter_seed(&self) -> u64 {
        let call = self.client.calls.fetch_add(1, Ordering::Relaxed);
        BuildHasherDefault::<DefaultHasher>::default().hash_one((&self.name, call))
    }
}
