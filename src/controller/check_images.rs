//! What registries have answered about the images that a family's checks run in, if that is not the
//! new image. Needs a registry, and no client of the API server.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use crate::{
    api::condition::Reason,
    backoff,
    builds::checks::CheckRequest,
    engine::Problem,
    registry::{Client, Keychain, Platform, Reference},
    upstream::{ImageKey, TagNeeds, UpstreamDigest, resolve_tag},
};

/// The number of tags that are resolved concurrently.
const MAX_CONCURRENT_REQUESTS: usize = 8;
/// For how long a digest is used for the checks that start. The checks of a cascade start close
/// together, and most families have one scanner for all images.
const MAX_DIGEST_AGE: SignedDuration = SignedDuration::from_mins(1);
/// The pause after a tag could not be resolved. It doubles with each time in a row.
const MIN_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// Upper bound on the pause after a tag could not be resolved.
const MAX_PAUSE: SignedDuration = SignedDuration::from_mins(2);

/// An image that checks run in, on nodes of a platform.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CheckImage {
    /// The reference as the spec writes it.
    reference: String,
    platform: Platform,
}

impl CheckImage {
    /// Returns the image with this reference, or `None` if the reference names a digest, so that
    /// there is nothing to resolve.
    #[must_use]
    pub fn with_tag(reference: &str, platform: &Platform) -> Option<Self> {
        let has_digest = reference.contains('@');
        (!has_digest).then(|| Self { reference: reference.into(), platform: platform.clone() })
    }
}

/// What a registry has answered about a [`CheckImage`].
#[derive(Debug)]
struct CheckImageAnswer {
    /// The digest that the tag pointed to when it was last resolved.
    digest: Option<UpstreamDigest>,
    /// Why no check can run in it now.
    problem: Option<Problem>,
    /// How many times in a row there was a problem.
    failures: u32,
    /// Until when the registry is not asked again.
    valid_until: Timestamp,
}

/// Why the image that a check runs in is not known.
#[derive(Debug, PartialEq, Eq)]
pub struct UnresolvedImage {
    /// What is wrong.
    pub problem: Problem,
    /// When the registry is asked again.
    pub retry_at: Timestamp,
}

/// What registries have answered about the images that the checks of a family run in. Losing it
/// costs one request per image.
#[derive(Debug, Default)]
pub struct CheckImages(HashMap<CheckImage, CheckImageAnswer>);

impl CheckImages {
    /// Replaces the image that a check runs in, if it is not the new image, by the digest that its
    /// tag points to now.
    pub fn pin(&self, request: &mut CheckRequest, now: Timestamp) -> Result<(), UnresolvedImage> {
        let Some(image) = &request.check.image else { return Ok(()) };
        request.check.image = Some(self.pinned(image, &request.platform, now)?);
        Ok(())
    }

    /// Returns the reference of an image with the digest that its tag points to. An image that is
    /// named with a digest is returned as it is.
    pub fn pinned(
        &self,
        reference: &str,
        platform: &Platform,
        now: Timestamp,
    ) -> Result<String, UnresolvedImage> {
        let Some(image) = CheckImage::with_tag(reference, platform) else {
            return Ok(reference.to_owned());
        };
        let (problem, retry_at) = match self.0.get(&image) {
            Some(CheckImageAnswer { problem: None, digest: Some(digest), .. }) => {
                match with_digest(reference, digest) {
                    Ok(pinned) => return Ok(pinned),
                    Err(problem) => (problem, now),
                }
            }
            Some(CheckImageAnswer { problem: Some(problem), valid_until, .. }) => {
                (problem.clone(), *valid_until)
            }
            _ => {
                let message = format!("{reference}: its registry has not been asked yet");
                (Problem { reason: Reason::Resolving, message }, now)
            }
        };
        let Problem { reason, message } = problem;
        let message = format!("its image cannot be resolved to a digest: {message}");
        Err(UnresolvedImage { problem: Problem { reason, message }, retry_at })
    }

    /// Forgets all answers.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns how many answers are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether no answer is kept.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the registry has answered lately enough.
    #[must_use]
    pub fn is_known(&self, image: &CheckImage, now: Timestamp) -> bool {
        self.0.get(image).is_some_and(|answer| now < answer.valid_until)
    }

