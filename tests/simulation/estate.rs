//! A day of a large estate: 20 families of 50 images each, whose upstreams move, while registries
//! fail, the controller restarts, and users ask for something. Every patch arrives within a bound
//! that follows from the policies.

use std::time::{Duration, Instant};

use groundswell::{
    api::{
        Duration as ApiDuration, EdgeUse, Follow, Image, ImageFamilySpec, Policy, Promotion,
        Source, StrategyRef, Supersede, Upstream, request::ActionName,
    },
    controller::quota::BuildLimits,
};

use crate::{
    faults::Rates,
    invariants::{arrivals::Arrival, attempts::Attempt},
    number_from_env,
    random::Random,
    runner::run,
    script::{FOLLOWED, Family, Move, PUBLIC, REGISTRY, Script, Step, StepAction, UserRequest},
    topology::{on_image, on_upstream},
    trace::TraceOutput,
};

const FAMILIES: usize = 20;
const IMAGES: usize = 50;
const UPSTREAMS: usize = 12;
/// How many images of a family are built on its first upstream, and are the parents of the others.
const PLATFORM_IMAGES: usize = 8;
const DAY: Duration = Duration::from_hours(24);
/// How often the upstreams move in all.
const MOVES: usize = 36;
const REQUESTS: usize = 40;
const RESTARTS: usize = 3;
/// Builds and checks of a family that run at once, and of all families.
const PARALLELISM: usize = 8;
const CLUSTER_LIMIT: usize = 60;
/// When the registries fail, in minutes, and for how long.
const OUTAGES: [(&str, u64, u64); 3] =
    [(REGISTRY, 190, 20), (PUBLIC, 460, 60), (REGISTRY, 1010, 40)];
const TIMEOUT: Duration = Duration::from_mins(60);
const MAX_MINIMUM_AGE: Duration = Duration::from_hours(1);

/// Draws the day.
pub fn draw(seed: u64) -> Script {
    let random = &mut Random::of(seed, "estate");
    let mut script = Script {
        seed,
        families: (0..FAMILIES).map(|number| family(random, number)).collect(),
        upstreams: UPSTREAMS,
        end: DAY,
        rates: Rates { infrastructure: 10, ..Rates::NONE },
        timeout: TIMEOUT,
        limits: BuildLimits { cluster: Some(CLUSTER_LIMIT), namespace: None, upstream: None },
        ..Script::default()
    };
    for _ in 0..MOVES {
        let upstream = random.below(UPSTREAMS);
        add(random, &mut script, StepAction::Move(upstream, Move::New));
    }
    for _ in 0..REQUESTS {
        let request = request(random);
        add(random, &mut script, StepAction::Request(request));
    }
    for _ in 0..RESTARTS {
        add(random, &mut script, StepAction::Kill(Duration::from_secs(30)));
    }
    for (host, minute, minutes) in OUTAGES {
        let action = StepAction::Outage(host, 503, Duration::from_mins(minutes));
        script.steps.push(Step { at: Duration::from_mins(minute), action });
    }
    script.steps.sort_by_key(|step| step.at);
    script
}

fn add(random: &mut Random, script: &mut Script, action: StepAction) {
    let at = Duration::from_secs(random.within(600..86_000) as u64);
    script.steps.push(Step { at, action });
}

/// Draws a family: a base on its first upstream, platform images on the base, some with a second
/// upstream, and applications on these, some with a third.
fn family(random: &mut Random, number: usize) -> Family {
    let first = random.below(UPSTREAMS);
    let upstreams = [first, (first + 1) % UPSTREAMS, (first + 5) % UPSTREAMS];
    let images = (0..IMAGES).map(|place| {
        let mut from = match place {
            0 => vec![on_upstream(upstreams[0])],
            1..=PLATFORM_IMAGES => vec![on_image("i0", EdgeUse::BuildStage)],
            _ => {
                let parent = format!("i{}", random.within(1..PLATFORM_IMAGES + 1));
                vec![on_image(&parent, EdgeUse::BuildStage)]
            }
        };
        if place > 0 && random.chance(200) {
            from.push(on_upstream(upstreams[if place <= PLATFORM_IMAGES { 1 } else { 2 }]));
        }
        from[0].usage = EdgeUse::Base;
        Image {
            name: format!("i{place}"),
            from,
            source: Source { inline: Some("FROM x".into()), ..Source::default() },
            tags: vec!["latest".into(), "r{{ build }}".into()],
            ..Image::default()
        }
    });
    let mut spec = ImageFamilySpec {
        repository: format!("{REGISTRY}/f{number}"),
        strategy: StrategyRef { name: "model".into(), ..StrategyRef::default() },
        images: images.collect(),
        ..ImageFamilySpec::default()
    };
    spec.upstreams = upstreams
        .iter()
        .map(|upstream| Upstream {
            name: format!("u{upstream}"),
            image: format!("{PUBLIC}/library/u{upstream}"),
            follow: Follow { tag: FOLLOWED.into() },
            interval: ApiDuration::from_secs(300),
            minimum_age: ApiDuration::from_secs(if random.chance(150) {
                u32::try_from(MAX_MINIMUM_AGE.as_secs()).expect("an hour")
            } else {
                0
            }),
            ..Upstream::default()
        })
        .collect();
    spec.policy.parallelism = i32::try_from(PARALLELISM).expect("few");
    if random.chance(300) {
        spec.policy.supersede = Supersede::Cancel;
    }
    if random.chance(200) {
        spec.policy.promotion = Promotion::Cascade;
    }
    Family { name: format!("f{number}"), spec }
}

