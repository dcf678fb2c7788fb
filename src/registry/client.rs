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
        Config, Descriptor, Digest, Error, ImageConfig, ImageManifest, Keychain, Manifest,
        Reference,
        config::{Endpoint, Purpose},
        cooldown::Cooldown,
        credentials::Identity,
        error::Asked,
        http::{Answer, Http, Request},
        manifest,
        token::{self, Challenge, Grant, Grants},
        transport::{Network, Transport},
    },
};

/// The most bytes of a manifest, the size that the distribution specification asks registries to
/// take at least.
pub const MAX_MANIFEST: usize = 4 * 1024 * 1024;
/// The most bytes of an image's configuration.
const MAX_CONFIG: usize = 4 * 1024 * 1024;
/// The longest pause within a call. A registry that wants a longer one is not waited for: the call
/// fails, and tells when.
const MAX_PAUSE: Duration = Duration::from_secs(5);
const DIGEST_HEADER: &str = "docker-content-digest";
const ACCEPT: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json",
);

/// Speaks to registries. Cheap to clone; one is enough for a process, whatever the number of
/// credentials.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

struct Inner {
    config: Config,
    http: Http,
    grants: Grants,
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
    pub fn new(config: Config) -> Result<Self, Error> {
        let network = Network::new(&config)?;
        Ok(Self::over(config, Arc::new(network), Clock::wall()))
    }

    /// A client for this configuration that reaches registries over this transport, and tells time
    /// by this clock.
    #[must_use]
    pub fn over(config: Config, transport: Arc<dyn Transport>, clock: Clock) -> Self {
        let http = Http::new(&config, transport, clock);
        let (grants, cooldown, calls) =
            (Grants::default(), Cooldown::default(), AtomicU64::default());
        Self(Arc::new(Inner { config, http, grants, cooldown, calls }))
    }

