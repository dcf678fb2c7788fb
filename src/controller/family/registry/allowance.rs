//! How long the steps of one reconcile ask registries.
//!
//! A registry that answers slowly, however often, would hold a reconcile for as long as its family
//! has images. What is not asked now is asked in the next reconcile, which comes at once, after
//! those of others that wait.

use std::{iter, time::Duration};

use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::controller::family::registry::MAX_CONCURRENT_REQUESTS;

/// The time after which a reconcile asks registries for nothing else. What it has asked for is
/// awaited.
const MAX_REGISTRY_TIME: Duration = Duration::from_mins(1);

/// The time for registries that is left to a reconcile.
#[derive(Debug)]
pub struct RegistryAllowance {
    ends_at: Instant,
}

impl RegistryAllowance {
    /// Returns the allowance of a reconcile that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self { ends_at: Instant::now() + MAX_REGISTRY_TIME }
    }

    /// Whether registries may still be asked.
    #[must_use]
    pub fn is_left(&self) -> bool {
        Instant::now() < self.ends_at
    }

    /// Carries out calls, a few at once, and returns the results of those that the allowance was
    /// left for.
    pub async fn run<F: Future>(&self, calls: impl IntoIterator<Item = F>) -> Vec<F::Output> {
        let mut calls = calls.into_iter();
        let begun = iter::from_fn(|| if self.is_left() { calls.next() } else { None });
        stream::iter(begun).buffer_unordered(MAX_CONCURRENT_REQUESTS).collect().await
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_registry_that_answers_slowly_holds_a_reconcile_for_a_minute() {
        let allowance = RegistryAllowance::begin();
        let began = Instant::now();
        let call = |number: usize| async move {
            sleep(Duration::from_secs(25)).await;
            number
        };
        let answers = allowance.run((0..1000).map(call)).await;
        assert_eq!(answers.len(), 3 * MAX_CONCURRENT_REQUESTS);
        assert_eq!(began.elapsed(), Duration::from_secs(75), "what has begun is awaited");
        assert!(!allowance.is_left());
        assert_eq!(allowance.run((0..5).map(call)).await, Vec::<usize>::new());
        let next = RegistryAllowance::begin();
        assert_eq!(next.run((0..5).map(call)).await.len(), 5);
        assert!(next.is_left());
    }
}
