//! The record of a cascade: which image is where, and in the end how it went.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use crate::{
    api::{CascadePhase, CascadeStatus, Duration, ImageCounts, ImageResult, ImageState, Promotion},
    engine::{
        cascade::{promotion, truncate::abridge},
        causes,
        decision::{CascadeStep, Decision, ImageDecision},
        input::{BuildOutcome, DecideInput, ObservedBuild, ObservedImage, VerifiedBuild},
    },
    lineage::critical_path,
};

/// The most images that a record lists.
const MAX_IMAGES: usize = 1000;
/// The most images of a state that an outcome names.
const MAX_NAMES: usize = 10;

/// How many of these images are in which state.
#[must_use]
pub fn counts(states: impl IntoIterator<Item = ImageState>) -> ImageCounts {
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

/// The record of the cascade `name` after this decision: `planned` are the names of the images that
/// it was about to build. What only the cluster's Jobs tell (how many builds, since when) is taken
/// from what is seen, and kept once it is known.
#[must_use]
pub fn record(
    input: &DecideInput<'_>,
    decision: &Decision,
    name: &str,
    planned: &BTreeSet<&str>,
    previous: &CascadeStatus,
    now: Timestamp,
) -> CascadeStatus {
    let before: HashMap<&str, &ImageResult> =
        previous.images.iter().map(|image| (image.name.as_str(), image)).collect();
    let mut images = Vec::new();
    for (index, image) in input.spec.images.iter().enumerate() {
        let before = before.get(image.name.as_str()).copied();
        let observed = input.images.get(index);
        let builds = observed
            .map_or(&[][..], |observed| &observed.builds)
            .iter()
            .filter(|build| build.cascade == name);
        let attempts: HashSet<(&str, i32)> =
            builds.clone().map(|build| (build.fingerprint.as_str(), build.attempt)).collect();
        if before.is_none() && attempts.is_empty() && !planned.contains(image.name.as_str())
            || images.len() == MAX_IMAGES
        {
            continue;
        }
        let Some(state) = decision.images.get(index) else { continue };
        let mut result = before
            .cloned()
            .unwrap_or_else(|| ImageResult { name: image.name.clone(), ..ImageResult::default() });
        let at_rest = !state.in_progress && !matches!(state.state, ImageState::Waiting);
        result.state = state.state;
        result.builds = result.builds.max(i32::try_from(attempts.len()).unwrap_or(i32::MAX));
        if let Some(built) = builds
            .clone()
            .filter(|build| build.outcome == BuildOutcome::Succeeded)
            .max_by_key(|build| age(build))
        {
            result.own_inputs = Some(built.own.clone());
        }
        result.started_at =
            result.started_at.or_else(|| builds.filter_map(|build| build.started_at).min());
        // This record is written more rarely than the image's own, so that one's time comes first.
        let ended = observed.and_then(|observed| recorded_end(observed, state)).or(Some(now));
        result.finished_at = if at_rest { result.finished_at.or(ended) } else { None };
        if let Some(verified) =
            state.verified.as_ref().filter(|_| state.state == ImageState::Current)
        {
            result.build = Some(verified.build);
            result.digest = Some(verified.digest.clone());
            spare(&mut result, verified, observed, name);
        }
        if !state.causes.is_empty() {
            result.why = causes::sentence(&state.causes);
            result.causes.clone_from(&state.causes);
            result.shortened = false;
        }
        images.push(result);
    }
    let counts = counts(images.iter().map(|image| image.state));
    let started_at = previous.started_at.or(Some(now));
    let mut status = CascadeStatus { started_at, counts, images, ..CascadeStatus::default() };
    abridge(&mut status);
    match decision.cascade {
        CascadeStep::Close { superseded, .. } => close(input, decision, status, superseded, now),
        CascadeStep::None | CascadeStep::Open { .. } | CascadeStep::Running { .. } => status,
    }
}

/// The order in which builds of one image were made.
fn age(build: &ObservedBuild) -> (Option<Timestamp>, i64, i32) {
    (build.started_at, build.build, build.attempt)
}

/// Says of a current image whether the cascade has changed it, and if not, why.
fn spare(
    result: &mut ImageResult,
    verified: &VerifiedBuild,
    observed: Option<&ObservedImage<'_>>,
    cascade: &str,
) {
    let last = observed
        .and_then(|observed| observed.record?.history.first())
        .filter(|build| build.cascade == cascade);
    if verified.spared || last.is_some_and(|build| build.spared) {
        result.spared = true;
        result.why = format!("rebuilt, and the same as build {}, which stays", verified.build);
    } else if result.builds == 0 {
        result.spared = true;
        result.why = "its inputs came out the same, or it was built already".into();
    } else {
        result.spared = false;
    }
}

/// When the image's record says that the build ended whose result is current.
fn recorded_end(observed: &ObservedImage<'_>, decision: &ImageDecision) -> Option<Timestamp> {
    let verified = decision.verified.as_ref().filter(|_| decision.state == ImageState::Current)?;
    let last = observed.record?.history.first()?;
    (last.fingerprint == verified.fingerprint && last.build == Some(verified.build))
        .then_some(last.finished_at)?
}

/// What a cascade of a family with `promotion: Cascade` says of its floating tags.
fn promoted(input: &DecideInput<'_>, decision: &Decision) -> String {
    let missing = promotion::missing(input, &decision.images);
    if missing.is_empty() {
        return "; its floating tags move together".into();
    }
    let names =
        missing.iter().filter_map(|image| Some(input.spec.images.get(*image)?.name.as_str()));
    let names: Vec<&str> = names.take(MAX_NAMES).collect();
    format!("; no floating tag moves, for it is not whole without {}", names.join(", "))
}

fn close(
    input: &DecideInput<'_>,
    decision: &Decision,
    mut status: CascadeStatus,
    superseded: bool,
    now: Timestamp,
) -> CascadeStatus {
    let counts = &status.counts;
    let whole = !superseded && counts.current + counts.held == counts.total;
    status.phase = match (superseded, whole) {
        (true, _) => CascadePhase::Superseded,
        (false, true) => CascadePhase::Complete,
        (false, false) => CascadePhase::Incomplete,
    };
    status.finished_at = Some(now);
    let seconds = status.started_at.map_or(0, |start| now.duration_since(start).as_secs());
    status.duration = Some(Duration::from_secs(u32::try_from(seconds).unwrap_or_default()));

    let results: HashMap<&str, &ImageResult> =
        status.images.iter().map(|image| (image.name.as_str(), image)).collect();
    let ended = |image: usize| {
        let result = results
            .get(input.spec.images.get(image)?.name.as_str())
            .filter(|result| result.builds > 0)?;
        result.finished_at.map(Timestamp::as_millisecond)
    };
    let path = critical_path(input.lineage(), ended);
    status.critical_path =
        path.iter().filter_map(|image| Some(input.spec.images.get(*image)?.name.clone())).collect();

    let rebuilt = status
        .images
        .iter()
        .filter(|image| !image.spared && image.state == ImageState::Current)
        .count();
    let list = |state: ImageState| {
        let names: Vec<&str> = status
            .images
            .iter()
            .filter(|image| image.state == state)
            .map(|image| image.name.as_str())
            .take(MAX_NAMES)
            .collect();
        names.join(", ")
    };
    status.outcome = if whole {
        let spared = status.images.iter().filter(|image| image.spared).count();
        let spared = if spared == 0 { String::new() } else { format!(", {spared} spared") };
        let held = list(ImageState::Held);
        let held = if held.is_empty() { String::new() } else { format!(", held: {held}") };
        format!("{rebuilt} rebuilt{spared}{held}, in {seconds} s")
    } else {
        let ended = if superseded { "superseded with " } else { "" };
        let mut parts = vec![format!(
            "{ended}{} of {} current after {seconds} s",
            status.counts.current, status.counts.total
        )];
        for (state, word) in [
            (ImageState::Failed, "failed"),
            (ImageState::Blocked, "blocked"),
            (ImageState::Waiting, "waiting"),
            (ImageState::Held, "held"),
            (ImageState::Queued, "for the next cascade"),
        ] {
            let names = list(state);
            if !names.is_empty() {
                parts.push(format!("{word}: {names}"));
            }
        }
        parts.join("; ")
    };
    if input.spec.policy.promotion == Promotion::Cascade && !superseded {
        status.outcome.push_str(&promoted(input, decision));
    }
    status
}
