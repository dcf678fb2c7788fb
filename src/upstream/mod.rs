//! Following what others move: tags of images and revisions of sources.
//!
//! [`poll`] asks at intervals, whatever it is that is asked. Nothing is decided here.

pub mod poll;

pub use poll::{Interest, Poller, Sighting};
