//! What a reconcile asks registries, and writes there before builds start.
//!
//! - [`lookup`]: whether a fingerprint has been pushed
//! - [`pushed_image`]: what stands under a tag
//! - [`retag_unchanged`]: the tag of a fingerprint whose build changed nothing is set to the digest
//!   that stays

pub mod lookup;
pub mod pushed_image;
pub mod retag_unchanged;

#[cfg(test)]
mod pushed_image_tests;
