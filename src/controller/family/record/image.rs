//! The record of each image: its `ManagedImage`. Needs a client.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::events::EventType,
};
use serde_json::json;

use crate::{
    api::{ManagedImage, ManagedImageSpec, ManagedImageStatus, labels},
    controller::{
        deferred_statuses::{DeferredStatuses, own_conditions},
        error::{ReconcileError, call},
        family::{
            observe::ownership::record_name,
            reconcile::Reconcile,
            record::{
                counting::RecordChange,
                events::Notice,
                image_status::{ImageChange, needs_user},
            },
        },
        object_cache::Key,
        writes::apply_status_unchanged,
    },
    engine::upstream_memory,
    lineage::ImageIndex,
};

/// The number of records that are written concurrently.
pub(super) const MAX_CONCURRENT_WRITES: usize = 8;
/// The status of a record that has none yet.
static NO_STATUS: LazyLock<ManagedImageStatus> = LazyLock::new(ManagedImageStatus::default);

/// The most records that one reconcile writes at once. A family with more of them is reconciled
/// again right away: a parent that has been built in the meantime does not wait for the records of
/// other images.
const MAX_WRITES: usize = 32;

/// A record to be written.
struct ImageWrite {
    index: ImageIndex,
    /// The spec, if the object is missing or has another one.
    spec: Option<ManagedImageSpec>,
    part: RecordPart,
    /// The status, unless it has to be the decided one.
    status: Option<ManagedImageStatus>,
}

