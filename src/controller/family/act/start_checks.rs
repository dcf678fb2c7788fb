//! Checks are started: a Job per digest, check and attempt, by a name that says which, so that none
//! is started twice.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::{Api, Resource, ResourceExt};

use crate::{
    api::{
        BuildFailure, CheckRecord, CheckState, FailureRecord,
        condition::{reason, shorten},
        managed_image::MAX_CHECK_MESSAGE,
    },
    builds::{
        checks::{CheckRequest, job::job},
        request::FamilyIdentity,
    },
    controller::{
        context::{Context, ReconcileCache},
        error::ReconcileError,
        family::{act::jobs, observe::snapshot::Snapshot},
        object_cache::Key,
    },
    engine::{Action, Decision, causes, fingerprint::check_revision, image::failure},
    identity::Fingerprint,
    lineage::ImageIndex,
};

/// Starts the checks that the decision names, and completes the decision with what came of it.
/// Whether any was refused: then there is more to decide at once.
pub async fn start_checks(
    context: &Context,
    snapshot: &Snapshot,
    decision: &mut Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> Result<bool, ReconcileError> {
    let requests: Vec<(ImageIndex, CheckRequest)> =
        decision.actions.iter().filter_map(|action| request(snapshot, action)).collect();
    let cascade = decision.cascade.name().unwrap_or_default().to_owned();
    let api: Api<Job> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    let (mut accepted, mut jobs, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    for (image, request) in requests {
        let job = job(&request, &context.environment);
        if context.stores.jobs.get(&Key::of(&job)).is_some() {
            continue;
        }
        // What the API server makes of a check's pod depends on nothing else.
        let kind = format!("check/{:?}", request.user_namespace);
        match jobs::accepted(&api, &job, kind, cache).await? {
            Ok(()) => {
                accepted.push((image, request));
                jobs.push(job);
            }
            Err(why) => refused.push((image, request, why)),
        }
    }
    let created = jobs::create(&context.stores.jobs, &api, &jobs, cache).await?;
    let failed = accepted
        .into_iter()
        .zip(created)
        .filter_map(|((image, request), job)| Some((image, request, job.err()?)));
    refused.extend(failed);
    let any_refused = !refused.is_empty();
    for (image, request, why) in refused {
        count(snapshot, decision, image, &request, why, &cascade, now);
    }
    Ok(any_refused)
}

/// Counts a check that can't be started as a failed attempt, on the budget of its class. Several of
/// one attempt count once. One that is not required holds nothing up: it is only reported.
fn count(
    snapshot: &Snapshot,
    decision: &mut Decision,
    index: ImageIndex,
    request: &CheckRequest,
    refused: BuildFailure,
    cascade: &str,
    now: Timestamp,
) {
    let recorded = snapshot
        .records
        .get(index.position())
        .and_then(|record| record.as_ref()?.status.as_ref()?.fingerprint.as_ref())
        .map(Fingerprint::from);
    let Some(image) = decision.images.get_mut(index.position()) else { return };
    if !request.check.required {
        report(&mut image.checks, request, &refused);
        return;
    }
    let known = image.failure.take();
    if known.as_ref().is_some_and(|known| known.check_attempt > request.attempt) {
        image.failure = known;
        return;
    }
    let Some(fingerprint) = image.fingerprint.clone().or(recorded) else {
        image.failure = known;
        return;
    };
    let refused = BuildFailure {
        message: format!("check {}: {}", request.check.name, refused.message),
        ..refused
    };
    image.reason = reason::RETRYING;
    image.message = refused.message.clone().into();
    let cause = causes::key(&request.image, &image.causes);
    let attempt = known.as_ref().map_or(0, |known| known.attempt);
    let failed = failure::Failed { attempt, cascade, cause: &cause };
    let added = failure::add(known.map(|known| *known), &fingerprint, &failed, refused, now);
    image.failure =
        Some(FailureRecord { check_attempt: request.attempt.saturating_add(1), ..added }.into());
}

/// Records a check that can't be started as failed, for good: it is not tried again on this digest.
fn report(records: &mut [CheckRecord], request: &CheckRequest, refused: &BuildFailure) {
    let (check, digest, revision) = (&request.check.name, &request.digest, &request.revision);
    if let Some(record) = records.iter_mut().find(|record| record.matches(check, digest, revision))
    {
        record.state = CheckState::Failed;
        record.message = shorten(&refused.message, MAX_CHECK_MESSAGE);
    }
}

/// What is to be checked, and by what; with the image.
fn request(snapshot: &Snapshot, action: &Action) -> Option<(ImageIndex, CheckRequest)> {
    let Action::Check { image: index, check, digest, attempt } = action else { return None };
    let image = snapshot.family.spec.images.get(index.position())?;
    let check = image.checks.get(*check)?;
    let strategy = snapshot.strategies.get(index.position())?.as_ref()?;
    let request = CheckRequest {
        family: FamilyIdentity {
            namespace: snapshot.key.namespace.clone(),
            name: snapshot.key.name.clone(),
            uid: snapshot.family.uid().unwrap_or_default(),
        },
        image: image.name.clone(),
        repository: snapshot.repository(*index),
        digest: digest.to_string(),
        revision: check_revision(check),
        check: check.clone(),
        attempt: *attempt,
        credentials: snapshot
            .family
            .spec
            .credentials
            .iter()
            .map(|secret| secret.name.clone())
            .collect(),
        user_namespace: strategy.spec.user_namespace,
        ttl_after_finished: strategy.spec.ttl_after_finished,
        owner: snapshot.family.controller_owner_ref(&())?,
    };
    Some((*index, request))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_check_that_is_not_required_is_reported_and_no_other() {
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
        let refused = BuildFailure { message: "no room ".repeat(200), ..BuildFailure::default() };
        let mut records = vec![record("starts", "q"), record("scan", "r")];
        report(&mut records, &request, &refused);
        assert_eq!(records[0], record("starts", "q"));
        assert_eq!(records[1].state, CheckState::Failed);
        assert!(
            records[1].message.starts_with("no room")
                && records[1].message.chars().count() <= MAX_CHECK_MESSAGE
        );
        let mut another = vec![record("scan", "of another spec")];
        report(&mut another, &request, &refused);
        assert_eq!(another[0].state, CheckState::Running);
    }
}
