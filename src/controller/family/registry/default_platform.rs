//! Finds the platform of the builds whose strategies name none. Needs a registry.
//!
//! It is fixed by the first such build and recorded in the family's status, so that neither another
//! node nor a controller that moves to another node changes the architecture of an image. Before
//! that it is the platform of the last verified builds, or, if the records are lost, of the images
//! of ours that the tags point to. A family that has built nothing takes the controller's own.

use std::sync::Arc;

use futures::{StreamExt, stream};
use jiff::SignedDuration;

use crate::{
    api::condition::Reason,
    builds::platform::named_platform,
    controller::{
        family::{
            observe::{Observer, platform::DefaultPlatform, strategies::strategy_ref},
            registry::pushed_image::{Repository, own_fingerprint},
        },
        object_cache::Key,
    },
    engine::{Blueprint, Problem, tags},
    identity::Fingerprint,
    lineage::ImageIndex,
    registry::{Client, Keychain, Platform},
};

/// The most images whose tags are read.
const MAX_IMAGES: usize = 8;
/// The operating system of the images that are built.
const LINUX: &str = "linux";
/// The pause after a registry has not answered.
const RETRY_DELAY: SignedDuration = SignedDuration::from_secs(15);

impl Observer<'_> {
    /// Returns the platform of builds whose strategies name none, and of whose images there is no
    /// build. `built` has the platforms of the last verified builds.
    pub async fn default_platform(
        &mut self,
        blueprint: &Blueprint,
        built: &[Option<Arc<Platform>>],
        keychain: &Keychain,
    ) -> DefaultPlatform {
        let recorded = self.family.status.as_ref().and_then(|status| status.platform.as_deref());
        if let Some(platform) = recorded.and_then(Platform::from_user) {
            return known(platform.into(), "the status of the family".into());
        }
        let unnamed: Vec<ImageIndex> = self.images_without_platform().collect();
        // A build that was started meanwhile says nothing about the images that were denied.
        if self.cache.default_platform.as_ref().is_some_and(DefaultPlatform::is_provisional) {
            return self.searched_platform(blueprint, &unnamed, keychain).await;
        }
        let built = unnamed.iter().find_map(|index| {
            let platform = built.get(index.position())?.clone()?;
            Some((index.position(), platform))
        });
        if let Some((image, platform)) = built {
            let name = self.family.spec.images.get(image).map_or("", |image| image.name.as_str());
            return known(platform, format!("the last build of {name}"));
        }
        self.searched_platform(blueprint, &unnamed, keychain).await
    }

    /// Returns what the tags of these images say. The registry is asked again only when that is
    /// due.
    async fn searched_platform(
        &mut self,
        blueprint: &Blueprint,
        images: &[ImageIndex],
        keychain: &Keychain,
    ) -> DefaultPlatform {
        let is_valid =
            |cached: &&DefaultPlatform| cached.retry_at.is_none_or(|retry_at| self.now < retry_at);
        if let Some(cached) = self.cache.default_platform.as_ref().filter(is_valid) {
            return cached.clone();
        }
        let found = self.search_platform(&self.floating_tags(blueprint, images), keychain).await;
        self.cache.default_platform = Some(found.clone());
        found
    }

    /// Reads the platform from tags. Without one that says it, it is the controller's own.
    async fn search_platform(&self, tags: &[FloatingTag], keychain: &Keychain) -> DefaultPlatform {
        let own = &self.context.environment.platform;
        let believed = match self.family.spec.adopt {
            Some(_) => BelievedImages::All,
            None => BelievedImages::Ours,
        };
        let client = &self.context.registry;
        let retry_at = self.now.checked_add(RETRY_DELAY).ok();
        match (PlatformSearch { client, keychain, own, believed }).first_of(tags).await {
            Ok(FoundPlatform::Tagged(TaggedPlatform { platform, source })) => {
                known(platform.into(), source)
            }
            Ok(found) => {
                let default = known(own.clone().into(), "the default of the controller".into());
                let retry_at = retry_at.filter(|_| matches!(found, FoundPlatform::NoneReadable));
                DefaultPlatform { retry_at, ..default }
            }
            Err(Problem { reason, message }) => {
                let message = format!("the platform of earlier builds is not known: {message}");
                let platform = Err(Problem { reason, message });
                DefaultPlatform { platform, source: String::new(), retry_at }
            }
        }
    }

    /// Returns the images whose strategies name no platform.
    fn images_without_platform(&self) -> impl Iterator<Item = ImageIndex> {
        let spec = &self.family.spec;
        let images = ImageIndex::enumerate(&spec.images).filter(|(_, image)| {
            let chosen = strategy_ref(spec, image);
            let strategy = self.context.stores.strategies.get(&Key::new("", &chosen.name));
            let named = strategy.map(|strategy| named_platform(&strategy, chosen));
            !matches!(named, Some(Ok(Some(_))))
        });
        images.map(|(index, _)| index)
    }

    /// Returns a floating tag of each of the first of these images that have one. The tags of the
    /// others, whose strategies name a platform, do not say what the default was.
    fn floating_tags(&self, blueprint: &Blueprint, of: &[ImageIndex]) -> Vec<FloatingTag> {
        let spec = &self.family.spec;
        let tags = of.iter().filter_map(|index| {
            let image = spec.images.get(index.position())?;
            let known = blueprint.images.get(index.position())?;
            let tags = tags::render(spec, image, 0, &Fingerprint::from("")).unwrap_or_default();
            let tag = tags.into_iter().find(|tag| !tag.immutable)?.name;
            Some(FloatingTag { repository: known.repository.clone(), tag })
        });
        tags.take(MAX_IMAGES).collect()
    }
}

