//! The record of a cascade: which image is where, and in the end how it went.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use super::{
    causes,
    decision::{Decision, ImageDecision, WaveStep},
    observation::{ImageSight, Observation},
};
use crate::{
    api::{CascadePhase, CascadeStatus, ImageCounts, ImageResult, ImageState},
    lineage::critical_path,
};

/// The most images that a record lists.
const MAX_IMAGES: usize = 1000;

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

/// The record of the wave `name` after this decision: `planned` are the names of the images that it was about to build.
/// What only the cluster's Jobs tell (how many builds, since when) is taken from what is seen, and kept once it is known.
#[must_use]
pub fn record(
    seen: &Observation<'_>,
    decision: &Decision,
    name: &str,
    planned: &BTreeSet<&str>,
    previous: &CascadeStatus,
    now: Timestamp,
) -> CascadeStatus {
    let before: HashMap<&str, &ImageResult> =
        previous.images.iter().map(|image| (image.name.as_str(), image)).collect();
    let mut images = Vec::new();
    for (index, image) in seen.spec.images.iter().enumerate() {
        let before = before.get(image.name.as_str()).copied();
        let sight = seen.images.get(index);
        let builds = sight.map_or(&[][..], |sight| &sight.builds).iter().filter(|build| build.cascade == name);
        let attempts: HashSet<(&str, i32)> =
            builds.clone().map(|build| (build.fingerprint.as_str(), build.attempt)).collect();
        if before.is_none() && attempts.is_empty() && !planned.contains(image.name.as_str())
            || images.len() == MAX_IMAGES
        {
            continue;
        }
        let Some(state) = decision.images.get(index) else { continue };
        let mut result =
            before.cloned().unwrap_or_else(|| ImageResult { name: image.name.clone(), ..ImageResult::default() });
        let at_rest = matches!(state.state, ImageState::Current | ImageState::Failed | ImageState::Blocked);
        result.state = state.state;
        result.builds = result.builds.max(i32::try_from(attempts.len()).unwrap_or(i32::MAX));
        result.started_at = result.started_at.or_else(|| builds.filter_map(|build| build.started_at).min());
        // This record is written more rarely than the image's own, so that one's time comes first.
        let ended = sight.and_then(|sight| recorded_end(sight, state)).or(Some(now));
        result.finished_at = if at_rest { result.finished_at.or(ended) } else { None };
        if let Some(good) = state.good.as_ref().filter(|_| state.state == ImageState::Current) {
            result.build = Some(good.build);
            result.digest = Some(good.digest.clone());
        }
        if !state.causes.is_empty() {
            result.why = causes::sentence(&state.causes);
        }
        images.push(result);
    }
    let counts = counts(images.iter().map(|image| image.state));
    let started_at = previous.started_at.or(Some(now));
    let status = CascadeStatus { started_at, counts, images, ..CascadeStatus::default() };
    if matches!(decision.wave, WaveStep::Close { .. }) { close(seen, status, now) } else { status }
}

/// When the image's record says that the build ended whose result is current.
fn recorded_end(sight: &ImageSight<'_>, decision: &ImageDecision) -> Option<Timestamp> {
    let good = decision.good.as_ref().filter(|_| decision.state == ImageState::Current)?;
    let last = sight.record?.history.first()?;
    (last.fingerprint == good.fingerprint && last.build == good.build).then_some(last.finished_at)?
}

fn close(seen: &Observation<'_>, mut status: CascadeStatus, now: Timestamp) -> CascadeStatus {
    let whole = status.counts.current == status.counts.total;
    status.phase = if whole { CascadePhase::Complete } else { CascadePhase::Incomplete };
    status.finished_at = Some(now);
    let seconds = status.started_at.map_or(0, |start| now.duration_since(start).as_secs());
    status.seconds = Some(seconds);

    let results: HashMap<&str, &ImageResult> = status.images.iter().map(|image| (image.name.as_str(), image)).collect();
    let ended = |image: usize| {
        let result = results.get(seen.spec.images.get(image)?.name.as_str()).filter(|result| result.builds > 0)?;
        result.finished_at.map(Timestamp::as_millisecond)
    };
    let path = critical_path(seen.lineage, ended);
    status.critical_path = path.iter().filter_map(|image| Some(seen.spec.images.get(*image)?.name.clone())).collect();

    let rebuilt = status.images.iter().filter(|image| image.builds > 0 && image.state == ImageState::Current).count();
    let list = |state: ImageState| {
        let names: Vec<&str> = status
            .images
            .iter()
            .filter(|image| image.state == state)
            .map(|image| image.name.as_str())
            .take(10)
            .collect();
        names.join(", ")
    };
    status.outcome = if whole {
        let spared = status.images.len() - rebuilt;
        let spared = if spared == 0 { String::new() } else { format!(", {spared} already built") };
        format!("{rebuilt} rebuilt{spared}, in {seconds} s")
    } else {
        let mut parts = vec![format!("{} of {} current after {seconds} s", status.counts.current, status.counts.total)];
        for (state, word) in
            [(ImageState::Failed, "failed"), (ImageState::Blocked, "blocked"), (ImageState::Waiting, "waiting")]
        {
            let names = list(state);
            if !names.is_empty() {
                parts.push(format!("{word}: {names}"));
            }
        }
        parts.join("; ")
    };
    status
}
