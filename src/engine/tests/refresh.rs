//! Images that are rebuilt because their builds are old.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{
        CauseType, Duration, FailureClass, ImageFamilyStatus, ImageHold, ImageState, Refresh,
        Window, labels::is_annotated_request,
    },
    engine::{
        causes,
        tests::{CURRENT, model::FamilyModel},
        *,
    },
};

/// The age at which the images of these tests are refreshed.
const WEEK: SignedDuration = SignedDuration::from_hours(168);
/// The age at which an image has certainly been refreshed.
const WEEK_AND_SPREAD: SignedDuration = SignedDuration::from_hours(185);

fn every(age: SignedDuration) -> Refresh {
    Refresh { every: Duration::from_secs_clamped(age.as_secs()) }
}

/// Two images in a chain, built once, that are refreshed every week.
fn weekly() -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.policy.refresh = Some(every(WEEK));
    model.settle();
    assert_eq!(model.builds(), [1, 1]);
    model
}

/// Lets time pass, and does what is due then.
fn pass(model: &mut FamilyModel, time: SignedDuration) {
    model.now += time;
    model.settle();
}

/// One image, built once, that is refreshed every week.
fn weekly_alone() -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.policy.refresh = Some(every(WEEK));
    model.settle();
    model
}

fn refresh_at(model: &FamilyModel, image: &str) -> Timestamp {
    model.record(image).refresh_at.expect("it is refreshed")
}

#[test]
fn an_old_build_is_refreshed_once_and_its_children_follow() {
    let mut model = weekly();
    pass(&mut model, SignedDuration::from_hours(167));
    assert_eq!(model.builds(), [1, 1], "before the week is over");
    pass(&mut model, WEEK_AND_SPREAD - SignedDuration::from_hours(167));
    assert_eq!((model.builds(), model.states()), (vec![2, 2], vec![CURRENT; 2]));
    let record = model.record("base");
    assert_eq!(record.causes[0].type_, CauseType::Refresh);
    assert_eq!(causes::sentence(&record.causes), "base was refreshed after 168h");
    assert!(!causes::is_user_caused(&record.causes));
    let of_app = causes::sentence(&model.record("app").causes);
    assert!(of_app.contains("because base was refreshed after 168h"), "{of_app}");
    assert!(model.jobs.iter().skip(2).all(|(_, job)| !job.identity.user_caused));
    let nonce = record.nonce.as_deref().expect("a nonce");
    assert!(is_annotated_request(nonce), "{nonce}");
    pass(&mut model, SignedDuration::from_hours(160));
    assert_eq!(model.builds(), [2, 2], "the age starts again");
    pass(&mut model, SignedDuration::from_hours(25));
    assert_eq!(model.builds(), [3, 3]);
}

#[test]
fn a_refresh_with_the_same_content_spares_the_children_and_is_not_repeated() {
    let mut model = weekly();
    model.spec.images[1].refresh = Some(every(SignedDuration::ZERO));
    model.content.insert(0, "the same".into());
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [2, 2]);
    let digest = model.record("base").digest.clone();
    pass(&mut model, WEEK_AND_SPREAD);
    assert_eq!((model.builds(), model.states()), (vec![3, 2], vec![CURRENT; 2]));
    assert_eq!(model.record("base").digest, digest);
    pass(&mut model, SignedDuration::from_hours(160));
    assert_eq!(model.builds(), [3, 2]);
    pass(&mut model, SignedDuration::from_hours(25));
    assert_eq!(model.builds(), [4, 2]);
}

#[test]
fn the_refreshes_of_a_family_are_spread_over_a_tenth_of_the_age() {
    let images: Vec<(String, String)> =
        (0..24).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut model = FamilyModel::new(&["up"], &images);
    model.spec.policy.refresh = Some(every(WEEK));
    model.settle();
    let age = |(name, _): &(&str, &str)| {
        refresh_at(&model, name)
            .duration_since(model.record(name).stands_since.expect("a build"))
            .as_secs()
    };
    let ages: BTreeSet<i64> = images.iter().map(age).collect();
    assert_eq!(ages.len(), images.len(), "no two at the same time");
    let (first, last) = (ages.first().expect("one"), ages.last().expect("one"));
    let week = WEEK.as_secs();
    assert!(*first >= week && *last <= week + week / 10, "{ages:?}");
    assert!(last - first > week / 20, "{ages:?}");
}

