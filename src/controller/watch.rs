//! Watches: one per kind and scope, each of which fills a store and yields what has changed. Needs
//! a client.

use std::{collections::BTreeMap, fmt::Debug, sync::Arc};

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, Client, Resource,
    core::{DeserializeGuard, NamespaceResourceScope, ObjectMeta, PartialObjectMeta},
    runtime::watcher,
};
use serde::de::DeserializeOwned;
use tracing::warn;

use crate::{
    api::labels,
    controller::object_cache::{CacheEvent, ObjectCache},
    object_watch::{DeniedWatches, WatchedKind, watch_events},
};

/// The namespaces that are watched, or a single empty string for all of them.
#[derive(Clone, Debug)]
pub struct Scopes(Vec<String>);

impl Scopes {
    /// Returns the given namespaces, or all namespaces if none is given.
    #[must_use]
    pub fn new(mut namespaces: Vec<String>) -> Self {
        namespaces.retain(|namespace| !namespace.is_empty());
        namespaces.sort();
        namespaces.dedup();
        if namespaces.is_empty() {
            namespaces.push(String::new());
        }
        Self(namespaces)
    }

    /// Returns the scopes: namespaces, or a single empty string.
    #[must_use]
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }

    /// Returns whether a namespace is watched.
    #[must_use]
    pub fn contains(&self, namespace: &str) -> bool {
        self.0.iter().any(|scope| scope.is_empty() || scope == namespace)
    }

    /// Returns the scope that covers a namespace.
    #[must_use]
    pub fn scope_of(&self, namespace: &str) -> &str {
        let covers = |scope: &&String| scope.is_empty() || *scope == namespace;
        self.0.iter().find(covers).map_or("", String::as_str)
    }

    /// Returns the scopes with an `Api` for each.
    #[must_use]
    pub fn apis<K>(&self, client: &Client) -> Vec<(String, Api<K>)>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        let api = |scope: &String| {
            if scope.is_empty() {
                Api::all(client.clone())
            } else {
                Api::namespaced(client.clone(), scope)
            }
        };
        self.0.iter().map(|scope| (scope.clone(), api(scope))).collect()
    }
}

/// What several watches have in common.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// The objects that are selected.
    pub selected: watcher::Config,
    /// Where denied watches are noted.
    pub denied: DeniedWatches,
}

/// Watches one kind in all scopes, fills the store, and yields what has changed.
///
/// `read` unwraps what the watch yields: see [`guarded`], [`plain`] and [`outline`].
pub fn watch<W, K>(
    apis: Vec<(String, Api<W>)>,
    options: &WatchOptions,
    cache: &Arc<ObjectCache<K>>,
    read: fn(W) -> Option<K>,
) -> BoxStream<'static, CacheEvent<K>>
where
    W: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    W::DynamicType: Default,
    K: Resource + Send + Sync + 'static,
{
    watch_read(apis, options, cache, move |event| unwrap(event, read))
}

/// Watches one kind in all scopes like [`watch`], but stores only the objects that are ours. One
/// that ceases to be ours counts as deleted.
pub fn watch_ours<K>(
    apis: Vec<(String, Api<K>)>,
    options: &WatchOptions,
    cache: &Arc<ObjectCache<K>>,
    is_ours: impl Fn(&K) -> bool + Clone + Send + 'static,
) -> BoxStream<'static, CacheEvent<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Default,
{
    watch_read(apis, options, cache, move |event| of_ours(event, &is_ours))
}

/// Watches one kind in all scopes. `read` returns what the store gets of an event.
fn watch_read<W, K>(
    apis: Vec<(String, Api<W>)>,
    options: &WatchOptions,
    cache: &Arc<ObjectCache<K>>,
    read: impl Fn(watcher::Event<W>) -> Option<watcher::Event<K>> + Clone + Send + 'static,
) -> BoxStream<'static, CacheEvent<K>>
where
    W: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    W::DynamicType: Default,
    K: Resource + Send + Sync + 'static,
{
    let streams = apis.into_iter().map(|(scope, api)| {
        let (cache, read) = (Arc::clone(cache), read.clone());
        let kind = W::kind(&W::DynamicType::default()).into_owned();
        let watched = WatchedKind { kind, namespace: scope.clone() };
        watch_events(api, options.selected.clone(), watched, options.denied.clone())
            .filter_map(move |event| std::future::ready(read(event)))
            .flat_map(move |event| stream::iter(cache.observe(&scope, event)))
            .boxed()
    });
    stream::select_all(streams).boxed()
}

