//! The registry client: reads manifests and configurations.
//!
//! It uses its own thin HTTP layer instead of the calls of `oci-client`. Those bind a host to the
//! first credential that they see, read bodies of any size, hide why a token was not granted, and
//! ignore `Retry-After`.

use std::sync::{Arc, atomic::AtomicU64};

use http::{Method, header};

use crate::{
    api::CredentialUse,
    clock::Clock,
    registry::{
        Config, Digest, ImageConfig, ImageManifest, Keychain, Manifest, Reference, RegistryError,
        authorizations::AuthorizationCache,
        call::RegistryCall,
        config::Purpose,
        content_cache::{CachedContent, ContentCache, ContentKey},
        credentials::CredentialIdentity,
        error::{ErrorContext, MANIFEST},
        http::{DIGEST_HEADER, Http, HttpResponse},
        operation::Operation,
        own_tags::PushRights,
        rate_limits::RateLimits,
        tag_memory::TagMemory,
        transport::{GuardedTransport, HttpTransport, MayWrite, Transport},
    },
};

/// Maximum size of a manifest in bytes: the size that the distribution specification requires every
/// registry to accept.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;
/// Maximum size of an image's configuration in bytes.
pub(super) const MAX_CONFIG_BYTES: usize = 1024 * 1024;
/// Maximum size of the response to the begin or the end of an upload in bytes.
pub(super) const MAX_UPLOAD_RESPONSE_BYTES: usize = 64 * 1024;

/// Client for all registries. It is cheap to clone, and one per process is enough for any number of
/// credentials.
#[derive(Clone)]
pub struct Client(pub(super) Arc<ClientInner>);

/// What all calls share.
pub(super) struct ClientInner {
    pub config: Config,
    pub http: Http,
    pub authorizations: AuthorizationCache,
    pub limits: RateLimits,
    pub contents: ContentCache,
    pub tags: TagMemory,
    pub push_rights: PushRights,
    /// Number of calls so far, from which the jitter of each call is derived.
    pub calls: AtomicU64,
}

/// What a tag or a digest refers to, as far as a `HEAD` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManifestHead {
    /// The digest of the manifest.
    pub digest: Digest,
    /// The media type of the manifest, if the registry names one.
    pub media_type: Option<String>,
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
        Self(Arc::new(ClientInner {
            http: Http::new(&config, transport, clock),
            config,
            authorizations: AuthorizationCache::default(),
            limits: RateLimits::default(),
            contents: ContentCache::default(),
            tags: TagMemory::default(),
            push_rights: PushRights::default(),
            calls: AtomicU64::default(),
        }))
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

    /// Returns the host that serves this registry, with its port if that is not the default one.
    #[must_use]
    pub fn serving_host(&self, registry: &str) -> String {
        self.0.config.serving_host(registry)
    }

    /// Returns the manifest that the image's tag or digest refers to. Its digest is checked against
    /// the requested one and the one in the response's headers.
    pub async fn manifest(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Manifest, RegistryError> {
        let operation = Operation::manifest(Method::GET, image);
        let call = RegistryCall::new(self, image, keychain);
        let manifest = call
            .execute(&operation, |context, response| read_manifest(context, image, response))
            .await?;
        self.remember(&call, &manifest);
        Ok(manifest)
    }

    /// Returns the manifest of a digest, which is requested at most once as long as it is
    /// remembered: it does not say whether the registry still has the manifest.
    pub async fn known_manifest(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Manifest, RegistryError> {
        match self.remembered(image, keychain) {
            Some(manifest) => Ok(manifest),
            None => self.manifest(image, keychain).await,
        }
    }

    /// Returns the manifest of a digest, or `None` if what has this digest is no manifest that can
    /// be read, or is larger than what is read. It is requested at most once as long as it is
    /// remembered.
    pub async fn readable_manifest(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Option<Manifest>, RegistryError> {
        if let Some(manifest) = self.remembered(image, keychain) {
            return Ok(Some(manifest));
        }
        let operation = Operation::manifest(Method::GET, image);
        let expected = image.digest();
        let call = RegistryCall::new(self, image, keychain);
        let manifest = call.execute(&operation, |context, response| {
            let actual = Digest::of(&response.body);
            if let Some(digest) = expected.as_ref().filter(|expected| **expected != actual) {
                return Err(context.invalid_response(format!("sent {actual} for {digest}")));
            }
            let content_type = response.header(header::CONTENT_TYPE);
            Ok(Manifest::parse(content_type, response.body.clone()).ok())
        });
        match manifest.await {
            Ok(Some(manifest)) => {
                self.remember(&call, &manifest);
                Ok(Some(manifest))
            }
            Err(RegistryError::TooLarge { what: MANIFEST, .. }) => Ok(None),
            other => other,
        }
    }

    /// Returns the configuration of an image, given its manifest. It is requested at most once as
    /// long as it is remembered.
    pub async fn config(
        &self,
        image: &Reference,
        manifest: &ImageManifest,
        keychain: &Keychain,
    ) -> Result<ImageConfig, RegistryError> {
        let digest = &manifest.config.digest;
        let operation = Operation::config(digest.as_str());
        let call = RegistryCall::new(self, image, keychain);
        let key = self.content_key(&call, digest.clone());
        if let Some(known) = self.0.contents.get(&key)
            && let Ok(config) = ImageConfig::parse(&known.bytes)
        {
            return Ok(config);
        }
        call.execute(&operation, |context, response| {
            let actual = Digest::of(&response.body);
            if actual != *digest {
                return Err(context.invalid_response(format!("sent {actual} for {digest}")));
            }
            let config = ImageConfig::parse(&response.body)
                .map_err(|problem| context.invalid_response(problem))?;
            let content = CachedContent { content_type: None, bytes: response.body };
            self.0.contents.insert(key.clone(), content);
            Ok(config)
        })
        .await
    }

    /// Returns the manifest of the image's digest if it is remembered.
    fn remembered(&self, image: &Reference, keychain: &Keychain) -> Option<Manifest> {
        let call = RegistryCall::new(self, image, keychain);
        let known = self.0.contents.get(&self.content_key(&call, image.digest()?))?;
        Manifest::parse(known.content_type.as_deref(), known.bytes).ok()
    }

    pub(super) fn remember(&self, call: &RegistryCall<'_>, manifest: &Manifest) {
        let Manifest { digest, media_type, bytes, .. } = manifest;
        let content =
            CachedContent { content_type: Some(media_type.clone()), bytes: bytes.clone() };
        self.0.contents.insert(self.content_key(call, digest.clone()), content);
    }

    fn content_key(&self, call: &RegistryCall<'_>, digest: Digest) -> ContentKey {
        let identity = self.identity(call.image, call.keychain);
        ContentKey { repository: call.image.repository(), identity, digest }
    }
}

/// Reads a manifest, and checks its digest against the requested one and the one in the headers.
pub(super) fn read_manifest(
    context: ErrorContext<'_>,
    image: &Reference,
    response: HttpResponse,
) -> Result<Manifest, RegistryError> {
    let content_type = response.header(header::CONTENT_TYPE);
    let manifest = Manifest::parse(content_type, response.body.clone())
        .map_err(|problem| context.invalid_response(problem))?;
    let reported = response.header(DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
    let named = [image.digest(), reported];
    match named.into_iter().flatten().find(|digest| *digest != manifest.digest) {
        Some(digest) => {
            Err(context.invalid_response(format!("sent {} for {digest}", manifest.digest)))
        }
        None => Ok(manifest),
    }
}
