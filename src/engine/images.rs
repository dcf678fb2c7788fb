//! The state of each image: a walk over the lineage, parents before children.

use jiff::Timestamp;

use super::{
    Fault, causes,
    decision::{Action, Good, ImageDecision, PinnedParent},
    failure::{self, Verdict},
    fingerprint::fingerprint,
    inputs::{Known, Obstacle},
    observation::{BuildOutcome, BuildSight, Observation, PushResult},
    walk::{Step, Walk},
};
use crate::api::{
    BuildFailure, FailureClass, FailureRecord, FamilyImageStatus, ImageState, RunningBuild, UpstreamStatus,
    condition::reason,
};

/// Walks the lineage.
#[must_use]
pub fn walk(seen: &Observation<'_>, upstreams: &[UpstreamStatus], now: Timestamp) -> Walk {
    let nothing = Fault { reason: reason::RESOLVING, message: String::new() };
    let mut walk = Walk {
        images: seen.images.iter().map(|_| ImageDecision::waiting(nothing.clone(), false)).collect(),
        probes: Vec::new(),
        ready: Vec::new(),
        wake_at: None,
    };
    for &index in seen.lineage.order() {
        let (Some(image), Some(sight)) = (seen.spec.images.get(index), seen.images.get(index)) else { continue };
        let step = Step { seen, upstreams, index, image, sight, now };
        let decision = step.decide(&mut walk);
        walk.images[index] = decision;
    }
    walk
}

