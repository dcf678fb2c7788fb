//! A cascade that has superseded another one runs to completion: what waits for it, and what does
//! not.

use jiff::SignedDuration;

use super::parallel_cascades::{move_second, names, two_trees};
use crate::{
    api::Supersede,
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
