//! Moving workloads to a promoted digest.
//!
//! [`workload_store`] keeps a reduced view of the cluster's workloads, [`plan`](mod@plan) decides
//! what to change (pure), [`reverts`] slows down the changes that another client undoes, and
//! [`apply`](mod@apply) applies one change. The controller decides when to roll out and records the
//! result.

pub mod apply;
pub mod plan;
mod progress;
pub mod repository;
pub mod reverts;
pub mod workload;
pub mod workload_store;

pub use apply::{RolloutError, apply};
pub use plan::{
    DigestOrigin, RolloutFamily, RolloutStep, WorkloadChange, WorkloadLookup, WorkloadPatch, plan,
};
pub use progress::RolloutProgress;
pub use repository::{normalize_folder, normalize_repository};
pub use reverts::RevertTracker;
pub use workload::{Container, WorkloadKey, WorkloadView};
pub use workload_store::{ChangedObject, WorkloadStore};
