//! Finds the platform of the builds whose strategies name none. Needs a registry.
//!
//! It is fixed once per family and recorded in its status, so that neither another node nor a
//! controller that moves to another node changes the architecture of an image. A family whose
//! status is lost takes the platform of the images that its tags point to. A family that has built
//! nothing takes the controller's own.

use std::sync::Arc;

use futures::{StreamExt, stream};
use jiff::SignedDuration;

use crate::{
    api::condition::reason,
    builds::platform::named_platform,
    controller::{
        family::{
            observe::{Observer, platform::DefaultPlatform, strategies::strategy_ref},
            registry::pushed_image::Repository,
        },
        object_cache::Key,
    },
    engine::{Blueprint, Problem, tags},
    identity::Fingerprint,
    registry::{Client, Keychain, Platform},
};

/// The most images whose tags are read.
const MAX_IMAGES: usize = 8;
/// The pause after a registry has not answered.
const RETRY_DELAY: SignedDuration = SignedDuration::from_secs(15);

impl Observer<'_> {
    /// Returns the platform of builds whose strategies name none.
    pub async fn default_platform(
        &mut self,
        blueprint: &Blueprint,
        keychain: &Keychain,
    ) -> DefaultPlatform {
        let recorded = self.family.status.as_ref().and_then(|status| status.platform.as_deref());
        if let Some(platform) = recorded.and_then(Platform::from_user) {
            return DefaultPlatform { platform: Ok(Arc::new(platform)), retry_at: None };
        }
        let is_valid =
            |cached: &&DefaultPlatform| cached.retry_at.is_none_or(|retry_at| self.now < retry_at);
        if let Some(cached) = self.cache.default_platform.as_ref().filter(is_valid) {
            return cached.clone();
        }
        let own = &self.context.environment.platform;
        let search = PlatformSearch { client: &self.context.registry, keychain, own };
        let found = match search.first_of(&self.floating_tags(blueprint)).await {
            Ok(built) => DefaultPlatform {
                platform: Ok(Arc::new(built.unwrap_or_else(|| own.clone()))),
                retry_at: None,
            },
            Err(Problem { reason, message }) => {
                let message = format!("the platform of earlier builds is not known: {message}");
                DefaultPlatform {
                    platform: Err(Problem { reason, message }),
                    retry_at: self.now.checked_add(RETRY_DELAY).ok(),
                }
            }
        };
        self.cache.default_platform = Some(found.clone());
        found
    }

    /// Returns a floating tag of each of the first images that have one, without the images whose
    /// strategies name a platform: their tags do not say what the default was.
    fn floating_tags(&self, blueprint: &Blueprint) -> Vec<FloatingTag> {
        let spec = &self.family.spec;
        let images = spec.images.iter().zip(&blueprint.images);
        let tags = images.filter_map(|(image, known)| {
            let chosen = strategy_ref(spec, image);
            let strategy = self.context.stores.strategies.get(&Key::new("", &chosen.name));
            let named = strategy.map(|strategy| named_platform(&strategy, chosen));
            if let Some(Ok(Some(_))) = named {
                return None;
            }
            let tags = tags::render(spec, image, 0, &Fingerprint::from("")).unwrap_or_default();
            let tag = tags.into_iter().find(|tag| !tag.immutable)?.name;
            Some(FloatingTag { repository: known.repository.clone(), tag })
        });
        tags.take(MAX_IMAGES).collect()
    }
}

/// A floating tag of an image.
struct FloatingTag {
    repository: String,
    tag: String,
}

/// Looks for the platform of what a family has built.
struct PlatformSearch<'a> {
    client: &'a Client,
    keychain: &'a Keychain,
    /// The controller's own platform.
    own: &'a Platform,
}

