//! Whether the registry has the digests that images are to be rolled back to. Nothing is moved
//! before it has all of them. No client of the API server is needed.

use jiff::Timestamp;

use crate::{
    controller::family::{reconcile::Reconcile, registry::DecisionValidity},
    engine::{DigestAnswer, DigestResult, Effect, Problem},
    identity::ImageDigest,
    lineage::ImageIndex,
    registry::Reference,
};

impl Reconcile<'_> {
    /// Asks for the digests that the decision wants to know about.
    pub async fn find_digests(&mut self) -> DecisionValidity {
        let reconcile = &*self;
        let retry_at = reconcile.lookup_retry_at(self.cache.failed_lookups.saturating_add(1));
        let wanted = reconcile.decision.effects.iter().filter_map(|effect| match effect {
            Effect::FindDigest { image, digest } => {
                Some(reconcile.find_digest(*image, digest, retry_at))
            }
            _ => None,
        });
        let wanted: Vec<_> = wanted.collect();
        let answers: Vec<(String, DigestAnswer)> = reconcile.registry_time.run(wanted).await;
        if answers.is_empty() {
            return DecisionValidity::Current;
        }
        if answers.iter().any(|(_, answer)| matches!(answer.result, DigestResult::Failed(..))) {
            self.cache.failed_lookups = self.cache.failed_lookups.saturating_add(1);
        }
        self.cache.rollback_targets.extend(answers);
        DecisionValidity::Outdated
    }

    /// Returns the name of an image with the answer about a digest.
    async fn find_digest(
        &self,
        image: ImageIndex,
        digest: &ImageDigest,
        retry_at: Timestamp,
    ) -> (String, DigestAnswer) {
        let result = match self.has_digest(image, digest).await {
            Ok(true) => DigestResult::Present,
            Ok(false) => DigestResult::Absent,
            Err(problem) => DigestResult::Failed(problem, retry_at),
        };
        (self.image_name(image).to_owned(), DigestAnswer { digest: digest.clone(), result })
    }

    async fn has_digest(&self, image: ImageIndex, digest: &ImageDigest) -> Result<bool, Problem> {
        let repository = self.snapshot.repository(image);
        let reference = format!("{repository}@{digest}").parse::<Reference>()?;
        let (registry, keychain) = (&self.context.registry, &self.snapshot.keychain);
        Ok(registry.head_of_pushed(&reference, keychain).await?.is_some())
    }
}
