//! What a seed draws: families, and what happens to them, when. A script is data, so that it can be
//! shown, and made smaller.

use std::time::Duration;

use groundswell::api::{EdgeUse, Hold, Image, ImageFamilySpec, Policy, request::RequestAction};
use groundswell::controller::quota::BuildLimits;

use crate::{
    builder::{BAD, BROKEN, COSMETIC, IRREPRODUCIBLE, MISMATCH},
    faults::{Crash, Moment, Rates},
    objects::Kind,
    random::Random,
    topology::{family, image, on_image, on_upstream, policy},
};

/// The registry that families push to.
pub const REGISTRY: &str = "registry.test";
/// The registry that upstreams are in.
pub const PUBLIC: &str = "public.test";
/// The namespace of every family.
pub const NAMESPACE: &str = "images";
/// The tag that every upstream follows.
pub const FOLLOWED: &str = "1";
/// The branch of every Git source.
pub const BRANCH: &str = "main";

/// A whole simulation.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    pub seed: u64,
    pub families: Vec<Family>,
    /// How many upstream repositories there are.
    pub upstreams: usize,
    /// What happens, in order of time.
    pub steps: Vec<Step>,
    /// When faults stop.
    pub end: Duration,
    pub rates: Rates,
    /// How long a build may run, and how long its Job is kept.
    pub timeout: Duration,
    pub keep: Duration,
    /// How often tags are audited.
    pub audit: Duration,
    /// How many builds the operator lets run at once.
    pub limits: BuildLimits,
}

/// A family as it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    pub name: String,
    pub spec: ImageFamilySpec,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub at: Duration,
    pub what: What,
}

/// How an upstream moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Move {
    New,
    /// To another digest of the same content.
    Same,
    /// To an index without one of the platforms; the whole one comes a while later.
    Incomplete,
    /// To the digest that it had before.
    Back,
}

/// How a source changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edit {
    Content,
    Cosmetic,
    Broken,
    Mismatch,
    /// So that the check of the image fails.
    Bad,
    /// To what it was before.
    Revert,
}

/// What can happen. Families and images are named; one that is not there any more is passed over.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    Move(usize, Move),
    Source(String, String, Edit),
    /// A build argument changes.
    Argument(String, String),
    /// An image comes, standing on these.
    AddImage(String, Image),
    RemoveImage(String, String),
    /// An image's first parent becomes another one, if that makes no circle.
    Rewire(String, String, String),
    Policy(String, Policy),
    Suspend(String, bool),
    /// A hold on an upstream of the family; with the digest that it has now, for so long, or until
    /// it is taken away.
    Hold(String, String, bool, Option<Duration>),
    Unhold(String, String),
    /// A hold on an image, for so long, or until it is taken away.
    HoldImage(String, String, Option<Duration>),
    UnholdImage(String, String),
    /// An image is checked from now on, or not any more.
    Check(String, String),
    /// The family exports an image from now on, or not any more.
    Export(String, String),
    Request(Asked),
    /// A person deletes an image's record.
    DeleteRecord(String, String),
    /// A person clears a family's status.
    ClearStatus(String),
    DeleteFamily(String),
    /// The family comes again as it was when it was deleted.
    RecreateFamily(String),
    /// Somebody else moves a floating tag.
    StealTag(String, String),
    Crash(Crash),
    /// The process dies between two calls.
    Kill(Duration),
    /// A registry answers with this status, or not at all (0), for so long.
    Outage(&'static str, u16, Duration),
    /// The controller's clock is wrong by so many seconds from now on.
    Clock(i64),
    /// A kind's watch stands still for so long.
    StallWatch(Kind, Duration),
    /// A kind's watch breaks.
    BreakWatch(Kind),
}

/// A request of a person.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    pub family: String,
    /// The image, if it is about one; and whether the annotation stands on the image's record
    /// rather than on the family.
    pub image: Option<(String, bool)>,
    pub subtree: bool,
    pub upstream: Option<String>,
    pub action: RequestAction,
    /// For so long; for holds.
    pub lasts: Option<Duration>,
    /// The id of an earlier request instead of a new one.
    pub again: bool,
    /// What nobody can read.
    pub garbage: bool,
}

impl Script {
    /// What this seed draws.
    pub fn draw(seed: u64) -> Self {
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
        let end = Duration::from_secs(60 * random.within(10..90) as u64);
        let mut script = Self {
            seed,
            families,
            upstreams,
            steps: Vec::new(),
            end,
            rates: rates(random),
            timeout: Duration::from_secs(60 * random.within(5..60) as u64),
            keep: Duration::from_secs(random.within(60..7200) as u64),
            audit: Duration::from_secs(60 * random.within(3..15) as u64),
            limits: limits(random),
        };
        let count = random.within(2..24);
        for number in 0..count {
            let at = if number == 0 { Duration::ZERO } else { moment(random, end, &script.steps) };
            let what = if number == 0 { None } else { what(random, &script) };
            script.steps.extend(what.map(|what| Step { at, what }));
        }
        script.steps.sort_by_key(|step| step.at);
        script
    }
}

