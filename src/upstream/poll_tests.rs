use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::upstream::{PollPurpose, pause::next_pause};

struct ScriptedServer {
    polls: AtomicUsize,
    result: Mutex<Result<u32, Problem>>,
}

/// Settings for keys and owners such as `host/key` and `namespace/owner`.
fn settings(timeout: Duration) -> PollSettings<&'static str, &'static str> {
    PollSettings { timeout, limits: tag_limits(), host_of: first_part, namespace_of: first_part }
}

fn first_part(name: &&'static str) -> String {
    name.split('/').next().unwrap_or_default().to_owned()
}

fn start() -> (Arc<ScriptedServer>, Poller<&'static str, u32, &'static str>) {
    let server = Arc::new(ScriptedServer { polls: AtomicUsize::new(0), result: Mutex::new(Ok(1)) });
    let polled = Arc::clone(&server);
    let poller = Poller::start(
        settings(Duration::from_secs(5)),
        Clock::new(|| Timestamp::UNIX_EPOCH),
        move |key: &'static str, _| {
            let polled = Arc::clone(&polled);
            async move {
                polled.polls.fetch_add(1, Ordering::SeqCst);
                if key == "silent" {
                    std::future::pending::<()>().await;
                }
                polled.result.lock().expect("lock").clone()
            }
        },
    );
    (server, poller)
}

fn every(key: &'static str, seconds: u64) -> Vec<Interest<&'static str>> {
    let interval = Duration::from_secs(seconds);
    vec![Interest { key, interval, purpose: PollPurpose::Follow }]
}

#[tokio::test(start_paused = true)]
async fn the_first_poll_relies_on_a_seed_until_that_is_not_enough() {
    let relied_on = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&relied_on);
    let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
    let settings = settings(Duration::from_secs(5));
    let poller = Poller::start(settings, clock, move |_: &'static str, last| {
        let value = last.and_then(|last: Arc<PolledValue<u32>>| last.value);
        asked.lock().expect("lock").push(value);
        let polls = asked.lock().expect("lock").len();
        let problem = Problem { reason: Reason::RegistryUnavailable, message: "down".into() };
        let result = if [1, 4].contains(&polls) { Err(problem) } else { Ok(value.unwrap_or(9)) };
        async move { result }
    });
    let mut changes = Box::pin(poller.changes());
    poller.set_seeded_interests(&"a", every("key", 60), HashMap::from([("key", 7)]));
    for _ in 0..2 {
        assert_eq!(changes.next().await, Some("a"));
    }
    assert_eq!(poller.latest(&"key").expect("polled").value, Some(7));
    assert_eq!(*relied_on.lock().expect("lock"), [Some(7), Some(7)], "a failure keeps the seed");
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(relied_on.lock().expect("lock").len(), 3);
    for _ in 0..5 {
        poller.reread(&"key");
    }
    assert_eq!(changes.next().await, Some("a"), "the poll has failed");
    assert_eq!(changes.next().await, Some("a"));
    assert_eq!(poller.latest(&"key").expect("polled").value, Some(9));
    assert_eq!(relied_on.lock().expect("lock")[3..], [None, None]);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(relied_on.lock().expect("lock")[5], Some(9));
}

