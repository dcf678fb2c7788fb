//! What the rules do.
//!
//! - [`dockerfile`]: what one Dockerfile says, in the light of the image's place in its family
//! - [`secrets`]: what looks like a secret
//! - [`edges`]: what a Dockerfile names against the edges of its image
//! - [`lineage`]: what a Dockerfile says against those of the images below it
//! - [`estate`]: families as a whole

pub mod dockerfile;
pub mod edges;
pub mod estate;
pub mod lineage;
pub mod secrets;
