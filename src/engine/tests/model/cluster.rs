//! What Jobs and registry make of a decision, and how builds and checks end.

use jiff::SignedDuration;

use crate::{
    api::{BuildFailure, LabelRecord, condition::Reason},
    engine::{tests::model::FamilyModel, *},
    identity::{BuildIdentity, ImageDigest},
};

impl FamilyModel {
    /// Asks the registry for a push, and keeps its answer.
    pub(in crate::engine) fn probe(&mut self, lookup: &Effect) {
        if let Effect::ReadLabels { image, digest, names } = lookup {
            self.read_labels(image.position(), digest, names);
        }
        if let Effect::FindDigest { image, digest } = lookup {
            self.find_digest(image.position(), digest);
        }
        let Effect::LookUp { image, fingerprint, scope, after } = lookup else { return };
        let (fingerprint, after) = (fingerprint.clone(), *after);
        let away = || Problem { reason: Reason::RegistryUnavailable, message: "away".into() };
        let image = image.position();
        let is_recorded = self.records[image].as_ref().is_some_and(|known| known.digest.is_some());
        let marked = self.marks.get(&(image, fingerprint.clone())).filter(|_| !is_recorded);
        let marked = marked.map(|(digest, request)| {
            let mut builds = self.pushed.values();
            let build = builds.find(|(pushed, _)| pushed == digest).expect("a build").1;
            ((digest.clone(), build), Some(request.clone()))
        });
        let pushed = self.pushed.get(&(image, fingerprint.clone()));
        let found = marked.or_else(|| Some((pushed?.clone(), None)));
        let result = match found {
            _ if self.registry_unreachable => {
                LookupResult::Failed(away(), self.now + SignedDuration::from_secs(10))
            }
            Some(((digest, build), request)) => LookupResult::Present {
                digest: digest.clone(),
                build,
                size: 1,
                content: Some(
                    self.content.get(&image).cloned().unwrap_or_else(|| digest.to_string()).into(),
                ),
                blobs: None,
                request,
            },
            None => match self.existing.get(&image) {
                Some(existing) if *scope == LookupScope::FloatingTags => {
                    LookupResult::Existing(self.read_tags(image, existing))
                }
                _ => LookupResult::Absent { last_build: None, after, asked_at: self.now },
            },
        };
        let asked = self.asked.entry(image).or_default();
        asked.retain(|earlier| earlier.fingerprint != fingerprint);
        asked.push(Lookup { fingerprint, result });
    }

    /// Says whether the registry has a digest.
    fn find_digest(&mut self, image: usize, digest: &ImageDigest) {
        let result = if self.registry_unreachable {
            let problem =
                Problem { reason: Reason::RegistryUnavailable, message: "no answer".into() };
            DigestResult::Failed(problem, self.now + SignedDuration::from_secs(10))
        } else if self.deleted_digests.contains(digest) {
            DigestResult::Absent
        } else {
            DigestResult::Present
        };
        self.rollback_targets.insert(image, DigestAnswer { digest: digest.clone(), result });
    }

    /// Reads labels of a digest.
    fn read_labels(&mut self, image: usize, digest: &ImageDigest, names: &[String]) {
        self.label_reads += 1;
        let known = self.pushed_labels.get(digest).cloned().unwrap_or_default();
        let value = |name: &String| {
            known.iter().find(|(known, _)| known == name).map(|(_, value)| (*value).to_owned())
        };
        let labels = names.iter().map(|name| LabelRecord {
            name: name.clone(),
            value: value(name),
            problem: None,
        });
        let digest = digest.clone();
        let answer = if self.registry_unreachable {
            let problem =
                Problem { reason: Reason::RegistryUnavailable, message: "no answer".into() };
            let ask_at = self.now + SignedDuration::from_secs(10);
            LabelAnswer::Unread { digest, problem, ask_at }
        } else {
            LabelAnswer::Read { digest, labels: labels.collect() }
        };
        self.read_labels.insert(image, answer);
    }

    /// What the registry says of the floating tags of an image.
    fn read_tags(&self, image: usize, existing: &ExistingImage) -> ExistingImage {
        let tags = self.tags.iter().filter(|((of, tag), _)| *of == image && !tag.starts_with('r'));
        ExistingImage {
            tags: tags.map(|((_, tag), digest)| (tag.clone(), digest.into())).collect(),
            read_at: self.now,
            ask_at: self.now + SignedDuration::from_mins(10),
            ..existing.clone()
        }
    }

    /// Has the registry mark the results of requested rebuilds. Whether there were any.
    pub(in crate::engine) fn mark_rebuilds(&mut self, decision: &Decision) -> bool {
        let mut any = false;
        for effect in &decision.effects {
            let Effect::MarkRebuild { image, fingerprint, digest } = effect else { continue };
            any = true;
            let verified = decision.images[image.position()].verified.as_ref();
            let request = verified.expect("a build").inputs.nonce.clone();
            let index = image.position();
            let (fingerprint, digest) = (fingerprint.clone(), digest.clone());
            let retry_at =
                self.registry_unreachable.then(|| self.now + SignedDuration::from_secs(10));
            if retry_at.is_none() {
                self.marks.insert((index, fingerprint.clone()), (digest.clone(), request));
            }
            self.rebuild_marks.insert(index, RebuildMark { fingerprint, digest, retry_at });
        }
        any
    }

