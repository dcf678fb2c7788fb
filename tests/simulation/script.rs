//! The script that a seed draws: families, and what happens to them when. A script is data, so that
//! it can be printed and shrunk.

use std::time::Duration;

use groundswell::api::{EdgeUse, Hold, Image, ImageFamilySpec, Policy, request::ActionName};
use groundswell::controller::quota::BuildLimits;

use crate::{
    builder::{BAD, BROKEN, COSMETIC, IRREPRODUCIBLE, MISMATCH},
    faults::{Crash, Moment, Rates},
    objects::Kind,
    random::Random,
    refreshes, scenarios,
    topology::{family, image, on_image, on_upstream, policy, use_scanner},
};

/// The registry that families push to.
pub const REGISTRY: &str = "registry.test";
/// The registry of the upstreams.
pub const PUBLIC: &str = "public.test";
/// The repository of an image that checks run in.
pub const SCANNER: &str = "public.test/tools/scanner";
/// How many of a thousand seeds have a stranger who may push.
const STRANGER_SEEDS: u32 = 150;
/// How often that stranger acts, per thousand builds.
const STRANGER_RATE: u32 = 200;
/// How many of a thousand seeds without a scenario have users who roll images back.
const ROLLBACK_SEEDS: u32 = 300;
/// Of this number of seeds, one has checks that run in another image.
const SCANNER_SEEDS: u64 = 7;
/// Which of these seeds it is: one that leaves every known regression as it was when it failed.
const SCANNER_SEED: u64 = 4;
/// The namespace of every family.
pub const NAMESPACE: &str = "images";
/// The tag that every upstream follows.
pub const FOLLOWED: &str = "1";
/// The branch of every Git source.
pub const BRANCH: &str = "main";

/// The script of a simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub seed: u64,
    pub families: Vec<Family>,
    /// How many upstream repositories there are.
    pub upstreams: usize,
    /// The steps, in order of time.
    pub steps: Vec<Step>,
    /// When the faults stop.
    pub end: Duration,
    pub rates: Rates,
    /// How long a build may run.
    pub timeout: Duration,
    /// How long a finished Job is kept.
    pub ttl_after_finished: Duration,
    /// How often tags are audited.
    pub audit: Duration,
    /// The operator's limits of concurrent builds.
    pub limits: BuildLimits,
}

/// A family as it is created.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: String,
    pub spec: ImageFamilySpec,
}

impl Family {
    /// Returns the family with checks that run in another image.
    fn with_scanner(mut self) -> Self {
        use_scanner(&mut self.spec);
        self
    }

    /// Returns whether checks run in another image.
    pub fn has_scanner(&self) -> bool {
        let mut checks = self.spec.images.iter().flat_map(|image| &image.checks);
        checks.any(|check| check.image.is_some())
    }
}

/// A step of a script.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub at: Duration,
    pub action: StepAction,
}

/// How an upstream moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    New,
    /// To another digest of the same content.
    Same,
    /// To an index that lacks a platform; the complete index follows a while later.
    Incomplete,
    /// To the previous digest.
    Back,
    /// To an index with another image for a platform that nobody builds.
    Index,
    /// To a digest on which nothing can be built.
    Bad,
}

/// How a source changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    Content,
    Cosmetic,
    Broken,
    Mismatch,
    /// The image's check fails.
    Bad,
    /// To the previous text.
    Revert,
}

