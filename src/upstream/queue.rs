//! Which of the polls that are due run now. Pure: the time is an argument.
//!
//! A host has few polls at once and a rate, so that whoever follows tags of a host that never
//! responds waits for that host only. A namespace has a share of each host and of the whole, so
//! that no namespace, however many keys it polls, makes the others wait. Namespaces take turns.
//!
//! Whoever waits for the first value of a key does not wait for the repeats of others, and what is
//! followed does not wait for audits; but each [`PollClass`] has a part of the rate of a host.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

mod forecast;

/// How many parts what is free has, unless something else is said.
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
    /// Of one host. A namespace gets at most half of them, and one less than it has in total if
    /// that is more than one, so that no single host takes all that it has.
    pub per_host: usize,
    /// A namespace may take one part of what is free, of this many, so that there is always room
    /// for another one.
    pub free_parts: usize,
    /// How many polls of a host begin in a minute. It is asked once for each host.
    pub per_minute: Arc<dyn Fn(&str) -> u32 + Send + Sync>,
}

impl fmt::Debug for PollLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollLimits")
            .field("total", &self.total)
            .field("per_host", &self.per_host)
            .field("free_parts", &self.free_parts)
            .finish_non_exhaustive()
    }
}

impl PollLimits {
    /// Returns limits with the same rate for each host.
    #[must_use]
    pub fn of_each_host(total: usize, per_host: usize, per_minute: u32) -> Self {
        let per_minute = Arc::new(move |_: &str| per_minute);
        Self { total, per_host, free_parts: FREE_PARTS, per_minute }
    }

    fn per_namespace_of_host(&self) -> usize {
        self.per_host.div_ceil(2)
    }
}

/// What waits for a poll. While all classes wait at a host, two of seven polls are first ones, four
/// repeat what is followed, and one is an audit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PollClass {
    /// Something that is followed, and of which nothing is known yet.
    First,
    /// Something that is followed.
    Follow,
    /// The confirmation of what is known.
    Audit,
}

impl PollClass {
    const ALL: [Self; 3] = [Self::First, Self::Follow, Self::Audit];

    /// Returns what a poll costs: the part of a class is the smaller, the more it is.
    const fn cost(self) -> u64 {
        match self {
            Self::First => 2,
            Self::Follow => 1,
            Self::Audit => 4,
        }
    }
}

/// Where a poll waits or runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PollPlace {
    pub host: Arc<str>,
    pub namespace: Arc<str>,
    pub class: PollClass,
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
    hosts: HashMap<Arc<str>, HostQueue>,
    /// The hosts for which polls of several namespaces wait.
    shared: BTreeSet<HostTurn>,
    /// The hosts for which polls of one namespace wait, by that namespace. So its hosts, however
    /// many, cost nothing while it has its share.
    sole: HashMap<Arc<str>, BTreeSet<HostTurn>>,
    running: usize,
    /// How many polls run of each namespace, at all hosts together.
    running_of: HashMap<Arc<str>, usize>,
    /// Number of polls that have started.
    started: u64,
    /// When idle hosts were dropped.
    swept_at: Option<Instant>,
}

/// The number of the last poll that has started at a host, and the host: the one that has started
/// none for the longest time comes first.
type HostTurn = (u64, Arc<str>);

/// Where a host is listed for which polls wait.
#[derive(Clone, Debug)]
struct HostListing {
    /// The namespace of all of these polls, if it is one.
    sole: Option<Arc<str>>,
    turn: HostTurn,
}

#[derive(Debug)]
struct HostQueue {
    running: usize,
    running_of: HashMap<Arc<str>, usize>,
    /// The pause between two polls.
    pause: Duration,
    /// When the next poll would begin if they came evenly.
    next_at: Instant,
    /// Number of the last poll that has started.
    last_started: u64,
    lanes: BTreeMap<PollClass, Lane>,
    listed: Option<HostListing>,
}

/// The polls of one class that wait at a host, and whose turn it is.
#[derive(Debug, Default)]
struct Lane {
    /// What its polls have cost. The class that has spent the least comes first.
    spent: u64,
    turns: BTreeSet<Turn>,
    namespaces: HashMap<Arc<str>, WaitingPolls>,
}

