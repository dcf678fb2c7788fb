//! Images that a request holds at an earlier build, and the images that are built on them.
//!
//! A rollback moves tags and starts no build. The image keeps its newest verified build in its
//! record, and an end of the rollback finds everything as it was before. A rollback of a parent
//! makes no child stale. A child that is to be built for another reason uses the earlier build of
//! the parent, unless what it needs is built on the newest one already.

use crate::{
    api::{ImageState, RollbackRecord},
    engine::{
        decision::ImageDecision,
        fingerprint::fingerprint,
        image::{
            evaluation::ImageEval,
            inputs::{NotReady, ResolvedInputs, ResolvedParents, RolledBackDigest},
        },
        input::{BuildOutcome, LookupResult},
    },
    identity::Fingerprint,
};

impl ImageEval<'_> {
    /// Returns the earlier build that a request has rolled the image back to.
    pub(in crate::engine) fn rollback(&self) -> Option<&RollbackRecord> {
        self.overrides()?.rollback.as_ref()
    }

    /// Returns the decision for an image that is rolled back, if a build of it is known: it waits
    /// for nothing, and nothing is checked.
    pub(super) fn decide_rolled_back(&self) -> Option<ImageDecision> {
        self.rollback()?;
        self.observed.verified.as_ref()?;
        Some(self.decide_held())
    }

    /// Returns the decision for an image that is rolled back and whose newest build was found after
    /// a loss of its record: it is held all the same. Others stay as they are.
    pub(super) fn hold_found(&self, decision: ImageDecision) -> ImageDecision {
        if self.rollback().is_none() || decision.state != ImageState::Current {
            return decision;
        }
        let held = self.decide_held();
        ImageDecision { state: held.state, reason: held.reason, message: held.message, ..decision }
    }

    /// Returns the inputs of the build that the image needs.
    ///
    /// If a parent is rolled back, that is a build on the earlier digest of the parent, unless the
    /// image is built on the newest digest already, or is being built.
    pub(in crate::engine) fn wanted_inputs(
        &self,
        parents: &ResolvedParents<'_>,
    ) -> Result<ResolvedInputs, NotReady> {
        if parents.any_rolled_back() {
            let newest = self.resolve_inputs(parents, RolledBackDigest::Newest)?;
            if newest.source_is_remembered || self.may_be_built(&fingerprint(&newest.inputs)) {
                return Ok(newest);
            }
        }
        self.resolve_inputs(parents, RolledBackDigest::Earlier)
    }

    /// Whether a fingerprint was built, is being built, or is not known to be absent.
    fn may_be_built(&self, wanted: &Fingerprint) -> bool {
        let is_built = || {
            let mut builds = self.observed.builds.iter();
            builds.any(|build| {
                build.identity.fingerprint == *wanted
                    && matches!(build.outcome, BuildOutcome::Running | BuildOutcome::Succeeded)
            })
        };
        match self.lookup(wanted) {
            Some(LookupResult::Absent { .. } | LookupResult::Existing(_)) => is_built(),
            Some(LookupResult::Rejected(..)) => false,
            Some(LookupResult::Present { .. } | LookupResult::Failed(..)) | None => true,
        }
    }
}
