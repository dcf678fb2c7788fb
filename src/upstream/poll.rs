//! Asking at intervals: one poll per distinct key, however many owners are interested, spread over
//! time.
//!
//! Generic over what is asked: tags of images and revisions of sources are polled alike. An answer
//! is kept as the last polled of its key; owners are told when it changes, as a set, so that a
//! storm of changes wakes each of them once.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher, Hash},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use futures::{Stream, future::BoxFuture, stream};
use indexmap::{IndexMap, IndexSet};
use jiff::Timestamp;
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    api::condition::{Problem, reason},
    clock::Clock,
};

/// How many polls run at once.
const MAX_CONCURRENT_POLLS: usize = 64;
/// The poll_timeout pause after failures, as a multiple of the interval.
const MAX_BACKOFF_FACTOR: u32 = 8;
/// The poll_timeout sleep while there is nothing to poll.
const MAX_IDLE_SLEEP: Duration = Duration::from_hours(1);

/// What an owner wants to be asked, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interest<K> {
    /// What to ask.
    pub key: K,
    /// How often.
    pub interval: Duration,
}

/// The last that was seen of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolledValue<V> {
    /// The last good answer.
    pub value: Option<V>,
    /// When this value was first seen by this process.
    pub first_seen: Timestamp,
    /// Why the last poll failed, if it did.
    pub problem: Option<Problem>,
    /// When the last poll began.
    pub polled_at: Timestamp,
}

type Fetch<K, V> = Box<
    dyn Fn(K, Option<Arc<PolledValue<V>>>) -> BoxFuture<'static, Result<V, Problem>> + Send + Sync,
>;

/// Polls keys of type `K` for values of type `V` on behalf of owners of type `O`. Ends when it is
/// dropped.
pub struct Poller<K, V, O>(Arc<Shared<K, V, O>>);

struct Shared<K, V, O> {
    fetch: Fetch<K, V>,
    poll_timeout: Duration,
    clock: Clock,
    state: Mutex<PollerState<K, V, O>>,
    /// Rung when something becomes due due_earlier than was planned.
    due_earlier: Notify,
    /// Rung when an owner is to be told.
    changes_ready: Notify,
    permits: Arc<Semaphore>,
}

struct PollerState<K, V, O> {
    entries: HashMap<K, PollEntry<V, O>>,
    owners: HashMap<O, HashSet<K>>,
    /// Keys by the time at which they are due; the number is the entry's own.
    due: BTreeSet<(Instant, u64)>,
    numbers: HashMap<u64, K>,
    next_number: u64,
    /// In the order in which they are told.
    changed: IndexSet<O>,
}

struct PollEntry<V, O> {
    number: u64,
    /// Interested owners, each with its interval.
    owners: IndexMap<O, Duration>,
    polled: Option<Arc<PolledValue<V>>>,
    failures: u32,
    /// How often it was asked for.
    polls: u64,
    /// When it is due; `None` while a poll runs.
    at: Option<Instant>,
    last: Option<Instant>,
}

impl<V, O> PollEntry<V, O> {
    fn interval(&self) -> Duration {
        self.owners.values().min().copied().unwrap_or(MAX_IDLE_SLEEP)
    }
}