/// Draws a request that keeps no patch for longer than ten minutes.
fn request(random: &mut Random) -> UserRequest {
    let actions = [ActionName::Trigger, ActionName::Retry, ActionName::Force, ActionName::Hold];
    let action = actions[random.below(actions.len())];
    let lasts = (action == ActionName::Hold).then(|| MAX_HOLD / 2 + random.pause(0..300_000));
    UserRequest {
        family: format!("f{}", random.below(FAMILIES)),
        image: Some(format!("i{}", random.below(IMAGES))),
        subtree: action != ActionName::Hold && random.chance(300),
        upstream: None,
        action,
        lasts,
        users: 1,
        deletes: false,
    }
}

/// How long a hold lasts at most.
const MAX_HOLD: Duration = Duration::from_mins(10);
/// How long a build of the model runs at most.
const MAX_RUN: Duration = Duration::from_mins(20);
/// How long it takes to start a build, and to observe and record its result.
const OVERHEAD: Duration = Duration::from_mins(4);
/// How long after an outage everything goes on.
const RECOVERY: Duration = Duration::from_mins(10);
/// How many images are built one after another, from an upstream to an application.
const DEPTH: u32 = 3;

/// Returns how long a patch may take: the age, the quiet time, a hold, the outages meanwhile, and
/// the builds: all that were made meanwhile as many at once as the limits allow, and one chain of
/// images in the cascade before, and one in its own.
fn bound(arrival: &Arrival, attempts: &[Attempt]) -> Duration {
    let until = arrival.since + arrival.took;
    let outages = OUTAGES.iter().map(|(_, minute, minutes)| {
        (Duration::from_mins(*minute), Duration::from_mins(*minutes) + RECOVERY)
    });
    let outages = outages.filter(|(at, lasts)| *at < until && *at + *lasts > arrival.since);
    let outages: Duration = outages.map(|(_, lasts)| lasts).sum();
    let builds = attempts.iter().filter_map(|attempt| {
        let ended = attempt.end.map_or(until, |(_, at)| at).min(until);
        let started = attempt.started_at.max(arrival.since);
        (ended > started).then(|| (attempt, ended - started + OVERHEAD))
    });
    let all: Duration = builds.clone().map(|(_, took)| took).sum();
    let own = builds.filter(|(attempt, _)| attempt.family_name == arrival.family);
    let own: Duration = own.map(|(_, took)| took).sum();
    let max_settle = Policy::default().max_settle.as_secs();
    Duration::from_secs(max_settle.into())
        + MAX_MINIMUM_AGE
        + MAX_HOLD
        + outages
        + own / u32::try_from(PARALLELISM).expect("few")
        + all / u32::try_from(CLUSTER_LIMIT).expect("few")
        + 2 * DEPTH * (MAX_RUN + OVERHEAD)
}

/// Takes some minutes: `make simulate-estate` runs it.
#[test]
#[ignore = "takes some minutes: make simulate-estate"]
fn every_patch_of_a_day_arrives_within_its_bound() {
    let seed = number_from_env("SEED").unwrap_or(0);
    let started = Instant::now();
    let report = run(&draw(seed), TraceOutput::Tail);
    if let Some(violation) = &report.violation {
        panic!("{}\n{violation}", report.lines.join("\n"));
    }
    let mut took: Vec<Duration> = report.arrivals.iter().map(|arrival| arrival.took).collect();
    took.sort_unstable();
    let at = |share: usize| took.get((took.len() * share / 100).min(took.len() - 1));
    println!(
        "{FAMILIES} families, {} images, {} builds, {} reconciles in {:.0} s",
        FAMILIES * IMAGES,
        report.builds,
        report.reconciles,
        started.elapsed().as_secs_f64()
    );
    println!(
        "{} patches from candidate to current: p50 {:?}, p95 {:?}, max {:?}",
        took.len(),
        at(50).expect("a patch"),
        at(95).expect("a patch"),
        at(100).expect("a patch")
    );
    assert!(took.len() > FAMILIES * IMAGES, "every image was patched");
    assert_eq!(report.missing_patches, 0, "every patch has arrived");
    for arrival in &report.arrivals {
        let bound = bound(arrival, &report.attempts);
        assert!(arrival.took <= bound, "{arrival:?} is not within {bound:?}");
    }
}
