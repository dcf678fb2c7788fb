//! An image whose wanted build is not in the registry: the build runs, is retried, has failed
//! permanently, is left to the next cascade, or is ready to start.

use crate::{
    api::{CauseType, FailureClass, FailureRecord, ImageState, condition::Reason},
    engine::{
        Problem, causes,
        decision::{Effect, ImageDecision, PlannedBuild},
        fingerprint::own_hash,
        image::evaluation::{ImageEval, Plan, ReadyBuild},
        image::{
            failure::{self, RetryDecision},
            recorded::running_build,
        },
        input::{BuildOutcome, DeferredJob, DeferredWork, ObservedBuild},
    },
    identity::{BuildIdentity, Fingerprint, OwnInputsHash, PinnedParent},
    lineage::{Parent, UpstreamIndex},
};

impl ImageEval<'_> {
    /// Returns the decision for an image whose wanted build is not in the registry.
    pub(in crate::engine) fn decide_absent(
        &self,
        plan: &mut Plan,
        stale: ImageDecision,
        wanted: &Fingerprint,
        last_build: Option<i64>,
        parents: Vec<PinnedParent>,
    ) -> ImageDecision {
        let cancelled = stale.failure.as_deref().is_some_and(failure::is_cancelled);
        if let Some(build) = self.running().filter(|_| !cancelled) {
            return self.decide_building(plan, stale, build, wanted);
        }
        let stale = match self.decide_retry(plan, stale) {
            Ok(stale) => stale,
            Err(decision) => return *decision,
        };
        if let Some(Problem { reason, message }) = self.deferred_build(plan, wanted) {
            plan.not_admitted.push(self.index);
            return queued(stale, reason, message);
        }
        if self.observed.builds.iter().any(|build| build.live) {
            let message = "the previous attempt is being stopped before the next one starts";
            return queued(stale, Reason::Retrying, message.into());
        }
        let own_inputs = stale.inputs.as_deref().map(own_hash).unwrap_or_default();
        if self.is_built_in_cascade(&stale, wanted, &own_inputs) {
            let message = format!(
                "already built in this cascade; the next cascade picks up: {}",
                causes::sentence(&stale.causes)
            );
            return ImageDecision {
                in_progress: false,
                releases_children: self.observed.verified.is_some(),
                ..queued(stale, Reason::NextCascade, message)
            };
        }
        plan.ready_builds.push(self.ready_build(&stale, wanted, last_build, parents, own_inputs));
        if let Some(Problem { reason, message }) = self.last_rejection(wanted) {
            plan.tried_again.push(self.index);
            return queued(stale, *reason, message.clone());
        }
        let message = causes::sentence(&stale.causes);
        queued(stale, Reason::Cascading, message)
    }

    /// Returns the image unchanged if another attempt may start now. The error is the decision for
    /// an image that is not retried, or not yet.
    fn decide_retry(
        &self,
        plan: &mut Plan,
        stale: ImageDecision,
    ) -> Result<ImageDecision, Box<ImageDecision>> {
        match self.retry_decision(stale.failure.as_deref()) {
            RetryDecision::GiveUp => {
                let reason =
                    stale.failure.as_deref().map_or(Reason::BuildFailed, failure::given_up_reason);
                Err(Self::decide_failed(stale, reason).into())
            }
            RetryDecision::RetryAt(at) if at > self.context.now => {
                let Problem { reason, message } = self.pause(plan, stale.failure.as_deref(), at);
                Err(queued(stale, reason, message).into())
            }
            RetryDecision::RetryAt(_) | RetryDecision::NoFailure => Ok(stale),
        }
    }

    /// Returns why the build waits to be admitted, if it does.
    fn deferred_build(&self, plan: &mut Plan, wanted: &Fingerprint) -> Option<Problem> {
        if let Some(deferred) = self.deferred_job(&DeferredWork::Build(wanted.clone())) {
            plan.wake(deferred.retry_at);
            return Some(deferred.problem.clone());
        }
        let mut builds = self.observed.builds.iter().filter(|build| build.live);
        builds.find_map(|build| match &build.outcome {
            BuildOutcome::NotAdmitted(problem) if build.identity.fingerprint == *wanted => {
                Some(problem.clone())
            }
            _ => None,
        })
    }

    /// Returns a Job that was rejected and is not to be created again yet. A user who requests a
    /// retry does not wait for that time.
    pub(in crate::engine) fn deferred_job(&self, work: &DeferredWork) -> Option<&DeferredJob> {
        let is_retried = self.overrides().is_some_and(|overrides| overrides.retry.is_some());
        let mut deferred = self.observed.deferred.iter().filter(|_| !is_retried);
        deferred.find(|job| job.work == *work && job.retry_at > self.context.now)
    }

    /// Returns why the last Job of a build was rejected, until another one has a pod.
    fn last_rejection(&self, wanted: &Fingerprint) -> Option<&Problem> {
        let mut deferred = self.observed.deferred.iter();
        let is_wanted = |job: &&DeferredJob| job.work == DeferredWork::Build(wanted.clone());
        deferred.find(is_wanted).map(|job| &job.problem)
    }

    /// Returns the decision for an image with a running build. A build whose result is not wanted
    /// is stopped if nothing is lost: it has not started, or pushes to another repository.
    fn decide_building(
        &self,
        plan: &mut Plan,
        stale: ImageDecision,
        build: &ObservedBuild,
        wanted: &Fingerprint,
    ) -> ImageDecision {
        let is_wanted = build.identity.fingerprint == *wanted;
        let pushes_elsewhere = !build.pushes_to(&self.blueprint.repository);
        if pushes_elsewhere || !is_wanted && !build.has_started {
            plan.effects.push(Effect::Stop { job: build.job.clone() });
            let why =
                if pushes_elsewhere { "pushes to another repository" } else { "has not started" };
            let message = format!(
                "an earlier build, Job {}, {why} and is stopped; the image is rebuilt next",
                build.job
            );
            return queued(stale, Reason::Retrying, message);
        }
        let rejection = self.last_rejection(wanted).filter(|_| is_wanted && !build.has_started);
        if let Some(Problem { reason, message }) = rejection {
            return queued(stale, *reason, message.clone());
        }
        let message = if is_wanted {
            let (number, job, why) =
                (build.identity.number, &build.job, causes::sentence(&stale.causes));
            match &build.waits_for {
                Some(what) => format!("build {number} waits as Job {job}: {what}"),
                None => format!("build {number} runs as Job {job}: {why}"),
            }
        } else {
            format!(
                "an earlier build runs to completion as Job {}; the image is rebuilt next",
                build.job
            )
        };
        ImageDecision {
            state: ImageState::Building,
            reason: Reason::Building,
            message: message.into(),
            in_progress: true,
            running: Some(running_build(build).into()),
            ..stale
        }
    }

    /// Returns the decision for an image that is not retried any more.
    pub(in crate::engine) fn decide_failed(stale: ImageDecision, reason: Reason) -> ImageDecision {
        let message = stale.failure.as_ref().map_or_else(String::new, |failure| {
            let attempts = failure.build + failure.infrastructure;
            match (failure.last.class, attempts) {
                (FailureClass::Cancelled, _) => failure.last.message.clone(),
                (_, 1) => format!("failed once: {}", failure::summary(&failure.last)),
                _ => format!("failed {attempts} times: {}", failure::summary(&failure.last)),
            }
        });
        ImageDecision {
            state: ImageState::Failed,
            reason,
            message: message.into(),
            in_progress: false,
            ..stale
        }
    }

    /// Whether the image's cascade has already built it from the same source, spec and
    /// strategy.
    ///
    /// If a user edits the image during the cascade, it is built once more in the same cascade. If
    /// only a parent has changed, the image is left to the next cascade, so that every cascade
    /// ends.
    fn is_built_in_cascade(
        &self,
        stale: &ImageDecision,
        wanted: &Fingerprint,
        own_inputs: &OwnInputsHash,
    ) -> bool {
        let Some(cascade) = self.cascade() else { return false };
        let verified = self
            .observed
            .verified
            .as_ref()
            .filter(|verified| own_hash(&verified.inputs) == *own_inputs);
        let last = self
            .observed
            .record
            .into_iter()
            .flat_map(|record| &record.history)
            .find(|build| !build.digest.is_empty());
        let is_recorded =
            verified.is_some() && last.is_some_and(|build| *cascade.name == build.cascade);
        // A build without a result, because a parent changed before its checks had passed, has no
        // other record. A build whose push is missing in the registry counts as failed.
        let result = cascade.status.images.iter().find(|image| image.name == self.image.name);
        is_recorded
            || stale.failure.is_none()
                && result
                    .is_some_and(|result| result.own_inputs.as_deref() == Some(own_inputs.as_str()))
            || self.observed.builds.iter().any(|build| {
                build.identity.cascade == *cascade.name
                    && build.identity.own_inputs == *own_inputs
                    && build.identity.fingerprint != *wanted
                    && build.outcome == BuildOutcome::Succeeded
            })
    }

    /// Returns the build that the image needs.
    fn ready_build(
        &self,
        stale: &ImageDecision,
        wanted: &Fingerprint,
        last_build: Option<i64>,
        parents: Vec<PinnedParent>,
        own_inputs: OwnInputsHash,
    ) -> ReadyBuild {
        let mut direct = stale.causes.iter().filter(|cause| cause.via.is_empty());
        let identity = BuildIdentity {
            fingerprint: wanted.clone(),
            attempt: self.next_attempt(wanted, stale.failure.as_deref()),
            number: self.build_number(wanted, last_build),
            cascade: self.cascade().map(|cascade| cascade.name.clone()).unwrap_or_default(),
            own_inputs,
            user_caused: causes::is_user_caused(&stale.causes),
            upstreams: self.causing_upstreams(stale),
        };
        let source = stale.inputs.as_ref().map_or_else(String::new, |inputs| inputs.source.clone());
        let imports = &self.context.input.blueprint.import_names;
        let only_imports_changed = stale.causes.iter().any(|cause| cause.via.is_empty())
            && direct
                .all(|cause| cause.type_ == CauseType::Parent && imports.contains(&cause.name));
        let build = PlannedBuild { image: self.index, identity, parents, source };
        ReadyBuild { build, only_imports_changed }
    }

    /// Returns the number for a build of a fingerprint. All attempts at a fingerprint share one
    /// number. A number is never used for another fingerprint, even if its build was reverted.
    fn build_number(&self, wanted: &Fingerprint, last_build: Option<i64>) -> i64 {
        let builds = self.observed.builds.iter().map(|build| &build.identity);
        let of_fingerprint = builds.clone().filter(|build| build.fingerprint == *wanted);
        if let Some(number) = of_fingerprint.map(|build| build.number).max() {
            return number;
        }
        let record = self.observed.record;
        // The Jobs of earlier attempts are gone, for example because they were not admitted.
        let last_wanted = record.filter(|record| {
            record.last_build_fingerprint.as_deref() == Some(wanted.as_str())
                && record.build < record.last_build
        });
        if let Some(number) = last_wanted.and_then(|record| record.last_build) {
            return number;
        }
        let history =
            record.into_iter().flat_map(|record| &record.history).filter_map(|build| build.build);
        let recorded = record.and_then(|record| record.build.max(record.last_build));
        let jobs = builds.map(|build| build.number);
        let last = history.chain(jobs).chain(recorded).max().max(last_build);
        last.unwrap_or(0).saturating_add(1)
    }

    /// Returns the references of the family's upstreams that caused a build. If no upstream caused
    /// it, these are the upstreams that the image is built on.
    fn causing_upstreams(&self, stale: &ImageDecision) -> Vec<String> {
        let upstreams = &self.context.input.spec.upstreams;
        let mut caused: Vec<UpstreamIndex> = stale
            .causes
            .iter()
            .filter(|cause| cause.type_ == CauseType::Upstream)
            .filter_map(|cause| upstreams.iter().position(|upstream| upstream.name == cause.name))
            .map(UpstreamIndex::new)
            .collect();
        if caused.is_empty() {
            let parents = self.context.input.lineage().parents(self.index).iter();
            caused.extend(parents.filter_map(|parent| match parent {
                Parent::Upstream(upstream) => Some(*upstream),
                Parent::Image(_) | Parent::Import(_) => None,
            }));
        }
        let mut references: Vec<String> = caused
            .into_iter()
            .filter_map(|index| upstreams.get(index.position()))
            .map(crate::api::Upstream::reference)
            .collect();
        references.sort_unstable();
        references.dedup();
        references
    }

    /// Returns the next attempt at a fingerprint, counted from 0.
    fn next_attempt(&self, wanted: &Fingerprint, failure: Option<&FailureRecord>) -> i32 {
        let made = self
            .observed
            .builds
            .iter()
            .filter(|build| build.identity.fingerprint == *wanted)
            .map(|build| build.identity.attempt)
            .max();
        made.max(failure.and_then(|failure| failure.attempt))
            .map_or(0, |last| last.saturating_add(1))
    }
}

fn queued(stale: ImageDecision, reason: Reason, message: String) -> ImageDecision {
    ImageDecision {
        state: ImageState::Queued,
        reason,
        message: message.into(),
        in_progress: true,
        ..stale
    }
}
