//! Starts checks: one Job per digest, check and attempt. The name of the Job says which, so that
//! none is started twice. Needs a client.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Resource, ResourceExt};

use crate::{
    api::{
        BuildFailure, CheckRecord, CheckState, condition::shorten, image_records::MAX_CHECK_MESSAGE,
    },
    builds::{
        checks::{
            CheckRequest,
            job::{job, job_name},
        },
        outcome::JobRejection,
        request::FamilyIdentity,
    },
    controller::{
        check_images::UnresolvedImage,
        deferred_jobs::Rejection,
        error::ReconcileError,
        family::{
            act::jobs::{Acceptance, JobCreation, JobStarts, check_acceptance, create_jobs},
            reconcile::Reconcile,
        },
        job_seals,
        object_cache::Key,
    },
    engine::{
        DeferredWork, Effect, Problem, fingerprint::check_revision, image::attempts::CheckRefusal,
    },
    lineage::ImageIndex,
};

/// A check of an image that the decision asks for.
struct WantedCheck {
    image: ImageIndex,
    request: CheckRequest,
}

/// A check that cannot be started.
struct RefusedCheck {
    check: WantedCheck,
    refusal: JobRejection,
    /// When it is to be started again, if that is known.
    retry_at: Option<Timestamp>,
}

impl Reconcile<'_> {
    /// Starts the checks that the decision asks for, and adds the results to the decision.
    pub async fn start_checks(&mut self) -> Result<JobStarts, ReconcileError> {
        let wanted: Vec<WantedCheck> =
            self.decision.effects.iter().filter_map(|effect| self.wanted_check(effect)).collect();
        let api: Api<Job> = self.api();
        let keys = &self.context.records.keys;
        let (mut accepted, mut jobs, mut refused) = (Vec::new(), Vec::new(), Vec::new());
        for mut check in wanted {
            // A Job that exists keeps the digest of the image that it was created with.
            let namespace = &check.request.family.namespace;
            let name = job_seals::keyed_name(namespace, &job_name(&check.request), keys);
            if self.context.stores.jobs.get(&Key::new(namespace, &name)).is_some() {
                continue;
            }
            if let Err(UnresolvedImage { problem, retry_at }) =
                self.cache.check_images.pin(&mut check.request, self.now)
            {
                let refusal = JobRejection::NotNow(problem);
                refused.push(RefusedCheck { check, refusal, retry_at: Some(retry_at) });
                continue;
            }
            let mut job = job(&check.request, &self.context.environment);
            job_seals::seal(&mut job, keys);
            // Whether the API server accepts the pod of a check depends on nothing else.
            let kind = format!("check/{:?}", check.request.user_namespace);
            match check_acceptance(&api, &job, kind, self.cache).await? {
                Acceptance::Accepted | Acceptance::Unknown => {
                    accepted.push(check);
                    jobs.push(job);
                }
                Acceptance::Rejected(refusal) => {
                    refused.push(RefusedCheck { check, refusal, retry_at: None });
                }
            }
        }
        let created = create_jobs(&self.context.stores.jobs, &api, &jobs, self.cache).await?;
        for (check, created) in accepted.into_iter().zip(created) {
            if let JobCreation::Rejected(refusal) = created {
                refused.push(RefusedCheck { check, refusal, retry_at: None });
            }
        }
        let starts = JobStarts::of(refused.iter().map(|refused| &refused.refusal));
        for RefusedCheck { check, refusal, retry_at } in refused {
            match refusal {
                JobRejection::NotNow(problem) => self.defer_check(check, problem, retry_at),
                JobRejection::Failed(failure) => self.count_refused_check(check, failure),
            }
        }
        Ok(starts)
    }

    /// Counts a refused check as a failed attempt, on the retry budget of its class. Several checks
    /// of one attempt count once. An optional check is only reported, because it blocks nothing.
    fn count_refused_check(&mut self, check: WantedCheck, failure: BuildFailure) {
        let WantedCheck { image: index, request } = check;
        let cascade = self.cascade_of(index).to_owned();
        let Some(image) = self.decision.images.get_mut(index.position()) else { return };
        if !request.check.required {
            report_refused(&mut image.checks, &request, &failure);
            return;
        }
        let refusal = CheckRefusal {
            check: &request.check.name,
            attempt: request.attempt,
            cascade: &cascade,
            failure,
        };
        let versions = self.snapshot.versions(index);
        image.count_refused_check(&request.image, refusal, versions, self.now);
    }

    /// Records that a check waits until its Job is admitted. It counts as no attempt.
    fn defer_check(&mut self, check: WantedCheck, problem: Problem, retry_at: Option<Timestamp>) {
        let WantedCheck { image: index, request } = check;
        if let Some(image) = self.decision.images.get_mut(index.position()) {
            image.reason = problem.reason;
            image.message = format!("check {}: {}", request.check.name, problem.message).into();
        }
        let digest = request.digest.as_str().into();
        let work = DeferredWork::Check { digest, revision: request.revision };
        let rejection = Rejection { image: request.image, work, problem, job_uid: None, retry_at };
        let family = self.snapshot.family.uid().unwrap_or_default();
        let version = self.snapshot.job_version(index);
        self.cache.deferred_jobs.record(rejection, &family, version, self.now);
    }

    /// Returns the check that an effect asks for, or `None` if it asks for none.
    fn wanted_check(&self, effect: &Effect) -> Option<WantedCheck> {
        let Effect::Check { image: index, check, digest, attempt } = effect else { return None };
        let family = &self.snapshot.family;
        let image = self.image(*index)?;
        let check = image.checks.get(check.position())?;
        let strategy = self.snapshot.strategies.get(index.position())?.as_ref()?;
        let request = CheckRequest {
            family: FamilyIdentity {
                namespace: self.snapshot.key.namespace.clone(),
                name: self.snapshot.key.name.clone(),
                uid: family.uid().unwrap_or_default(),
            },
            image: image.name.clone(),
            repository: self.snapshot.repository(*index),
            digest: digest.to_string(),
            platform: self.snapshot.platform(*index)?.clone(),
            revision: check_revision(check),
            check: check.clone(),
            attempt: *attempt,
            credentials: family.spec.credentials.clone(),
            user_namespace: strategy.spec.user_namespace,
            ttl_after_finished: strategy.spec.ttl_after_finished,
            owner: family.controller_owner_ref(&())?,
        };
        Some(WantedCheck { image: *index, request })
    }
}

