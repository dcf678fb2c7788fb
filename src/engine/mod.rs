//! What is to be done: a pure decision over an observation and a given time.
//!
//! [`decide`] knows no client, no clock and no runtime. It walks the lineage in topological order, gives every image a
//! state, and says which effects bring the world closer to the spec. It remembers nothing between two calls: any pass from
//! any state, after any crash, moves toward the same fixpoint.
//!
//! - [`observation`]: what was seen
//! - [`decision`]: what is to be done, and what is to be recorded
//! - [`upstreams`]: candidates, holds, adoption
//! - [`fingerprint`]: what determines a build
//! - [`images`]: the state of each image; `inputs`: what it is built from; [`walk`]: what both carry along
//! - [`gates`]: settle, suspend, parallelism
//! - [`failure`]: budgets and pauses
//! - [`causes`]: why an image is stale
//! - [`tags`]: templates, and which tags are to be moved
//! - [`validate`]: what a spec must be before any of this
//! - [`wave`]: the record of a cascade
//! - [`windows`]: when builds may start

pub mod causes;
mod decide;
pub mod decision;
pub mod failure;
pub mod fingerprint;
pub mod gates;
pub mod images;
mod inputs;
pub mod observation;
pub mod tags;
pub mod upstreams;
pub mod validate;
pub mod walk;
pub mod wave;
pub mod windows;

#[cfg(test)]
mod tests;

pub use crate::api::condition::Fault;
pub use decide::decide;
pub use decision::{Action, Decision, Good, ImageDecision, PinnedParent, TagMove, WaveStep};
pub use observation::{
    BuildOutcome, BuildSight, ImageSight, Observation, Push, PushResult, SeenDigest, Sight, TagSight, UpstreamSight,
};
