//! Adoption: an image that has no build yet begins with what its tags point to.
//!
//! An adopted digest is verified like a build, except that nobody knows which Dockerfile it was
//! built from. It never stands for a rebuild with the same content, because no tag of the registry
//! could say later that it is ours.

use std::sync::Arc;

use crate::{
    api::{AdoptionRecord, ImageState, Unmatched, condition::reason},
    engine::{
        decision::ImageDecision,
        fingerprint::Hasher,
        image::{
            evaluate::blank,
            evaluation::{ImageEval, Plan},
            inputs::{ResolvedInputs, ResolvedParents},
        },
        input::{ExistingImage, FoundImage, VerifiedBuild},
    },
    identity::Fingerprint,
};

impl ImageEval<'_> {
    /// Whether the family waits with images that cannot be adopted as current.
    fn waits_for_unmatched(&self) -> bool {
        let adopt = self.context.input.spec.adopt.as_ref();
        adopt.is_some_and(|adopt| adopt.unmatched == Unmatched::Wait)
    }

    /// Whether a verified build may stay if its inputs are unchanged.
    pub(in crate::engine) fn may_stay(&self, verified: &VerifiedBuild) -> bool {
        verified.mismatch().is_none() || self.waits_for_unmatched()
    }

    /// Returns the decision for an image that was never built and that the registry has under its
    /// tags, or `None` if it is to be built.
    pub(in crate::engine) fn decide_existing(
        &self,
        plan: &mut Plan,
        existing: &ExistingImage,
        stale: &ImageDecision,
        resolved: &ResolvedInputs,
        parents: &ResolvedParents<'_>,
    ) -> Option<ImageDecision> {
        let wanted = stale.fingerprint.as_ref()?;
        let mismatch = existing.mismatch.as_ref();
        self.context.input.spec.adopt.as_ref()?;
        if mismatch.is_some() && !self.waits_for_unmatched() {
            return None;
        }
        let Some(found) = &existing.found else {
            plan.wake(existing.ask_at);
            return Some(ImageDecision {
                reason: reason::NOT_ADOPTED,
                message: waiting_message(mismatch.map_or("", String::as_str)).into(),
                ..stale.clone()
            });
        };
        let FoundImage { digest, size, content, blobs } = found;
        let verified = VerifiedBuild {
            digest: digest.clone(),
            fingerprint: match mismatch {
                None => wanted.clone(),
                Some(_) => unmatched_fingerprint(wanted, found),
            },
            build: existing.last_build.unwrap_or(0),
            size: *size,
            inputs: resolved.inputs.clone(),
            base_observed: parents.base_observed,
            content: content.clone(),
            blobs: blobs.clone(),
            // It is in use already.
            checked: self.blueprint.checks.clone(),
            causes: Vec::new(),
            spared: false,
            adopted: Some(AdoptionRecord {
                at: Some(self.context.now),
                mismatch: mismatch.cloned(),
            }),
        };
        let verified = Arc::new(verified);
        Some(match mismatch {
            Some(mismatch) => Self::decide_unmatched(verified, mismatch),
            None => Self::decide_current(verified),
        })
    }

    /// Returns the decision for an adopted image that is not known to be built on its base.
    pub(in crate::engine) fn decide_unmatched(
        verified: Arc<VerifiedBuild>,
        mismatch: &str,
    ) -> ImageDecision {
        ImageDecision {
            state: ImageState::Held,
            reason: reason::NOT_ADOPTED,
            message: waiting_message(mismatch).into(),
            releases_children: true,
            verified: Some(verified),
            ..blank()
        }
    }
}

fn waiting_message(mismatch: &str) -> String {
    format!(
        "{mismatch}; it stays as it is: request a build with Force, or set spec.adopt.unmatched to \
         Build"
    )
}

/// Returns a fingerprint that no build has, for an image that is not known to be made from its
/// inputs.
fn unmatched_fingerprint(wanted: &Fingerprint, found: &FoundImage) -> Fingerprint {
    let FoundImage { digest, .. } = found;
    Hasher::new("unmatched").text(wanted.as_str()).text(digest.as_str()).hex().into()
}
