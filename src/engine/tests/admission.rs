//! Jobs that are not admitted now: they wait, spend no attempt, and hold nothing else up.

use jiff::SignedDuration;

use crate::{
    api::{
        BuildFailure, Check, CheckState, FailureClass, FailureRecord, ImageState, Promotion,
        Retries, condition::Reason,
    },
    engine::{
        image::attempts::{AttemptKind, FailedAttempt, JobVersions},
        tests::{CURRENT, model::FamilyModel},
        *,
    },
    identity::Fingerprint,
};

const QUEUED: ImageState = ImageState::Queued;

fn problem() -> Problem {
    Problem { reason: Reason::QuotaExceeded, message: "exceeded quota".into() }
}

/// Refuses the Jobs of an image for five minutes.
fn refuse(model: &mut FamilyModel, image: usize, work: DeferredWork) {
    let (since, retry_at) = (model.now, model.now + SignedDuration::from_secs(300));
    model.deferred.insert(image, vec![DeferredJob { work, problem: problem(), since, retry_at }]);
}

/// Refuses the build that was started for an image, as if it had never been created.
fn refuse_build(model: &mut FamilyModel, name: &str) {
    let image = model.index(name);
    let position = model.jobs.iter().rposition(|(of, _)| *of == image).expect("a build");
    let fingerprint: Fingerprint = model.jobs.remove(position).1.identity.fingerprint;
    *model.started.get_mut(&image).expect("a build") -= 1;
    refuse(model, image, DeferredWork::Build(fingerprint));
}

fn optional_check() -> Check {
    let command = vec!["true".into()];
    Check { name: "smoke".into(), command, required: false, ..Check::default() }
}

/// Refuses the check that was started, as if it had never been created.
fn refuse_check(model: &mut FamilyModel) {
    let (image, observed) = model.checks.remove(0);
    let (digest, revision) = (observed.digest, observed.revision);
    refuse(model, image, DeferredWork::Check { digest, revision });
}

#[test]
fn a_build_that_is_not_admitted_waits_and_spends_no_attempt() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    refuse_build(&mut model, "base");
    let retry_at = model.deferred[&0][0].retry_at;
    for _ in 0..3 {
        let decision = model.reconcile();
        assert_eq!(model.jobs.len(), 0);
        let record = model.record("base");
        assert_eq!(
            (record.state, record.reason.as_str()),
            (QUEUED, Reason::QuotaExceeded.as_str())
        );
        assert_eq!(record.message, "exceeded quota");
        assert!(decision.wake_at.is_some_and(|at| at <= retry_at));
        assert!(decision.images[0].in_progress, "its cascade goes on");
    }
    model.now = retry_at;
    model.settle();
    assert_eq!(model.states(), [CURRENT]);
    assert_eq!((model.record("base").failure.clone(), model.builds()), (None, vec![1]));
    assert_eq!(model.jobs[0].1.identity.attempt, 0);
    assert_eq!(model.cascades.len(), 1);
}

#[test]
fn a_rejected_build_says_so_until_its_next_job_has_a_pod() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    refuse_build(&mut model, "base");
    model.reconcile();
    model.now = model.deferred[&0][0].retry_at;
    let waits = |model: &FamilyModel| {
        let record = model.record("base");
        (record.state, record.reason.clone(), record.message.clone())
    };
    let rejected = waits(&model);
    assert_eq!(rejected.1, Reason::QuotaExceeded);
    model.reconcile();
    assert_eq!((model.builds(), waits(&model)), (vec![1], rejected.clone()), "it is tried again");
    model.jobs[0].1.has_started = false;
    let decision = model.reconcile();
    assert_eq!((model.builds(), waits(&model)), (vec![1], rejected), "its Job has no pod yet");
    assert!(decision.images[0].running.is_some());
    // The pod was created.
    model.deferred.clear();
    model.reconcile();
    assert_eq!(model.states(), [ImageState::Building]);
}

#[test]
fn a_build_that_is_not_admitted_leaves_its_place_to_a_sibling() {
    let mut model = FamilyModel::new(&["up"], &[("a", "up"), ("b", "up"), ("child", "a")]);
    model.spec.policy.parallelism = 1;
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [1, 0, 0]);
    refuse_build(&mut model, "a");
    let decision = model.reconcile();
    assert_eq!(model.builds(), [0, 1, 0], "{:?}", decision.effects);
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.states(), [QUEUED, CURRENT, ImageState::Waiting]);
    assert_eq!(model.record("child").reason, Reason::WaitingForParent);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![1; 3]));
}

