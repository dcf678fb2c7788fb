//! Store of the cluster's workloads and of the namespaces that consent to rollouts, kept up to date
//! by watches.
//!
//! It keeps only a [`WorkloadView`] of each object, so a reconcile makes no list call. If the
//! controller is limited to a list of namespaces, each namespace has its own watches, so that no
//! cluster-wide permission is needed. kube's own store is not used, because a restart of one of
//! several watches would empty it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{DaemonSet, Deployment, StatefulSet},
        batch::v1::CronJob,
        core::v1::Namespace,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::watcher::{self, Event},
};
use serde::de::DeserializeOwned;

use crate::{
    api::{WorkloadKind, labels},
    object_watch::{DeniedWatches, WatchedKind, watch_events},
    rollout::{WorkloadKey, WorkloadLookup, WorkloadView},
};

/// An object that has changed in a way that can affect a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ChangedObject {
    /// A workload was created or deleted, or its [`WorkloadView`] changed.
    Workload(WorkloadKey),
    /// The consent of a Namespace changed.
    Namespace(String),
}

/// The observed workloads and namespaces. It is cheap to clone, and all clones share their
/// contents.
#[derive(Clone, Debug)]
pub struct WorkloadStore {
    contents: Arc<RwLock<StoreContents>>,
    /// The watched namespaces; `None` if all are watched.
    only: Option<Arc<BTreeSet<String>>>,
}

#[derive(Debug, Default)]
struct StoreContents {
    workloads: BTreeMap<WorkloadKey, Arc<WorkloadView>>,
    consent: BTreeMap<String, String>,
    namespaces: BTreeSet<String>,
    /// The watches that have not listed their objects yet.
    waiting: BTreeSet<WatchScope>,
}

/// An object reduced to the fields that the store keeps.
enum StoreEntry {
    Workload(WorkloadView),
    Namespace { name: String, consent: Option<String> },
}

/// The objects that one watch covers. A relist affects only the objects in its scope.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WatchScope {
    /// The workload kind; `None` for Namespaces.
    kind: Option<WorkloadKind>,
    namespace: Option<String>,
}

impl WorkloadStore {
    /// Creates the store and the stream that fills it. An empty `only` means all namespaces.
    ///
    /// The store is filled only while the stream is polled. The items of the stream are the changed
    /// objects; objects that a relist only confirms are omitted. The stream never ends.
    #[must_use]
    pub fn start(
        client: &Client,
        only: &BTreeSet<String>,
        denied: &DeniedWatches,
    ) -> (Self, BoxStream<'static, ChangedObject>) {
        let store = Self {
            contents: Arc::default(),
            only: (!only.is_empty()).then(|| Arc::new(only.clone())),
        };
        let namespaces: Vec<Option<&str>> = if only.is_empty() {
            vec![None]
        } else {
            only.iter().map(|name| Some(name.as_str())).collect()
        };
        let mut watches = Vec::new();
        for namespace in namespaces {
            watches.push(store.watch_workloads::<Deployment>(
                client,
                denied,
                WorkloadKind::Deployment,
                namespace,
            ));
            watches.push(store.watch_workloads::<StatefulSet>(
                client,
                denied,
                WorkloadKind::StatefulSet,
                namespace,
            ));
            watches.push(store.watch_workloads::<DaemonSet>(
                client,
                denied,
                WorkloadKind::DaemonSet,
                namespace,
            ));
            watches.push(store.watch_workloads::<CronJob>(
                client,
                denied,
                WorkloadKind::CronJob,
                namespace,
            ));
            watches.push(store.watch_namespaces(client, denied, namespace));
        }
        (store, stream::select_all(watches).boxed())
    }

    /// Returns the names of the watches that have not listed their objects yet. It is empty once
    /// the store is complete.
    #[must_use]
    pub fn waiting_for(&self) -> Vec<String> {
        self.read().waiting.iter().map(ToString::to_string).collect()
    }

