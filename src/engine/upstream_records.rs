//! What the status of an upstream records of its tag: the digest of the tag, and the digests of its
//! images for the platforms that are built.
//!
//! Only a change of an image that is built makes a candidate. What else changes about a tag, and
//! what the record lacks of the same tag, is written into the record as it stands: nothing is built
//! for it, and no gate applies.

use jiff::Timestamp;

use crate::{
    api::{
        AdoptedDigest, ApprovalRecord, CandidateDigest, PlatformDigest, TagContent, Upstream,
        UpstreamStatus,
        family_status::{MAX_PLATFORM_DIGESTS, MAX_SUPERSEDED},
    },
    engine::{
        input::ObservedDigest,
        maturing,
        upstreams::{EffectiveHold, missing_platforms},
    },
};

/// What happens to the newest digest of an upstream without an adopted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum FirstDigest {
    /// It is the first one.
    IsAdopted,
    /// Another one was adopted before, so that it waits like any other.
    Waits,
}

/// What determines how the newest digest is recorded.
#[derive(Clone, Copy)]
pub(in crate::engine) struct NewestRules<'a> {
    pub(in crate::engine) hold: Option<&'a EffectiveHold<'a>>,
    pub(in crate::engine) first: FirstDigest,
}

/// Records the newest digest: as the adopted one if it is the first, as the candidate if builds
/// would use other images than those of the adopted one.
pub(in crate::engine) fn record_newest(
    status: &mut UpstreamStatus,
    upstream: &Upstream,
    newest: &ObservedDigest,
    NewestRules { hold, first }: NewestRules<'_>,
    now: Timestamp,
) {
    match &mut status.adopted {
        None if hold.is_none()
            && first == FirstDigest::IsAdopted
            && newest.missing_platforms.is_empty()
            && !newest.offers_none() =>
        {
            status.adopted = Some(AdoptedDigest {
                digest: String::from(&newest.digest),
                platforms: newest.platforms.clone(),
                first_observed: Some(newest.first_observed),
                since: Some(now),
            });
            forget_candidates(status);
        }
        Some(adopted) if newest.digest == adopted.digest => {
            add_platforms(&mut adopted.platforms, newest);
            forget_candidates(status);
        }
        Some(adopted) if builds_same(adopted.content(), newest) => {
            // A hold at the tag's own digest names this record.
            if hold.and_then(|hold| hold.digest) != Some(adopted.digest.as_str()) {
                rename_approval(status.approval.as_mut(), adopted.content(), newest);
                adopted.digest = String::from(&newest.digest);
                adopted.platforms.clone_from(&newest.platforms);
            }
            forget_candidates(status);
        }
        Some(_) if hold.is_none() && upstream.minimum_age.as_secs() > 0 => {
            maturing::record(status, upstream, newest, now);
        }
        _ => {
            let known = status.candidate.take();
            forget_candidates(status);
            let known = known.filter(|known| is_same(known, newest));
            status.candidate = Some(candidate(status, known, newest));
        }
    }
}

/// The tag points to what builds use: nothing newer is left to adopt.
fn forget_candidates(status: &mut UpstreamStatus) {
    status.candidate = None;
    status.waiting.clear();
}

/// Whether a recorded candidate is what was observed.
pub(in crate::engine) fn is_same(known: &CandidateDigest, newest: &ObservedDigest) -> bool {
    newest.digest == known.digest || builds_same(known.content(), newest)
}

/// Returns the record of the newest digest as a candidate; `known` is the record of the same one.
pub(in crate::engine) fn candidate(
    status: &mut UpstreamStatus,
    known: Option<CandidateDigest>,
    newest: &ObservedDigest,
) -> CandidateDigest {
    let incomplete = !missing_platforms(status, newest).is_empty();
    let new = CandidateDigest {
        digest: String::from(&newest.digest),
        platforms: newest.platforms.clone(),
        first_observed: Some(newest.first_observed),
        incomplete,
    };
    match known {
        Some(mut known) if newest.digest == known.digest => {
            add_platforms(&mut known.platforms, newest);
            CandidateDigest { incomplete, ..known }
        }
        Some(known) => {
            rename_approval(status.approval.as_mut(), known.content(), newest);
            CandidateDigest { first_observed: known.first_observed, ..new }
        }
        None => new,
    }
}

