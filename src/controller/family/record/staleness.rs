//! How long a family has not matched its inputs, and how much of that is intended. Pure.

use jiff::Timestamp;

use crate::api::{
    ImageFamilySpec, ImageFamilyStatus, ImageState,
    condition::{Reason, ReasonTrait},
};

/// An image that is not current and has failed at its inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct StaleFailure {
    /// The reason of the image.
    pub(super) reason: Reason,
    /// The state of the image.
    pub(super) state: ImageState,
    /// When the failure was observed.
    pub(super) at: Option<Timestamp>,
}

/// Returns since when the family does not match its inputs: since the first move of an upstream
/// away from its adopted digest, the oldest pending change, the oldest running cascade, or the
/// oldest failure.
pub(super) fn stale_since(
    status: &ImageFamilyStatus,
    failed: &[StaleFailure],
) -> Option<Timestamp> {
    let candidates = status.upstreams.iter().filter_map(|upstream| upstream.outdated_since);
    let pending = status.pending.iter().filter_map(|pending| pending.since);
    let running = status.cascades.iter().filter_map(|cascade| cascade.started_at);
    let failures = failed.iter().filter_map(|failed| failed.at);
    candidates.chain(pending).chain(running).chain(failures).min()
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
/// cascade, and a failure are not.
pub(super) fn overdue_since(
    spec: &ImageFamilySpec,
    status: &ImageFamilyStatus,
    failed: &[StaleFailure],
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
    let failures = failed
        .iter()
        .filter(|failed| failed.state != ImageState::Held && !may_be_intended(failed.reason))
        .filter_map(|failed| failed.at);
    let running = status.cascades.iter().filter_map(|cascade| cascade.started_at);
    let running = running
        .filter(|_| !is_gated(spec, status))
        .map(|started| gated_until.map_or(started, |gated| started.max(gated)));
    refused.chain(failures).chain(running).min()
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

    fn failed(state: ImageState, reason: Reason) -> [StaleFailure; 1] {
        [StaleFailure { reason, state, at: at(300) }]
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
        let failures = failed(ImageState::Failed, Reason::BuildFailed);
        assert_eq!(stale_since(&running(None), &failures), at(200));
        assert_eq!(overdue_since(&suspended, &running(None), &failures, None), None);

        assert_eq!(overdue_since(&spec, &running(Some(false)), &[], None), None);
        for (state, reason) in [
            (ImageState::Held, Reason::Held),
            (ImageState::Queued, Reason::WindowClosed),
            (ImageState::Queued, Reason::Settling),
        ] {
            let status = ImageFamilyStatus::default();
            assert_eq!(stale_since(&status, &failed(state, reason)), at(300));
            assert_eq!(overdue_since(&spec, &status, &failed(state, reason), None), None);
        }
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
        for (state, reason) in
            [(ImageState::Failed, Reason::BuildFailed), (ImageState::Queued, Reason::QuotaExceeded)]
        {
            let failed = failed(state, reason);
            for status in [ImageFamilyStatus::default(), candidate(Some(Reason::Held))] {
                assert_eq!(overdue_since(&spec, &status, &failed, None), at(300));
            }
            let mut closed = running(Some(false));
            closed.cascades.clear();
            assert_eq!(overdue_since(&spec, &closed, &failed, None), at(300));
        }
    }

    /// A cascade that has to wait for the next window is not overdue when that opens.
    #[test]
    fn time_before_a_gate_opened_does_not_count() {
        let spec = ImageFamilySpec::default();
        assert_eq!(overdue_since(&spec, &running(Some(true)), &[], at(900)), at(900));
        assert_eq!(overdue_since(&spec, &running(Some(true)), &[], at(50)), at(200));
        let failures = failed(ImageState::Failed, Reason::BuildFailed);
        assert_eq!(overdue_since(&spec, &running(Some(true)), &failures, at(900)), at(300));
    }
}
