//! The registry client: reads manifests and configurations, and sets tags.
//!
//! It uses its own thin HTTP layer instead of the calls of `oci-client`. Those bind a host to the
//! first credential that they see, read bodies of any size, hide why a token was not granted, and
//! ignore `Retry-After`.

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use backon::{ExponentialBuilder, Retryable};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use url::Url;

use crate::{
    api::CredentialUse,
    clock::Clock,
    registry::{
        Config, Descriptor, Digest, ImageConfig, ImageManifest, Keychain, Manifest, Reference,
        RegistryError,
        config::{Endpoint, Purpose},
        cooldown::Cooldown,
        credentials::{Credential, CredentialIdentity},
        error::{ErrorContext, MANIFEST},
        http::{Http, HttpRequest, HttpResponse},
        manifest,
        token::{self, AuthorizationCache, AuthorizationKey, Challenge},
        transport::{GuardedTransport, HttpTransport, MayWrite, Transport},
    },
};

/// Maximum size of a manifest in bytes: the size that the distribution specification requires every
/// registry to accept.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// Maximum size of an image's configuration in bytes.
const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;
/// Maximum size of the response to the begin or the end of an upload in bytes.
const MAX_UPLOAD_RESPONSE_BYTES: usize = 64 * 1024;
/// Upper bound on a pause within a call. If a registry asks for a longer pause, the call fails and
/// its error reports that pause.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
const DIGEST_HEADER: &str = "docker-content-digest";
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);

/// Client for all registries. It is cheap to clone, and one per process is enough for any number of
/// credentials.
#[derive(Clone)]
pub struct Client(Arc<ClientInner>);

struct ClientInner {
    config: Config,
    http: Http,
    authorizations: AuthorizationCache,
    cooldown: Cooldown,
    /// Number of calls so far, from which the jitter of each call is derived.
    calls: AtomicU64,
}

/// A request to a registry, independent of the endpoint that receives it.
struct Operation {
    method: Method,
    /// The part of the URL after the repository's path.
    path: String,
    headers: HeaderMap,
    body: Bytes,
    what: &'static str,
    limit: usize,
    purpose: Purpose,
}

impl Client {
    /// Creates a client. Fails if no CA certificates are found.
    pub fn new(config: Config) -> Result<Self, RegistryError> {
        let transport = HttpTransport::new(&config)?;
        Ok(Self::with_transport(config, Arc::new(transport), Clock::wall()))
    }

    /// Creates a client that changes something in registries only while that is allowed. Fails if
    /// no CA certificates are found.
    pub fn guarded(config: Config, may_write: MayWrite) -> Result<Self, RegistryError> {
        let inner = Arc::new(HttpTransport::new(&config)?);
        let transport = GuardedTransport { inner, may_write };
        Ok(Self::with_transport(config, Arc::new(transport), Clock::wall()))
    }

    /// Creates a client that reaches registries over `transport` and reads the time from `clock`.
    #[must_use]
    pub fn with_transport(config: Config, transport: Arc<dyn Transport>, clock: Clock) -> Self {
        let http = Http::new(&config, transport, clock);
        let (authorizations, cooldown, calls) =
            (AuthorizationCache::default(), Cooldown::default(), AtomicU64::default());
        Self(Arc::new(ClientInner { config, http, authorizations, cooldown, calls }))
    }

    /// Returns the identity of the credentials that the registry and its mirrors would receive for
    /// this image. Calls with equal identities get equal responses.
    #[must_use]
    pub fn identity(&self, image: &Reference, keychain: &Keychain) -> CredentialIdentity {
        let endpoints = self.0.config.endpoints(image.registry(), Purpose::Pull);
        let registries = endpoints.iter().map(|endpoint| endpoint.registry.as_str());
        keychain.identity(registries, image.path(), CredentialUse::Pull)
    }

    /// Whether this registry, given with its port if it has one, is reached over plain HTTP.
    #[must_use]
    pub fn is_plain_http(&self, registry: &str) -> bool {
        self.0.config.is_plain_http(registry)
    }

