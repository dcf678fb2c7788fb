//! The client: asking for manifests and configurations, and moving tags.
//!
//! Our own thin HTTP and not `oci-client`'s calls: those bind a host to the first credential they
//! see, read bodies of any size, hide why a token was not given, and never look at `Retry-After`.

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

use crate::{
    clock::Clock,
    registry::{
        Config, Descriptor, Digest, ImageConfig, ImageManifest, Keychain, Manifest, Reference,
        RegistryError,
        config::{Endpoint, Purpose},
        cooldown::Cooldown,
        credentials::CredentialIdentity,
        error::ErrorContext,
        http::{Http, HttpRequest, HttpResponse},
        manifest,
        token::{self, AuthorizationCache, AuthorizationKey, Challenge},
        transport::{HttpTransport, Transport},
    },
};

/// The most bytes of a manifest, the size that the distribution specification asks registries to
/// take at least.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// The most bytes of an image's configuration.
const MAX_CONFIG_BYTES: usize = 4 * 1024 * 1024;
/// The longest pause within a call. A registry that wants a longer one is not waited for: the call
/// fails, and tells when.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(5);
const DIGEST_HEADER: &str = "docker-content-digest";
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);

/// Speaks to registries. Cheap to clone; one is enough for a process, whatever the number of
/// credentials.
#[derive(Clone)]
pub struct Client(Arc<ClientInner>);

struct ClientInner {
    config: Config,
    http: Http,
    grants: AuthorizationCache,
    cooldown: Cooldown,
    /// How many calls were made; spreads their retries.
    calls: AtomicU64,
}

/// One thing that is asked of a registry.
struct Operation {
    method: Method,
    /// What follows the repository's path in the URL.
    path: String,
    headers: HeaderMap,
    body: Bytes,
    what: &'static str,
    limit: usize,
    purpose: Purpose,
}

impl Client {
    /// A client for this configuration. Fails if no CA certificates are found.
    pub fn new(config: Config) -> Result<Self, RegistryError> {
        let network = HttpTransport::new(&config)?;
        Ok(Self::with_transport(config, Arc::new(network), Clock::wall()))
    }

    /// A client for this configuration that reaches registries over this transport, and tells time
    /// by this clock.
    #[must_use]
    pub fn with_transport(config: Config, transport: Arc<dyn Transport>, clock: Clock) -> Self {
        let http = Http::new(&config, transport, clock);
        let (grants, cooldown, calls) =
            (AuthorizationCache::default(), Cooldown::default(), AtomicU64::default());
        Self(Arc::new(ClientInner { config, http, grants, cooldown, calls }))
    }

    /// Tells apart what would be shown to the registry, and to its mirrors, for this image: calls
    /// with equal identities get equal answers.
    #[must_use]
    pub fn identity(&self, image: &Reference, keychain: &Keychain) -> CredentialIdentity {
        let endpoints = self.0.config.endpoints(image.registry(), Purpose::Pull);
        keychain.identity(endpoints.iter().map(|endpoint| endpoint.registry.as_str()), image.path())
    }

    /// Whether this registry, with its port if it has one, is spoken to over plain HTTP.
    #[must_use]
    pub fn is_plain_http(&self, registry: &str) -> bool {
        self.0.config.is_plain_http(registry)
    }

