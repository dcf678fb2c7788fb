//! What a reconcile records.
//!
//! - [`status`]: the status of the family; [`conditions`]: its conditions, with [`unstarted`]:
//!   builds that do not start; [`intended_cascade`]: the cascades that it names; [`staleness`]: how
//!   long it has not matched its inputs
//! - [`image`]: the record of each image, and [`image_status`] what it says; [`promotion`]: what is
//!   recorded before its tags move; [`history`]: the builds in it; [`counting`]: what the metrics
//!   count when it changes
//! - [`cascade`]: the records of cascades
//! - [`adoption`]: the family as the owner of records that have none
//! - [`requests`]: what happens to requests
//! - [`events`]: Events about families and images

pub mod adoption;
pub mod cascade;
pub mod conditions;
pub mod counting;
pub mod events;
pub mod history;
pub mod image;
pub(crate) mod image_status;
pub mod intended_cascade;
mod promotion;
pub mod requests;
mod staleness;
pub mod status;
mod unstarted;

use jiff::Timestamp;

use crate::{
    controller::{error::ReconcileError, family::reconcile::Reconcile},
    engine::CascadeDecision,
};

impl Reconcile<'_> {
    /// Records the images, the family, the cascades and the requests. Nothing is written that has
    /// not changed. Returns when the family is to be reconciled again for it: when a deferred write
    /// is due, or now if images are left to record, or if the pollers do not know yet which tags it
    /// has.
    ///
    /// What the family, its cascades and its requests say follows the records of the images. If one
    /// of these cannot be written, the family is recorded all the same, but no cascade ends, and no
    /// request is answered.
    ///
    /// The images are written first, so that a user who waits for the family to be `Ready` finds
    /// that all of them are. They are not written when a cascade opens, because their state changes
    /// a moment later. The requests are written last: a request that is done has been recorded with
    /// everything that it has changed.
    pub async fn record(&mut self) -> Result<Option<Timestamp>, ReconcileError> {
        self.publish_unrecorded_images();
        let mut images = None;
        if !matches!(self.decision.cascade, CascadeDecision::Start { .. }) {
            self.delete_removed_images().await?;
            images = self.record_images().await;
        }
        let ends = matches!(self.decision.cascade, CascadeDecision::Finish { .. });
        if !self.unrecorded.is_empty() && (ends || self.record_error.is_none()) {
            return Ok(Some(self.now).filter(|_| self.record_error.is_none()));
        }
        let family = self.record_family().await?;
        let cascades = self.record_cascades().await?;
        if self.record_error.is_some() {
            return Ok(None);
        }
        let requests = self.record_requests().await?;
        Ok([images, family, cascades, requests].into_iter().flatten().min())
    }
}
