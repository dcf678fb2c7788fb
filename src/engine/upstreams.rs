//! Upstreams: which digest builds use, which newer digest waits as a candidate, and why.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        AdoptedDigest, Approval, CandidateDigest, Cause, CauseType, Upstream, UpstreamStatus,
        condition::{MAX_MESSAGE, Problem, Reason, shorten},
    },
    engine::{
        causes::short,
        input::{DecideInput, ObservedDigest, ObservedUpstream},
        maturing,
        upstream_memory::{KnownUpstream, known_upstream},
        upstream_records::{
            FirstDigest, NewestRules, drop_unused_approval, has_returned, held_record,
            record_newest, remember_superseded,
        },
    },
    lineage::UpstreamIndex,
};

/// How long a tag must point to a digest again that was replaced before, until it is adopted.
const RETURN_AGE: SignedDuration = SignedDuration::from_hours(24);
/// How many intervals ago a poll must have confirmed a candidate at most.
const CONFIRMED_FOR_INTERVALS: i32 = 2;
/// How long a poll may take beyond that, and when an unconfirmed candidate is checked again.
const CONFIRMATION_GRACE: SignedDuration = SignedDuration::from_mins(1);

/// The upstreams before candidates are adopted.
#[derive(Clone, Debug)]
pub struct FollowedUpstreams {
    /// The upstreams, parallel to `spec.upstreams`. First digests are adopted already, candidates
    /// wait.
    pub upstreams: Vec<UpstreamStatus>,
    /// Why an upstream uses no newer digest, parallel to `upstreams`. The status has the same
    /// reason and message as texts.
    pub problems: Vec<Option<Problem>>,
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
    let mut followed = FollowedUpstreams {
        upstreams: Vec::with_capacity(input.upstreams.len()),
        problems: Vec::with_capacity(input.upstreams.len()),
        wake_at: None,
    };
    for (upstream, observed) in input.spec.upstreams.iter().zip(&input.upstreams) {
        let known = known_upstream(input, known, upstream, observed);
        let FollowedUpstream { status, problem, wake_at } =
            follow_upstream(upstream, observed, &known, now);
        followed.upstreams.push(status);
        followed.problems.push(problem);
        followed.wake_at = [followed.wake_at, wake_at].into_iter().flatten().min();
    }
    followed
}

/// Whether the candidate may be adopted as soon as the gates of the cascade open.
#[must_use]
pub fn eligible(upstream: &UpstreamStatus) -> bool {
    upstream.candidate.is_some() && upstream.reason.is_none()
}

/// Adopts the candidates of these upstreams, and returns the upstreams with what has moved.
pub fn adopt_candidates(
    upstreams: &mut [UpstreamStatus],
    adopted: &[UpstreamIndex],
    now: Timestamp,
) -> Vec<(UpstreamIndex, Cause)> {
    let mut moved = Vec::new();
    for index in adopted {
        let Some(upstream) = upstreams.get_mut(index.position()) else { continue };
        if let Some(candidate) = upstream.candidate.take() {
            let from = upstream
                .adopted
                .as_ref()
                .map_or_else(String::new, |adopted| adopted.digest.clone());
            upstream.waiting.retain(|later| later.first_observed > candidate.first_observed);
            let (name, to) = (upstream.name.clone(), candidate.digest.clone());
            let cause = Cause { type_: CauseType::Upstream, name, from, to, ..Cause::default() };
            moved.push((*index, cause));
            if let Some(from) = &upstream.adopted {
                let from = from.content();
                remember_superseded(&mut upstream.superseded, from, candidate.content());
            }
            upstream.adopted = Some(AdoptedDigest {
                digest: candidate.digest,
                platforms: candidate.platforms,
                first_observed: candidate.first_observed,
                since: Some(now),
            });
            // An approval was for one adoption: what it names may come back because a mirror is
            // outdated.
            drop_unused_approval(upstream);
            upstream.outdated_since = None;
            upstream.message = None;
        }
    }
    moved
}

/// The hold that applies to an upstream. A hold of the manifest takes precedence over one that a
/// request has set.
pub(in crate::engine) struct EffectiveHold<'a> {
    /// The digest that builds use, if it is not the adopted one.
    pub(in crate::engine) digest: Option<&'a str>,
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

/// One upstream before its candidate is adopted.
struct FollowedUpstream {
    status: UpstreamStatus,
    /// Why it uses no newer digest.
    problem: Option<Problem>,
    /// When its hold expires or its candidate is old enough.
    wake_at: Option<Timestamp>,
}

