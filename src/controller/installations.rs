//! Other installations of Groundswell in the same cluster. Two of them must not act on one family.
//! Needs a client.
//!
//! The status of a family names the installation that serves it, by the namespace of its Lease.
//! Another installation leaves the family alone as long as that Lease is held and renewed, and
//! takes the family over afterwards.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::events::EventType,
};
use serde_json::json;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    api::{ImageFamily, condition::Reason, labels},
    controller::{
        context::Context,
        error::{ReconcileError, call},
        family::record::events::{self, Notice},
        object_cache::Key,
    },
};

/// How long the Lease of another installation may stay unchanged until its families are taken over.
/// It is twice as long as the Lease lasts, and a leader gives up before that.
const TAKE_OVER_AFTER: Duration = Duration::from_secs(30);
/// The shortest time between two reads of the Lease of another installation.
const LEASE_READ_INTERVAL: Duration = Duration::from_secs(5);
/// The pause until a family of another installation is checked again.
pub const RECHECK_INTERVAL: Duration = Duration::from_secs(15);
/// The most installations whose Leases are remembered.
const MAX_INSTALLATIONS: usize = 64;

/// Which installation serves a family.
#[derive(Debug)]
pub enum Claim {
    /// This one.
    Ours(Arc<ImageFamily>),
    /// Another one, which is alive.
    Others,
}

/// This installation, and what is known of others.
#[derive(Debug)]
pub struct Installations {
    namespace: String,
    lease: String,
    observed: Mutex<BTreeMap<String, ObservedInstallation>>,
    /// The families that another installation serves, with its namespace.
    families: Mutex<HashMap<Key, String>>,
}

/// The Lease of another installation, as last read.
#[derive(Clone, Debug)]
struct ObservedInstallation {
    lease: Option<Lease>,
    changed_at: Instant,
    read_at: Instant,
}

impl ObservedInstallation {
    fn is_alive(&self, now: Instant) -> bool {
        let spec = self.lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        holder.is_some_and(|holder| !holder.is_empty())
            && now.duration_since(self.changed_at) < TAKE_OVER_AFTER
    }
}

impl Installations {
    /// Returns this installation, whose Lease has this namespace and name. The Leases of others
    /// have the same name in other namespaces.
    #[must_use]
    pub fn new(namespace: &str, lease: &str) -> Self {
        Self {
            namespace: namespace.into(),
            lease: lease.into(),
            observed: Mutex::default(),
            families: Mutex::default(),
        }
    }

    /// Returns whether another installation serves a family, as far as its status says.
    #[must_use]
    pub fn is_others(&self, family: &ImageFamily) -> bool {
        self.other(family).is_some()
    }

    /// Returns how many families others serve.
    #[must_use]
    pub fn families_of_others(&self) -> usize {
        self.families().len()
    }

