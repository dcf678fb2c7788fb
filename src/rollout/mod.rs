//! Moving workloads to a promoted digest.
//!
//! [`workload_store`] keeps a slim view of the cluster's workloads, [`plan`](mod@plan) decides what
//! is to change (pure), [`apply`](mod@apply) carries one change out. When to roll out, and in which
//! record the result stands, is the controller's business.

pub mod apply;
pub mod plan;
mod progress;
pub mod repository;
pub mod workload;
pub mod workload_store;

pub use apply::{RolloutError, apply};
pub use plan::{RolloutStep, WorkloadChange, WorkloadLookup, WorkloadPatch, plan};
pub use progress::RolloutProgress;
pub use workload::{Container, WorkloadKey, WorkloadView};
pub use workload_store::{ChangedObject, WorkloadStore};
