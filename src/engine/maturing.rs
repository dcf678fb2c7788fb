//! Digests of an upstream that wait until they are old enough for `minimumAge`.
//!
//! A tag may move more often than `minimumAge` lasts. So the digests that it pointed to are kept
//! with their times, and the newest one that is old enough is adopted, whatever the tag has moved
//! to since. A tag that goes back to an earlier digest withdraws those that came after it.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        Approval, CandidateDigest, Upstream, UpstreamStatus,
        family_status::{MAX_PLATFORM_DIGESTS, MAX_WAITING},
    },
    engine::{
        input::ObservedDigest,
        upstream_records::{candidate, has_returned, is_same},
        upstreams::{is_approved, missing_platforms},
    },
};

/// Into how many parts the digests that are kept divide `minimumAge`. A tag that moves faster is
/// followed in steps of a part.
const PARTS: i32 = 4;

/// Returns when a digest has the minimum age of its upstream.
pub(in crate::engine) fn old_enough_at(
    upstream: &Upstream,
    candidate: &CandidateDigest,
    now: Timestamp,
) -> Timestamp {
    let first_observed = candidate.first_observed.unwrap_or(now);
    first_observed.saturating_add(upstream.minimum_age.signed()).unwrap_or(Timestamp::MAX)
}

/// Records the newest digest of a tag that does not point to what is adopted, and chooses the
/// candidate.
pub(in crate::engine) fn record(
    status: &mut UpstreamStatus,
    upstream: &Upstream,
    newest: &ObservedDigest,
    now: Timestamp,
) {
    let mut known: Vec<CandidateDigest> = status.observed().into_iter().cloned().collect();
    if let Some(position) = known.iter().position(|known| is_same(known, newest)) {
        let same = known.drain(..=position).next_back();
        known.insert(0, candidate(status, same, newest));
    } else if missing_platforms(status, newest).is_empty() {
        // Back at a digest before the adopted one: what came since is withdrawn.
        if has_returned(status, newest.content()) {
            known.clear();
        }
        // A digest that came back, or that is incomplete, counts while the tag points to it.
        known.retain(|known| !known.incomplete && !has_returned(status, known.content()));
        thin_out(upstream, &mut known);
        known.insert(0, candidate(status, None, newest));
    } else if known.iter().all(|known| known.incomplete) {
        known = vec![candidate(status, None, newest)];
    }
    choose(status, upstream, known, now);
}

/// Makes one of the known digests the candidate, and lets the others wait.
fn choose(
    status: &mut UpstreamStatus,
    upstream: &Upstream,
    mut known: Vec<CandidateDigest>,
    now: Timestamp,
) {
    let is_old =
        |known: &CandidateDigest| !known.incomplete && old_enough_at(upstream, known, now) <= now;
    let is_agreed = |known: &CandidateDigest| {
        upstream.approval == Approval::Automatic || is_approved(status, known)
    };
    let agreed = known.iter().position(|known| is_old(known) && is_agreed(known));
    let chosen = agreed.or_else(|| known.iter().position(is_old));
    let chosen = chosen.unwrap_or(known.len().saturating_sub(1));
    status.candidate = (chosen < known.len()).then(|| known.remove(chosen));
    // What is older than an adoptable candidate is not adopted any more.
    if status.candidate.as_ref().is_some_and(is_old) {
        known.truncate(chosen);
    }
    status.waiting = known;
}

/// Forgets the newest of the known digests if the one before it is hardly older, or if as many are
/// known as a status has room for. The oldest stays, so that one is adopted in time.
fn thin_out(upstream: &Upstream, known: &mut Vec<CandidateDigest>) {
    let [newest, before, ..] = &known[..] else { return };
    let part = upstream.minimum_age.signed().checked_div(PARTS).unwrap_or(SignedDuration::ZERO);
    let is_close = match (newest.first_observed, before.first_observed) {
        (Some(newest), Some(before)) => newest.duration_since(before) < part,
        _ => true,
    };
    let room = MAX_PLATFORM_DIGESTS.checked_div(newest.platforms.len()).unwrap_or(MAX_WAITING);
    if is_close || known.len() > room.clamp(1, MAX_WAITING) {
        known.remove(0);
    }
}
