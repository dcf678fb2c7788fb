//! The `ResourceQuota`s of the cluster, as far as families wait for them: when those of a namespace
//! have changed, and which families wait there. No client is needed.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;

use crate::controller::object_cache::Key;

/// Families that wait for a quota, and the changes of quotas. Each pod of a namespace changes its
/// quotas, so a change wakes a family only once per rejection.
#[derive(Debug, Default)]
pub struct QuotaChanges(Mutex<KnownQuotas>);

#[derive(Debug, Default)]
struct KnownQuotas {
    /// When a quota of each namespace was last observed to change. Namespaces without quotas are
    /// not here.
    changed: HashMap<String, Timestamp>,
    /// The families whose Jobs wait and that no change has woken since.
    waiting: BTreeSet<Key>,
}

impl QuotaChanges {
    /// Notes that a quota of the namespace has changed. Returns the families to wake.
    pub fn note_change(&self, namespace: &str, now: Timestamp) -> Vec<Key> {
        let mut known = self.lock();
        known.changed.insert(namespace.into(), now);
        let first = Key::new(namespace, "");
        let here = known.waiting.range(first..).take_while(|key| key.namespace == namespace);
        let woken: Vec<Key> = here.cloned().collect();
        for family in &woken {
            known.waiting.remove(family);
        }
        woken
    }

    /// Returns when a quota of the namespace was last observed to change.
    #[must_use]
    pub fn changed_at(&self, namespace: &str) -> Option<Timestamp> {
        self.lock().changed.get(namespace).copied()
    }

    /// Notes whether a family waits for a quota, and since when. Returns whether a quota has
    /// changed since, so that the family need not wait.
    pub fn note_waiting(&self, family: &Key, since: Option<Timestamp>) -> bool {
        let mut known = self.lock();
        let changed = known.changed.get(&family.namespace).copied();
        let (is_waiting, is_over) =
            since.map_or((false, false), |since| (true, changed.is_some_and(|at| at >= since)));
        if is_waiting && !is_over {
            known.waiting.insert(family.clone());
        } else {
            known.waiting.remove(family);
        }
        is_over
    }

    /// Forgets a deleted family.
    pub fn forget(&self, family: &Key) {
        self.lock().waiting.remove(family);
    }

    fn lock(&self) -> MutexGuard<'_, KnownQuotas> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn a_change_wakes_the_families_of_the_namespace_that_wait_once() {
        let quotas = QuotaChanges::default();
        let (app, base, other) = (Key::new("a", "app"), Key::new("a", "base"), Key::new("b", "x"));
        for family in [&app, &base, &other] {
            assert!(!quotas.note_waiting(family, Some(at(1))));
        }
        assert!(!quotas.note_waiting(&Key::new("a", "idle"), None));
        assert_eq!(quotas.note_change("a", at(2)), [app.clone(), base.clone()]);
        assert_eq!(quotas.note_change("a", at(3)), [], "nothing was rejected since");
        assert_eq!(quotas.changed_at("a"), Some(at(3)));
        assert_eq!(quotas.changed_at("b"), None);
        assert!(!quotas.note_waiting(&app, Some(at(4))));
        assert!(!quotas.note_waiting(&base, Some(at(4))));
        assert!(!quotas.note_waiting(&base, None), "it was admitted");
        assert_eq!(quotas.note_change("a", at(5)), [app]);
        quotas.forget(&other);
        assert_eq!(quotas.note_change("b", at(6)), []);
    }

    #[test]
    fn a_change_between_a_rejection_and_its_note_is_not_lost() {
        let quotas = QuotaChanges::default();
        let app = Key::new("a", "app");
        assert_eq!(quotas.note_change("a", at(5)), []);
        assert!(quotas.note_waiting(&app, Some(at(5))));
        assert!(!quotas.note_waiting(&app, Some(at(6))));
        assert_eq!(quotas.note_change("a", at(7)), [app]);
    }
}
