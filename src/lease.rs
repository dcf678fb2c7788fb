//! Leader election by a `coordination.k8s.io/v1` Lease, by the protocol of client-go, so that of
//! several replicas one acts.
//!
//! A candidate takes the lease when it is free, or when it has watched it for its whole duration
//! without seeing a change, on its own monotonic clock: no clock is compared with another
//! machine's. Every write is a `replace` that carries the resource version last read, so that of
//! two candidates one gets a 409. A leader that could not renew for [`RENEW_DEADLINE`] stops being
//! one, at least five seconds before another may follow it.
//!
//! What is to be done on a loss is the caller's business: drop the work at once, and best end the
//! process.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::api::labels;

/// How long a lease that is not renewed stays taken.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader may go without a renewal.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// The pause between two looks at the lease, and between two renewals.
pub const RETRY: Duration = Duration::from_secs(2);
/// The longest that one call to the API server may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a release is tried again when a late renewal gets in between.
const RELEASE_ATTEMPTS: usize = 3;

/// A candidate for leadership.
#[derive(Clone, Debug)]
pub struct LeaderElection {
    api: Api<Lease>,
    namespace: String,
    name: String,
    identity: String,
}

/// Leadership, held and renewed in the background until it is lost, released or dropped.
///
/// Dropping it ends the renewals; the lease then runs out by itself.
#[derive(Debug)]
pub struct Leadership {
    election: LeaderElection,
    held: watch::Receiver<()>,
    renewals: JoinHandle<()>,
}

/// Why a call about the lease failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer in time.
    #[error("no answer from the API server in time")]
    Timeout(#[from] tokio::time::error::Elapsed),
    /// The API server refused, or could not be reached.
    #[error(transparent)]
    Client(Box<kube::Error>),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Client(Box::new(error))
    }
}

type Result<T, E = Error> = std::result::Result<T, E>;

