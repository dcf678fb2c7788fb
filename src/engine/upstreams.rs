//! Upstreams: which digest builds use, which newer digest waits as a candidate, and why.

use jiff::Timestamp;

use crate::{
    api::{
        AdoptedDigest, Approval, CandidateDigest, Cause, CauseType, Upstream, UpstreamStatus,
        condition::{MAX_MESSAGE, reason, shorten},
    },
    engine::{
        causes::short,
        input::{DecideInput, ObservedDigest, ObservedUpstream},
    },
    lineage::UpstreamIndex,
};

/// The upstreams before candidates are adopted.
#[derive(Clone, Debug)]
pub struct FollowedUpstreams {
    /// The upstreams, parallel to `spec.upstreams`. First digests are adopted already, candidates
    /// wait.
    pub upstreams: Vec<UpstreamStatus>,
    /// When the first hold expires, or the first candidate is old enough.
    pub wake_at: Option<Timestamp>,
}

/// Returns the status of every upstream. `known` are the recorded upstreams with the changes that
/// users request.
#[must_use]
pub fn follow_upstreams(
    input: &DecideInput<'_>,
    known: &[UpstreamStatus],
    now: Timestamp,
) -> FollowedUpstreams {
    let mut followed =
        FollowedUpstreams { upstreams: Vec::with_capacity(input.upstreams.len()), wake_at: None };
    for (upstream, observed) in input.spec.upstreams.iter().zip(&input.upstreams) {
        let known = known.iter().find(|known| known.name == upstream.name);
        let (status, wake_at) = follow_upstream(upstream, observed, known, now);
        followed.upstreams.push(status);
        followed.wake_at = [followed.wake_at, wake_at].into_iter().flatten().min();
    }
    followed
}

/// Whether the candidate may be adopted as soon as the gates of the cascade open.
#[must_use]
pub fn eligible(upstream: &UpstreamStatus) -> bool {
    upstream.candidate.is_some() && upstream.reason.is_none()
}

/// Adopts every eligible candidate, and returns the upstreams that moved.
pub fn adopt_candidates(
    upstreams: &mut [UpstreamStatus],
    now: Timestamp,
) -> Vec<(UpstreamIndex, Cause)> {
    let mut moved = Vec::new();
    for (index, upstream) in UpstreamIndex::enumerate(upstreams) {
        if !eligible(upstream) {
            continue;
        }
        if let Some(candidate) = upstream.candidate.take() {
            let from = upstream
                .adopted
                .as_ref()
                .map_or_else(String::new, |adopted| adopted.digest.clone());
            let (name, to) = (upstream.name.clone(), candidate.digest.clone());
            moved.push((
                index,
                Cause { type_: CauseType::Upstream, name, from, to, via: Vec::new() },
            ));
            upstream.adopted = Some(AdoptedDigest {
                digest: candidate.digest,
                first_observed: candidate.first_observed,
                since: Some(now),
            });
            upstream.message = None;
        }
    }
    moved
}

/// The hold that applies to an upstream. A hold of the manifest takes precedence over one that a
/// request has set.
struct EffectiveHold<'a> {
    digest: Option<&'a str>,
    until: Option<Timestamp>,
    reason: Option<&'a str>,
}

/// Returns the hold that applies now.
fn effective_hold<'a>(
    upstream: &'a Upstream,
    known: Option<&'a UpstreamStatus>,
    now: Timestamp,
) -> Option<EffectiveHold<'a>> {
    let of_spec = upstream.hold_at(now).map(|hold| EffectiveHold {
        digest: hold.digest.as_deref(),
        until: hold.until,
        reason: hold.reason.as_deref(),
    });
    of_spec.or_else(|| {
        let hold =
            known?.hold.as_ref().filter(|hold| hold.until.is_none_or(|until| now < until))?;
        Some(EffectiveHold {
            digest: hold.digest.as_deref(),
            until: hold.until,
            reason: hold.reason.as_deref(),
        })
    })
}

/// Returns the status of one upstream, and when its hold expires or its candidate is old enough.
fn follow_upstream(
    upstream: &Upstream,
    observed: &ObservedUpstream,
    known: Option<&UpstreamStatus>,
    now: Timestamp,
) -> (UpstreamStatus, Option<Timestamp>) {
    let manual = known
        .and_then(|known| known.hold.clone())
        .filter(|hold| hold.until.is_none_or(|until| now < until));
    let hold = effective_hold(upstream, known, now);
    // What was recorded for another image or tag does not apply to this one. A manual hold belongs
    // to the name, so that it stays.
    let known = known.filter(|known| known.reference == upstream.reference());
    let mut status = UpstreamStatus {
        name: upstream.name.clone(),
        reference: upstream.reference(),
        adopted: known.and_then(|known| known.adopted.clone()),
        candidate: known.and_then(|known| known.candidate.clone()),
        approval: known.and_then(|known| known.approval.clone()),
        hold: manual,
        reason: None,
        message: None,
    };
    if let Some(digest) = hold.as_ref().and_then(|hold| hold.digest)
        && status.adopted.as_ref().is_none_or(|adopted| adopted.digest != *digest)
    {
        status.adopted = Some(AdoptedDigest {
            digest: digest.into(),
            first_observed: Some(now),
            since: Some(now),
        });
    }
    if let Some(digest) = &observed.newest {
        record_newest(&mut status, digest, hold.as_ref(), now);
    }
    let old_enough = explain(&mut status, upstream, observed, hold.as_ref(), now);
    let wake_at = hold.and_then(|hold| hold.until).into_iter().chain(old_enough).min();
    (status, wake_at)
}

