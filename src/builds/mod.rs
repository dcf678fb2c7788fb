//! Builds turn (image, fingerprint, strategy) into a Job, and a Job with its pods into an outcome.
//! The module [`checks`] does the same for the checks of a new digest.
//!
//! Everything here is pure, with two exceptions. [`git`] talks to Git servers. The init containers
//! of the Jobs' pods do IO inside their pod: [`prepare`] for a build, [`checks::credentials`] for a
//! check. No code here holds a Kubernetes client: the controller creates the [`job`] and passes in
//! what it observes of it, and [`outcome`] interprets that. The proof of a build is the image in
//! the registry, not the Job.

pub mod checks;
pub mod config_map;
pub mod dockerfile;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod git;
pub mod job;
pub mod outcome;
pub mod own_containers;
pub mod parameters;
pub mod platform;
pub mod pod_paths;
pub mod pod_settings;
pub mod prepare;
pub mod proxy;
pub mod request;
pub mod strategy;
pub mod strategy_revision;
pub mod template;
pub mod trial;

/// The variable `epoch` of strategies: `SOURCE_DATE_EPOCH`, in seconds since 1970, for a builder
/// that cannot read the dates that `prepare` writes. It is constant, so that the same inputs give
/// the same digest.
pub const SOURCE_DATE_EPOCH: i64 = 0;
