//! Leader election with a `coordination.k8s.io/v1` Lease and the protocol of client-go: one of
//! several replicas is active.
//!
//! A candidate takes the lease when it is free, or when it has observed it for its whole duration
//! without a change. The candidate measures this on its own monotonic clock and never compares
//! clocks of two machines. Every write is a `replace` with the resource version that was read last,
//! so that one of two candidates gets a 409. A leader that could not renew the lease for
//! [`RENEW_DEADLINE`] gives up leadership, at least five seconds before another candidate may take
//! the lease. A process that gets no CPU at that moment learns so late: the [`Fence`] stops what it
//! would still write.
//!
//! The caller handles the loss of leadership: it must stop its work at once, and should end the
//! process.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::{api::labels, fence::Fence};

/// How long a lease stays taken without a renewal.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader may fail to renew before it gives up leadership.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Interval between two reads of the lease, and between two renewals.
pub const RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of one call to the API server.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum number of attempts at a release that conflicts with a late renewal.
const MAX_RELEASE_ATTEMPTS: usize = 3;

/// A candidate for leadership.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
    annotations: BTreeMap<String, String>,
    other: OtherInstallation,
    fence: Fence,
}

/// The other installation that holds the lease, if it is held by one. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct OtherInstallation(Arc<Mutex<Option<String>>>);

impl OtherInstallation {
    /// Returns the name of the other installation.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, name: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = name;
    }
}

/// Leadership, which is renewed in the background until it is lost, released or dropped.
///
/// Dropping it ends the renewals. The lease then expires.
#[derive(Debug)]
pub struct Leadership {
    election: LeaderElection,
    renewals: JoinHandle<()>,
}

/// Error of a call that reads or writes the lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// The API server did not answer in time.
    #[error("the API server did not answer in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// The API server rejected the call or could not be reached.
    #[error(transparent)]
    Client(Box<kube::Error>),
}

impl From<kube::Error> for LeaseError {
    fn from(error: kube::Error) -> Self {
        Self::Client(Box::new(error))
    }
}

type Result<T, E = LeaseError> = std::result::Result<T, E>;

