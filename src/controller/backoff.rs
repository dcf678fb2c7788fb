//! How often the reconcile of an object has failed in a row, for a pause that grows. No client is
//! needed.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;

use crate::{backoff, controller::object_cache::Key};

/// The pause after the first failed reconcile.
const MIN_PAUSE: SignedDuration = SignedDuration::from_secs(1);
/// Upper bound on the pause.
const MAX_PAUSE: SignedDuration = SignedDuration::from_mins(2);

/// Failures in a row, per kind and object. They are forgotten on success and when the object is
/// deleted.
#[derive(Debug, Default)]
pub struct ReconcileBackoff(Mutex<HashMap<(&'static str, Key), u32>>);

impl ReconcileBackoff {
    /// Counts a failure, and returns how long to wait before the next try.
    pub fn count_failure(&self, kind: &'static str, key: Key) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seed = backoff::jitter_seed(&[&key.namespace, &key.name]);
        let count = failures.entry((kind, key)).or_default();
        *count = count.saturating_add(1);
        let seed = seed.wrapping_add((*count).into());
        backoff::pause(*count, MIN_PAUSE, MAX_PAUSE, seed).try_into().unwrap_or_default()
    }

    /// Forgets the failures of an object.
    pub fn forget(&self, kind: &'static str, key: &Key) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&(kind, key.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_one_name_in_two_namespaces_have_other_pauses() {
        let pause = |namespace: &str| {
            let failures = ReconcileBackoff::default();
            failures.count_failure("ImageFamily", Key::new(namespace, "family"))
        };
        assert_ne!(pause("team-a"), pause("team-b"));
    }

    #[test]
    fn pauses_grow_until_a_success() {
        let (failures, key) = (ReconcileBackoff::default(), Key::new("ns", "family"));
        let first = failures.count_failure("ImageFamily", key.clone());
        let later = (0..5)
            .map(|_| failures.count_failure("ImageFamily", key.clone()))
            .last()
            .expect("a pause");
        assert!(later > first * 8, "{first:?} {later:?}");
        failures.forget("ImageFamily", &key);
        assert_eq!(failures.count_failure("ImageFamily", key), first);
    }
}
