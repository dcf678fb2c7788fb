//! The graph of a family: how its images descend from one another and from their upstreams.
//!
//! [`families`] looks beyond the one family, at those whose images it stands on.
//!
//! Pure: built from a spec, checked once, and then asked for order, levels, descendants and the
//! critical path. Images and upstreams are named by their index in the spec, so that a walk over a
//! large family hashes no strings.

pub mod families;
mod graph;
mod index;
mod path;

#[cfg(test)]
mod families_tests;

pub use graph::{Import, Lineage, LineageError, Parent};
pub use index::{ImageIndex, ImportIndex, UpstreamIndex};
pub use path::critical_path;
