//! The status of a `Cascade` object: the result of each image and, at the end, the outcome.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use crate::{
    api::{CascadePhase, CascadeStatus, Duration, ImageCounts, ImageResult, ImageState, Promotion},
    engine::{
        cascade::{is_worked_on, promotion, truncate::truncate_status},
        causes,
        decision::{Decision, ImageDecision},
        input::{BuildOutcome, DecideInput, ObservedBuild, ObservedImage, VerifiedBuild},
    },
    identity::CascadeName,
    lineage::{ImageIndex, critical_path},
};

/// Upper bound on the images that a status lists.
const MAX_IMAGES: usize = 1000;
/// Upper bound on the images that an outcome names per state.
const MAX_NAMES: usize = 10;

/// Counts images by state.
#[must_use]
pub fn count_states(states: impl IntoIterator<Item = ImageState>) -> ImageCounts {
    let mut counts = ImageCounts::default();
    for state in states {
        counts.total += 1;
        let count = match state {
            ImageState::Waiting => &mut counts.waiting,
            ImageState::Queued => &mut counts.queued,
            ImageState::Building => &mut counts.building,
            ImageState::Checking => &mut counts.checking,
            ImageState::Current => &mut counts.current,
            ImageState::Held => &mut counts.held,
            ImageState::Failed => &mut counts.failed,
            ImageState::Blocked => &mut counts.blocked,
        };
        *count += 1;
    }
    counts
}

/// Returns the status of the running cascade `name` after this decision. `planned` are the names of
/// the images that the cascade planned to build. The result of an image that another cascade has
/// taken over since stays as it was.
///
/// Only the Jobs say how many builds ran and when they started. This is taken from the Jobs that
/// exist, and kept once it is recorded.
#[must_use]
pub fn cascade_status(
    input: &DecideInput<'_>,
    decision: &Decision,
    name: &CascadeName,
    planned: &BTreeSet<&str>,
    previous: &CascadeStatus,
    now: Timestamp,
) -> CascadeStatus {
    let previous_results: HashMap<&str, &ImageResult> =
        previous.images.iter().map(|image| (image.name.as_str(), image)).collect();
    let mut images = Vec::new();
    let observed = input.spec.images.iter().zip(&decision.images);
    for (index, (image, decided)) in ImageIndex::enumerate(observed) {
        if images.len() == MAX_IMAGES {
            break;
        }
        let previous = previous_results.get(image.name.as_str()).copied();
        if decision.members.name_of(index) != Some(name) {
            images.extend(previous.cloned());
            continue;
        }
        let observed = input.images.get(index.position());
        let is_part = previous.is_some()
            || planned.contains(image.name.as_str())
            || is_worked_on(name, observed, decided);
        if !is_part {
            continue;
        }
        let builds = CascadeBuilds::new(observed, name);
        let previous = previous
            .cloned()
            .unwrap_or_else(|| ImageResult { name: image.name.clone(), ..ImageResult::default() });
        images.push(image_result(previous, decided, observed, &builds, now));
    }
    let counts = count_states(images.iter().map(|image| image.state));
    let started_at = previous.started_at.or(Some(now));
    let mut status = CascadeStatus { started_at, counts, images, ..CascadeStatus::default() };
    truncate_status(&mut status);
    let Some(ending) = decision.cascade.ending(name) else { return status };
    let counts = &status.counts;
    let phase = if ending.superseded {
        CascadePhase::Superseded
    } else if counts.current + counts.held == counts.total {
        CascadePhase::Complete
    } else {
        CascadePhase::Incomplete
    };
    finish(input, decision, name, CascadeStatus { phase, ..status }, now)
}

/// What the Jobs say about an image's builds in one cascade.
struct CascadeBuilds<'a> {
    /// The cascade's name.
    cascade: &'a CascadeName,
    /// How many builds the cascade started, retries included.
    attempts: usize,
    /// When the first build started.
    started_at: Option<Timestamp>,
    /// The last build that succeeded.
    succeeded: Option<&'a ObservedBuild>,
}

