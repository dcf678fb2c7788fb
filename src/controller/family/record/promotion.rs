//! What is recorded before the floating tags of images are moved. Needs a client.

use jiff::Timestamp;

use crate::{
    api::ManagedImageStatus,
    controller::{
        family::{
            observe::ownership::record_name, reconcile::Reconcile,
            record::image_status::ImageChange,
        },
        object_cache::Key,
    },
    engine::Effect,
    identity::ImageDigest,
    lineage::ImageIndex,
};

/// The most images whose tags one reconcile moves.
const MAX_PROMOTIONS: usize = 16;

impl Reconcile<'_> {
    /// Records the images whose floating tags are about to be moved, with the digests that they are
    /// moved to. If this process crashes between two moves, the next one completes the moves, and
    /// does not take the moved tags for somebody else's work. Returns the same as
    /// `record_images`.
    ///
    /// A reconcile moves the tags of a few images: the others are [`unrecorded`](Self), and follow
    /// in the next one, so that the Jobs that are due by then are created in between.
    ///
    /// The verified build is recorded in the same write. A record with the new digest of the tags
    /// and the build before would make that build current again as soon as its inputs come back,
    /// and its tags would go back with it.
    pub async fn record_promotion_intent(&mut self) -> Option<Timestamp> {
        self.postpone_promotions();
        let promoted = self.decision.effects.iter().filter_map(|effect| match effect {
            Effect::Promote { image, tags, .. } => {
                tags.iter().any(|tag| !tag.immutable).then_some(*image)
            }
            _ => None,
        });
        let promoted = promoted.filter(|image| !self.unrecorded.contains(image));
        let changed: Vec<ImageIndex> =
            promoted.filter(|image| self.has_new_promotion(*image)).collect();
        let polls = self.record_promotions(&changed).await;
        for image in changed {
            let name = record_name(&self.snapshot.key.name, self.image_name(image));
            let key = Key::new(&self.snapshot.key.namespace, &name);
            if let Some(record) = self.snapshot.records.get_mut(image.position()) {
                *record = self.context.stores.images.get(&key);
            }
        }
        polls
    }

    /// Leaves all but the first promotions to the next reconcile.
    fn postpone_promotions(&mut self) {
        let promoted = self.decision.effects.iter().filter_map(|effect| match effect {
            Effect::Promote { image, .. } => Some(*image),
            _ => None,
        });
        self.unrecorded.extend(promoted.skip(MAX_PROMOTIONS));
    }

    /// Returns whether an image is promoted to another digest than its record names. Images without
    /// a record have none: they are recorded after their tags are set.
    fn has_new_promotion(&self, image: ImageIndex) -> bool {
        let record = self.snapshot.records.get(image.position()).and_then(Option::as_ref);
        let decided = self.decision.images.get(image.position());
        record.zip(decided).is_some_and(|(record, decided)| {
            let recorded = record.status.as_ref().and_then(|status| status.promoted.as_deref());
            recorded != decided.promoted_digest().map(ImageDigest::as_str)
        })
    }

    /// Returns the status of an image whose tags are not moved yet: it has its new build, and stays
    /// in the state that it was in. An image is `Ready` once its tags are moved.
    pub(super) fn promotion_status(&self, change: ImageChange<'_>) -> ManagedImageStatus {
        let old = change.old.clone();
        ManagedImageStatus {
            conditions: old.conditions,
            state: old.state,
            reason: old.reason,
            message: old.message,
            since: old.since,
            overdue_since: old.overdue_since,
            tags: old.tags,
            ..self.image_status(change)
        }
    }
}
