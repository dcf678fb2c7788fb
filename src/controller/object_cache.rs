//! Objects of one kind, from the watch and from our own writes, whichever is newer. No client is
//! needed.
//!
//! A reconcile reads objects only from here. A watch lags behind our own writes, and a decision
//! over an outdated status could repeat an effect. So the answer to every write is stored here,
//! too, and an older watch event changes nothing.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
};

use kube::{Resource, ResourceExt, runtime::watcher::Event};

/// Annotation with which `kubectl apply` repeats the whole object.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// How many deleted objects are remembered, so that a late answer to a write does not restore one.
const MAX_TOMBSTONES: usize = 4096;

/// Namespace and name of an object. The namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// Returns the key of an object with this namespace and name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// Returns the key of an object.
    #[must_use]
    pub fn of<K: Resource>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

/// Objects of one kind, by key and by group. A reconcile asks for a group at once: the objects of
/// one family, for example.
#[derive(Debug)]
pub struct ObjectCache<K> {
    inner: RwLock<CachedObjects<K>>,
    group: fn(&K) -> Option<Key>,
    prepare: fn(K, Option<&K>) -> K,
}

#[derive(Debug)]
struct CachedObjects<K> {
    objects: HashMap<Key, Arc<K>>,
    /// The same objects by group, each group sorted by key.
    groups: HashMap<Key, BTreeMap<Key, Arc<K>>>,
    /// Listings in progress, by scope.
    listing: HashMap<String, Listing>,
    tombstones: VecDeque<String>,
    synced: HashSet<String>,
}

/// A listing in progress. An object that we write while it runs may be missing from it, and is not
/// deleted.
#[derive(Debug, Default)]
struct Listing {
    /// The objects that were known when the listing began.
    before: HashSet<Key>,
    /// The objects that the listing has shown.
    shown: HashSet<Key>,
}

/// What an event of a watch changes in the cache.
#[derive(Clone, Debug)]
pub enum CacheEvent<K> {
    /// The object is new or has changed.
    Applied(Arc<K>),
    /// The object is as we have written it.
    Echoed(Arc<K>),
    /// The object was deleted.
    Deleted(Arc<K>),
}

impl<K> CacheEvent<K> {
    /// Returns the object, in its last state if it was deleted.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied(object) | Self::Echoed(object) | Self::Deleted(object) => object,
        }
    }
}

impl<K> CacheEvent<K> {
    /// Returns the object, if somebody else has changed it.
    #[must_use]
    pub fn foreign_change(&self) -> Option<Arc<K>> {
        match self {
            Self::Applied(object) | Self::Deleted(object) => Some(Arc::clone(object)),
            Self::Echoed(_) => None,
        }
    }
}

impl<K: Resource> ObjectCache<K> {
    /// Returns an empty cache; `group` returns the group of an object.
    #[must_use]
    pub fn new(group: fn(&K) -> Option<Key>) -> Self {
        let inner = CachedObjects {
            objects: HashMap::new(),
            groups: HashMap::new(),
            listing: HashMap::new(),
            tombstones: VecDeque::new(),
            synced: HashSet::new(),
        };
        Self { inner: RwLock::new(inner), group, prepare: |object, _| object }
    }

    /// Returns the cache with a function through which each object passes before it is stored. It
    /// gets the object, and what is known of the object of this name.
    #[must_use]
    pub fn with_preparation(self, prepare: fn(K, Option<&K>) -> K) -> Self {
        Self { prepare, ..self }
    }

    fn prepared(&self, object: K) -> K {
        let known = self.get(&Key::of(&object));
        (self.prepare)(object, known.as_deref())
    }