    /// Has the registry remember what came out the same, and answer so from now on. Whether there
    /// was anything.
    pub(in crate::engine) fn remember(&mut self, decision: &Decision) -> bool {
        let mut any = false;
        for effect in &decision.effects {
            let Effect::RetagUnchanged { image, fingerprint, digest } = effect else { continue };
            let build = self
                .pushed
                .values()
                .find(|(known, _)| known == digest)
                .map_or(0, |(_, build)| *build);
            let image = image.position();
            self.pushed.insert((image, fingerprint.clone()), (digest.clone(), build));
            self.asked.remove(&image);
            any = true;
        }
        any
    }

    /// Does what a decision asks for.
    pub(in crate::engine) fn carry_out(&mut self, effect: &Effect) {
        match effect {
            Effect::LookUp { .. }
            | Effect::ReadLabels { .. }
            | Effect::FindDigest { .. }
            | Effect::MarkRebuild { .. }
            | Effect::RetagUnchanged { .. } => {
                panic!("a question was left open")
            }
            Effect::Stop { job } => {
                for (_, of) in
                    self.jobs.iter_mut().chain(&mut self.orphans).filter(|(_, of)| of.job == *job)
                {
                    of.live = false;
                    if of.outcome == BuildOutcome::Running {
                        of.outcome = BuildOutcome::Stopped;
                    }
                }
                // There is no verdict of a check that was ended before its end.
                self.checks.retain(|(_, of)| of.job != *job || of.outcome != CheckOutcome::Running);
            }
            Effect::Check { image, check, digest, attempt } => {
                let image = image.position();
                let of = &self.spec.images[image].checks[check.position()];
                let observed = ObservedCheck {
                    job: format!("check-{image}-{check}-{digest}-{attempt}").into(),
                    check: of.name.clone(),
                    revision: fingerprint::check_revision(of),
                    digest: digest.clone(),
                    image: of.image.as_ref().map(|image| format!("{image}@{attempt}")),
                    attempt: *attempt,
                    waits_for: None,
                    outcome: CheckOutcome::Running,
                    live: true,
                };
                self.checks.push((image, observed));
            }
            Effect::Build(PlannedBuild { image, identity, .. }) => {
                let image = image.position();
                let BuildIdentity { fingerprint, attempt, .. } = identity;
                *self.started.entry(image).or_default() += 1;
                let live = self.jobs.iter().any(|(of, job)| {
                    *of == image && job.identity.fingerprint == *fingerprint && job.live
                });
                assert!(!live, "two live builds of one fingerprint");
                let mut running = self.running.iter();
                assert!(running.any(|cascade| cascade.name == identity.cascade), "{identity:?}");
                let name = &self.spec.images[image].name;
                self.jobs.push((
                    image,
                    ObservedBuild {
                        job: format!("{name}-{fingerprint:.8}-{attempt}").into(),
                        identity: identity.clone(),
                        started_at: Some(self.now),
                        ended_at: None,
                        outcome: BuildOutcome::Running,
                        pushed: None,
                        waits_for: None,
                        wait_reason: None,
                        has_started: true,
                        repository: None,
                        live: true,
                    },
                ));
            }
            Effect::Promote { image, digest, tags } => {
                for tag in tags {
                    self.tags.insert((image.position(), tag.tag.clone()), digest.to_string());
                }
            }
        }
        let running =
            self.jobs.iter().filter(|(_, job)| job.outcome == BuildOutcome::Running).count();
        self.most_at_once = self.most_at_once.max(running);
    }

    /// Ends the checks that run.
    pub(in crate::engine::tests) fn finish_checks(&mut self) {
        for (_, check) in
            self.checks.iter_mut().filter(|(_, check)| check.outcome == CheckOutcome::Running)
        {
            check.live = false;
            check.outcome = match self.failing_checks.get(&check.check) {
                Some(class) => CheckOutcome::Failed(BuildFailure {
                    class: *class,
                    reason: "X".into(),
                    message: "it is not as it should be".into(),
                }),
                None => CheckOutcome::Passed("fine".into()),
            };
        }
    }

    /// Ends the build of one image with a push.
    pub(in crate::engine::tests) fn finish_only(&mut self, name: &str) {
        let index = self.index(name);
        let (mine, others) =
            std::mem::take(&mut self.jobs).into_iter().partition(|(of, _)| *of == index);
        self.jobs = mine;
        self.finish_builds();
        self.jobs.extend(others);
    }

    /// Ends the builds that run: with a push, or as `failing` says.
    pub(in crate::engine::tests) fn finish_builds(&mut self) {
        for (image, job) in &mut self.jobs {
            if job.outcome != BuildOutcome::Running {
                continue;
            }
            job.ended_at = Some(self.now);
            job.outcome = if let Some(class) = self.failing.get(image) {
                BuildOutcome::Failed(BuildFailure {
                    class: *class,
                    reason: self.failure_reason.into(),
                    message: "it broke".into(),
                })
            } else {
                self.next_digest += 1;
                let digest = format!("sha256:built-{}", self.next_digest);
                let BuildIdentity { fingerprint, number, .. } = &job.identity;
                if let Some(labels) = self.labels.get(image) {
                    self.pushed_labels.insert(digest.as_str().into(), labels.clone());
                }
                self.pushed.insert((*image, fingerprint.clone()), (digest.into(), *number));
                job.live = false;
                BuildOutcome::Succeeded
            };
        }
    }
}