/// When it is the turn of a namespace: the one that has started nothing for the longest time comes
/// first. One that had nothing to poll does not come before those that have waited meanwhile.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    last_started: u64,
    /// Since when its first poll is due.
    since: Instant,
    namespace: Arc<str>,
}

/// What waits of a namespace.
#[derive(Debug)]
struct WaitingPolls {
    polls: BTreeSet<DuePoll>,
    /// Number of the last poll that had started when it began to wait, or of its own last one since
    /// then.
    last_started: u64,
}

/// Whether a poll may start at a host.
enum Room {
    /// This one.
    Now(PollPlace),
    /// At this time.
    At(Instant),
    /// Not before another one ends.
    None,
}

impl HostQueue {
    fn new(pause: Duration, now: Instant, last_started: u64) -> Self {
        Self {
            running: 0,
            running_of: HashMap::new(),
            pause,
            next_at: now,
            last_started,
            lanes: PollClass::ALL.map(|class| (class, Lane::default())).into(),
            listed: None,
        }
    }

    /// Returns when the next poll may begin.
    fn ready_at(&self) -> Instant {
        self.next_at.checked_sub(MAX_BURST).unwrap_or(self.next_at)
    }

    fn note_start(&mut self, now: Instant) {
        self.next_at = self.next_at.max(now) + self.pause;
    }

    fn is_waiting(&self) -> bool {
        self.lanes.values().any(|lane| !lane.turns.is_empty())
    }

    /// Returns where this host is to be listed.
    fn listing(&self, host: &Arc<str>) -> Option<HostListing> {
        let mut waiting = self.lanes.values().flat_map(|lane| lane.namespaces.keys());
        let first = waiting.next()?;
        let sole = waiting.all(|namespace| namespace == first).then(|| Arc::clone(first));
        Some(HostListing { sole, turn: (self.last_started, Arc::clone(host)) })
    }

    /// Charges a class with a poll. What others have spent less was not asked for, or cannot start:
    /// it is not made up for later.
    fn charge(&mut self, class: PollClass) {
        let Some(spent) = self.lanes.get(&class).map(|lane| lane.spent) else { return };
        for lane in self.lanes.values_mut() {
            lane.spent = lane.spent.max(spent);
        }
        if let Some(lane) = self.lanes.get_mut(&class) {
            lane.spent += class.cost();
        }
    }

    fn waiting_of(&self, namespace: &str) -> usize {
        let of_lane = |lane: &Lane| Some(lane.namespaces.get(namespace)?.polls.len());
        self.lanes.values().filter_map(of_lane).sum()
    }
}

impl Lane {
    /// Adds a poll of a namespace. `started` is the number of the last poll that has started.
    fn add(&mut self, namespace: &Arc<str>, poll: DuePoll, started: u64) {
        self.namespaces
            .entry(Arc::clone(namespace))
            .or_insert_with(|| WaitingPolls { polls: BTreeSet::new(), last_started: started });
        self.change(namespace, |waiting| waiting.polls.insert(poll));
    }

    /// Changes what waits of a namespace, and its turn with it. Without a poll, it has none.
    fn change<T>(
        &mut self,
        namespace: &Arc<str>,
        change: impl FnOnce(&mut WaitingPolls) -> T,
    ) -> Option<T> {
        if let Some(turn) = self.turn_of(namespace) {
            self.turns.remove(&turn);
        }
        let changed = self.namespaces.get_mut(namespace).map(change);
        match self.turn_of(namespace) {
            Some(turn) => {
                self.turns.insert(turn);
            }
            None => {
                self.namespaces.remove(namespace);
            }
        }
        changed
    }

    fn turn_of(&self, namespace: &Arc<str>) -> Option<Turn> {
        let WaitingPolls { polls, last_started } = self.namespaces.get(namespace)?;
        let (since, _) = *polls.first()?;
        Some(Turn { last_started: *last_started, since, namespace: Arc::clone(namespace) })
    }
}

impl PollQueue {
    pub(super) fn new(limits: PollLimits) -> Self {
        Self {
            limits,
            hosts: HashMap::new(),
            shared: BTreeSet::new(),
            sole: HashMap::new(),
            running: 0,
            running_of: HashMap::new(),
            started: 0,
            swept_at: None,
        }
    }

