//! Scenarios that get to the policies: each is a drawn script whose families use one of them, with
//! what it needs to matter.
//!
//! Half of the seeds draw a scenario, and half of these are calm: nothing comes between the
//! controller and its environment, so that the strict invariants apply.

use std::time::Duration;

use groundswell::api::{
    Approval, Breaker, Cutoff, Duration as ApiDuration, ImageFamilySpec, Promotion, RateLimit,
    Retries, Supersede, Window, request::ActionName,
};
use groundswell::controller::quota::BuildLimits;

use crate::{
    faults::Rates,
    random::Random,
    script::{Edit, Family, Move, PUBLIC, REGISTRY, Script, Step, StepAction, UserRequest},
    topology,
};

/// What a script is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scenario {
    /// One upstream moves below many images, and starts are limited.
    RateLimit,
    /// Users approve candidates, late or wrongly.
    Approvals,
    /// Windows open and close while builds run.
    Windows,
    /// Families share the operator's limits.
    SharedLimits,
    /// Bases on which nothing can be built, and repaired ones.
    BadBases,
    /// Upstreams move faster than they get old enough.
    Ages,
    /// Users request something all the time.
    Requests,
    /// Candidates supersede cascades.
    Supersede,
    /// Rebuilds that change nothing.
    SameContent,
    /// Registries are unreachable for minutes, hours and days.
    Outages,
    /// Families are edited and their statuses are lost.
    Rewired,
    /// Floating tags move together, while images fail and are held.
    Together,
    /// Users roll images back below others that stay, while upstreams and sources move on.
    Rollbacks,
}

const SCENARIOS: [Scenario; 12] = [
    Scenario::RateLimit,
    Scenario::Approvals,
    Scenario::Windows,
    Scenario::SharedLimits,
    Scenario::BadBases,
    Scenario::Ages,
    Scenario::Requests,
    Scenario::Supersede,
    Scenario::SameContent,
    Scenario::Outages,
    Scenario::Rewired,
    Scenario::Together,
];

/// How many of 1,000 seeds are about rollbacks instead of what they would be about.
const ROLLBACK_SEEDS: u32 = 80;

/// Draws the scenario of this seed.
pub fn draw(seed: u64) -> Script {
    let random = &mut Random::of(seed, "scenario");
    let scenario = SCENARIOS[random.below(SCENARIOS.len())];
    let is_rolled_back = Random::of(seed, "rollback scenario").chance(ROLLBACK_SEEDS);
    let scenario = if is_rolled_back { Scenario::Rollbacks } else { scenario };
    let mut script = Script::mixed(seed);
    let is_calm = random.chance(600);
    if is_calm {
        calm_down(&mut script);
    }
    // Without users, the causes of builds are known.
    if random.chance(400) {
        script.steps.retain(|step| matches!(step.action, StepAction::Move(..)));
    }
    match scenario {
        Scenario::RateLimit => rate_limit(random, &mut script),
        Scenario::Approvals => approvals(random, &mut script),
        Scenario::Windows => windows(random, &mut script),
        Scenario::SharedLimits => shared_limits(random, &mut script),
        Scenario::BadBases => bad_bases(random, &mut script),
        Scenario::Ages => ages(random, &mut script),
        Scenario::Requests => {
            requests(random, &mut script);
            if !is_calm {
                lose_rebuilds(&mut Random::of(seed, "lost rebuilds"), &mut script);
            }
        }
        Scenario::Supersede => supersede(random, &mut script),
        Scenario::SameContent => same_content(random, &mut script),
        Scenario::Outages => outages(random, &mut script),
        Scenario::Rewired => rewired(random, &mut script),
        Scenario::Together => together(random, &mut script),
        Scenario::Rollbacks => rollbacks(random, &mut script),
    }
    script.steps.sort_by_key(|step| step.at);
    script
}

/// Removes what disturbs the controller.
fn calm_down(script: &mut Script) {
    let Rates { infrastructure, flaky, .. } = script.rates;
    script.rates = Rates { infrastructure, flaky, ..Rates::NONE };
    script.steps.retain(|step| {
        !matches!(
            step.action,
            StepAction::DeleteRecord(..)
                | StepAction::ClearStatus(_)
                | StepAction::DeleteFamily(_)
                | StepAction::Crash(_)
                | StepAction::Kill(_)
                | StepAction::Outage(..)
                | StepAction::Clock(_)
                | StepAction::StallWatch(..)
                | StepAction::BreakWatch(_)
        )
    });
}

