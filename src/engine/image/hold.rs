//! Holds of an image, set in the manifest or by a request.

use jiff::Timestamp;

use crate::{
    api::{ImageState, ManualHold, condition::Reason},
    engine::{
        decision::ImageDecision,
        image::{evaluate::blank, evaluation::ImageEval},
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
        let is_built = self.observed.verified.is_some();
        let message = if is_built {
            format!("held{until}{why}; its inputs have changed")
        } else {
            format!("held{until}{why} before its first build; end the hold to build it")
        };
        ImageDecision {
            state: ImageState::Held,
            reason: Reason::Held,
            message: message.into(),
            failure: self.cancellation_while_waiting(),
            releases_children: is_built,
            ..blank()
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