    /// Resolves the tags of images, each with one request, and keeps the answers. The pauses after
    /// problems depend on `seed`.
    pub async fn resolve(
        &mut self,
        images: BTreeSet<CheckImage>,
        client: &Client,
        keychain: &Arc<Keychain>,
        seed: u64,
        now: Timestamp,
    ) {
        let known = &*self;
        let requests: Vec<_> =
            images.into_iter().map(|image| known.request(image, client, keychain)).collect();
        let answers: Vec<(CheckImage, Result<UpstreamDigest, Problem>)> =
            stream::iter(requests).buffer_unordered(MAX_CONCURRENT_REQUESTS).collect().await;
        for (image, answer) in answers {
            self.record(image, answer, seed, now);
        }
    }

    async fn request(
        &self,
        image: CheckImage,
        client: &Client,
        keychain: &Arc<Keychain>,
    ) -> (CheckImage, Result<UpstreamDigest, Problem>) {
        let needs = TagNeeds::Images { required: Vec::new() };
        let key = ImageKey::new(client, &image.reference, &needs, keychain);
        let last = self.0.get(&image).and_then(|answer| answer.digest.as_ref());
        let answer = resolve_tag(client, &key, last).await;
        (image, answer)
    }

    /// Keeps an answer.
    fn record(
        &mut self,
        image: CheckImage,
        answer: Result<UpstreamDigest, Problem>,
        seed: u64,
        now: Timestamp,
    ) {
        let known = self.0.remove(&image);
        let (digest, problem) = match answer {
            Ok(digest) => {
                let problem = missing_platform(&image, &digest);
                (Some(digest), problem)
            }
            // A digest that was known spares reading its index again.
            Err(problem) => (known.as_ref().and_then(|known| known.digest.clone()), Some(problem)),
        };
        let failures = match &problem {
            Some(_) => known.map_or(0, |known| known.failures).saturating_add(1),
            None => 0,
        };
        let pause = match failures {
            0 => MAX_DIGEST_AGE,
            _ => backoff::pause(failures, MIN_PAUSE, MAX_PAUSE, seed.wrapping_add(failures.into())),
        };
        let valid_until = now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        self.0.insert(image, CheckImageAnswer { digest, problem, failures, valid_until });
    }

    /// Forgets the answers about images that no check names.
    pub fn retain_named(&mut self, references: &HashSet<&str>) {
        self.0.retain(|image, _| references.contains(image.reference.as_str()));
    }
}

/// Returns the reference with the digest that its tag points to. It is the digest of the index, if
/// there is one: that is the digest that other tools show, and the node picks its platform.
fn with_digest(reference: &str, digest: &UpstreamDigest) -> Result<String, Problem> {
    let reference: Reference = reference.parse()?;
    Ok(reference.with_digest(&digest.tagged.parse()?).to_string())
}