impl Reconcile<'_> {
    /// Writes the records that have changed, apart from passing states. Images whose records
    /// could not be written, or are left to the next reconcile, are [`unrecorded`](Self). Returns
    /// when the next ones are to be written.
    pub(super) async fn record_images(&mut self) -> Option<Timestamp> {
        let images = ImageIndex::range(self.snapshot.family.spec.images.len());
        let mut writes = Vec::new();
        for index in images.filter(|index| !self.unrecorded.contains(index)).collect::<Vec<_>>() {
            writes.extend(self.plan_write(index));
        }
        for write in writes.split_off(writes.len().min(MAX_WRITES)) {
            self.unrecorded.insert(write.index);
        }
        let is_left = !self.unrecorded.is_empty();
        writes.extend(self.due_writes());
        let polls = self.write_images(writes).await;
        let deferred = self.cache.deferred_statuses.next_at(self.now);
        [polls, deferred, is_left.then_some(self.now)].into_iter().flatten().min()
    }

    /// Records the digests that the floating tags of images are about to be moved to. Returns the
    /// same as [`record_images`](Self::record_images).
    pub(super) async fn record_promotions(&mut self, images: &[ImageIndex]) -> Option<Timestamp> {
        let part = RecordPart::Promotion;
        let write = |index: &ImageIndex| {
            let spec = self.spec_to_apply(*index);
            ImageWrite { index: *index, spec, part, status: None }
        };
        let writes = images.iter().map(write).collect();
        self.write_images(writes).await
    }

    /// Returns what is written of an image now, if its record has changed.
    fn plan_write(&mut self, index: ImageIndex) -> Option<ImageWrite> {
        let part = RecordPart::All;
        let spec = self.spec_to_apply(index);
        let known = self.snapshot.records.get(index.position())?.clone();
        let (Some(known), None) = (known, &spec) else {
            return Some(ImageWrite { index, spec, part, status: None });
        };
        let generation = known.metadata.generation;
        let change = self.change(index, generation, known.status.as_ref())?;
        let (new, name) = (self.image_status(change), &change.image.name);
        let deferred = self.cache.deferred_statuses.stored(name);
        let stored = deferred.unwrap_or(&known);
        let written = stored.status.as_ref();
        if written == Some(&new) {
            self.count_ended_jobs(change, &new);
            let name = name.clone();
            self.cache.deferred_statuses.forget(&name);
            return None;
        }
        // Another family that is built on the image waits for its record.
        let is_awaited = !self.context.dependents.of_image(&self.snapshot.key, name).is_empty();
        let passes = !is_awaited
            && !needs_user(new.state, change.decided.reason)
            && written.is_some_and(|written| DeferredStatuses::can_defer(written, &new));
        if !passes {
            return Some(ImageWrite { index, spec, part, status: Some(new) });
        }
        if known.status.as_ref() != Some(&new) {
            self.count_ended_jobs(change, &new);
            let (name, stored) = (name.clone(), Arc::clone(stored));
            self.cache.deferred_statuses.defer(&name, &stored, &new, self.now);
        }
        None
    }

    /// Returns the deferred writes that are due.
    fn due_writes(&mut self) -> Vec<ImageWrite> {
        let due = self.cache.deferred_statuses.take_due(self.now);
        let images = ImageIndex::enumerate(&self.snapshot.family.spec.images);
        let due = images.filter_map(|(index, image)| {
            let status = due.get(&image.name)?.clone();
            Some(ImageWrite { index, spec: None, part: RecordPart::All, status: Some(status) })
        });
        due.collect()
    }

    /// Makes these writes. Returns the current time if the floating tags of an image are others
    /// than before: only the next reconcile registers their polls.
    async fn write_images(&mut self, writes: Vec<ImageWrite>) -> Option<Timestamp> {
        let reconcile = &*self;
        let written: Vec<_> = stream::iter(writes)
            .map(async |write: ImageWrite| (write.index, reconcile.write_image(write).await))
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .collect()
            .await;
        let mut polls = None;
        for (index, result) in written {
            match result {
                Ok(tags) => {
                    let name = self.image_name(index).to_owned();
                    self.cache.deferred_statuses.forget(&name);
                    polls = polls.or((tags == RecordedTags::Others).then_some(self.now));
                }
                // The records of other images do not depend on this one.
                Err(error) => {
                    self.unrecorded.insert(index);
                    self.record_error.get_or_insert(error);
                }
            }
        }
        polls
    }

    /// Returns the spec of an image's record, if it is to be written.
    fn spec_to_apply(&self, index: ImageIndex) -> Option<ManagedImageSpec> {
        let image = self.image(index)?;
        let known = self.snapshot.records.get(index.position()).and_then(Option::as_ref);
        let level = self.snapshot.blueprint.lineage.level(index);
        let remembered = known.map_or(&[][..], |known| &known.spec.upstreams);
        let spec = ManagedImageSpec {
            upstreams: upstream_memory::to_remember(
                &self.snapshot.family.spec,
                &self.snapshot.blueprint.lineage,
                &self.decision.upstreams,
                index,
                remembered,
            ),
            family: self.snapshot.key.name.clone(),
            image: image.name.clone(),
            repository: self.snapshot.repository(index),
            level: i32::try_from(level).unwrap_or(i32::MAX),
        };
        Some(spec).filter(|spec| known.is_none_or(|known| known.spec != *spec))
    }

    /// Returns the change of an image's record, whose status was `old`.
    fn change<'a>(
        &'a self,
        index: ImageIndex,
        generation: Option<i64>,
        old: Option<&'a ManagedImageStatus>,
    ) -> Option<ImageChange<'a>> {
        let decided = self.decision.images.get(index.position())?;
        let old = old.unwrap_or(&NO_STATUS);
        Some(ImageChange { index, image: self.image(index)?, decided, generation, old })
    }

    /// Writes the record of an image.
    async fn write_image(&self, write: ImageWrite) -> Result<RecordedTags, ReconcileError> {
        let ImageWrite { index, spec, part, status } = write;
        let name = record_name(&self.snapshot.key.name, self.image_name(index));
        let known = self.snapshot.records.get(index.position()).and_then(Option::as_ref);
        let metadata = match &spec {
            Some(spec) => self.apply_image(&name, spec).await?,
            None => self.stored_metadata(index).unwrap_or_default(),
        };
        let generation = metadata.generation;
        let old = known.and_then(|known| known.status.as_ref());
        let Some(change) = self.change(index, generation, old) else {
            return Ok(RecordedTags::AsBefore);
        };
        let new = status.unwrap_or_else(|| match part {
            RecordPart::All => self.image_status(change),
            RecordPart::Promotion => self.promotion_status(change),
        });
        self.write_image_status(metadata, &new).await?;
        if part == RecordPart::All {
            self.publish_image_event(change, &new);
        }
        self.count_ended_jobs(change, &new);
        let is_polled = floating_tags(&new).eq(floating_tags(change.old));
        Ok(if is_polled { RecordedTags::AsBefore } else { RecordedTags::Others })
    }

    /// Returns the metadata of an image's record as the API server has it.
    fn stored_metadata(&self, index: ImageIndex) -> Option<ObjectMeta> {
        let known = self.snapshot.records.get(index.position())?.as_ref()?;
        let deferred = self.cache.deferred_statuses.stored(self.image_name(index));
        Some(deferred.unwrap_or(known).metadata.clone())
    }

    /// Creates the object of an image's record, or updates its spec. Returns its metadata.
    async fn apply_image(
        &self,
        name: &str,
        spec: &ManagedImageSpec,
    ) -> Result<ObjectMeta, ReconcileError> {
        let owner = self.snapshot.family.controller_owner_ref(&());
        let body = json!({
            "apiVersion": ManagedImage::api_version(&()),
            "kind": ManagedImage::kind(&()),
            "metadata": {
                "name": name,
                "labels": BTreeMap::from([
                    (labels::FAMILY, spec.family.as_str()),
                    (labels::IMAGE, spec.image.as_str()),
                    (labels::MANAGED_BY, labels::MANAGED_BY_VALUE),
                ]),
                "ownerReferences": owner.into_iter().collect::<Vec<_>>(),
            },
            "spec": spec,
        });
        let api: Api<ManagedImage> = self.api();
        let (parameters, body) =
            (PatchParams::apply(labels::FIELD_OWNER).force(), Patch::Apply(body));
        let apply = api.patch(name, &parameters, &body);
        let written = call(|| format!("apply ManagedImage {name}"), apply).await?;
        let metadata = written.metadata.clone();
        self.context.stores.images.record_write(written);
        Ok(metadata)
    }

    /// Writes a status, without the fields that the image reconciler owns.
    async fn write_image_status(
        &self,
        metadata: ObjectMeta,
        status: &ManagedImageStatus,
    ) -> Result<(), ReconcileError> {
        let record = ManagedImage { metadata, ..ManagedImage::default() };
        let name = record.name_any();
        let what = || format!("write the status of ManagedImage {name}");
        let mut body = serde_json::to_value(status)
            .map_err(|source| ReconcileError::Serialize { what: what(), source })?;
        if let Some(body) = body.as_object_mut() {
            body.remove("rollouts");
            body.insert("conditions".into(), json!(own_conditions(&status.conditions)));
        }
        let body = apply_status_unchanged(&record, &body);
        let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
        let api: Api<ManagedImage> = self.api();
        let images = &self.context.stores.images;
        match call(what, api.patch_status(&name, &parameters, &body)).await {
            Ok(written) => images.record_write(written),
            // Deleted since. The next reconcile recreates it, and must not use the deleted record,
            // which the store would still show if the watch is behind.
            Err(error) if error.is_not_found() => {
                images.record_missing(&Key::new(&self.snapshot.key.namespace, &name));
            }
            Err(error) => {
                if error.is_conflict() {
                    let read = call(|| format!("read ManagedImage {name}"), api.get(&name)).await?;
                    images.record_write(read);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// Publishes an Event if an image has come to need a user, or needs one for another reason.
    fn publish_image_event(&self, change: ImageChange<'_>, new: &ManagedImageStatus) {
        let ImageChange { image, decided, old, .. } = change;
        let reason = decided.reason;
        let is_known = old.reason == reason && needs_user(old.state, reason);
        if !needs_user(new.state, reason) || is_known {
            return;
        }
        let notice = Notice {
            type_: EventType::Warning,
            reason,
            action: "Build",
            note: format!("{}: {}", image.name, new.message),
        };
        self.publish_about_image(&image.name, &notice);
    }

    /// Counts builds and checks that have ended in the metrics.
    fn count_ended_jobs(&self, change: ImageChange<'_>, new: &ManagedImageStatus) {
        let checks = self.snapshot.checks.get(change.index.position());
        let change = RecordChange {
            image: change.image,
            old: change.old,
            new,
            builds: self.snapshot.builds_of(change.index),
            durations: &self.snapshot.durations,
            checks: checks.map_or(&[], Vec::as_slice),
        };
        for build in change.builds() {
            self.context.metrics.build_finished(build.result, build.duration);
        }
        for result in change.checks() {
            self.context.metrics.check_finished(result);
        }
    }
}

/// What of an image's record is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordPart {
    /// Its build and the digest that its tags are about to be moved to.
    Promotion,
    /// Everything.
    All,
}

/// Whether a record has floating tags that it did not have before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordedTags {
    AsBefore,
    Others,
}

/// Returns the names of the floating tags of a record.
fn floating_tags(status: &ManagedImageStatus) -> impl Iterator<Item = &str> {
    let floating = status.tags.iter().filter(|tag| !tag.immutable);
    floating.map(|tag| tag.tag.as_str())
}
