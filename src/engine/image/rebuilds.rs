//! Rebuilds from the same inputs, which users request: the newest verified one wins, even if every
//! record is lost.
//!
//! The id of the request is part of the fingerprint, and only the record of the image has it. The
//! registry therefore gets a mark under the fingerprint that the inputs have without it, before the
//! tags of the image move.

use crate::{
    api::{ImageState, Inputs},
    engine::{
        decision::{Effect, ImageDecision},
        fingerprint::fingerprint,
        image::evaluation::{ImageEval, Plan},
        input::RebuildMark,
    },
    identity::Fingerprint,
};

impl ImageEval<'_> {
    /// Has the verified build of a current image marked if a request has rebuilt its inputs.
    pub(in crate::engine) fn mark_rebuild(&self, decision: &ImageDecision, plan: &mut Plan) {
        let verified = match &decision.verified {
            Some(verified) if decision.state == ImageState::Current => verified,
            _ => return,
        };
        if verified.inputs.nonce.is_empty() || verified.adopted.is_some() {
            return;
        }
        let unrequested = without_request(&verified.inputs);
        let mark = self
            .observed
            .rebuild_mark
            .as_ref()
            .filter(|mark| mark.fingerprint == unrequested && mark.digest == verified.digest);
        match mark {
            Some(mark) if mark.retry_at.is_none() => return,
            Some(RebuildMark { retry_at: Some(at), .. }) if *at > self.context.now => {
                plan.wake(*at);
            }
            _ => plan.effects.push(Effect::MarkRebuild {
                image: self.index,
                fingerprint: unrequested,
                digest: verified.digest.clone(),
            }),
        }
        plan.unmarked.push(self.index);
    }
}

/// Returns the fingerprint that inputs have without a request.
fn without_request(inputs: &Inputs) -> Fingerprint {
    fingerprint(&Inputs { nonce: String::new(), ..inputs.clone() })
}
