//! The reconcilers, and what they share.

pub mod cache;
pub mod claims;
pub mod watch;
