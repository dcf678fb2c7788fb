//! What keeps candidates from being adopted and builds from starting, and for how long.

use jiff::SignedDuration;

use crate::{
    api::{
        Approval, Duration, FailureClass, Hold, ImageHold, ImageState, OnParentFailure, RateLimit,
        Window, condition::Reason,
    },
    engine::{
        BuildAllowance, CascadeDecision, Problem,
        tests::{CURRENT, model::FamilyModel},
    },
};

fn chain() -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model
}

#[test]
fn a_candidate_waits_for_approval_of_just_this_digest() {
    let mut model = chain();
    model.spec.upstreams[0].approval = Approval::Manual;
    let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    model.upstream_digests[0] = digest('a');
    model.settle();
    assert_eq!(model.builds(), [1, 1]);
    assert_eq!(model.status.upstreams[0].known_reason(), Some(Reason::AwaitingApproval));
    let request = |id: &str, digest: &str| {
        format!(
            r#"{{"id":"{id}","action":"Approve","upstream":"up","digest":"{digest}","by":"ada"}}"#
        )
    };
    model.ask(&request("1", &digest('b')));
    model.settle();
    assert_eq!(model.builds(), [1, 1]);
    assert!(
        model.answer("1").contains("is not the candidate of up any more"),
        "{}",
        model.answer("1")
    );
    model.ask(&request("2", &digest('a')));
    model.settle();
    assert_eq!(model.builds(), [2, 2]);
    let approval = model.status.upstreams[0].approval.clone().expect("a record");
    assert_eq!((approval.digest, approval.by), (digest('a'), Some("ada".into())));
    model.upstream_digests[0] = digest('c');
    model.settle();
    assert_eq!(model.builds(), [2, 2], "the next one needs another");
}

#[test]
fn a_tag_that_goes_back_while_the_quiet_time_runs_costs_nothing() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.reconcile();
    assert!(model.status.pending.is_some());
    model.now += SignedDuration::from_secs(20);
    model.upstream_digests[0] = "sha256:up-0".into();
    model.settle();
    assert_eq!((model.builds(), model.cascades.len()), (vec![1, 1], 1));
    assert_eq!(model.status.pending, None);
    assert_eq!(model.status.upstreams[0].candidate, None);
}

#[test]
fn a_digest_that_was_replaced_moves_nothing_back_for_a_day() {
    let adopted = |model: &FamilyModel| model.status.upstreams[0].adopted.clone().expect("one");
    let mut model = chain();
    let first = model.record("app").digest.clone();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let second = model.record("app").digest.clone();
    assert_eq!(model.status.upstreams[0].superseded, ["sha256:up-0"]);
    // A mirror is behind: it flips between the two.
    for round in 0..6 {
        model.upstream_digests[0] = format!("sha256:up-{}", round % 2);
        model.settle();
        model.now += SignedDuration::from_hours(10);
    }
    assert_eq!((model.builds(), model.cascades.len()), (vec![2, 2], 2));
    assert_eq!(model.record("app").digest, second);

    // The publisher has gone back: the tag stays where it is.
    model.upstream_digests[0] = "sha256:up-0".into();
    let back = model.now;
    let decision = model.reconcile();
    assert_eq!(decision.upstreams[0].known_reason(), Some(Reason::DigestReturned));
    assert_eq!(decision.wake_at, Some(back + SignedDuration::from_hours(24)));
    model.now = back + SignedDuration::from_hours(23);
    model.settle();
    assert_eq!(adopted(&model).digest, "sha256:up-1");
    model.now = back + SignedDuration::from_hours(24);
    model.settle();
    assert_eq!(adopted(&model).digest, "sha256:up-0");
    assert_eq!(model.record("app").digest, first);
    assert_eq!(model.builds(), [2, 2], "both are in the registry already");
    assert!(model.status.upstreams[0].superseded.is_empty());
    // What it goes on to from there is an ordinary move.
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(adopted(&model).digest, "sha256:up-1");
}

#[test]
fn a_user_may_approve_a_digest_that_was_replaced_once() {
    let digest = |c: char| format!("sha256:{}", c.to_string().repeat(64));
    let mut model = chain();
    for c in ['a', 'b', 'a'] {
        model.upstream_digests[0] = digest(c);
        model.settle();
    }
    let message = model.status.upstreams[0].message.clone().expect("a message");
    let command = format!("kubectl family approve FAMILY up --digest {}", digest('a'));
    assert!(message.contains(&command), "{message}");
    model.ask(&format!(
        r#"{{"id":"1","action":"Approve","upstream":"up","digest":"{}","by":"ada"}}"#,
        digest('a')
    ));
    model.settle();
    let adopted = |model: &FamilyModel| model.status.upstreams[0].adopted.clone().expect("one");
    assert_eq!(adopted(&model).digest, digest('a'));
    for c in ['b', 'a'] {
        model.upstream_digests[0] = digest(c);
        model.settle();
    }
    assert_eq!(adopted(&model).digest, digest('b'), "the approval was for one adoption");
}