impl PlatformSearch<'_> {
    /// Returns the platform of the first tag that exists, or `None` if none does.
    ///
    /// # Errors
    /// Returns a problem if a registry does not answer and no other tag says the platform.
    async fn first_of(&self, tags: &[FloatingTag]) -> Result<Option<Platform>, Problem> {
        let reads: Vec<_> = tags.iter().map(|tag| self.platform_of(tag)).collect();
        let answers: Vec<Result<Option<Platform>, Problem>> =
            stream::iter(reads).buffered(MAX_IMAGES).collect().await;
        let mut unanswered = None;
        for answer in answers {
            match answer {
                Ok(Some(platform)) => return Ok(Some(platform)),
                Ok(None) => {}
                // What is no image says nothing about platforms.
                Err(problem) if problem.reason == reason::INVALID_REGISTRY_RESPONSE => {}
                Err(problem) => unanswered = unanswered.or(Some(problem)),
            }
        }
        unanswered.map_or(Ok(None), Err)
    }

    /// Returns the platform of the image that a tag points to, or `None` if there is no such tag.
    /// Of several platforms it is the controller's own, if that is among them.
    async fn platform_of(&self, tag: &FloatingTag) -> Result<Option<Platform>, Problem> {
        let repository = Repository::new(self.client, self.keychain, &tag.repository)?;
        let Some(manifest) = repository.tagged(&tag.tag).await? else { return Ok(None) };
        let platforms = repository.platforms(&manifest).await?;
        let first = platforms.iter().find(|platform| platform.is_known());
        Ok(platforms.iter().find(|platform| *platform == self.own).or(first).cloned())
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use serde_json::json;

    use super::*;
    use crate::registry::{
        Config, Digest, OCI_INDEX, OCI_MANIFEST,
        fault_registry::{FaultRegistry, RecordedRequest, reply},
    };

    /// Answers for the repositories `arm`, `both` (an index), `broken`, `artifact` and `down`.
    fn respond(request: &RecordedRequest) -> crate::registry::fault_registry::FaultReply {
        let config = json!({
            "os": "linux", "architecture": "arm64", "rootfs": { "diff_ids": [] },
        })
        .to_string();
        let entry = |architecture: &str| {
            json!({
                "mediaType": OCI_MANIFEST, "digest": Digest::of(b"x"), "size": 1,
                "platform": { "os": "linux", "architecture": architecture },
            })
        };
        let served = |media_type: &str, body: String| {
            let digest = Digest::of(body.as_bytes()).to_string();
            let headers = [("content-type", media_type), ("docker-content-digest", &digest)];
            reply(200, &headers, Body::from(body))
        };
        let path = request.target.trim_start_matches("/v2/");
        match path.split_once('/') {
            Some(("arm", rest)) if rest.starts_with("blobs/") => {
                served("application/octet-stream", config)
            }
            Some(("arm", _)) => {
                let digest = Digest::of(config.as_bytes());
                let config = json!({ "mediaType": "c", "digest": digest, "size": config.len() });
                let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [] });
                served(OCI_MANIFEST, manifest.to_string())
            }
            Some(("both", _)) => {
                let index =
                    json!({ "schemaVersion": 2, "manifests": [entry("arm64"), entry("amd64")] });
                served(OCI_INDEX, index.to_string())
            }
            Some(("artifact", _)) => served(OCI_MANIFEST, "[]".into()),
            Some(("down", _)) => reply(503, &[], Body::empty()),
            _ => reply(404, &[], Body::empty()),
        }
    }

    #[tokio::test]
    async fn the_platform_is_that_of_what_the_tags_point_at() {
        let registry = FaultRegistry::start(respond).await;
        let plain_http = vec![registry.address.to_string()];
        let timeout = crate::api::Duration::from_secs(1);
        let client =
            Client::new(Config { plain_http, timeout, ..Config::default() }).expect("client");
        let keychain = Keychain::default();
        let own = Platform::default();
        let search = PlatformSearch { client: &client, keychain: &keychain, own: &own };
        let tags = |repositories: &[&str]| -> Vec<FloatingTag> {
            let tag = |name: &&str| FloatingTag {
                repository: format!("{}/{name}", registry.address),
                tag: "latest".into(),
            };
            repositories.iter().map(tag).collect()
        };
        for (repositories, expected) in [
            (&[][..], Ok(None)),
            (&["absent"], Ok(None)),
            (&["absent", "arm"], Ok(Some("linux/arm64"))),
            (&["both", "arm"], Ok(Some("linux/amd64"))),
            (&["artifact"], Ok(None)),
            (&["down", "arm"], Ok(Some("linux/arm64"))),
            (&["absent", "down"], Err(reason::REGISTRY_UNAVAILABLE)),
        ] {
            let found = search.first_of(&tags(repositories)).await;
            let found = found.map(|platform| platform.map(|platform| platform.to_string()));
            let expected = expected.map(|platform| platform.map(str::to_owned));
            assert_eq!(found.map_err(|problem| problem.reason), expected, "{repositories:?}");
        }
    }
}