/// Returns the state of one upstream.
fn follow_upstream(
    upstream: &Upstream,
    observed: &ObservedUpstream,
    known: &KnownUpstream<'_>,
    now: Timestamp,
) -> FollowedUpstream {
    let KnownUpstream { status: known, has_history } = known;
    let known = known.as_deref();
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
        waiting: known.map(|known| known.waiting.clone()).unwrap_or_default(),
        outdated_since: known.and_then(|known| known.outdated_since),
        approval: known.and_then(|known| known.approval.clone()),
        hold: manual,
        superseded: known.map(|known| known.superseded.clone()).unwrap_or_default(),
        reason: None,
        message: None,
        next_poll: observed.next_poll,
    };
    if let Some(digest) = hold.as_ref().and_then(|hold| hold.digest)
        && status.adopted.as_ref().is_none_or(|adopted| !adopted.content().names(digest))
    {
        let (candidate, newest) = (status.candidate.as_ref(), observed.newest.as_ref());
        status.adopted = Some(held_record(digest, candidate, newest, now));
    }
    if let Some(digest) = &observed.newest {
        let first = if *has_history { FirstDigest::Waits } else { FirstDigest::IsAdopted };
        let rules = NewestRules { hold: hold.as_ref(), first };
        record_newest(&mut status, upstream, digest, rules, now);
    }
    note_outdated(&mut status);
    drop_unused_approval(&mut status);
    let is_first = status.adopted.is_none() && !has_history;
    let candidate = status.candidate.as_ref().filter(|_| !is_first);
    let young_until = candidate
        .map(|candidate| maturing::old_enough_at(upstream, candidate, now))
        .filter(|at| *at > now);
    let newest = observed.newest.as_ref();
    let returning_until = returns_at(upstream, &status, newest, now).filter(|at| *at > now);
    let following = Following {
        upstream,
        observed,
        status: &status,
        hold: hold.as_ref(),
        is_first,
        returning_until,
        young_until,
        now,
    };
    let problem = following.problem();
    status.reason = problem.as_ref().map(|problem| problem.reason.into());
    status.message = problem.as_ref().map(|problem| problem.message.clone());
    let old_enough = match problem.as_ref().map(|problem| problem.reason) {
        Some(Reason::MinimumAge) => young_until,
        Some(Reason::DigestReturned) => returning_until,
        // A poll that finds the same digest wakes nobody.
        Some(Reason::Resolving) if observed.newest.is_some() => {
            now.checked_add(CONFIRMATION_GRACE).ok()
        }
        _ => None,
    };
    let wake_at = hold.and_then(|hold| hold.until).into_iter().chain(old_enough).min();
    FollowedUpstream { status, problem, wake_at }
}

/// Notes since when an upstream has had candidates, however often the tag has moved since.
fn note_outdated(status: &mut UpstreamStatus) {
    let first_observed = status.candidate.as_ref().map(|candidate| candidate.first_observed);
    status.outdated_since = first_observed
        .and_then(|first_observed| status.outdated_since.into_iter().chain(first_observed).min());
}

/// Returns when a candidate that was adopted and replaced before may be adopted again. The time for
/// which nothing is known of its tag does not count.
fn returns_at(
    upstream: &Upstream,
    status: &UpstreamStatus,
    newest: Option<&ObservedDigest>,
    now: Timestamp,
) -> Option<Timestamp> {
    let candidate = status.candidate.as_ref().filter(|candidate| {
        upstream.approval == Approval::Automatic
            && !is_approved(status, candidate)
            && has_returned(status, candidate.content())
    })?;
    let first_observed = candidate.first_observed.unwrap_or(now);
    let resumed = newest.filter(|newest| newest.digest == candidate.digest);
    let since = resumed.and_then(|newest| newest.resumed_at).max(Some(first_observed))?;
    Some(since.saturating_add(RETURN_AGE).unwrap_or(Timestamp::MAX))
}

/// Whether a user has approved the digest of the candidate, or of one of its images.
pub(in crate::engine) fn is_approved(status: &UpstreamStatus, candidate: &CandidateDigest) -> bool {
    let approval = status.approval.as_ref();
    approval.is_some_and(|approval| candidate.content().names(&approval.digest))
}

