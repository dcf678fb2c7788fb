//! What triggers the reconcile of a family: every watch and every poller, mapped to the families
//! that its changes concern. Needs a client, for the watches.

use std::sync::Arc;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, ResourceQuota, Secret},
};
use kube::{
    Api, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        reflector::{ObjectRef, store::Writer},
        watcher::{self, Event},
    },
};
use tokio::sync::mpsc;

use crate::{
    api::{BuildStrategy, Cascade, FamilyRequest, ImageFamily, ManagedImage, condition, labels},
    controller::{
        context::Context,
        job_seals::SealFilter,
        object_cache::{CacheEvent, Key},
        stores::{Stores, family_of, outlines},
        watch::{WatchOptions, guarded, outline, plain, watch, watch_ours},
    },
    object_watch::DeniedWatches,
};

/// A family to reconcile.
pub type FamilyObjectRef = ObjectRef<ImageFamily>;

/// A family that a change concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The family.
    pub family: Key,
    /// When it is to be reconciled.
    pub urgency: Urgency,
}

/// When a family is to be reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Now: something may be decided.
    Now,
    /// With the next reconcile, or in two seconds: something is to be shown, or a status that only
    /// the controller writes has changed.
    Soon,
}

/// Returns the families to reconcile, whatever triggers them. The stores are filled only while this
/// stream is polled.
///
/// `families` is the store that the controller runtime reads. Changed images are sent to `images`.
pub fn families(
    context: &Arc<Context>,
    families: Writer<ImageFamily>,
    images: mpsc::Sender<CacheEvent<ManagedImage>>,
) -> BoxStream<'static, FamilyObjectRef> {
    let denied = context.denied.clone();
    let all = WatchOptions { selected: watcher::Config::default(), denied };
    let label = format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE);
    let ours = WatchOptions { selected: all.selected.clone().labels(&label), ..all.clone() };
    // Without it, what waits for a quota is only tried less often.
    let optional = WatchOptions { denied: DeniedWatches::optional(), ..all.clone() };
    let (scopes, client, stores) = (&context.scopes, &context.client, &context.stores);

    let families = mirrored(
        watch(scopes.apis(client), &all, &stores.families, guarded::<ImageFamily>),
        families,
    );
    let families = with_images(context, families, images.clone());
    let images = watch(scopes.apis(client), &all, &stores.images, guarded::<ManagedImage>).then(
        move |change| {
            let images = images.clone();
            async move {
                // What the family reconciler wrote is new to the image reconciler. The receiver is
                // dropped only when the process ends.
                _ = images.send(change.clone()).await;
                change
            }
        },
    );
    let cascades = watch(scopes.apis(client), &all, &stores.cascades, guarded::<Cascade>);
    let requests = watch(scopes.apis(client), &all, &stores.requests, guarded::<FamilyRequest>);
    let seals = SealFilter::new(context.records.keys.clone());
    let is_sealed = move |job: &Job| seals.is_ours(job);
    let jobs = watch_ours(scopes.apis(client), &ours, &stores.jobs, is_sealed);
    let pods = watch(scopes.apis(client), &ours, &stores.pods, plain::<Pod>);
    let strategies: Vec<(String, Api<DeserializeGuard<BuildStrategy>>)> =
        vec![(String::new(), Api::all(client.clone()))];
    let strategies = watch(strategies, &all, &stores.strategies, guarded);
    let config_maps = watch(scopes.apis(client), &all, &stores.config_maps, outline);
    let secrets = watch(scopes.apis(client), &all, &stores.secrets, outline);
    let quotas = watch(scopes.apis(client), &optional, &outlines(), outline);
    stream::select_all([
        concerned(context, families, of_family),
        concerned(context, images.boxed(), of_image),
        concerned(context, cascades, |_, cascade| of_cascade(cascade)),
        concerned(context, requests, |_, request| of_request(request)),
        concerned(context, jobs, of_job),
        concerned(context, pods, |_, pod| of_pod(pod)),
        concerned(context, strategies, of_strategy),
        concerned(context, config_maps, of_config_map),
        concerned(context, secrets, of_secret),
        concerned(context, quotas, of_quota),
        context.tags.changes().boxed(),
        context.revisions.changes().boxed(),
        admitted(context),
        deferred(context),
    ])
    .boxed()
}

