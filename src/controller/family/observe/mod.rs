//! What a reconcile reads, from stores, pollers and, where content has changed, from the API
//! server.
//!
//! - [`dockerfiles`]: what the Dockerfiles of images add to the spec
//! - [`validate`]: the spec, and what follows from it
//! - [`credentials`]: the registry credentials
//! - [`platform`]: the platform of builds whose strategies name none
//! - [`polls`]: what the pollers are to poll
//! - [`snapshot`]: everything that the decision needs, by subject: [`sources`], [`strategies`],
//!   [`jobs`] with [`job`], [`final_pods`], [`pod_events`], [`upstreams`], [`tags`], [`imports`],
//!   [`cascades`], [`records`] and [`requests`]
//! - [`ownership`]: which records belong to the family
//! - [`image_keys`]: the keys by which pollers are asked for tags

pub mod cascades;
pub mod credentials;
pub mod dockerfiles;
pub mod final_pods;
pub mod image_keys;
pub mod imports;
pub mod job;
pub mod jobs;
pub mod ownership;
pub mod platform;
pub mod pod_events;
mod pod_messages;
pub mod polls;
pub mod records;
pub mod requests;
pub mod snapshot;
pub mod sources;
pub mod strategies;
pub mod tags;
pub mod upstreams;
pub mod validate;

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api::ImageFamily,
    controller::{
        context::Context,
        error::ReconcileError,
        family::observe::{dockerfiles::DockerfileEffects, sources::ObservedSource},
        object_cache::Key,
        reconcile_cache::ReconcileCache,
    },
    engine::Problem,
};

/// Reads the inputs of one reconcile of a family.
pub struct Observer<'a> {
    /// What every reconcile shares.
    pub context: &'a Context,
    /// The family.
    pub family: Arc<ImageFamily>,
    /// The family's key.
    pub key: Key,
    /// What is kept of the family until the next reconcile.
    pub cache: &'a mut ReconcileCache,
    /// The time of this reconcile.
    pub now: Timestamp,
    /// What Dockerfiles say of the spec.
    pub dockerfiles: DockerfileEffects,
    /// The sources that were read, parallel to the images.
    pub sources: Vec<ObservedSource>,
}

impl<'a> Observer<'a> {
    /// Begins to observe a family.
    pub fn new(
        context: &'a Context,
        family: Arc<ImageFamily>,
        cache: &'a mut ReconcileCache,
        now: Timestamp,
    ) -> Self {
        let key = Key::of(&*family);
        let dockerfiles = DockerfileEffects::default();
        Self { context, family, key, cache, now, dockerfiles, sources: Vec::new() }
    }
}

/// Why there is no snapshot of a family.
#[derive(Debug)]
pub enum ObserveError {
    /// The spec, or a Secret that it names, is rejected. The family is stalled until a user changes
    /// it.
    Rejected(Problem),
    /// A call to the API server failed. The reconcile is retried.
    Failed(ReconcileError),
}

impl From<Problem> for ObserveError {
    fn from(problem: Problem) -> Self {
        Self::Rejected(problem)
    }
}

impl From<ReconcileError> for ObserveError {
    fn from(error: ReconcileError) -> Self {
        Self::Failed(error)
    }
}