impl<'a> CascadeBuilds<'a> {
    fn new(observed: Option<&'a ObservedImage<'_>>, cascade: &'a CascadeName) -> Self {
        let builds = observed
            .map_or(&[][..], |observed| &observed.builds)
            .iter()
            .filter(|build| build.identity.cascade == *cascade);
        let attempts: HashSet<(&str, i32)> = builds
            .clone()
            .map(|build| (build.identity.fingerprint.as_str(), build.identity.attempt))
            .collect();
        let succeeded = builds.clone().filter(|build| build.outcome == BuildOutcome::Succeeded);
        Self {
            cascade,
            attempts: attempts.len(),
            started_at: builds.filter_map(|build| build.started_at).min(),
            succeeded: succeeded.max_by_key(|build| BuildOrder::of(build)),
        }
    }
}

/// What the builds of one image are sorted by: their start, then number and attempt, which tell
/// builds of the same second apart.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct BuildOrder {
    started_at: Option<Timestamp>,
    number: i64,
    attempt: i32,
}

impl BuildOrder {
    fn of(build: &ObservedBuild) -> Self {
        Self {
            started_at: build.started_at,
            number: build.identity.number,
            attempt: build.identity.attempt,
        }
    }
}

/// Returns the result of an image after this decision, from its result before.
fn image_result(
    previous: ImageResult,
    decided: &ImageDecision,
    observed: Option<&ObservedImage<'_>>,
    builds: &CascadeBuilds<'_>,
    now: Timestamp,
) -> ImageResult {
    let mut result = previous;
    result.state = decided.state;
    result.builds = result.builds.max(i32::try_from(builds.attempts).unwrap_or(i32::MAX));
    if let Some(build) = builds.succeeded {
        result.own_inputs = Some(build.identity.own_inputs.to_string());
    }
    result.started_at = result.started_at.or(builds.started_at);
    let is_finished = !decided.in_progress && decided.state != ImageState::Waiting;
    // The image's own record is written more often than this one, so that its time is preferred. If
    // the process before has written neither, this is long after the end.
    let finished_at = observed
        .and_then(|observed| recorded_finish(observed, decided))
        .or_else(|| build_end(builds, decided, now))
        .or(Some(now));
    result.finished_at = if is_finished { result.finished_at.or(finished_at) } else { None };
    if let Some(verified) =
        decided.verified.as_ref().filter(|_| decided.state == ImageState::Current)
    {
        result.build = Some(verified.build);
        result.digest = Some(verified.digest.to_string());
        set_spared(&mut result, verified, observed, builds.cascade);
    }
    if !decided.causes.is_empty() {
        result.message = causes::sentence(&decided.causes);
        result.causes.clone_from(&decided.causes);
        result.shortened = false;
    }
    result
}

/// Sets whether the cascade left a current image unchanged, and why.
fn set_spared(
    result: &mut ImageResult,
    verified: &VerifiedBuild,
    observed: Option<&ObservedImage<'_>>,
    cascade: &CascadeName,
) {
    let last = observed
        .and_then(|observed| observed.record?.history.first())
        .filter(|build| *cascade == build.cascade);
    if verified.spared || last.is_some_and(|build| build.spared) {
        result.spared = true;
        result.message = format!(
            "the rebuild has the same content as build {}, which stays in use",
            verified.build
        );
    } else if result.builds == 0 {
        result.spared = true;
        result.message = "its inputs did not change, or the build existed already".into();
    } else {
        result.spared = false;
    }
}

/// Returns when the current build of an image finished, according to the image's record.
fn recorded_finish(observed: &ObservedImage<'_>, decided: &ImageDecision) -> Option<Timestamp> {
    let verified = decided.verified.as_ref().filter(|_| decided.state == ImageState::Current)?;
    let last = observed.record?.history.first()?;
    (verified.fingerprint == last.fingerprint && last.build == Some(verified.build))
        .then_some(last.finished_at)?
}

/// Returns when the build of a current image ended, unless checks have followed it.
fn build_end(
    builds: &CascadeBuilds<'_>,
    decided: &ImageDecision,
    now: Timestamp,
) -> Option<Timestamp> {
    let verified = decided.verified.as_ref().filter(|_| decided.state == ImageState::Current)?;
    let is_of = |build: &&ObservedBuild| build.identity.fingerprint == verified.fingerprint;
    let build = builds.succeeded.filter(|_| verified.checked.is_none()).filter(is_of)?;
    // The clock of the node may be ahead of ours.
    Some(build.ended_at?.min(now))
}