/// Returns a problem if an image is not for the platform on whose nodes the check runs.
fn missing_platform(image: &CheckImage, digest: &UpstreamDigest) -> Option<Problem> {
    let CheckImage { reference, platform } = image;
    let is_missing = !digest.images.is_empty() && digest.image_for(platform).is_none();
    is_missing.then(|| Problem {
        reason: Reason::PlatformMissing,
        message: format!(
            "{reference} does not offer {platform}, for which the checked image is built; checks \
             run on nodes of that platform, so use an image that offers it"
        ),
    })
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::{
        api::{CredentialUse, RegistryCredential},
        registry::{
            Config, Digest, OCI_INDEX, OCI_MANIFEST, SecretForm, SecretPayload,
            fault_registry::{FaultRegistry, RecordedRequest, not_found, reply},
        },
    };

    const PINNED: &str = "registry.example.com/scanner@sha256:\
        0123456789012345678901234567890123456789012345678901234567890123";

    /// The user and the password of the account that may only pull.
    const PULL: &str = "Basic cHVsbDpzZWNyZXQ=";

    fn index() -> String {
        serde_json::json!({"schemaVersion": 2, "manifests": [{
            "mediaType": OCI_MANIFEST, "digest": Digest::of(b"x"), "size": 1,
            "platform": { "os": "linux", "architecture": "amd64" },
        }]})
        .to_string()
    }

    /// Answers for the repositories `scanner` (an index for amd64), `image`, `denied`, `absent`,
    /// and `down`, which answers from the second request on.
    fn respond(request: &RecordedRequest) -> crate::registry::fault_registry::FaultReply {
        let served = |media_type: &str, body: String| {
            let digest = Digest::of(body.as_bytes()).to_string();
            let length = body.len().to_string();
            let headers = [
                ("content-type", media_type),
                ("docker-content-digest", &digest),
                ("content-length", &length),
            ];
            let body = if request.method == "HEAD" { Body::empty() } else { Body::from(body) };
            reply(200, &headers, body)
        };
        if request.authorization.as_deref() != Some(PULL) {
            let challenge = [("www-authenticate", "Basic realm=\"r\"")];
            return reply(401, &challenge, Body::empty());
        }
        let path = request.target.trim_start_matches("/v2/");
        match path.split_once('/').map(|(repository, _)| repository) {
            Some("scanner") => served(OCI_INDEX, index()),
            Some("denied") => reply(403, &[], Body::empty()),
            Some("down") if request.previous < 6 => reply(503, &[], Body::empty()),
            Some("image" | "down") => served(OCI_MANIFEST, "an image".into()),
            _ => not_found("MANIFEST_UNKNOWN"),
        }
    }

    /// A registry that lets only the account that may pull read, and a family's answers from it.
    struct Scene {
        registry: FaultRegistry,
        client: Client,
        keychain: Arc<Keychain>,
        images: CheckImages,
    }

    impl Scene {
        async fn start() -> Self {
            let registry = FaultRegistry::start(respond).await;
            let host = registry.address.to_string();
            let timeout = crate::api::Duration::from_secs(1);
            let config = Config { plain_http: vec![host.clone()], timeout, ..Config::default() };
            let client = Client::new(config).expect("client");
            let secret = |user: &str| {
                let auth = serde_json::json!({"username": user, "password": "secret"});
                serde_json::json!({"auths": {&host: auth}}).to_string()
            };
            let credential = |name: &str, uses: &[CredentialUse]| RegistryCredential {
                name: name.into(),
                uses: uses.to_vec(),
            };
            let both = [
                (credential("push", &[CredentialUse::Pull, CredentialUse::Push]), secret("push")),
                (credential("pull", &[CredentialUse::Pull]), secret("pull")),
            ];
            let both = both.iter().map(|(credential, secret)| {
                let (form, value) = (SecretForm::DockerConfigJson, secret.as_bytes());
                (credential, SecretPayload { form, value })
            });
            let keychain = Arc::new(Keychain::from_credentials(both).expect("credentials"));
            Self { registry, client, keychain, images: CheckImages::default() }
        }

        fn reference(&self, repository: &str) -> String {
            format!("{}/{repository}:1", self.registry.address)
        }

        /// Resolves an image as a reconcile at this second does, and returns what a check gets.
        async fn resolve(
            &mut self,
            repository: &str,
            architecture: &str,
            second: i64,
        ) -> Result<String, UnresolvedImage> {
            let reference = self.reference(repository);
            let platform = Platform { architecture: architecture.into(), ..Platform::default() };
            let image = CheckImage::with_tag(&reference, &platform).expect("a tag");
            let now = at(second);
            if !self.images.is_known(&image, now) {
                let (client, keychain) = (&self.client, &self.keychain);
                self.images.resolve([image].into(), client, keychain, 0, now).await;
            }
            self.images.pinned(&reference, &platform, now)
        }

        /// Returns the requests with a credential so far.
        fn requests(&self, method: &str) -> usize {
            let requests = self.registry.requests();
            let authorized = requests.iter().filter(|request| request.authorization.is_some());
            authorized.filter(|request| request.method == method).count()
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[tokio::test]
    async fn a_tag_is_resolved_once_for_checks_that_start_together() {
        let mut scene = Scene::start().await;
        let expected =
            format!("{}/scanner@{}", scene.registry.address, Digest::of(index().as_bytes()));
        for second in [0, 0, 0, 59] {
            assert_eq!(scene.resolve("scanner", "amd64", second).await, Ok(expected.clone()));
        }
        assert_eq!((scene.requests("HEAD"), scene.requests("GET")), (1, 1));
        let mut request = CheckRequest::default();
        assert_eq!(scene.images.pin(&mut request, at(0)), Ok(()));
        assert_eq!(request.check.image, None, "it runs in the new image");
        request.check.image = Some(scene.reference("scanner"));
        assert_eq!(scene.images.pin(&mut request, at(0)), Ok(()));
        assert_eq!(request.check.image, Some(expected.clone()));
        request.check.image = Some(scene.reference("unknown"));
        assert!(scene.images.pin(&mut request, at(0)).is_err());
        assert_eq!(scene.resolve("scanner", "amd64", 60).await, Ok(expected));
        assert_eq!((scene.requests("HEAD"), scene.requests("GET")), (2, 1), "the index is known");
    }

    #[tokio::test]
    async fn what_cannot_be_resolved_says_why_and_is_tried_again() {
        let mut scene = Scene::start().await;
        for (repository, expected) in [
            ("absent", Reason::ImageNotFound),
            ("denied", Reason::RegistryDenied),
            ("down", Reason::RegistryUnavailable),
        ] {
            let UnresolvedImage { problem, retry_at } =
                scene.resolve(repository, "amd64", 0).await.expect_err("a problem");
            assert_eq!(problem.reason, expected, "{repository}");
            assert_pause(retry_at.duration_since(at(0)), 5);
            assert!(problem.message.contains(&scene.reference(repository)), "{}", problem.message);
        }
        let before = scene.registry.requests().len();
        for second in 0..4 {
            scene.resolve("absent", "amd64", second).await.expect_err("a problem");
        }
        assert_eq!(scene.registry.requests().len(), before, "the pause has not passed");
        let mut now = at(5);
        for pause in [10, 20, 40, 80, 120, 120] {
            let second = now.as_second() + 1;
            let unresolved = scene.resolve("absent", "amd64", second).await.expect_err("absent");
            now = unresolved.retry_at;
            assert_pause(now.duration_since(at(second)), pause);
        }
        let mut answer = scene.resolve("down", "amd64", 10).await;
        for minute in 1..10 {
            if answer.is_err() {
                answer = scene.resolve("down", "amd64", 60 * minute).await;
            }
        }
        assert!(answer.expect("it is up").contains("/down@sha256:"));
    }

    /// Fails unless a pause has this length, up to the jitter.
    fn assert_pause(pause: SignedDuration, seconds: i64) {
        let seconds = SignedDuration::from_secs(seconds);
        assert!(pause <= seconds && pause * 4 >= seconds * 3, "{pause:?} instead of {seconds:?}");
    }

    #[tokio::test]
    async fn an_image_for_another_platform_is_reported() {
        let mut scene = Scene::start().await;
        let UnresolvedImage { problem, .. } =
            scene.resolve("scanner", "arm64", 0).await.expect_err("a problem");
        assert_eq!(problem.reason, Reason::PlatformMissing);
        assert!(problem.message.contains("does not offer linux/arm64"), "{}", problem.message);
        scene.resolve("scanner", "arm64", 5).await.expect_err("a problem");
        assert_eq!((scene.requests("HEAD"), scene.requests("GET")), (2, 1));
        // What is no index is read once, because it may be an artifact.
        let pinned = scene.resolve("image", "arm64", 0).await;
        assert_eq!((pinned.is_ok(), scene.requests("GET")), (true, 2), "{pinned:?}");
    }

    #[test]
    fn a_reference_with_a_digest_needs_no_registry() {
        let images = CheckImages::default();
        let platform = Platform::default();
        let pinned = PINNED.replace('@', ":1@");
        for reference in [PINNED, &pinned] {
            assert_eq!(images.pinned(reference, &platform, at(0)), Ok(reference.to_owned()));
        }
        let unknown = images.pinned("scanner:1", &platform, at(0)).expect_err("not asked");
        assert_eq!(unknown.problem.reason, Reason::Resolving);
    }

    #[tokio::test]
    async fn what_is_no_reference_and_what_no_check_names_any_more() {
        let mut scene = Scene::start().await;
        let image = CheckImage { reference: "UPPER/x".into(), platform: Platform::default() };
        let (client, keychain) = (scene.client.clone(), Arc::clone(&scene.keychain));
        scene.images.resolve([image].into(), &client, &keychain, 0, at(0)).await;
        let unknown = scene.images.pinned("UPPER/x", &Platform::default(), at(0));
        assert_eq!(unknown.expect_err("no reference").problem.reason, Reason::InvalidSpec);
        scene.images.retain_named(&["UPPER/x"].into());
        assert_eq!(scene.images.len(), 1);
        scene.images.retain_named(&["scanner:1"].into());
        assert!(scene.images.is_empty());
    }
}
