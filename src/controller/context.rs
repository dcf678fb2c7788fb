//! What every reconcile shares: clients, caches and pollers.

use kube::{Client, runtime::reflector::ObjectRef};

use crate::{
    api::ImageFamily,
    build_records::RecordSettings,
    builds::job::BuildEnvironment,
    clock::Clock,
    controller::{
        backoff::ReconcileBackoff, deferred_triggers::DeferredTriggers, dependents::Dependents,
        event_queue::EventQueue, folder_poller::FolderPoller, installations::Installations,
        quota::BuildQuota, reconcile_cache::ReconcileCaches, resource_quotas::QuotaChanges,
        rollouts::Rollouts, stores::Stores, tag_owners::TagOwners, watch::Scopes,
    },
    object_watch::DeniedWatches,
    registry, rollout,
    server::Metrics,
    upstream::{ImageKey, Poller, UpstreamDigest},
};

/// What every reconcile shares.
pub struct Context {
    /// The client of the API server.
    pub client: Client,
    /// The clock.
    pub clock: Clock,
    /// The namespaces that are watched.
    pub scopes: Scopes,
    /// The watches that the API server denies.
    pub denied: DeniedWatches,
    /// This installation, and the others in the cluster.
    pub installations: Installations,
    /// A cache per kind, filled by the watches.
    pub stores: Stores,
    /// Workloads and Namespaces, for rollouts.
    pub workloads: rollout::WorkloadStore,
    /// Which images roll out in which namespaces.
    pub rollouts: Rollouts,
    /// Which workloads another client changes back.
    pub reverts: rollout::RevertTracker,
    /// The client of the registries.
    pub registry: registry::Client,
    /// Polls the tags of upstreams and our own tags.
    pub tags: Poller<ImageKey, UpstreamDigest, ObjectRef<ImageFamily>>,
    /// Polls the folders of Git repositories.
    pub revisions: FolderPoller<ObjectRef<ImageFamily>>,
    /// How the records of builds are made and required.
    pub records: RecordSettings,
    /// How this operator runs builds.
    pub environment: BuildEnvironment,
    /// How often our own tags are polled, because somebody else may have moved them.
    pub audit: crate::api::Duration,
    /// Which families are to be reconciled soon.
    pub deferred_triggers: DeferredTriggers,
    /// Which families depend on which others.
    pub dependents: Dependents,
    /// The operator's limits, and which families run and queue builds within them.
    pub quota: BuildQuota,
    /// Which families wait for a `ResourceQuota`, and when those have changed.
    pub resource_quotas: QuotaChanges,
    /// Which family was the first to claim a tag.
    pub tag_owners: TagOwners,
    /// The Events that wait to be published.
    pub events: EventQueue,
    /// The metrics.
    pub metrics: Metrics,
    /// Failed reconciles in a row.
    pub failures: ReconcileBackoff,
    /// What is kept of each family between two reconciles.
    pub reconcile_caches: ReconcileCaches,
}
