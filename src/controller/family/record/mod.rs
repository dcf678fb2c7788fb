//! What a reconcile records.
//!
//! - [`status`]: the status of the family; [`conditions`]: its conditions, with [`unstarted`]:
//!   builds that do not start; [`intended_cascade`]: the cascades that it names; [`staleness`]: how
//!   long it has not matched its inputs
//! - [`image`]: the record of each image; [`promotion`]: what is recorded before its tags move;
//!   [`history`]: the builds in it; [`counting`]: what the metrics count when it changes
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
    /// is due, or now if the pollers do not know yet which tags it has.
    ///
    /// The images are written first, so that a user who waits for the family to be `Ready` finds
    /// that all of them are. They are not written when a cascade opens, because their state changes
    /// a moment later. The requests are written last: a request that is done has been recorded with
    /// everything that it has changed.
    pub async fn record(&mut self) -> Result<Option<Timestamp>, ReconcileError> {
        self.publish_unrecorded_images().await;
        let mut polls = None;
        if !matches!(self.decision.cascade, CascadeDecision::Start { .. }) {
            self.delete_removed_images().await?;
            polls = self.record_images().await?;
        }
        let family = self.record_family().await?;
        let cascades = self.record_cascades().await?;
        let requests = self.record_requests().await?;
        Ok([polls, family, cascades, requests].into_iter().flatten().min())
    }
}
