use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;

use super::*;

struct ScriptedServer {
    polls: AtomicUsize,
    result: Mutex<Result<u32, Problem>>,
}

fn start() -> (Arc<ScriptedServer>, Poller<&'static str, u32, &'static str>) {
    let server = Arc::new(ScriptedServer { polls: AtomicUsize::new(0), result: Mutex::new(Ok(1)) });
    let polled = Arc::clone(&server);
    let poller = Poller::start(
        Duration::from_secs(5),
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

#[test]
fn a_break_between_two_successful_polls_is_noted() {
    let at = |second| Timestamp::from_second(second).expect("a time");
    let polled = |confirmed_at, resumed_at| PolledValue {
        value: Some(1),
        first_observed: at(0),
        problem: None,
        polled_at: at(confirmed_at),
        confirmed_at: at(confirmed_at),
        resumed_at,
    };
    let interval = Duration::from_mins(5);
    for (last, earlier, now, expected) in [
        (1000, None, 1300, None),
        (1000, None, 1960, None),
        (1000, None, 1961, Some(at(1961))),
        (1000, Some(at(500)), 1300, Some(at(500))),
        (1000, Some(at(500)), 90_000, Some(at(90_000))),
    ] {
        let resumed = resumed_at(&polled(last, earlier), at(now), interval);
        assert_eq!(resumed, expected, "{last} {now}");
    }
}

fn every(key: &'static str, seconds: u64) -> Vec<Interest<&'static str>> {
    vec![Interest { key, interval: Duration::from_secs(seconds) }]
}

#[tokio::test(start_paused = true)]
async fn the_first_poll_relies_on_a_seed_until_that_is_not_enough() {
    let relied_on = Arc::new(Mutex::new(Vec::new()));
    let asked = Arc::clone(&relied_on);
    let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
    let poller = Poller::start(Duration::from_secs(5), clock, move |_: &'static str, last| {
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