/// Reads an object of our own kinds. An object that cannot be read is logged and skipped, so that
/// it does not end the watch of the others.
pub fn guarded<K: Resource>(object: DeserializeGuard<K>) -> Option<K>
where
    K::DynamicType: Default,
{
    object
        .0
        .inspect_err(|invalid| {
            let kind = K::kind(&K::DynamicType::default()).into_owned();
            let name = invalid.metadata.name.as_deref().unwrap_or_default();
            let namespace = invalid.metadata.namespace.as_deref().unwrap_or_default();
            warn!(%kind, namespace, name, error = %invalid.error, "an object cannot be read and is \
                skipped");
        })
        .ok()
}

/// Reads an object of the kinds of Kubernetes, which are always readable.
pub fn plain<K>(object: K) -> Option<K> {
    Some(object)
}

/// Reads an object whose content is read only when it changes. Any number of other objects may be
/// in the same namespace, so only its identity, its version and our own labels and annotations are
/// kept. The annotations of other clients may contain a copy of the content, that of a Secret
/// included.
#[must_use]
pub fn outline<K>(object: PartialObjectMeta<K>) -> Option<PartialObjectMeta<K>> {
    let ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        deletion_timestamp,
        labels,
        annotations,
        ..
    } = object.metadata;
    let metadata = ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        deletion_timestamp,
        labels: ours(labels),
        annotations: ours(annotations),
        ..ObjectMeta::default()
    };
    Some(PartialObjectMeta { types: None, metadata, ..object })
}

/// Returns the labels or annotations that are ours.
fn ours(all: Option<BTreeMap<String, String>>) -> Option<BTreeMap<String, String>> {
    let mut all = all?;
    all.retain(|name, _| name.starts_with(labels::PREFIX));
    (!all.is_empty()).then_some(all)
}

/// Returns an event of an object that is ours. One that is not is not listed, and a change of it
/// removes what is stored of it: whoever changes one of our objects must not leave it in the store.
fn of_ours<K>(event: watcher::Event<K>, is_ours: impl Fn(&K) -> bool) -> Option<watcher::Event<K>> {
    match event {
        watcher::Event::InitApply(object) if !is_ours(&object) => None,
        watcher::Event::Apply(object) if !is_ours(&object) => Some(watcher::Event::Delete(object)),
        event => Some(event),
    }
}

fn unwrap<W, K>(event: watcher::Event<W>, read: fn(W) -> Option<K>) -> Option<watcher::Event<K>> {
    Some(match event {
        watcher::Event::Init => watcher::Event::Init,
        watcher::Event::InitDone => watcher::Event::InitDone,
        watcher::Event::InitApply(object) => watcher::Event::InitApply(read(object)?),
        watcher::Event::Apply(object) => watcher::Event::Apply(read(object)?),
        watcher::Event::Delete(object) => watcher::Event::Delete(read(object)?),
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_ceases_to_be_ours_is_removed() {
        use watcher::Event::{Apply, Delete, InitApply};
        let read = |event| of_ours(event, |object: &&str| *object == "ours");
        assert!(matches!(read(Apply("ours")), Some(Apply("ours"))));
        assert!(matches!(read(Apply("changed")), Some(Delete("changed"))));
        assert!(matches!(read(InitApply("ours")), Some(InitApply("ours"))));
        assert!(read(InitApply("changed")).is_none());
        assert!(matches!(read(Delete("changed")), Some(Delete("changed"))));
    }

    #[test]
    fn an_outline_has_identity_version_and_our_own_annotations_only() {
        let secret: PartialObjectMeta<Secret> = serde_json::from_value(json!({
            "apiVersion": "meta.k8s.io/v1",
            "kind": "PartialObjectMetadata",
            "metadata": {
                "name": "git", "namespace": "shop", "uid": "1", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z",
                "deletionTimestamp": "2026-01-02T00:00:00Z",
                "labels": {"app": "web", "groundswell.dev/image": "web"},
                "annotations": {
                    "groundswell.dev/hosts": "git.example.com",
                    "kubectl.kubernetes.io/last-applied-configuration": "{\"data\":\"cGFzcw==\"}",
                },
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "ConfigMap", "name": "a", "uid": "2"}
                ],
                "finalizers": ["example.com/a"],
                "managedFields": [{"manager": "kubectl", "operation": "Apply"}],
            }
        }))
        .expect("the metadata of a Secret");
        let kept = serde_json::to_value(outline(secret)).expect("JSON");
        let expected = json!({"metadata": {
            "name": "git", "namespace": "shop", "uid": "1", "resourceVersion": "7",
            "deletionTimestamp": "2026-01-02T00:00:00Z",
            "labels": {"groundswell.dev/image": "web"},
            "annotations": {"groundswell.dev/hosts": "git.example.com"},
        }});
        assert_eq!(kept, expected);
    }
}
