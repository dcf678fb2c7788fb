//! An image whose wanted build is not in the registry: it runs, is tried again, has failed for
//! good, waits for the next cascade, or is ready to start.

use crate::{
    api::{CauseType, FailureClass, FailureRecord, ImageState, condition::reason},
    engine::{
        causes,
        decision::{Action, ImageDecision, PinnedParent},
        fingerprint::own_hash,
        image::evaluation::{ImageEval, Plan, Ready},
        image::{
            evaluate::running_of,
            failure::{self, Verdict},
        },
        input::{BuildOutcome, ObservedBuild},
    },
    identity::{BuildIdentity, Fingerprint},
    lineage::{Parent, UpstreamIndex},
};

impl ImageEval<'_> {
    /// The state of an image whose wanted build is not in the registry.
    pub(in crate::engine) fn absent(
        &self,
        plan: &mut Plan,
        stale: ImageDecision,
        wanted: &Fingerprint,
        last_build: Option<i64>,
        parents: Vec<PinnedParent>,
    ) -> ImageDecision {
        let cancelled = stale.failure.as_deref().is_some_and(failure::is_cancelled);
        if let Some(build) = self.running().filter(|_| !cancelled) {
            return Self::building(stale, build, wanted);
        }
        match failure::verdict(
            stale.failure.as_deref(),
            &self.context.input.spec.policy.retries,
            self.context.now,
        ) {
            Verdict::GivenUp => {
                let reason =
                    stale.failure.as_deref().map_or(reason::BUILD_FAILED, failure::given_up);
                return Self::failed(stale, reason);
            }
            Verdict::RetryAt(at) if at > self.context.now => {
                plan.wake(at);
                let why = stale
                    .failure
                    .as_ref()
                    .map_or_else(String::new, |failure| failure::gist(&failure.last));
                let message = format!("tried again at {at:.0} after: {why}");
                return queued(stale, reason::RETRYING, message);
            }
            Verdict::RetryAt(_) | Verdict::Clean => {}
        }
        if self.observed.builds.iter().any(|build| build.live) {
            return queued(
                stale,
                reason::RETRYING,
                "an earlier build is being ended before the \
                next one"
                    .into(),
            );
        }
        let own = stale.inputs.as_deref().map(own_hash).unwrap_or_default();
        if self.built_in_cascade(&stale, wanted, &own) {
            let message = format!(
                "built in this cascade already; the next one takes up: {}",
                causes::sentence(&stale.causes)
            );
            let stands = self.observed.verified.is_some();
            return ImageDecision {
                in_progress: false,
                stands,
                ..queued(stale, reason::NEXT_CASCADE, message)
            };
        }
        plan.ready.push(self.ready(&stale, wanted, last_build, parents, own));
        let message = causes::sentence(&stale.causes);
        queued(stale, reason::CASCADING, message)
    }

    fn building(
        stale: ImageDecision,
        build: &ObservedBuild,
        wanted: &Fingerprint,
    ) -> ImageDecision {
        let message = if build.identity.fingerprint == *wanted {
            let (number, job, why) =
                (build.identity.number, &build.job, causes::sentence(&stale.causes));
            match &build.waits_for {
                Some(what) => format!("build {number} waits as Job {job}: {what}"),
                None => format!("build {number} runs as Job {job}: {why}"),
            }
        } else {
            format!("an earlier build runs to its end as Job {}; it is rebuilt next", build.job)
        };
        ImageDecision {
            state: ImageState::Building,
            reason: reason::BUILDING,
            message: message.into(),
            in_progress: true,
            running: Some(running_of(build).into()),
            ..stale
        }
    }

    pub(in crate::engine) fn failed(stale: ImageDecision, reason: &'static str) -> ImageDecision {
        let message = stale.failure.as_ref().map_or_else(String::new, |failure| {
            let attempts = failure.build + failure.infrastructure;
            match (failure.last.class, attempts) {
                (FailureClass::Cancelled, _) => failure.last.message.clone(),
                (_, 1) => format!("failed once: {}", failure::gist(&failure.last)),
                _ => format!("failed {attempts} times: {}", failure::gist(&failure.last)),
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

    /// Whether the cascade that runs has built the image already, from the same source, spec and
    /// strategy. What a person edits while the cascade runs is built in it once more; what a parent
    /// brings is left to the next cascade, so that every cascade ends.
    fn built_in_cascade(&self, stale: &ImageDecision, wanted: &Fingerprint, own: &str) -> bool {
        let Some(cascade) = self.context.input.cascade else { return false };
        let verified =
            self.observed.verified.as_ref().filter(|verified| own_hash(&verified.inputs) == own);
        let last = self
            .observed
            .record
            .into_iter()
            .flat_map(|record| &record.history)
            .find(|build| !build.digest.is_empty());
        let recorded =
            verified.is_some() && last.is_some_and(|build| build.cascade == cascade.name);
        // Builds that have come to nothing, because a parent changed before their checks were
        // through, have no other record. One whose push has vanished counts as failed.
        let told = cascade.status.images.iter().find(|image| image.name == self.image.name);
        recorded
            || stale.failure.is_none()
                && told.is_some_and(|told| told.own_inputs.as_deref() == Some(own))
            || self.observed.builds.iter().any(|build| {
                build.identity.cascade == cascade.name
                    && build.identity.own_inputs == own
                    && build.identity.fingerprint != *wanted
                    && build.outcome == BuildOutcome::Succeeded
            })
    }

    fn ready(
        &self,
        stale: &ImageDecision,
        wanted: &Fingerprint,
        last_build: Option<i64>,
        parents: Vec<PinnedParent>,
        own: String,
    ) -> Ready {
        let record = self.observed.record;
        // What was built before and reverted counts too: a number names one build for ever.
        let history =
            record.into_iter().flat_map(|record| &record.history).filter_map(|build| build.build);
        let jobs = self.observed.builds.iter().map(|build| build.identity.number);
        let recorded = record.and_then(|record| record.build.max(record.last_build));
        let last = history.chain(jobs).chain(recorded).max().max(last_build);
        let numbered = self
            .observed
            .builds
            .iter()
            .filter(|build| build.identity.fingerprint == *wanted)
            .map(|build| build.identity.number)
            .max();
        let direct = stale.causes.iter().filter(|cause| cause.via.is_empty());
        let user_caused = direct
            .clone()
            .any(|cause| !matches!(cause.type_, CauseType::Upstream | CauseType::Parent));
        let identity = BuildIdentity {
            fingerprint: wanted.clone(),
            attempt: self.next_attempt(wanted, stale.failure.as_deref()),
            // Another attempt at a fingerprint keeps the number of the first.
            number: numbered.unwrap_or_else(|| last.unwrap_or(0).saturating_add(1)),
            cascade: self.context.input.cascade.map_or("", |cascade| cascade.name).into(),
            own_inputs: own,
            user_caused,
            upstreams: self.upstreams(stale),
        };
        let source = stale.inputs.as_ref().map_or_else(String::new, |inputs| inputs.source.clone());
        let action = Action::Build { image: self.index, identity, parents, source };
        let imports = &self.context.input.blueprint.import_names;
        let imported = stale.causes.iter().any(|cause| cause.via.is_empty())
            && direct
                .clone()
                .all(|cause| cause.type_ == CauseType::Parent && imports.contains(&cause.name));
        Ready { image: self.index, action, user_caused, imported }
    }

    /// The references of this family's upstreams that caused a build; for one that nothing below it
    /// caused, of those that it stands on.
    fn upstreams(&self, stale: &ImageDecision) -> Vec<String> {
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

    fn next_attempt(&self, wanted: &Fingerprint, failure: Option<&FailureRecord>) -> i32 {
        let input = self
            .observed
            .builds
            .iter()
            .filter(|build| build.identity.fingerprint == *wanted)
            .map(|build| build.identity.attempt)
            .max();
        input.max(failure.map(|failure| failure.attempt)).map_or(0, |last| last.saturating_add(1))
    }
}

fn queued(stale: ImageDecision, reason: &'static str, message: String) -> ImageDecision {
    ImageDecision {
        state: ImageState::Queued,
        reason,
        message: message.into(),
        in_progress: true,
        ..stale
    }
}
