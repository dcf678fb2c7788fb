//! The decision of one pass, as a table of contents.

use jiff::Timestamp;

use super::{
    decision::{Action, Decision, WaveStep},
    gates::{self, WaveGate},
    images,
    observation::Observation,
    tags, upstreams,
    walk::Walk,
};
use crate::api::{Cause, ImageState, Pending, UpstreamStatus, cascade::MAX_CAUSES, condition::reason};

/// Decides what is to be done. Pure: the same observation at the same time gives the same decision.
#[must_use]
pub fn decide(seen: &Observation<'_>, now: Timestamp) -> Decision {
    let mut upstreams = upstreams::follow(seen, now);
    let mut walk = images::walk(seen, &upstreams, now);
    let mut actions = Vec::new();
    let mut pending: Option<Pending> = None;

    let wave = if let Some((name, _)) = seen.wave {
        go_on(seen, name, &mut walk, &mut actions)
    } else {
        match gates::wave(seen, &upstreams, &walk, now) {
            WaveGate::Open => open(seen, &mut upstreams, &mut walk, now),
            WaveGate::Settling { pending: changes, until } => {
                gates::close(&mut walk, reason::SETTLING, &format!("changes may still come; starts at {until:.0}"));
                walk.wake_at = [walk.wake_at, Some(until)].into_iter().flatten().min();
                pending = Some(changes);
                WaveStep::None
            }
            WaveGate::Suspended => {
                gates::close(&mut walk, reason::SUSPENDED, "spec.suspend is set");
                WaveStep::None
            }
            WaveGate::Idle => WaveStep::None,
        }
    };

    actions.append(&mut walk.probes);
    let failed = seen.images.iter().flat_map(|image| &image.builds).filter(|build| images::failed_and_live(build));
    actions.extend(failed.map(|build| Action::Stop { job: build.job.clone() }));
    let mut wake_at = walk.wake_at;
    if !seen.spec.suspend {
        tags::promote(seen, &walk.images, now, &mut actions, &mut wake_at);
    }
    let holds = seen.spec.upstreams.iter().filter_map(|upstream| upstream.hold_at(now)?.until);
    let wake_at = holds.chain(wake_at).min();
    Decision { upstreams, pending, wave, images: walk.images, actions, wake_at }
}

/// A wave runs: ready builds start, and it ends when nothing of it is on its way.
fn go_on(seen: &Observation<'_>, name: &str, walk: &mut Walk, actions: &mut Vec<Action>) -> WaveStep {
    if !walk.images.iter().any(|image| image.in_progress) {
        return WaveStep::Close { name: name.into() };
    }
    if seen.spec.suspend {
        gates::close(walk, reason::SUSPENDED, "spec.suspend is set");
    } else {
        actions.extend(gates::admit(seen, walk));
    }
    WaveStep::Running { name: name.into() }
}

/// A wave begins: candidates are adopted, and the plan is made. Its builds start once it is recorded, in the next pass.
fn open(seen: &Observation<'_>, upstreams: &mut [UpstreamStatus], walk: &mut Walk, now: Timestamp) -> WaveStep {
    let moved = upstreams::adopt(upstreams, now);
    let ready = walk.ready.iter().map(|(image, _)| *image);
    let stood_on = moved.iter().flat_map(|(upstream, _)| seen.lineage.upstream_children(*upstream).iter().copied());
    let mask = seen.lineage.with_descendants(ready.chain(stood_on));
    let mut causes: Vec<Cause> = moved.iter().map(|(_, cause)| cause.clone()).collect();
    causes.extend(
        walk.ready.iter().filter_map(|(image, _)| walk.images.get(*image)).flat_map(|image| image.causes.clone()),
    );
    causes.sort();
    causes.dedup();
    causes.truncate(MAX_CAUSES);
    if !moved.is_empty() {
        *walk = images::walk(seen, upstreams, now);
    }
    gates::close(walk, reason::CASCADING, "the wave begins");
    for (image, below) in walk.images.iter_mut().zip(&mask) {
        // Not yet asked for, but part of the wave: it must not look finished before it has begun.
        image.in_progress |= *below && image.state != ImageState::Current;
    }
    let stamp = now.to_zoned(jiff::tz::TimeZone::UTC).strftime("%Y%m%d-%H%M%S");
    WaveStep::Open { name: format!("{}-{stamp}", seen.family), causes, levels: seen.lineage.by_level(&mask) }
}
