//! Objects of one kind as this process knows them: from the watch, and from its own writes,
//! whichever is newer.
//!
//! A pass reads nothing but caches. A watch lags behind our own writes, and a decision over a stale
//! status could repeat an effect; so every write is put here as well, and a watch event that is
//! older than it changes nothing.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, PoisonError, RwLock},
};

use kube::{Resource, ResourceExt, runtime::watcher::Event};

/// How many deleted objects are remembered, so that a late answer to a write does not bring one
/// back.
const TOMBSTONES: usize = 4096;

/// Namespace and name of an object; the namespace is empty for a cluster-scoped one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Key {
    /// The key of an object with this namespace and name.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of an object.
    #[must_use]
    pub fn of<K: Resource>(object: &K) -> Self {
        Self { namespace: object.namespace().unwrap_or_default(), name: object.name_any() }
    }
}

/// Objects of one kind, by key and by group. A group is what a pass asks for at once: the objects
/// of one family, for example.
#[derive(Debug)]
pub struct ObjectCache<K> {
    inner: RwLock<CachedObjects<K>>,
    group: fn(&K) -> Option<Key>,
}

#[derive(Debug)]
struct CachedObjects<K> {
    objects: HashMap<Key, Arc<K>>,
    groups: HashMap<Key, HashSet<Key>>,
    /// Listings under way, per scope.
    listing: HashMap<String, Listing>,
    tombstones: VecDeque<String>,
    synced: HashSet<String>,
}

/// A listing under way. What comes in by a write of ours while it runs is not in it, and is not
/// gone.
#[derive(Debug, Default)]
struct Listing {
    before: HashSet<Key>,
    shown: HashSet<Key>,
}

/// What an event of a watch says.
#[derive(Clone, Debug)]
pub enum CacheEvent<K> {
    /// The object is new or differs.
    Applied(Arc<K>),
    /// The object is as we have written it ourselves.
    Echoed(Arc<K>),
    /// The object is gone.
    Deleted(Arc<K>),
}

impl<K> CacheEvent<K> {
    /// The object, as it is or as it last was.
    #[must_use]
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Applied(object) | Self::Echoed(object) | Self::Deleted(object) => object,
        }
    }
}

impl<K> CacheEvent<K> {
    /// The object, if somebody else has changed it.
    #[must_use]
    pub fn news(&self) -> Option<Arc<K>> {
        match self {
            Self::Applied(object) | Self::Deleted(object) => Some(Arc::clone(object)),
            Self::Echoed(_) => None,
        }
    }
}

impl<K: Resource> ObjectCache<K> {
    /// An empty cache; `group` names the group of an object.
    #[must_use]
    pub fn new(group: fn(&K) -> Option<Key>) -> Self {
        let inner = CachedObjects {
            objects: HashMap::new(),
            groups: HashMap::new(),
            listing: HashMap::new(),
            tombstones: VecDeque::new(),
            synced: HashSet::new(),
        };
        Self { inner: RwLock::new(inner), group }
    }

    /// Takes in an event of the watch over `scope`: a namespace, or the empty string for all of
    /// them.
    pub fn observe(&self, scope: &str, event: Event<K>) -> Vec<CacheEvent<K>> {
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
                // A later object of the same name may be known already, from a write of ours.
                let same = inner.objects.get(&key).is_some_and(|known| known.uid() == object.uid());
                if same { inner.delete(&key, self.group).into_iter().collect() } else { Vec::new() }
            }
        }
    }

    /// Takes in the answer to a write of ours.
    pub fn wrote(&self, object: K) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if !object.uid().is_some_and(|uid| inner.tombstones.contains(&uid)) {
            inner.apply(object, self.group);
        }
    }

    /// Takes in that a write of ours was told that there is no object of this key.
    pub fn missed(&self, key: &Key) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).delete(key, self.group);
    }

    /// The object with this key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned()
    }

    /// The objects of a group, sorted by key.
    #[must_use]
    pub fn group(&self, group: &Key) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut keys: Vec<&Key> = inner.groups.get(group).into_iter().flatten().collect();
        keys.sort();
        keys.into_iter().filter_map(|key| inner.objects.get(key).cloned()).collect()
    }

    /// All objects, sorted by key.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<(&Key, &Arc<K>)> = inner.objects.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all.into_iter().map(|(_, object)| Arc::clone(object)).collect()
    }

    /// Whether the first listing of every one of these scopes has ended.
    #[must_use]
    pub fn synced(&self, scopes: &[String]) -> bool {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        scopes.iter().all(|scope| inner.synced.contains(scope))
    }
}

