//! Promotion: moves tags to a checked digest by a manifest PUT. No layers are copied. Needs a
//! client for Events only.

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use kube::runtime::events::EventType;
use tracing::{info, warn};

use crate::{
    api::{ImageState, condition::Reason},
    controller::{
        family::{reconcile::Reconcile, record::events::Notice},
        reconcile_cache::TimedTag,
    },
    engine::{Effect, ObservedTag, Problem, TagMove, causes::short},
    identity::ImageDigest,
    registry::{Manifest, Reference},
};

/// The number of images whose tags are moved concurrently.
const MAX_CONCURRENT_PROMOTIONS: usize = 8;
/// The pause until a tag that could not be moved is retried. It doubles with each failure.
const MIN_TAG_RETRY_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// Upper bound on the pause after transient failures.
const MAX_TAG_RETRY_PAUSE: SignedDuration = SignedDuration::from_mins(2);
/// Upper bound on the pause after refusals, which pass only if somebody changes something.
const MAX_TAG_REFUSED_PAUSE: SignedDuration = SignedDuration::from_mins(10);

/// The promotion of one image.
struct ImagePromotion<'a> {
    image: &'a str,
    repository: String,
    digest: &'a ImageDigest,
    tags: &'a [TagMove],
    /// Whether the digest is that of an earlier build, which was not read a moment ago.
    is_earlier: bool,
}

/// The result of the move of one tag.
struct MovedTag {
    image: String,
    tag: String,
    known_tag: TimedTag,
}