/// Completes the status of a cascade that ends with this decision, in the phase of the status.
fn finish(
    input: &DecideInput<'_>,
    decision: &Decision,
    name: &CascadeName,
    mut status: CascadeStatus,
    now: Timestamp,
) -> CascadeStatus {
    status.finished_at = Some(now);
    let seconds = status.started_at.map_or(0, |start| now.duration_since(start).as_secs());
    status.duration = Some(Duration::from_secs_clamped(seconds));
    status.critical_path = critical_path_names(input, &status);
    status.message = if status.phase == CascadePhase::Complete {
        complete_message(&status, seconds)
    } else {
        incomplete_message(&status, seconds)
    };
    if input.spec.policy.promotion == Promotion::Cascade && status.phase != CascadePhase::Superseded
    {
        status.message.push_str("; ");
        status.message.push_str(&promotion_message(input, decision, name));
    }
    status
}

/// Returns the names of the images on the critical path of a cascade that has ended.
fn critical_path_names(input: &DecideInput<'_>, status: &CascadeStatus) -> Vec<String> {
    let results: HashMap<&str, &ImageResult> =
        status.images.iter().map(|image| (image.name.as_str(), image)).collect();
    let finished_at = |image: ImageIndex| {
        let result = results
            .get(input.spec.images.get(image.position())?.name.as_str())
            .filter(|result| result.builds > 0)?;
        result.finished_at.map(Timestamp::as_millisecond)
    };
    let path = critical_path(input.lineage(), finished_at);
    path.iter()
        .filter_map(|image| Some(input.spec.images.get(image.position())?.name.clone()))
        .collect()
}

/// Returns the outcome of a cascade whose images are all current or held.
fn complete_message(status: &CascadeStatus, seconds: i64) -> String {
    let spared = status.images.iter().filter(|image| image.spared).count();
    let rebuilt = status
        .images
        .iter()
        .filter(|image| !image.spared && image.state == ImageState::Current)
        .count();
    let spared = if spared == 0 { String::new() } else { format!(", {spared} spared") };
    let held = names_in_state(status, ImageState::Held);
    let held = if held.is_empty() { String::new() } else { format!("; held: {held}") };
    format!("{rebuilt} rebuilt{spared} in {seconds} s{held}")
}

/// Returns the outcome of a cascade that ends before all its images are current or held.
fn incomplete_message(status: &CascadeStatus, seconds: i64) -> String {
    let counts = &status.counts;
    let superseded = if status.phase == CascadePhase::Superseded { "superseded with " } else { "" };
    let mut parts = vec![format!(
        "{superseded}{} of {} images current after {seconds} s",
        counts.current, counts.total
    )];
    for (state, label) in [
        (ImageState::Failed, "failed"),
        (ImageState::Blocked, "blocked"),
        (ImageState::Waiting, "waiting"),
        (ImageState::Held, "held"),
        (ImageState::Queued, "left to the next cascade"),
    ] {
        let names = names_in_state(status, state);
        if !names.is_empty() {
            parts.push(format!("{label}: {names}"));
        }
    }
    parts.join("; ")
}

/// Lists the first images in this state.
fn names_in_state(status: &CascadeStatus, state: ImageState) -> String {
    let in_state = status.images.iter().filter(|image| image.state == state);
    let names: Vec<&str> = in_state.map(|image| image.name.as_str()).take(MAX_NAMES).collect();
    names.join(", ")
}

/// Says what a cascade of a family with `promotion: Cascade` does with its floating tags.
fn promotion_message(input: &DecideInput<'_>, decision: &Decision, name: &CascadeName) -> String {
    let Decision { members, images, .. } = decision;
    let position = members.names().iter().position(|running| running == name);
    let missing = position
        .map(|position| promotion::missing_images(input, members, images, position))
        .unwrap_or_default();
    if missing.is_empty() {
        return "its floating tags move together".into();
    }
    let names = missing
        .iter()
        .filter_map(|image| Some(input.spec.images.get(image.position())?.name.as_str()));
    let names: Vec<&str> = names.take(MAX_NAMES).collect();
    format!("no floating tag moves, because required images are missing: {}", names.join(", "))
}
