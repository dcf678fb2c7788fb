//! Following what others move: tags of images and revisions of sources.
//!
//! [`poll`] asks at intervals, whatever it is that is asked; [`image`] asks a registry for a tag.
//! Nothing is decided here.

pub mod image;
pub mod poll;

pub use image::{ImageKey, UpstreamDigest, resolve_tag};
pub use poll::{Interest, PolledValue, Poller};
