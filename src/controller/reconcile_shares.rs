//! Shares the reconciles that run at once between namespaces: a reconcile waits for registries, so
//! that a namespace with many families on slow ones would hold every place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// A namespace may take one part of the places that are free.
const FREE_PARTS: usize = 2;

/// The number of reconciles that run, by namespace.
#[derive(Debug)]
pub struct ReconcileShares {
    places: usize,
    running: Mutex<HashMap<String, usize>>,
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
        Self { places, running: Mutex::default() }
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
}
