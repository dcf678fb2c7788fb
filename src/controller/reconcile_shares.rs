//! Shares the reconciles that run at once between namespaces: a reconcile waits for registries, so
//! that a namespace with many families on slow ones would hold every place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A namespace may take one part of the places that are free.
const FREE_PARTS: usize = 2;
/// The shortest pause until a reconcile is retried that got no place.
const MIN_RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How far apart the retries of a namespace are, so that the pause grows with their number.
const RETRY_SPACING: Duration = Duration::from_millis(5);
/// Upper bound on the pause until a reconcile is retried that got no place.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(30);

/// The number of reconciles that run, by namespace.
#[derive(Debug)]
pub struct ReconcileShares {
    places: usize,
    running: Mutex<HashMap<String, usize>>,
    /// When the last retry of a namespace is.
    retries: Mutex<HashMap<String, Instant>>,
}

/// A reconcile that runs. Its place is free again when this is dropped.
#[derive(Debug)]
pub struct ReconcilePlace {
    shares: Arc<ReconcileShares>,
    namespace: String,
}

impl ReconcileShares {
    /// Shares this many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { places, running: Mutex::default(), retries: Mutex::default() }
    }

    /// Returns a place for a reconcile of an object of this namespace, unless the namespace has its
    /// share: half of the places that are free.
    pub fn take(self: &Arc<Self>, namespace: &str) -> Option<ReconcilePlace> {
        let mut running = self.lock();
        let free = self.places.saturating_sub(running.values().sum());
        let own = running.get(namespace).copied().unwrap_or(0);
        if own >= (free / FREE_PARTS).max(free.min(1)) {
            return None;
        }
        *running.entry(namespace.to_owned()).or_default() += 1;
        drop(running);
        Some(ReconcilePlace { shares: Arc::clone(self), namespace: namespace.to_owned() })
    }

    /// Returns after which pause a reconcile is retried that got no place.
    pub fn retry_pause(&self, namespace: &str) -> Duration {
        let now = Instant::now();
        let (first, last) = (now + MIN_RETRY_PAUSE, now + MAX_RETRY_PAUSE);
        let mut retries = self.retries.lock().unwrap_or_else(PoisonError::into_inner);
        retries.retain(|_, retry_at| *retry_at > now);
        let next = retries.get(namespace).map_or(first, |retry_at| *retry_at + RETRY_SPACING);
        let retry_at = next.clamp(first, last);
        retries.insert(namespace.to_owned(), retry_at);
        retry_at - now
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ReconcilePlace {
    fn drop(&mut self) {
        let mut running = self.shares.lock();
        if let Some(own) = running.get_mut(&self.namespace) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                running.remove(&self.namespace);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_never_takes_all_places() {
        let shares = Arc::new(ReconcileShares::new(40));
        let take_all = |namespace: &str| -> Vec<ReconcilePlace> {
            std::iter::from_fn(|| shares.take(namespace)).collect()
        };
        let evil = take_all("evil");
        assert_eq!(evil.len(), 13, "alone it takes a third");
        let others: Vec<_> = (0..5).map(|number| take_all(&format!("evil{number}"))).collect();
        assert!(others.iter().all(|taken| !taken.is_empty()));
        assert!(shares.take("calm").is_some(), "there is room for one more");
        drop((evil, others));
        assert_eq!(take_all("calm").len(), 13);
        assert!(shares.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn many_reconciles_without_a_place_are_retried_a_few_at_a_time() {
        let shares = ReconcileShares::new(40);
        let mut pauses: Vec<_> = (0..5000).map(|_| shares.retry_pause("a")).collect();
        pauses.sort_unstable();
        assert_eq!(pauses[0], MIN_RETRY_PAUSE);
        assert!(pauses.windows(200).all(|some| some[199] >= some[0] + RETRY_SPACING * 199));
        assert!(pauses[4999] <= MAX_RETRY_PAUSE);
        assert_eq!(shares.retry_pause("b"), MIN_RETRY_PAUSE, "another namespace");
        tokio::time::advance(MAX_RETRY_PAUSE).await;
        assert_eq!(shares.retry_pause("a"), MIN_RETRY_PAUSE);
    }
}
