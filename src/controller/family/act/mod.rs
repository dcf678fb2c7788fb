//! What a reconcile does: it creates and deletes Jobs, and moves tags.
//!
//! - [`start_builds`], [`start_checks`]: create the Jobs of builds and checks
//! - `start_delay`: how long the start of a build takes after its parents' builds
//! - [`jobs`]: how a Job is created at most once, and how it is deleted
//! - [`promote`]: moves tags

pub mod jobs;
pub mod promote;
pub mod start_builds;
pub mod start_checks;
mod start_delay;

#[cfg(test)]
mod jobs_tests;