    /// Stores an event of the watch of `scope`: a namespace, or the empty string for all
    /// namespaces. Returns what it has changed.
    pub fn observe(&self, scope: &str, event: Event<K>) -> Vec<CacheEvent<K>> {
        let event = match event {
            Event::InitApply(object) => Event::InitApply(self.prepared(object)),
            Event::Apply(object) => Event::Apply(self.prepared(object)),
            Event::Init | Event::InitDone | Event::Delete(_) => event,
        };
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Init => {
                let before =
                    inner.objects.keys().filter(|key| in_scope(key, scope)).cloned().collect();
                inner.listing.insert(scope.into(), Listing { before, shown: HashSet::new() });
                Vec::new()
            }
            Event::InitApply(object) => {
                let key = Key::of(&object);
                if let Some(listing) = inner.listing.get_mut(scope) {
                    listing.shown.insert(key);
                }
                inner.apply(object, self.group).into_iter().collect()
            }
            Event::InitDone => {
                let Listing { before, shown } = inner.listing.remove(scope).unwrap_or_default();
                inner.synced.insert(scope.into());
                let mut gone: Vec<&Key> = before.difference(&shown).collect();
                gone.sort_unstable();
                gone.into_iter().filter_map(|key| inner.delete(key, self.group)).collect()
            }
            Event::Apply(object) => inner.apply(object, self.group).into_iter().collect(),
            Event::Delete(object) => {
                let key = Key::of(&object);
                // A newer object of the same name may be known already, from a write of ours.
                let same = inner.objects.get(&key).is_some_and(|known| known.uid() == object.uid());
                if same { inner.delete(&key, self.group).into_iter().collect() } else { Vec::new() }
            }
        }
    }

    /// Stores the answer to a write of ours.
    pub fn record_write(&self, object: K) {
        let object = self.prepared(object);
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if !object.uid().is_some_and(|uid| inner.tombstones.contains(&uid)) {
            inner.apply(object, self.group);
        }
    }

    /// Removes the object with this key, because a write of ours was answered with "not found".
    pub fn record_missing(&self, key: &Key) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).delete(key, self.group);
    }

    /// Returns the object with this key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned()
    }

    /// Returns the objects of a group, sorted by key.
    #[must_use]
    pub fn group(&self, group: &Key) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.groups.get(group).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// Returns all objects, sorted by key.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<(&Key, &Arc<K>)> = inner.objects.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all.into_iter().map(|(_, object)| Arc::clone(object)).collect()
    }

    /// Returns whether the first listing of each of these scopes is complete.
    #[must_use]
    pub fn synced(&self, scopes: &[String]) -> bool {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        scopes.iter().all(|scope| inner.synced.contains(scope))
    }
}

impl<K: Resource> CachedObjects<K> {
    /// Stores an object, without the metadata that repeats it and that nothing here reads.
    fn apply(&mut self, mut object: K, group: fn(&K) -> Option<Key>) -> Option<CacheEvent<K>> {
        object.meta_mut().managed_fields = None;
        if let Some(annotations) = &mut object.meta_mut().annotations {
            annotations.remove(LAST_APPLIED);
        }
        let key = Key::of(&object);
        let known = self.objects.get(&key);
        if let Some(known) = known.filter(|known| known.uid() == object.uid()) {
            match version(&**known).cmp(&version(&object)) {
                Ordering::Greater => return None,
                Ordering::Equal => return Some(CacheEvent::Echoed(Arc::clone(known))),
                Ordering::Less => {}
            }
        }
        let before = known.and_then(|known| group(known));
        let after = group(&object);
        if before != after {
            self.ungroup(before.as_ref(), &key);
        }
        let object = Arc::new(object);
        if let Some(after) = after {
            self.groups.entry(after).or_default().insert(key.clone(), Arc::clone(&object));
        }
        self.objects.insert(key, Arc::clone(&object));
        Some(CacheEvent::Applied(object))
    }

    fn delete(&mut self, key: &Key, group: fn(&K) -> Option<Key>) -> Option<CacheEvent<K>> {
        let object = self.objects.remove(key)?;
        self.ungroup(group(&object).as_ref(), key);
        if let Some(uid) = object.uid() {
            self.tombstones.push_back(uid);
            if self.tombstones.len() > MAX_TOMBSTONES {
                self.tombstones.pop_front();
            }
        }
        Some(CacheEvent::Deleted(object))
    }

    fn ungroup(&mut self, group: Option<&Key>, key: &Key) {
        let Some(group) = group else { return };
        if let Some(objects) = self.groups.get_mut(group) {
            objects.remove(key);
            if objects.is_empty() {
                self.groups.remove(group);
            }
        }
    }
}

fn in_scope(key: &Key, scope: &str) -> bool {
    scope.is_empty() || key.namespace == scope
}

