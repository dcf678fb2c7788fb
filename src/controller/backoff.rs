//! How often a pass over an object has failed in a row, for a pause that grows.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::SignedDuration;

use crate::{backoff, controller::object_cache::Key};

/// First pause after a failed pass.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(2);

/// Failures in a row, per kind and object. Forgotten on success and when the object goes.
#[derive(Debug, Default)]
pub struct ReconcileBackoff(Mutex<HashMap<(&'static str, Key), u32>>);

impl ReconcileBackoff {
    /// Counts a failure, and says how long to wait before the next try.
    pub fn failed(&self, kind: &'static str, key: Key) -> Duration {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let seed = key
            .name
            .bytes()
            .fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
        let count = failures.entry((kind, key)).or_default();
        *count = count.saturating_add(1);
        let seed = seed.wrapping_add((*count).into());
        backoff::pause(*count, FIRST_PAUSE, LONGEST_PAUSE, seed).try_into().unwrap_or_default()
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
    fn pauses_grow_until_a_success() {
        let (failures, key) = (ReconcileBackoff::default(), Key::new("ns", "family"));
        let first = failures.failed("ImageFamily", key.clone());
        let later =
            (0..5).map(|_| failures.failed("ImageFamily", key.clone())).last().expect("a pause");
        assert!(later > first * 8, "{first:?} {later:?}");
        failures.forget("ImageFamily", &key);
        assert_eq!(failures.failed("ImageFamily", key), first);
    }
}