#[test]
fn a_hold_outlives_new_candidates_and_needs_something_to_hold() {
    let mut model = chain();
    model.spec.upstreams[0].hold = Some(Hold::default());
    for digest in ["sha256:up-1", "sha256:up-2"] {
        model.upstream_digests[0] = digest.into();
        model.settle();
    }
    assert_eq!(model.builds(), [1, 1]);

    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.upstreams[0].hold = Some(Hold::default());
    model.settle();
    assert_eq!(model.builds(), [0]);
    assert_eq!(model.record("base").reason, Reason::Held);
    assert!(
        model.record("base").message.contains("set hold.digest"),
        "{}",
        model.record("base").message
    );
}

#[test]
fn a_held_image_stays_and_its_children_keep_building_on_it() {
    let mut model = FamilyModel::new(&["up", "up2"], &[("base", "up"), ("app", "base up2*")]);
    model.settle();
    let until = model.now + SignedDuration::from_secs(900);
    model.spec.images[0].hold =
        Some(ImageHold { until: Some(until), reason: Some("release".into()) });
    model.upstream_digests = vec!["sha256:up-1".into(), "sha256:up2-1".into()];
    let before = model.record("base").digest.clone();
    for _ in 0..60 {
        model.now += SignedDuration::from_secs(1);
        model.reconcile();
        model.finish_builds();
    }
    assert_eq!(model.states(), [ImageState::Held, CURRENT]);
    assert_eq!(model.builds(), [1, 2]);
    assert_eq!(model.record("base").digest, before);
    assert!(model.record("base").message.contains(": release"), "{}", model.record("base").message);
    assert_eq!(model.reconcile().wake_at, Some(until));
    model.settle();
    assert_eq!(
        (model.states(), model.builds()),
        (vec![CURRENT; 2], vec![2, 3]),
        "the hold has ended by itself"
    );
}

#[test]
fn no_build_starts_while_no_window_is_open() {
    let mut model = chain();
    // The model's time begins on a Friday at 08:00 UTC.
    model.spec.policy.windows = vec![Window {
        schedule: "0 22 * * *".into(),
        duration: Duration::from_secs(3600),
        time_zone: "UTC".into(),
    }];
    model.upstream_digests[0] = "sha256:up-1".into();
    let decision = model.reconcile();
    let opens = decision.wake_at.expect("a time");
    assert_eq!(opens.to_string(), "2027-01-15T22:00:00Z");
    assert!(decision.window.is_some_and(|window| !window.open && window.until == Some(opens)));
    model.now = opens;
    assert!(matches!(
        model.reconcile().cascade,
        CascadeDecision::Start { .. } | CascadeDecision::None
    ));
    model.now += SignedDuration::from_secs(40);
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [2, 1]);
    model.now = opens + SignedDuration::from_secs(3600);
    model.finish_builds();
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [2, 1], "the cascade waits for the next window");
    assert_eq!(model.record("app").reason, Reason::WindowClosed);
    model.now = opens + SignedDuration::from_hours(24);
    model.settle();
    assert_eq!((model.builds(), model.cascades.len()), (vec![2, 2], 2));
}

#[test]
fn the_rate_limit_applies_to_all_builds_but_those_that_users_caused() {
    let images: Vec<(String, String)> =
        (0..10).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut model = FamilyModel::new(&["up"], &images);
    model.spec.policy.parallelism = 100;
    model.settle();
    assert_eq!(model.builds(), [1; 10]);
    model.jobs.clear();
    model.spec.policy.rate_limit = Some(RateLimit { builds: 3, per: Duration::from_secs(60) });
    model.upstream_digests[0] = "sha256:up-1".into();
    let decision = model.begin();
    assert_eq!(model.builds().iter().sum::<usize>(), 13);
    assert_eq!(decision.wake_at, Some(model.now + SignedDuration::from_secs(60)));
    model.spec.images[9].args.insert("A".into(), "1".into());
    model.reconcile();
    assert_eq!(model.builds()[9], 2, "an edit is not slowed down");
    model.settle();
    assert_eq!(model.states(), [CURRENT; 10]);
    assert_eq!(model.builds(), [2; 10]);
}