/// Drops an approval of what is neither adopted nor observed since: it must not lie in wait
/// until the tag points there again.
pub(in crate::engine) fn drop_unused_approval(status: &mut UpstreamStatus) {
    let adopted = status.adopted.as_ref().map(AdoptedDigest::content);
    let observed = status.observed().into_iter().map(CandidateDigest::content);
    let mut known = adopted.into_iter().chain(observed);
    if let Some(approval) = &status.approval
        && !known.any(|content| content.names(&approval.digest))
    {
        status.approval = None;
    }
}

/// Remembers what `to` replaces. If it was adopted before, the upstream is back where it was then:
/// what came later is forgotten, so that its return is an ordinary move.
pub(in crate::engine) fn remember_superseded(
    superseded: &mut Vec<String>,
    from: TagContent<'_>,
    to: TagContent<'_>,
) {
    let is_back = |known: &String| to.names(known) && !from.names(known);
    if let Some(position) = superseded.iter().rposition(is_back) {
        superseded.drain(..=position);
        return;
    }
    let images = from.platforms.iter().rev().map(|image| image.digest.as_str());
    for digest in images.chain([from.digest]).filter(|digest| !to.names(digest)) {
        superseded.retain(|known| known != digest);
        superseded.insert(0, digest.to_owned());
    }
    superseded.truncate(MAX_SUPERSEDED);
}

/// Whether builds used a part of the candidate before, and do not use it now.
pub(in crate::engine) fn has_returned(status: &UpstreamStatus, candidate: TagContent<'_>) -> bool {
    let is_superseded = |digest: &str| {
        status.superseded.iter().any(|known| known == digest)
            && !status.adopted.as_ref().is_some_and(|adopted| adopted.content().names(digest))
    };
    is_superseded(candidate.digest) || candidate.built().any(is_superseded)
}

/// Returns what is adopted while a hold names a digest: that of a tag, or of one of its images.
pub(in crate::engine) fn held_record(
    digest: &str,
    candidate: Option<&CandidateDigest>,
    newest: Option<&ObservedDigest>,
    now: Timestamp,
) -> AdoptedDigest {
    let newest = newest.map(ObservedDigest::content);
    let candidate = candidate.map(CandidateDigest::content);
    let mut known = newest.into_iter().chain(candidate);
    let named = known.find(|content| content.names(digest));
    let content = named.unwrap_or(TagContent { digest, platforms: &[] });
    AdoptedDigest {
        digest: content.digest.into(),
        platforms: content.platforms.to_vec(),
        first_observed: Some(now),
        since: Some(now),
    }
}

/// Whether every build that is known of uses the same image of the newest digest as of a recorded
/// one. The digests of the tags differ.
fn builds_same(recorded: TagContent<'_>, newest: &ObservedDigest) -> bool {
    if newest.unoffered.iter().any(|platform| recorded.for_platform(platform).is_some()) {
        return false;
    }
    if newest.platforms.is_empty() {
        let is_newest = |image: &PlatformDigest| newest.digest == image.digest;
        return !recorded.platforms.is_empty() && recorded.platforms.iter().all(is_newest);
    }
    let is_recorded = |image: &PlatformDigest| {
        recorded.for_platform(&image.platform) == Some(image.digest.as_str())
    };
    newest.platforms.iter().all(is_recorded)
}

/// Adds the images of further platforms to the record of the same tag. Those of platforms that are
/// not built any more stay: they may be built again after the tag has moved on.
fn add_platforms(recorded: &mut Vec<PlatformDigest>, newest: &ObservedDigest) {
    for image in &newest.platforms {
        match recorded.iter_mut().find(|known| known.platform == image.platform) {
            Some(known) => known.clone_from(image),
            None => recorded.push(image.clone()),
        }
    }
    if recorded.len() > MAX_PLATFORM_DIGESTS {
        recorded.clone_from(&newest.platforms);
    }
}

/// Keeps an approval valid whose digest is about to be replaced by that of an equal tag.
fn rename_approval(
    approval: Option<&mut ApprovalRecord>,
    recorded: TagContent<'_>,
    newest: &ObservedDigest,
) {
    if let Some(approval) = approval.filter(|approval| recorded.names(&approval.digest)) {
        approval.digest = String::from(&newest.digest);
    }
}