impl Step<'_> {
    fn decide(&self, walk: &mut Walk) -> ImageDecision {
        let decision = match self.inputs(walk) {
            Err(Obstacle::Blocked(by)) => self.blocked(by),
            Err(Obstacle::Waiting(fault, in_progress)) => ImageDecision::waiting(fault, in_progress),
            Ok(known) => self.with_inputs(walk, known),
        };
        self.with_record(decision)
    }

    /// What an image keeps whatever state it is in: its last good build, a build that still runs, and the failures so far
    /// while it is not known whether they are at the fingerprint that is wanted.
    fn with_record(&self, mut decision: ImageDecision) -> ImageDecision {
        if decision.good.is_none() {
            decision.good = self.sight.record.and_then(good_of);
        }
        if decision.running.is_none() {
            decision.running = self.running().map(running_of);
        }
        if decision.fingerprint.is_none() {
            decision.failure = self.failure_record().cloned();
        }
        decision.in_progress |= decision.running.is_some();
        decision
    }

    fn running(&self) -> Option<&BuildSight> {
        self.sight.builds.iter().find(|build| build.outcome == BuildOutcome::Running)
    }

    fn blocked(&self, by: usize) -> ImageDecision {
        let name = self.seen.spec.images.get(by).map_or("", |image| image.name.as_str());
        let fault = Fault { reason: reason::ANCESTOR_FAILED, message: format!("blocked by {name}, which failed") };
        ImageDecision { state: ImageState::Blocked, blocked_by: Some(by), ..ImageDecision::waiting(fault, false) }
    }

    fn with_inputs(&self, walk: &mut Walk, Known { inputs, parents, base_seen, remembered }: Known) -> ImageDecision {
        let wanted = fingerprint(&inputs);
        let recorded = self.sight.record.and_then(good_of);
        if let Some(good) = recorded.clone().filter(|good| good.fingerprint == wanted) {
            return Self::current(Good { base_seen: base_seen.or(good.base_seen), inputs, ..good });
        }
        if remembered {
            let message = "the source is being looked up".to_owned();
            return ImageDecision::waiting(Fault { reason: reason::RESOLVING, message }, true);
        }
        let causes = causes::of_image(
            self.seen.spec,
            self.seen.lineage,
            self.index,
            recorded.as_ref().map(|good| &good.inputs),
            &inputs,
        );
        let stale =
            ImageDecision { fingerprint: Some(wanted.clone()), inputs: Some(inputs.clone()), causes, ..blank() };
        let succeeded = self.last_success(&wanted);
        let failure = failure::count(self.failure_record(), &wanted, &self.sight.builds, self.now);

        let push = self.sight.push.as_ref().filter(|push| push.fingerprint == wanted).map(|push| &push.result);
        let probe = Action::Probe { image: self.index, fingerprint: wanted.clone(), after: succeeded };
        match push {
            Some(PushResult::Present { digest, build, size, .. }) => {
                let (digest, build, size) = (digest.clone(), *build, *size);
                Self::current(Good { digest, fingerprint: wanted, build, size, inputs, base_seen })
            }
            Some(PushResult::Rejected(fault, ask_at)) if *ask_at > self.now => {
                walk.wake(*ask_at);
                let message = fault.message.clone();
                ImageDecision { state: ImageState::Failed, reason: fault.reason, message, failure, ..stale }
            }
            Some(PushResult::Faulty(fault, ask_at)) if *ask_at > self.now => {
                walk.wake(*ask_at);
                ImageDecision {
                    failure,
                    reason: fault.reason,
                    // Without the time: it changes at every try, and a record is not written for that.
                    message: fault.message.clone(),
                    // A registry that is away comes back; what it refuses, it refuses until somebody does something.
                    in_progress: fault.reason == reason::REGISTRY_UNAVAILABLE,
                    state: checking(succeeded),
                    ..stale
                }
            }
            Some(PushResult::Absent { last_build, after }) if *after >= succeeded => {
                // The registry was asked after the last build that says it has pushed.
                let failure = match succeeded {
                    Some(attempt) if failure.as_ref().is_none_or(|failure| failure.attempt < attempt) => {
                        Some(failure::add(failure, &wanted, attempt, vanished(), self.now))
                    }
                    _ => failure,
                };
                self.absent(walk, ImageDecision { failure, ..stale }, &wanted, *last_build, parents)
            }
            _ => {
                walk.probes.push(probe);
                let message = "the registry is asked for the build".to_owned();
                ImageDecision {
                    failure,
                    reason: reason::VERIFYING,
                    message,
                    in_progress: true,
                    state: checking(succeeded),
                    ..stale
                }
            }
        }
    }

    fn failure_record(&self) -> Option<&FailureRecord> {
        self.sight.record.and_then(|record| record.failure.as_ref())
    }

    fn last_success(&self, fingerprint: &str) -> Option<i32> {
        let successes = self.sight.builds.iter().filter(|build| build.outcome == BuildOutcome::Succeeded);
        successes.filter(|build| build.fingerprint == fingerprint).map(|build| build.attempt).max()
    }

    fn current(good: Good) -> ImageDecision {
        ImageDecision {
            state: ImageState::Current,
            reason: reason::CURRENT,
            message: format!("build {} is made from the inputs as they are", good.build),
            fingerprint: Some(good.fingerprint.clone()),
            inputs: Some(good.inputs.clone()),
            good: Some(good),
            ..blank()
        }
    }

    fn failed(stale: ImageDecision, reason: &'static str) -> ImageDecision {
        let message = stale.failure.as_ref().map_or_else(String::new, |failure| {
            let attempts = failure.build + failure.infrastructure;
            let times = if attempts == 1 { "once".to_owned() } else { format!("{attempts} times") };
            format!("failed {times}: {}", failure::gist(&failure.last))
        });
        ImageDecision { state: ImageState::Failed, reason, message, in_progress: false, ..stale }
    }

    /// The wanted build is not in the registry: it runs, is tried again, has failed for good, or is ready to start.
    fn absent(
        &self,
        walk: &mut Walk,
        stale: ImageDecision,
        wanted: &str,
        last_build: Option<i64>,
        parents: Vec<PinnedParent>,
    ) -> ImageDecision {
        if let Some(build) = self.running() {
            let message = if build.fingerprint == wanted {
                let (number, job, why) = (build.build, &build.job, causes::sentence(&stale.causes));
                match &build.waits_for {
                    Some(what) => format!("build {number} waits as Job {job}: {what}"),
                    None => format!("build {number} runs as Job {job}: {why}"),
                }
            } else {
                format!("an earlier build runs to its end as Job {}; it is rebuilt next", build.job)
            };
            let running = Some(running_of(build));
            return ImageDecision {
                state: ImageState::Building,
                reason: reason::BUILDING,
                message,
                in_progress: true,
                running,
                ..stale
            };
        }
        let verdict = failure::verdict(stale.failure.as_ref(), &self.seen.spec.policy.retries, self.now);
        match verdict {
            Verdict::GivenUp => {
                let reason = stale.failure.as_ref().map_or(reason::BUILD_FAILED, failure::given_up);
                return Self::failed(stale, reason);
            }
            Verdict::RetryAt(at) if at > self.now => {
                walk.wake(at);
                let why = stale.failure.as_ref().map_or("", |failure| failure::gist(&failure.last));
                let message = format!("tried again at {at:.0} after: {why}");
                return ImageDecision {
                    state: ImageState::Queued,
                    reason: reason::RETRYING,
                    message,
                    in_progress: true,
                    ..stale
                };
            }
            Verdict::RetryAt(_) | Verdict::Clean => {}
        }
        if self.sight.builds.iter().any(failed_and_live) {
            let message = "the failed build is being ended before the next attempt".to_owned();
            return ImageDecision {
                state: ImageState::Queued,
                reason: reason::RETRYING,
                message,
                in_progress: true,
                ..stale
            };
        }
        // What was built before and reverted counts too: a number names one build for ever.
        let history = self.sight.record.into_iter().flat_map(|record| &record.history).map(|build| build.build);
        let jobs = self.sight.builds.iter().map(|build| build.build);
        let last = history.chain(jobs).chain(self.sight.record.and_then(|record| record.build)).max().max(last_build);
        let numbered =
            self.sight.builds.iter().filter(|build| build.fingerprint == wanted).map(|build| build.build).max();
        let action = Action::Build {
            image: self.index,
            fingerprint: wanted.into(),
            attempt: self.next_attempt(wanted, stale.failure.as_ref()),
            // Another attempt at a fingerprint keeps the number of the first.
            build: numbered.unwrap_or_else(|| last.unwrap_or(0) + 1),
            parents,
            source: stale.inputs.as_ref().map_or_else(String::new, |inputs| inputs.source.clone()),
        };
        walk.ready.push((self.index, action));
        let message = causes::sentence(&stale.causes);
        ImageDecision { state: ImageState::Queued, reason: reason::CASCADING, message, in_progress: true, ..stale }
    }

    fn next_attempt(&self, wanted: &str, failure: Option<&FailureRecord>) -> i32 {
        let seen =
            self.sight.builds.iter().filter(|build| build.fingerprint == wanted).map(|build| build.attempt).max();
        seen.max(failure.map(|failure| failure.attempt)).map_or(0, |last| last.saturating_add(1))
    }
}