/// Records the newest digest: as the adopted one if it is the first, as the candidate otherwise. It
/// is not recorded if it is adopted already.
fn record_newest(
    status: &mut UpstreamStatus,
    newest: &ObservedDigest,
    hold: Option<&EffectiveHold<'_>>,
    now: Timestamp,
) {
    let complete = newest.missing_platforms.is_empty();
    match &status.adopted {
        None if complete && hold.is_none() => {
            let first_observed = Some(newest.first_observed);
            status.adopted = Some(AdoptedDigest {
                digest: String::from(&newest.digest),
                first_observed,
                since: Some(now),
            });
            status.candidate = None;
        }
        Some(adopted) if newest.digest == adopted.digest => status.candidate = None,
        _ if status
            .candidate
            .as_ref()
            .is_some_and(|candidate| newest.digest == candidate.digest) => {}
        _ => {
            status.candidate = Some(CandidateDigest {
                digest: String::from(&newest.digest),
                first_observed: Some(newest.first_observed),
            });
        }
    }
}

/// Sets why the candidate is not adopted, or why the poll failed. Returns when the candidate is old
/// enough, if it waits for that.
fn explain(
    status: &mut UpstreamStatus,
    upstream: &Upstream,
    observed: &ObservedUpstream,
    hold: Option<&EffectiveHold<'_>>,
    now: Timestamp,
) -> Option<Timestamp> {
    // A candidate that was recorded by an earlier process or for other platforms is unconfirmed
    // until this process has polled it.
    let confirmed = status.candidate.as_ref().is_none_or(|candidate| {
        observed.newest.as_ref().is_some_and(|newest| newest.digest == candidate.digest)
    });
    let missing: &[String] =
        observed.newest.as_ref().map_or(&[], |newest| &newest.missing_platforms);
    let old_enough = status.candidate.as_ref().map(|candidate| {
        let first_observed = candidate.first_observed.unwrap_or(now);
        first_observed.saturating_add(upstream.minimum_age.signed()).unwrap_or(Timestamp::MAX)
    });
    let young = old_enough.filter(|at| *at > now && status.adopted.is_some());
    let approved = upstream.approval == Approval::Automatic
        || status.adopted.is_none()
        || status.candidate.as_ref().map(|candidate| &candidate.digest)
            == status.approval.as_ref().map(|approval| &approval.digest);
    let (reason, message) = if let (Some(hold), Some(candidate)) = (hold, &status.candidate) {
        (reason::HELD, hold_message(hold, &candidate.digest, status.adopted.as_ref()))
    } else if let (false, Some(candidate)) = (missing.is_empty(), &status.candidate) {
        let message =
            format!("{} does not offer {} yet", short(&candidate.digest), missing.join(", "));
        (reason::PLATFORM_MISSING, message)
    } else if let (false, Some(problem)) = (confirmed, &observed.problem) {
        (problem.reason, problem.message.clone())
    } else if !confirmed {
        (reason::RESOLVING, "the candidate is polled again before it is adopted".to_owned())
    } else if let (Some(at), Some(candidate)) = (young, &status.candidate) {
        let message = format!(
            "{} is younger than minimumAge; it may be adopted at {at:.0}",
            short(&candidate.digest)
        );
        (reason::MINIMUM_AGE, message)
    } else if let (false, Some(candidate)) = (approved, &status.candidate) {
        let message = format!(
            "{0} waits for approval: kubectl family approve FAMILY {1} --digest {0}",
            candidate.digest, upstream.name
        );
        (reason::AWAITING_APPROVAL, message)
    } else if let (None, Some(problem)) = (&status.candidate, &observed.problem) {
        (problem.reason, problem.message.clone())
    } else {
        return None;
    };
    let wake_at = young.filter(|_| reason == reason::MINIMUM_AGE);
    status.reason = Some(reason.into());
    status.message = Some(shorten(&message, MAX_MESSAGE));
    wake_at
}

fn hold_message(
    hold: &EffectiveHold<'_>,
    candidate: &str,
    adopted: Option<&AdoptedDigest>,
) -> String {
    let until = hold.until.map_or_else(String::new, |until| format!(" until {until}"));
    let why = hold.reason.map_or_else(String::new, |why| format!(": {why}"));
    if adopted.is_some() {
        format!("held{until}{why}; {} is available", short(candidate))
    } else {
        format!("held{until}{why} before a digest was adopted; set hold.digest, or end the hold")
    }
}
