//! The records of a family's images, and what they show of cached registry answers. No client is
//! needed.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::{Image, ImageFamilySpec, ManagedImage},
    controller::{
        family::observe::{Observer, ownership::is_record_of},
        reconcile_cache::{Lookups, ReconcileCache},
    },
    engine::{BuildOutcome, ObservedBuild, VerifiedBuild, blueprint::repository},
};

impl Observer<'_> {
    /// Returns the records of the family's images, by the images' names. What somebody else has
    /// created in their place is not believed.
    pub(super) fn records_by_image(&self) -> HashMap<String, Arc<ManagedImage>> {
        let records = self.context.stores.images.group(&self.key).into_iter();
        let ours = records.filter(|record| is_record_of(record, &self.family));
        ours.map(|record| (record.spec.image.clone(), record)).collect()
    }
}

/// Returns the record of an image, unless the record is about another repository. Then neither the
/// record nor what is cached about the image applies.
pub(super) fn current_record(
    spec: &ImageFamilySpec,
    image: &Image,
    records: &mut HashMap<String, Arc<ManagedImage>>,
    cache: &mut ReconcileCache,
) -> Option<Arc<ManagedImage>> {
    let Some(record) = records.remove(&image.name) else {
        // The cached answers lack the number of the last build, because the record had it when the
        // registry was asked. Now the registry has to provide it.
        cache.lookups.forget(&image.name);
        return None;
    };
    if record.spec.repository == repository(spec, image) {
        return Some(record);
    }
    cache.lookups.forget(&image.name);
    cache.tags.remove(&image.name);
    None
}

/// Drops the registry answers that a build has outdated: one that has succeeded since, or one whose
/// Job is gone and that may have succeeded.
pub(super) fn invalidate_lookups(
    image: &str,
    record: Option<&Arc<ManagedImage>>,
    builds: &[ObservedBuild],
    lookups: &mut Lookups,
) {
    for build in builds.iter().filter(|build| build.outcome == BuildOutcome::Succeeded) {
        let identity = &build.identity;
        lookups.invalidate_absent(image, &identity.fingerprint, Some(identity.attempt));
    }
    let ran = record.and_then(|record| record.status.as_ref()?.running.as_ref());
    if let Some(gone) = ran.filter(|ran| builds.iter().all(|build| build.job != ran.job)) {
        lookups.invalidate_absent(image, &gone.fingerprint.as_str().into(), None);
    }
}

/// Returns the last verified build of a record.
pub(super) fn verified(record: Option<&Arc<ManagedImage>>) -> Option<Arc<VerifiedBuild>> {
    VerifiedBuild::of(record?.status.as_ref()?).map(Arc::new)
}