impl LeaderElection {
    /// A candidate for the lease `namespace/name`. No two processes that run at one time may have
    /// the same `identity`; a pod's name does, and lets a restarted container go on at once.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
        }
    }

    /// Waits until this candidate leads. Failing calls are logged and tried again, so that this
    /// ends only in leadership; to stop being a candidate, drop the future.
    pub async fn acquire(self) -> Leadership {
        let mut seen = ObservedLease::default();
        loop {
            // Taken before the call: the lease can have been written at no earlier time.
            let asked_at = Instant::now();
            match self.attempt(&mut seen).await {
                Ok(Some(lease)) => {
                    tracing::info!(lease = %self, identity = %self.identity, "leading");
                    return self.lead(lease, asked_at);
                }
                Ok(None) => {}
                Err(error) => self.log("cannot take the lease", &error),
            }
            let expiry =
                seen.free_at.map_or(RETRY, |at| at.saturating_duration_since(Instant::now()));
            sleep(expiry.clamp(Duration::from_millis(50), RETRY)).await;
        }
    }

    /// Looks at the lease once and takes it if that is allowed.
    async fn attempt(&self, seen: &mut ObservedLease) -> Result<Option<Lease>> {
        let Some(lease) = timeout(CALL_TIMEOUT, self.api.get_opt(&self.name)).await?? else {
            return self.create().await;
        };
        seen.look(lease.spec.as_ref());
        let holder = holder(&lease);
        let free = holder.is_empty()
            || holder == self.identity
            || seen.free_at.is_some_and(|at| at <= Instant::now());
        if !free {
            return Ok(None);
        }
        self.write(lease, &self.identity, CALL_TIMEOUT).await
    }

    async fn create(&self) -> Result<Option<Lease>> {
        let now = MicroTime(Timestamp::now());
        let lease = Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
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

    /// Replaces the lease with one that `identity` holds; `None` if somebody else was quicker.
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
            // Counted where the lease is taken, and not where it is given back.
            let taken = i32::from(!identity.is_empty());
            spec.lease_transitions =
                Some(spec.lease_transitions.unwrap_or(0).saturating_add(taken));
        }
        spec.lease_duration_seconds = Some(duration_seconds());
        spec.renew_time = Some(now);
        lease.metadata.managed_fields = None;
        unless_conflict(
            timeout(within, self.api.replace(&self.name, &post_params(), &lease)).await?,
        )
    }

    fn lead(self, lease: Lease, renewed_at: Instant) -> Leadership {
        let (holding, held) = watch::channel(());
        let election = self.clone();
        let renewals = tokio::spawn(async move {
            election.renew(lease, renewed_at).await;
            tracing::error!(lease = %election, identity = %election.identity, "leadership is lost");
            drop(holding);
        });
        Leadership { election: self, held, renewals }
    }

    /// Renews until leadership is lost.
    async fn renew(&self, mut lease: Lease, mut renewed_at: Instant) {
        loop {
            let deadline = renewed_at + RENEW_DEADLINE;
            if timeout_at(deadline, sleep(RETRY)).await.is_err() {
                return;
            }
            let asked_at = Instant::now();
            let within = CALL_TIMEOUT.min(deadline.saturating_duration_since(asked_at));
            match self.write(lease.clone(), &self.identity, within).await {
                Ok(Some(renewed)) => (lease, renewed_at) = (renewed, asked_at),
                // Somebody wrote, or deleted, the lease: ourselves, by a call that timed out and
                // still came through, or another.
                Ok(None) => match timeout_at(deadline, self.api.get_opt(&self.name)).await {
                    Ok(Ok(Some(read))) if holder(&read) == self.identity => lease = read,
                    Ok(Err(error)) => self.log("cannot read the lease", &error.into()),
                    Ok(Ok(_)) | Err(_) => return,
                },
                Err(error) => self.log("cannot renew the lease", &error),
            }
        }
    }

    /// Gives the lease back, if it is ours.
    async fn release(&self) -> Result<()> {
        for _ in 0..RELEASE_ATTEMPTS {
            let Some(lease) = self.api.get_opt(&self.name).await? else { return Ok(()) };
            if holder(&lease) != self.identity
                || self.write(lease, "", CALL_TIMEOUT).await?.is_some()
            {
                return Ok(());
            }
        }
        Ok(())
    }

    fn log(&self, what: &str, error: &Error) {
        match error {
            Error::Client(source) if matches!(**source, kube::Error::Api(ref status) if status.is_forbidden()) =>
            {
                tracing::error!(
                    lease = %self,
                    "{what}: the service account needs get, create and update on \
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
    /// Waits until leadership is lost. The work must then be dropped at once: five seconds later
    /// another may act.
    pub async fn lost(&self) {
        // The sender never sends; that it is gone says that nobody renews any more, for whatever
        // reason.
        _ = self.held.clone().changed().await;
    }

    /// Gives the lease back, so that another replica can follow at once. Only to be called when the
    /// work has been dropped.
    pub async fn release(self) {
        self.renewals.abort();
        match timeout(CALL_TIMEOUT, self.election.release()).await.map_err(Error::from).flatten() {
            Ok(()) => tracing::info!(lease = %self.election, "the lease is released"),
            Err(error) => {
                self.election.log("cannot release the lease, which now runs out by itself", &error);
            }
        }
    }
}

impl Drop for Leadership {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

/// What was seen of somebody's lease, and until when it has to be respected.
#[derive(Debug, Default)]
struct ObservedLease {
    spec: Option<LeaseSpec>,
    free_at: Option<Instant>,
}

impl ObservedLease {
    /// Takes a look in: a lease that has changed is respected for its whole duration from now.
    fn look(&mut self, spec: Option<&LeaseSpec>) {
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

fn holder(lease: &Lease) -> &str {
    lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default()
}

fn duration_seconds() -> i32 {
    i32::try_from(LEASE_DURATION.as_secs()).unwrap_or(i32::MAX)
}

fn post_params() -> PostParams {
    PostParams { field_manager: Some(labels::FIELD_OWNER.into()), ..PostParams::default() }
}

/// A lost race, or an object that has gone, is an answer and not a failure.
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