    /// Returns the names of the watches of a namespace that have not listed their objects yet, or
    /// of all namespaces if it is empty.
    #[must_use]
    pub fn waiting_in(&self, namespace: &str) -> Vec<String> {
        let waits = |scope: &&WatchScope| scope.namespace.as_deref().unwrap_or("") == namespace;
        self.read().waiting.iter().filter(waits).map(ToString::to_string).collect()
    }

    /// Returns whether a namespace that is to be watched is known not to exist.
    #[must_use]
    pub fn is_missing(&self, namespace: &str) -> bool {
        let watch = WatchScope { kind: None, namespace: Some(namespace.into()) };
        let contents = self.read();
        self.only.as_ref().is_some_and(|only| only.contains(namespace))
            && !contents.waiting.contains(&watch)
            && !contents.namespaces.contains(namespace)
    }

    fn watch_workloads<K>(
        &self,
        client: &Client,
        denied: &DeniedWatches,
        kind: WorkloadKind,
        namespace: Option<&str>,
    ) -> BoxStream<'static, ChangedObject>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Into<WorkloadView>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<K> = match namespace {
            Some(namespace) => Api::namespaced(client.clone(), namespace),
            None => Api::all(client.clone()),
        };
        let scope = WatchScope { kind: Some(kind), namespace: namespace.map(Into::into) };
        let selected = watcher::Config::default();
        let events = watch_events(api, selected, scope.watched_kind(), denied.clone());
        self.fill_from(scope, events, |object: K| StoreEntry::Workload(object.into()))
    }

    fn watch_namespaces(
        &self,
        client: &Client,
        denied: &DeniedWatches,
        only: Option<&str>,
    ) -> BoxStream<'static, ChangedObject> {
        let api: Api<PartialObjectMeta<Namespace>> = Api::all(client.clone());
        let mut selected = watcher::Config::default();
        if let Some(name) = only {
            // With this selector, an RBAC rule that names the namespace is sufficient.
            selected = selected.fields(&format!("metadata.name={name}"));
        }
        let scope = WatchScope { kind: None, namespace: only.map(Into::into) };
        let events = watch_events(api, selected, scope.watched_kind(), denied.clone());
        self.fill_from(scope, events, |object: PartialObjectMeta<Namespace>| {
            StoreEntry::Namespace {
                name: object.name_any(),
                consent: object
                    .metadata
                    .annotations
                    .and_then(|mut all| all.remove(labels::ROLLOUT_FROM)),
            }
        })
    }

    fn fill_from<K: Send + 'static>(
        &self,
        scope: WatchScope,
        events: impl Stream<Item = Event<K>> + Send + 'static,
        reduce: fn(K) -> StoreEntry,
    ) -> BoxStream<'static, ChangedObject> {
        self.write(|contents| _ = contents.waiting.insert(scope.clone()));
        let store = self.clone();
        let mut listed = BTreeSet::new();
        events
            .flat_map(move |event| {
                stream::iter(store.apply_event(&scope, &mut listed, event, reduce))
            })
            .boxed()
    }

    /// Applies one event and returns the objects that it changed.
    fn apply_event<K>(
        &self,
        scope: &WatchScope,
        listed: &mut BTreeSet<ChangedObject>,
        event: Event<K>,
        reduce: fn(K) -> StoreEntry,
    ) -> Vec<ChangedObject> {
        match event {
            Event::Init => {
                listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                let entry = reduce(object);
                listed.insert(entry.key());
                self.write(|contents| contents.insert(entry)).into_iter().collect()
            }
            Event::InitDone => {
                let listed = std::mem::take(listed);
                self.write(|contents| {
                    contents.waiting.remove(scope);
                    let deleted: Vec<_> = contents
                        .keys_in(scope)
                        .into_iter()
                        .filter(|key| !listed.contains(key))
                        .collect();
                    deleted.into_iter().filter(|key| contents.remove(key)).collect()
                })
            }
            Event::Apply(object) => {
                self.write(|contents| contents.insert(reduce(object))).into_iter().collect()
            }
            Event::Delete(object) => {
                let key = reduce(object).key();
                if self.write(|contents| contents.remove(&key)) { vec![key] } else { Vec::new() }
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, StoreContents> {
        // The lock is never held across a call that could panic, so the contents of a poisoned lock
        // are still consistent.
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write<T>(&self, change: impl FnOnce(&mut StoreContents) -> T) -> T {
        change(&mut self.contents.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl WorkloadLookup for WorkloadStore {
    fn get(&self, key: &WorkloadKey) -> Option<Arc<WorkloadView>> {
        self.read().workloads.get(key).cloned()
    }

    fn select(
        &self,
        kind: WorkloadKind,
        namespace: &str,
        labels: &BTreeMap<String, String>,
    ) -> Vec<Arc<WorkloadView>> {
        let first = WorkloadKey { kind, namespace: namespace.into(), name: String::new() };
        self.read()
            .workloads
            .range(first..)
            .take_while(|(key, _)| key.kind == kind && key.namespace == namespace)
            .filter(|(_, workload)| workload.has_labels(labels))
            .map(|(_, workload)| Arc::clone(workload))
            .collect()
    }

    fn consent(&self, namespace: &str) -> Option<String> {
        self.read().consent.get(namespace).cloned()
    }

    fn watches(&self, namespace: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(namespace))
    }
}

impl StoreContents {
    /// Inserts an entry. Returns its key if that changed anything.
    fn insert(&mut self, entry: StoreEntry) -> Option<ChangedObject> {
        let key = entry.key();
        let changed = match entry {
            StoreEntry::Workload(workload) => {
                let same =
                    self.workloads.get(&workload.key).is_some_and(|known| **known == workload);
                if !same {
                    self.workloads.insert(workload.key.clone(), Arc::new(workload));
                }
                !same
            }
            StoreEntry::Namespace { name, consent } => {
                self.namespaces.insert(name.clone());
                let before = match &consent {
                    Some(value) => self.consent.insert(name, value.clone()),
                    None => self.consent.remove(&name),
                };
                before != consent
            }
        };
        changed.then_some(key)
    }

    fn remove(&mut self, key: &ChangedObject) -> bool {
        match key {
            ChangedObject::Workload(key) => self.workloads.remove(key).is_some(),
            ChangedObject::Namespace(name) => {
                self.namespaces.remove(name);
                self.consent.remove(name).is_some()
            }
        }
    }

    fn keys_in(&self, scope: &WatchScope) -> Vec<ChangedObject> {
        let inside =
            |namespace: &String| scope.namespace.as_ref().is_none_or(|only| only == namespace);
        match scope.kind {
            Some(kind) => self
                .workloads
                .keys()
                .filter(|key| key.kind == kind && inside(&key.namespace))
                .map(|key| ChangedObject::Workload(key.clone()))
                .collect(),
            None => self
                .namespaces
                .iter()
                .filter(|name| inside(name))
                .cloned()
                .map(ChangedObject::Namespace)
                .collect(),
        }
    }
}

impl WatchScope {
    fn watched_kind(&self) -> WatchedKind {
        WatchedKind {
            kind: self.kind.map_or("Namespace", WorkloadKind::as_str).into(),
            namespace: self.namespace.clone().unwrap_or_default(),
        }
    }
}

impl StoreEntry {
    fn key(&self) -> ChangedObject {
        match self {
            Self::Workload(workload) => ChangedObject::Workload(workload.key.clone()),
            Self::Namespace { name, .. } => ChangedObject::Namespace(name.clone()),
        }
    }
}

impl std::fmt::Display for WatchScope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}s", self.kind.map_or("Namespace", WorkloadKind::as_str))?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " in namespace {namespace}"))
    }
}

#[cfg(test)]
#[path = "workload_store_tests.rs"]
mod tests;
