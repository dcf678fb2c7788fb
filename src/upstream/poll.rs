//! Polling at intervals: one poll per distinct key, shared by all interested owners, and spread
//! over time.
//!
//! The poller is generic over what is polled: tags of images and revisions of sources are polled
//! the same way. The latest result is kept per key. Owners are notified when it changes. Pending
//! notifications form a set, so that a burst of changes wakes each owner once. What is due waits in
//! a [`PollQueue`], which shares the polls that run between hosts and namespaces.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::{Stream, TryFutureExt, future::BoxFuture, stream};
use indexmap::{IndexMap, IndexSet};
use jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    api::condition::{Problem, Reason},
    clock::Clock,
    upstream::{
        entry::{Interest, OwnerInterest, PollBasis, PollEntry, QueuedPoll, Recorded},
        polled::{PollFailure, PolledValue},
        queue::{DuePoll, PollLimits, PollPlace, PollQueue, StartedPoll},
    },
};

mod lateness;

use lateness::whole_second;

/// Upper bound on the sleep while no poll is due.
const MAX_IDLE_SLEEP: Duration = Duration::from_hours(1);

/// The least time between two polls of a key that hints ask for.
const MIN_HINT_INTERVAL: Duration = Duration::from_secs(1);

/// How a [`Poller`] polls.
pub struct PollSettings<K, O> {
    /// A poll that takes longer fails. The time counts from when it starts, and not from when it is
    /// due.
    pub timeout: Duration,
    /// How many polls run at once.
    pub limits: PollLimits,
    /// Returns the host of a key.
    pub host_of: fn(&K) -> String,
    /// Returns the namespace of an owner.
    pub namespace_of: fn(&O) -> String,
}

type Fetch<K, V> = Box<
    dyn Fn(K, Option<Arc<PolledValue<V>>>) -> BoxFuture<'static, Result<V, PollFailure>>
        + Send
        + Sync,
>;

/// Polls keys of type `K` for values of type `V` on behalf of owners of type `O`. Polling ends when
/// it is dropped.
pub struct Poller<K, V, O>(Arc<Shared<K, V, O>>);

struct Shared<K, V, O> {
    fetch: Fetch<K, V>,
    settings: PollSettings<K, O>,
    clock: Clock,
    state: Mutex<PollerState<K, V, O>>,
    /// Notified when a poll becomes due earlier than the loop expects.
    due_earlier: Notify,
    /// Notified when an owner is added to `changed`.
    changes_ready: Notify,
}

struct PollerState<K, V, O> {
    entries: HashMap<K, PollEntry<V, O>>,
    owners: HashMap<O, HashSet<K>>,
    /// Due times, each with the number of its entry.
    due: BTreeSet<DuePoll>,
    /// What is due, and not started yet.
    queue: PollQueue,
    numbers: HashMap<u64, K>,
    next_number: u64,
    /// Owners to notify, in order.
    changed: IndexSet<O>,
    /// Values of earlier processes, for keys that are about to be polled for the first time.
    seeds: HashMap<K, V>,
}

