//! Triggers of families that are not urgent: progress of builds that changes no decision, and
//! changes of statuses. Several of them cost one reconcile. No client is needed.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{self, Poll},
    time::Duration,
};

use tokio_util::time::{DelayQueue, delay_queue};

use crate::controller::object_cache::Key;

/// How long a trigger that is not urgent waits at most for a reconcile. A status shows what it is
/// about after five seconds at the earliest.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Families that are to be reconciled soon. A reconcile that starts before, for whatever reason,
/// sees what their triggers were about, and no other one follows.
#[derive(Debug, Default)]
pub struct DeferredTriggers {
    waiting: Mutex<Waiting>,
}

/// The families that wait, at most one entry each.
#[derive(Debug, Default)]
struct Waiting {
    queue: DelayQueue<Key>,
    entries: HashMap<Key, delay_queue::Key>,
}

impl DeferredTriggers {
    /// Adds a family that is to be reconciled soon. What waits already keeps its time.
    pub fn defer(&self, family: Key) {
        let Waiting { queue, entries } = &mut *self.lock();
        if !entries.contains_key(&family) {
            entries.insert(family.clone(), queue.insert(family, LONGEST_WAIT));
        }
    }

    /// Removes a family, because a reconcile of it reads the stores from now on.
    pub fn begin_reconcile(&self, family: &Key) {
        let Waiting { queue, entries } = &mut *self.lock();
        if let Some(entry) = entries.remove(family) {
            queue.remove(&entry);
        }
    }

    /// Returns the next family that has waited for long enough. Wakes the task when there is one.
    pub fn poll_due(&self, task: &mut task::Context<'_>) -> Poll<Key> {
        let Waiting { queue, entries } = &mut *self.lock();
        match queue.poll_expired(task) {
            Poll::Ready(Some(expired)) => {
                let family = expired.into_inner();
                entries.remove(&family);
                Poll::Ready(family)
            }
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, advance, timeout};

    use super::*;

    fn family(name: &str) -> Key {
        Key::new("ns", name)
    }

    async fn next(triggers: &DeferredTriggers) -> Option<String> {
        let due = poll_fn(|task| triggers.poll_due(task));
        timeout(2 * LONGEST_WAIT, due).await.ok().map(|family| family.name)
    }

    #[tokio::test(start_paused = true)]
    async fn many_triggers_of_a_family_are_due_once_after_the_first_has_waited() {
        let (triggers, start) = (DeferredTriggers::default(), Instant::now());
        triggers.defer(family("a"));
        advance(LONGEST_WAIT / 2).await;
        triggers.defer(family("a"));
        triggers.defer(family("b"));
        assert_eq!(next(&triggers).await.as_deref(), Some("a"));
        assert!(start.elapsed() < LONGEST_WAIT * 5 / 4, "the second has not prolonged it");
        assert_eq!(next(&triggers).await.as_deref(), Some("b"));
        assert_eq!(next(&triggers).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reconcile_that_begins_before_is_the_one() {
        let triggers = DeferredTriggers::default();
        triggers.defer(family("a"));
        triggers.begin_reconcile(&family("a"));
        assert_eq!(next(&triggers).await, None);
        triggers.defer(family("a"));
        assert_eq!(next(&triggers).await.as_deref(), Some("a"), "what comes later is another one");
    }

    #[tokio::test(start_paused = true)]
    async fn a_trigger_wakes_the_task_that_waits_already() {
        let triggers = DeferredTriggers::default();
        let waited = tokio::join!(next(&triggers), async { triggers.defer(family("a")) }).0;
        assert_eq!(waited.as_deref(), Some("a"));
    }
}
