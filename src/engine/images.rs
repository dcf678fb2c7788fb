//! The state of each image: a walk over the lineage, parents before children.

use jiff::Timestamp;

use super::{
    Fault, causes,
    decision::{Action, Good, ImageDecision, PinnedParent},
    failure::{self, Verdict},
    fingerprint::{fingerprint, spec_hash},
    observation::{BuildOutcome, BuildSight, ImageSight, Observation, PushResult, Sight},
};
use crate::{
    api::{
        BuildFailure, Edge, FailureClass, FailureRecord, FamilyImageStatus, Image, ImageFamilySpec, ImageState, Inputs,
        ParentDigest, RunningBuild, UpstreamStatus, condition::reason,
    },
    lineage::Parent,
};

/// The images as they are with the given upstream digests, and what is ready to be done for them.
#[derive(Debug)]
pub struct Walk {
    /// The images, as `spec.images`.
    pub images: Vec<ImageDecision>,
    /// Questions to the registry.
    pub probes: Vec<Action>,
    /// Images that are ready to build, with the build that they need.
    pub ready: Vec<(usize, Action)>,
    /// The earliest time at which something is to be tried again.
    pub wake_at: Option<Timestamp>,
}

/// The repository that an image is pushed to.
#[must_use]
pub fn repository(spec: &ImageFamilySpec, image: &Image) -> String {
    format!("{}/{}", spec.repository, image.path.as_deref().unwrap_or(&image.name))
}

/// The reference by which a Dockerfile names a parent, if the edge does not say: see [`Edge::reference`].
#[must_use]
pub fn reference(spec: &ImageFamilySpec, edge: &Edge, parent: Parent) -> String {
    edge.reference.clone().unwrap_or_else(|| match parent {
        Parent::Upstream(upstream) => {
            spec.upstreams.get(upstream).map(crate::api::Upstream::reference).unwrap_or_default()
        }
        Parent::Image(image) => {
            spec.images.get(image).map(|image| format!("{}:latest", repository(spec, image))).unwrap_or_default()
        }
    })
}

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

impl Walk {
    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// One image of the walk.
struct Step<'a> {
    seen: &'a Observation<'a>,
    upstreams: &'a [UpstreamStatus],
    index: usize,
    image: &'a Image,
    sight: &'a ImageSight<'a>,
    now: Timestamp,
}

/// What stands between an image and its build, from the sight of its parents.
enum Obstacle {
    Blocked(usize),
    Waiting(Fault, bool),
}

