//! What survives the loss of records and statuses.

use jiff::SignedDuration;

use crate::{
    api::{FailureClass, ImageFamilyStatus, condition::reason},
    engine::{
        tests::{CURRENT, model::FamilyModel},
        *,
    },
};

/// Loses every record and status, as a restore without statuses or a recreated family does.
fn lose_everything(model: &mut FamilyModel) {
    model.records = vec![None; model.records.len()];
    model.status = ImageFamilyStatus::default();
    model.asked.clear();
    model.rebuild_marks.clear();
    model.jobs.clear();
}

/// The current build of an image.
#[derive(Clone, Debug, PartialEq)]
struct CurrentBuild {
    digest: String,
    number: i64,
    latest: Option<String>,
}

/// Returns the current build of each image.
fn builds(model: &FamilyModel) -> Vec<CurrentBuild> {
    let latest = |image: usize| model.tags.get(&(image, "latest".to_owned())).cloned();
    let records = model.records.iter().flatten().enumerate();
    let current = records.map(|(image, record)| CurrentBuild {
        digest: record.digest.clone().unwrap_or_default(),
        number: record.build.unwrap_or(0),
        latest: latest(image),
    });
    current.collect()
}

#[test]
fn a_forced_rebuild_survives_the_loss_of_every_record() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    let before = builds(&model);
    model.ask(r#"{"id":"security","action":"Force","image":"base"}"#);
    model.settle();
    let forced = builds(&model);
    assert_eq!(model.builds(), [2, 2]);
    assert_ne!(before, forced);
    lose_everything(&mut model);
    model.settle();
    assert_eq!(builds(&model), forced);
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![2, 2]));
    assert_eq!(model.record("base").nonce.as_deref(), Some("security"), "as before the loss");

    // What is built later from other inputs is found, too.
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let moved = builds(&model);
    lose_everything(&mut model);
    model.settle();
    assert_eq!((builds(&model), model.builds()), (moved, vec![3, 3]));

    // The upstream goes back on purpose: the newest build of those inputs is the forced one.
    model.upstream_digests[0] = "sha256:up-0".into();
    model.settle();
    model.now += SignedDuration::from_hours(25);
    model.settle();
    assert_eq!(model.record("base").digest.as_deref(), Some(forced[0].digest.as_str()));
}

#[test]
fn the_newest_of_several_forced_rebuilds_survives() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    for id in ["one", "two"] {
        model.ask(&format!(r#"{{"id":"{id}","action":"Force","image":"base"}}"#));
        model.settle();
    }
    let forced = builds(&model);
    assert_eq!(forced[0].number, 3);
    // Only the record of the image is lost, and then only its status.
    model.records[0] = None;
    model.asked.clear();
    model.settle();
    assert_eq!(builds(&model), forced);
    // Another request builds again.
    model.ask(r#"{"id":"three","action":"Force","image":"base"}"#);
    model.settle();
    assert_eq!((model.builds(), builds(&model)[0].number), (vec![4], 4));
}

#[test]
fn a_forced_rebuild_that_failed_or_is_unchecked_does_not_win() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    let before = builds(&model);
    model.failing.insert(0, FailureClass::Build);
    model.ask(r#"{"id":"broken","action":"Force","image":"base"}"#);
    model.settle();
    assert_eq!((model.record("base").reason.as_str(), model.marks.len()), ("BuildFailed", 0));
    lose_everything(&mut model);
    model.settle();
    assert_eq!((builds(&model), model.states()), (before, vec![CURRENT]));
}

#[test]
fn the_tags_of_a_forced_rebuild_wait_until_it_is_marked() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    let before = builds(&model);
    model.ask(r#"{"id":"security","action":"Force","image":"base"}"#);
    model.begin();
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.marks.len(), 1);
    model.marks.clear();
    model.rebuild_marks.clear();
    model.tags.insert((0, "latest".into()), before[0].digest.clone());
    model.registry_unreachable = true;
    let decision = model.reconcile();
    let is_promoted = |effect: &Effect| matches!(effect, Effect::Promote { .. });
    assert!(!decision.effects.iter().any(is_promoted), "{:?}", decision.effects);
    assert!(decision.wake_at.is_some_and(|at| at <= model.now + SignedDuration::from_secs(10)));
    model.registry_unreachable = false;
    model.settle();
    assert_eq!((model.marks.len(), model.record("base").reason.as_str()), (1, reason::CURRENT));
    assert_eq!(model.tags[&(0, "latest".to_owned())], model.record("base").digest.clone().unwrap());
}
