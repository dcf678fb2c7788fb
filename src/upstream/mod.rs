//! Polling of what others change: tags of images and revisions of sources.
//!
//! [`poll`] polls arbitrary keys at intervals, as many at once as [`queue`] lets. [`tag`] resolves
//! a tag in a registry. This module makes no decisions about families.

mod pause;
pub mod poll;
mod queue;
pub mod tag;

pub use poll::{Interest, PollFailure, PollPurpose, PollSettings, PolledValue, Poller};
pub use queue::PollLimits;
pub use tag::{ImageKey, TagNeeds, UpstreamDigest, poll_tag, resolve_tag};
