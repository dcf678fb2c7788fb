//! The reconcilers, and what they share.
//!
//! - [`family`]: the pass over an `ImageFamily`: observe, decide, apply, status
//! - [`image`]: the pass over a `FamilyImage`: its rollouts
//! - [`triggers`]: what wakes a family
//! - [`run`]: both controllers
//! - [`budget`]: what families share: the operator's limits of builds at once
//! - [`context`], [`caches`], [`cache`], [`watch`]: what every pass shares

pub mod budget;
pub mod cache;
pub mod caches;
pub mod claims;
pub mod context;
pub mod error;
pub mod failures;
pub mod family;
pub mod image;
pub mod importers;
pub mod revisions;
pub mod rollouts;
pub mod run;
pub mod triggers;
pub mod watch;
pub mod writes;