/// An action of a step. Families and images are named; one that no longer exists is skipped.
#[derive(Clone, Debug, PartialEq)]
pub enum StepAction {
    Move(usize, Move),
    Source {
        family: String,
        image: String,
        edit: Edit,
    },
    /// A build argument changes.
    Argument(String, String),
    /// An image is added.
    AddImage(String, Image),
    RemoveImage(String, String),
    /// An image's first parent is replaced, if that creates no cycle.
    Rewire {
        family: String,
        image: String,
        parent: String,
    },
    Policy(String, Policy),
    /// The images of a family are refreshed at this age in seconds; 0 for never.
    Refresh(String, u32),
    Suspend(String, bool),
    /// A hold on an upstream of the family: whether at its current digest, and for how long; `None`
    /// until it is removed.
    Hold {
        family: String,
        upstream: String,
        at_current_digest: bool,
        lasts: Option<Duration>,
    },
    Unhold(String, String),
    /// A hold on an image, for this long; `None` until it is removed.
    HoldImage {
        family: String,
        image: String,
        lasts: Option<Duration>,
    },
    UnholdImage(String, String),
    /// Adds or removes the check of an image.
    Check(String, String),
    /// Adds or removes the export of an image.
    Export(String, String),
    Request(UserRequest),
    /// A user rolls an image back, by this number of digests before its newest one.
    RollBack {
        family: String,
        image: String,
        subtree: bool,
        digests: usize,
    },
    /// A user deletes an image's record.
    DeleteRecord(String, String),
    /// A user clears a family's status.
    ClearStatus(String),
    DeleteFamily(String),
    /// The family is recreated as it was when it was deleted.
    RecreateFamily(String),
    /// Another client moves a floating tag.
    StealTag(String, String),
    Crash(Crash),
    /// The process dies between two calls.
    Kill(Duration),
    /// A registry answers with this status, or not at all (0), for this long.
    Outage(&'static str, u16, Duration),
    /// The controller's clock is this many seconds ahead from now on.
    Clock(i64),
    /// A kind's watch stalls for this long.
    StallWatch(Kind, Duration),
    /// A kind's watch breaks.
    BreakWatch(Kind),
}

/// A request of a user.
#[derive(Clone, Debug, PartialEq)]
pub struct UserRequest {
    pub family: String,
    /// The image, if the request concerns one.
    pub image: Option<String>,
    pub subtree: bool,
    pub upstream: Option<String>,
    pub action: ActionName,
    /// How long a hold lasts.
    pub lasts: Option<Duration>,
    /// How many users ask for it in the same moment.
    pub users: usize,
    /// Whether the user deletes the last request instead.
    pub deletes: bool,
}

impl Script {
    /// Draws the script of this seed: every second one is about one policy.
    pub fn draw(seed: u64) -> Self {
        let mut script =
            if seed.is_multiple_of(2) { Self::mixed(seed) } else { scenarios::draw(seed) };
        if Random::of(seed, "stranger").chance(STRANGER_SEEDS) {
            script.rates.stranger = STRANGER_RATE;
        }
        let random = &mut Random::of(seed, "rollbacks");
        // A scenario may be about builds that no user has caused.
        if seed.is_multiple_of(2) && random.chance(ROLLBACK_SEEDS) {
            add_rollbacks(random, &mut script);
        }
        if seed.is_multiple_of(2) {
            refreshes::add(seed, &mut script);
        }
        script
    }