impl<K: Resource> CachedObjects<K> {
    fn apply(&mut self, object: K, group: fn(&K) -> Option<Key>) -> Option<CacheEvent<K>> {
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
            if let Some(after) = after {
                self.groups.entry(after).or_default().insert(key.clone());
            }
        }
        let object = Arc::new(object);
        self.objects.insert(key, Arc::clone(&object));
        Some(CacheEvent::Applied(object))
    }

    fn delete(&mut self, key: &Key, group: fn(&K) -> Option<Key>) -> Option<CacheEvent<K>> {
        let object = self.objects.remove(key)?;
        self.ungroup(group(&object).as_ref(), key);
        if let Some(uid) = object.uid() {
            self.tombstones.push_back(uid);
            if self.tombstones.len() > TOMBSTONES {
                self.tombstones.pop_front();
            }
        }
        Some(CacheEvent::Deleted(object))
    }

    fn ungroup(&mut self, group: Option<&Key>, key: &Key) {
        let Some(group) = group else { return };
        if let Some(keys) = self.groups.get_mut(group) {
            keys.remove(key);
            if keys.is_empty() {
                self.groups.remove(group);
            }
        }
    }
}

fn in_scope(key: &Key, scope: &str) -> bool {
    scope.is_empty() || key.namespace == scope
}

/// The resource version as a number; Kubernetes defines it to be comparable since 1.35, and etcd's
/// always was.
fn version<K: Resource>(object: &K) -> u64 {
    object.resource_version().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::ConfigMap;

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
        cache.wrote(object("a", "1", 7, "g"));
        assert!(cache.observe("", Event::Apply(object("a", "1", 6, "g"))).is_empty());
        assert_eq!(versions(&cache, "g"), ["7"]);
        let echo = cache.observe("", Event::Apply(object("a", "1", 7, "g")));
        assert!(
            matches!(&echo[..], [CacheEvent::Echoed(_)]),
            "what we wrote ourselves comes back once"
        );
        assert_eq!(cache.observe("", Event::Apply(object("a", "1", 8, "h"))).len(), 1);
        assert_eq!((versions(&cache, "g"), versions(&cache, "h")), (vec![], vec!["8".into()]));
    }

    #[test]
    fn a_late_answer_does_not_bring_a_deleted_object_back() {
        let cache = cache();
        cache.observe("", Event::Apply(object("a", "1", 5, "g")));
        assert_eq!(cache.observe("", Event::Delete(object("a", "1", 6, "g"))).len(), 1);
        cache.wrote(object("a", "1", 6, "g"));
        assert!(versions(&cache, "g").is_empty());
        cache.wrote(object("a", "2", 9, "g"));
        assert_eq!(versions(&cache, "g"), ["9"], "a new object of the same name is another one");
        assert!(cache.observe("", Event::Delete(object("a", "1", 8, "g"))).is_empty());
        assert_eq!(versions(&cache, "g"), ["9"], "and does not go with the old one");
    }

    #[test]
    fn what_a_write_does_not_find_is_gone_before_the_watch_says_so() {
        let cache = cache();
        cache.observe("", Event::Apply(object("a", "1", 5, "g")));
        cache.missed(&Key::new("ns", "a"));
        assert!(versions(&cache, "g").is_empty());
        assert!(cache.observe("", Event::Delete(object("a", "1", 6, "g"))).is_empty());
    }

    #[test]
    fn a_listing_removes_what_it_does_not_show() {
        let cache = cache();
        cache.observe("", Event::Apply(object("a", "1", 5, "g")));
        cache.observe("", Event::Init);
        cache.observe("", Event::InitApply(object("b", "2", 6, "g")));
        cache.wrote(object("c", "3", 7, "h"));
        assert!(!cache.synced(&[String::new()]));
        let changes = cache.observe("", Event::InitDone);
        assert!(matches!(&changes[..], [CacheEvent::Deleted(gone)] if gone.name_any() == "a"));
        assert!(cache.synced(&[String::new()]));
        assert_eq!(versions(&cache, "g"), ["6"]);
        assert_eq!(versions(&cache, "h"), ["7"], "written while the listing ran");
    }
}
