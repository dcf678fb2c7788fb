//! Builds that do not start, as the message of a family says it: their Jobs or pods are rejected,
//! or their pods do not start. Pure.

use crate::{
    api::{
        FailureRecord, ImageState,
        condition::{ReasonTrait, reason, shorten},
    },
    engine::{BuildOutcome, ImageDecision, ObservedBuild, image::failure},
};

/// The most characters of what is said about an image.
const MAX_MESSAGE: usize = 256;

/// An image, with what was decided about it and its builds.
#[derive(Clone, Copy)]
pub(super) struct DecidedImage<'a> {
    pub name: &'a str,
    pub decided: &'a ImageDecision,
    pub builds: &'a [ObservedBuild],
}

/// Returns that builds do not start, and why the first of them does not; `None` if all start.
///
/// What it says about a build stays the same from one try to the next.
pub(super) fn unstarted_builds<'a>(
    images: impl IntoIterator<Item = DecidedImage<'a>>,
) -> Option<String> {
    let mut unstarted =
        images.into_iter().filter_map(|image| Some((image.name, why_unstarted(image)?)));
    let (name, why) = unstarted.next()?;
    let more = match unstarted.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    Some(format!("builds do not start: {name}: {}{more}", shorten(&why, MAX_MESSAGE)))
}

/// Returns why the build of an image does not start, if it does not.
fn why_unstarted(image: DecidedImage<'_>) -> Option<String> {
    let DecidedImage { decided, builds, .. } = image;
    let last = decided.failure.as_deref().filter(|failure| prevented_start(failure));
    match decided.state {
        ImageState::Queued if ReasonTrait::PreventsStart.applies_to(decided.reason) => {
            Some(decided.message.to_string())
        }
        ImageState::Queued if decided.reason == reason::RETRYING => {
            last.map(|_| decided.message.to_string())
        }
        ImageState::Building => {
            let build = builds.iter().find(|build| build.outcome == BuildOutcome::Running)?;
            if build.waits_for.is_some() {
                return Some(decided.message.to_string());
            }
            last.filter(|_| !build.has_started).map(|last| failure::summary(&last.last))
        }
        _ => None,
    }
}

/// Whether nothing of the last attempt has run.
fn prevented_start(failure: &FailureRecord) -> bool {
    ReasonTrait::PreventsStart.applies_to(&failure.last.reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{BuildFailure, FailureClass},
        engine::{Problem, WaitProgress, fixtures},
    };

    const WAITS: &str = "build 1 waits as Job a-0: no node can run the pod";
    const RETRIED: &str = "retried at 12:00 after: the pod cannot start: not found";

    fn decided(state: ImageState, reason: &'static str, message: &str) -> ImageDecision {
        let problem = Problem { reason, message: message.into() };
        ImageDecision { state, ..ImageDecision::waiting(problem, WaitProgress::InProgress) }
    }

    fn failed(reason: &str) -> FailureRecord {
        let message = "the pod cannot start: not found".into();
        let class = FailureClass::Infrastructure;
        let last = BuildFailure { class, reason: reason.into(), message };
        FailureRecord { last, ..FailureRecord::default() }
    }

    fn said(decided: &ImageDecision, builds: &[ObservedBuild]) -> Option<String> {
        unstarted_builds([DecidedImage { name: "a", decided, builds }])
    }

    #[test]
    fn a_build_that_does_not_start_is_named_through_all_its_tries() {
        let mut job = fixtures::job("f", 0, BuildOutcome::Running);
        (job.has_started, job.live) = (false, true);
        let mut building = decided(ImageState::Building, reason::BUILDING, WAITS);
        assert_eq!(said(&building, &[job.clone()]), None, "its first try has just begun");
        job.waits_for = Some("no node can run the pod".into());
        let waits = said(&building, &[job.clone()]);
        assert_eq!(waits, Some(format!("builds do not start: a: {WAITS}")));
        // The first try has failed, and the second has just begun.
        job.waits_for = None;
        let not_found = Some("builds do not start: a: the pod cannot start: not found".to_owned());
        building.failure = Some(failed(reason::IMAGE_PULL_FAILED).into());
        assert_eq!(said(&building, &[job.clone()]), not_found);
        job.has_started = true;
        assert_eq!(said(&building, &[job.clone()]), None, "it runs");
        let mut retried = decided(ImageState::Queued, reason::RETRYING, RETRIED);
        retried.failure = Some(failed(reason::IMAGE_PULL_FAILED).into());
        assert_eq!(said(&retried, &[]), Some(format!("builds do not start: a: {RETRIED}")));
        retried.failure = Some(failed(reason::EVICTED).into());
        assert_eq!(said(&retried, &[]), None, "it has started");
    }

    #[test]
    fn what_a_quota_rejects_is_named_and_the_rest_counted() {
        let full = decided(ImageState::Queued, reason::QUOTA_EXCEEDED, "exceeded quota");
        let busy = decided(ImageState::Queued, reason::PARALLELISM_REACHED, "");
        let current = decided(ImageState::Current, reason::CURRENT, "");
        let images = [("c", &current), ("q", &busy), ("a", &full), ("b", &full)]
            .map(|(name, decided)| DecidedImage { name, decided, builds: &[] });
        assert_eq!(
            unstarted_builds(images),
            Some("builds do not start: a: exceeded quota (and 1 more)".into())
        );
        assert_eq!(unstarted_builds(images.into_iter().take(2)), None);
    }
}