fn known(platform: Arc<Platform>, source: String) -> DefaultPlatform {
    DefaultPlatform { platform: Ok(platform), source, retry_at: None }
}

/// A floating tag of an image.
struct FloatingTag {
    repository: String,
    tag: String,
}

/// A platform, and what says it.
#[derive(Debug)]
struct TaggedPlatform {
    platform: Platform,
    source: String,
}

/// What the tags of a family say about its platform.
#[derive(Debug)]
enum FoundPlatform {
    /// The platform of the first tag that says one.
    Tagged(TaggedPlatform),
    /// No tag says one.
    None,
    /// No tag says one that can be read. Access to others was denied.
    NoneReadable,
}

/// Whose images say for what a family is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BelievedImages {
    /// Those that carry a fingerprint of ours. Anybody may have pushed the others.
    Ours,
    /// All of them, because the family adopts them.
    All,
}

/// Looks for the platform of what a family has built.
struct PlatformSearch<'a> {
    client: &'a Client,
    keychain: &'a Keychain,
    /// The controller's own platform.
    own: &'a Platform,
    believed: BelievedImages,
}

impl PlatformSearch<'_> {
    /// Returns the platform of the first tag that says one.
    ///
    /// # Errors
    /// Returns a problem if no tag says the platform, and a registry does not answer, or denies
    /// access to all of the repositories.
    async fn first_of(&self, tags: &[FloatingTag]) -> Result<FoundPlatform, Problem> {
        let reads: Vec<_> = tags.iter().map(|tag| self.platform_of(tag)).collect();
        let answers: Vec<Result<Option<TaggedPlatform>, Problem>> =
            stream::iter(reads).buffered(MAX_IMAGES).collect().await;
        let (mut unanswered, mut denied, mut is_known_absent) = (None, None, false);
        for answer in answers {
            match answer {
                Ok(Some(platform)) => return Ok(FoundPlatform::Tagged(platform)),
                Ok(None) => is_known_absent = true,
                // What is no image says nothing about platforms.
                Err(problem) if problem.reason == Reason::InvalidRegistryResponse => {}
                // An image whose repository is denied is not built either. It must not stop others.
                Err(problem) if problem.reason == Reason::RegistryDenied => {
                    denied = denied.or(Some(problem));
                }
                Err(problem) => unanswered = unanswered.or(Some(problem)),
            }
        }
        match (unanswered, denied) {
            (None, Some(_)) if is_known_absent => Ok(FoundPlatform::NoneReadable),
            (Some(problem), _) | (None, Some(problem)) => Err(problem),
            (None, None) => Ok(FoundPlatform::None),
        }
    }

    /// Returns the platform of the image that a tag points to, or `None` if there is no such tag,
    /// or no image for Linux that is believed. Of several platforms it is the controller's own, if
    /// that is among them.
    async fn platform_of(&self, tag: &FloatingTag) -> Result<Option<TaggedPlatform>, Problem> {
        let repository = Repository::new(self.client, self.keychain, &tag.repository)?;
        let Some(manifest) = repository.tagged(&tag.tag).await? else { return Ok(None) };
        if self.believed == BelievedImages::Ours && own_fingerprint(&manifest).is_none() {
            return Ok(None);
        }
        let mut platforms = repository.platforms(&manifest).await?;
        platforms.retain(|platform| platform.is_known() && platform.os == LINUX);
        let own = platforms.iter().find(|platform| *platform == self.own);
        let source = format!("the image that {}:{} points to", tag.repository, tag.tag);
        let platform = own.or(platforms.first()).cloned();
        Ok(platform.map(|platform| TaggedPlatform { platform, source }))
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use serde_json::json;

    use super::*;
    use crate::{
        api::labels,
        registry::{
            Config, Digest, OCI_INDEX, OCI_MANIFEST,
            fault_registry::{FaultRegistry, RecordedRequest, not_found, reply},
        },
    };

    const FINGERPRINT: &str = "1111111111111111111111111111111111111111";

    /// Answers for the repositories `arm` and `both` (an index), which have images of ours, for
    /// `windows` and `foreign`, which have images of others, for `artifact` and `down`.
    fn respond(request: &RecordedRequest) -> crate::registry::fault_registry::FaultReply {
        let os = if request.target.contains("/windows/") { "windows" } else { "linux" };
        let is_ours = ["/arm/", "/both/"].iter().any(|ours| request.target.contains(ours));
        let annotations =
            if is_ours { json!({ labels::OCI_FINGERPRINT: FINGERPRINT }) } else { json!({}) };
        let config = json!({
            "os": os, "architecture": "arm64", "rootfs": { "diff_ids": [] },
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
            Some(("arm" | "windows" | "foreign", rest)) if rest.starts_with("blobs/") => {
                served("application/octet-stream", config)
            }
            Some(("arm" | "windows" | "foreign", _)) => {
                let digest = Digest::of(config.as_bytes());
                let config = json!({ "mediaType": "c", "digest": digest, "size": config.len() });
                let manifest = json!({
                    "schemaVersion": 2, "config": config, "layers": [],
                    "annotations": annotations,
                });
                served(OCI_MANIFEST, manifest.to_string())
            }
            Some(("both", _)) => {
                let index = json!({
                    "schemaVersion": 2, "manifests": [entry("arm64"), entry("amd64")],
                    "annotations": annotations,
                });
                served(OCI_INDEX, index.to_string())
            }
            Some(("artifact", _)) => served(OCI_MANIFEST, "[]".into()),
            Some(("down", _)) => reply(503, &[], Body::empty()),
            Some(("denied", _)) => reply(403, &[], Body::from(r#"{"errors":[{"code":"DENIED"}]}"#)),
            _ => not_found("MANIFEST_UNKNOWN"),
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
        let (client, keychain, own) = (&client, &keychain, &own);
        let search = |believed| PlatformSearch { client, keychain, own, believed };
        let tags = |repositories: &[&str]| -> Vec<FloatingTag> {
            let tag = |name: &&str| FloatingTag {
                repository: format!("{}/{name}", registry.address),
                tag: "latest".into(),
            };
            repositories.iter().map(tag).collect()
        };
        let (ours, all) = (BelievedImages::Ours, BelievedImages::All);
        for (repositories, believed, expected) in [
            (&[][..], ours, Ok(None)),
            (&["absent"], ours, Ok(None)),
            (&["absent", "arm"], ours, Ok(Some("linux/arm64"))),
            (&["both", "arm"], ours, Ok(Some("linux/amd64"))),
            (&["artifact"], ours, Ok(None)),
            (&["foreign", "both"], ours, Ok(Some("linux/amd64"))),
            (&["foreign"], ours, Ok(None)),
            (&["foreign"], all, Ok(Some("linux/arm64"))),
            (&["windows"], all, Ok(None)),
            (&["down", "arm"], ours, Ok(Some("linux/arm64"))),
            (&["absent", "down"], ours, Err(Reason::RegistryUnavailable)),
            (&["denied", "absent"], ours, Ok(Some("none readable"))),
            (&["denied", "arm"], ours, Ok(Some("linux/arm64"))),
            (&["denied"], ours, Err(Reason::RegistryDenied)),
            (&["denied", "absent", "down"], ours, Err(Reason::RegistryUnavailable)),
        ] {
            let found = search(believed).first_of(&tags(repositories)).await;
            let found = found.map(|found| match found {
                FoundPlatform::Tagged(tagged) => Some(tagged.platform.to_string()),
                FoundPlatform::None => None,
                FoundPlatform::NoneReadable => Some("none readable".into()),
            });
            let expected = expected.map(|platform| platform.map(str::to_owned));
            assert_eq!(found.map_err(|problem| problem.reason), expected, "{repositories:?}");
        }
    }
}