    /// What the image's tag or digest stands for now; `None` if the registry does not have it.
    ///
    /// A `HEAD`, which registries do not count against pull limits; a `GET` only if the answer to
    /// it says too little.
    pub async fn head(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<Descriptor>, RegistryError> {
        let operation = Operation::read(Method::HEAD, format!("manifests/{}", image.identifier()));
        let expected = image.digest();
        let head =
            self.execute(image, keychain, &operation, |context, answer| {
                let Some(descriptor) = descriptor(&answer) else { return Ok(None) };
                match &expected {
                    Some(expected) if *expected != descriptor.digest => Err(context
                        .invalid_response(format!("answers for {} instead", descriptor.digest))),
                    _ => Ok(Some(descriptor)),
                }
            });
        match head.await {
            Ok(Some(descriptor)) => return Ok(Some(descriptor)),
            Err(RegistryError::NotFound { .. }) => return Ok(None),
            // Some registries refuse HEAD; the GET has the last word.
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

    /// The manifest that the image's tag or digest stands for, checked against every digest that is
    /// known for it.
    pub async fn manifest(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Manifest, RegistryError> {
        let operation = Operation::read(Method::GET, format!("manifests/{}", image.identifier()));
        let expected = image.digest();
        self.execute(image, keychain, &operation, |context, answer| {
            let content_type = answer.header(header::CONTENT_TYPE);
            let manifest = Manifest::parse(content_type, answer.body.clone())
                .map_err(|problem| context.invalid_response(problem))?;
            let told = answer.header(DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
            match [&expected, &told]
                .into_iter()
                .flatten()
                .find(|digest| **digest != manifest.digest)
            {
                Some(digest) => {
                    Err(context.invalid_response(format!("sends {} for {digest}", manifest.digest)))
                }
                None => Ok(manifest),
            }
        })
        .await
    }

    /// The configuration of an image whose manifest is known.
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
            ..Operation::read(Method::GET, format!("blobs/{digest}"))
        };
        self.execute(image, keychain, &operation, |context, answer| {
            let actual = Digest::of(&answer.body);
            if actual != *digest {
                return Err(context.invalid_response(format!("sends {actual} for {digest}")));
            }
            ImageConfig::parse(&answer.body).map_err(|problem| context.invalid_response(problem))
        })
        .await
    }

    /// Points a tag at a manifest whose content the repository has already. No layer is copied, and
    /// doing it twice is the same as doing it once. `tag` is the repository with the tag.
    pub async fn set_tag(
        &self,
        tag: &Reference,
        manifest: &Manifest,
        keychain: &Keychain,
    ) -> Result<(), RegistryError> {
        let shown = tag.to_string();
        let context = ErrorContext { image: &shown, host: tag.registry() };
        let media_type = HeaderValue::from_str(&manifest.media_type).map_err(|_| {
            context.invalid_response(
                "has a manifest \
                of no type",
            )
        })?;
        let operation = Operation {
            method: Method::PUT,
            path: format!("manifests/{}", tag.identifier()),
            headers: HeaderMap::from_iter([(header::CONTENT_TYPE, media_type)]),
            body: manifest.bytes.clone(),
            what: "answer to a push",
            limit: MAX_MANIFEST_BYTES,
            purpose: Purpose::Push,
        };
        let told = self
            .execute(tag, keychain, &operation, |_, answer| {
                Ok(answer.header(DIGEST_HEADER).and_then(|text| text.parse().ok()))
            })
            .await?;
        let stands = match told {
            Some(digest) => digest,
            None => match self.head(tag, keychain).await? {
                Some(descriptor) => descriptor.digest,
                None => {
                    return Err(context.invalid_response("took the manifest and does not have it"));
                }
            },
        };
        if stands == manifest.digest {
            Ok(())
        } else {
            Err(context.invalid_response(format!(
                "took the manifest {} and has {stands} under the tag",
                manifest.digest
            )))
        }
    }

    /// Carries out an operation within the configured time, asking every endpoint, and again after
    /// a pause while all that is wrong is transient.
    async fn execute<T>(
        &self,
        image: &Reference,
        keychain: &Keychain,
        operation: &Operation,
        read: impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let shown = image.to_string();
        let retry = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(MAX_RETRY_PAUSE)
            .with_max_times(3)
            .with_jitter()
            .with_jitter_seed(self.jitter_seed(&shown));
        let call = (|| self.try_endpoints(&shown, image, keychain, operation, &read))
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
            let context = ErrorContext { image: &shown, host: image.registry() };
            Err(context.unreachable(&format!("not done within {limit}")))
        })
    }

    /// A number for each call, so that calls that fail together are not tried again together.
    fn jitter_seed(&self, image: &str) -> u64 {
        let call = self.0.calls.fetch_add(1, Ordering::Relaxed);
        BuildHasherDefault::<DefaultHasher>::default().hash_one((image, call))
    }

    /// Asks the endpoints one after the other, as containerd does: whatever is wrong with a mirror,
    /// the next one is asked.
    async fn try_endpoints<T>(
        &self,
        shown: &str,
        image: &Reference,
        keychain: &Keychain,
        operation: &Operation,
        read: &impl Fn(ErrorContext<'_>, HttpResponse) -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut worst: Option<RegistryError> = None;
        for endpoint in self.0.config.endpoints(image.registry(), operation.purpose) {
            let context = ErrorContext { image: shown, host: &endpoint.registry };
            let identity = keychain.identity([endpoint.registry.as_str()], image.path());
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
            match result.and_then(|answer| read(context, answer)) {
                Ok(value) => return Ok(value),
                Err(error)
                    if worst
                        .as_ref()
                        .is_none_or(|worst| worst.specificity() <= error.specificity()) =>
                {
                    worst = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(worst.unwrap_or_else(|| {
            ErrorContext { image: shown, host: image.registry() }.unreachable("no endpoint")
        }))
    }

    /// Asks one endpoint, answering its challenge once if it sets one.
    async fn send_to_endpoint(
        &self,
        context: ErrorContext<'_>,
        endpoint: &Endpoint,
        image: &Reference,
        keychain: &Keychain,
        identity: CredentialIdentity,
        operation: &Operation,
    ) -> Result<HttpResponse, RegistryError> {
        let ClientInner { config, http, grants, .. } = &*self.0;
        let credential = keychain.lookup(&endpoint.registry, image.path());
        let grant = AuthorizationKey::new(endpoint, image.path(), operation.purpose, identity);

        let known = grants.get(&grant);
        let mut answer =
            http.send(context, operation.request(context, endpoint, image, known.clone())?).await?;
        let mut used = known;
        if answer.status == StatusCode::UNAUTHORIZED {
            grants.drop(&grant);
            let Some(challenge) = Challenge::from_headers(&answer.headers) else {
                return Err(context.denied("401 Unauthorized, without saying what it wants"));
            };
            let (value, life) =
                token::authorize(http, config, context, challenge, &grant, credential).await?;
            answer = http
                .send(context, operation.request(context, endpoint, image, Some(value.clone()))?)
                .await?;
            if answer.status != StatusCode::UNAUTHORIZED {
                grants.put(grant, value.clone(), life);
            }
            used = Some(value);
        }
        let sent = used
            .as_ref()
            .and_then(|value| value.to_str().ok()?.split_once(' '))
            .map(|(_, sent)| sent);
        let secrets: Vec<&str> = credential.map(token::secret).into_iter().chain(sent).collect();
        answer.ok(context, &secrets)
    }
}

impl Operation {
    fn read(method: Method, path: String) -> Self {
        let headers = HeaderMap::from_iter([(header::ACCEPT, ACCEPT)]);
        Self {
            method,
            path,
            headers,
            body: Bytes::new(),
            what: "manifest",
            limit: MAX_MANIFEST_BYTES,
            purpose: Purpose::Pull,
        }
    }

    fn request(
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
        let url =
            url.parse().map_err(|_| context.invalid_response("has a name that no URL can hold"))?;
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

/// What the headers of an answer say about a manifest; `None` if they do not say all of it.
fn descriptor(answer: &HttpResponse) -> Option<Descriptor> {
    let media_type = answer
        .header(header::CONTENT_TYPE)
        .map(manifest::without_parameters)
        .filter(|media_type| manifest::is_manifest_type(media_type))?;
    Some(Descriptor {
        digest: answer.header(DIGEST_HEADER)?.parse().ok()?,
        media_type: media_type.into(),
        size: answer.header(header::CONTENT_LENGTH)?.parse().ok()?,
    })
}
