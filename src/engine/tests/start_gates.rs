//! Checks pass the gates of builds: suspension, windows, parallelism and the operator's limits.

use jiff::SignedDuration;

use crate::{
    api::{Check, Duration, ImageState, RateLimit, Window, condition::Reason},
    engine::{
        BuildAllowance, CheckOutcome, Decision, Effect,
        tests::{CURRENT, model::FamilyModel},
    },
};

fn fan(images: usize) -> FamilyModel {
    let mut model = FamilyModel::fan(images);
    model.settle();
    model.jobs.clear();
    model
}

fn add_checks(model: &mut FamilyModel) {
    let check = Check { name: "scan".into(), image: Some("scanner:2".into()), ..Check::default() };
    for image in &mut model.spec.images {
        image.checks = vec![check.clone()];
    }
}

fn checks(decision: &Decision) -> usize {
    decision.effects.iter().filter(|effect| matches!(effect, Effect::Check { .. })).count()
}

fn running_checks(model: &FamilyModel) -> usize {
    model.checks.iter().filter(|(_, check)| check.outcome == CheckOutcome::Running).count()
}

#[test]
fn checks_of_a_suspended_family_or_outside_of_its_windows_do_not_start() {
    let mut model = fan(20);
    model.spec.policy.parallelism = 2;
    // The model's time begins on a Friday at 08:00 UTC.
    model.spec.policy.windows = vec![Window {
        schedule: "0 22 * * *".into(),
        duration: Duration::from_secs(3600),
        time_zone: "UTC".into(),
    }];
    model.spec.suspend = true;
    add_checks(&mut model);
    assert_eq!(checks(&model.reconcile()), 0);
    let record = model.record("image7");
    assert_eq!(
        (record.state, record.reason.as_str()),
        (ImageState::Checking, Reason::Suspended.as_str())
    );
    assert_eq!(record.message, "check scan: spec.suspend is set");

    model.spec.suspend = false;
    let decision = model.reconcile();
    assert_eq!(checks(&decision), 0);
    let record = model.record("image7");
    assert_eq!(record.reason, Reason::WindowClosed);
    assert!(record.message.contains("the next one opens at 2027-01-15T22:00:00Z"));
    let opens = decision.wake_at.expect("a time");
    assert_eq!(opens.to_string(), "2027-01-15T22:00:00Z");

    model.now = opens;
    assert_eq!(checks(&model.reconcile()), 2);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 20], vec![1; 20]));
}

/// Scenario 73 of the registries: a build that pulls while its registry limits pulls can only fail.
#[test]
fn builds_wait_for_the_pulls_of_their_registry() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("below", "base")]);
    model.settle();
    model.jobs.clear();
    let resume_at = model.now + SignedDuration::from_mins(5);
    model.pulls_resume_at = Some(resume_at);
    model.upstream_digests[0] = "sha256:up-1".into();
    let decision = model.begin();
    assert_eq!((model.builds(), decision.wake_at), (vec![1, 1], Some(resume_at)));
    let record = model.record("base");
    assert_eq!(
        (record.state, record.reason.as_str()),
        (ImageState::Queued, Reason::PullsLimited.as_str())
    );
    assert!(record.message.contains("the registry of upstream up limits pulls"), "{record:?}");

    model.now = resume_at;
    model.reconcile();
    assert_eq!(model.builds(), [2, 1]);
    // It pulls from the family's own registry only.
    model.pulls_resume_at = Some(resume_at + SignedDuration::from_mins(5));
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![2; 2]));
}

#[test]
fn builds_and_checks_together_are_no_more_than_parallelism_allows() {
    let mut model = fan(12);
    model.spec.policy.parallelism = 3;
    add_checks(&mut model);
    assert_eq!(checks(&model.reconcile()), 3);
    let reasons: Vec<&str> =
        model.records.iter().flatten().map(|record| record.reason.as_str()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::Checking.as_str()).count(), 3);
    assert_eq!(
        reasons.iter().filter(|reason| **reason == Reason::ParallelismReached.as_str()).count(),
        9
    );
    assert!(model.record("image11").message.starts_with("check scan: the family has reached"));
    // The images are rebuilt while the checks run.
    model.upstream_digests[0] = "sha256:up-1".into();
    let mut highest = 0;
    for _ in 0..200 {
        model.now += SignedDuration::from_secs(10);
        model.reconcile();
        let builds = model.jobs.iter().filter(|(_, job)| job.live).count();
        highest = highest.max(builds + running_checks(&model));
        if model.now.as_second() % 30 == 0 {
            model.finish_builds();
        } else {
            model.finish_checks();
        }
    }
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 12], vec![2; 12]));
    assert_eq!(highest, 3);
}

#[test]
fn checks_take_places_of_the_operator_and_no_start_of_the_rate_limit() {
    let mut model = fan(4);
    model.spec.policy.rate_limit = Some(RateLimit { builds: 1, per: Duration::from_secs(3600) });
    model.allowance = BuildAllowance { family: Some(2), upstreams: [("any".into(), 0)].into() };
    add_checks(&mut model);
    assert_eq!(checks(&model.reconcile()), 2);
    let limited =
        model.records.iter().flatten().filter(|it| it.reason == Reason::BuildLimitReached);
    assert_eq!(limited.count(), 2);
    model.allowance = BuildAllowance::default();
    model.reconcile();
    assert_eq!(running_checks(&model), 4);
}

#[test]
fn checks_complete_what_is_built_before_other_builds_start() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("long", "up"), ("below", "long")]);
    model.settle();
    model.jobs.clear();
    model.spec.policy.parallelism = 1;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    assert_eq!(model.builds(), [1, 2, 1], "the longest path");
    model.spec.images[1].checks =
        vec![Check { name: "smoke".into(), command: vec!["true".into()], ..Check::default() }];
    model.finish_builds();
    model.reconcile();
    assert_eq!((running_checks(&model), model.builds()), (1, vec![1, 2, 1]));
    // A user's build comes before a check.
    model.spec.images[1].checks[0].command = vec!["false".into()];
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.finish_checks();
    model.reconcile();
    assert_eq!((running_checks(&model), model.builds()), (0, vec![2, 2, 1]));
}
