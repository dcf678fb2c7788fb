//! The reconcilers, and what they share.
//!
//! - [`family`]: the pass over an `ImageFamily`: observe, decide, apply, status
//! - [`image`]: the pass over a `ManagedImage`: its rollouts
//! - [`triggers`]: what wakes a family
//! - [`run`]: both controllers
//! - [`budget`]: what families share: the operator's limits of builds at once
//! - [`context`], [`stores`], [`cache`], [`watch`]: what every pass shares

pub mod backoff;
pub mod context;
pub mod dependents;
pub mod error;
pub mod family;
pub mod git_poll;
pub mod image;
pub mod object_cache;
pub mod quota;
pub mod rollouts;
pub mod run;
pub mod stores;
pub mod tag_owners;
pub mod triggers;
pub mod watch;
pub mod writes;