/// Returns the families that the changes of a watch concern and that are to be reconciled now. What
/// we have written ourselves is known already.
fn concerned<K: Send + Sync + 'static>(
    context: &Arc<Context>,
    changes: BoxStream<'static, CacheEvent<K>>,
    of: fn(&Context, &CacheEvent<K>) -> Vec<Trigger>,
) -> BoxStream<'static, FamilyObjectRef> {
    let context = Arc::clone(context);
    changes.flat_map(move |change| stream::iter(urgent(&context, of(&context, &change)))).boxed()
}

/// Defers what is not urgent. Returns the families to reconcile now.
pub fn urgent(context: &Context, triggers: Vec<Trigger>) -> Vec<FamilyObjectRef> {
    let mut now = Vec::new();
    for Trigger { family, urgency } in triggers {
        match urgency {
            Urgency::Now => now.push(reference(&family)),
            Urgency::Soon => context.deferred_triggers.defer(family),
        }
    }
    now
}

/// Returns the families whose triggers were deferred and have waited for long enough.
#[must_use]
pub fn deferred(context: &Arc<Context>) -> BoxStream<'static, FamilyObjectRef> {
    let context = Arc::clone(context);
    let due = stream::poll_fn(move |task| context.deferred_triggers.poll_due(task).map(Some));
    due.map(|family| reference(&family)).boxed()
}

/// Returns the families whose queued builds may start within the operator's limits.
#[must_use]
pub fn admitted(context: &Arc<Context>) -> BoxStream<'static, FamilyObjectRef> {
    let admitted = stream::unfold(Arc::clone(context), |context| async {
        let family = context.quota.next_admitted().await;
        Some((reference(&family), context))
    });
    admitted.boxed()
}

/// Sends the images of families that somebody has changed to the image reconciler: their rollouts
/// stand in the spec of the family, and need not change their records.
fn with_images(
    context: &Arc<Context>,
    families: BoxStream<'static, CacheEvent<ImageFamily>>,
    images: mpsc::Sender<CacheEvent<ManagedImage>>,
) -> BoxStream<'static, CacheEvent<ImageFamily>> {
    let context = Arc::clone(context);
    let sent = families.then(move |change| {
        let (context, images) = (Arc::clone(&context), images.clone());
        async move {
            if let CacheEvent::Applied(family) = &change {
                for record in context.stores.images.group(&Key::of(&**family)) {
                    _ = images.send(CacheEvent::Echoed(record)).await;
                }
            }
            change
        }
    });
    sent.boxed()
}

/// Mirrors the metadata of families into the store of the controller runtime. Reconciles read the
/// content from our own store, which has our own writes as well.
fn mirrored(
    changes: BoxStream<'static, CacheEvent<ImageFamily>>,
    mut store: Writer<ImageFamily>,
) -> BoxStream<'static, CacheEvent<ImageFamily>> {
    let mirrored = changes.inspect(move |change| {
        let outline =
            ImageFamily { metadata: change.object().metadata.clone(), ..ImageFamily::default() };
        store.apply_watcher_event(&match change {
            CacheEvent::Applied(_) | CacheEvent::Echoed(_) => Event::Apply(outline),
            CacheEvent::Deleted(_) => Event::Delete(outline),
        });
    });
    mirrored.boxed()
}