impl<K, V, O> Poller<K, V, O>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + PartialEq + Send + Sync + 'static,
    O: Clone + Eq + Hash + Send + Sync + 'static,
{
    /// Starts polling. `fetch` polls one key and receives the latest result of that key.
    pub fn start<F, E>(
        settings: PollSettings<K, O>,
        clock: Clock,
        fetch: impl Fn(K, Option<Arc<PolledValue<V>>>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<V, E>> + Send + 'static,
        E: Into<PollFailure> + 'static,
    {
        let state = PollerState {
            entries: HashMap::new(),
            owners: HashMap::new(),
            due: BTreeSet::new(),
            queue: PollQueue::new(settings.limits.clone()),
            numbers: HashMap::new(),
            next_number: 0,
            changed: IndexSet::new(),
            seeds: HashMap::new(),
        };
        let shared = Arc::new(Shared {
            fetch: Box::new(move |key, last| Box::pin(fetch(key, last).map_err(Into::into))),
            settings,
            clock,
            state: Mutex::new(state),
            due_earlier: Notify::new(),
            changes_ready: Notify::new(),
        });
        tokio::spawn(run_polls(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// Replaces the interests of an owner. A new key is polled immediately.
    pub fn set_interests(&self, owner: &O, interests: Vec<Interest<K>>) {
        self.set_seeded_interests(owner, interests, HashMap::new());
    }

    /// Replaces the interests of an owner. A new key is polled immediately. `seeds` are the
    /// values that an earlier process has recorded; the first poll of a key relies on them.
    pub fn set_seeded_interests(
        &self,
        owner: &O,
        interests: Vec<Interest<K>>,
        seeds: HashMap<K, V>,
    ) {
        let mut wanted: IndexMap<K, OwnerInterest> = IndexMap::new();
        for Interest { key, interval, purpose } in interests {
            let interest = OwnerInterest { interval, purpose };
            let all = wanted.entry(key).or_insert(interest);
            *all = all.and(interest);
        }
        let mut state = self.0.lock();
        state.seeds = seeds;
        let known = state.owners.remove(owner).unwrap_or_default();
        for key in known.iter().filter(|key| !wanted.contains_key(*key)) {
            state.unsubscribe(&self.0.settings, key, owner);
        }
        let mut due_earlier = false;
        for (key, interest) in &wanted {
            due_earlier |= state.subscribe(&self.0.settings, key, owner, *interest);
        }
        state.seeds.clear();
        if !wanted.is_empty() {
            state.owners.insert(owner.clone(), wanted.into_keys().collect());
        }
        if due_earlier {
            self.0.due_earlier.notify_one();
        }
    }

    /// Polls a key again as soon as possible, without relying on its last value. A poll that fails
    /// is retried as any other.
    pub fn reread(&self, key: &K) {
        let mut state = self.0.lock();
        let PollerState { entries, due, .. } = &mut *state;
        let Some(entry) = entries.get_mut(key).filter(|entry| !entry.is_outdated) else { return };
        entry.is_outdated = true;
        let now = Instant::now();
        if let Some(at) = entry.due_at.filter(|at| *at > now) {
            due.remove(&(at, entry.number));
            due.insert((now, entry.number));
            entry.due_at = Some(now);
            self.0.due_earlier.notify_one();
        }
    }

    /// Polls these keys as soon as the limits allow, and returns how many there are. A key is
    /// polled at most once per [`MIN_HINT_INTERVAL`] this way.
    pub fn hasten(&self, is_hinted: impl Fn(&K) -> bool) -> usize {
        let mut state = self.0.lock();
        let now = Instant::now();
        let PollerState { entries, due, .. } = &mut *state;
        let hinted = entries.iter_mut().filter(|(key, _)| is_hinted(key));
        let mut count = 0;
        for (_, entry) in hinted {
            count += 1;
            let at = entry.last_poll.map_or(now, |last| now.max(last + MIN_HINT_INTERVAL));
            match entry.due_at {
                Some(due_at) if at < due_at => {
                    due.remove(&(due_at, entry.number));
                    due.insert((at, entry.number));
                    entry.due_at = Some(at);
                    entry.late_until = None;
                }
                // It may have read the tag before it moved.
                None if entry.queued.is_none() => entry.is_hinted = true,
                // It starts later than the hint anyway.
                Some(_) | None => {}
            }
        }
        self.0.due_earlier.notify_one();
        count
    }

    /// Removes an owner with all its interests.
    pub fn remove(&self, owner: &O) {
        self.set_interests(owner, Vec::new());
        self.0.lock().changed.shift_remove(owner);
    }

    /// Returns the latest result of a key, or `None` before its first poll has completed.
    #[must_use]
    pub fn latest(&self, key: &K) -> Option<Arc<PolledValue<V>>> {
        self.0.lock().entries.get(key)?.polled.clone()
    }

    /// Returns the owners of keys whose value or problem has changed, or whose next poll is late
    /// and the last one was not. The stream has a single
    /// consumer.
    pub fn changes(&self) -> impl Stream<Item = O> + Send + use<K, V, O> {
        let shared = Arc::clone(&self.0);
        stream::unfold(shared, |shared| async {
            loop {
                let next = shared.lock().changed.shift_remove_index(0);
                if let Some(owner) = next {
                    return Some((owner, shared));
                }
                // `Notify` stores a permit, so a change between the check and the wait is not
                // missed.
                shared.changes_ready.notified().await;
            }
        })
    }
}

impl<K, V, O> Shared<K, V, O> {
    fn lock(&self) -> MutexGuard<'_, PollerState<K, V, O>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash, V, O: Clone + Eq + Hash> PollerState<K, V, O> {
    /// Adds an owner to a key. Returns whether a poll may start earlier than before.
    fn subscribe(
        &mut self,
        settings: &PollSettings<K, O>,
        key: &K,
        owner: &O,
        interest: OwnerInterest,
    ) -> bool {
        let now = Instant::now();
        if let Some(entry) = self.entries.get_mut(key) {
            let is_new = entry.owners.insert(owner.clone(), interest).is_none();
            if let Some(queued) = &entry.queued {
                return (is_new || queued.place.class != entry.class())
                    && self.queue_again(settings, key, now);
            }
            let sooner = entry.last_poll.map_or(now, |last| last + entry.interval());
            let number = entry.number;
            return match entry.due_at {
                Some(at) if sooner < at && entry.failures == 0 => {
                    self.due.remove(&(at, number));
                    self.due.insert((sooner, number));
                    entry.due_at = Some(sooner);
                    true
                }
                _ => false,
            };
        }
        let number = self.next_number;
        self.next_number += 1;
        let owners = IndexMap::from([(owner.clone(), interest)]);
        let entry = PollEntry {
            number,
            owners,
            polled: None,
            seed: self.seeds.remove(key),
            is_outdated: false,
            is_hinted: false,
            failures: 0,
            polls: 0,
            due_at: Some(now),
            queued: None,
            last_poll: None,
            waited: Duration::ZERO,
            late_until: None,
        };
        self.entries.insert(key.clone(), entry);
        self.numbers.insert(number, key.clone());
        self.due.insert((now, number));
        true
    }

    /// Removes an owner from a key, and removes the key if no owner is interested in it any more.
    fn unsubscribe(&mut self, settings: &PollSettings<K, O>, key: &K, owner: &O) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.owners.swap_remove(owner);
        if !entry.owners.is_empty() {
            self.queue_again(settings, key, Instant::now());
        } else if let Some(entry) = self.entries.remove(key) {
            self.numbers.remove(&entry.number);
            if let Some(at) = entry.due_at {
                self.due.remove(&(at, entry.number));
            }
            if let Some(QueuedPoll { place, since }) = entry.queued {
                self.queue.remove(&place, (since, entry.number));
            }
        }
    }

    /// Lets a key be polled again after its interval if nothing else does.
    fn ensure_repeat(&mut self, number: u64) {
        let key = self.numbers.get(&number);
        let entry = key.and_then(|key| self.entries.get_mut(key));
        if let Some(entry) = entry.filter(|entry| entry.due_at.is_none() && entry.queued.is_none())
        {
            let due_at = Instant::now() + entry.interval();
            entry.due_at = Some(due_at);
            self.due.insert((due_at, number));
        }
    }

    /// Lets a poll that waits, and whose owners have changed, wait where it may start earlier: not
    /// in the queue of a namespace that wants it no more, nor behind the other polls of one.
    /// Returns whether its place has changed.
    fn queue_again(&mut self, settings: &PollSettings<K, O>, key: &K, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(key) else { return false };
        let Some(QueuedPoll { place, since }) = &entry.queued else { return false };
        let (poll, class) = ((*since, entry.number), entry.class());
        let namespaces = entry.namespaces(settings.namespace_of);
        let is_wanted = place.class == class && namespaces.contains(&*place.namespace);
        if is_wanted && self.queue.is_next(place, poll) {
            return false;
        }
        self.queue.remove(place, poll);
        let host = (settings.host_of)(key);
        let place = self.queue.add(&host, namespaces.into_iter(), class, poll, now);
        entry.queued = Some(QueuedPoll { place, since: poll.0 });
        true
    }

    /// Queues what is due, and takes what may start. Returns it with the time of the next start.
    fn start_due(
        &mut self,
        settings: &PollSettings<K, O>,
        wall: Timestamp,
        now: Instant,
    ) -> (Vec<StartedPoll>, Instant) {
        let mut queued = Vec::new();
        while let Some(&poll) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&poll);
            let (since, number) = poll;
            let key = self.numbers.get(&number);
            let Some(entry) = key.and_then(|key| self.entries.get_mut(key)) else { continue };
            let host = key.map(settings.host_of).unwrap_or_default();
            let namespaces = entry.namespaces(settings.namespace_of);
            let class = entry.class();
            let place = self.queue.add(&host, namespaces.into_iter(), class, poll, now);
            entry.due_at = None;
            entry.queued = Some(QueuedPoll { place, since });
            queued.push(number);
        }
        let (started, next) = self.queue.start(now);
        for StartedPoll { number, .. } in &started {
            let key = self.numbers.get(number);
            if let Some(entry) = key.and_then(|key| self.entries.get_mut(key)) {
                if let Some(queued) = entry.queued.take() {
                    entry.waited += now.duration_since(queued.since);
                }
                entry.last_poll = Some(now);
            }
        }
        for number in queued {
            self.note_wait(number, wall, now);
        }
        let due = self.due.first().map_or(now + MAX_IDLE_SLEEP, |(at, _)| *at);
        (started, next.map_or(due, |next| next.min(due)))
    }
}

/// A poll that runs. Its end gives its place to the next one, and it is repeated, even if it
/// panics.
struct RunningPoll<K: Clone + Eq + Hash, V, O: Clone + Eq + Hash> {
    shared: Arc<Shared<K, V, O>>,
    number: u64,
    place: PollPlace,
}

impl<K: Clone + Eq + Hash, V, O: Clone + Eq + Hash> Drop for RunningPoll<K, V, O> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.queue.finish(&self.place);
        state.ensure_repeat(self.number);
        drop(state);
        // The next poll may start, and that of this key may be the first that is due.
        self.shared.due_earlier.notify_one();
    }
}

