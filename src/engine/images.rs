//! The state of each image: a walk over the lineage, parents before children.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Fault,
    causes::{self, Change},
    cutoff,
    decision::{Action, ImageDecision, Message, Promoted},
    failure::{self, Verdict},
    fingerprint::fingerprint,
    inputs::{Obstacle, Parents},
    observation::{BuildOutcome, BuildSight, Good, Observation, PushResult},
    requests::Wishes,
    walk::{Frame, Step, Todo, Walk},
};
use crate::api::{FailureRecord, ImageState, ManualHold, Promotion, RunningBuild, UpstreamStatus, condition::reason};

/// Walks the lineage. O(images + edges).
#[must_use]
pub fn walk(seen: &Observation<'_>, upstreams: &[UpstreamStatus], wishes: &Wishes, now: Timestamp) -> Walk {
    let frame = Frame { seen, upstreams, wishes, now };
    let images = seen.images.iter().map(|_| blank()).collect();
    let mut walk = Walk { images, todo: Todo::default(), holds_end: None };
    for &index in seen.lineage().order() {
        let (Some(image), Some(sight), Some(blueprint)) =
            (seen.spec.images.get(index), seen.images.get(index), seen.blueprint.images.get(index))
        else {
            continue;
        };
        let step = Step { frame: &frame, index, image, blueprint, sight };
        let decision = step.decide(&walk.images, &mut walk.todo);
        walk.images[index] = decision;
        walk.holds_end = [walk.holds_end, step.hold_ends()].into_iter().flatten().min();
    }
    walk
}

