//! Resolves the tags of the images that checks run in to digests, when the checks start. No client
//! of the API server is needed.
//!
//! The Job of a check is created with the digest and keeps it. A tag that moves later therefore
//! changes neither a running check nor a result. The next check that starts runs in the new digest.

use std::collections::BTreeSet;

use kube::ResourceExt;

use crate::{
    backoff::jitter_seed,
    controller::{check_images::CheckImage, family::reconcile::Reconcile},
    engine::{DeferredWork, Effect, fingerprint::check_revision},
};

impl Reconcile<'_> {
    /// Resolves the tags of the images that checks run in which the decision asks for. Each tag is
    /// resolved once, however many checks run in it, and not again as long as the answer is fresh.
    pub async fn resolve_check_images(&mut self) {
        let reconcile = &*self;
        let wanted: BTreeSet<CheckImage> = reconcile
            .decision
            .effects
            .iter()
            .filter_map(|effect| reconcile.image_to_resolve(effect))
            .collect();
        if wanted.is_empty() {
            return;
        }
        let seed = jitter_seed(&[&self.snapshot.family.uid().unwrap_or_default()]);
        let (client, keychain) = (&self.context.registry, &self.snapshot.keychain);
        self.cache.check_images.resolve(wanted, client, keychain, seed, self.now).await;
        let checks = self.snapshot.family.spec.images.iter().flat_map(|image| &image.checks);
        let named = checks.filter_map(|check| check.image.as_deref()).collect();
        self.cache.check_images.retain_named(&named);
    }

    /// Returns the image to resolve before the check can start that an effect asks for, if any.
    fn image_to_resolve(&self, effect: &Effect) -> Option<CheckImage> {
        let Effect::Check { image: index, check, digest, .. } = effect else { return None };
        let image = self.image(*index)?;
        let check = image.checks.get(check.position())?;
        let platform = self.snapshot.platform(*index)?;
        let wanted = CheckImage::with_tag(check.image.as_deref()?, platform)?;
        // A check that starts although it is deferred was retried by a user.
        let work = DeferredWork::Check { digest: digest.clone(), revision: check_revision(check) };
        let deferred = self.cache.deferred_jobs.of(&image.name, self.snapshot.job_version(*index));
        let is_retried = deferred.iter().any(|job| job.work == work && self.now < job.retry_at);
        (is_retried || !self.cache.check_images.is_known(&wanted, self.now)).then_some(wanted)
    }
}