#[tokio::test(start_paused = true)]
async fn a_hint_makes_a_poll_due_and_a_flood_of_them_one_per_second() {
    let (server, poller) = start();
    let mut changes = Box::pin(poller.changes());
    poller.set_interests(&"a", every("key", 3600));
    assert_eq!(changes.next().await, Some("a"));
    let polls = || server.polls.load(Ordering::SeqCst);
    assert_eq!(poller.hasten(|key| *key == "another"), 0);
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(polls(), 1);
    assert_eq!(poller.hasten(|key| *key == "key"), 1);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(polls(), 2);
    for _ in 0..100 {
        poller.hasten(|_| true);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let flooded = polls();
    assert!((11..=13).contains(&flooded), "{flooded} polls after 10 s of hints");
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert!(polls() <= flooded + 1, "the interval applies again");
}

#[tokio::test(start_paused = true)]
async fn owners_share_one_poll_at_the_shortest_interval() {
    let (server, poller) = start();
    let mut changes = Box::pin(poller.changes());
    poller.set_interests(&"a", every("key", 60));
    poller.set_interests(&"b", every("key", 10));
    let mut notified = [changes.next().await, changes.next().await];
    notified.sort_unstable();
    assert_eq!(notified, [Some("a"), Some("b")]);
    tokio::time::sleep(Duration::from_secs(100)).await;
    let polls = server.polls.load(Ordering::SeqCst);
    assert!((9..=12).contains(&polls), "{polls} polls in 100 s at an interval of 10 s");
    poller.remove(&"b");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let before = server.polls.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert!(server.polls.load(Ordering::SeqCst) - before <= 3);
    poller.remove(&"a");
    assert_eq!(poller.latest(&"key"), None, "a key without owners is removed");
}

#[tokio::test(start_paused = true)]
async fn owners_are_notified_of_changes_only_and_the_last_value_is_kept() {
    let (server, poller) = start();
    let mut changes = Box::pin(poller.changes());
    poller.set_interests(&"a", every("key", 10));
    assert_eq!(changes.next().await, Some("a"));
    assert!(timeout(Duration::from_mins(1), changes.next()).await.is_err(), "nothing has changed");
    *server.result.lock().expect("lock") =
        Err(Problem { reason: Reason::RegistryUnavailable, message: "unreachable".into() });
    assert_eq!(changes.next().await, Some("a"));
    let polled = poller.latest(&"key").expect("a result");
    assert_eq!((polled.value, polled.problem.is_some()), (Some(1), true));
    let before = server.polls.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert!(server.polls.load(Ordering::SeqCst) - before < 10, "failures increase the pause");
    *server.result.lock().expect("lock") = Ok(2);
    assert_eq!(changes.next().await, Some("a"));
    assert_eq!(poller.latest(&"key").expect("a result").value, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_poll_without_a_response_times_out() {
    let (_, poller) = start();
    let mut changes = Box::pin(poller.changes());
    poller.set_interests(&"a", every("silent", 10));
    assert_eq!(changes.next().await, Some("a"));
    let problem = poller.latest(&"silent").expect("a result").problem.clone().expect("a problem");
    assert!(problem.message.contains("within 5 s"), "{}", problem.message);
}

#[tokio::test(start_paused = true)]
async fn replaced_interests_leave_no_key_behind() {
    let (_, poller) = start();
    poller.set_interests(&"a", every("one", 10));
    poller.set_interests(&"a", every("two", 10));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(poller.latest(&"one"), None);
    assert!(poller.latest(&"two").is_some());
    let state = poller.0.lock();
    assert_eq!((state.entries.len(), state.numbers.len(), state.due.len()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_waits_for_one_namespace_does_not_delay_another_one() {
    let poller = start_slowly(Arc::default());
    poller.set_interests(&"evil/family", numbered(0..600, PollPurpose::Follow));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(poller.latest(&599), None, "it waits in the queue of its namespace");
    poller.set_interests(&"team/family", numbered(599..600, PollPurpose::Follow));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(poller.latest(&599).is_some());
    // It is in the queue of the team, and leaves it with it.
    poller.set_interests(&"team/family", numbered(500..590, PollPurpose::Follow));
    poller.set_interests(&"team/family", Vec::new());
    poller.set_interests(&"other/family", numbered(590..599, PollPurpose::Follow));
    tokio::time::sleep(Duration::from_secs(22)).await;
    assert!((590..599).all(|key| poller.latest(&key).is_some()), "they are shared by two");
    let state = poller.0.lock();
    let owned = |entry: &PollEntry<u32, &'static str>| {
        let place = entry.queued.as_ref().map(|queued| &*queued.place.namespace);
        place.is_none_or(|place| entry.owners.keys().any(|owner| first_part(owner) == place))
    };
    assert!(state.entries.values().all(owned), "no key waits for a namespace without interest");
}

/// How often a tag is polled whose interval is a minute, within 6 hours, next to silent ones.
struct PolledNextTo {
    /// Keys of another namespace that never answer, with an interval of 5 seconds.
    silent: usize,
    /// At how many hosts.
    hosts: usize,
    limits: PollLimits,
}

/// The limits of tags.
fn tag_limits() -> PollLimits {
    PollLimits::of_each_host(256, 4, 1200)
}

/// The limits of Git, where each poll needs a process.
fn git_limits() -> PollLimits {
    PollLimits { free_parts: 2, ..PollLimits::of_each_host(12, 4, 600) }
}

/// When polls of the tag have begun.
async fn polls_next_to(PolledNextTo { silent, hosts, limits }: PolledNextTo) -> Vec<Duration> {
    let polls: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let polled = Arc::clone(&polls);
    let began = Instant::now();
    let settings = PollSettings {
        timeout: Duration::from_mins(1),
        limits,
        host_of: |key: &String| key.split('/').next().unwrap_or_default().to_owned(),
        namespace_of: first_part,
    };
    let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
    let poller = Poller::start(settings, clock, move |key: String, _| {
        let polled = Arc::clone(&polled);
        async move {
            if key != "well/tag" {
                return std::future::pending::<Result<u32, Problem>>().await;
            }
            polled.lock().expect("lock").push(began.elapsed());
            Ok(1)
        }
    });
    let interest = |key: String, seconds| {
        let interval = Duration::from_secs(seconds);
        Interest { key, interval, purpose: PollPurpose::Follow }
    };
    let keys = (0..silent).map(|number| interest(format!("hole{}/{number}", number % hosts), 5));
    poller.set_interests(&"evil/hole", keys.collect());
    // The silent ones hold every place that they can get.
    tokio::time::sleep(Duration::from_secs(1)).await;
    poller.set_interests(&"calm/family", vec![interest("well/tag".into(), 60)]);
    tokio::time::sleep(Duration::from_hours(6)).await;
    std::mem::take(&mut *polls.lock().expect("lock"))
}

#[tokio::test(start_paused = true)]
async fn keys_that_never_answer_delay_no_poll_of_others() {
    let limits = tag_limits();
    let alone = polls_next_to(PolledNextTo { silent: 0, hosts: 1, limits }).await;
    assert!((355..=365).contains(&alone.len()), "{} polls in 6 hours", alone.len());
    for (silent, hosts, limits) in [
        (64, 1, tag_limits()),
        (640, 1, tag_limits()),
        (6400, 1, tag_limits()),
        (6400, 6400, tag_limits()),
        (64, 1, git_limits()),
        (640, 64, git_limits()),
    ] {
        let polls = polls_next_to(PolledNextTo { silent, hosts, limits }).await;
        let first = polls.first().copied().unwrap_or(Duration::MAX);
        assert!(first < Duration::from_secs(2), "{silent} at {hosts}: the first after {first:?}");
        let pauses = polls.windows(2).map(|pair| pair[1].saturating_sub(pair[0]));
        let longest = pauses.max().unwrap_or_default();
        assert!(longest < Duration::from_secs(68), "{silent} at {hosts}: {longest:?} apart");
        let polls = polls.len();
        assert!(polls.abs_diff(alone.len()) <= 5, "{silent} at {hosts}: {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_that_never_answers_is_polled_after_minutes() {
    let (server, poller) = start();
    poller.set_interests(&"a", every("silent", 5));
    tokio::time::sleep(Duration::from_hours(1)).await;
    let before = server.polls.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_hours(1)).await;
    let polls = server.polls.load(Ordering::SeqCst) - before;
    assert!((10..=14).contains(&polls), "{polls} polls in an hour at an interval of 5 s");
}

#[test]
fn pauses_grow_with_failures_and_never_exceed_half_an_hour_or_the_interval() {
    let seconds = |interval, failures, longest| {
        let longest = Duration::from_secs(longest);
        next_pause(Duration::from_secs(interval), failures, longest, 100).as_secs()
    };
    assert_eq!([1, 2, 3, 4, 9].map(|failures| seconds(5, failures, 0)), [5, 10, 20, 40, 40]);
    assert_eq!([4, 7, 30].map(|failures| seconds(5, failures, 300)), [40, 300, 300]);
    assert_eq!([2, 3, u32::MAX].map(|failures| seconds(600, failures, 300)), [1200, 1800, 1800]);
    assert_eq!(seconds(7200, 5, 300), 7200);
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_panics_gives_its_place_back_and_is_repeated() {
    let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
    let polls = Arc::new(AtomicUsize::new(0));
    let polled = Arc::clone(&polls);
    let limits = PollLimits::of_each_host(1, 1, 1200);
    let settings = PollSettings { limits, ..settings(Duration::from_secs(5)) };
    let poller = Poller::start(settings, clock, move |key: &'static str, _| {
        let before = polled.fetch_add(1, Ordering::SeqCst);
        assert!(key != "broken" || before > 1, "broken");
        async { Ok::<_, Problem>(1) }
    });
    poller.set_interests(&"a", every("broken", 10));
    poller.set_interests(&"b", every("works", 10));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(polls.load(Ordering::SeqCst), 2);
    assert_eq!(poller.latest(&"broken"), None);
    assert!(poller.latest(&"works").is_some());
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(poller.latest(&"broken").is_some(), "it is repeated");
}

/// A clock that shows the time of the runtime.
fn running_clock() -> Clock {
    let began = Instant::now();
    Clock::new(move || {
        let elapsed = SignedDuration::try_from(began.elapsed()).unwrap_or_default();
        Timestamp::UNIX_EPOCH.saturating_add(elapsed).unwrap_or(Timestamp::MAX)
    })
}

/// Polls keys of a host at a rate of one a second. Polls fail while `is_down`.
fn start_slowly(is_down: Arc<Mutex<bool>>) -> Poller<u64, u32, &'static str> {
    let settings = PollSettings {
        timeout: Duration::from_secs(5),
        limits: PollLimits::of_each_host(256, 8, 60),
        host_of: |_| "host".to_owned(),
        namespace_of: first_part,
    };
    Poller::start(settings, running_clock(), move |_: u64, _| {
        let is_down = *is_down.lock().expect("lock");
        let problem = Problem { reason: Reason::RegistryUnavailable, message: "down".into() };
        async move { if is_down { Err(problem) } else { Ok(1) } }
    })
}

fn numbered(keys: std::ops::Range<u64>, purpose: PollPurpose) -> Vec<Interest<u64>> {
    let interval = Duration::from_mins(1);
    keys.map(|key| Interest { key, interval, purpose }).collect()
}

#[tokio::test(start_paused = true)]
async fn a_poll_that_waits_for_its_turn_is_no_break() {
    let is_down = Arc::new(Mutex::new(false));
    let poller = start_slowly(Arc::clone(&is_down));
    // Each is polled every ten minutes, in place of every minute.
    poller.set_interests(&"a", numbered(0..600, PollPurpose::Follow));
    tokio::time::sleep(Duration::from_hours(1)).await;
    for key in 0..600 {
        let polled = poller.latest(&key).expect("polled");
        assert_eq!(polled.resumed_at, None, "{key}");
        assert!(polled.confirmed_at > Timestamp::from_second(40 * 60).expect("a time"), "{key}");
    }
    *is_down.lock().expect("lock") = true;
    tokio::time::sleep(Duration::from_hours(1)).await;
    *is_down.lock().expect("lock") = false;
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!((0..600).all(|key| poller.latest(&key).expect("polled").resumed_at.is_some()));
}

#[tokio::test(start_paused = true)]
async fn the_first_poll_of_a_family_waits_for_no_audit() {
    let poller = start_slowly(Arc::default());
    poller.set_interests(&"a/old", numbered(0..5000, PollPurpose::Audit));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(poller.latest(&4999), None, "audits wait");
    let mut new = numbered(6000..6001, PollPurpose::Follow);
    new.extend(numbered(4999..5000, PollPurpose::Follow));
    poller.set_interests(&"a/new", new);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(poller.latest(&6000).is_some(), "a new key");
    assert!(poller.latest(&4999).is_some(), "one that waited for an audit");
}

#[tokio::test(start_paused = true)]
async fn owners_know_when_a_poll_is_late_that_waits_for_the_rate_of_its_host() {
    let clock = running_clock();
    let began = clock.now();
    let settings = PollSettings {
        timeout: Duration::from_secs(5),
        limits: PollLimits::of_each_host(256, 4, 10),
        host_of: |key: &u32| (key % 2).to_string(),
        namespace_of: first_part,
    };
    let poller = Poller::start(settings, clock, |key: u32, _| async move { Ok::<_, Problem>(key) });
    let numbered = |keys: &mut dyn Iterator<Item = u32>| {
        let interval = Duration::from_mins(10);
        let purpose = PollPurpose::Follow;
        keys.map(|key| Interest { key, interval, purpose }).collect::<Vec<_>>()
    };
    poller.set_interests(&"team/family", numbered(&mut (0..200).filter(|key| key % 2 == 0)));
    poller.set_interests(&"team/other", numbered(&mut [1].into_iter()));
    let mut changes = Box::pin(poller.changes());
    let minutes = |minutes: i64| began + SignedDuration::from_mins(minutes);
    assert_eq!(changes.next().await, Some("team/family"), "some are late");
    let last = poller.late_until(&198).expect("it is late");
    assert!(last > minutes(9) && last < minutes(11), "{last}");
    assert_eq!((poller.late_until(&0), poller.late_until(&1)), (None, None), "they are not");
    tokio::time::sleep(Duration::from_mins(8)).await;
    assert_eq!(poller.late_until(&198), Some(last), "nothing is written again meanwhile");
    tokio::time::sleep(Duration::from_mins(3)).await;
    assert!(poller.latest(&198).is_some(), "it was polled about when it was expected");
    assert_eq!(poller.late_until(&198), None);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_takes_longer_than_expected_is_expected_again() {
    let clock = running_clock();
    let settings = PollSettings {
        timeout: Duration::from_mins(5),
        limits: PollLimits::of_each_host(256, 2, 60),
        host_of: |_: &u32| "slow".to_owned(),
        namespace_of: first_part,
    };
    let poller = Poller::start(settings, clock.clone(), |key: u32, _| async move {
        tokio::time::sleep(Duration::from_mins(1)).await;
        Ok::<_, Problem>(key)
    });
    let interval = Duration::from_mins(10);
    let interest = |key| Interest { key, interval, purpose: PollPurpose::Follow };
    poller.set_interests(&"team/family", (0..200).map(interest).collect());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let first = poller.late_until(&199).expect("it is late");
    tokio::time::sleep(Duration::from_mins(10)).await;
    let second = poller.late_until(&199).expect("it still is");
    assert!(second > clock.now() && first < second, "{first} {second}");
}

#[tokio::test(start_paused = true)]
async fn a_poll_is_late_after_earlier_ones_have_failed() {
    let clock = running_clock();
    let poller = Poller::start(settings(Duration::from_secs(5)), clock.clone(), |_, _| async {
        let message = "unreachable".to_owned();
        Err::<u32, _>(Problem { reason: Reason::RegistryUnavailable, message })
    });
    let mut changes = Box::pin(poller.changes());
    poller.set_interests(&"a", every("key", 600));
    assert_eq!(changes.next().await, Some("a"), "it has failed");
    assert_eq!(poller.late_until(&"key"), None, "it is repeated after the interval");
    tokio::time::sleep(Duration::from_mins(12)).await;
    let late_until = poller.late_until(&"key").expect("a time");
    let pause = late_until.duration_since(Timestamp::UNIX_EPOCH);
    assert!((1620..=1980).contains(&pause.as_secs()), "the interval and twice as long: {pause}");
    assert!(timeout(Duration::from_hours(1), changes.next()).await.is_err(), "nothing changes");
}