/// Changes each family.
fn each(script: &mut Script, mut change: impl FnMut(&mut ImageFamilySpec)) {
    script.families.iter_mut().for_each(|family| change(&mut family.spec));
}

/// Adds a step at any time before the faults stop.
fn add(random: &mut Random, script: &mut Script, action: StepAction) -> Duration {
    let at = random.pause(0..u64::try_from(script.end.as_millis()).expect("a short script"));
    script.steps.push(Step { at, action });
    at
}

fn add_at(script: &mut Script, at: Duration, action: StepAction) {
    script.steps.push(Step { at: at.min(script.end), action });
}

/// Moves an upstream some times.
fn moves(random: &mut Random, script: &mut Script, how: &[Move], count: usize) {
    for _ in 0..count {
        let upstream = random.below(script.upstreams);
        let how = how[random.below(how.len())];
        add(random, script, StepAction::Move(upstream, how));
    }
}

/// Replaces the families with one of many images that are built on few of its images.
fn widen(random: &mut Random, script: &mut Script) {
    let before = script.families.clone();
    for (number, family) in script.families.iter_mut().enumerate() {
        let spec = &mut family.spec;
        let count = random.within(4..10);
        let policy = spec.policy.clone();
        let before: Vec<Family> = before[..number].to_vec();
        let mut wide = topology::family(random, number, script.upstreams, &before).spec;
        for place in 0..count {
            let upstream = topology::on_upstream(random.below(script.upstreams));
            let image = topology::image(random, &family.name, &format!("w{place}"), vec![upstream]);
            wide.images.push(image);
        }
        wide.policy = policy;
        *spec = wide;
    }
}

fn few(random: &mut Random, range: std::ops::Range<usize>) -> i32 {
    i32::try_from(random.within(range)).unwrap_or(1)
}

fn rate_limit(random: &mut Random, script: &mut Script) {
    widen(random, script);
    each(script, |spec| {
        spec.policy.parallelism = few(random, 2..8);
        spec.policy.rate_limit = random.chance(700).then(|| RateLimit {
            builds: few(random, 1..4),
            per: ApiDuration::from_secs(random.seconds(20..300)),
        });
        spec.policy.breaker.consecutive_failures = 0;
    });
    // The Jobs are gone before their starts cease to count.
    script.ttl_after_finished = Duration::from_secs(random.within(5..60) as u64);
    moves(random, script, &[Move::New], 4);
}

fn approvals(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        for upstream in &mut spec.upstreams {
            upstream.approval = Approval::Manual;
        }
    });
    for _ in 0..random.within(2..6) {
        let upstream = random.below(script.upstreams);
        let at = add(random, script, StepAction::Move(upstream, Move::New));
        for family in script.families.clone() {
            if random.chance(700) {
                let at = at + random.pause(1000..600_000);
                let approval = approve(&family.name, upstream);
                add_at(script, at, StepAction::Request(approval));
            }
        }
    }
}

fn approve(family: &str, upstream: usize) -> UserRequest {
    UserRequest {
        family: family.into(),
        image: None,
        subtree: false,
        upstream: Some(format!("u{upstream}")),
        action: ActionName::Approve,
        lasts: None,
        users: 1,
        deletes: false,
    }
}

fn windows(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        spec.policy.windows = (0..random.within(1..3))
            .map(|_| Window {
                schedule: format!("{} * * * *", random.below(60)),
                duration: ApiDuration::from_secs(60 * random.seconds(2..12)),
                time_zone: ["UTC", "Asia/Kolkata"][random.below(2)].into(),
            })
            .collect();
        spec.policy.parallelism = few(random, 1..3);
    });
    script.end += Duration::from_hours(2);
    moves(random, script, &[Move::New], 5);
}

fn shared_limits(random: &mut Random, script: &mut Script) {
    while script.families.len() < 3 {
        let number = script.families.len();
        let family = topology::family(random, number, script.upstreams, &script.families);
        script.families.push(family);
    }
    widen(random, script);
    let mut limit = |chance, most: usize| random.chance(chance).then(|| random.within(1..most));
    script.limits =
        BuildLimits { cluster: limit(500, 5), namespace: limit(500, 5), upstream: limit(500, 3) };
    each(script, |spec| {
        spec.suspend = false;
        spec.policy.parallelism = few(random, 2..6);
        spec.policy.rate_limit = None;
    });
    moves(random, script, &[Move::New], 4);
}