/// Returns the resource version as a number. Kubernetes defines it to be comparable since 1.35, and
/// that of etcd always was.
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{
        api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry,
    };

    use super::*;

    fn object(name: &str, uid: &str, version: u64, group: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("ns".into());
        object.metadata.uid = Some(uid.into());
        object.metadata.resource_version = Some(version.to_string());
        object.metadata.labels = Some(BTreeMap::from([("group".into(), group.into())]));
        object
    }

    fn cache() -> ObjectCache<ConfigMap> {
        ObjectCache::new(|object| Some(Key::new("ns", object.labels().get("group")?)))
    }

    fn versions(cache: &ObjectCache<ConfigMap>, group: &str) -> Vec<String> {
        cache
            .group(&Key::new("ns", group))
            .iter()
            .filter_map(|object| object.resource_version())
            .collect()
    }

    #[test]
    fn an_older_event_does_not_undo_a_write() {
        let cache = cache();
        cache.observe("", Event::Apply(object("a", "1", 5, "g")));
        cache.record_write(object("a", "1", 7, "g"));
        assert!(cache.observe("", Event::Apply(object("a", "1", 6, "g"))).is_empty());
        assert_eq!(versions(&cache, "g"), ["7"]);
        let echo = cache.observe("", Event::Apply(object("a", "1", 7, "g")));
        assert!(matches!(&echo[..], [CacheEvent::Echoed(_)]), "our own write comes back once");
        assert_eq!(cache.observe("", Event::Apply(object("a", "1", 8, "h"))).len(), 1);
        assert_eq!((versions(&cache, "g"), versions(&cache, "h")), (vec![], vec!["8".into()]));
    }

    #[test]
    fn a_late_answer_does_not_restore_a_deleted_object() {
        let cache = cache();
        cache.observe("", Event::Apply(object("a", "1", 5, "g")));
        assert_eq!(cache.observe("", Event::Delete(object("a", "1", 6, "g"))).len(), 1);
        cache.record_write(object("a", "1", 6, "g"));
        assert!(versions(&cache, "g").is_empty());
        cache.record_write(object("a", "2", 9, "g"));
        assert_eq!(versions(&cache, "g"), ["9"], "a new object of the same name is another one");
        assert!(cache.observe("", Event::Delete(object("a", "1", 8, "g"))).is_empty());
        assert_eq!(versions(&cache, "g"), ["9"], "and is not deleted with the old one");
    }

    #[test]
    fn metadata_that_repeats_the_object_is_not_stored() {
        let mut large = object("a", "1", 5, "g");
        large.metadata.managed_fields = Some(vec![ManagedFieldsEntry::default()]);
        let annotations = [(LAST_APPLIED, "{}"), ("groundswell.dev/hosts", "{}")];
        large.metadata.annotations =
            Some(annotations.map(|(name, value)| (name.into(), value.into())).into());
        let (watched, written) = (cache(), cache());
        watched.observe("", Event::Apply(large.clone()));
        written.record_write(large);
        for cache in [watched, written] {
            let stored = cache.get(&Key::new("ns", "a")).expect("an object");
            assert_eq!(stored.metadata.managed_fields, None);
            let annotations: Vec<&String> = stored.annotations().keys().collect();
            assert_eq!(annotations, ["groundswell.dev/hosts"]);
        }
    }

    #[test]
    fn an_object_that_a_write_does_not_find_is_removed_before_the_watch_event() {
        let cache = cache();
        cache.observe("", Event::Apply(object("a", "1", 5, "g")));
        cache.record_missing(&Key::new("ns", "a"));
        assert!(versions(&cache, "g").is_empty());
        assert!(cache.observe("", Event::Delete(object("a", "1", 6, "g"))).is_empty());
    }

    #[test]
    fn a_listing_removes_objects_that_it_does_not_show() {
        let cache = cache();
        cache.observe("", Event::Apply(object("a", "1", 5, "g")));
        cache.observe("", Event::Init);
        cache.observe("", Event::InitApply(object("b", "2", 6, "g")));
        cache.record_write(object("c", "3", 7, "h"));
        assert!(!cache.synced(&[String::new()]));
        let changes = cache.observe("", Event::InitDone);
        assert!(matches!(&changes[..], [CacheEvent::Deleted(gone)] if gone.name_any() == "a"));
        assert!(cache.synced(&[String::new()]));
        assert_eq!(versions(&cache, "g"), ["6"]);
        assert_eq!(versions(&cache, "h"), ["7"], "written while the listing ran");
    }
}
