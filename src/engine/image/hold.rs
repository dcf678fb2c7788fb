//! Holds of an image, set in the manifest or by a request.

use jiff::Timestamp;

use crate::{
    api::{ImageState, ManualHold, condition::Reason},
    engine::{
        causes::describe_build,
        decision::ImageDecision,
        fingerprint::fingerprint,
        image::{
            evaluate::blank,
            evaluation::{ImageEval, Plan},
            inputs::ResolvedParents,
        },
        input::LookupResult,
    },
};

impl ImageEval<'_> {
    /// Returns the decision for a held image whose inputs have changed. If the manifest and a
    /// request both hold it, the message shows the hold of the manifest.
    pub(in crate::engine) fn decide_held(&self) -> ImageDecision {
        let manual = self.manual_hold();
        let (until, why) = self.image.hold.as_ref().map_or_else(
            || manual.map_or((None, None), |hold| (hold.until, hold.reason.clone())),
            |hold| (hold.until, hold.reason.clone()),
        );
        let until = until.map_or_else(String::new, |until| format!(" until {until:.0}"));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        if let Some(earlier) = self.rollback() {
            let why = manual.and_then(|hold| hold.reason.as_ref());
            let why = why.map_or_else(String::new, |why| format!(": {why}"));
            return self.held(format!("rolled back to {}{why}", describe_build(earlier)));
        }
        let is_built = self.observed.verified.is_some();
        let message = if is_built {
            format!("held{until}{why}; its inputs have changed")
        } else {
            format!("held{until}{why} before its first build; end the hold to build it")
        };
        self.held(message)
    }

    fn held(&self, message: String) -> ImageDecision {
        ImageDecision {
            state: ImageState::Held,
            reason: Reason::Held,
            message: message.into(),
            failure: self.cancellation_while_waiting(),
            releases_children: self.observed.verified.is_some(),
            ..blank()
        }
    }

    /// Returns the decision for a held image of which no build is known, if the registry has one of
    /// its inputs or is to be asked for it: the record of what it is held at may be lost. It is not
    /// built.
    pub(in crate::engine) fn decide_held_unknown(
        &self,
        plan: &mut Plan,
        parents: &ResolvedParents<'_>,
    ) -> Option<ImageDecision> {
        if self.observed.verified.is_some() {
            return None;
        }
        let resolved = self.wanted_inputs(parents).ok()?;
        if resolved.source_is_remembered {
            return None;
        }
        match self.lookup(&fingerprint(&resolved.inputs)) {
            None | Some(LookupResult::Present { .. }) => {
                Some(self.decide_stale(plan, resolved, parents))
            }
            Some(LookupResult::Failed(_, ask_at)) => {
                if *ask_at <= self.context.now {
                    return Some(self.decide_stale(plan, resolved, parents));
                }
                plan.wake(*ask_at);
                None
            }
            Some(
                LookupResult::Absent { .. }
                | LookupResult::Existing(_)
                | LookupResult::Rejected(..),
            ) => None,
        }
    }

    /// Whether the manifest or a request holds the image now.
    pub(in crate::engine) fn is_held(&self) -> bool {
        let now = self.context.now;
        self.image.hold.as_ref().is_some_and(|hold| hold.until.is_none_or(|until| now < until))
            || self.manual_hold().is_some()
    }

    /// Returns when the first hold of the image expires.
    pub(in crate::engine) fn hold_end(&self) -> Option<Timestamp> {
        let of_spec = self.image.hold.as_ref().and_then(|hold| hold.until);
        let manual = self.manual_hold().and_then(|hold| hold.until);
        of_spec.into_iter().chain(manual).filter(|until| *until > self.context.now).min()
    }

    /// Returns the hold that a request has set, if it has not expired.
    pub(in crate::engine) fn manual_hold(&self) -> Option<&ManualHold> {
        let hold = self.overrides().and_then(|overrides| overrides.hold.as_ref());
        hold.filter(|hold| hold.until.is_none_or(|until| self.context.now < until))
    }
}
