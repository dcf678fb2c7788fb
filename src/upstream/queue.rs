//! Which of the polls that are due run now. Pure: the time is an argument.
//!
//! A host has few polls at once and a rate, so that whoever follows tags of a host that never
//! responds waits for that host only. A namespace has a share of each host and of the whole, so that
//! no namespace, however many keys it polls, makes the others wait.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

/// A namespace may take one part of what is free, so that there is always room for another one.
const FREE_PARTS: usize = 4;
/// For how long a host may make up for polls that it was not asked for.
const MAX_BURST: Duration = Duration::from_secs(1);

/// How often hosts without polls are dropped.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// How many polls run at once.
#[derive(Clone)]
pub struct PollLimits {
    /// Of all keys together.
    pub total: usize,
    /// Of one host. A namespace gets at most half of them.
    pub per_host: usize,
    /// How many polls of a host begin in a minute. It is asked once for each host.
    pub per_minute: Arc<dyn Fn(&str) -> u32 + Send + Sync>,
}

impl fmt::Debug for PollLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollLimits")
            .field("total", &self.total)
            .field("per_host", &self.per_host)
            .finish_non_exhaustive()
    }
}

impl PollLimits {
    /// Returns limits with the same rate for each host.
    #[must_use]
    pub fn of_each_host(total: usize, per_host: usize, per_minute: u32) -> Self {
        Self { total, per_host, per_minute: Arc::new(move |_| per_minute) }
    }

    fn per_namespace_of_host(&self) -> usize {
        self.per_host.div_ceil(2)
    }
}

/// Where a poll waits or runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PollPlace {
    pub host: String,
    pub namespace: String,
}

/// A poll that is due: since when, and the number of its key.
pub(super) type DuePoll = (Instant, u64);

/// A poll to start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StartedPoll {
    pub number: u64,
    pub place: PollPlace,
}

/// The polls that are due, and the number of those that run.
#[derive(Debug)]
pub(super) struct PollQueue {
    limits: PollLimits,
    hosts: HashMap<String, HostQueue>,
    running: usize,
    namespaces: HashMap<String, NamespaceLoad>,
    /// Number of polls that have started.
    started: u64,
    /// When idle hosts were dropped.
    swept_at: Option<Instant>,
}

/// What a namespace has at all hosts together.
#[derive(Debug, Default)]
struct NamespaceLoad {
    running: usize,
    /// The hosts for which polls of it wait.
    waiting: HashSet<String>,
}

#[derive(Debug)]
struct HostQueue {
    running: usize,
    /// The pause between two polls.
    pause: Duration,
    /// When the next poll would begin if they came evenly.
    next_at: Instant,
    namespaces: HashMap<String, NamespaceQueue>,
}

#[derive(Debug, Default)]
struct NamespaceQueue {
    running: usize,
    waiting: BTreeSet<DuePoll>,
    /// Number of the last poll that has started.
    last_started: u64,
}

impl HostQueue {
    /// Returns when the next poll may begin.
    fn ready_at(&self) -> Instant {
        self.next_at.checked_sub(MAX_BURST).unwrap_or(self.next_at)
    }

    fn note_start(&mut self, now: Instant) {
        self.next_at = self.next_at.max(now) + self.pause;
    }
}

impl PollQueue {
    pub(super) fn new(limits: PollLimits) -> Self {
        let (hosts, namespaces) = (HashMap::new(), HashMap::new());
        Self { limits, hosts, running: 0, namespaces, started: 0, swept_at: None }
    }

    /// Adds a poll that is due. Of the namespaces that want it, it counts for the one that waits
    /// for the least, so that nobody delays the polls of others by wanting them as well.
    pub(super) fn add(
        &mut self,
        host: String,
        namespaces: impl Iterator<Item = String>,
        poll: DuePoll,
        now: Instant,
    ) -> PollPlace {
        let known = self.hosts.get(&host);
        let load = |namespace: &String| {
            let of_host = known.and_then(|known| known.namespaces.get(namespace));
            let waiting = of_host.map_or(0, |queue| queue.waiting.len());
            waiting + self.namespaces.get(namespace).map_or(0, |load| load.running)
        };
        let namespace = namespaces.min_by_key(load).unwrap_or_default();
        let per_minute = &self.limits.per_minute;
        let queue = self.hosts.entry(host.clone()).or_insert_with(|| HostQueue {
            running: 0,
            pause: Duration::from_mins(1) / per_minute(&host).max(1),
            next_at: now,
            namespaces: HashMap::new(),
        });
        queue.namespaces.entry(namespace.clone()).or_default().waiting.insert(poll);
        self.namespaces.entry(namespace.clone()).or_default().waiting.insert(host.clone());
        PollPlace { host, namespace }
    }

