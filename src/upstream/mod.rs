//! Polling of what others change: tags of images and revisions of sources.
//!
//! [`poll`] polls arbitrary keys at intervals. [`tag`] resolves a tag in a registry. This module
//! makes no decisions about families.

pub mod poll;
pub mod tag;

pub use poll::{Interest, PollFailure, PolledValue, Poller};
pub use tag::{ImageKey, TagNeeds, UpstreamDigest, poll_tag, resolve_tag};