impl Reconcile<'_> {
    /// Moves the tags that the decision names, caches what each points to now, and adds tags that
    /// could not be set to the decision about their image.
    pub async fn move_tags(&mut self) {
        let reconcile = &*self;
        let promotions = reconcile.decision.effects.iter().filter_map(|effect| {
            let Effect::Promote { image, digest, tags } = effect else { return None };
            if reconcile.unrecorded.contains(image) {
                return None;
            }
            Some(ImagePromotion {
                image: &reconcile.image(*image)?.name,
                repository: reconcile.snapshot.repository(*image),
                digest,
                tags,
                is_earlier: reconcile
                    .decision
                    .images
                    .get(image.position())
                    .is_some_and(|decided| decided.rollback.is_some()),
            })
        });
        let moves: Vec<_> = promotions.map(|promotion| reconcile.move_tags_of(promotion)).collect();
        let moved: Vec<Vec<MovedTag>> =
            stream::iter(moves).buffer_unordered(MAX_CONCURRENT_PROMOTIONS).collect().await;
        for MovedTag { image, tag, known_tag } in moved.into_iter().flatten() {
            self.cache.tags.entry(image).or_default().insert(tag, known_tag);
        }
        self.add_unset_tags();
    }

    /// Moves the tags of one image, one after the other.
    async fn move_tags_of(&self, promotion: ImagePromotion<'_>) -> Vec<MovedTag> {
        let (mut manifest, mut moved) = (None, Vec::with_capacity(promotion.tags.len()));
        for tag in promotion.tags {
            if !self.registry_time.is_left() {
                moved.push(self.put_off(promotion.image, tag));
                continue;
            }
            let observed = match self.set_tag(&promotion, tag, &mut manifest).await {
                Ok(observed) => observed,
                Err(Problem { reason, message }) => {
                    warn!(image = promotion.image, tag = %tag.tag, message, "could not move a tag");
                    let message = format!("tag {}: {message}", tag.tag);
                    let known = self.cache.tags.get(promotion.image);
                    let known = known.and_then(|known| known.get(&tag.tag));
                    let retry_at = self.now.saturating_add(retry_pause(known, reason));
                    let retry_at = retry_at.unwrap_or(Timestamp::MAX);
                    ObservedTag::Failed(Problem { reason, message }, retry_at)
                }
            };
            self.publish_tag_event(&promotion, tag, &observed);
            moved.push(MovedTag {
                image: promotion.image.to_owned(),
                tag: tag.tag.clone(),
                known_tag: TimedTag { tag: observed, at: self.context.clock.now() },
            });
        }
        moved
    }

    /// Returns that a tag is not moved in this reconcile, for want of time for registries.
    fn put_off(&self, image: &str, tag: &TagMove) -> MovedTag {
        let message = format!(
            "tag {}: the registry answers slowly; the tag is moved in the next reconcile",
            tag.tag
        );
        let problem = Problem { reason: Reason::RegistryUnavailable, message };
        let tag_now = ObservedTag::Failed(problem, self.now);
        let known_tag = TimedTag { tag: tag_now, at: self.context.clock.now() };
        MovedTag { image: image.to_owned(), tag: tag.tag.clone(), known_tag }
    }

    /// Adds a tag that could not be set to the decision about each current image, and forgets tags
    /// that no template gives any more.
    fn add_unset_tags(&mut self) {
        let spec = &self.snapshot.family.spec;
        let images = spec.images.iter().zip(&self.snapshot.blueprint.images);
        for ((image, known), decided) in images.zip(&mut self.decision.images) {
            let is_set = decided.state == ImageState::Current || decided.rollback.is_some();
            let Some(verified) = decided.verified.as_ref().filter(|_| is_set) else { continue };
            let Some(known_tags) = self.cache.tags.get_mut(&image.name) else { continue };
            let wanted = &known.tags.of_build(spec, image, verified).tags;
            known_tags.retain(|name, _| wanted.iter().any(|tag| tag.name == *name));
            // The tags that name the newest build are not those of an earlier one.
            let is_rolled_back = decided.rollback.is_some();
            let moved = wanted.iter().filter(|tag| !(is_rolled_back && tag.immutable));
            let unset = moved.into_iter().find_map(|tag| {
                let known_tag = known_tags.get(&tag.name)?;
                unset_problem(&tag.name, &known_tag.tag)
            });
            if let Some(problem) = unset {
                decided.reason = problem.reason;
                decided.message = problem.message.into();
            }
        }
    }

    /// Returns the earliest future time at which a tag that could not be moved is retried.
    #[must_use]
    pub fn tag_retry_at(&self) -> Option<Timestamp> {
        let known_tags = self.cache.tags.values().flat_map(std::collections::HashMap::values);
        known_tags
            .filter_map(|known_tag| match known_tag.tag {
                ObservedTag::Failed(_, at) if at > self.now => Some(at),
                ObservedTag::Failed(..) | ObservedTag::At(_) | ObservedTag::Taken(_) => None,
            })
            .min()
    }

    /// Points one tag at the digest, unless it already points there, or is immutable and points
    /// elsewhere. `manifest` keeps the manifest for the next tag of the image.
    async fn set_tag(
        &self,
        promotion: &ImagePromotion<'_>,
        tag: &TagMove,
        manifest: &mut Option<Manifest>,
    ) -> Result<ObservedTag, Problem> {
        let ImagePromotion { repository, digest, .. } = promotion;
        let (registry, keychain) = (&self.context.registry, &self.snapshot.keychain);
        let reference = format!("{repository}:{}", tag.tag).parse::<Reference>()?;
        let current = match self.known_tag(promotion, tag) {
            // A floating tag is set wherever it points to. Without this, it is asked for only to
            // spare a PUT that an interrupted promotion has made.
            Some(ObservedTag::At(known)) if !tag.immutable && known != *digest => None,
            Some(ObservedTag::At(_) | ObservedTag::Failed(..)) | None if tag.immutable => {
                registry.digest_of_unused(&reference, keychain).await?
            }
            _ => {
                let head = registry.head_of_pushed(&reference, keychain).await?;
                head.map(|head| head.digest)
            }
        };
        match current.map(|current| ImageDigest::from(current.as_str())) {
            Some(current) if current == **digest => return Ok(ObservedTag::At(current)),
            Some(current) if tag.immutable => return Ok(ObservedTag::Taken(current)),
            _ => {}
        }
        let manifest = if let Some(manifest) = manifest {
            manifest
        } else {
            let by_digest = format!("{repository}@{digest}").parse::<Reference>()?;
            let read = if self.is_new(promotion) {
                registry.known_manifest(&by_digest, keychain).await?
            } else {
                // Somebody may have deleted it. What is remembered would bring it back.
                registry.manifest(&by_digest, keychain).await?
            };
            manifest.insert(read)
        };
        registry.set_tag(&reference, manifest, keychain).await?;
        Ok(ObservedTag::At((*digest).clone()))
    }

    /// Returns what is known of a tag.
    fn known_tag(&self, promotion: &ImagePromotion<'_>, tag: &TagMove) -> Option<&ObservedTag> {
        Some(&self.cache.tags.get(promotion.image)?.get(&tag.tag)?.tag)
    }

    /// Whether a tag of the image is known to point to another digest, so that this one was read
    /// a moment ago, after its build.
    fn is_new(&self, promotion: &ImagePromotion<'_>) -> bool {
        let mut known = promotion.tags.iter().filter_map(|tag| self.known_tag(promotion, tag));
        !promotion.is_earlier
            && known
                .any(|known| matches!(known, ObservedTag::At(known) if known != promotion.digest))
    }

    /// Publishes an Event if somebody else moved a tag, or if an immutable tag is taken.
    fn publish_tag_event(
        &self,
        promotion: &ImagePromotion<'_>,
        tag: &TagMove,
        observed: &ObservedTag,
    ) {
        let ImagePromotion { repository, digest, .. } = promotion;
        let (reason, note) = match (observed, &tag.moved_to) {
            (ObservedTag::At(_), Some(elsewhere)) => {
                let note = format!(
                    "somebody moved {repository}:{} to {}; it was restored to {}. To keep an image \
                     at a digest, pin it where it is used",
                    tag.tag,
                    short(elsewhere),
                    short(digest)
                );
                (Reason::TagMoved, note)
            }
            (ObservedTag::Taken(elsewhere), _) => {
                let note = format!(
                    "{repository}:{} names a build and already points to {}; it is left there, and \
                     {} does not get this tag",
                    tag.tag,
                    short(elsewhere),
                    short(digest)
                );
                (Reason::TagImmutable, note)
            }
            (ObservedTag::At(_), None) => {
                info!(repository, tag = %tag.tag, %digest, "set a tag");
                return;
            }
            (ObservedTag::Failed(..), _) => return,
        };
        let notice = Notice { type_: EventType::Warning, reason, action: "Promote", note };
        self.publish_about_image(promotion.image, &notice);
    }
}