/// What determines whether the candidate of an upstream may be adopted.
struct Following<'a> {
    upstream: &'a Upstream,
    observed: &'a ObservedUpstream,
    status: &'a UpstreamStatus,
    hold: Option<&'a EffectiveHold<'a>>,
    /// Whether no digest was adopted before.
    is_first: bool,
    /// When a candidate that was replaced before is adopted again, if that is later.
    returning_until: Option<Timestamp>,
    /// When the candidate has the minimum age, if that is later.
    young_until: Option<Timestamp>,
    now: Timestamp,
}

impl Following<'_> {
    /// Returns why the candidate is not adopted, or why the poll failed.
    fn problem(&self) -> Option<Problem> {
        let Problem { reason, message } = match &self.status.candidate {
            Some(candidate) => self.problem_of_candidate(candidate)?,
            None => self.observed.problem.clone()?,
        };
        Some(Problem { reason, message: shorten(&message, MAX_MESSAGE) })
    }

    fn problem_of_candidate(&self, candidate: &CandidateDigest) -> Option<Problem> {
        let digest = &candidate.digest;
        let newest = self.observed.newest.as_ref();
        if let Some(hold) = self.hold {
            let message = hold_message(hold, digest, self.status.adopted.as_ref());
            return Some(Problem { reason: Reason::Held, message });
        }
        let is_newest = |newest: &&ObservedDigest| newest.digest == *digest;
        let missing = newest.filter(is_newest).map(|newest| missing_platforms(self.status, newest));
        let missing = missing.unwrap_or_default();
        if !missing.is_empty() {
            let message = format!("{} does not offer {} yet", short(digest), missing.join(", "));
            return Some(Problem { reason: Reason::PlatformMissing, message });
        }
        // A candidate that was recorded by an earlier process is unconfirmed until this process has
        // polled it, and so is one that the registry has not been asked for since.
        if newest.is_none_or(|newest| !self.is_confirmed(newest)) {
            return Some(self.observed.problem.clone().unwrap_or_else(|| Problem {
                reason: Reason::Resolving,
                message: "the candidate is polled again before it is adopted".to_owned(),
            }));
        }
        if let Some(at) = self.returning_until {
            let message = format!(
                "{digest} was replaced before; a mirror may be outdated, or the publisher went \
                 back. It is adopted at {at:.0} if the tag still points to it, or now with kubectl \
                 family approve FAMILY {} --digest {digest}",
                self.upstream.name
            );
            return Some(Problem { reason: Reason::DigestReturned, message });
        }
        if let Some(at) = self.young_until {
            let message = format!(
                "{} is younger than minimumAge; it may be adopted at {at:.0}",
                short(digest)
            );
            return Some(Problem { reason: Reason::MinimumAge, message });
        }
        let approved = self.upstream.approval == Approval::Automatic
            || self.is_first
            || is_approved(self.status, candidate);
        if !approved {
            let message = format!(
                "{digest} waits for approval: kubectl family approve FAMILY {} --digest {digest}",
                self.upstream.name
            );
            return Some(Problem { reason: Reason::AwaitingApproval, message });
        }
        None
    }

    /// Whether the last poll that did not fail is recent.
    fn is_confirmed(&self, newest: &ObservedDigest) -> bool {
        let intervals = self.upstream.interval.signed().saturating_mul(CONFIRMED_FOR_INTERVALS);
        let valid = intervals.checked_add(CONFIRMATION_GRACE).unwrap_or(SignedDuration::MAX);
        newest.confirmed_at.saturating_add(valid).is_ok_and(|until| self.now <= until)
    }
}

/// Returns the platforms that the newest digest must offer and does not: those of the spec, and
/// those for which the adopted one has an image. If nothing is offered that is built, it is every
/// platform that is built.
pub(in crate::engine) fn missing_platforms<'n>(
    status: &UpstreamStatus,
    newest: &'n ObservedDigest,
) -> Vec<&'n str> {
    let adopted = status.adopted.as_ref().map(AdoptedDigest::content);
    let is_lost = |platform: &str| {
        let known = adopted.and_then(|adopted| adopted.for_platform(platform));
        newest.offers_none() || known.is_some()
    };
    let required = newest.missing_platforms.iter().map(String::as_str);
    let mut missing: Vec<&str> = required.collect();
    let lost = newest.unoffered.iter().map(String::as_str);
    for platform in lost.filter(|platform| is_lost(platform)) {
        if !missing.contains(&platform) {
            missing.push(platform);
        }
    }
    missing
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
