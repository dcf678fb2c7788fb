//! Moving workloads to a promoted digest.
//!
//! [`caches`] keeps a slim view of the cluster's workloads, [`plan`](mod@plan) decides what is to change (pure), [`apply`](mod@apply)
//! carries one change out. When to roll out, and in which record the result stands, is the controller's business.

pub mod apply;
pub mod caches;
pub mod plan;
mod progress;
pub mod repository;
pub mod workload;

pub use apply::apply;
pub use caches::{Caches, Changed};
pub use plan::{Change, Lookup, Step, WorkloadPatch, plan};
pub use progress::Progress;
pub use workload::{Container, Workload, WorkloadKey};
