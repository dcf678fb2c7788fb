//! One process of the controller: its caches, its watches, and the families to reconcile.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::{Arc, LazyLock},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use groundswell::{
    api::{ImageFamily, ManagedImageStatus},
    build_records::{RecordPolicy, RecordSettings, keys::RecordKeys},
    builds::job::BuildEnvironment,
    controller::{
        backoff::ReconcileBackoff,
        context::Context,
        deferred_triggers::DeferredTriggers,
        dependents::Dependents,
        error::ReconcileError,
        event_queue::EventQueue,
        family,
        folder_poller::FolderPoller,
        git_poll::GitKey,
        installations::Installations,
        job_seals::is_sealed,
        object_cache::{CacheEvent, Key, ObjectCache},
        quota::{BuildLimits, BuildQuota},
        reconcile_cache::ReconcileCaches,
        resource_quotas::QuotaChanges,
        rollouts::Rollouts,
        stores::Stores,
        tag_owners::TagOwners,
        triggers::{self, FamilyObjectRef, Trigger},
        watch::Scopes,
    },
    object_watch::DeniedWatches,
    registry, rollout,
    server::Metrics,
    upstream::{self, ImageKey, PollLimits, PollSettings, Poller},
};
use kube::{
    ResourceExt,
    runtime::{
        controller::Action,
        events::{Recorder, Reporter},
        watcher::Event,
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    api_server,
    cluster::Shared,
    invariants::{self, calm},
    objects::{Kind, label},
    registry_service,
};

/// Upper bound on the duration of one poll.
const POLL_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a reconcile is delayed that is due before the caches are filled.
const CACHES_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// How long a watch takes at most that lists again.
const LIST_TIME: Duration = Duration::from_secs(10);

/// The key of every process: it outlives processes, as a Secret does, and the names of Jobs follow
/// from it.
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----\n\
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgGP63dtheOkhRg1v8\n\
gfrSQoYQiXN/duT1+rqzCYA+EDShRANCAARvuv0rEcLGfDG46ClBaiRocFhqbm/A\n\
9xggPahRx4MPRBeDtL7elfhllV7uu1xJPfGLy/ezBTh7UDaLlbP7CiaO\n\
-----END PRIVATE KEY-----\n";
static KEYS: LazyLock<RecordKeys> =
    LazyLock::new(|| RecordKeys::read([("only", KEY.as_bytes())]).expect("keys").keys);

type Reconcile = BoxFuture<'static, (Key, Result<Action, ReconcileError>)>;

fn namespace_of(family: &FamilyObjectRef) -> String {
    family.namespace.clone().unwrap_or_default()
}

/// The state of a watch.
#[derive(Debug)]
enum Watch {
    Unlisted,
    /// A part of the list is delivered. Contains the rest, and the index in the log at which the
    /// list was taken.
    Listing(Vec<Arc<Value>>, usize),
    Live(usize),
}

/// One process of the controller.
pub struct Process {
    pub number: u64,
    pub context: Arc<Context>,
    shared: Shared,
    watches: BTreeMap<Kind, Watch>,
    filled: bool,
    due: BTreeMap<Key, Duration>,
    /// Families whose reconcile runs, and when to reconcile them again.
    running: BTreeMap<Key, Option<Duration>>,
    reconciles: FuturesUnordered<Reconcile>,
    woken: Pin<Box<dyn Stream<Item = FamilyObjectRef> + Send>>,
    /// Publishes Events.
    published: BoxFuture<'static, ()>,
}

impl Process {
    /// Starts a process with empty caches.
    pub fn start(shared: &Shared, number: u64, audit: Duration, limits: BuildLimits) -> Self {
        let client = api_server::client(shared, number);
        let clock = shared.lock().time.clock();
        let config = registry::Config::default();
        let registry = registry::Client::with_transport(
            config,
            registry_service::transport(shared, number),
            clock.clone(),
        );
        let polled_registry = registry.clone();
        let settings = PollSettings {
            timeout: POLL_TIMEOUT,
            limits: PollLimits::of_each_host(256, 4, 1200),
            host_of: ImageKey::host,
            namespace_of,
        };
        let tags = Poller::start(settings, clock.clone(), move |key: ImageKey, last| {
            let registry = polled_registry.clone();
            async move {
                let last = last.and_then(|polled| polled.value.clone());
                upstream::resolve_tag(&registry, &key, last.as_ref()).await
            }
        });
        let git = shared.clone();
        let settings = PollSettings {
            timeout: POLL_TIMEOUT,
            limits: PollLimits::of_each_host(12, 4, 600),
            host_of: GitKey::host,
            namespace_of,
        };
        let revisions = FolderPoller::start(settings, clock.clone(), move |poll| {
            registry_service::read_folders(git.clone(), number, poll)
        });
        let denied = DeniedWatches::default();
        let (workloads, _) = rollout::WorkloadStore::start(&client, &BTreeSet::new(), &denied);
        let reporter = Reporter { controller: "groundswell".into(), instance: None };
        let context = Context {
            events: EventQueue::new(Recorder::new(client.clone(), reporter)),
            client,
            clock,
            scopes: Scopes::new(Vec::new()),
            denied,
            installations: Installations::new("groundswell-system", "groundswell"),
            stores: Stores::default(),
            workloads,
            rollouts: Rollouts::default(),
            reverts: rollout::RevertTracker::default(),
            registry,
            tags,
            revisions,
            records: RecordSettings { keys: KEYS.clone(), policy: RecordPolicy::Required },
            environment: BuildEnvironment::default(),
            audit: groundswell::api::Duration::from_secs(
                u32::try_from(audit.as_secs()).unwrap_or(600),
            ),
            deferred_triggers: DeferredTriggers::default(),
            dependents: Dependents::default(),
            quota: BuildQuota::new(limits),
            resource_quotas: QuotaChanges::default(),
            tag_owners: TagOwners::default(),
            metrics: Metrics::new(),
            failures: ReconcileBackoff::default(),
            reconcile_caches: ReconcileCaches::default(),
        };
        let context = Arc::new(context);
        let changes = [
            context.tags.changes().boxed(),
            context.revisions.changes().boxed(),
            triggers::admitted(&context),
            triggers::deferred(&context),
        ];
        let woken = futures::stream::select_all(changes).boxed();
        let events = Arc::clone(&context);
        let published = async move { events.events.publish().await }.boxed();
        let process = Self {
            number,
            context,
            shared: shared.clone(),
            watches: Kind::ALL.into_iter().map(|kind| (kind, Watch::Unlisted)).collect(),
            filled: false,
            due: BTreeMap::new(),
            running: BTreeMap::new(),
            reconciles: FuturesUnordered::new(),
            woken,
            published,
        };
        let mut cluster = shared.lock();
        cluster.process = number;
        cluster.note(format_args!("controller {number} starts"));
        for kind in Kind::ALL {
            cluster.schedule_delivery(kind);
        }
        drop(cluster);
        process
    }

    /// Returns whether no reconcile runs and none is due before this time.
    pub fn is_idle_until(&self, at: Duration) -> bool {
        self.running.is_empty() && self.due.values().all(|due| *due >= at)
    }

    /// Returns when the next reconcile is due.
    pub fn next_at(&self) -> Option<Duration> {
        self.due.iter().filter(|(key, _)| !self.running.contains_key(*key)).map(|(_, at)| *at).min()
    }

    /// Waits until a reconcile ends or a poll reports a change.
    pub async fn next(&mut self) {
        tokio::select! {
            biased;
            Some((key, result)) = self.reconciles.next(), if !self.reconciles.is_empty() => {
                self.ended(&key, result);
            }
            Some(family) = self.woken.next() => self.wake(&family),
            () = &mut self.published => {}
        }
    }

    /// Starts the reconciles that are due.
    pub fn start_reconciles(&mut self) {
        let now = self.shared.lock().elapsed();
        let due: Vec<Key> =
            self.due.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            if self.running.contains_key(&key) {
                continue;
            }
            if !self.filled {
                self.filled =
                    self.context.stores.waiting_for(self.context.scopes.as_slice()).is_empty();
            }
            if !self.filled {
                self.due.insert(key, now + CACHES_RETRY_INTERVAL);
                continue;
            }
            self.due.remove(&key);
            self.running.insert(key.clone(), None);
            if let Some(family) = self.context.stores.families.get(&key) {
                let generation = family.metadata.generation.unwrap_or_default();
                invariants::reconcile_starts(&mut self.shared.lock(), &key, generation);
            }
            let mut outline = ImageFamily::default();
            outline.metadata.namespace = Some(key.namespace.clone());
            outline.metadata.name = Some(key.name.clone());
            let context = Arc::clone(&self.context);
            let reconcile =
                family::reconcile(Arc::new(outline), context).map(move |result| (key, result));
            self.reconciles.push(reconcile.boxed());
        }
    }

    fn ended(&mut self, key: &Key, result: Result<Action, ReconcileError>) {
        let now = self.shared.lock().elapsed();
        let after = match result {
            Ok(action) => {
                self.context.failures.forget("ImageFamily", key);
                let after = requeue_after(&action);
                let unwritten = self.unwritten_statuses(key);
                let mut cluster = self.shared.lock();
                invariants::reconcile_ends(&mut cluster, key, &unwritten);
                cluster
                    .note(format_args!("reconcile of {} ended, again after {after:?}", key.name));
                after
            }
            Err(error) => {
                let pause = self.context.failures.count_failure("ImageFamily", key.clone());
                self.shared.lock().note(format_args!("reconcile of {} failed: {error}", key.name));
                Some(pause)
            }
        };
        let again = self.running.remove(key).flatten();
        if let Some(at) = after.map(|after| now + after).into_iter().chain(again).min() {
            self.schedule(key.clone(), at);
        }
    }

    /// Returns the statuses that a reconcile has decided and not written yet, by image.
    fn unwritten_statuses(&self, key: &Key) -> BTreeMap<String, ManagedImageStatus> {
        let Some(family) = self.context.stores.families.get(key) else { return BTreeMap::new() };
        let cache = self.context.reconcile_caches.of(&family.uid().unwrap_or_default());
        let Ok(cache) = cache.try_lock() else { return BTreeMap::new() };
        let unwritten = cache.deferred_statuses.statuses();
        unwritten.map(|(image, status)| (image.to_owned(), status.clone())).collect()
    }

    fn schedule(&mut self, key: Key, at: Duration) {
        let due = self.due.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    fn wake(&mut self, family: &FamilyObjectRef) {
        let now = self.shared.lock().elapsed();
        let key = Key::new(family.namespace.as_deref().unwrap_or_default(), &family.name);
        match self.running.get_mut(&key) {
            Some(again) => *again = Some(now),
            None => self.schedule(key, now),
        }
    }

    /// Delivers the changes of a kind's watch.
    pub fn deliver(&mut self, kind: Kind) {
        let context = Arc::clone(&self.context);
        let stores = &context.stores;
        let woken = match kind {
            Kind::Family => self
                .deliver_to(kind, &stores.families, |change| triggers::of_family(&context, change)),
            Kind::Image => {
                self.deliver_to(kind, &stores.images, |change| triggers::of_image(&context, change))
            }
            Kind::Cascade => self.deliver_to(kind, &stores.cascades, triggers::of_cascade),
            Kind::Request => self.deliver_to(kind, &stores.requests, triggers::of_request),
            Kind::Strategy => self.deliver_to(kind, &stores.strategies, |change| {
                triggers::of_strategy(&context, change)
            }),
            Kind::Job => {
                self.deliver_to(kind, &stores.jobs, |change| triggers::of_job(&context, change))
            }
            Kind::Pod => self.deliver_to(kind, &stores.pods, triggers::of_pod),
            Kind::ConfigMap => self.deliver_to(kind, &stores.config_maps, |change| {
                triggers::of_config_map(&context, change)
            }),
            Kind::Secret => self
                .deliver_to(kind, &stores.secrets, |change| triggers::of_secret(&context, change)),
        };
        for family in &woken {
            self.wake(family);
        }
    }

    fn deliver_to<K>(
        &mut self,
        kind: Kind,
        cache: &ObjectCache<K>,
        of: impl Fn(&CacheEvent<K>) -> Vec<Trigger>,
    ) -> Vec<FamilyObjectRef>
    where
        K: kube::Resource + DeserializeOwned,
    {
        let mut cluster = self.shared.lock();
        cluster.deliveries.remove(&kind);
        let end = cluster.objects.log(kind).len();
        let watch = self.watches.remove(&kind).unwrap_or(Watch::Unlisted);
        let broken = cluster.broken_watches.iter().position(|broken| *broken == kind);
        let broken = broken.map(|place| cluster.broken_watches.swap_remove(place)).is_some();
        let mut events = Vec::new();
        let next = match watch {
            Watch::Live(cursor) if !broken && !cluster.faults.watch_breaks() => {
                for change in cluster
                    .changes_since(kind, cursor)
                    .into_iter()
                    .filter(|change| is_watched(kind, &change.object))
                {
                    let object = read(&change.object);
                    events.push(if change.gone {
                        Event::Delete(object)
                    } else {
                        Event::Apply(object)
                    });
                }
                if cluster.faults.watch_breaks()
                    && let Some((_, object)) =
                        cluster.objects.all(kind).find(|(_, object)| is_watched(kind, object))
                {
                    events.push(Event::Apply(read(object)));
                }
                Watch::Live(end)
            }
            Watch::Unlisted | Watch::Live(_) => {
                calm::disturb(&mut cluster, LIST_TIME);
                let listed = cluster.objects.all(kind).map(|(_, object)| Arc::clone(object));
                let mut listed: Vec<Arc<Value>> =
                    listed.filter(|object| is_watched(kind, object)).collect();
                let rest = listed.split_off(listed.len() / 2);
                events.push(Event::Init);
                events.extend(listed.iter().map(|object| Event::InitApply(read(object))));
                cluster.schedule_delivery(kind);
                Watch::Listing(rest, end)
            }
            Watch::Listing(rest, cursor) => {
                events.extend(rest.iter().map(|object| Event::InitApply(read(object))));
                events.push(Event::InitDone);
                if cursor < end {
                    cluster.schedule_delivery(kind);
                }
                Watch::Live(cursor)
            }
        };
        drop(cluster);
        self.watches.insert(kind, next);
        let changes: Vec<CacheEvent<K>> =
            events.into_iter().flat_map(|event| cache.observe("", event)).collect();
        triggers::urgent(&self.context, changes.iter().flat_map(of).collect())
    }
}

/// Returns whether a watch of this kind delivers an object.
fn is_watched(kind: Kind, object: &Value) -> bool {
    use groundswell::api::labels::{MANAGED_BY, MANAGED_BY_VALUE};
    if kind == Kind::Job && !is_sealed(&read(object), &KEYS) {
        return false;
    }
    !matches!(kind, Kind::Job | Kind::Pod) || label(object, MANAGED_BY) == MANAGED_BY_VALUE
}

fn read<K: DeserializeOwned>(object: &Value) -> K {
    K::deserialize(object).expect("an object of its kind")
}

/// Returns when a reconcile requeues its family. The library only exposes this in its debug output.
fn requeue_after(action: &Action) -> Option<Duration> {
    let shown = format!("{action:?}");
    let number = shown.split("Some(").nth(1)?.split(')').next()?;
    let unit = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let value: f64 = number.trim_end_matches(unit).parse().ok()?;
    let seconds = match unit {
        "s" => value,
        "ms" => value / 1e3,
        "µs" => value / 1e6,
        _ => value / 1e9,
    };
    Some(Duration::from_secs_f64(seconds))
}