/// Any time, or soon after something else: what meets is what is interesting.
fn moment(random: &mut Random, end: Duration, steps: &[Step]) -> Duration {
    match random.pick(steps) {
        Some(other) if random.chance(600) => (other.at + random.pause(0..60_000)).min(end),
        _ => random.pause(0..u64::try_from(end.as_millis()).expect("a short script")),
    }
}

fn limits(random: &mut Random) -> BuildLimits {
    let mut limit = |most: usize| random.chance(200).then(|| random.within(1..most));
    BuildLimits { cluster: limit(6), namespace: limit(5), upstream: limit(4) }
}

fn rates(random: &mut Random) -> Rates {
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

fn what(random: &mut Random, script: &Script) -> Option<What> {
    let family = random.pick(&script.families)?.clone();
    let name = family.name.clone();
    let image = random.pick(&family.spec.images)?.name.clone();
    let other = random.pick(&family.spec.images)?.name.clone();
    let upstream = random.below(script.upstreams);
    let short = random.pause(1000..1_200_000);
    let some_time = random.chance(600).then_some(short);
    Some(match random.below(120) {
        0..26 => {
            let moves = [Move::New, Move::New, Move::New, Move::Same, Move::Incomplete, Move::Back];
            What::Move(upstream, moves[random.below(moves.len())])
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
            What::Source(name, image, EDITS[random.below(EDITS.len())])
        }
        38..41 => What::Argument(name, image),
        41..44 => {
            let added = format!("n{}", random.below(100));
            let parent = if random.chance(500) {
                on_image(&image, EdgeUse::Base)
            } else {
                on_upstream(upstream)
            };
            What::AddImage(name.clone(), self::image(random, &name, &added, vec![parent]))
        }
        44..46 => What::RemoveImage(name, image),
        46..49 => What::Rewire(name, image, other),
        49..52 => What::Policy(name, policy(random)),
        52..56 => What::Suspend(name, random.chance(500)),
        56..59 => What::Hold(name, format!("u{upstream}"), random.chance(500), some_time),
        59..62 => What::Unhold(name, format!("u{upstream}")),
        62..65 => What::HoldImage(name, image, some_time),
        65..67 => What::UnholdImage(name, image),
        67 => What::Check(name, image),
        68..70 => What::Export(name, image),
        70..82 => What::Request(asked(random, name, image, format!("u{upstream}"), some_time)),
        82..85 => What::DeleteRecord(name, image),
        85 => What::ClearStatus(name),
        86 => What::DeleteFamily(name),
        87..89 => What::RecreateFamily(name),
        89..91 => What::StealTag(name, image),
        91..101 => {
            let moments = [Moment::Before, Moment::After, Moment::Late];
            let down = random.pause(100..120_000);
            let calls = u32::try_from(random.below(60)).unwrap_or(0);
            What::Crash(Crash { calls, moment: moments[random.below(3)], down })
        }
        101..103 => What::Kill(short),
        103..109 => {
            let host = if random.chance(500) { REGISTRY } else { PUBLIC };
            What::Outage(host, [0, 429, 500, 503][random.below(4)], short)
        }
        109..111 => What::Clock(i64::try_from(random.below(14_400)).unwrap_or(0) - 7200),
        111..116 => What::StallWatch(Kind::ALL[random.below(8)], short),
        _ => What::BreakWatch(Kind::ALL[random.below(8)]),
    })
}

fn asked(
    random: &mut Random,
    family: String,
    image: String,
    upstream: String,
    lasts: Option<Duration>,
) -> Asked {
    use RequestAction::{Approve, Cancel, Force, Hold, Retry, Trigger, Unhold};
    let action = [Approve, Approve, Cancel, Force, Hold, Retry, Trigger, Unhold][random.below(8)];
    let of_upstream = action == Approve || matches!(action, Hold | Unhold) && random.chance(500);
    let of_family = matches!(action, Cancel | Force | Retry | Trigger) && random.chance(400);
    Asked {
        family,
        subtree: !of_upstream
            && !of_family
            && !matches!(action, Hold | Unhold)
            && random.chance(400),
        image: (!of_upstream && !of_family).then(|| (image, random.chance(400))),
        upstream: of_upstream.then_some(upstream),
        action,
        lasts: lasts.filter(|_| action == Hold),
        again: random.chance(80),
        garbage: random.chance(40),
    }
}

/// A Dockerfile after an edit.
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
            keep: Duration::from_secs(600),
            audit: Duration::from_secs(600),
            limits: BuildLimits::default(),
        }
    }
}

/// A hold as it stands in a spec.
pub fn hold(digest: Option<String>, until: Option<jiff::Timestamp>) -> Hold {
    Hold { digest, until, reason: Some("the script says so".into()) }
}