#[test]
fn a_build_that_is_not_admitted_keeps_no_other_change_waiting() {
    let mut model =
        FamilyModel::new(&["up1", "up2"], &[("a", "up1"), ("child", "a"), ("b", "up2")]);
    model.settle();
    model.upstream_digests[0] = "sha256:up1-1".into();
    model.begin();
    assert_eq!(model.builds(), [2, 1, 1]);
    refuse_build(&mut model, "a");
    model.deferred.get_mut(&0).expect("a build")[0].retry_at = jiff::Timestamp::MAX;
    model.reconcile();
    model.reconcile();
    assert!(!model.running.is_empty(), "nothing else is to be done");
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.settle();
    assert_eq!((model.builds()[2], model.record("b").state), (2, CURRENT));
    assert_eq!((model.record("a").state, model.builds()[1]), (QUEUED, 1));
    assert_eq!(model.cascades.len(), 2, "the third one waits for a");
    model.deferred.clear();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
    assert_eq!((model.builds()[1], model.cascades.len()), (2, 3));
}

#[test]
fn an_optional_image_that_is_not_admitted_does_not_keep_the_others_from_their_tags() {
    for required in [false, true] {
        let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("tools", "base")]);
        model.spec.policy.promotion = Promotion::Cascade;
        model.spec.images[1].required = required;
        model.settle();
        let latest = |model: &FamilyModel| model.tags[&(0, "latest".to_owned())].clone();
        let before = latest(&model);
        model.upstream_digests[0] = "sha256:up-1".into();
        model.begin();
        model.finish_only("base");
        model.reconcile();
        refuse_build(&mut model, "tools");
        model.deferred.get_mut(&1).expect("a build")[0].retry_at = jiff::Timestamp::MAX;
        model.settle();
        assert_eq!(model.states(), [CURRENT, QUEUED]);
        assert!(!model.running.is_empty(), "it waits for tools");
        let digest = model.record("base").digest.clone().expect("a digest");
        assert_eq!(latest(&model), if required { before } else { digest });
    }
}

#[test]
fn a_build_whose_pod_is_refused_waits_until_its_job_is_gone() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    model.jobs[0].1.outcome = BuildOutcome::NotAdmitted(problem());
    let decision = model.reconcile();
    assert_eq!(decision.images[0].running, None);
    let record = model.record("base");
    assert_eq!((record.state, record.reason.as_str()), (QUEUED, Reason::QuotaExceeded.as_str()));
    assert_eq!((record.failure.clone(), model.builds()), (None, vec![1]));
    // The Job was deleted, and the pause has passed.
    model.jobs.clear();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![2]));
    assert_eq!(model.record("base").failure, None);
    // A pod that a node has rejected has ended, and its Job, too.
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    let job = &mut model.jobs.last_mut().expect("a build").1;
    (job.outcome, job.live) = (BuildOutcome::NotAdmitted(problem()), false);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![4]));
    assert_eq!(model.record("base").failure, None);
}

#[test]
fn a_refused_pod_takes_no_start_of_the_rate_limit() {
    let mut build = fixtures::job("f", 0, BuildOutcome::Running);
    build.started_at = Some(jiff::Timestamp::UNIX_EPOCH);
    assert!(build.rate_limited_start().is_some());
    build.outcome = BuildOutcome::NotAdmitted(problem());
    assert_eq!(build.rate_limited_start(), None);
}

#[test]
fn a_user_who_retries_does_not_wait_for_the_pause() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    refuse_build(&mut model, "base");
    model.reconcile();
    assert_eq!(model.jobs.len(), 0);
    model.ask(r#"{"action":"Retry","id":"1"}"#);
    model.reconcile();
    assert_eq!(model.jobs.len(), 1, "{}", model.answer("1"));
}

#[test]
fn a_check_that_is_not_admitted_waits_and_spends_no_attempt() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.images[0].checks = vec![Check { required: true, ..optional_check() }];
    model.begin();
    model.finish_builds();
    model.reconcile();
    refuse_check(&mut model);
    let retry_at = model.deferred[&0][0].retry_at;
    for _ in 0..3 {
        let decision = model.reconcile();
        assert_eq!(model.checks.len(), 0);
        let record = model.record("base");
        let state = (record.state, record.reason.as_str());
        assert_eq!(state, (ImageState::Checking, Reason::QuotaExceeded.as_str()));
        assert_eq!(record.message, "check smoke: exceeded quota");
        assert!(decision.wake_at.is_some_and(|at| at <= retry_at));
    }
    model.now = retry_at;
    model.reconcile();
    assert_eq!(model.checks.len(), 1);
    // Its pod is refused, too.
    model.checks[0].1.outcome = CheckOutcome::NotAdmitted(problem());
    model.reconcile();
    assert_eq!(model.record("base").message, "check smoke: exceeded quota");
    assert_eq!(model.checks.len(), 1, "its Job is deleted first");
    model.checks.clear();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 2]);
    assert_eq!((model.record("base").failure.clone(), model.builds()), (None, vec![1, 1]));
    assert_eq!(model.checks[0].1.attempt, 0);
}

