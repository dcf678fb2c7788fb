//! Adoption: an image that has no build yet begins with what its tags point to.
//!
//! An adopted digest is verified like a build, except that nobody knows which Dockerfile it was
//! built from. It never stands for a rebuild with the same content, because no tag of the registry
//! could say later that it is ours. And it is no reason to move a tag: if the tags of an adopted
//! image are moved, they are read again.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{AdoptionRecord, ImageState, Inputs, Unmatched, condition::Reason},
    engine::{
        causes::short,
        decision::{ImageDecision, LookupScope},
        fingerprint::{Hasher, fingerprint},
        image::{
            evaluate::blank,
            evaluation::{ImageEval, Plan},
            inputs::{ResolvedInputs, ResolvedParents},
        },
        input::{ExistingImage, FoundImage, LookupResult, ObservedTag, VerifiedBuild},
        tag_moves::{self, StrayTag},
    },
    identity::Fingerprint,
};

/// The pause until the tags of an image are read again that point elsewhere already.
const MIN_READ_PAUSE: SignedDuration = SignedDuration::from_secs(5);

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

    /// Whether a verified build stays although its inputs have changed: it was adopted, a rebuild
    /// would take platforms of it away, and no user has requested one.
    pub(in crate::engine) fn would_lose_platforms(&self, verified: &VerifiedBuild) -> bool {
        verified.adopted.as_ref().is_some_and(|adopted| !adopted.platforms.is_empty())
            && self.waits_for_unmatched()
            && verified.inputs.nonce == self.nonce().unwrap_or_default()
    }

    /// Returns what a lookup of a fingerprint with these inputs reads: the floating tags, too, if
    /// the family adopts images, and the image has no build and is not requested. If the image was
    /// adopted before, only its parents may have changed since: whoever has moved its tags may have
    /// built it on the new ones.
    pub(in crate::engine) fn lookup_scope(
        &self,
        wanted: &Inputs,
        succeeded: Option<i32>,
    ) -> LookupScope {
        let may_begin = match self.observed.verified.as_deref() {
            None => wanted.nonce.is_empty(),
            Some(verified) => {
                let last = &verified.inputs;
                verified.adopted.is_some()
                    && (self.would_lose_platforms(verified)
                        || (&last.source, &last.spec, &last.strategy, &last.nonce)
                            == (&wanted.source, &wanted.spec, &wanted.strategy, &wanted.nonce))
            }
        };
        if may_begin && succeeded.is_none() && self.context.input.spec.adopt.is_some() {
            LookupScope::FloatingTags
        } else {
            LookupScope::Fingerprint
        }
    }

    /// Whether an answer about the floating tags still holds. It does not if a tag was found to
    /// point elsewhere since, or was not read. It is asked for again after a pause.
    pub(in crate::engine) fn is_up_to_date(
        &self,
        plan: &mut Plan,
        existing: &ExistingImage,
    ) -> bool {
        let now = self.context.now;
        let holds = existing.tags.iter().all(|(tag, digest)| match self.observed.tags.get(tag) {
            Some(ObservedTag::At(observed)) => observed == digest,
            Some(ObservedTag::Taken(_) | ObservedTag::Failed(..)) | None => true,
        });
        let stray = self.observed.verified.as_deref().and_then(|verified| self.stray_tag(verified));
        let is_read = stray.is_none_or(|stray| existing.tags.contains_key(&stray.name));
        let is_fresh = match existing.found {
            Some(_) => is_read,
            None => existing.ask_at > now,
        };
        if holds && is_fresh {
            return true;
        }
        let ask_at = existing.read_at.saturating_add(MIN_READ_PAUSE).unwrap_or(now);
        if ask_at > now {
            plan.wake(ask_at);
        }
        ask_at > now
    }

    /// Returns a floating tag that does not point to the adopted digest.
    fn stray_tag(&self, verified: &VerifiedBuild) -> Option<StrayTag> {
        verified.adopted.as_ref()?;
        tag_moves::stray_tag(self.context.input, self.index, self.observed, verified)
    }

    /// Returns the decision for an adopted image that is not to be rebuilt. If its tags point
    /// elsewhere by now, they are read again, and no tag is moved.
    pub(in crate::engine) fn decide_adopted(
        &self,
        plan: &mut Plan,
        verified: Arc<VerifiedBuild>,
        parents: &ResolvedParents<'_>,
    ) -> ImageDecision {
        let stray = self.stray_tag(&verified).filter(|_| !self.is_held());
        let Some(stray) = stray else { return self.decide_as_adopted(plan, verified) };
        if self.context.input.spec.adopt.is_none() {
            return Self::decide_unmatched(verified, &stray_message(&stray));
        }
        let resolved = match self.wanted_inputs(parents) {
            Ok(resolved) if !resolved.source_is_remembered => resolved,
            _ => return self.decide_as_adopted(plan, verified),
        };
        match self.lookup(&fingerprint(&resolved.inputs)) {
            Some(LookupResult::Failed(_, ask_at) | LookupResult::Rejected(_, ask_at))
                if *ask_at > self.context.now =>
            {
                plan.wake(*ask_at);
                self.decide_as_adopted(plan, verified)
            }
            _ => self.decide_stale(plan, resolved, parents),
        }
    }

    /// Returns the decision for an adopted image according to its record.
    fn decide_as_adopted(&self, plan: &mut Plan, verified: Arc<VerifiedBuild>) -> ImageDecision {
        match verified.mismatch().map(str::to_owned) {
            Some(mismatch) => Self::decide_unmatched(verified, &mismatch),
            None => self.decide_verified(plan, verified, blank()),
        }
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
        self.context.input.spec.adopt.as_ref()?;
        let wanted = stale.fingerprint.as_ref()?;
        let last = self.observed.verified.as_ref();
        let mismatch = existing.mismatch.as_deref();
        let is_stale = last.is_some_and(|last| {
            !self.is_unchanged(last, parents) && !self.would_lose_platforms(last)
        });
        if mismatch.is_some() && (is_stale || !self.waits_for_unmatched()) {
            return None;
        }
        let Some(found) = &existing.found else {
            plan.wake(existing.ask_at);
            let mismatch = mismatch.unwrap_or_default();
            return Some(match last {
                Some(last) => Self::decide_unmatched(Arc::clone(last), mismatch),
                None => ImageDecision {
                    reason: Reason::NotAdopted,
                    message: waiting_message(mismatch).into(),
                    ..stale.clone()
                },
            });
        };
        // The adopted image is not built on the new parents.
        if is_stale && last.is_some_and(|last| last.digest == found.digest) {
            return None;
        }
        let inputs = ExistingInputs { wanted, resolved, base_observed: parents.base_observed };
        let verified = Arc::new(self.adopt(existing, found, inputs));
        Some(match mismatch {
            Some(mismatch) => Self::decide_unmatched(verified, mismatch),
            None => Self::decide_current(verified),
        })
    }

    /// Returns the verified build of an image that is adopted.
    fn adopt(
        &self,
        existing: &ExistingImage,
        found: &FoundImage,
        inputs: ExistingInputs<'_>,
    ) -> VerifiedBuild {
        let FoundImage { digest, size, content, blobs } = found;
        let last = self.observed.verified.as_deref();
        let (mismatch, platforms) = (existing.mismatch.clone(), existing.lost_platforms.clone());
        let known = last.and_then(|last| last.adopted.as_ref());
        let known = known.filter(|known| *digest == known.digest && known.mismatch == mismatch);
        VerifiedBuild {
            digest: digest.clone(),
            fingerprint: match mismatch {
                None => inputs.wanted.clone(),
                Some(_) => unmatched_fingerprint(inputs.wanted, found),
            },
            build: existing.last_build.or(last.map(|last| last.build)).unwrap_or(0),
            size: *size,
            inputs: inputs.resolved.inputs.clone(),
            base_observed: inputs.base_observed,
            content: content.clone(),
            blobs: blobs.clone(),
            // It is in use already.
            checked: self.blueprint.checks.clone(),
            causes: Vec::new(),
            spared: false,
            adopted: Some(AdoptionRecord {
                digest: digest.into(),
                at: known.map_or(Some(self.context.now), |known| known.at),
                mismatch,
                platforms,
            }),
            labels: Vec::new(),
        }
    }

    /// Returns the decision for an adopted image that is not known to be built on its base.
    fn decide_unmatched(verified: Arc<VerifiedBuild>, mismatch: &str) -> ImageDecision {
        ImageDecision {
            state: ImageState::Held,
            reason: Reason::NotAdopted,
            message: waiting_message(mismatch).into(),
            releases_children: true,
            verified: Some(verified),
            ..blank()
        }
    }
}

/// What an image that exists is adopted with.
struct ExistingInputs<'a> {
    wanted: &'a Fingerprint,
    resolved: &'a ResolvedInputs,
    base_observed: Option<Timestamp>,
}

fn waiting_message(mismatch: &str) -> String {
    format!(
        "{mismatch}; it stays as it is: request a build with Force, or set spec.adopt.unmatched to \
         Build"
    )
}

/// Returns why an image is not current whose tag points elsewhere, in a family that adopts no more.
fn stray_message(stray: &StrayTag) -> String {
    let StrayTag { name, digest } = stray;
    digest.as_ref().map_or_else(
        || format!("its tag {name} was not set when it was adopted"),
        |digest| format!("its tag {name} points to {} since it was adopted", short(digest)),
    )
}

/// Returns a fingerprint that no build has, for an image that is not known to be made from its
/// inputs.
fn unmatched_fingerprint(wanted: &Fingerprint, found: &FoundImage) -> Fingerprint {
    let FoundImage { digest, .. } = found;
    Hasher::new("unmatched").text(wanted.as_str()).text(digest.as_str()).hex().into()
}
