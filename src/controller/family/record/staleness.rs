//! How long a family has not matched its inputs, and how much of that is intended. Pure.

use jiff::Timestamp;

use crate::{
    api::{
        ImageFamilySpec, ImageFamilyStatus, ImageState, ManagedImageStatus,
        condition::{Reason, ReasonTrait},
    },
    engine::ImageDecision,
};

/// Since when an image does not match its inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ImageStaleness {
    /// When its last failure at these inputs was observed.
    pub(super) failed_at: Option<Timestamp>,
    /// Since when it is overdue: [`image_overdue_since`].
    pub(super) overdue_since: Option<Timestamp>,
}

impl ImageStaleness {
    /// The staleness of an image whose record is `old`.
    pub(super) fn of(
        spec: &ImageFamilySpec,
        old: &ManagedImageStatus,
        decided: &ImageDecision,
        now: Timestamp,
    ) -> Self {
        let failure = decided.failure.as_ref().filter(|_| decided.state != ImageState::Current);
        Self {
            failed_at: failure.and_then(|failure| failure.at),
            overdue_since: image_overdue_since(spec, old, (decided.state, decided.reason), now),
        }
    }
}

/// Returns since when an image is overdue: it does not match its inputs, and neither a gate of the
/// spec nor a user wants that. `old` is its record.
///
/// The time stays the same from failure to failure, and while a further change settles. It starts
/// again after a hold, a suspension or a closed window.
pub(super) fn image_overdue_since(
    spec: &ImageFamilySpec,
    old: &ManagedImageStatus,
    (state, reason): (ImageState, Reason),
    now: Timestamp,
) -> Option<Timestamp> {
    let matches_or_held = matches!(state, ImageState::Current | ImageState::Held);
    match reason {
        _ if spec.suspend || matches_or_held => None,
        // These say nothing about the image itself: its inputs are not known yet, or an ancestor
        // of it counts.
        Reason::Resolving | Reason::Settling | Reason::WaitingForParent => old.overdue_since,
        reason if reason.has(ReasonTrait::Intended) => None,
        _ => old.overdue_since.or(Some(now)),
    }
}

/// Returns since when the family does not match its inputs: since the first move of an upstream
/// away from its adopted digest, the oldest pending change, the oldest running cascade, or the
/// image that is overdue or has failed for longest.
pub(super) fn stale_since(
    status: &ImageFamilyStatus,
    images: &[ImageStaleness],
) -> Option<Timestamp> {
    let candidates = status.upstreams.iter().filter_map(|upstream| upstream.outdated_since);
    let pending = status.pending.iter().filter_map(|pending| pending.since);
    let running = status.cascades.iter().filter_map(|cascade| cascade.started_at);
    let images = images.iter().flat_map(|image| [image.failed_at, image.overdue_since]).flatten();
    candidates.chain(pending).chain(running).chain(images).min()
}

/// Whether the spec or a user keeps an image or an upstream with this reason at its digest, or may
/// keep it there: after a restart, a candidate is resolved before its gates are known.
fn may_be_intended(reason: Reason) -> bool {
    reason == Reason::Resolving || reason.has(ReasonTrait::Intended)
}

/// Whether a gate of the spec keeps the whole family from building now: it is suspended, or no
/// window is open.
pub(super) fn is_gated(spec: &ImageFamilySpec, status: &ImageFamilyStatus) -> bool {
    spec.suspend || status.window.as_ref().is_some_and(|window| !window.open)
}