    /// Returns a sentence about each other installation that serves families of ours.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for other in self.families().values() {
            *counts.entry(other.clone()).or_default() += 1;
        }
        let note = |(other, count): (String, usize)| {
            format!("{count} families are not served here: {}", advice(&other))
        };
        counts.into_iter().map(note).collect()
    }

    /// Forgets a family that was deleted.
    pub fn forget(&self, family: &Key) {
        self.families().remove(family);
    }

    fn other<'a>(&self, family: &'a ImageFamily) -> Option<&'a str> {
        let known = family.status.as_ref()?.installation.as_deref()?;
        (known != self.namespace).then_some(known)
    }

    /// Returns whether another installation is alive. Whether it is cannot be known without the
    /// permission to read its Lease. Then it counts as alive.
    async fn is_alive(&self, client: &Client, namespace: &str) -> Result<bool, ReconcileError> {
        let now = Instant::now();
        let known = self.observed().get(namespace).cloned();
        if let Some(known) =
            known.as_ref().filter(|known| now.duration_since(known.read_at) < LEASE_READ_INTERVAL)
        {
            return Ok(known.is_alive(now));
        }
        let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
        let what = || format!("read the Lease {namespace}/{} of another installation", self.lease);
        let lease = match call(what, api.get_opt(&self.lease)).await {
            Ok(lease) => lease,
            Err(error) if error.is_forbidden() => {
                warn!(%error, "another installation counts as running, because its Lease cannot \
                    be read; grant the verb get on leases.coordination.k8s.io");
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let version =
            |lease: &Option<Lease>| lease.as_ref().and_then(ResourceExt::resource_version);
        let unchanged = known.filter(|known| version(&known.lease) == version(&lease));
        let changed_at = unchanged.map_or(now, |known| known.changed_at);
        let observed = ObservedInstallation { lease, changed_at, read_at: now };
        let is_alive = observed.is_alive(now);
        let mut all = self.observed();
        if all.len() >= MAX_INSTALLATIONS && !all.contains_key(namespace) {
            all.clear();
        }
        all.insert(namespace.into(), observed);
        Ok(is_alive)
    }

    fn observed(&self) -> MutexGuard<'_, BTreeMap<String, ObservedInstallation>> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn families(&self) -> MutexGuard<'_, HashMap<Key, String>> {
        self.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn advice(other: &str) -> String {
    format!(
        "the installation in namespace {other} serves them, and its Lease is renewed; uninstall \
         one of the two, or give each its own watchNamespaces"
    )
}

/// Claims a family for this installation, unless another one that is alive serves it.
pub async fn claim(context: &Context, family: Arc<ImageFamily>) -> Result<Claim, ReconcileError> {
    let (installations, key) = (&context.installations, Key::of(&*family));
    let known = family.status.as_ref().and_then(|status| status.installation.as_deref());
    if known == Some(installations.namespace.as_str()) {
        installations.forget(&key);
        return Ok(Claim::Ours(family));
    }
    if let Some(other) = known {
        if installations.is_alive(&context.client, other).await? {
            report_other(context, &family, other);
            return Ok(Claim::Others);
        }
        info!(
            other,
            "takes the family over from another installation, whose Lease is gone, released or \
             not renewed"
        );
    }
    installations.forget(&key);
    // Of two installations that claim a family at the same time, one gets a conflict.
    let patch = Patch::Merge(json!({
        "metadata": {"resourceVersion": family.resource_version()},
        "status": {"installation": installations.namespace},
    }));
    let parameters =
        PatchParams { field_manager: Some(labels::FIELD_OWNER.into()), ..PatchParams::default() };
    let api: Api<ImageFamily> = Api::namespaced(context.client.clone(), &key.namespace);
    let what = || format!("claim ImageFamily {} in its status", key.name);
    let written = call(what, api.patch_status(&key.name, &parameters, &patch)).await?;
    context.stores.families.record_write(written);
    // What is stored is expanded, and is newer than the claim if a user has changed the family
    // since. If it is deleted already, the next event ends its reconciles.
    let stored = context.stores.families.get(&key);
    Ok(stored.map_or(Claim::Others, Claim::Ours))
}

/// Reports a family of another installation once, and forgets what was known of it.
fn report_other(context: &Context, family: &ImageFamily, other: &str) {
    let key = Key::of(family);
    if context.installations.families().get(&key).is_some_and(|known| known == other) {
        return;
    }
    // Nothing is polled or counted for it any more.
    context.forget(family);
    context.installations.families().insert(key, other.into());
    let note = format!("not served by a second installation: {}", advice(other));
    warn!(other, "{note}");
    let notice = Notice {
        type_: EventType::Warning,
        reason: Reason::ServedElsewhere,
        action: "Claim",
        note,
    };
    events::about_family(context, family, &notice);
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::Value;

    use super::*;

    /// What the API server answers to a read of the Lease.
    type LeaseAnswer = Arc<Mutex<Value>>;

    fn client(answer: &LeaseAnswer) -> Client {
        let answer = Arc::clone(answer);
        let service = tower::service_fn(move |request: Request<Body>| {
            let path = "/apis/coordination.k8s.io/v1/namespaces/old/leases/groundswell";
            assert_eq!(request.uri().path(), path);
            let answer = answer.lock().expect("an answer").clone();
            async move {
                let code = answer["code"].as_u64().unwrap_or(200);
                let code = u16::try_from(code).expect("a code");
                let body = Body::from(serde_json::to_vec(&answer).expect("JSON"));
                let response = Response::builder().status(code).body(body).expect("a response");
                Ok::<_, Infallible>(response)
            }
        });
        Client::new(service, "default")
    }

    fn refusal(code: u16, reason: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "code": code, "reason": reason, "message": ""})
    }

    fn lease(version: u64, holder: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "groundswell", "resourceVersion": version.to_string()},
            "spec": {"holderIdentity": holder},
        })
    }

    #[tokio::test(start_paused = true)]
    async fn an_installation_is_alive_while_its_lease_is_held_and_renewed() {
        let answer = LeaseAnswer::default();
        let (client, ours) = (client(&answer), Installations::new("new", "groundswell"));
        let is_alive = async |value: Value, seconds| {
            *answer.lock().expect("an answer") = value;
            tokio::time::advance(Duration::from_secs(seconds)).await;
            ours.is_alive(&client, "old").await.expect("an answer")
        };
        assert!(is_alive(lease(1, "pod"), 0).await);
        assert!(is_alive(lease(1, "pod"), 29).await, "it may be slow");
        assert!(!is_alive(lease(1, "pod"), 5).await, "it was not renewed");
        assert!(is_alive(lease(2, "pod"), 5).await);
        assert!(is_alive(refusal(404, "NotFound"), 1).await, "it is not read that often");
        assert!(!is_alive(refusal(404, "NotFound"), 5).await, "its namespace is gone");
        assert!(!is_alive(lease(3, ""), 5).await, "it was released");
        assert!(is_alive(refusal(403, "Forbidden"), 5).await, "it may be alive");
    }
}