impl Step<'_> {
    fn decide(&self, images: &[ImageDecision], todo: &mut Todo) -> ImageDecision {
        let decision = match self.parents(images) {
            Ok(parents) => self.with_parents(todo, &parents).unwrap_or_else(|obstacle| self.behind(obstacle)),
            Err(obstacle) => self.behind(obstacle),
        };
        let decision = self.with_record(decision);
        let wished = self.frame.wishes.of(self.index).is_some_and(|wishes| wishes.cancel);
        if wished || decision.failure.as_deref().is_some_and(failure::is_cancelled) {
            // Of any fingerprint: what runs may be for inputs that have changed since.
            let running = self.sight.builds.iter().filter(|build| build.outcome == BuildOutcome::Running);
            todo.actions.extend(running.map(|build| Action::Stop { job: build.job.clone() }));
        }
        decision
    }

    fn behind(&self, obstacle: Obstacle) -> ImageDecision {
        match obstacle {
            // A held image is not on its way anywhere: its children stand on what it is.
            _ if self.sight.good.is_some() && self.is_held() => self.held(),
            Obstacle::Blocked(by) => {
                let message = format!("blocked by {by}, which failed");
                let fault = Fault { reason: reason::ANCESTOR_FAILED, message };
                ImageDecision {
                    state: ImageState::Blocked,
                    blocked_by: Some(by),
                    ..ImageDecision::waiting(fault, false)
                }
            }
            Obstacle::Waiting(fault, true) => match self.cancelled_in_wave() {
                failure @ Some(_) => Self::failed(ImageDecision { failure, ..blank() }, reason::CANCELLED),
                None => ImageDecision::waiting(fault, true),
            },
            Obstacle::Waiting(fault, false) => ImageDecision::waiting(fault, false),
        }
    }

    /// The record of an image that a person has taken out of the wave that runs, while it is not known which fingerprint it is
    /// about to want.
    fn cancelled_in_wave(&self) -> Option<Box<FailureRecord>> {
        let wave = self.frame.seen.wave.filter(|_| self.is_cancelled_in_wave())?;
        Some(failure::cancelled_waiting(self.failure_record(), wave.name, self.frame.now).into())
    }

    /// Whether a person takes it out of the wave that runs, or has done so while it waited.
    fn is_cancelled_in_wave(&self) -> bool {
        let Some(wave) = self.frame.seen.wave else { return false };
        let wishes = self.frame.wishes.of(self.index);
        let before = self.failure_record().is_some_and(|record| failure::is_cancelled_in(record, wave.name));
        wishes.is_some_and(|wishes| wishes.cancel) || before && wishes.is_none_or(|wishes| wishes.retry.is_none())
    }

    /// What an image keeps whatever state it is in: its last good build, a build that still runs, what it was promoted to, and
    /// the failures so far while it is not known whether they are at the fingerprint that is wanted.
    fn with_record(&self, mut decision: ImageDecision) -> ImageDecision {
        let record = self.sight.record;
        if decision.good.is_none() {
            decision.good.clone_from(&self.sight.good);
            let failure = decision.failure.as_deref();
            if let Some((good, checks)) = self.sight.good.as_ref().and_then(|good| self.passed(good, failure)) {
                decision.good = Some(good);
                if decision.checks.is_empty() {
                    decision.checks = checks;
                }
            }
        }
        let checks = &self.blueprint.checks;
        decision.is_checked = decision.good.as_ref().is_some_and(|good| checks.is_none() || good.checked == *checks);
        if decision.running.is_none() {
            decision.running = self.running().map(|build| running_of(build).into());
        }
        let unknown = matches!(decision.state, ImageState::Waiting | ImageState::Blocked | ImageState::Held);
        if unknown && decision.fingerprint.is_none() && decision.failure.is_none() {
            decision.failure = self.failure_record().cloned().and_then(|record| self.forgotten(record)).map(Box::new);
        }
        decision.promoted = match (self.frame.seen.spec.policy.promotion, decision.state, &decision.good) {
            (Promotion::Image, ImageState::Current, Some(_)) => Promoted::Good,
            (_, _, good) => match record.and_then(|record| record.promoted.as_ref()) {
                Some(digest) if good.as_ref().is_some_and(|good| good.digest == *digest) => Promoted::Good,
                Some(digest) => Promoted::Earlier(digest.clone()),
                None => Promoted::Nowhere,
            },
        };
        if decision.checks.is_empty() && !self.image.checks.is_empty() {
            decision.checks = record.map(|record| record.checks.clone()).unwrap_or_default();
        }
        decision.hold = self.manual_hold().cloned().map(Box::new);
        decision.nonce = self.nonce().map(str::to_owned);
        decision.in_progress |= decision.running.is_some();
        decision
    }

    fn with_parents(&self, todo: &mut Todo, parents: &Parents<'_>) -> Result<ImageDecision, Obstacle> {
        if let Some(good) = self.sight.good.as_ref().filter(|good| self.unchanged(good, parents)) {
            let base_seen = parents.base_seen.or(good.base_seen);
            let good = if base_seen == good.base_seen {
                Arc::clone(good)
            } else {
                Arc::new(Good { base_seen, ..Good::clone(good) })
            };
            return Ok(self.verified(todo, good, blank()));
        }
        if self.is_held() {
            return Ok(self.held());
        }
        let known = self.known(parents)?;
        if known.remembered {
            let message = "the source is being looked up".to_owned();
            return Err(Obstacle::Waiting(Fault { reason: reason::RESOLVING, message }, true));
        }
        let wanted = fingerprint(&known.inputs);
        let change = Change {
            image: &self.image.name,
            lineage: self.frame.seen.lineage(),
            index: self.index,
            last: self.sight.good.as_ref().map(|good| &good.inputs),
            wanted: &known.inputs,
        };
        let causes = change.causes(Self::roots(parents));
        let push = self.sight.pushes.iter().find(|push| push.fingerprint == wanted).map(|push| &push.result);
        let rejected = matches!(push, Some(PushResult::Rejected(_, ask_at)) if *ask_at > self.frame.now);
        let cause = causes::key(&self.image.name, &causes);
        let counted = failure::count(self.failure_record(), &wanted, &self.sight.builds, &cause, self.frame.now);
        let failure = if rejected { counted } else { self.ruled(counted, &wanted) };
        let stale = ImageDecision {
            fingerprint: Some(wanted.clone()),
            inputs: Some(known.inputs.clone().into()),
            causes,
            failure: failure.map(Box::new),
            ..blank()
        };
        let succeeded = self.last_success(&wanted);
        Ok(match push {
            Some(PushResult::Present { digest, build, size, content, blobs }) => {
                let fresh = Good {
                    digest: digest.clone(),
                    fingerprint: wanted,
                    build: *build,
                    size: *size,
                    inputs: known.inputs,
                    base_seen: parents.base_seen,
                    content: content.clone(),
                    blobs: blobs.clone(),
                    checked: None,
                    causes: stale.causes.clone(),
                    spared: false,
                };
                self.present(todo, fresh, stale)
            }
            Some(PushResult::Rejected(fault, ask_at)) if *ask_at > self.frame.now => {
                todo.wake(*ask_at);
                let message = fault.message.clone().into();
                ImageDecision { state: ImageState::Failed, reason: fault.reason, message, ..stale }
            }
            Some(PushResult::Faulty(fault, ask_at)) if *ask_at > self.frame.now => {
                todo.wake(*ask_at);
                ImageDecision {
                    reason: fault.reason,
                    // Without the time: it changes at every try, and a record is not written for that.
                    message: fault.message.clone().into(),
                    // A registry that is away comes back; what it refuses, it refuses until somebody does something.
                    in_progress: fault.reason == reason::REGISTRY_UNAVAILABLE,
                    state: asking(succeeded),
                    ..stale
                }
            }
            Some(PushResult::Absent { last_build, after }) if *after >= succeeded => {
                // The registry was asked after the last build that says it has pushed.
                let failure = self.vanished(&wanted, succeeded, &stale);
                self.absent(
                    todo,
                    ImageDecision { failure: failure.map(Box::new), ..stale },
                    &wanted,
                    *last_build,
                    known.parents,
                )
            }
            _ => {
                todo.actions.push(Action::Probe { image: self.index, fingerprint: wanted, after: succeeded });
                ImageDecision {
                    reason: reason::VERIFYING,
                    message: "the registry is asked for the build".into(),
                    in_progress: true,
                    state: asking(succeeded),
                    ..stale
                }
            }
        })
    }

    /// A push stands in the registry: it is a new digest, or comes to the same as the last one. The registry may remember the
    /// latter already: then the digest is the last one's. A build that was made before the last one is no rebuild: its own
    /// immutable tags stand on it, so that it is taken up again as it is.
    fn present(&self, todo: &mut Todo, fresh: Good, stale: ImageDecision) -> ImageDecision {
        let remembered = |last: &Good| last.digest == fresh.digest && last.fingerprint != fresh.fingerprint;
        let cutoff = self.frame.seen.spec.policy.cutoff;
        let same = |last: &Good| fresh.build > last.build && cutoff::same(cutoff, last, &fresh);
        let Some(last) = self.sight.good.as_ref().filter(|last| remembered(last) || same(last)) else {
            return self.verified(todo, Arc::new(fresh), stale);
        };
        if last.digest != fresh.digest {
            todo.actions.push(Action::Remember {
                image: self.index,
                fingerprint: fresh.fingerprint.clone(),
                digest: last.digest.clone(),
            });
        }
        let spared = Good {
            digest: last.digest.clone(),
            build: last.build,
            size: last.size,
            content: last.content.clone(),
            blobs: last.blobs.clone(),
            checked: last.checked.clone(),
            spared: true,
            ..fresh
        };
        self.verified(todo, Arc::new(spared), stale)
    }

    /// A build that the registry vouches for: current, once its checks have passed.
    fn verified(&self, todo: &mut Todo, good: Arc<Good>, stale: ImageDecision) -> ImageDecision {
        match &self.blueprint.checks {
            Some(wanted) if good.checked.as_ref() != Some(wanted) => self.check(todo, good, stale),
            None if good.checked.is_some() => Self::current(Arc::new(Good { checked: None, ..Good::clone(&good) })),
            Some(_) | None => Self::current(good),
        }
    }

    pub(super) fn current(good: Arc<Good>) -> ImageDecision {
        let message =
            if good.spared { Message::Spared { build: good.build } } else { Message::Current { build: good.build } };
        ImageDecision {
            state: ImageState::Current,
            reason: reason::CURRENT,
            message,
            stands: true,
            good: Some(good),
            ..blank()
        }
    }

    /// A person keeps it where it is. The hold of the manifest comes first.
    fn held(&self) -> ImageDecision {
        let manual = self.manual_hold();
        let of_spec = self.image.hold.as_ref();
        let (until, why) = of_spec.map_or_else(
            || manual.map_or((None, None), |hold| (hold.until, hold.reason.clone())),
            |hold| (hold.until, hold.reason.clone()),
        );
        let until = until.map_or_else(String::new, |until| format!(" until {until:.0}"));
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        let stands = self.sight.good.is_some();
        let message = if stands {
            format!("held{until}{why}; its inputs have changed")
        } else {
            format!("held{until}{why} before it was ever built: end the hold to have it built")
        };
        ImageDecision {
            state: ImageState::Held,
            reason: reason::HELD,
            message: message.into(),
            failure: self.cancelled_in_wave(),
            stands,
            ..blank()
        }
    }

    fn is_held(&self) -> bool {
        let now = self.frame.now;
        self.image.hold.as_ref().is_some_and(|hold| hold.until.is_none_or(|until| now < until))
            || self.manual_hold().is_some()
    }

    /// When a hold of this image ends by itself.
    fn hold_ends(&self) -> Option<Timestamp> {
        let of_spec = self.image.hold.as_ref().and_then(|hold| hold.until);
        let manual = self.sight.record.and_then(|record| record.hold.as_ref()?.until);
        of_spec.into_iter().chain(manual).filter(|until| *until > self.frame.now).min()
    }

    /// The hold that a request has set and that has not ended.
    fn manual_hold(&self) -> Option<&ManualHold> {
        let wished = self.frame.wishes.of(self.index).and_then(|wishes| wishes.hold.as_ref());
        let recorded = self.sight.record.and_then(|record| record.hold.as_ref());
        wished.map_or(recorded, Option::as_ref).filter(|hold| hold.until.is_none_or(|until| self.frame.now < until))
    }

    /// The request by which it is rebuilt though its inputs are the same.
    pub(super) fn nonce(&self) -> Option<&str> {
        let wished = self.frame.wishes.of(self.index).and_then(|wishes| wishes.nonce.as_deref());
        wished.or_else(|| self.sight.record.and_then(|record| record.nonce.as_deref()))
    }

    pub(super) fn running(&self) -> Option<&BuildSight> {
        self.sight.builds.iter().find(|build| build.outcome == BuildOutcome::Running)
    }

    pub(super) fn failure_record(&self) -> Option<&FailureRecord> {
        self.sight.record.and_then(|record| record.failure.as_ref())
    }

    fn last_success(&self, fingerprint: &str) -> Option<i32> {
        let successes = self.sight.builds.iter().filter(|build| build.outcome == BuildOutcome::Succeeded);
        successes.filter(|build| build.fingerprint == fingerprint).map(|build| build.attempt).max()
    }

    /// The failures at a fingerprint, with what requests and the wave make of them. What is given up is left alone by a
    /// request to cancel: there is nothing to stop.
    pub(super) fn ruled(&self, counted: Option<FailureRecord>, fingerprint: &str) -> Option<FailureRecord> {
        let record = counted.and_then(|record| self.forgotten(record));
        let retries = &self.frame.seen.spec.policy.retries;
        let cancelled = self.frame.wishes.of(self.index).is_some_and(|wishes| wishes.cancel);
        if !(cancelled || self.is_cancelled_in_wave())
            || failure::verdict(record.as_ref(), retries, self.frame.now) == Verdict::GivenUp
        {
            return record;
        }
        let of_fingerprint = self.sight.builds.iter().filter(|build| build.fingerprint == fingerprint);
        let made = of_fingerprint.map(|build| build.attempt).max();
        Some(failure::cancelled(record, fingerprint, made, self.frame.now))
    }

    /// The failures as far as requests to try again, and the wave, do not have them forgotten.
    fn forgotten(&self, record: FailureRecord) -> Option<FailureRecord> {
        let wave = self.frame.seen.wave.map(|wave| wave.name);
        let retry = self.frame.wishes.of(self.index).and_then(|wishes| wishes.retry.as_deref());
        // Taken out of a wave that has ended since, or wanted back.
        if record.fingerprint.is_empty() && (retry.is_some() || wave.is_none_or(|wave| wave != record.cascade)) {
            return None;
        }
        let record = match retry {
            Some(request) => failure::retried(record, request),
            None => record,
        };
        Some(failure::tried_by_wave(record, wave, &self.frame.seen.spec.policy.retries))
    }

    fn vanished(&self, wanted: &str, succeeded: Option<i32>, stale: &ImageDecision) -> Option<FailureRecord> {
        let known = stale.failure.as_deref().cloned();
        match succeeded {
            Some(attempt) if known.as_ref().is_none_or(|known| known.attempt < attempt) => {
                let build =
                    self.sight.builds.iter().find(|build| build.attempt == attempt && build.fingerprint == wanted);
                let cascade = build.map_or("", |build| build.cascade.as_str());
                let cause = causes::key(&self.image.name, &stale.causes);
                let failed = failure::Failed { attempt, cascade, cause: &cause };
                Some(failure::add(known, wanted, &failed, failure::vanished(), self.frame.now))
            }
            _ => known,
        }
    }
}

/// The state while the registry is asked: a build that has ended is being checked, otherwise the image waits.
fn asking(succeeded: Option<i32>) -> ImageState {
    if succeeded.is_some() { ImageState::Checking } else { ImageState::Waiting }
}

pub(super) fn running_of(build: &BuildSight) -> RunningBuild {
    RunningBuild {
        job: build.job.clone(),
        fingerprint: build.fingerprint.clone(),
        build: build.build,
        attempt: build.attempt,
        started_at: build.started_at,
    }
}

pub(super) fn blank() -> ImageDecision {
    ImageDecision::waiting(Fault { reason: reason::RESOLVING, message: String::new() }, false)
}
