//! What a reconcile asks registries before builds and checks start, and what it writes there.
//!
//! - [`build_records`]: the signed records of builds
//! - [`check_images`]: the digests of the images that checks run in
//! - [`default_platform`]: the platform of builds whose strategies name none
//! - [`labels`]: labels of built images that tags name
//! - [`lookup`]: whether a fingerprint was already built
//! - [`existing_image`]: what an image that has no build yet begins with
//! - [`rollback_targets`]: whether the digests exist that images are to be rolled back to
//! - [`pushed_image`]: what a tag points to
//! - `recognition`: whether what a tag points to is a build of ours
//! - [`rebuilds`]: which of several builds from the same inputs is the newest
//! - [`retag_unchanged`]: points the tag of a fingerprint whose build changed nothing to the digest
//!   that the image keeps

pub mod allowance;
pub mod build_records;
pub mod check_images;
pub mod default_platform;
pub mod existing_image;
pub mod labels;
pub mod lookup;
mod patience;
pub mod pushed_image;
pub mod rebuilds;
mod recognition;
pub mod retag_unchanged;
pub mod rollback_targets;

#[cfg(test)]
mod build_records_tests;
#[cfg(test)]
mod pushed_image_tests;
#[cfg(test)]
mod repository_model;

/// How many requests of a reconcile to registries run at once.
const MAX_CONCURRENT_REQUESTS: usize = 8;

/// Whether a decision still holds after a step that asks registries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecisionValidity {
    /// The registries were not asked, so the decision holds.
    Current,
    /// The registries have answered, so the family must be decided again.
    Outdated,
}
