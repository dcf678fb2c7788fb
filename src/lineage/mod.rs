//! The graph of a family: how its images descend from one another and from their upstreams.
//!
//! [`families`] covers edges into other families.
//!
//! Everything here is pure. The graph is built from a spec and checked once; then it answers
//! queries for the order, levels, descendants and the critical path. Images and upstreams are
//! identified by their index in the spec, so that a traversal of a large family hashes no strings.

pub mod families;
mod graph;
mod import_problem;
mod index;
mod path;

#[cfg(test)]
mod families_tests;

pub use graph::{Import, Lineage, LineageError, Parent};
pub(crate) use index::position;
pub use index::{CheckIndex, EdgeIndex, ImageIndex, ImportIndex, UpstreamIndex};
pub use path::critical_path;
