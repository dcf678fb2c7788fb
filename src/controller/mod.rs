//! The reconcilers: observe, decide, apply, status.

pub mod cache;
pub mod claims;
pub mod watch;