    /// Adds a poll that is due. Of the namespaces that want it, it counts for the one that waits
    /// for the least, so that nobody delays the polls of others by wanting them as well.
    pub(super) fn add(
        &mut self,
        host: &str,
        namespaces: impl Iterator<Item = String>,
        class: PollClass,
        poll: DuePoll,
        now: Instant,
    ) -> PollPlace {
        let known = self.hosts.get(host);
        let load = |namespace: &String| {
            let waiting = known.map_or(0, |known| known.waiting_of(namespace));
            waiting + count_of(&self.running_of, namespace)
        };
        let namespace: Arc<str> = namespaces.min_by_key(load).unwrap_or_default().into();
        let host: Arc<str> = host.into();
        let (limits, started) = (&self.limits, self.started);
        let queue = self.hosts.entry(Arc::clone(&host)).or_insert_with(|| {
            let pause = Duration::from_mins(1) / (limits.per_minute)(&host).max(1);
            HostQueue::new(pause, now, started)
        });
        queue.lanes.entry(class).or_default().add(&namespace, poll, started);
        self.list(&host);
        PollPlace { host, namespace, class }
    }

    /// Removes a poll that has not started.
    pub(super) fn remove(&mut self, place: &PollPlace, poll: DuePoll) {
        let host = self.hosts.get_mut(&place.host);
        if let Some(lane) = host.and_then(|host| host.lanes.get_mut(&place.class)) {
            lane.change(&place.namespace, |waiting| waiting.polls.remove(&poll));
        }
        self.list(&place.host);
    }

    /// Lists a host again after a change of what waits for it.
    fn list(&mut self, host: &Arc<str>) {
        let Some(queue) = self.hosts.get_mut(host) else { return };
        let listing = queue.listing(host);
        if let Some(HostListing { sole, turn }) =
            std::mem::replace(&mut queue.listed, listing.clone())
        {
            match &sole {
                None => {
                    self.shared.remove(&turn);
                }
                Some(namespace) => {
                    let hosts = self.sole.get_mut(namespace);
                    if hosts.is_some_and(|hosts| hosts.remove(&turn) && hosts.is_empty()) {
                        self.sole.remove(namespace);
                    }
                }
            }
        }
        if let Some(HostListing { sole, turn }) = listing {
            match sole {
                None => self.shared.insert(turn),
                Some(namespace) => self.sole.entry(namespace).or_default().insert(turn),
            };
        }
    }

    /// Whether a poll is the next one of its namespace and its class, and may start once it is
    /// their turn.
    pub(super) fn is_next(&self, place: &PollPlace, poll: DuePoll) -> bool {
        let Some(queue) = self.hosts.get(&place.host) else { return false };
        let waiting = queue.lanes.get(&place.class);
        let waiting = waiting.and_then(|lane| lane.namespaces.get(&place.namespace));
        waiting.is_some_and(|waiting| waiting.polls.first() == Some(&poll))
            && self.has_share(queue, &place.namespace)
    }

    /// Notes that a poll has ended.
    pub(super) fn finish(&mut self, place: &PollPlace) {
        self.running = self.running.saturating_sub(1);
        count_down(&mut self.running_of, &place.namespace);
        if let Some(queue) = self.hosts.get_mut(&place.host) {
            queue.running = queue.running.saturating_sub(1);
            count_down(&mut queue.running_of, &place.namespace);
        }
    }

    /// Takes the polls that may start now. Those of the namespace that has started none at a host
    /// for the longest time come first. Also returns when the rate of a host lets the next one
    /// start.
    pub(super) fn start(&mut self, now: Instant) -> (Vec<StartedPoll>, Option<Instant>) {
        self.sweep(now);
        let mut started = Vec::new();
        let mut next = self.start_listed(None, now, &mut started);
        // Among these are the hosts for which polls of one namespace are left.
        let alone: Vec<_> = self.sole.keys().filter(|name| self.may_run(name)).cloned().collect();
        for namespace in alone {
            let at = self.start_listed(Some(&namespace), now, &mut started);
            next = next.into_iter().chain(at).min();
        }
        (started, next)
    }