/// Returns the families that a change of a family concerns. A deleted one is forgotten everywhere.
///
/// - the family itself, unless we have written the change
/// - stalled families, which may wait for one of its tags, unless we have written the change
/// - families that depend on its images, even if we have written the change
#[must_use]
pub fn of_family(context: &Context, change: &CacheEvent<ImageFamily>) -> Vec<Trigger> {
    let dependents = context.dependents.of_family(&Key::of(&**change.object()));
    let mut concerned: Vec<Trigger> = dependents.into_iter().map(now).collect();
    let Some(family) = change.foreign_change() else { return concerned };
    let is_deleted = matches!(change, CacheEvent::Deleted(_));
    if is_deleted {
        context.forget(&family);
    }
    let urgency = if is_deleted || has_new_spec(&family) { Urgency::Now } else { Urgency::Soon };
    let own = [Key::of(&*family)];
    let families = families_where(context, is_stalled).into_iter().chain(own);
    concerned.extend(families.map(|family| Trigger { family, urgency }));
    concerned
}

/// Returns the family of an image's record, unless we have written the change, and the families
/// that depend on the image.
#[must_use]
pub fn of_image(context: &Context, change: &CacheEvent<ManagedImage>) -> Vec<Trigger> {
    let image = change.object();
    let family = Key::new(&image.namespace().unwrap_or_default(), &image.spec.family);
    let dependents = context.dependents.of_image(&family, &image.spec.image);
    let own = change.foreign_change().map(|_| Trigger { family, urgency: of_record(change) });
    own.into_iter().chain(dependents.into_iter().map(now)).collect()
}

/// Returns the family of a cascade.
#[must_use]
pub fn of_cascade(change: &CacheEvent<Cascade>) -> Vec<Trigger> {
    let trigger = |cascade: Arc<Cascade>| Trigger {
        family: Key::new(&cascade.namespace().unwrap_or_default(), &cascade.spec.family),
        urgency: of_record(change),
    };
    change.foreign_change().map(trigger).into_iter().collect()
}

/// Returns the family of a request.
#[must_use]
pub fn of_request(change: &CacheEvent<FamilyRequest>) -> Vec<Trigger> {
    let family = |request: Arc<FamilyRequest>| {
        Key::new(&request.namespace().unwrap_or_default(), &request.spec.family)
    };
    change.foreign_change().map(family).map(now).into_iter().collect()
}

/// Returns the family that a Job of ours belongs to. If that was deleted, it is not reconciled any
/// more, and the places of its builds are counted again here.
#[must_use]
pub fn of_job(context: &Context, change: &CacheEvent<Job>) -> Vec<Trigger> {
    let job = change.object();
    let Some(family) = family_of(&**job) else { return Vec::new() };
    if context.stores.families.get(&family).is_none() {
        context.quota.forget(&family, &context.stores, context.clock.now());
    }
    let urgency = of_work(&context.stores, &family, change);
    change.foreign_change().map(|_| Trigger { family, urgency }).into_iter().collect()
}

/// Returns how urgent a change of a Job is. That it has ended is known if the end of its pod has
/// said so before.
fn of_work(stores: &Stores, family: &Key, change: &CacheEvent<Job>) -> Urgency {
    let job = change.object();
    let pods = || stores.pods.group(family);
    let has_ended_pod = || pods().iter().any(|pod| is_owned_by(pod, job) && has_ended(pod));
    let is_known = match change {
        CacheEvent::Deleted(_) => is_finished(job),
        _ if job.metadata.deletion_timestamp.is_some() => false,
        _ => !is_finished(job) || has_ended_pod(),
    };
    if is_known { Urgency::Soon } else { Urgency::Now }
}

/// Returns the family that a Pod of ours belongs to.
#[must_use]
pub fn of_pod(change: &CacheEvent<Pod>) -> Vec<Trigger> {
    let trigger = |pod: Arc<Pod>| {
        let is_known = match change {
            CacheEvent::Deleted(_) => has_ended(&pod),
            _ => pod.metadata.deletion_timestamp.is_none() && !has_ended(&pod),
        };
        let urgency = if is_known { Urgency::Soon } else { Urgency::Now };
        Some(Trigger { family: family_of(&*pod)?, urgency })
    };
    change.foreign_change().and_then(trigger).into_iter().collect()
}