    /// Tells apart what would be shown to the registry, and to its mirrors, for this image: calls
    /// with equal identities get equal answers.
    #[must_use]
    pub fn identity(&self, image: &Reference, keychain: &Keychain) -> Identity {
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
    ) -> Result<Option<Descriptor>, Error> {
        let operation = Operation::read(Method::HEAD, format!("manifests/{}", image.identifier()));
        let expected = image.digest();
        let head = self.call(image, keychain, &operation, |asked, answer| {
            let Some(descriptor) = descriptor(&answer) else { return Ok(None) };
            match &expected {
                Some(expected) if *expected != descriptor.digest => {
                    Err(asked.garbage(format!("answers for {} instead", descriptor.digest)))
                }
                _ => Ok(Some(descriptor)),
            }
        });
        match head.await {
            Ok(Some(descriptor)) => return Ok(Some(descriptor)),
            Err(Error::NotFound { .. }) => return Ok(None),
            // Some registries refuse HEAD; the GET has the last word.
            Ok(None) | Err(Error::Refused { .. }) => {}
            Err(error) => return Err(error),
        }
        match self.manifest(image, keychain).await {
            Ok(Manifest { digest, media_type, bytes, .. }) => {
                Ok(Some(Descriptor { digest, media_type, size: bytes.len() as u64 }))
            }
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The manifest that the image's tag or digest stands for, checked against every digest that is
    /// known for it.
    pub async fn manifest(
        &self,
        image: &Reference,
        keychain: &Keychain,
    ) -> Result<Manifest, Error> {
        let operation = Operation::read(Method::GET, format!("manifests/{}", image.identifier()));
        let expected = image.digest();
        self.call(image, keychain, &operation, |asked, answer| {
            let content_type = answer.header(header::CONTENT_TYPE);
            let manifest = Manifest::parse(content_type, answer.body.clone())
                .map_err(|problem| asked.garbage(problem))?;
            let told = answer.header(DIGEST_HEADER).and_then(|text| text.parse::<Digest>().ok());
            match [&expected, &told]
                .into_iter()
                .flatten()
                .find(|digest| **digest != manifest.digest)
            {
                Some(digest) => {
                    Err(asked.garbage(format!("sends {} for {digest}", manifest.digest)))
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
    ) -> Result<ImageConfig, Error> {
        let digest = &manifest.config.digest;
        let operation = Operation {
            what: "configuration",
            limit: MAX_CONFIG,
            ..Operation::read(Method::GET, format!("blobs/{digest}"))
        };
        self.call(image, keychain, &operation, |asked, answer| {
            let actual = Digest::of(&answer.body);
            if actual != *digest {
                return Err(asked.garbage(format!("sends {actual} for {digest}")));
            }
            ImageConfig::parse(&answer.body).map_err(|problem| asked.garbage(problem))
        })
        .await
    }

    /// Points a tag at a manifest whose content the repository has already. No layer is copied, and
    /// doing it twice is the same as doing it once. `tag` is the repository with the tag.
    pub async fn tag(
        &self,
        tag: &Reference,
        manifest: &Manifest,
        keychain: &Keychain,
    ) -> Result<(), Error> {
        let shown = tag.to_string();
        let asked = Asked { image: &shown, host: tag.registry() };
        let media_type = HeaderValue::from_str(&manifest.media_type).map_err(|_| {
            asked.garbage(
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
            limit: MAX_MANIFEST,
            purpose: Purpose::Push,
        };
        let told = self
            .call(tag, keychain, &operation, |_, answer| {
                Ok(answer.header(DIGEST_HEADER).and_then(|text| text.parse().ok()))
            })
            .await?;
        let stands = match told {
            Some(digest) => digest,
            None => match self.head(tag, keychain).await? {
                Some(descriptor) => descriptor.digest,
                None => return Err(asked.garbage("took the manifest and does not have it")),
            },
        };
        if stands == manifest.digest {
            Ok(())
        } else {
            Err(asked.garbage(format!(
                "took the manifest {} and has {stands} under the tag",
                manifest.digest
            )))
        }
    }

    /// Carries out an operation within the configured time, asking every endpoint, and again after
    /// a pause while all that is wrong is transient.
    async fn call<T>(
        &self,
        image: &Reference,
        keychain: &Keychain,
        operation: &Operation,
        read: impl Fn(Asked<'_>, Answer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let shown = image.to_string();
        let retry = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(200))
            .with_max_delay(MAX_PAUSE)
            .with_max_times(3)
            .with_jitter()
            .with_jitter_seed(self.spread(&shown));
        let call = (|| self.walk(&shown, image, keychain, operation, &read))
            .retry(retry)
            .sleep(tokio::time::sleep)
            .when(Error::is_transient)
            .adjust(|error, pause| match (error.retry_after(), pause) {
                (Some(wanted), Some(_)) if wanted > MAX_PAUSE => None,
                (Some(wanted), Some(pause)) => Some(pause.max(wanted)),
                (_, pause) => pause,
            });
        let limit = self.0.config.timeout;
        tokio::time::timeout(limit.into(), call).await.unwrap_or_else(|_| {
            let asked = Asked { image: &shown, host: image.registry() };
            Err(asked.unreachable(&format!("not done within {limit}")))
        })
    }

    /// A number for each call, so that calls that fail together are not tried again together.
    fn spread(&self, image: &str) -> u64 {
        let call = self.0.calls.fetch_add(1, Ordering::Relaxed);
        BuildHasherDefault::<DefaultHasher>::default().hash_one((image, call))
    }

    /// Asks the endpoints one after the other, as containerd does: whatever is wrong with a mirror,
    /// the next one is asked.
    async fn walk<T>(
        &self,
        shown: &str,
        image: &Reference,
        keychain: &Keychain,
        operation: &Operation,
        read: &impl Fn(Asked<'_>, Answer) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut worst: Option<Error> = None;
        for endpoint in self.0.config.endpoints(image.registry(), operation.purpose) {
            let asked = Asked { image: shown, host: &endpoint.registry };
            let identity = keychain.identity([endpoint.registry.as_str()], image.path());
            let result = match self.0.cooldown.remaining(&endpoint, identity) {
                Some(remaining) => Err(asked.limited(remaining)),
                None => self.exchange(asked, &endpoint, image, keychain, identity, operation).await,
            };
            if let Some(pause) = result
                .as_ref()
                .err()
                .and_then(Error::retry_after)
                .filter(|pause| *pause > MAX_PAUSE)
            {
                self.0.cooldown.begin(&endpoint, identity, pause);
            }
            match result.and_then(|answer| read(asked, answer)) {
                Ok(value) => return Ok(value),
                Err(error)
                    if worst.as_ref().is_none_or(|worst| worst.weight() <= error.weight()) =>
                {
                    worst = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(worst.unwrap_or_else(|| {
            Asked { image: shown, host: image.registry() }.unreachable("no endpoint")
        }))
    }

    /// Asks one endpoint, answering its challenge once if it sets one.
    async fn exchange(
        &self,
        asked: Asked<'_>,
        endpoint: &Endpoint,
        image: &Reference,
        keychain: &Keychain,
        identity: Identity,
        operation: &Operation,
    ) -> Result<Answer, Error> {
        let Inner { config, http, grants, .. } = &*self.0;
        let credential = keychain.lookup(&endpoint.registry, image.path());
        let grant = Grant::new(endpoint, image.path(), operation.purpose, identity);

        let known = grants.get(&grant);
        let mut answer =
            http.send(asked, operation.request(asked, endpoint, image, known.clone())?).await?;
        let mut used = known;
        if answer.status == StatusCode::UNAUTHORIZED {
            grants.drop(&grant);
            let Some(challenge) = Challenge::of(&answer.headers) else {
                return Err(asked.denied("401 Unauthorized, without saying what it wants"));
            };
            let (value, life) =
                token::answer(http, config, asked, challenge, &grant, credential).await?;
            answer = http
                .send(asked, operation.request(asked, endpoint, image, Some(value.clone()))?)
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
        answer.ok(asked, &secrets)
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
            limit: MAX_MANIFEST,
            purpose: Purpose::Pull,
        }
    }

    fn request(
        &self,
        asked: Asked<'_>,
        endpoint: &Endpoint,
        image: &Reference,
        authorization: Option<HeaderValue>,
    ) -> Result<Request, Error> {
        let query = endpoint
            .mirrored
            .as_ref()
            .map_or_else(String::new, |registry| format!("?ns={registry}"));
        let url = format!("{}/v2/{}/{}{query}", endpoint.base, image.path(), self.path);
        let url = url.parse().map_err(|_| asked.garbage("has a name that no URL can hold"))?;
        Ok(Request {
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
fn descriptor(answer: &Answer) -> Option<Descriptor> {
    let media_type = answer
        .header(header::CONTENT_TYPE)
        .map(manifest::bare)
        .filter(|media_type| manifest::is_known(media_type))?;
    Some(Descriptor {
        digest: answer.header(DIGEST_HEADER)?.parse().ok()?,
        media_type: media_type.into(),
        size: answer.header(header::CONTENT_LENGTH)?.parse().ok()?,
    })
}