    /// Returns the descriptor of the manifest that the image's tag or digest currently refers to,
    /// or `None` if the registry does not have it.
    ///
    /// Sends a `HEAD`, which registries do not count against pull limits. Sends a `GET` only if the
    /// response to the `HEAD` lacks a header or the registry rejects `HEAD`.
    pub async fn head(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let operation = Operation::pull(Method::HEAD, format!("manifests/{}", image.identifier()));
        let expected = image.digest();
        let head = self.execute(image, keychain, &operation, |context, response| {
            let Some(descriptor) = descriptor(&response) else { return Ok(None) };
            match &expected {
                Some(expected) if *expected != descriptor.digest => Err(context.invalid_response(
                    format!("responded with {} instead of the requested digest", descriptor.digest),
                )),
                _ => Ok(Some(descriptor)),
            }
        });
        match head.await {
            Ok(Some(descriptor)) => return Ok(Some(descriptor)),
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            // Some registries reject HEAD; the response to the GET decides.
            Ok(None) | Err(RegistryError::Rejected { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.manifest(image, keychain).await {
            Ok(Manifest { digest, media_type, bytes, .. }) => {
                Ok(Some(Descriptor { digest, media_type, size: bytes.len() as u64 }))
            }
            Err(RegistryError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns the manifest that the image's tag or digest refers to. Its digest is checked against
    /// the requested one and the one in the response's headers.
    pub async fn manifest(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Manifest, RegistryError> {
        let operation = Operation::pull(Method::GET, format!("manifests/{}", image.identifier()));
        let expected = image.digest();
        self.execute(image, keychain, &operation, |context, response| {
            let content_type = response.header(header::CONTENT_TYPE);
            let manifest = Manifest::parse(content_type, response.body.clone())
                .map_err(|problem| context.invalid_response(problem))?;
            let reported =
                response.header(DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
            match [&expected, &reported]
                .into_iter()
                .flatten()
                .find(|digest| **digest != manifest.digest)
            {
                Some(digest) => {
                    Err(context.invalid_response(format!("sent {} for {digest}", manifest.digest)))
                }
                None => Ok(manifest),
            }
        })
        .await
    }

    /// Returns the manifest of a digest, or `None` if what has this digest is no manifest that can
    /// be read, or is larger than what is read.
    pub async fn readable_manifest(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<Manifest>, RegistryError> {
        let operation = Operation::pull(Method::GET, format!("manifests/{}", image.identifier()));
        let expected = image.digest();
        let manifest = self.execute(image, keychain, &operation, |context, response| {
            let actual = Digest::of(&response.body);
            if let Some(digest) = expected.as_ref().filter(|expected| **expected != actual) {
                return Err(context.invalid_response(format!("sent {actual} for {digest}")));
            }
            let content_type = response.header(header::CONTENT_TYPE);
            Ok(Manifest::parse(content_type, response.body.clone()).ok())
        });
        match manifest.await {
            Err(RegistryError::TooLarge { what: MANIFEST, .. }) => Ok(None),
            other => other,
        }
    }

    /// Returns the configuration of an image, given its manifest.
    pub async fn config(
        &self,
        image: &Reference,
        manifest: &ImageManifest,
        keychain: &Keychain,
    ) -> Result<ImageConfig, RegistryError> {
        let digest = &manifest.config.digest;
        let operation = Operation {
            what: "configuration",
            limit: MAX_CONFIG_BYTES,
            ..Operation::pull(Method::GET, format!("blobs/{digest}"))
        };
        self.execute(image, keychain, &operation, |context, response| {
            let actual = Digest::of(&response.body);
            if actual != *digest {
                return Err(context.invalid_response(format!("sent {actual} for {digest}")));
            }
            ImageConfig::parse(&response.body).map_err(|problem| context.invalid_response(problem))
        })
        .await
    }

    /// Sets a tag to a manifest whose blobs the repository already has. No layer is copied, and the
    /// call is idempotent. `tag` is the repository with the tag.
    pub async fn set_tag(
        &self,
        tag: &Reference,
        manifest: &Manifest,
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let image_name = tag.to_string();
        let context = ErrorContext { image: &image_name, host: tag.registry() };
        let media_type = HeaderValue::from_str(&manifest.media_type)
            .map_err(|_| context.invalid_response("has a manifest with an invalid media type"))?;
        let operation = Operation {
            method: Method::PUT,
            path: format!("manifests/{}", tag.identifier()),
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]),
            body: manifest.bytes.clone(),
            what: "push response",
            limit: MAX_MANIFEST_BYTES,
            purpose: Purpose::Push,
        };
        let reported = self
            .execute(tag, keychain, &operation, |_, response| {
                Ok(response.header(DIGEST_HEADER).and_then(|text| text.parse().ok()))
            })
            .await?;
        let tagged = match reported {
            Some(digest) => digest,
            None => match self.head(tag, keychain).await? {
                Some(descriptor) => descriptor.digest,
                None => {
                    return Err(
                        context.invalid_response("accepted the manifest but does not have it")
                    );
                }
            },
        };
        if tagged == manifest.digest {
            Ok(())
        } else {
            Err(context.invalid_response(format!(
                "accepted the manifest {}, but the tag points to {tagged}",
                manifest.digest
            )))
        }
    }

    /// Verifies that the credential may push to the image's repository: begins an upload and
    /// cancels it. Nothing is written, and the image's tag is not used.
    pub async fn verify_push(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let push = |method, path| Operation {
            method,
            path,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            what: "upload response",
            limit: MAX_UPLOAD_RESPONSE_BYTES,
            purpose: Purpose::Push,
        };
        let begin = push(Method::POST, "blobs/uploads/".into());
        let location = self.execute(image, keychain, &begin, |_, response| {
            Ok(response.header(header::LOCATION).map(ToOwned::to_owned))
        });
        let location = location.await?;
        // Registries drop uploads that are never completed, so a failure to cancel one is harmless.
        if let Some(path) = location.and_then(|location| self.upload_path(image, &location)) {
            _ = self.execute(image, keychain, &push(Method::DELETE, path), |_, _| Ok(())).await;
        }
        Ok(())
    }

    /// Returns the part of an upload's location after the repository's path, or `None` if the
    /// location is not in this repository of this registry.
    fn upload_path(&self, image: &Reference, location: &str) -> Option<String> {
        let endpoint =
            self.0.config.endpoints(image.registry(), Purpose::Push).into_iter().next()?;
        let url = Url::parse(&endpoint.base).ok()?.join(location).ok()?;
        let path = url.as_str().strip_prefix(&format!("{}/v2/{}/", endpoint.base, image.path()))?;
        Some(path.to_owned())
    }

    /// Executes an operation within the configured timeout. It tries every endpoint and retries
    /// with a pause as long as the error is transient.
    async fn execute<T>(
        &self,
        image: &Reference,
        keychain: &Keychain,
        operation: &Operation,
        read: impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let image_name = image.to_string();
        let retry = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(MAX_RETRY_PAUSE)
            .with_max_times(3)
            .with_jitter()
            .with_jitter_seed(self.jitter_seed(&image_name));
        let call = (|| self.try_endpoints(&image_name, image, keychain, operation, &read))
            .retry(retry)
            .sleep(tokio::time::sleep)
            .when(RegistryError::is_transient)
            .adjust(|error, pause| match (error.retry_after(), pause) {
                (Some(wanted), Some(_)) if wanted > MAX_RETRY_PAUSE => None,
                (Some(wanted), Some(pause)) => Some(pause.max(wanted)),
                (_, pause) => pause,
            });
        let limit = self.0.config.timeout;
        tokio::time::timeout(limit.into(), call).await.unwrap_or_else(|_| {
            let context = ErrorContext { image: &image_name, host: image.registry() };
            Err(context.unreachable(&format!("the call did not complete within {limit}")))
        })
    }

    /// Returns a different seed for each call, so that calls that fail at the same time are not
    /// retried at the same time.
    fn jitter_seed(&self, image: &str) -> u64 {
        let call = self.0.calls.fetch_add(1, Ordering::Relaxed);
        BuildHasherDefault::<DefaultHasher>::default().hash_one((image, call))
    }

    /// Tries the endpoints in order, as containerd does: after any error of a mirror the next
    /// endpoint is tried. If all fail, the most specific error is returned.
    async fn try_endpoints<T>(
        &self,
        image_name: &str,
        image: &Reference,
        keychain: &Keychain,
        operation: &Operation,
        read: &impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut most_specific: Option<RegistryError> = None;
        for endpoint in self.0.config.endpoints(image.registry(), operation.purpose) {
            let context = ErrorContext { image: image_name, host: &endpoint.registry };
            let wanted = operation.purpose.credential_use();
            let identity = keychain.identity([endpoint.registry.as_str()], image.path(), wanted);
            let result = match self.0.cooldown.remaining(&endpoint, identity) {
                Some(remaining) => Err(context.rate_limited(remaining)),
                None => {
                    self.send_to_endpoint(context, &endpoint, image, keychain, identity, operation)
                        .await
                }
            };
            if let Some(pause) = result
                .as_ref()
                .err()
                .and_then(RegistryError::retry_after)
                .filter(|pause| *pause > MAX_RETRY_PAUSE)
            {
                self.0.cooldown.begin(&endpoint, identity, pause);
            }
            match result.and_then(|response| read(context, response)) {
                Ok(value) => return Ok(value),
                Err(error)
                    if most_specific
                        .as_ref()
                        .is_none_or(|known| known.specificity() <= error.specificity()) =>
                {
                    most_specific = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(most_specific.unwrap_or_else(|| {
            ErrorContext { image: image_name, host: image.registry() }
                .unreachable("no endpoint is configured")
        }))
    }

    /// Sends the operation to one endpoint. If the endpoint responds with an authentication
    /// challenge, answers it and sends the operation a second time.
    async fn send_to_endpoint(
        &self,
        context: ErrorContext<'_>,
        endpoint: &Endpoint,
        image: &Reference,
        keychain: &Keychain,
        identity: CredentialIdentity,
        operation: &Operation,
    ) -> Result<HttpResponse, RegistryError> {
        let ClientInner { config, http, authorizations, .. } = &*self.0;
        let wanted = operation.purpose.credential_use();
        let credential = keychain.lookup(&endpoint.registry, image.path(), wanted);
        let key = AuthorizationKey::new(endpoint, image.path(), operation.purpose, identity);

        let cached = authorizations.get(&key);
        let mut response = http
            .send(context, operation.to_request(context, endpoint, image, cached.clone())?)
            .await?;
        let mut used = cached;
        if response.status == StatusCode::UNAUTHORIZED {
            authorizations.remove(&key);
            let Some(challenge) = Challenge::from_headers(&response.headers) else {
                return Err(
                    context.denied("401 Unauthorized without a challenge that the client supports")
                );
            };
            let (value, lifetime) =
                token::authorize(http, config, context, challenge, &key, credential).await?;
            response = http
                .send(context, operation.to_request(context, endpoint, image, Some(value.clone()))?)
                .await?;
            if response.status != StatusCode::UNAUTHORIZED {
                authorizations.insert(key, value.clone(), lifetime);
            }
            used = Some(value);
        }
        let sent = used
            .as_ref()
            .and_then(|value| value.to_str().ok()?.split_once(' '))
            .map(|(_, sent)| sent);
        let secrets: Vec<&str> =
            credential.map(Credential::secret).into_iter().chain(sent).collect();
        response.error_for_status(context, &secrets).map_err(|error| match operation.purpose {
            Purpose::Push => error.of_push(),
            Purpose::Pull => error,
        })
    }
}

impl Operation {
    fn pull(method: Method, path: String) -> Self {
        let headers = HeaderMap::from_iter([(header::ACCEPT, ACCEPT)]);
        Self {
            method,
            path,
            headers,
            body: Bytes::new(),
            what: MANIFEST,
            limit: MAX_MANIFEST_BYTES,
            purpose: Purpose::Pull,
        }
    }

    fn to_request(
        &self,
        context: ErrorContext<'_>,
        endpoint: &Endpoint,
        image: &Reference,
        authorization: Option<HeaderValue>,
    ) -> Result<HttpRequest, RegistryError> {
        let query = endpoint
            .mirrored
            .as_ref()
            .map_or_else(String::new, |registry| format!("?ns={registry}"));
        let url = format!("{}/v2/{}/{}{query}", endpoint.base, image.path(), self.path);
        let url = url.parse().map_err(|_| {
            context.invalid_response("has an image name that is not valid in a URL")
        })?;
        Ok(HttpRequest {
            method: self.method.clone(),
            url,
            headers: self.headers.clone(),
            authorization,
            body: self.body.clone(),
            what: self.what,
            limit: self.limit,
        })
    }
}

/// Reads the descriptor of a manifest from the headers of a response. Returns `None` if a header is
/// missing or the media type is not one of a manifest.
fn descriptor(response: &HttpResponse) -> Option<Descriptor> {
    let media_type = response
        .header(header::CONTENT_TYPE)
        .map(manifest::without_parameters)
        .filter(|media_type| manifest::is_manifest_type(media_type))?;
    Some(Descriptor {
        digest: response.header(DIGEST_HEADER)?.parse().ok()?,
        media_type: media_type.into(),
        size: response.header(header::CONTENT_LENGTH)?.parse().ok()?,
    })
}