/// Returns since when something is stale that no gate of the spec keeps back. `gated_until` is when
/// a gate was last known to keep the whole family from building; what was stale by then counts from
/// there.
///
/// A candidate that waits for its age, for an approval or for the end of a hold is intended, and so
/// is a change that settles. A candidate that cannot be adopted for another reason, a running
/// cascade, and an image that is overdue itself are not.
pub(super) fn overdue_since(
    spec: &ImageFamilySpec,
    status: &ImageFamilyStatus,
    images: &[ImageStaleness],
    gated_until: Option<Timestamp>,
) -> Option<Timestamp> {
    if spec.suspend {
        return None;
    }
    let refused = status.upstreams.iter().filter_map(|upstream| {
        upstream.reason.as_ref()?;
        let is_intended = upstream.known_reason().is_some_and(may_be_intended);
        upstream.outdated_since.filter(|_| !is_intended)
    });
    let images = images.iter().filter_map(|image| image.overdue_since);
    let running = status.cascades.iter().filter_map(|cascade| cascade.started_at);
    let running = running
        .filter(|_| !is_gated(spec, status))
        .map(|started| gated_until.map_or(started, |gated| started.max(gated)));
    refused.chain(images).chain(running).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{
        CandidateDigest, Pending, RunningCascade, UpstreamStatus, WindowStatus, condition::Reason,
    };

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    fn candidate(reason: Option<Reason>) -> ImageFamilyStatus {
        let upstream = UpstreamStatus {
            // It has moved again since.
            candidate: Some(CandidateDigest {
                first_observed: at(140),
                ..CandidateDigest::default()
            }),
            outdated_since: at(100),
            reason: reason.map(Into::into),
            ..UpstreamStatus::default()
        };
        ImageFamilyStatus { upstreams: vec![upstream], ..ImageFamilyStatus::default() }
    }

    fn running(window: Option<bool>) -> ImageFamilyStatus {
        ImageFamilyStatus {
            cascades: vec![RunningCascade { started_at: at(200), ..RunningCascade::default() }],
            window: window.map(|open| WindowStatus { open, until: None }),
            ..ImageFamilyStatus::default()
        }
    }

    fn overdue() -> [ImageStaleness; 1] {
        [ImageStaleness { overdue_since: at(300), ..ImageStaleness::default() }]
    }

    /// Since when an image is overdue that was overdue since `old` before.
    fn overdue_image(
        spec: &ImageFamilySpec,
        old: Option<Timestamp>,
        decided: (ImageState, Reason),
    ) -> Option<Timestamp> {
        let old = ManagedImageStatus { overdue_since: old, ..ManagedImageStatus::default() };
        image_overdue_since(spec, &old, decided, at(900).expect("a time"))
    }

    #[test]
    fn what_a_gate_keeps_back_is_stale_and_not_overdue() {
        let spec = ImageFamilySpec::default();
        for reason in [
            Reason::Held,
            Reason::MinimumAge,
            Reason::DigestReturned,
            Reason::AwaitingApproval,
            Reason::Resolving,
        ] {
            let status = candidate(Some(reason));
            assert_eq!(stale_since(&status, &[]), at(100), "{reason}");
            assert_eq!(overdue_since(&spec, &status, &[], None), None, "{reason}");
        }
        let mut settling = candidate(None);
        settling.pending = Some(Pending { since: at(150), ..Pending::default() });
        assert_eq!(stale_since(&settling, &[]), at(100));
        assert_eq!(overdue_since(&spec, &settling, &[], None), None);

        let suspended = ImageFamilySpec { suspend: true, ..ImageFamilySpec::default() };
        assert_eq!(stale_since(&running(None), &overdue()), at(200));
        assert_eq!(overdue_since(&suspended, &running(None), &overdue(), None), None);
        let failed = (ImageState::Failed, Reason::BuildFailed);
        assert_eq!(overdue_image(&suspended, at(300), failed), None);

        assert_eq!(overdue_since(&spec, &running(Some(false)), &[], None), None);
        for decided in [
            (ImageState::Current, Reason::Current),
            (ImageState::Held, Reason::BuildFailed),
            (ImageState::Queued, Reason::Held),
            (ImageState::Queued, Reason::WindowClosed),
        ] {
            assert_eq!(overdue_image(&spec, at(300), decided), None, "{decided:?}");
        }
        let failed = ImageStaleness { failed_at: at(300), overdue_since: None };
        assert_eq!(stale_since(&ImageFamilyStatus::default(), &[failed]), at(300));
    }

    #[test]
    fn what_no_gate_keeps_back_is_overdue() {
        let spec = ImageFamilySpec::default();
        for reason in [Reason::PlatformMissing, Reason::RegistryDenied] {
            assert_eq!(overdue_since(&spec, &candidate(Some(reason)), &[], None), at(100));
        }
        for window in [None, Some(true)] {
            assert_eq!(overdue_since(&spec, &running(window), &[], None), at(200));
        }
        for status in [ImageFamilyStatus::default(), candidate(Some(Reason::Held))] {
            assert_eq!(overdue_since(&spec, &status, &overdue(), None), at(300));
        }
        let mut closed = running(Some(false));
        closed.cascades.clear();
        assert_eq!(overdue_since(&spec, &closed, &overdue(), None), at(300));
    }

    /// An image that fails, is tried again and waits in between is overdue since it first was, also
    /// if it has never got as far as a build.
    #[test]
    fn an_image_is_overdue_since_the_first_failure() {
        let spec = ImageFamilySpec::default();
        for decided in [
            (ImageState::Failed, Reason::BuildFailed),
            (ImageState::Queued, Reason::QuotaExceeded),
            (ImageState::Building, Reason::Building),
            (ImageState::Waiting, Reason::SourceUnavailable),
        ] {
            assert_eq!(overdue_image(&spec, None, decided), at(900), "{decided:?}");
            assert_eq!(overdue_image(&spec, at(300), decided), at(300), "{decided:?}");
        }
        for decided in [
            (ImageState::Queued, Reason::Settling),
            (ImageState::Waiting, Reason::WaitingForParent),
            (ImageState::Waiting, Reason::Resolving),
        ] {
            assert_eq!(overdue_image(&spec, None, decided), None, "{decided:?}");
            assert_eq!(overdue_image(&spec, at(300), decided), at(300), "{decided:?}");
        }
    }

    /// A cascade that has to wait for the next window is not overdue when that opens.
    #[test]
    fn time_before_a_gate_opened_does_not_count() {
        let spec = ImageFamilySpec::default();
        assert_eq!(overdue_since(&spec, &running(Some(true)), &[], at(900)), at(900));
        assert_eq!(overdue_since(&spec, &running(Some(true)), &[], at(50)), at(200));
        assert_eq!(overdue_since(&spec, &running(Some(true)), &overdue(), at(900)), at(300));
    }
}