    /// Removes a poll that has not started.
    pub(super) fn remove(&mut self, place: &PollPlace, poll: DuePoll) {
        let host = self.hosts.get_mut(&place.host);
        if let Some(queue) = host.and_then(|host| host.namespaces.get_mut(&place.namespace)) {
            queue.waiting.remove(&poll);
        }
        self.drop_idle(place);
    }

    /// Notes that a poll has ended.
    pub(super) fn finish(&mut self, place: &PollPlace) {
        self.running = self.running.saturating_sub(1);
        if let Some(load) = self.namespaces.get_mut(&place.namespace) {
            load.running = load.running.saturating_sub(1);
        }
        if let Some(host) = self.hosts.get_mut(&place.host) {
            host.running = host.running.saturating_sub(1);
            if let Some(queue) = host.namespaces.get_mut(&place.namespace) {
                queue.running = queue.running.saturating_sub(1);
            }
        }
        self.drop_idle(place);
    }

    /// Takes the polls that may start now. Those of the namespace that has started none at a host
    /// for the longest time come first. Also returns when the rate of a host lets the next one
    /// start.
    pub(super) fn start(&mut self, now: Instant) -> (Vec<StartedPoll>, Option<Instant>) {
        self.sweep(now);
        let mut places = self.waiting_places();
        let (mut started, mut next): (Vec<StartedPoll>, Option<Instant>) = (Vec::new(), None);
        while let Some((_, place)) = places.pop_first() {
            match self.room(&place, now) {
                Room::None => {}
                Room::At(at) => next = Some(next.map_or(at, |next| next.min(at))),
                Room::Now => {
                    let Some(number) = self.start_first(&place, now) else { continue };
                    if self.is_waiting(&place) {
                        places.insert((self.started, place.clone()));
                    }
                    started.push(StartedPoll { number, place });
                }
            }
        }
        (started, next)
    }

    /// Returns where polls of namespaces wait that may start one, in the order in which they are to
    /// start.
    fn waiting_places(&self) -> BTreeSet<(u64, PollPlace)> {
        let mut places = BTreeSet::new();
        for (namespace, load) in self.namespaces.iter().filter(|(_, load)| self.has_share(load)) {
            for host in &load.waiting {
                let queue = self.hosts.get(host).and_then(|host| host.namespaces.get(namespace));
                let place = PollPlace { host: host.clone(), namespace: namespace.clone() };
                places.insert((queue.map_or(0, |queue| queue.last_started), place));
            }
        }
        places
    }

    /// Whether a namespace may have another poll.
    fn has_share(&self, load: &NamespaceLoad) -> bool {
        let free = self.limits.total.saturating_sub(self.running);
        load.running < (free / FREE_PARTS).max(free.min(1))
    }

    /// Returns when another poll may start at this place.
    fn room(&self, place: &PollPlace, now: Instant) -> Room {
        let load = self.namespaces.get(&place.namespace).filter(|load| self.has_share(load));
        let Some((host, _)) = self.hosts.get(&place.host).zip(load) else { return Room::None };
        let running = host.namespaces.get(&place.namespace).map_or(0, |queue| queue.running);
        if host.running >= self.limits.per_host || running >= self.limits.per_namespace_of_host() {
            return Room::None;
        }
        Some(host.ready_at()).filter(|at| *at > now).map_or(Room::Now, Room::At)
    }

    fn is_waiting(&self, place: &PollPlace) -> bool {
        let host = self.hosts.get(&place.host);
        host.and_then(|host| host.namespaces.get(&place.namespace))
            .is_some_and(|queue| !queue.waiting.is_empty())
    }

    /// Starts the poll of a place that is due the longest, and returns its number.
    fn start_first(&mut self, place: &PollPlace, now: Instant) -> Option<u64> {
        let host = self.hosts.get_mut(&place.host)?;
        let queue = host.namespaces.get_mut(&place.namespace)?;
        let load = self.namespaces.get_mut(&place.namespace)?;
        let (_, number) = queue.waiting.pop_first()?;
        if queue.waiting.is_empty() {
            load.waiting.remove(&place.host);
        }
        self.started += 1;
        queue.last_started = self.started;
        queue.running += 1;
        load.running += 1;
        host.running += 1;
        host.note_start(now);
        self.running += 1;
        Some(number)
    }

    /// Forgets what neither waits nor runs at a place. The host itself has a rate to keep.
    fn drop_idle(&mut self, place: &PollPlace) {
        if let Some(host) = self.hosts.get_mut(&place.host)
            && let Some(queue) = host.namespaces.get(&place.namespace)
            && queue.waiting.is_empty()
        {
            if queue.running == 0 {
                host.namespaces.remove(&place.namespace);
            }
            if let Some(load) = self.namespaces.get_mut(&place.namespace) {
                load.waiting.remove(&place.host);
            }
        }
        let load = self.namespaces.get(&place.namespace);
        if load.is_some_and(|load| load.running == 0 && load.waiting.is_empty()) {
            self.namespaces.remove(&place.namespace);
        }
    }

