//! What the tests on a real API server share: clusters of their own, objects and waiting, a
//! registry, the controller as a process.
//!
//! Each test works in a namespace of its own, and each test binary on a cluster of its own, which
//! is gone when the binary has ended, however it ended.

pub mod cluster;
pub mod family;
pub mod images;
pub mod objects;
pub mod operator;
pub mod played;
pub mod wait;

pub use cluster::Cluster;
