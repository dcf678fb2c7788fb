use std::collections::HashMap;

use super::*;
use crate::upstream::PollLimits;

/// Polls of a class and a namespace that wait.
#[derive(Clone, Copy)]
struct QueuedPolls {
    class: PollClass,
    namespace: &'static str,
    count: u64,
}

const fn queued(class: PollClass, namespace: &'static str, count: u64) -> QueuedPolls {
    QueuedPolls { class, namespace, count }
}

/// A queue with a rate of one poll a second at which these polls wait, and where.
fn waiting_at(polls: &[QueuedPolls]) -> (PollQueue, Vec<(PollPlace, DuePoll)>) {
    let now = Instant::now();
    let mut queue = PollQueue::new(PollLimits::of_each_host(1000, 1000, 60));
    let (mut places, mut number) = (Vec::new(), 0);
    for QueuedPolls { class, namespace, count } in polls {
        for _ in 0..*count {
            number += 1;
            let namespaces = std::iter::once((*namespace).to_owned());
            let poll = (now, number);
            places.push((queue.add("r", namespaces, *class, poll, now), poll));
        }
    }
    (queue, places)
}

/// Asserts that polls are expected when they start, but for the turn of one namespace and class.
async fn assert_forecast(polls: &[QueuedPolls]) {
    let (mut queue, places) = waiting_at(polls);
    let began = Instant::now();
    let expected: HashMap<u64, Instant> = places
        .iter()
        .map(|(place, poll)| (poll.1, queue.expected_start(place, *poll, began)))
        .collect();
    let mut started = 0;
    while started < places.len() {
        let (polls, next) = queue.start(Instant::now());
        for poll in &polls {
            let (now, expected) = (Instant::now(), expected[&poll.number]);
            let off = now.max(expected) - now.min(expected);
            assert!(off <= Duration::from_secs(7), "{poll:?}: {off:?} off of {expected:?}");
            queue.finish(&poll.place);
        }
        started += polls.len();
        tokio::time::advance(next.map_or(Duration::from_secs(1), |at| at - Instant::now())).await;
    }
    assert!(began.elapsed() > Duration::from_secs(200));
}

#[tokio::test(start_paused = true)]
async fn polls_start_when_they_are_expected() {
    let (first, follow, audit) = (PollClass::First, PollClass::Follow, PollClass::Audit);
    assert_forecast(&[queued(follow, "a", 300)]).await;
    assert_forecast(&[queued(follow, "a", 300), queued(follow, "b", 5)]).await;
    assert_forecast(&[queued(first, "a", 100), queued(follow, "a", 100), queued(audit, "b", 100)])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_poll_of_a_host_without_a_queue_is_expected_now() {
    let (queue, places) = waiting_at(&[queued(PollClass::Follow, "a", 1)]);
    let (place, poll) = &places[0];
    assert_eq!(queue.expected_start(place, *poll, Instant::now()), Instant::now());
    let other = PollPlace { host: "other".into(), ..place.clone() };
    assert_eq!(queue.expected_start(&other, *poll, Instant::now()), Instant::now());
}
