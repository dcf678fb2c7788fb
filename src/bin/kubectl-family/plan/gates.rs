//! Which gate is closed until a time, and what a user may do about one that no time opens.

use jiff::Timestamp;

use groundswell::{
    api::{ImageState, Pending, Policy, Upstream, UpstreamStatus, condition::Reason},
    engine::Decision,
    lineage::ImageIndex,
};

use crate::{
    input::EstateFamily,
    plan::dry_run::{AssumedDigests, digest_of},
};

/// Whether something waits for a time, so that it is worth looking further ahead.
pub fn waits_for_time(family: &EstateFamily, decision: &Decision) -> bool {
    let is_timed = |status: &UpstreamStatus| match status.known_reason() {
        Some(Reason::Held) => upstream_hold(family, status).is_some(),
        Some(Reason::AwaitingApproval | Reason::PlatformMissing) => false,
        _ => true,
    };
    let mut candidates = decision.upstreams.iter().filter(|status| status.candidate.is_some());
    let mut images = ImageIndex::enumerate(&decision.images);
    let is_pending = decision.pending.is_some() && !family.family.spec.suspend;
    is_pending
        || candidates.any(is_timed)
        || images.any(|(index, decided)| match decided.state {
            ImageState::Held => image_hold(family, decision, index).is_some(),
            ImageState::Queued => !family.family.spec.suspend,
            ImageState::Waiting | ImageState::Checking => decided.in_progress,
            ImageState::Current
            | ImageState::Building
            | ImageState::Failed
            | ImageState::Blocked => false,
        })
}

/// Returns the gates that are closed until a time.
pub fn closed_gates(
    family: &EstateFamily,
    assumed: &AssumedDigests,
    decision: &Decision,
    until: Timestamp,
) -> Vec<String> {
    let mut gates = Vec::new();
    let built = assumed.imports.iter().filter(|(_, import)| import.rebuilt_at() == Some(until));
    let mut built: Vec<String> = built.map(|(name, _)| format!("the build of {name}")).collect();
    built.sort();
    gates.append(&mut built);
    let names = ImageIndex::enumerate(&family.family.spec.images);
    let held = names.filter(|(index, _)| image_hold(family, decision, *index) == Some(until));
    gates.extend(held.map(|(_, image)| format!("the end of the hold of {}", image.name)));
    let candidates = || decision.upstreams.iter().filter(|status| status.candidate.is_some());
    let held = candidates().filter(|status| upstream_hold(family, status) == Some(until));
    gates.extend(held.map(|status| format!("the end of the hold of {}", status.name)));
    let is_closed =
        |window: &groundswell::api::WindowStatus| !window.open && window.until == Some(until);
    if decision.window.as_ref().is_some_and(is_closed) {
        gates.push("a window".into());
    }
    let policy = &family.family.spec.policy;
    if decision.pending.as_ref().and_then(|pending| quiet_until(policy, pending)) == Some(until) {
        gates.push("the quiet time".into());
    }
    if gates.is_empty() {
        gates.extend(candidates().filter_map(|status| waiting_candidate(family, assumed, status)));
    }
    if gates.is_empty() {
        let images = family.family.spec.images.iter().zip(&decision.images);
        let mut queued = images.filter(|(_, decided)| decided.state == ImageState::Queued);
        gates.extend(
            queued.next().map(|(image, decided)| format!("{}: {}", image.name, decided.message)),
        );
    }
    gates
}

/// Returns what the candidates of upstreams wait for that are not adopted.
pub fn waiting_candidates(
    family: &EstateFamily,
    assumed: &AssumedDigests,
    decision: &Decision,
) -> Vec<String> {
    let candidates = decision.upstreams.iter().filter(|status| status.candidate.is_some());
    candidates.filter_map(|status| waiting_candidate(family, assumed, status)).collect()
}

/// Returns what the candidate of an upstream waits for. A digest that the plan invents is not
/// named: nobody can approve it.
fn waiting_candidate(
    family: &EstateFamily,
    assumed: &AssumedDigests,
    status: &UpstreamStatus,
) -> Option<String> {
    let reason = status.known_reason()?;
    let candidate = status.candidate.as_ref()?;
    let (name, message) = (&status.name, status.message.as_deref().unwrap_or_default());
    let set = assumed.upstreams.get(&status.reference);
    let is_invented = candidate.digest == moved_digest(&status.reference)
        && set.is_some_and(|set| *set == candidate.digest);
    Some(match reason {
        Reason::AwaitingApproval if is_invented => {
            format!(
                "{name}: its new digest needs kubectl family approve {} {name}",
                family.name.name
            )
        }
        Reason::MinimumAge if is_invented => {
            let age = upstream_of(family, status).map(|upstream| upstream.minimum_age);
            format!("{name}: its new digest waits until it is {} old", age.unwrap_or_default())
        }
        // What comes after it says which digest is available.
        Reason::Held if is_invented => {
            format!("{name}: {}", message.split("; ").next().unwrap_or_default())
        }
        _ => {
            let command = format!("family approve {} ", family.name.name);
            format!("{name}: {}", message.replace("family approve FAMILY ", &command))
        }
    })
}

/// Returns the digest that stands for a move of an upstream.
pub fn moved_digest(reference: &str) -> String {
    digest_of(&format!("{reference} moved"))
}

fn upstream_of<'f>(family: &'f EstateFamily, status: &UpstreamStatus) -> Option<&'f Upstream> {
    family.family.spec.upstreams.iter().find(|upstream| upstream.name == status.name)
}

/// Returns when the hold of an upstream ends.
fn upstream_hold(family: &EstateFamily, status: &UpstreamStatus) -> Option<Timestamp> {
    let of_spec = upstream_of(family, status).and_then(|upstream| upstream.hold.as_ref());
    match of_spec {
        Some(hold) => hold.until,
        None => status.hold.as_ref()?.until,
    }
}

/// Returns when the hold of an image ends that is held now.
fn image_hold(family: &EstateFamily, decision: &Decision, index: ImageIndex) -> Option<Timestamp> {
    let image = family.family.spec.images.get(index.position())?;
    let decided = decision.images.get(index.position())?;
    if decided.state != ImageState::Held {
        return None;
    }
    let of_spec = image.hold.as_ref().and_then(|hold| hold.until);
    of_spec.or_else(|| decided.hold.as_ref()?.until)
}

/// Returns when the quiet time of changes ends.
fn quiet_until(policy: &Policy, pending: &Pending) -> Option<Timestamp> {
    let settled = pending.last_change?.saturating_add(policy.settle.signed()).ok()?;
    let latest = pending.since?.saturating_add(policy.max_settle.signed()).ok()?;
    Some(settled.min(latest))
}