/// Starts polls as they become due, until the poller is dropped.
async fn run_polls<K, V, O>(poller: Weak<Shared<K, V, O>>)
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + PartialEq + Send + Sync + 'static,
    O: Clone + Eq + Hash + Send + Sync + 'static,
{
    while let Some(shared) = poller.upgrade() {
        let (started, next) = {
            let mut state = shared.lock();
            let due = state.start_due(&shared.settings, shared.clock.now(), Instant::now());
            if !state.changed.is_empty() {
                shared.changes_ready.notify_one();
            }
            due
        };
        for StartedPoll { number, place } in started {
            let running = RunningPoll { shared: Arc::clone(&shared), number, place };
            tokio::spawn(async move { poll_entry(&running.shared, number).await });
        }
        tokio::select! {
            biased;
            () = shared.due_earlier.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

/// Polls the key of an entry, records the result and schedules the next poll.
async fn poll_entry<K, V, O>(shared: &Shared<K, V, O>, number: u64)
where
    K: Clone + Eq + Hash,
    V: Clone + PartialEq,
    O: Clone + Eq + Hash,
{
    let polled_at = shared.clock.now();
    let Some(key) = shared.lock().numbers.get(&number).cloned() else { return };
    let last = shared.lock().entries.get(&key).and_then(|entry| entry.last(polled_at));
    // What is asked for while the poll runs is left to the next one.
    let basis = if last.is_some() { PollBasis::LastValue } else { PollBasis::Nothing };
    let result = timeout(shared.settings.timeout, (shared.fetch)(key.clone(), last))
        .await
        .unwrap_or_else(|_| {
            let message = format!(
                "the poll did not complete within {} s; it is retried later",
                shared.settings.timeout.as_secs()
            );
            Err(Problem { reason: Reason::RegistryUnavailable, message }.into())
        });

    let mut state = shared.lock();
    let state = &mut *state;
    // The key may be a new one by now, which has a poll of its own.
    let entry = state.entries.get_mut(&key).filter(|entry| entry.number == number);
    let Some(entry) = entry else { return };
    let Recorded { changed, pause } = entry.record(result, polled_at, basis);
    let hinted = std::mem::take(&mut entry.is_hinted).then_some(MIN_HINT_INTERVAL);
    let pause = hinted.map_or(pause, |hinted| hinted.min(pause));
    let due_at = Instant::now() + pause;
    entry.due_at = Some(due_at);
    state.due.insert((due_at, entry.number));
    if entry.failures > 0 {
        // The problem is known, so that this wakes nobody.
        let expected_at = whole_second(shared.clock.now(), pause);
        entry.note_expected(expected_at, entry.lateness_of(pause));
    }
    if changed {
        state.changed.extend(entry.owners.keys().cloned());
        shared.changes_ready.notify_one();
    }
}

#[cfg(test)]
#[path = "poll_tests.rs"]
mod tests;
