//! Polling of what others change: tags of images and revisions of sources.
//!
//! [`poll`] polls arbitrary keys at intervals, as many at once as [`queue`] lets. [`tag`] resolves
//! a tag in a registry. This module makes no decisions about families.

mod entry;
mod pause;
pub mod poll;
mod polled;
mod queue;
pub mod tag;

pub use entry::{Interest, PollPurpose};
pub use poll::{PollSettings, Poller};
pub use polled::{PollFailure, PolledValue};
pub use queue::PollLimits;
pub use tag::{ImageKey, TagNeeds, UpstreamDigest, poll_tag, resolve_tag};
