//! What the tags of a family's images point to: as they were set, or as polls have found them
//! since. No client is needed.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::ManagedImage,
    controller::{
        family::observe::{Observer, snapshot::Snapshot},
        reconcile_cache::{ReconcileCache, TimedTag},
    },
    engine::ObservedTag,
    lineage::ImageIndex,
    registry::Keychain,
    upstream::{PolledValue, TagNeeds, UpstreamDigest},
};

/// What polls have found of an image's floating tags, by tag.
pub(super) type PolledTags = HashMap<String, TimedTag>;

impl Observer<'_> {
    /// Returns what polls have found of the floating tags that an image's record names.
    pub(super) fn polled_tags(
        &mut self,
        record: Option<&Arc<ManagedImage>>,
        keychain: &Arc<Keychain>,
    ) -> PolledTags {
        let Some(record) = record else { return HashMap::new() };
        let tags =
            record.status.iter().flat_map(|status| &status.tags).filter(|tag| !tag.immutable);
        tags.filter_map(|tag| {
            let reference = format!("{}:{}", record.spec.repository, tag.tag);
            let key = self.cache.image_keys.key(
                &self.context.registry,
                reference,
                &TagNeeds::default(),
                keychain,
            );
            Some((tag.tag.clone(), polled_tag(&*self.context.tags.latest(&key)?)?))
        })
        .collect()
    }
}

impl Snapshot {
    /// Returns what the tags of an image point to: as we have set them, or as a poll has found them
    /// since.
    pub(super) fn tags(
        &self,
        index: ImageIndex,
        image: &str,
        cache: &ReconcileCache,
    ) -> HashMap<String, ObservedTag> {
        let mut tags = cache.tags.get(image).cloned().unwrap_or_default();
        // A tag that somebody else's image takes is read again: it may have been deleted.
        tags.retain(|_, known_tag| {
            !matches!(known_tag.tag, ObservedTag::Taken(_)) || known_tag.at > self.taken_tags_expire
        });
        for (tag, polled) in self.polled_tags.get(index.position()).into_iter().flatten() {
            // A tag that could not be set is retried soon, and the retry shows what it points to.
            let is_newer = |known: &TimedTag| {
                known.at < polled.at && !matches!(known.tag, ObservedTag::Failed(..))
            };
            if tags.get(tag).is_none_or(is_newer) {
                tags.insert(tag.clone(), polled.clone());
            }
        }
        tags.into_iter().map(|(tag, known_tag)| (tag, known_tag.tag)).collect()
    }
}

/// Returns what a poll has found of a tag. A failed poll has found nothing: its value is from an
/// earlier poll, and the tag may have been set since.
fn polled_tag(polled: &PolledValue<UpstreamDigest>) -> Option<TimedTag> {
    let found = polled.value.as_ref().filter(|_| polled.problem.is_none())?;
    Some(TimedTag { tag: ObservedTag::At(found.tagged.as_str().into()), at: polled.polled_at })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{api::condition::Reason, engine::Problem};

    #[test]
    fn a_failed_poll_finds_no_tag() {
        let value = UpstreamDigest {
            tagged: "sha256:before".into(),
            images: vec![],
            missing_platforms: vec![],
            is_partial: false,
        };
        let polled = PolledValue {
            value: Some(value),
            first_observed: Timestamp::UNIX_EPOCH,
            problem: None,
            polled_at: Timestamp::UNIX_EPOCH,
            confirmed_at: Timestamp::UNIX_EPOCH,
            resumed_at: None,
        };
        let found =
            TimedTag { tag: ObservedTag::At("sha256:before".into()), at: Timestamp::UNIX_EPOCH };
        assert_eq!(polled_tag(&polled), Some(found));
        let problem =
            Problem { reason: Reason::RegistryUnavailable, message: "unreachable".into() };
        assert_eq!(polled_tag(&PolledValue { problem: Some(problem), ..polled }), None);
    }
}