/// Returns the families that use a strategy.
#[must_use]
pub fn of_strategy(context: &Context, change: &CacheEvent<BuildStrategy>) -> Vec<Trigger> {
    let Some(strategy) = change.foreign_change().map(|strategy| strategy.name_any()) else {
        return Vec::new();
    };
    let users = families_where(context, |family| {
        let spec = &family.spec;
        let of_images = spec.images.iter().filter_map(|image| image.strategy.as_ref());
        of_images.chain([&spec.strategy]).any(|used| used.name == strategy)
    });
    users.into_iter().map(now).collect()
}

/// Returns the families with a `ConfigMap` as a source.
#[must_use]
pub fn of_config_map(
    context: &Context,
    change: &CacheEvent<PartialObjectMeta<ConfigMap>>,
) -> Vec<Trigger> {
    users_of(context, change, names_config_map)
}

/// Returns the families with credentials from a Secret.
#[must_use]
pub fn of_secret(
    context: &Context,
    change: &CacheEvent<PartialObjectMeta<Secret>>,
) -> Vec<Trigger> {
    users_of(context, change, names_secret)
}

/// Returns the families that wait for a quota of the namespace.
#[must_use]
pub fn of_quota(
    context: &Context,
    change: &CacheEvent<PartialObjectMeta<ResourceQuota>>,
) -> Vec<Trigger> {
    let namespace = change.object().namespace().unwrap_or_default();
    let woken = context.resource_quotas.note_change(&namespace, context.clock.now());
    woken.into_iter().map(now).collect()
}

fn now(family: Key) -> Trigger {
    Trigger { family, urgency: Urgency::Now }
}

/// Returns how urgent a change of a record is that only the controller writes. One that is gone is
/// restored at once; a change may be our own write that has not been answered yet.
const fn of_record<K>(change: &CacheEvent<K>) -> Urgency {
    if matches!(change, CacheEvent::Deleted(_)) { Urgency::Now } else { Urgency::Soon }
}

/// Returns whether a family's spec has changed since the controller recorded one, or the family is
/// being deleted.
fn has_new_spec(family: &ImageFamily) -> bool {
    let observed = family.status.as_ref().and_then(|status| status.observed_generation);
    family.metadata.deletion_timestamp.is_some() || family.metadata.generation != observed
}

/// Returns whether a Job has ended, with success or without.
fn is_finished(job: &Job) -> bool {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref());
    conditions.unwrap_or_default().iter().any(|condition| condition.status == "True")
}

/// Returns whether a Pod has ended, or a container of it.
fn has_ended(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.container_statuses.iter().flatten();
    let mut states = containers.filter_map(|container| container.state.as_ref());
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        || states.any(|state| state.terminated.is_some())
}

fn is_owned_by(pod: &Pod, job: &Job) -> bool {
    let uid = job.metadata.uid.as_deref();
    pod.owner_references().iter().any(|owner| Some(owner.uid.as_str()) == uid)
}

fn reference(key: &Key) -> FamilyObjectRef {
    ObjectRef::new(&key.name).within(&key.namespace)
}

/// Returns whether a family is stalled: perhaps because another family claims one of its tags. It
/// may continue when that one is changed or deleted.
fn is_stalled(family: &ImageFamily) -> bool {
    let conditions =
        family.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::is_true(conditions, condition::STALLED)
}

/// Returns the families of any namespace that match, sorted by key.
fn families_where(context: &Context, concerned: impl Fn(&ImageFamily) -> bool) -> Vec<Key> {
    let all = context.stores.families.all();
    all.iter().filter(|family| concerned(family)).map(|family| Key::of(&**family)).collect()
}