#[test]
fn an_optional_check_is_waited_for_no_longer_than_it_may_take() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.images[0].checks = vec![optional_check()];
    let timeout = model.spec.images[0].checks[0].timeout.signed();
    model.begin();
    model.finish_builds();
    model.reconcile();
    refuse_check(&mut model);
    model.deferred.get_mut(&0).expect("a check")[0].retry_at = jiff::Timestamp::MAX;
    model.reconcile();
    assert_eq!(model.record("base").state, ImageState::Checking);
    model.now += timeout;
    model.settle();
    let record = model.record("base");
    assert_eq!((record.state, record.checks[0].state), (CURRENT, CheckState::Failed));
    assert_eq!(record.checks[0].message, "exceeded quota");
    assert_eq!((model.checks.len(), model.builds()), (0, vec![1]));
}

/// The failure of a Job that the API server finds malformed.
fn invalid_job(model: &FamilyModel) -> FailureRecord {
    let last = BuildFailure {
        class: FailureClass::Input,
        reason: Reason::InvalidStrategy.into(),
        message: "Job.batch \"x\" is invalid".into(),
    };
    let identity = &model.jobs[0].1.identity;
    let failed = FailedAttempt {
        kind: AttemptKind::Build,
        fingerprint: &identity.fingerprint,
        attempt: identity.attempt,
        cascade: identity.cascade.as_str(),
        cause: "",
        failure: last,
        versions: JobVersions { job: &model.job_version, pod: "", credentials: "" },
    };
    failed.count(None, model.now)
}

#[test]
fn a_malformed_job_fails_the_image_until_spec_or_strategy_change() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    let failure = invalid_job(&model);
    model.jobs.clear();
    model.records[0].as_mut().expect("a record").failure = Some(failure);
    model.settle();
    let record = model.record("base");
    let state = (record.state, record.reason.as_str());
    assert_eq!(state, (ImageState::Failed, Reason::InvalidStrategy.as_str()));
    assert_eq!((record.message.contains("is invalid"), model.builds()), (true, vec![1]));
    assert_eq!(model.cascades.len(), 1, "it does not try by itself");
    // Resources are not part of the fingerprint, so that nothing else changes.
    model.job_version = "2".into();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![2]));
    assert_eq!(model.cascades.len(), 2);
}

/// A user who has corrected the Secret does not wait for the pause after the failures.
#[test]
fn a_build_that_was_denied_is_tried_again_with_other_credentials() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.failing.insert(0, FailureClass::Infrastructure);
    model.failure_reason = Reason::RegistryDenied;
    model.settle();
    let builds = model.builds();
    assert!(builds[0] > 1, "it is retried after pauses");
    model.failing.clear();
    model.reconcile();
    assert_eq!(model.builds(), builds, "the pause lasts");
    model.credentials_version = "2".into();
    model.reconcile();
    assert_eq!(model.builds()[0], builds[0] + 1);
    model.settle();
    assert_eq!(model.states(), [CURRENT]);
}

/// A family that raises `memoryLimit` changes no fingerprint, and expects a build all the same.
#[test]
fn a_build_without_enough_memory_is_tried_again_with_another_pod() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.policy.retries = Retries { build: 0, infrastructure: 0 };
    model.failing.insert(0, FailureClass::Infrastructure);
    model.failure_reason = Reason::OutOfMemory;
    model.settle();
    let record = model.record("base");
    let state = (record.state, record.reason.as_str());
    assert_eq!(state, (ImageState::Failed, Reason::InfrastructureFailed.as_str()));
    assert_eq!((model.builds(), model.cascades.len()), (vec![1], 1));
    model.failing.clear();
    model.job_version = "2".into();
    model.settle();
    assert_eq!(model.builds(), [1], "the pod is the same");
    model.pod_version = "large".into();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![2]));
    assert_eq!(model.cascades.len(), 2);
}