fn bad_bases(random: &mut Random, script: &mut Script) {
    widen(random, script);
    each(script, |spec| {
        spec.policy.breaker = Breaker {
            consecutive_failures: few(random, 1..4),
            probe_after: ApiDuration::from_secs(random.seconds(30..300)),
        };
        spec.policy.retries.build = few(random, 0..3);
        spec.policy.windows.clear();
    });
    for _ in 0..2 {
        let upstream = random.below(script.upstreams);
        let at = add(random, script, StepAction::Move(upstream, Move::Bad));
        if random.chance(700) {
            let repaired = at + random.pause(1000..1_800_000);
            add_at(script, repaired, StepAction::Move(upstream, Move::New));
        }
    }
}

fn ages(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        for upstream in &mut spec.upstreams {
            upstream.minimum_age = ApiDuration::from_secs(random.seconds(120..3600));
            upstream.interval = ApiDuration::from_secs(random.seconds(30..120));
        }
    });
    script.end += Duration::from_hours(2);
    moves(random, script, &[Move::New, Move::New, Move::New, Move::Back], 10);
}

fn requests(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        for upstream in &mut spec.upstreams {
            upstream.interval = ApiDuration::from_secs(30);
        }
    });
    // While builds run, a while after upstreams have moved.
    for _ in 0..4 {
        let upstream = random.below(script.upstreams);
        let at = add(random, script, StepAction::Move(upstream, Move::New));
        for family in script.families.clone() {
            let request = UserRequest {
                action: ActionName::Cancel,
                upstream: None,
                ..approve(&family.name, upstream)
            };
            let at = at + random.pause(20_000..240_000);
            if random.chance(500) {
                add_at(script, at, StepAction::Request(request));
            }
        }
    }
    for _ in 0..random.within(4..14) {
        // Moments that matter: right after something else.
        let near = random.pick(&script.steps).map_or(Duration::ZERO, |step| step.at);
        let at = near + random.pause(0..120_000);
        if let Some(request) = crate::script::draw_family_request(random, script) {
            add_at(script, at, StepAction::Request(request));
        }
    }
}

/// Deletes the records of images a while after users have asked for their rebuild.
fn lose_rebuilds(random: &mut Random, script: &mut Script) {
    for step in script.steps.clone() {
        let StepAction::Request(UserRequest { family, image, action: ActionName::Force, .. }) =
            step.action
        else {
            continue;
        };
        let images = script.families.iter().filter(|known| known.name == family);
        let images = images.flat_map(|known| &known.spec.images).map(|image| image.name.clone());
        let images: Vec<_> =
            images.filter(|name| image.as_ref().is_none_or(|it| it == name)).collect();
        for image in images {
            let at = step.at + random.pause(120_000..1_200_000);
            add_at(script, at, StepAction::DeleteRecord(family.clone(), image));
        }
    }
}

fn supersede(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        spec.policy.supersede =
            if random.chance(800) { Supersede::Cancel } else { Supersede::Finish };
        let settle = random.seconds(5..60);
        spec.policy.settle = ApiDuration::from_secs(settle);
        spec.policy.max_settle = ApiDuration::from_secs(settle + random.seconds(10..120));
        spec.policy.parallelism = 1;
        for upstream in &mut spec.upstreams {
            upstream.interval = ApiDuration::from_secs(30);
        }
    });
    moves(random, script, &[Move::New], 8);
    // One that never rests: its cascades start at `maxSettle`.
    let upstream = random.below(script.upstreams);
    let start = random.pause(0..600_000);
    for number in 0..12 {
        add_at(
            script,
            start + Duration::from_secs(35 * number),
            StepAction::Move(upstream, Move::New),
        );
    }
}

fn same_content(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        spec.policy.cutoff = if random.chance(800) { Cutoff::Content } else { Cutoff::Digest };
    });
    moves(random, script, &[Move::Same, Move::Same, Move::Index, Move::New], 5);
    for family in script.families.clone() {
        for image in &family.spec.images {
            if !random.chance(300) {
                continue;
            }
            let (family, image) = (family.name.clone(), image.name.clone());
            add(random, script, StepAction::Source { family, image, edit: Edit::Cosmetic });
        }
    }
}