#[test]
fn a_refresh_waits_while_nothing_may_start_or_somebody_holds_the_image() {
    let mut model = weekly_alone();
    model.spec.suspend = true;
    pass(&mut model, WEEK_AND_SPREAD);
    assert_eq!((model.builds(), model.states()), (vec![1], vec![CURRENT]), "suspended");
    model.spec.suspend = false;
    let window = Window {
        schedule: "0 0 1 1 *".into(),
        duration: Duration::from_secs(60),
        time_zone: "UTC".into(),
    };
    model.spec.policy.windows = vec![window];
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![1], vec![CURRENT]), "no window is open");
    model.spec.policy.windows.clear();
    model.spec.images[0].hold = Some(ImageHold::default());
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![1], vec![CURRENT]), "held");
    assert_eq!(model.record("base").refresh_at, None);
    model.spec.images[0].hold = None;
    model.settle();
    assert_eq!(model.builds(), [2]);
}

#[test]
fn an_image_that_is_about_to_be_rebuilt_is_not_refreshed_too() {
    let mut model = weekly();
    model.now += WEEK_AND_SPREAD;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [2, 2]);
    assert!(model.record("base").causes.iter().all(|cause| cause.type_ == CauseType::Upstream));
    assert!(model.record("base").nonce.is_none());
}

#[test]
fn a_lost_record_refreshes_nothing_at_once() {
    let mut model = weekly();
    model.now += SignedDuration::from_hours(184);
    model.records = vec![None; 2];
    model.status = ImageFamilyStatus::default();
    model.asked.clear();
    model.jobs.clear();
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![1, 1], vec![CURRENT; 2]));
    pass(&mut model, SignedDuration::from_hours(160));
    assert_eq!(model.builds(), [1, 1], "the age starts again");
}

#[test]
fn a_refresh_is_the_same_one_whenever_it_is_decided() {
    let model = weekly();
    let blueprint = model.blueprint();
    let input = model.input(&blueprint);
    let nonce = |at| decide(&input, at).images[0].nonce.clone();
    let due = refresh_at(&model, "base");
    assert_eq!(nonce(due - SignedDuration::from_secs(1)), None);
    let first = nonce(due).expect("a nonce");
    assert_eq!(nonce(due + SignedDuration::from_hours(500)), Some(first));
}

#[test]
fn a_refresh_that_fails_is_tried_again_at_the_next_age() {
    let mut model = weekly_alone();
    let latest = model.tags[&(0, "latest".to_owned())].clone();
    model.failing.insert(0, FailureClass::Build);
    pass(&mut model, WEEK_AND_SPREAD);
    assert_eq!((model.builds(), model.states()), (vec![3], vec![ImageState::Failed]));
    assert_eq!(model.tags[&(0, "latest".to_owned())], latest);
    pass(&mut model, SignedDuration::from_hours(100));
    assert_eq!(model.builds(), [3], "not before");
    model.failing.clear();
    pass(&mut model, SignedDuration::from_hours(85));
    assert_eq!((model.builds(), model.states()), (vec![4], vec![CURRENT]));
}

#[test]
fn what_fails_all_refreshes_is_one_cause() {
    let mut model = FamilyModel::new(&["up"], &[("one", "up"), ("two", "up"), ("three", "up")]);
    model.spec.policy.refresh = Some(every(WEEK));
    model.spec.policy.breaker.consecutive_failures = 2;
    model.spec.policy.retries.build = 0;
    model.settle();
    for image in 0..3 {
        model.failing.insert(image, FailureClass::Build);
    }
    model.now += WEEK_AND_SPREAD;
    model.spec.policy.parallelism = 1;
    model.begin();
    for _ in 0..6 {
        model.finish_builds();
        model.reconcile();
    }
    assert_eq!(model.builds().iter().sum::<usize>(), 5, "the breaker holds back the third");
    let breaker = model.status.breaker.clone().expect("an open breaker");
    assert_eq!(breaker.cause, "a refresh");
}