impl Step<'_> {
    fn decide(&self, walk: &mut Walk) -> ImageDecision {
        let decision = match self.inputs(walk) {
            Err(Obstacle::Blocked(by)) => self.blocked(by),
            Err(Obstacle::Waiting(fault, in_progress)) => ImageDecision::waiting(fault, in_progress),
            Ok((inputs, parents, base_seen)) => self.with_inputs(walk, inputs, parents, base_seen),
        };
        self.with_record(decision)
    }

    /// What an image keeps whatever state it is in: its last good build, and a build that still runs.
    fn with_record(&self, mut decision: ImageDecision) -> ImageDecision {
        if decision.good.is_none() {
            decision.good = self.sight.record.and_then(good_of);
        }
        if decision.running.is_none() {
            decision.running = self.running().map(running_of);
        }
        decision
    }

    fn running(&self) -> Option<&BuildSight> {
        self.sight.builds.iter().find(|build| build.outcome == BuildOutcome::Running)
    }

    /// The inputs of a build, if every one of them is known and every parent is current.
    fn inputs(&self, walk: &Walk) -> Result<(Inputs, Vec<PinnedParent>, Option<Timestamp>), Obstacle> {
        let mut pinned = Vec::with_capacity(self.image.from.len());
        let mut base_seen: Option<Timestamp> = None;
        let mut waiting: Vec<(String, bool)> = Vec::new();
        for (edge, parent) in self.image.from.iter().zip(self.seen.lineage.parents(self.index)) {
            let (repository, digest, since) = match *parent {
                Parent::Upstream(upstream) => self.upstream(upstream)?,
                Parent::Image(parent) => {
                    let decision = walk.images.get(parent);
                    if let Some(by) = decision.and_then(|decision| failed_ancestor(parent, decision)) {
                        return Err(Obstacle::Blocked(by));
                    }
                    let good =
                        decision.filter(|decision| decision.state == ImageState::Current).and_then(|d| d.good.as_ref());
                    let Some(good) = good else {
                        waiting.push((edge.parent().into(), decision.is_some_and(|decision| decision.in_progress)));
                        continue;
                    };
                    (self.repository_of(parent), good.digest.clone(), good.base_seen)
                }
            };
            base_seen = [base_seen, since].into_iter().flatten().min();
            let reference = reference(self.seen.spec, edge, *parent);
            pinned.push(PinnedParent { edge: edge.clone(), repository, reference, digest });
        }
        if !waiting.is_empty() {
            let names: Vec<&str> = waiting.iter().map(|(name, _)| name.as_str()).take(10).collect();
            let message = format!("waiting for {}", names.join(", "));
            let in_progress = waiting.iter().any(|(_, in_progress)| *in_progress);
            return Err(Obstacle::Waiting(Fault { reason: reason::WAITING_FOR_PARENT, message }, in_progress));
        }
        let source = known(&self.sight.source, "the source is being looked up")?;
        let strategy = known(&self.sight.strategy, "the build strategy is being looked up")?;
        let references: Vec<String> = pinned.iter().map(|parent| parent.reference.clone()).collect();
        let inputs = Inputs {
            parents: pinned
                .iter()
                .map(|parent| ParentDigest { name: parent.edge.parent().into(), digest: parent.digest.clone() })
                .collect(),
            source,
            spec: spec_hash(self.image, &references),
            strategy,
        };
        Ok((inputs, pinned, base_seen))
    }

    fn repository_of(&self, image: usize) -> String {
        self.seen.spec.images.get(image).map(|image| repository(self.seen.spec, image)).unwrap_or_default()
    }

    fn upstream(&self, index: usize) -> Result<(String, String, Option<Timestamp>), Obstacle> {
        let status = self.upstreams.get(index);
        let image = self.seen.spec.upstreams.get(index).map(|upstream| upstream.image.clone()).unwrap_or_default();
        if let Some(adopted) = status.and_then(|status| status.adopted.as_ref()) {
            Ok((image, adopted.digest.clone(), adopted.first_seen))
        } else {
            let name = status.map_or("", |status| status.name.as_str());
            let why = status.and_then(|status| status.message.as_deref()).unwrap_or("its digest is being looked up");
            // What the status says in its own reason, as the constant that it is.
            let told = status.and_then(|status| status.reason.as_deref());
            let fault = self.seen.upstreams.get(index).and_then(|sight| sight.fault.as_ref());
            let reason = [reason::HELD, reason::PLATFORM_MISSING]
                .into_iter()
                .chain(fault.map(|fault| fault.reason))
                .find(|reason| Some(*reason) == told)
                .unwrap_or(reason::RESOLVING);
            let message = format!("upstream {name}: {why}");
            Err(Obstacle::Waiting(Fault { reason, message }, false))
        }
    }

    fn blocked(&self, by: usize) -> ImageDecision {
        let name = self.seen.spec.images.get(by).map_or("", |image| image.name.as_str());
        let fault = Fault { reason: reason::ANCESTOR_FAILED, message: format!("blocked by {name}, which failed") };
        ImageDecision { state: ImageState::Blocked, blocked_by: Some(by), ..ImageDecision::waiting(fault, false) }
    }

    fn with_inputs(
        &self,
        walk: &mut Walk,
        inputs: Inputs,
        parents: Vec<PinnedParent>,
        base_seen: Option<Timestamp>,
    ) -> ImageDecision {
        let wanted = fingerprint(&inputs);
        let recorded = self.sight.record.and_then(good_of);
        if let Some(good) = recorded.clone().filter(|good| good.fingerprint == wanted) {
            return Self::current(Good { base_seen: base_seen.or(good.base_seen), inputs, ..good });
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
            Some(PushResult::Present { digest, build, size }) => {
                let (digest, build, size) = (digest.clone(), *build, *size);
                Self::current(Good { digest, fingerprint: wanted, build, size, inputs, base_seen })
            }
            Some(PushResult::Rejected(fault)) => {
                let last = BuildFailure {
                    class: FailureClass::Input,
                    reason: fault.reason.into(),
                    message: fault.message.clone(),
                };
                let failure =
                    failure.unwrap_or_else(|| failure::add(None, &wanted, succeeded.unwrap_or(0), last, self.now));
                Self::failed(ImageDecision { failure: Some(failure), ..stale }, fault.reason)
            }
            Some(PushResult::Faulty(fault, retry_at)) if *retry_at > self.now => {
                walk.wake(*retry_at);
                let message = format!("{}; asked again at {retry_at:.0}", fault.message);
                ImageDecision {
                    failure,
                    reason: fault.reason,
                    message,
                    // A registry that is away comes back; what it refuses, it refuses until somebody does something.
                    in_progress: fault.reason == reason::REGISTRY_UNAVAILABLE,
                    state: self.checking(),
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
                    state: self.checking(),
                    ..stale
                }
            }
        }
    }

    /// The state while the registry is asked: a build that has ended is being checked, otherwise the image waits.
    fn checking(&self) -> ImageState {
        let ended = self.sight.builds.iter().any(|build| build.outcome == BuildOutcome::Succeeded);
        if ended { ImageState::Checking } else { ImageState::Waiting }
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
            format!("failed {times}: {}", failure.last.message)
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
                format!("build {} runs as Job {}: {}", build.build, build.job, causes::sentence(&stale.causes))
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
                let infrastructure =
                    stale.failure.as_ref().is_some_and(|failure| failure.last.class == FailureClass::Infrastructure);
                let reason = if infrastructure { reason::INFRASTRUCTURE_FAILED } else { reason::BUILD_FAILED };
                return Self::failed(stale, reason);
            }
            Verdict::RetryAt(at) if at > self.now => {
                walk.wake(at);
                let why = stale.failure.as_ref().map_or("", |failure| failure.last.message.as_str());
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
        let last = self.sight.record.and_then(|record| record.build).max(last_build);
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

fn known(sight: &Sight<String>, pending: &str) -> Result<String, Obstacle> {
    match sight {
        Sight::Known(value) => Ok(value.clone()),
        Sight::Pending => Err(Obstacle::Waiting(Fault { reason: reason::RESOLVING, message: pending.into() }, false)),
        Sight::Faulty(fault) => Err(Obstacle::Waiting(fault.clone(), false)),
    }
}

/// Whether a build counts as failed, and its Job has not ended.
#[must_use]
pub fn failed_and_live(build: &BuildSight) -> bool {
    build.live && matches!(build.outcome, BuildOutcome::Failed(_))
}

fn failed_ancestor(parent: usize, decision: &ImageDecision) -> Option<usize> {
    match decision.state {
        ImageState::Failed => Some(parent),
        ImageState::Blocked => decision.blocked_by,
        _ => None,
    }
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