fn outages(random: &mut Random, script: &mut Script) {
    for _ in 0..random.within(1..3) {
        let host = if random.chance(500) { REGISTRY } else { PUBLIC };
        let lasts = match random.below(6) {
            0..3 => random.pause(60_000..600_000),
            3..5 => random.pause(600_000..10_800_000),
            _ => random.pause(10_800_000..86_400_000),
        };
        let status = [0, 429, 500, 503][random.below(4)];
        let at = add(random, script, StepAction::Outage(host, status, lasts));
        let upstream = random.below(script.upstreams);
        add_at(script, at + random.pause(0..60_000), StepAction::Move(upstream, Move::New));
        script.end = script.end.max(at + lasts + Duration::from_mins(20));
    }
}

fn rewired(random: &mut Random, script: &mut Script) {
    for family in script.families.clone() {
        let images = &family.spec.images;
        for _ in 0..random.within(1..4) {
            let (Some(image), Some(parent)) = (random.pick(images), random.pick(images)) else {
                continue;
            };
            let action = StepAction::Rewire {
                family: family.name.clone(),
                image: image.name.clone(),
                parent: parent.name.clone(),
            };
            add(random, script, action);
        }
        if random.chance(300) {
            add(random, script, StepAction::ClearStatus(family.name.clone()));
        }
        for image in images {
            if random.chance(200) {
                let removed = StepAction::RemoveImage(family.name.clone(), image.name.clone());
                add(random, script, removed);
            }
        }
    }
    moves(random, script, &[Move::New], 3);
}

fn together(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        spec.policy.promotion = Promotion::Cascade;
        spec.policy.retries = Retries { build: few(random, 0..2), infrastructure: 2 };
        spec.policy.parallelism = few(random, 1..4);
    });
    moves(random, script, &[Move::New], 3);
    for family in script.families.clone() {
        let Some(image) = random.pick(&family.spec.images) else { continue };
        let (family, image) = (family.name.clone(), image.name.clone());
        let edit = if random.chance(500) { Edit::Bad } else { Edit::Broken };
        add(random, script, StepAction::Source { family, image, edit });
    }
}

fn rollbacks(random: &mut Random, script: &mut Script) {
    each(script, |spec| {
        for upstream in &mut spec.upstreams {
            upstream.interval = ApiDuration::from_secs(30);
            upstream.minimum_age = ApiDuration::from_secs(0);
            upstream.approval = Approval::Automatic;
        }
    });
    let quarter = script.end / 4;
    // There are builds to go back to.
    for before in 1..3 {
        for upstream in 0..script.upstreams {
            let at = quarter * before - random.pause(0..60_000).min(quarter / 2);
            add_at(script, at, StepAction::Move(upstream, Move::New));
        }
    }
    for family in script.families.clone() {
        for _ in 0..random.within(1..4) {
            let Some(image) = random.pick(&family.spec.images) else { continue };
            let (name, image) = (family.name.clone(), image.name.clone());
            let (subtree, digests) = (random.chance(200), random.within(1..3));
            let at = script.end - quarter * 2 + random.pause(0..600_000).min(quarter);
            let rolled_back = StepAction::RollBack {
                family: name.clone(),
                image: image.clone(),
                subtree,
                digests,
            };
            add_at(script, at, rolled_back);
            let unhold = UserRequest {
                image: Some(image),
                upstream: None,
                action: ActionName::Unhold,
                ..approve(&name, 0)
            };
            if random.chance(400) {
                let until = at + random.pause(60_000..600_000);
                add_at(script, until, StepAction::Request(unhold));
            }
        }
        let Some(image) = random.pick(&family.spec.images) else { continue };
        let (name, image) = (family.name.clone(), image.name.clone());
        let edited = StepAction::Source { family: name, image, edit: Edit::Cosmetic };
        add_at(script, script.end - random.pause(0..900_000).min(quarter), edited);
    }
    if random.chance(500) {
        let upstream = random.below(script.upstreams);
        add_at(script, script.end - quarter / 2, StepAction::Move(upstream, Move::New));
    }
}