    /// Starts polls at the hosts that are listed for several namespaces, or for this one. Returns
    /// when the rate of a host lets the next one start.
    fn start_listed(
        &mut self,
        sole: Option<&Arc<str>>,
        now: Instant,
        started: &mut Vec<StartedPoll>,
    ) -> Option<Instant> {
        let (mut next, mut after): (Option<Instant>, Option<HostTurn>) = (None, None);
        while self.running < self.limits.total && sole.is_none_or(|name| self.may_run(name)) {
            let Some(turn) = self.next_host(sole, after.as_ref()) else { break };
            match self.room(&turn.1, now) {
                // The host comes again, after the others.
                Room::Now(place) => started.extend(self.start_first(place, now)),
                Room::At(at) => {
                    next = Some(next.map_or(at, |next| next.min(at)));
                    after = Some(turn);
                }
                Room::None => after = Some(turn),
            }
        }
        next
    }

    fn next_host(&self, sole: Option<&Arc<str>>, after: Option<&HostTurn>) -> Option<HostTurn> {
        let hosts = match sole {
            None => &self.shared,
            Some(namespace) => self.sole.get(namespace)?,
        };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        hosts.range((from, Bound::Unbounded)).next().cloned()
    }

    /// Returns which poll may start at a host, or when one may.
    fn room(&self, host: &Arc<str>, now: Instant) -> Room {
        let has_room = |queue: &&HostQueue| {
            self.running < self.limits.total && queue.running < self.limits.per_host
        };
        let Some(queue) = self.hosts.get(host).filter(has_room) else { return Room::None };
        let next = |(class, lane): (&PollClass, &Lane)| {
            let turn = lane.turns.iter().find(|turn| self.has_share(queue, &turn.namespace))?;
            Some((lane.spent, *class, Arc::clone(&turn.namespace)))
        };
        match queue.lanes.iter().filter_map(next).min() {
            None => Room::None,
            Some(_) if queue.ready_at() > now => Room::At(queue.ready_at()),
            Some((_, class, namespace)) => {
                Room::Now(PollPlace { host: Arc::clone(host), namespace, class })
            }
        }
    }

    /// Returns how many polls of a namespace may run.
    fn share(&self) -> usize {
        let free = self.limits.total.saturating_sub(self.running);
        (free / self.limits.free_parts.max(1)).max(free.min(1))
    }

    /// Whether a namespace may have another poll at some host.
    fn may_run(&self, namespace: &str) -> bool {
        count_of(&self.running_of, namespace) < self.share()
    }

    /// Whether a namespace may have another poll at a host.
    fn has_share(&self, queue: &HostQueue, namespace: &str) -> bool {
        let (share, running) = (self.share(), count_of(&self.running_of, namespace));
        let at_host = count_of(&queue.running_of, namespace);
        // The last place is for a host that it has none of.
        running < share
            && at_host < self.limits.per_namespace_of_host()
            && (at_host == 0 || running + 1 < share)
    }

    /// Starts the poll of a place that is due the longest.
    fn start_first(&mut self, place: PollPlace, now: Instant) -> Option<StartedPoll> {
        let queue = self.hosts.get_mut(&place.host)?;
        let started = self.started + 1;
        let first = queue.lanes.get_mut(&place.class)?.change(&place.namespace, |waiting| {
            waiting.last_started = started;
            waiting.polls.pop_first()
        });
        let (_, number) = first.flatten()?;
        queue.charge(place.class);
        self.started = started;
        queue.last_started = started;
        queue.note_start(now);
        queue.running += 1;
        *queue.running_of.entry(Arc::clone(&place.namespace)).or_default() += 1;
        self.running += 1;
        *self.running_of.entry(Arc::clone(&place.namespace)).or_default() += 1;
        self.list(&place.host);
        Some(StartedPoll { number, place })
    }

    /// Forgets hosts without polls, once nothing depends on their rate any more.
    fn sweep(&mut self, now: Instant) {
        if self.swept_at.is_none_or(|at| now.duration_since(at) > SWEEP_INTERVAL) {
            self.swept_at = Some(now);
            self.hosts
                .retain(|_, host| host.is_waiting() || host.running > 0 || host.next_at > now);
        }
    }
}

fn count_of(counts: &HashMap<Arc<str>, usize>, namespace: &str) -> usize {
    counts.get(namespace).copied().unwrap_or(0)
}

fn count_down(counts: &mut HashMap<Arc<str>, usize>, namespace: &Arc<str>) {
    if let Some(count) = counts.get_mut(namespace) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(namespace);
        }
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
