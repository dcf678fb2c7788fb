use super::*;

fn add(queue: &mut PollQueue, number: u64, host: &str, namespaces: &[&str]) -> PollPlace {
    let now = Instant::now();
    let namespaces = namespaces.iter().map(|name| (*name).to_owned());
    queue.add(host, namespaces, PollClass::Follow, (now, number), now)
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
    let place = add(&mut queue, 99, "r", &["evil", "fair"]);
    assert_eq!(&*place.namespace, "fair");
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
            for poll in &polls {
                queue.finish(&poll.place);
            }
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
    assert_eq!((queue.hosts.len(), queue.running_of.len()), (0, 0));
    assert_eq!((queue.shared.len(), queue.sole.len()), (0, 0));
}

/// Polls these namespaces, each with one key at this interval, and returns the order of the polls.
fn polls_of_single_keys(namespaces: u64, interval: Duration, rounds: usize) -> Vec<u64> {
    let limits = PollLimits::of_each_host(256, 8, 300);
    let mut queue = PollQueue::new(limits);
    let mut due: BTreeSet<DuePoll> = (0..namespaces).map(|key| (Instant::now(), key)).collect();
    let (mut polls, mut now) = (Vec::new(), Instant::now());
    while polls.len() < rounds * usize::try_from(namespaces).expect("a number") {
        while let Some(poll) = due.first().copied().filter(|(at, _)| *at <= now) {
            due.remove(&poll);
            let namespace = [format!("{:05}", poll.1)].into_iter();
            queue.add("r", namespace, PollClass::Follow, poll, now);
        }
        let (started, next) = queue.start(now);
        for StartedPoll { number, place } in started {
            polls.push(number);
            queue.finish(&place);
            due.insert((now + interval, number));
        }
        let of_key = due.first().map(|(at, _)| *at);
        now = next.into_iter().chain(of_key).min().expect("something is due");
    }
    polls
}

#[tokio::test(start_paused = true)]
async fn no_namespace_starves_when_all_want_more_than_the_rate() {
    // Five a second: half of what the keys want.
    const NAMESPACES: u64 = 600;
    let polls = polls_of_single_keys(NAMESPACES, Duration::from_mins(1), 6);
    let mut counts = vec![0_u32; 600];
    for key in polls {
        counts[usize::try_from(key).expect("a number")] += 1;
        let (fewest, most) = (counts.iter().min(), counts.iter().max());
        let ahead = most.zip(fewest).map(|(most, fewest)| most - fewest);
        assert!(ahead <= Some(1), "{counts:?}");
    }
}

/// Lets polls start that end at once, for a time. Returns their numbers.
fn polls_within(queue: &mut PollQueue, from: Instant, time: Duration) -> Vec<u64> {
    let (mut polls, mut now) = (Vec::new(), from);
    while now < from + time {
        let (started, next) = queue.start(now);
        let is_idle = started.is_empty();
        for StartedPoll { number, place } in started {
            polls.push(number);
            queue.finish(&place);
        }
        if is_idle {
            now = next.unwrap_or(from + time);
        }
    }
    polls
}

#[tokio::test(start_paused = true)]
async fn audits_yield_to_what_is_followed_and_go_on() {
    let mut queue = PollQueue::new(PollLimits::of_each_host(256, 8, 300));
    let (begin, team) = (Instant::now(), || ["team".to_owned()].into_iter());
    for number in 1000..20_000 {
        queue.add("r", team(), PollClass::Audit, (begin, number), begin);
    }
    let minute = Duration::from_mins(1);
    assert!(polls_within(&mut queue, begin, minute).len() >= 300, "audits use the whole rate");
    let now = begin + minute;
    for number in 0..100 {
        queue.add("r", team(), PollClass::First, (now, number), now);
        queue.add("r", team(), PollClass::Follow, (now, 100 + number), now);
    }
    let polls = polls_within(&mut queue, now, minute);
    let of = |numbers: std::ops::Range<u64>| {
        polls.iter().filter(|number| numbers.contains(number)).count()
    };
    assert!(polls.iter().take(2).all(|number| *number < 200), "{polls:?}");
    assert_eq!((of(0..100), of(100..200)), (100, 100), "{polls:?}");
    assert!(of(1000..20_000) > 80, "{polls:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_class_has_not_asked_for_is_not_made_up_for() {
    let mut queue = PollQueue::new(PollLimits::of_each_host(256, 8, 300));
    let (begin, hour) = (Instant::now(), Duration::from_hours(1));
    for number in 1000..20_000 {
        queue.add("r", ["a".to_owned()].into_iter(), PollClass::Follow, (begin, number), begin);
    }
    polls_within(&mut queue, begin, hour);
    let now = begin + hour;
    for number in 0..1000 {
        queue.add("r", ["b".to_owned()].into_iter(), PollClass::First, (now, number), now);
    }
    let polls = polls_within(&mut queue, now, Duration::from_mins(1));
    let first = polls.iter().filter(|number| **number < 1000).count();
    assert!((95..=105).contains(&first), "{first} of {}", polls.len());
}

/// How many polls of a namespace start that is alone, at hosts each with this many keys.
fn polls_of_one_namespace(limits: PollLimits, keys_of_hosts: &[u64]) -> Vec<usize> {
    let mut queue = PollQueue::new(limits);
    for (host, keys) in (0_u64..).zip(keys_of_hosts) {
        for key in 0..*keys {
            add(&mut queue, host * 1000 + key, &host.to_string(), &["a"]);
        }
    }
    let started = numbers(&mut queue);
    let at_host = |host: u64| started.iter().filter(|number| **number / 1000 == host).count();
    (0..).zip(keys_of_hosts).map(|(host, _)| at_host(host)).collect()
}

#[tokio::test(start_paused = true)]
async fn no_host_takes_all_that_a_namespace_has() {
    let git = PollLimits { free_parts: 2, ..PollLimits::of_each_host(12, 4, u32::MAX) };
    assert_eq!(polls_of_one_namespace(git.clone(), &[50, 1]), [2, 1]);
    assert_eq!(polls_of_one_namespace(git, &[50, 50, 50, 50]).iter().sum::<usize>(), 4);
    let few = PollLimits { free_parts: 2, ..PollLimits::of_each_host(6, 4, u32::MAX) };
    assert_eq!(polls_of_one_namespace(few, &[50]), [1], "one is for another host");
}
