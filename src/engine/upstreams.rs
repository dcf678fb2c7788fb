//! Upstreams: which digest builds use, which newer one waits, and why.

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

/// The upstreams before anything new is adopted, and when the first of their gates opens by itself.
#[derive(Clone, Debug)]
pub struct Followed {
    /// The upstreams, as `spec.upstreams`: first digests are in use already, candidates wait.
    pub upstreams: Vec<UpstreamStatus>,
    /// When a hold ends, or a candidate is old enough.
    pub wake_at: Option<Timestamp>,
}

/// Looks at every upstream. `known` are the upstreams as they were recorded, with what requests
/// have changed of them.
#[must_use]
pub fn follow(input: &DecideInput<'_>, known: &[UpstreamStatus], now: Timestamp) -> Followed {
    let mut followed =
        Followed { upstreams: Vec::with_capacity(input.upstreams.len()), wake_at: None };
    for (upstream, observed) in input.spec.upstreams.iter().zip(&input.upstreams) {
        let known = known.iter().find(|known| known.name == upstream.name);
        let (status, wake_at) = one(upstream, observed, known, now);
        followed.upstreams.push(status);
        followed.wake_at = [followed.wake_at, wake_at].into_iter().flatten().min();
    }
    followed
}

/// Whether the candidate may be adopted as soon as the cascade's own gates open.
#[must_use]
pub fn eligible(upstream: &UpstreamStatus) -> bool {
    upstream.candidate.is_some() && upstream.reason.is_none()
}

/// Adopts every candidate that may be; says what moved.
pub fn adopt(upstreams: &mut [UpstreamStatus], now: Timestamp) -> Vec<(UpstreamIndex, Cause)> {
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
                first_seen: candidate.first_seen,
                since: Some(now),
            });
            upstream.message = None;
        }
    }
    moved
}

/// A hold, whoever has set it: the manifest comes first.
struct Held<'a> {
    digest: Option<&'a str>,
    until: Option<Timestamp>,
    reason: Option<&'a str>,
}

fn held<'a>(
    upstream: &'a Upstream,
    known: Option<&'a UpstreamStatus>,
    now: Timestamp,
) -> Option<Held<'a>> {
    let of_spec = upstream.hold_at(now).map(|hold| Held {
        digest: hold.digest.as_deref(),
        until: hold.until,
        reason: hold.reason.as_deref(),
    });
    of_spec.or_else(|| {
        let hold =
            known?.hold.as_ref().filter(|hold| hold.until.is_none_or(|until| now < until))?;
        Some(Held {
            digest: hold.digest.as_deref(),
            until: hold.until,
            reason: hold.reason.as_deref(),
        })
    })
}

fn one(
    upstream: &Upstream,
    observed: &ObservedUpstream,
    known: Option<&UpstreamStatus>,
    now: Timestamp,
) -> (UpstreamStatus, Option<Timestamp>) {
    let manual = known
        .and_then(|known| known.hold.clone())
        .filter(|hold| hold.until.is_none_or(|until| now < until));
    let hold = held(upstream, known, now);
    // What was recorded for another image or tag says nothing about this one; a person's hold is of
    // the name.
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
        status.adopted =
            Some(AdoptedDigest { digest: digest.into(), first_seen: Some(now), since: Some(now) });
    }
    if let Some(digest) = &observed.newest {
        offer(&mut status, digest, hold.is_some(), now);
    }
    let old_enough = explain(&mut status, upstream, observed, hold.as_ref(), now);
    let wake_at = hold.and_then(|hold| hold.until).into_iter().chain(old_enough).min();
    (status, wake_at)
}

/// Takes note of the newest digest: as the first, as a candidate, or as what is in use already.
fn offer(status: &mut UpstreamStatus, input: &ObservedDigest, held: bool, now: Timestamp) {
    let complete = input.missing_platforms.is_empty();
    match &status.adopted {
        None if complete && !held => {
            let first_seen = Some(input.first_seen);
            status.adopted = Some(AdoptedDigest {
                digest: String::from(&input.digest),
                first_seen,
                since: Some(now),
            });
            status.candidate = None;
        }
        Some(adopted) if input.digest == adopted.digest => status.candidate = None,
        _ if status
            .candidate
            .as_ref()
            .is_some_and(|candidate| input.digest == candidate.digest) => {}
        _ => {
            status.candidate = Some(CandidateDigest {
                digest: String::from(&input.digest),
                first_seen: Some(input.first_seen),
            });
        }
    }
}

/// Says why the candidate is not used, or why nothing could be seen. Returns when a candidate is
/// old enough, if it waits for that.
fn explain(
    status: &mut UpstreamStatus,
    upstream: &Upstream,
    observed: &ObservedUpstream,
    hold: Option<&Held<'_>>,
    now: Timestamp,
) -> Option<Timestamp> {
    // A candidate that was only recorded, by an earlier process or for other platforms, has not
    // been looked at.
    let confirmed = status.candidate.as_ref().is_none_or(|candidate| {
        observed.newest.as_ref().is_some_and(|newest| newest.digest == candidate.digest)
    });
    let missing: &[String] =
        observed.newest.as_ref().map_or(&[], |newest| &newest.missing_platforms);
    let old_enough = status.candidate.as_ref().map(|candidate| {
        let first_seen = candidate.first_seen.unwrap_or(now);
        first_seen.saturating_add(upstream.minimum_age.signed()).unwrap_or(Timestamp::MAX)
    });
    let young = old_enough.filter(|at| *at > now && status.adopted.is_some());
    let approved = upstream.approval == Approval::Automatic
        || status.adopted.is_none()
        || status.candidate.as_ref().map(|candidate| &candidate.digest)
            == status.approval.as_ref().map(|approval| &approval.digest);
    let (reason, message) = if let (Some(hold), Some(candidate)) = (hold, &status.candidate) {
        (reason::HELD, told_hold(hold, &candidate.digest, status.adopted.is_some()))
    } else if let (false, Some(candidate)) = (missing.is_empty(), &status.candidate) {
        let message =
            format!("{} does not offer {} yet", short(&candidate.digest), missing.join(", "));
        (reason::PLATFORM_MISSING, message)
    } else if let (false, Some(problem)) = (confirmed, &observed.problem) {
        (problem.reason, problem.message.clone())
    } else if !confirmed {
        (reason::RESOLVING, "the newer digest is looked at again before it is used".to_owned())
    } else if let (Some(at), Some(candidate)) = (young, &status.candidate) {
        let message = format!(
            "{} is younger than minimumAge; it is used from {at:.0} on",
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

fn told_hold(hold: &Held<'_>, candidate: &str, in_use: bool) -> String {
    let until = hold.until.map_or_else(String::new, |until| format!(" until {until}"));
    let why = hold.reason.map_or_else(String::new, |why| format!(": {why}"));
    if in_use {
        format!("held{until}{why}; {} is out", short(candidate))
    } else {
        format!(
            "held{until}{why} before any digest was in use: name one in hold.digest, or end \
                 the hold"
        )
    }
}