/// Returns the families of an object's namespace that name it.
fn users_of<K: Resource>(
    context: &Context,
    change: &CacheEvent<K>,
    names: fn(&ImageFamily, &str) -> bool,
) -> Vec<Trigger> {
    let Some(object) = change.foreign_change().map(|object| Key::of(&*object)) else {
        return Vec::new();
    };
    let neighbours = context.stores.families.group(&Key::new(&object.namespace, ""));
    let users = neighbours.iter().filter(|family| names(family, &object.name));
    users.map(|family| now(Key::of(&**family))).collect()
}

fn names_config_map(family: &ImageFamily, name: &str) -> bool {
    family
        .spec
        .images
        .iter()
        .any(|image| image.source.config_map.as_ref().is_some_and(|source| source.name == name))
}

fn names_secret(family: &ImageFamily, name: &str) -> bool {
    let for_git = |image: &crate::api::Image| {
        image
            .source
            .git
            .as_ref()
            .and_then(|git| git.secret_ref.as_ref())
            .is_some_and(|secret| secret.name == name)
    };
    family.spec.credentials.iter().any(|secret| secret.name == name)
        || family.spec.images.iter().any(for_git)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {labels::FAMILY: "f"},
                "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "j",
                    "uid": "job", "controller": true}]},
            "status": status,
        }))
        .expect("a pod")
    }

    fn job(status: &Value) -> Job {
        let metadata = json!({"name": "j", "namespace": "ns", "uid": "job"});
        serde_json::from_value(json!({"metadata": metadata, "status": status})).expect("a Job")
    }

    fn urgency(triggers: &[Trigger]) -> Urgency {
        assert_eq!(triggers.len(), 1, "{triggers:?}");
        triggers[0].urgency
    }

    fn ended() -> Value {
        json!({"containerStatuses": [{"name": "build", "image": "i", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}]})
    }

    #[test]
    fn the_end_of_a_pod_is_urgent_and_what_comes_before_and_after_is_not() {
        let applied = |status: &Value| of_pod(&CacheEvent::Applied(Arc::new(pod(status))));
        assert_eq!(urgency(&applied(&json!({"phase": "Pending"}))), Urgency::Soon);
        assert_eq!(urgency(&applied(&json!({"phase": "Running"}))), Urgency::Soon);
        for status in [ended(), json!({"phase": "Failed"}), json!({"phase": "Succeeded"})] {
            assert_eq!(urgency(&applied(&status)), Urgency::Now, "{status}");
            let deleted = of_pod(&CacheEvent::Deleted(Arc::new(pod(&status))));
            assert_eq!(urgency(&deleted), Urgency::Soon, "{status}");
        }
        let deleted = CacheEvent::Deleted(Arc::new(pod(&json!({"phase": "Running"}))));
        assert_eq!(urgency(&of_pod(&deleted)), Urgency::Now);
        let mut evicted = pod(&json!({"phase": "Running"}));
        let deletion = json!("2026-01-01T00:00:00Z");
        evicted.metadata.deletion_timestamp = serde_json::from_value(deletion).expect("a time");
        assert_eq!(urgency(&of_pod(&CacheEvent::Applied(Arc::new(evicted)))), Urgency::Now);
    }

    #[test]
    fn the_end_of_a_job_is_urgent_unless_its_pod_has_said_so() {
        let (stores, family) = (Stores::default(), Key::new("ns", "f"));
        let complete = json!({"conditions": [{"type": "Complete", "status": "True"}]});
        let applied = |status: &Value| CacheEvent::Applied(Arc::new(job(status)));
        let of = |stores: &Stores, change| of_work(stores, &family, &change);
        assert_eq!(of(&stores, applied(&json!({"active": 1}))), Urgency::Soon);
        assert_eq!(of(&stores, applied(&complete)), Urgency::Now);
        stores.pods.record_write(pod(&ended()));
        assert_eq!(of(&stores, applied(&complete)), Urgency::Soon);
        let deleted = |status: &Value| CacheEvent::Deleted(Arc::new(job(status)));
        assert_eq!(of(&stores, deleted(&json!({"active": 1}))), Urgency::Now);
        assert_eq!(of(&stores, deleted(&complete)), Urgency::Soon);
    }
}