    /// Draws a script in which anything may happen.
    pub fn mixed(seed: u64) -> Self {
        let random = &mut Random::of(seed, "script");
        let upstreams = random.within(1..4);
        let families = match random.below(10) {
            0..7 => 1,
            7..9 => 2,
            _ => 3,
        };
        let families = (0..families).fold(Vec::new(), |mut before, number| {
            before.push(family(random, number, upstreams, &before));
            before
        });
        let families = if seed % SCANNER_SEEDS == SCANNER_SEED {
            families.into_iter().map(Family::with_scanner).collect()
        } else {
            families
        };
        let end = Duration::from_secs(60 * random.within(10..90) as u64);
        let mut script = Self {
            seed,
            families,
            upstreams,
            steps: Vec::new(),
            end,
            rates: draw_rates(random),
            timeout: Duration::from_secs(60 * random.within(5..60) as u64),
            ttl_after_finished: Duration::from_secs(random.within(60..7200) as u64),
            audit: Duration::from_secs(60 * random.within(3..15) as u64),
            limits: draw_limits(random),
        };
        let count = random.within(2..24);
        for number in 0..count {
            let at =
                if number == 0 { Duration::ZERO } else { draw_time(random, end, &script.steps) };
            let action = if number == 0 { None } else { draw_action(random, &script) };
            script.steps.extend(action.map(|action| Step { at, action }));
        }
        script.steps.sort_by_key(|step| step.at);
        script
    }
}

/// Draws any time, or one soon after another step: steps that coincide are the interesting ones.
fn draw_time(random: &mut Random, end: Duration, steps: &[Step]) -> Duration {
    match random.pick(steps) {
        Some(other) if random.chance(600) => (other.at + random.pause(0..60_000)).min(end),
        _ => random.pause(0..u64::try_from(end.as_millis()).expect("a short script")),
    }
}

/// Adds rollbacks, and what may come in their way: the loss of a record, another client that moves
/// the tag, and the end of the rollback.
fn add_rollbacks(random: &mut Random, script: &mut Script) {
    for _ in 0..random.within(1..5) {
        let Some(family) = random.pick(&script.families).cloned() else { return };
        let Some(image) = random.pick(&family.spec.images).map(|image| image.name.clone()) else {
            return;
        };
        let at = draw_time(random, script.end, &script.steps);
        let (name, subtree, digests) =
            (family.name.clone(), random.chance(500), random.within(1..4));
        let action =
            StepAction::RollBack { family: name.clone(), image: image.clone(), subtree, digests };
        script.steps.push(Step { at, action });
        for chance in 0..3 {
            let action = match chance {
                0 => StepAction::DeleteRecord(name.clone(), image.clone()),
                1 => StepAction::StealTag(name.clone(), image.clone()),
                _ => StepAction::Request(UserRequest {
                    family: name.clone(),
                    image: Some(image.clone()),
                    subtree: false,
                    upstream: None,
                    action: ActionName::Unhold,
                    lasts: None,
                    users: 1,
                    deletes: random.chance(200),
                }),
            };
            let at = (at + random.pause(1000..900_000)).min(script.end);
            if random.chance(400) {
                script.steps.push(Step { at, action });
            }
        }
    }
    script.steps.sort_by_key(|step| step.at);
}

fn draw_limits(random: &mut Random) -> BuildLimits {
    let mut limit = |most: usize| random.chance(200).then(|| random.within(1..most));
    BuildLimits { cluster: limit(6), namespace: limit(5), upstream: limit(4) }
}

fn draw_rates(random: &mut Random) -> Rates {
    let mut rates = Rates::NONE;
    match random.below(4) {
        0 => {}
        1 => Rates::EACH.iter().for_each(|rate| *rate(&mut rates) = 10),
        2 => Rates::EACH.iter().for_each(|rate| *rate(&mut rates) = 60),
        _ => {
            for _ in 0..2 {
                *Rates::EACH[random.below(Rates::EACH.len())](&mut rates) = 250;
            }
        }
    }
    rates
}

fn draw_action(random: &mut Random, script: &Script) -> Option<StepAction> {
    let family = random.pick(&script.families)?.clone();
    let name = family.name.clone();
    let image = random.pick(&family.spec.images)?.name.clone();
    let other = random.pick(&family.spec.images)?.name.clone();
    let upstream = random.below(script.upstreams);
    let short = random.pause(1000..1_200_000);
    let some_time = random.chance(600).then_some(short);
    Some(match random.below(120) {
        0..26 => {
            const MOVES: [Move; 7] = [
                Move::New,
                Move::New,
                Move::New,
                Move::Same,
                Move::Incomplete,
                Move::Back,
                Move::Index,
            ];
            StepAction::Move(upstream, MOVES[random.below(MOVES.len())])
        }
        26..38 => {
            const EDITS: [Edit; 8] = [
                Edit::Content,
                Edit::Content,
                Edit::Cosmetic,
                Edit::Broken,
                Edit::Mismatch,
                Edit::Bad,
                Edit::Revert,
                Edit::Revert,
            ];
            StepAction::Source { family: name, image, edit: EDITS[random.below(EDITS.len())] }
        }
        38..41 => StepAction::Argument(name, image),
        41..44 => {
            let added = format!("n{}", random.below(100));
            let parent = if random.chance(500) {
                on_image(&image, EdgeUse::Base)
            } else {
                on_upstream(upstream)
            };
            StepAction::AddImage(name.clone(), self::image(random, &name, &added, vec![parent]))
        }
        44..46 => StepAction::RemoveImage(name, image),
        46..49 => StepAction::Rewire { family: name, image, parent: other },
        49..52 => StepAction::Policy(name, policy(random)),
        52..56 => StepAction::Suspend(name, random.chance(500)),
        56..59 => StepAction::Hold {
            family: name,
            upstream: format!("u{upstream}"),
            at_current_digest: random.chance(500),
            lasts: some_time,
        },
        59..62 => StepAction::Unhold(name, format!("u{upstream}")),
        62..65 => StepAction::HoldImage { family: name, image, lasts: some_time },
        65..67 => StepAction::UnholdImage(name, image),
        67 => StepAction::Check(name, image),
        68..70 => StepAction::Export(name, image),
        70..82 => StepAction::Request(draw_request(
            random,
            name,
            image,
            format!("u{upstream}"),
            some_time,
        )),
        82..85 => StepAction::DeleteRecord(name, image),
        85 => StepAction::ClearStatus(name),
        86 => StepAction::DeleteFamily(name),
        87..89 => StepAction::RecreateFamily(name),
        89..91 => StepAction::StealTag(name, image),
        91..101 => {
            let moments = [Moment::Before, Moment::After, Moment::Late];
            let down = random.pause(100..120_000);
            let calls = u32::try_from(random.below(60)).unwrap_or(0);
            StepAction::Crash(Crash { calls, moment: moments[random.below(3)], down })
        }
        101..103 => StepAction::Kill(short),
        103..109 => {
            let host = if random.chance(500) { REGISTRY } else { PUBLIC };
            StepAction::Outage(host, [0, 429, 500, 503][random.below(4)], short)
        }
        109..111 => StepAction::Clock(i64::try_from(random.below(14_400)).unwrap_or(0) - 7200),
        111..116 => StepAction::StallWatch(Kind::ALL[random.below(Kind::ALL.len())], short),
        _ => StepAction::BreakWatch(Kind::ALL[random.below(Kind::ALL.len())]),
    })
}

/// Draws a request about one of the families.
pub fn draw_family_request(random: &mut Random, script: &Script) -> Option<UserRequest> {
    let family = random.pick(&script.families)?.clone();
    let image = random.pick(&family.spec.images)?.name.clone();
    let upstream = format!("u{}", random.below(script.upstreams));
    let lasts = random.chance(600).then(|| random.pause(1000..600_000));
    Some(draw_request(random, family.name, image, upstream, lasts))
}

fn draw_request(
    random: &mut Random,
    family: String,
    image: String,
    upstream: String,
    lasts: Option<Duration>,
) -> UserRequest {
    use ActionName::{Approve, Cancel, Force, Hold, Retry, Trigger, Unhold};
    let action = [Approve, Approve, Cancel, Force, Hold, Retry, Trigger, Unhold][random.below(8)];
    let of_upstream = action == Approve || matches!(action, Hold | Unhold) && random.chance(500);
    let of_family = matches!(action, Cancel | Force | Retry | Trigger) && random.chance(400);
    UserRequest {
        family,
        subtree: !of_upstream
            && !of_family
            && !matches!(action, Hold | Unhold)
            && random.chance(400),
        image: (!of_upstream && !of_family).then_some(image),
        upstream: of_upstream.then_some(upstream),
        action,
        lasts: lasts.filter(|_| action == Hold),
        users: if random.chance(250) { random.within(2..5) } else { 1 },
        deletes: random.chance(80),
    }
}

/// Returns a Dockerfile after an edit.
pub fn edited(text: &str, edit: Edit, number: u64) -> String {
    let kept: Vec<&str> = text.split(' ').filter(|word| [IRREPRODUCIBLE].contains(word)).collect();
    let base = format!("FROM x {}", kept.join(" "));
    match edit {
        Edit::Content | Edit::Revert => format!("{base} v{number}"),
        Edit::Cosmetic => format!(
            "{} {COSMETIC} {number}",
            text.split(COSMETIC).next().unwrap_or_default().trim_end()
        ),
        Edit::Bad => format!("{base} v{number} {BAD}"),
        Edit::Broken => format!("{base} v{number} {BROKEN}"),
        Edit::Mismatch => format!("{base} v{number} {MISMATCH}"),
    }
}

impl Default for Script {
    fn default() -> Self {
        Self {
            seed: 0,
            families: Vec::new(),
            upstreams: 1,
            steps: Vec::new(),
            end: Duration::from_secs(600),
            rates: Rates::NONE,
            timeout: Duration::from_secs(600),
            ttl_after_finished: Duration::from_secs(600),
            audit: Duration::from_secs(600),
            limits: BuildLimits::default(),
        }
    }
}

/// Returns a hold as in a spec.
pub fn hold(digest: Option<String>, until: Option<jiff::Timestamp>) -> Hold {
    Hold { digest, until, reason: Some("the script says so".into()) }
}