/// Returns the pause after a tag could not be moved. `known` is what the last attempt has found.
fn retry_pause(known: Option<&TimedTag>, reason: Reason) -> SignedDuration {
    let last = known.and_then(|known| match known.tag {
        ObservedTag::Failed(_, retry_at) => Some(retry_at.duration_since(known.at)),
        ObservedTag::At(_) | ObservedTag::Taken(_) => None,
    });
    let most = if reason == Reason::RegistryUnavailable {
        MAX_TAG_RETRY_PAUSE
    } else {
        MAX_TAG_REFUSED_PAUSE
    };
    let doubled = last.map_or(MIN_TAG_RETRY_PAUSE, |last| last.saturating_mul(2));
    doubled.clamp(MIN_TAG_RETRY_PAUSE, most)
}

/// Returns why a tag is not set, or `None` if it is.
fn unset_problem(tag: &str, observed: &ObservedTag) -> Option<Problem> {
    match observed {
        ObservedTag::At(_) => None,
        ObservedTag::Failed(problem, _) => Some(problem.clone()),
        ObservedTag::Taken(digest) => Some(Problem {
            reason: Reason::TagImmutable,
            message: format!(
                "the tag {tag} names this build and already points to {}, which is not ours; it is \
                 never moved: delete it in the registry, or use another template",
                short(digest)
            ),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_tag_is_retried_ever_more_rarely() {
        let pauses = |reason: Reason| -> Vec<i64> {
            let (mut now, mut known, mut pauses) = (Timestamp::UNIX_EPOCH, None, Vec::new());
            for _ in 0..10 {
                let pause = retry_pause(known.as_ref(), reason);
                let problem = Problem { reason, message: String::new() };
                let tag = ObservedTag::Failed(problem, now + pause);
                known = Some(TimedTag { tag, at: now });
                now += pause;
                pauses.push(pause.as_secs());
            }
            pauses
        };
        assert_eq!(pauses(Reason::PushRefused), [10, 20, 40, 80, 160, 320, 600, 600, 600, 600]);
        assert_eq!(
            pauses(Reason::RegistryUnavailable),
            [10, 20, 40, 80, 120, 120, 120, 120, 120, 120]
        );
        let set = TimedTag { tag: ObservedTag::At("sha256:1".into()), at: Timestamp::UNIX_EPOCH };
        assert_eq!(retry_pause(Some(&set), Reason::PushRefused), MIN_TAG_RETRY_PAUSE);
    }
}