impl<K, V, O> Poller<K, V, O>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    V: Clone + PartialEq + Send + Sync + 'static,
    O: Clone + Eq + Hash + Send + Sync + 'static,
{
    /// Starts polling. `fetch` asks for one key, and is given what was last seen of it; it may take
    /// at most `poll_timeout`.
    pub fn start<F>(
        poll_timeout: Duration,
        clock: Clock,
        fetch: impl Fn(K, Option<Arc<PolledValue<V>>>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<V, Problem>> + Send + 'static,
    {
        let state = PollerState {
            entries: HashMap::new(),
            owners: HashMap::new(),
            due: BTreeSet::new(),
            numbers: HashMap::new(),
            next_number: 0,
            changed: IndexSet::new(),
        };
        let shared = Arc::new(Shared {
            fetch: Box::new(move |key, last| Box::pin(fetch(key, last))),
            poll_timeout,
            clock,
            state: Mutex::new(state),
            due_earlier: Notify::new(),
            changes_ready: Notify::new(),
            permits: Arc::new(Semaphore::new(MAX_CONCURRENT_POLLS)),
        });
        tokio::spawn(run_polls(Arc::downgrade(&shared)));
        Self(shared)
    }

    /// Replaces what an owner is interested in. A key that is new is asked for at once.
    pub fn set_interests(&self, owner: &O, interests: Vec<Interest<K>>) {
        let mut wanted: IndexMap<K, Duration> = IndexMap::new();
        for Interest { key, interval } in interests {
            wanted
                .entry(key)
                .and_modify(|shortest| *shortest = interval.min(*shortest))
                .or_insert(interval);
        }
        let mut state = self.0.lock();
        let unwanted = state.owners.remove(owner).unwrap_or_default();
        for key in unwanted.iter().filter(|key| !wanted.contains_key(*key)) {
            state.unsubscribe(key, owner);
        }
        let mut due_earlier = false;
        for (key, interval) in &wanted {
            due_earlier |= state.subscribe(key, owner, *interval);
        }
        if !wanted.is_empty() {
            state.owners.insert(owner.clone(), wanted.into_keys().collect());
        }
        if due_earlier {
            self.0.due_earlier.notify_one();
        }
    }

    /// Forgets an owner.
    pub fn remove(&self, owner: &O) {
        self.set_interests(owner, Vec::new());
        self.0.lock().changed.shift_remove(owner);
    }

    /// What was last seen of a key; `None` before its first poll has ended.
    #[must_use]
    pub fn latest(&self, key: &K) -> Option<Arc<PolledValue<V>>> {
        self.0.lock().entries.get(key)?.polled.clone()
    }

    /// Owners of keys whose value, or whose fault, has changed. For one listener.
    pub fn changes(&self) -> impl Stream<Item = O> + Send + use<K, V, O> {
        let shared = Arc::clone(&self.0);
        stream::unfold(shared, |shared| async {
            loop {
                let next = shared.lock().changed.shift_remove_index(0);
                if let Some(owner) = next {
                    return Some((owner, shared));
                }
                // It keeps a permit: a change between the look and the wait is not missed.
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
    /// Adds an owner to a key. Whether something is due due_earlier than before.
    fn subscribe(&mut self, key: &K, owner: &O, interval: Duration) -> bool {
        let now = Instant::now();
        if let Some(entry) = self.entries.get_mut(key) {
            entry.owners.insert(owner.clone(), interval);
            let sooner = entry.last.map_or(now, |last| last + entry.interval());
            let number = entry.number;
            return match entry.at {
                Some(at) if sooner < at && entry.failures == 0 => {
                    self.due.remove(&(at, number));
                    self.due.insert((sooner, number));
                    entry.at = Some(sooner);
                    true
                }
                _ => false,
            };
        }
        let number = self.next_number;
        self.next_number += 1;
        let owners = IndexMap::from([(owner.clone(), interval)]);
        let entry = PollEntry {
            number,
            owners,
            polled: None,
            failures: 0,
            polls: 0,
            at: Some(now),
            last: None,
        };
        self.entries.insert(key.clone(), entry);
        self.numbers.insert(number, key.clone());
        self.due.insert((now, number));
        true
    }

    /// Takes an owner from a key, and forgets a key that nobody is interested in.
    fn unsubscribe(&mut self, key: &K, owner: &O) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.owners.swap_remove(owner);
        if entry.owners.is_empty()
            && let Some(entry) = self.entries.remove(key)
        {
            self.numbers.remove(&entry.number);
            if let Some(at) = entry.at {
                self.due.remove(&(at, entry.number));
            }
        }
    }

    /// Takes the keys that are due, and says when the next one is.
    fn take_due(&mut self, now: Instant) -> (Vec<K>, Instant) {
        let mut keys = Vec::new();
        while let Some(&(at, number)) = self.due.first().filter(|(at, _)| *at <= now) {
            self.due.remove(&(at, number));
            if let Some(key) = self.numbers.get(&number) {
                if let Some(entry) = self.entries.get_mut(key) {
                    entry.at = None;
                    entry.last = Some(now);
                }
                keys.push(key.clone());
            }
        }
        (keys, self.due.first().map_or(now + MAX_IDLE_SLEEP, |(at, _)| *at))
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
        let (due, next) = shared.lock().take_due(Instant::now());
        for key in due {
            // It never closes; a poll without a permit would only be one too many.
            let permit = Arc::clone(&shared.permits).acquire_owned().await.ok();
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                poll_key(&shared, key).await;
                drop(permit);
            });
        }
        tokio::select! {
            biased;
            () = shared.due_earlier.notified() => {}
            () = sleep_until(next) => {}
        }
    }
}

async fn poll_key<K, V, O>(shared: &Shared<K, V, O>, key: K)
where
    K: Clone + Eq + Hash,
    V: Clone + PartialEq,
    O: Clone + Eq + Hash,
{
    let polled_at = shared.clock.now();
    let last = shared.lock().entries.get(&key).and_then(|entry| entry.polled.clone());
    let answer = timeout(shared.poll_timeout, (shared.fetch)(key.clone(), last))
        .await
        .unwrap_or_else(|_| {
            let message = format!("no answer within {} s", shared.poll_timeout.as_secs());
            Err(Problem { reason: reason::REGISTRY_UNAVAILABLE, message })
        });

    let mut state = shared.lock();
    let state = &mut *state;
    let Some(entry) = state.entries.get_mut(&key) else { return };
    let before = entry.polled.as_deref();
    let polled = match answer {
        Ok(value) => {
            entry.failures = 0;
            let same = before.filter(|before| before.value.as_ref() == Some(&value));
            let first_seen = same.map_or(polled_at, |before| before.first_seen);
            PolledValue { value: Some(value), first_seen, problem: None, polled_at }
        }
        Err(problem) => {
            entry.failures = entry.failures.saturating_add(1);
            let first_seen = before.map_or(polled_at, |before| before.first_seen);
            let value = before.and_then(|before| before.value.clone());
            PolledValue { value, first_seen, problem: Some(problem), polled_at }
        }
    };
    let told = before
        .is_none_or(|before| before.value != polled.value || before.problem != polled.problem);
    entry.polled = Some(Arc::new(polled));
    entry.polls = entry.polls.wrapping_add(1);
    let spread =
        BuildHasherDefault::<DefaultHasher>::default().hash_one((entry.number, entry.polls));
    let at = Instant::now() + pause(entry.interval(), entry.failures, spread);
    entry.at = Some(at);
    state.due.insert((at, entry.number));
    if told {
        state.changed.extend(entry.owners.keys().cloned());
        shared.changes_ready.notify_one();
    }
    // The new time may be the earliest of all.
    shared.due_earlier.notify_one();
}

/// The pause until the next poll: 90 % to 110 % of the interval as `spread` says, doubled by each
/// failure in a row up to eight times.
fn pause(interval: Duration, failures: u32, spread: u64) -> Duration {
    let factor = 1_u32
        .checked_shl(failures.saturating_sub(1))
        .unwrap_or(MAX_BACKOFF_FACTOR)
        .clamp(1, MAX_BACKOFF_FACTOR);
    let spread = u32::try_from(spread % 201).unwrap_or(100);
    interval * factor * (900 + spread) / 1000
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::StreamExt;

    use super::*;

    struct ScriptedServer {
        polls: AtomicUsize,
        answer: Mutex<Result<u32, Problem>>,
    }

    fn start() -> (Arc<ScriptedServer>, Poller<&'static str, u32, &'static str>) {
        let server =
            Arc::new(ScriptedServer { polls: AtomicUsize::new(0), answer: Mutex::new(Ok(1)) });
        let asked = Arc::clone(&server);
        let poller = Poller::start(
            Duration::from_secs(5),
            Clock::new(|| Timestamp::UNIX_EPOCH),
            move |key: &'static str, _| {
                let asked = Arc::clone(&asked);
                async move {
                    asked.polls.fetch_add(1, Ordering::SeqCst);
                    if key == "silent" {
                        std::future::pending::<()>().await;
                    }
                    asked.answer.lock().expect("answer").clone()
                }
            },
        );
        (server, poller)
    }

    fn every(key: &'static str, seconds: u64) -> Vec<Interest<&'static str>> {
        vec![Interest { key, interval: Duration::from_secs(seconds) }]
    }

    #[tokio::test(start_paused = true)]
    async fn owners_share_one_poll_at_the_shortest_interval() {
        let (server, poller) = start();
        let mut changes = Box::pin(poller.changes());
        poller.set_interests(&"a", every("key", 60));
        poller.set_interests(&"b", every("key", 10));
        let mut told = [changes.next().await, changes.next().await];
        told.sort_unstable();
        assert_eq!(told, [Some("a"), Some("b")]);
        tokio::time::sleep(Duration::from_secs(100)).await;
        let polls = server.polls.load(Ordering::SeqCst);
        assert!((9..=12).contains(&polls), "{polls} polls in 100 s at an interval of 10 s");
        poller.remove(&"b");
        tokio::time::sleep(Duration::from_secs(12)).await;
        let before = server.polls.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_mins(2)).await;
        assert!(server.polls.load(Ordering::SeqCst) - before <= 3);
        poller.remove(&"a");
        assert_eq!(poller.latest(&"key"), None, "a key that nobody wants is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn only_changes_are_told_and_the_last_good_value_stays() {
        let (server, poller) = start();
        let mut changes = Box::pin(poller.changes());
        poller.set_interests(&"a", every("key", 10));
        assert_eq!(changes.next().await, Some("a"));
        assert!(
            timeout(Duration::from_mins(1), changes.next()).await.is_err(),
            "nothing has \
            changed"
        );
        *server.answer.lock().expect("answer") =
            Err(Problem { reason: reason::REGISTRY_UNAVAILABLE, message: "away".into() });
        assert_eq!(changes.next().await, Some("a"));
        let polled = poller.latest(&"key").expect("a polled");
        assert_eq!((polled.value, polled.problem.is_some()), (Some(1), true));
        let before = server.polls.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert!(server.polls.load(Ordering::SeqCst) - before < 10, "failures slow it down");
        *server.answer.lock().expect("answer") = Ok(2);
        assert_eq!(changes.next().await, Some("a"));
        assert_eq!(poller.latest(&"key").expect("a polled").value, Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_server_is_not_waited_for() {
        let (_, poller) = start();
        let mut changes = Box::pin(poller.changes());
        poller.set_interests(&"a", every("silent", 10));
        assert_eq!(changes.next().await, Some("a"));
        let problem = poller.latest(&"silent").expect("a polled").problem.clone().expect("a fault");
        assert!(problem.message.contains("within 5 s"), "{}", problem.message);
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_that_changes_its_mind_leaves_no_key_behind() {
        let (_, poller) = start();
        poller.set_interests(&"a", every("one", 10));
        poller.set_interests(&"a", every("two", 10));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(poller.latest(&"one"), None);
        assert!(poller.latest(&"two").is_some());
        let state = poller.0.lock();
        assert_eq!((state.entries.len(), state.numbers.len(), state.due.len()), (1, 1, 1));
    }
}
