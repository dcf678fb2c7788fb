//! What the tests on a real API server share: a cluster, objects and waiting, a registry, the
//! controller as a process.
//!
//! Each test has its own namespace, and each test binary its own cluster, which is removed when the
//! binary ends, however it ends.

pub mod cluster;
pub mod family;
pub mod images;
pub mod objects;
pub mod operator;
pub mod played;
pub mod wait;

pub use cluster::Cluster;
