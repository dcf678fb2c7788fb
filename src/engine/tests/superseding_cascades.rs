//! A cascade that has superseded another one runs to completion: what waits for it, and what does
//! not.

use jiff::SignedDuration;

use super::parallel_cascades::{move_second, names, two_trees};
use crate::{
    api::{Duration, FailureClass, ImageState, Supersede, Window},
    engine::{
        CascadeDecision,
        tests::{CURRENT, model::FamilyModel},
    },
};

/// Two trees, of which the first is built by a cascade that has superseded another.
fn superseding_cascade() -> FamilyModel {
    let mut model = two_trees();
    model.spec.policy.supersede = Supersede::Cancel;
    model.upstream_digests[0] = "sha256:up-2".into();
    model.begin();
    model.reconcile();
    let [running] = &model.running[..] else { panic!("{:?}", names(&model)) };
    assert!(running.supersedes.is_some());
    model
}

#[test]
fn what_waits_for_a_superseding_cascade_shortens_nobodys_quiet_time() {
    let mut model = superseding_cascade();
    model.upstream_digests[0] = "sha256:up-3".into();
    model.begin();
    model.now += SignedDuration::from_hours(24);
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.reconcile();
    model.reconcile();
    assert_eq!(names(&model).len(), 1, "its quiet time has just begun");
    model.now += SignedDuration::from_secs(30);
    model.reconcile();
    model.reconcile();
    assert_eq!(names(&model).len(), 2, "it waits for no cascade");
    model.settle();
    assert_eq!(model.states(), [CURRENT; 4]);
}

#[test]
fn what_waits_for_a_superseding_cascade_ends_no_other_one_early() {
    let mut model = superseding_cascade();
    move_second(&mut model);
    let second = names(&model)[1].clone();
    model.upstream_digests[0] = "sha256:up-3".into();
    model.begin();
    model.now += SignedDuration::from_hours(24);
    model.upstream_digests[1] = "sha256:up2-2".into();
    model.reconcile();
    model.reconcile();
    assert_eq!(names(&model)[1], second, "its quiet time has just begun");
    model.now += SignedDuration::from_secs(30);
    let CascadeDecision::Finish { ending } = model.reconcile().cascade else {
        panic!("{:?}", names(&model))
    };
    assert_eq!(ending.iter().map(|ending| ending.name.as_str()).collect::<Vec<_>>(), [second]);
    model.settle();
    assert_eq!(model.states(), [CURRENT; 4]);
}

#[test]
fn a_candidate_that_may_start_settles_with_one_that_ends_a_cascade() {
    let mut model = two_trees();
    model.spec.policy.supersede = Supersede::Cancel;
    model.upstream_digests[0] = "sha256:up-2".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(20);
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(20);
    model.reconcile();
    assert_eq!(names(&model).len(), 1, "both settle");
    model.now += SignedDuration::from_secs(10);
    for _ in 0..3 {
        model.reconcile();
    }
    let [cascade] = &model.running[..] else { panic!("{:?}", names(&model)) };
    assert!(cascade.supersedes.is_some());
    assert_eq!(cascade.planned.concat().len(), 4, "one cascade for both: {:?}", cascade.planned);
}

#[test]
fn what_waits_for_a_superseding_cascade_delays_the_end_of_no_other_one() {
    let mut model = superseding_cascade();
    move_second(&mut model);
    let second = names(&model)[1].clone();
    model.upstream_digests[1] = "sha256:up2-2".into();
    model.reconcile();
    let mut round = 3;
    let mut ended = Vec::new();
    while ended.is_empty() {
        // It moves on in each reconcile, also in the one between the two cascades.
        model.upstream_digests[0] = format!("sha256:up-{round}");
        round += 1;
        assert!(round <= 6, "the first upstream delays the second");
        model.now += SignedDuration::from_secs(10);
        if let CascadeDecision::Finish { ending } = model.reconcile().cascade {
            ended = ending.iter().map(|ending| ending.name.to_string()).collect();
        }
    }
    assert_eq!(ended, std::slice::from_ref(&second), "settled");
    model.upstream_digests[0] = "sha256:up-again".into();
    let CascadeDecision::Start { supersedes, .. } = model.reconcile().cascade else {
        panic!("{:?}", names(&model))
    };
    assert_eq!(supersedes.map(String::from), Some(second), "it is replaced at once");
    model.settle();
    assert_eq!(model.states(), [CURRENT; 4]);
}

#[test]
fn no_cascade_ends_for_one_that_may_not_start() {
    let mut model = two_trees();
    model.spec.policy.supersede = Supersede::Cancel;
    // The model's time begins on a Friday at 08:00 UTC.
    model.spec.policy.windows = vec![Window {
        schedule: "0 22 * * *".into(),
        duration: Duration::from_secs(3600),
        time_zone: "UTC".into(),
    }];
    model.upstream_digests[0] = "sha256:up-2".into();
    let running = names(&model);
    for _ in 0..3 {
        model.begin();
    }
    assert_eq!(names(&model), running, "its builds are worth more than none");
    model.spec.policy.windows.clear();
    model.begin();
    assert!(model.running.iter().any(|cascade| cascade.supersedes.is_some()));
    model.settle();
    assert_eq!(model.states(), [CURRENT; 4]);
}

#[test]
fn what_a_superseded_cascade_was_to_retry_does_not_go_back_to_an_older_one() {
    let mut model =
        FamilyModel::new(&["up", "up2"], &[("slow", "up"), ("broken", "up"), ("quick", "up2")]);
    model.spec.policy.supersede = Supersede::Cancel;
    model.spec.policy.retries.build = 0;
    model.settle();
    model.failing.insert(1, FailureClass::Build);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.finish_only("broken");
    for _ in 0..3 {
        model.reconcile();
    }
    assert_eq!(model.record("broken").state, ImageState::Failed);
    model.failing.clear();
    // The slow build takes the only place.
    model.spec.policy.parallelism = 1;
    move_second(&mut model);
    let [first, second] = &names(&model)[..] else { panic!("{:?}", names(&model)) };
    assert_eq!(model.record("broken").state, ImageState::Queued, "the second cascade retries it");
    model.upstream_digests[1] = "sha256:up2-2".into();
    model.begin();
    let third = names(&model).pop().expect("a cascade");
    assert!(third > *second && model.running.iter().any(|cascade| cascade.name == **first));
    model.spec.policy.parallelism = 3;
    model.reconcile();
    let mut builds = model.jobs.iter().filter(|(image, _)| *image == 1);
    let cascade = builds.next_back().map(|(_, build)| build.identity.cascade.as_str());
    assert_eq!(cascade, Some(&*third));
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
}