/// The state while the registry is asked: a build that has ended is being checked, otherwise the image waits.
fn checking(succeeded: Option<i32>) -> ImageState {
    if succeeded.is_some() { ImageState::Checking } else { ImageState::Waiting }
}

/// Whether a build counts as failed, and its Job has not ended.
#[must_use]
pub fn failed_and_live(build: &BuildSight) -> bool {
    build.live && matches!(build.outcome, BuildOutcome::Failed(_))
}

fn vanished() -> BuildFailure {
    BuildFailure {
        class: FailureClass::Infrastructure,
        reason: reason::IMAGE_NOT_FOUND.into(),
        message: "the build ended well, and the registry does not have what it says it pushed".into(),
    }
}

fn good_of(record: &FamilyImageStatus) -> Option<Good> {
    Some(Good {
        digest: record.digest.clone()?,
        fingerprint: record.fingerprint.clone()?,
        build: record.build?,
        size: record.size.unwrap_or_default(),
        inputs: record.inputs.clone().unwrap_or_default(),
        base_seen: record.base_seen,
    })
}

fn running_of(build: &BuildSight) -> RunningBuild {
    RunningBuild {
        job: build.job.clone(),
        fingerprint: build.fingerprint.clone(),
        build: build.build,
        attempt: build.attempt,
        started_at: build.started_at,
    }
}

fn blank() -> ImageDecision {
    ImageDecision::waiting(Fault { reason: reason::RESOLVING, message: String::new() }, false)
}