    /// Forgets hosts without polls, once nothing depends on their rate any more.
    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_none_or(|at| now.duration_since(at) > SWEEP_INTERVAL) {
            self.swept_at = Some(now);
            self.hosts.retain(|_, host| !host.namespaces.is_empty() || host.next_at > now);
        }
    }
}

/// Whether a poll may start.
enum Room {
    Now,
    /// At this time, unless others start before.
    At(Instant),
    /// Not before another one ends.
    None,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(queue: &mut PollQueue, number: u64, host: &str, namespaces: &[&str]) -> PollPlace {
        let now = Instant::now();
        let namespaces = namespaces.iter().map(|name| (*name).to_owned());
        queue.add(host.to_owned(), namespaces, (now, number), now)
    }

    fn numbers(queue: &mut PollQueue) -> Vec<u64> {
        let (started, _) = queue.start(Instant::now());
        started.iter().map(|started| started.number).collect()
    }

    /// A queue without a rate.
    fn queue(total: usize, per_host: usize) -> PollQueue {
        PollQueue::new(PollLimits::of_each_host(total, per_host, u32::MAX))
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_gets_half_of_a_host_and_namespaces_take_turns() {
        let mut queue = queue(100, 4);
        let places: Vec<_> = (0..9).map(|number| add(&mut queue, number, "r", &["a"])).collect();
        assert_eq!(numbers(&mut queue), [0, 1], "half of the host");
        for number in 10..13 {
            add(&mut queue, number, "r", &["b"]);
        }
        assert_eq!(numbers(&mut queue), [10, 11], "the other half");
        queue.finish(&places[0]);
        assert_eq!(numbers(&mut queue), [2]);
        add(&mut queue, 20, "other", &["a"]);
        assert_eq!(numbers(&mut queue), [20], "another host");
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_always_room_for_one_more_namespace() {
        let mut queue = queue(16, 4);
        for namespace in 0..8_u64 {
            for host in 0..16 {
                let number = namespace * 100 + host;
                add(&mut queue, number, &format!("{namespace}-{host}"), &[&namespace.to_string()]);
            }
            assert!(!numbers(&mut queue).is_empty(), "namespace {namespace}");
        }
        assert!(queue.running < 16);
        add(&mut queue, 5000, "r", &["new"]);
        assert_eq!(numbers(&mut queue), [5000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_shared_key_counts_for_whoever_waits_for_the_least() {
        let mut queue = queue(100, 2);
        for number in 0..50 {
            add(&mut queue, number, "r", &["evil"]);
        }
        let place = add(&mut queue, 99, "r", &["evil", "good"]);
        assert_eq!(place.namespace, "good");
        assert_eq!(numbers(&mut queue), [0, 99]);
    }

    #[tokio::test(start_paused = true)]
    async fn polls_of_a_host_begin_at_its_rate() {
        let mut queue = PollQueue::new(PollLimits::of_each_host(1000, 1000, 600));
        for number in 0..100 {
            for namespace in ["a", "b", "c"] {
                add(&mut queue, number, "r", &[namespace]);
            }
        }
        let mut per_second = Vec::new();
        for _ in 0..12 {
            let second = Instant::now();
            let mut started = 0;
            while second.elapsed() < Duration::from_secs(1) {
                let (polls, next) = queue.start(Instant::now());
                polls.iter().for_each(|poll| queue.finish(&poll.place));
                started += polls.len();
                tokio::time::sleep_until(next.expect("more are waiting")).await;
            }
            per_second.push(started);
        }
        assert!(per_second[0] <= 21, "{per_second:?}");
        assert!(per_second[1..].iter().all(|started| (9..=11).contains(started)), "{per_second:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_wanted_any_more_leaves_nothing_behind() {
        let mut queue = queue(100, 2);
        let place = add(&mut queue, 1, "r", &["a"]);
        queue.remove(&place, (Instant::now(), 1));
        assert_eq!(numbers(&mut queue), [0_u64; 0]);
        let place = add(&mut queue, 2, "r", &["a"]);
        assert_eq!(numbers(&mut queue), [2]);
        queue.finish(&place);
        tokio::time::advance(SWEEP_INTERVAL * 2).await;
        assert_eq!(numbers(&mut queue), [0_u64; 0]);
        assert_eq!((queue.hosts.len(), queue.namespaces.len()), (0, 0));
    }
}