impl LeaderElection {
    /// Returns a candidate for the lease `namespace/name`. Two processes that run at the same time
    /// must not have the same `identity`. The name of the pod is unique, and lets a restarted
    /// container continue at once.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            annotations: BTreeMap::new(),
            other: OtherInstallation::default(),
            fence: Fence::default(),
        }
    }

    /// Returns the candidate with annotations that it writes onto the lease while it holds it.
    #[must_use]
    pub fn with_annotations(self, annotations: BTreeMap<String, String>) -> Self {
        Self { annotations, ..self }
    }

    /// Returns which other installation holds the lease, according to its annotation. That of this
    /// one must be among [`Self::with_annotations`].
    #[must_use]
    pub fn other_installation(&self) -> OtherInstallation {
        self.other.clone()
    }

    /// Returns the fence that is open while this candidate leads: until [`RENEW_DEADLINE`] after it
    /// has last asked for a renewal that succeeded.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Waits until this candidate is the leader. Failed calls are logged and retried. To stop being
    /// a candidate, drop the future.
    pub async fn acquire(self) -> Leadership {
        let mut observed = ObservedLease::default();
        loop {
            // Measured before the call, because the lease is not written any earlier.
            let asked_at = Instant::now();
            match self.attempt(&mut observed).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = %self, identity = %self.identity, "this replica is the \
                        leader");
                    return self.lead(lease, asked_at);
                }
                Ok(None) => {}
                Err(error) => self.log("cannot acquire the lease", &error),
            }
            let expiry = observed
                .free_at
                .map_or(RETRY_INTERVAL, |at| at.saturating_duration_since(Instant::now()));
            sleep(expiry.clamp(Duration::from_millis(50), RETRY_INTERVAL)).await;
        }
    }

    /// Reads the lease once and takes it if it is free.
    async fn attempt(&self, observed: &mut ObservedLease) -> Result<Option<Lease>> {
        let Some(lease) = timeout(CALL_TIMEOUT, self.api.get_opt(&self.name)).await?? else {
            return self.create().await;
        };
        observed.update(lease.spec.as_ref());
        let holder = holder(&lease);
        let free = holder.is_empty()
            || holder == self.identity
            || observed.free_at.is_some_and(|at| at <= Instant::now());
        self.other.set(if free { None } else { self.installation_of(&lease) });
        if !free {
            return Ok(None);
        }
        self.write(lease, &self.identity, CALL_TIMEOUT).await
    }

    /// Returns the name of the installation that holds the lease, if it is another one.
    fn installation_of(&self, lease: &Lease) -> Option<String> {
        let name =
            |annotations: &BTreeMap<String, String>| annotations.get(labels::INSTALLATION).cloned();
        let own = name(&self.annotations)?;
        lease.metadata.annotations.as_ref().and_then(name).filter(|holder| *holder != own)
    }

    async fn create(&self) -> Result<Option<Lease>> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                annotations: Some(self.annotations.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: Some(duration_seconds()),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            }),
        };
        unless_conflict(timeout(CALL_TIMEOUT, self.api.create(&post_params(), &lease)).await?)
    }

    /// Replaces the lease with one held by `identity`. Returns `None` if another client wrote
    /// first.
    async fn write(
        &self,
        mut lease: Lease,
        identity: &str,
        within: Duration,
    ) -> Result<Option<Lease>> {
        let now = MicroTime(Timestamp::now());
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(identity) {
            spec.holder_identity = Some(identity.into());
            spec.acquire_time = Some(now.clone());
            // Acquisitions are counted, releases are not.
            let acquired = i32::from(!identity.is_empty());
            spec.lease_transitions =
                Some(spec.lease_transitions.unwrap_or(0).saturating_add(acquired));
        }
        spec.lease_duration_seconds = Some(duration_seconds());
        spec.renew_time = Some(now);
        let annotations = lease.metadata.annotations.get_or_insert_default();
        annotations.extend(self.annotations.clone());
        lease.metadata.managed_fields = None;
        unless_conflict(
            timeout(within, self.api.replace(&self.name, &post_params(), &lease)).await?,
        )
    }

    fn lead(self, lease: Lease, renewed_at: Instant) -> Leadership {
        self.fence.open(renewed_at, RENEW_DEADLINE);
        let election = self.clone();
        let renewals = tokio::spawn(async move {
            election.renew(lease, renewed_at).await;
            tracing::error!(lease = %election, identity = %election.identity, "leadership is lost");
            election.fence.close();
        });
        Leadership { election: self, renewals }
    }

    /// Renews until leadership is lost.
    async fn renew(&self, mut lease: Lease, mut renewed_at: Instant) {
        loop {
            let deadline = renewed_at + RENEW_DEADLINE;
            if timeout_at(deadline, sleep(RETRY_INTERVAL)).await.is_err() {
                return;
            }
            let asked_at = Instant::now();
            let within = CALL_TIMEOUT.min(deadline.saturating_duration_since(asked_at));
            match self.write(lease.clone(), &self.identity, within).await {
                Ok(Some(renewed)) => {
                    (lease, renewed_at) = (renewed, asked_at);
                    self.fence.open(renewed_at, RENEW_DEADLINE);
                }
                // The lease was written or deleted: by another client, or by an own call that timed
                // out and still took effect.
                Ok(None) => match timeout_at(deadline, self.api.get_opt(&self.name)).await {
                    Ok(Ok(Some(read))) if holder(&read) == self.identity => lease = read,
                    Ok(Err(error)) => self.log("cannot read the lease", &error.into()),
                    Ok(Ok(_)) | Err(_) => return,
                },
                Err(error) => self.log("cannot renew the lease", &error),
            }
        }
    }

    /// Releases the lease if this candidate holds it.
    async fn release(&self) -> Result<()> {
        for _ in 0..MAX_RELEASE_ATTEMPTS {
            let Some(lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            if holder(&lease) != self.identity
                || self.write(lease, "", CALL_TIMEOUT).await?.is_some()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn log(&self, what: &str, error: &LeaseError) {
        match error {
            LeaseError::Client(source) if is_forbidden(source) => {
                tracing::error!(
                    lease = %self,
                    "{what}: grant the service account get, create and update on \
                     leases.coordination.k8s.io in namespace {}",
                    self.namespace
                );
            }
            error => tracing::warn!(lease = %self, %error, "{what}"),
        }
    }
}

impl std::fmt::Display for LeaderElection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Leadership {
    /// Waits until leadership is lost. The caller must then stop its work at once, because another
    /// replica may act five seconds later.
    pub async fn lost(&self) {
        self.election.fence.closed().await;
    }

    /// Releases the lease, so that another replica can take it at once. Call it only after the work
    /// has stopped.
    pub async fn release(self) {
        self.renewals.abort();
        match timeout(CALL_TIMEOUT, self.election.release())
            .await
            .map_err(LeaseError::from)
            .flatten()
        {
            Ok(()) => tracing::info!(lease = %self.election, "released the lease"),
            Err(error) => {
                self.election.log("cannot release the lease, which now expires", &error);
            }
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.renewals.abort();
        self.election.fence.close();
    }
}

/// The lease of another candidate as last read, and the time until which it must be respected.
#[derive(Debug, Default)]
struct ObservedLease {
    spec: Option<LeaseSpec>,
    free_at: Option<Instant>,
}

impl ObservedLease {
    /// Records a read of the lease. A lease that has changed is respected for its whole duration
    /// from now.
    fn update(&mut self, spec: Option<&LeaseSpec>) {
        if self.free_at.is_some() && self.spec.as_ref() == spec {
            return;
        }
        let asked = spec
            .and_then(|spec| spec.lease_duration_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        let duration = asked
            .map_or(LEASE_DURATION, |seconds| Duration::from_secs(seconds).max(LEASE_DURATION));
        self.spec = spec.cloned();
        self.free_at = Some(Instant::now() + duration);
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden())
}

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn duration_seconds() -> i32 {
    i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(i32::MAX)
}

fn post_params() -> PostParams {
    PostParams { field_manager: Some(labels::FIELD_OWNER.into()), ..PostParams::default() }
}

/// Returns `None` for a conflict and for an object that does not exist (any more), which are not
/// failures.
fn unless_conflict(answer: kube::Result<Lease>) -> Result<Option<Lease>> {
    match answer {
        Ok(lease) => Ok(Some(lease)),
        Err(kube::Error::Api(status))
            if status.is_conflict() || status.is_already_exists() || status.is_not_found() =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
#[path = "lease_tests.rs"]
mod tests;