#[test]
fn a_changed_strategy_starts_builds_at_the_rate_of_an_upstream() {
    let mut model =
        FamilyModel::new(&["up"], &[("a", "up"), ("b", "up"), ("c", "up"), ("d", "up")]);
    model.spec.policy.parallelism = 100;
    model.settle();
    model.jobs.clear();
    model.spec.policy.rate_limit = Some(RateLimit { builds: 3, per: Duration::from_secs(60) });
    model.strategy = "another".into();
    let decision = model.begin();
    assert_eq!(model.builds().iter().sum::<usize>(), 4 + 3);
    assert_eq!(decision.wake_at, Some(model.now + SignedDuration::from_secs(60)));
    model.spec.images[3].args.insert("A".into(), "1".into());
    model.reconcile();
    assert_eq!(model.builds()[3], 2, "an edit of the spec is not slowed down, too");
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 4], vec![2; 4]));
}

#[test]
fn starts_count_for_the_rate_limit_though_their_jobs_are_gone() {
    let mut model =
        FamilyModel::new(&["up"], &[("a", "up"), ("b", "up"), ("c", "up"), ("d", "up")]);
    model.settle();
    model.spec.policy.rate_limit = Some(RateLimit { builds: 2, per: Duration::from_secs(3600) });
    model.jobs.clear();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    for _ in 0..10 {
        model.reconcile();
        model.reconcile();
        model.finish_builds();
        model.reconcile();
        model.now += SignedDuration::from_secs(300);
        // Jobs are kept for less than the span.
        model.jobs.clear();
    }
    assert_eq!(model.builds().iter().sum::<usize>(), 4 + 2, "{:?}", model.builds());
    model.settle();
    assert_eq!(model.builds(), [2; 4]);
    assert!(model.records.iter().flatten().all(|record| record.starts.len() == 1));
}

#[test]
fn the_operators_limits_are_kept_and_reported() {
    let mut model = FamilyModel::new(&["up"], &[("a", "up"), ("b", "up"), ("c", "up")]);
    model.allowance = BuildAllowance { family: Some(1), ..BuildAllowance::default() };
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds().iter().sum::<usize>(), 1);
    let kept_back =
        model.records.iter().flatten().filter(|record| record.reason == Reason::BuildLimitReached);
    assert_eq!(kept_back.count(), 2);
    model.allowance =
        BuildAllowance { family: None, upstreams: [("docker.io/library/up:1".into(), 0)].into() };
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.builds().iter().sum::<usize>(), 1);
    model.allowance = BuildAllowance::default();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
}

#[test]
fn builds_that_users_caused_start_before_longer_paths() {
    let mut model = FamilyModel::new(
        &["up"],
        &[("deep", "up"), ("below", "deep"), ("bottom", "below"), ("leaf", "up")],
    );
    model.settle();
    model.spec.policy.parallelism = 1;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.spec.images[3].args.insert("A".into(), "1".into());
    model.begin();
    assert_eq!(model.builds(), [1, 1, 1, 2]);
}

#[test]
fn a_child_may_continue_with_the_last_verified_digest_of_a_parent_whose_source_is_unreachable() {
    let mut model = FamilyModel::new(
        &["up", "up2"],
        &[("base", "up"), ("app", "base up2*"), ("other", "base up2*")],
    );
    model.settle();
    model.spec.images[1].on_parent_failure = OnParentFailure::UseLastVerified;
    let message = "the Git server is unreachable".into();
    let problem = Problem { reason: Reason::SourceUnavailable, message };
    model.unreadable_sources.insert(0, problem);
    let verified = model.record("base").digest.clone().expect("a digest");
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.settle();
    assert_eq!(model.states(), [ImageState::Waiting, CURRENT, ImageState::Waiting]);
    assert_eq!(model.builds(), [1, 2, 1]);
    let inputs = model.record("app").inputs.clone().expect("inputs");
    assert_eq!(inputs.parents[0].digest, verified);
    model.unreadable_sources.clear();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![1, 2, 2]));
}

#[test]
fn a_child_may_continue_with_the_last_verified_digest_of_a_failed_parent() {
    let mut model = FamilyModel::new(
        &["up", "up2"],
        &[("base", "up"), ("app", "base up2*"), ("other", "base up2*")],
    );
    model.settle();
    model.spec.images[1].on_parent_failure = OnParentFailure::UseLastVerified;
    model.failing.insert(0, FailureClass::Build);
    model.upstream_digests = vec!["sha256:up-1".into(), "sha256:up2-1".into()];
    let verified = model.record("base").digest.clone().expect("a digest");
    model.settle();
    assert_eq!(model.states(), [ImageState::Failed, CURRENT, ImageState::Blocked]);
    let inputs = model.record("app").inputs.clone().expect("inputs");
    assert_eq!(inputs.parents[0].digest, verified);
    assert_eq!(inputs.parents[1].digest, "sha256:up2-1");
}
