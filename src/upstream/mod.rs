//! Polling of what others change: tags of images and revisions of sources.
//!
//! [`poll`] polls arbitrary keys at intervals. [`image`] resolves a tag in a registry. This module
//! makes no decisions about families.

pub mod image;
pub mod poll;

pub use image::{ImageKey, UpstreamDigest, resolve_tag};
pub use poll::{Interest, PolledValue, Poller};
