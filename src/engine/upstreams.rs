//! Upstreams: which digest builds use, which newer one waits, and why.

use jiff::Timestamp;

use super::observation::{Observation, SeenDigest, UpstreamSight};
use crate::api::{AdoptedDigest, CandidateDigest, Cause, CauseType, Upstream, UpstreamStatus, condition::reason};

use super::causes::short;

/// The upstreams before anything new is adopted: holds and first digests already are, candidates wait.
#[must_use]
pub fn follow(seen: &Observation<'_>, now: Timestamp) -> Vec<UpstreamStatus> {
    seen.spec
        .upstreams
        .iter()
        .zip(&seen.upstreams)
        .map(|(upstream, sight)| {
            let known = seen.status.upstreams.iter().find(|known| known.name == upstream.name);
            one(upstream, sight, known, now)
        })
        .collect()
}

/// Whether the candidate may be adopted as soon as the wave's own gates open.
#[must_use]
pub fn eligible(upstream: &UpstreamStatus) -> bool {
    upstream.candidate.is_some() && upstream.reason.is_none()
}

/// Adopts every candidate that may be; says what moved.
pub fn adopt(upstreams: &mut [UpstreamStatus], now: Timestamp) -> Vec<(usize, Cause)> {
    let mut moved = Vec::new();
    for (index, upstream) in upstreams.iter_mut().enumerate() {
        if !eligible(upstream) {
            continue;
        }
        if let Some(candidate) = upstream.candidate.take() {
            let from = upstream.adopted.as_ref().map_or_else(String::new, |adopted| adopted.digest.clone());
            let cause = Cause {
                type_: CauseType::Upstream,
                name: upstream.name.clone(),
                from,
                to: candidate.digest.clone(),
                via: Vec::new(),
            };
            moved.push((index, cause));
            upstream.adopted =
                Some(AdoptedDigest { digest: candidate.digest, first_seen: candidate.first_seen, since: Some(now) });
            upstream.message = None;
        }
    }
    moved
}

fn one(upstream: &Upstream, sight: &UpstreamSight, known: Option<&UpstreamStatus>, now: Timestamp) -> UpstreamStatus {
    // What was recorded for another image or tag says nothing about this one.
    let known = known.filter(|known| known.reference == upstream.reference());
    let mut status = UpstreamStatus {
        name: upstream.name.clone(),
        reference: upstream.reference(),
        adopted: known.and_then(|known| known.adopted.clone()),
        candidate: known.and_then(|known| known.candidate.clone()),
        approval: known.and_then(|known| known.approval.clone()),
        hold: known.and_then(|known| known.hold.clone()),
        reason: None,
        message: None,
    };
    if let Some(hold) = upstream.hold_at(now)
        && let Some(digest) = &hold.digest
        && status.adopted.as_ref().is_none_or(|adopted| adopted.digest != *digest)
    {
        status.adopted = Some(AdoptedDigest { digest: digest.clone(), first_seen: Some(now), since: Some(now) });
    }
    if let Some(digest) = &sight.seen {
        offer(&mut status, digest, now);
    }
    explain(&mut status, upstream, sight, now);
    status
}

/// Takes note of the newest digest: as the first, as a candidate, or as what is in use already.
fn offer(status: &mut UpstreamStatus, seen: &SeenDigest, now: Timestamp) {
    let complete = seen.missing_platforms.is_empty();
    match &status.adopted {
        None if complete => {
            let first_seen = Some(seen.first_seen);
            status.adopted = Some(AdoptedDigest { digest: seen.digest.clone(), first_seen, since: Some(now) });
            status.candidate = None;
        }
        Some(adopted) if adopted.digest == seen.digest => status.candidate = None,
        _ if status.candidate.as_ref().is_some_and(|candidate| candidate.digest == seen.digest) => {}
        _ => {
            status.candidate = Some(CandidateDigest { digest: seen.digest.clone(), first_seen: Some(seen.first_seen) });
        }
    }
}

/// Says why the candidate is not used, or why nothing could be seen.
fn explain(status: &mut UpstreamStatus, upstream: &Upstream, sight: &UpstreamSight, now: Timestamp) {
    // A candidate that was only recorded, by an earlier process or for other platforms, has not been looked at.
    let confirmed = status
        .candidate
        .as_ref()
        .is_none_or(|candidate| sight.seen.as_ref().is_some_and(|seen| seen.digest == candidate.digest));
    let missing: &[String] = sight.seen.as_ref().map_or(&[], |seen| &seen.missing_platforms);
    let (reason, message) = if let (Some(hold), Some(candidate)) = (upstream.hold_at(now), &status.candidate) {
        let until = hold.until.map_or_else(String::new, |until| format!(" until {until}"));
        let why = hold.reason.as_ref().map_or_else(String::new, |why| format!(": {why}"));
        (reason::HELD, format!("held{until}{why}; {} is out", short(&candidate.digest)))
    } else if let (false, Some(candidate)) = (missing.is_empty(), &status.candidate) {
        let message = format!("{} does not offer {} yet", short(&candidate.digest), missing.join(", "));
        (reason::PLATFORM_MISSING, message)
    } else if let (false, Some(fault)) = (confirmed, &sight.fault) {
        (fault.reason, fault.message.clone())
    } else if !confirmed {
        (reason::RESOLVING, "the newer digest is looked at again before it is used".to_owned())
    } else if let (None, Some(fault)) = (&status.candidate, &sight.fault) {
        (fault.reason, fault.message.clone())
    } else {
        return;
    };
    status.reason = Some(reason.into());
    status.message = Some(message);
}
