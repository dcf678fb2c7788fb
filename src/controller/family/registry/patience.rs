//! How long the lookups of one reconcile wait for a registry that is slow without being silent.
//!
//! A host that does not respond is left alone after a few requests, whoever asks. One that answers
//! each request at the last moment is not, so a family on it would keep its place among the
//! reconciles for as long as it has images to look up. What is not asked now is asked in the next
//! reconcile.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::{api::condition::Reason, engine::Problem, registry::turns};

/// Upper bound on the time of one lookup, with all of its requests. What they wait for their turn
/// at a host does not count: a registry that many reconciles ask at once is not slow.
const MAX_LOOKUP_TIME: Duration = Duration::from_secs(30);
/// Number of lookups at a registry that may take too long before the others are put off.
const MAX_SLOW_LOOKUPS: usize = 4;

/// The registries that were too slow in this reconcile.
#[derive(Debug, Default)]
pub struct Patience(Mutex<HashMap<String, usize>>);

impl Patience {
    /// Returns the answer of a registry, or that it takes too long.
    pub async fn ask<T>(
        &self,
        registry: &str,
        lookup: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        if self.slow(registry) >= MAX_SLOW_LOOKUPS {
            return Err(too_slow(registry, "did not answer other lookups in time"));
        }
        if let Some(answer) = turns::within(MAX_LOOKUP_TIME, lookup).await {
            return answer;
        }
        *self.lock().entry(registry.to_owned()).or_default() += 1;
        let seconds = MAX_LOOKUP_TIME.as_secs();
        Err(too_slow(registry, &format!("did not answer a lookup within {seconds} s")))
    }

    fn slow(&self, registry: &str) -> usize {
        self.lock().get(registry).copied().unwrap_or(0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn too_slow(registry: &str, problem: &str) -> Problem {
    let message = format!("{registry} {problem}; the lookup is repeated later");
    Problem { reason: Reason::RegistryUnavailable, message }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt, stream};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_registry_is_bounded_however_many_lookups_there_are() {
        let patience = Patience::default();
        let began = Instant::now();
        let lookups = (0..1000).map(|_| {
            let slow = tokio::time::sleep(Duration::from_secs(59));
            patience.ask("slow.test", async move {
                slow.await;
                Ok(())
            })
        });
        let answers: Vec<_> = stream::iter(lookups).buffer_unordered(8).collect().await;
        assert!(answers.iter().all(Result::is_err));
        assert!(began.elapsed() <= MAX_LOOKUP_TIME, "{:?}", began.elapsed());
        let answer = patience.ask("other.test", async { Ok(5) }).await;
        assert_eq!(answer, Ok(5), "another registry is asked");
    }

    #[tokio::test(start_paused = true)]
    async fn many_lookups_that_are_answered_are_never_put_off() {
        let patience = Patience::default();
        for number in 0..100 {
            let lookup = async {
                tokio::time::sleep(Duration::from_secs(20)).await;
                Ok(number)
            };
            assert_eq!(patience.ask("r.test", lookup).await, Ok(number));
        }
    }
}