/// Records a refused check as failed, permanently: it is not retried on this digest.
fn report_refused(records: &mut [CheckRecord], request: &CheckRequest, refused: &BuildFailure) {
    let (check, digest, revision) = (&request.check.name, &request.digest, &request.revision);
    if let Some(record) = records.iter_mut().find(|record| record.matches(check, digest, revision))
    {
        record.state = CheckState::Failed;
        record.message = shorten(&refused.message, MAX_CHECK_MESSAGE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_refused_optional_check_is_reported() {
        let record = |name: &str, revision: &str| CheckRecord {
            name: name.into(),
            digest: "sha256:00".into(),
            revision: revision.into(),
            ..CheckRecord::default()
        };
        let mut request = CheckRequest {
            digest: "sha256:00".into(),
            revision: "r".into(),
            ..CheckRequest::default()
        };
        request.check.name = "scan".into();
        let refused = BuildFailure { message: "no quota ".repeat(200), ..BuildFailure::default() };
        let mut records = vec![record("starts", "q"), record("scan", "r")];
        report_refused(&mut records, &request, &refused);
        assert_eq!(records[0], record("starts", "q"));
        assert_eq!(records[1].state, CheckState::Failed);
        assert!(
            records[1].message.starts_with("no quota")
                && records[1].message.chars().count() <= MAX_CHECK_MESSAGE
        );
        let mut another = vec![record("scan", "of another spec")];
        report_refused(&mut another, &request, &refused);
        assert_eq!(another[0].state, CheckState::Running);
    }
}
