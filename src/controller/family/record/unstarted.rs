//! Builds that do not start, as the message of a family says it: their Jobs or pods are rejected,
//! or their pods do not start. Pure.

use crate::{
    api::{
        FailureRecord, ImageState,
        condition::{Reason, ReasonTrait, shorten},
    },
    engine::{BuildOutcome, ImageDecision, ObservedBuild, Problem, image::failure},
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
/// What it says about a build stays the same from one try to the next, and so does the reason.
pub(super) fn unstarted_builds<'a>(
    images: impl IntoIterator<Item = DecidedImage<'a>>,
) -> Option<Problem> {
    let mut unstarted =
        images.into_iter().filter_map(|image| Some((image.name, why_unstarted(image)?)));
    let (name, Problem { reason, message: why }) = unstarted.next()?;
    let more = match unstarted.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    let message = format!("builds do not start: {name}: {}{more}", shorten(&why, MAX_MESSAGE));
    Some(Problem { reason, message })
}

/// Returns why the build of an image does not start, if it does not.
fn why_unstarted(image: DecidedImage<'_>) -> Option<Problem> {
    let DecidedImage { decided, builds, .. } = image;
    let last = decided.failure.as_deref().and_then(what_prevented_start);
    let because = |reason: Reason| Some(Problem { reason, message: decided.message.to_string() });
    match decided.state {
        ImageState::Queued if decided.reason.has(ReasonTrait::PreventsStart) => {
            because(decided.reason)
        }
        ImageState::Queued if decided.reason == Reason::Retrying => because(last?.reason),
        ImageState::Building => {
            let build = builds.iter().find(|build| build.outcome == BuildOutcome::Running)?;
            if build.waits_for.is_some() {
                return because(build.wait_reason.unwrap_or(Reason::PodNotStarted));
            }
            last.filter(|_| !build.has_started)
        }
        _ => None,
    }
}

/// Returns why the last attempt did not start, if nothing of it has run.
fn what_prevented_start(failure: &FailureRecord) -> Option<Problem> {
    let reason = failure.last.known_reason()?;
    let message = failure::summary(&failure.last);
    reason.has(ReasonTrait::PreventsStart).then_some(Problem { reason, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::{BuildFailure, FailureClass},
        engine::{WaitProgress, fixtures},
    };

    const WAITS: &str = "build 1 waits as Job a-0: the image is not found";
    const RETRIED: &str = "retried at 12:00 after: the pod cannot start: not found";

    fn decided(state: ImageState, reason: Reason, message: &str) -> ImageDecision {
        let problem = Problem { reason, message: message.into() };
        ImageDecision { state, ..ImageDecision::waiting(problem, WaitProgress::InProgress) }
    }

    fn failed(reason: Reason) -> FailureRecord {
        let message = "the pod cannot start: not found".into();
        let class = FailureClass::Infrastructure;
        let last = BuildFailure { class, reason: reason.into(), message };
        FailureRecord { last, ..FailureRecord::default() }
    }

    fn problem(reason: Reason, message: &str) -> Problem {
        Problem { reason, message: format!("builds do not start: a: {message}") }
    }

    fn said(decided: &ImageDecision, builds: &[ObservedBuild]) -> Option<Problem> {
        unstarted_builds([DecidedImage { name: "a", decided, builds }])
    }

    #[test]
    fn a_build_that_does_not_start_is_named_through_all_its_tries() {
        let mut job = fixtures::job("f", 0, BuildOutcome::Running);
        (job.has_started, job.live) = (false, true);
        let mut building = decided(ImageState::Building, Reason::Building, WAITS);
        assert_eq!(said(&building, &[job.clone()]), None, "its first try has just begun");
        job.waits_for = Some("the image is not found".into());
        job.wait_reason = Some(Reason::ImagePullFailed);
        let waits = said(&building, &[job.clone()]);
        assert_eq!(waits, Some(problem(Reason::ImagePullFailed, WAITS)));
        // The first try has failed, and the second has just begun. The reason stays.
        (job.waits_for, job.wait_reason) = (None, None);
        let not_found = Some(problem(Reason::ImagePullFailed, "the pod cannot start: not found"));
        building.failure = Some(failed(Reason::ImagePullFailed).into());
        assert_eq!(said(&building, &[job.clone()]), not_found);
        job.has_started = true;
        assert_eq!(said(&building, &[job.clone()]), None, "it runs");
        let mut retried = decided(ImageState::Queued, Reason::Retrying, RETRIED);
        retried.failure = Some(failed(Reason::ImagePullFailed).into());
        assert_eq!(said(&retried, &[]), Some(problem(Reason::ImagePullFailed, RETRIED)));
        retried.failure = Some(failed(Reason::Evicted).into());
        assert_eq!(said(&retried, &[]), None, "it has started");
    }

    #[test]
    fn what_a_quota_rejects_is_named_and_the_rest_counted() {
        let full = decided(ImageState::Queued, Reason::QuotaExceeded, "exceeded quota");
        let busy = decided(ImageState::Queued, Reason::ParallelismReached, "");
        let current = decided(ImageState::Current, Reason::Current, "");
        let images = [("c", &current), ("q", &busy), ("a", &full), ("b", &full)]
            .map(|(name, decided)| DecidedImage { name, decided, builds: &[] });
        assert_eq!(
            unstarted_builds(images),
            Some(problem(Reason::QuotaExceeded, "exceeded quota (and 1 more)"))
        );
        assert_eq!(unstarted_builds(images.into_iter().take(2)), None);
    }
}
