//! What a reconcile does: Jobs and tags.
//!
//! - [`start_builds`], [`start_checks`]: Jobs are created; [`jobs`]: how a Job is created once, and
//!   ended
//! - [`promote`]: tags are moved

pub mod jobs;
pub mod promote;
pub mod start_builds;
pub mod start_checks;

#[cfg(test)]
mod jobs_tests;
