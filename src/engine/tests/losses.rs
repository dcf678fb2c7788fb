//! What survives the loss of records and statuses.

use jiff::SignedDuration;

use crate::{
    api::{
        Approval, Duration, Edge, FailureClass, ImageFamilyStatus, ImageHold, ImageState, Upstream,
        condition::Reason, labels::is_annotated_request,
    },
    engine::{
        tests::{CURRENT, model::FamilyModel},
        *,
    },
};

/// Loses every record and status, as a restore without statuses or a recreated family does.
fn lose_everything(model: &mut FamilyModel) {
    model.records = vec![None; model.records.len()];
    model.remembered.clear();
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
    let nonce = model.record("base").nonce.clone();
    assert!(nonce.as_ref().is_some_and(|nonce| is_annotated_request(nonce)), "{nonce:?}");
    assert_eq!(model.builds(), [2, 2]);
    assert_ne!(before, forced);
    lose_everything(&mut model);
    model.settle();
    assert_eq!(builds(&model), forced);
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![2, 2]));
    assert_eq!(model.record("base").nonce, nonce, "as before the loss");

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
fn a_held_image_that_loses_its_record_keeps_its_build_and_its_children() {
    let mut model = FamilyModel::new(&["up", "up2"], &[("base", "up"), ("app", "base up2*")]);
    model.settle();
    let before = builds(&model)[0].clone();
    model.spec.images[0].hold = Some(ImageHold::default());
    model.settle();
    model.records[0] = None;
    model.asked.clear();
    model.upstream_digests[1] = "sha256:up2-1".into();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![1, 2]));
    assert_eq!(builds(&model)[0], before);
}

#[test]
fn a_held_image_that_was_never_built_stays_held() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.images[0].hold = Some(ImageHold::default());
    model.settle();
    assert_eq!(model.record("base").state, ImageState::Held);
    assert_eq!(model.builds(), [0, 0]);
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
    assert_eq!(
        (model.marks.len(), model.record("base").known_reason()),
        (1, Some(Reason::Current))
    );
    assert_eq!(model.tags[&(0, "latest".to_owned())], model.record("base").digest.clone().unwrap());
}

/// A digest that nobody agreed to.
const EVIL: &str = "sha256:eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee";

/// Approves that digest.
fn approve(model: &mut FamilyModel, upstream: &str) {
    model.ask(&format!(
        r#"{{"id":"a","action":"Approve","upstream":"{upstream}","digest":"{EVIL}"}}"#
    ));
}

/// A family whose upstream has moved to a digest that nobody agreed to.
fn awaiting(gate: Gate) -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    match gate {
        Gate::Approval => model.spec.upstreams[0].approval = Approval::Manual,
        Gate::Age => model.spec.upstreams[0].minimum_age = Duration::from_secs(7 * 24 * 3600),
    }
    model.upstream_digests[0] = EVIL.into();
    model.settle();
    assert_eq!(model.builds(), [1, 1]);
    model
}

/// What a candidate waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gate {
    Approval,
    Age,
}

/// What is adopted of the upstream, and why nothing newer is.
fn adopted(model: &FamilyModel) -> (Option<&str>, Option<Reason>) {
    let upstream = &model.status.upstreams[0];
    let digest = upstream.adopted.as_ref().map(|adopted| adopted.digest.as_str());
    (digest, upstream.known_reason())
}

fn rename_upstream(model: &mut FamilyModel) {
    model.spec.upstreams[0].name = "upstream".into();
    model.spec.images[0].from[0].upstream = Some("upstream".into());
}

#[test]
fn a_lost_status_or_a_new_name_agrees_to_nothing() {
    for (gate, reason) in
        [(Gate::Approval, Reason::AwaitingApproval), (Gate::Age, Reason::MinimumAge)]
    {
        for (lose, rename) in [(true, false), (false, true), (true, true)] {
            let mut model = awaiting(gate);
            if rename {
                rename_upstream(&mut model);
            }
            if lose {
                model.status = ImageFamilyStatus::default();
            }
            model.settle();
            let shown = format!("{gate:?}, lose {lose}, rename {rename}");
            assert_eq!(adopted(&model), (Some("sha256:up-0"), Some(reason)), "{shown}");
            assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![1, 1]), "{shown}");
            if gate == Gate::Approval {
                let name = model.spec.upstreams[0].name.clone();
                approve(&mut model, &name);
            } else {
                model.now += SignedDuration::from_hours(7 * 24 + 1);
            }
            model.settle();
            assert_eq!(adopted(&model), (Some(EVIL), None), "{shown}");
            assert_eq!(model.builds(), [2, 2], "{shown}");
        }
    }
}

#[test]
fn a_renamed_upstream_keeps_its_hold_and_what_it_replaced() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    model.ask(r#"{"id":"h","action":"Hold","upstream":"up"}"#);
    model.settle();
    rename_upstream(&mut model);
    model.upstream_digests[0] = "sha256:up-0".into();
    model.settle();
    assert_eq!(adopted(&model), (Some("sha256:up-1"), Some(Reason::Held)));
    model.ask(r#"{"id":"u","action":"Unhold","upstream":"upstream"}"#);
    model.settle();
    assert_eq!(adopted(&model), (Some("sha256:up-1"), Some(Reason::DigestReturned)));
    // What was replaced is remembered without a status, too.
    model.status = ImageFamilyStatus::default();
    model.settle();
    assert_eq!(adopted(&model), (Some("sha256:up-1"), Some(Reason::DigestReturned)));
}

#[test]
fn a_second_name_for_an_upstream_agrees_to_nothing() {
    let mut model = awaiting(Gate::Approval);
    let second = Upstream { name: "up2".into(), ..model.spec.upstreams[0].clone() };
    model.spec.upstreams.push(second);
    model.upstream_digests.push(EVIL.into());
    model.upstream_images.push(Vec::new());
    model.spec.images[1].from[0] = Edge { upstream: Some("up2".into()), ..Edge::default() };
    model.settle();
    let second = &model.status.upstreams[1];
    assert_eq!(second.adopted.as_ref().map(|of| of.digest.as_str()), Some("sha256:up-0"));
    assert_eq!(second.known_reason(), Some(Reason::AwaitingApproval));
}

#[test]
fn another_image_or_tag_begins_with_its_first_digest() {
    let mut model = awaiting(Gate::Approval);
    model.spec.upstreams[0].follow.tag = "2".into();
    model.settle();
    assert_eq!(adopted(&model), (Some(EVIL), None));
}

#[test]
fn what_a_record_without_an_owner_remembers_is_a_no_and_never_a_yes() {
    let restored = |newest: &str| {
        let mut model = awaiting(Gate::Approval);
        let remembered = model.remembered.clone();
        lose_everything(&mut model);
        model.remembered = remembered;
        for known in model.remembered.iter_mut().flatten() {
            known.unverified = true;
        }
        model.upstream_digests[0] = newest.into();
        model.settle();
        model
    };
    let mut model = restored(EVIL);
    assert_eq!(adopted(&model), (None, Some(Reason::AwaitingApproval)), "nobody's digest");
    assert_eq!(model.record("base").reason, Reason::AwaitingApproval);
    assert_eq!(model.tags[&(0, "latest".to_owned())], "sha256:built-1", "its tag stays");
    approve(&mut model, "up");
    model.settle();
    assert_eq!((adopted(&model), model.builds()), ((Some(EVIL), None), vec![2, 2]));
    let model = restored("sha256:up-0");
    assert_eq!((adopted(&model), model.builds()), ((Some("sha256:up-0"), None), vec![1, 1]));
    assert!(model.remembered.iter().flatten().all(|known| !known.unverified));
}

#[test]
fn few_images_remember_an_upstream() {
    let names: Vec<String> = (0..6).map(|image| format!("image{image}")).collect();
    let images: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "up")).collect();
    let mut model = FamilyModel::new(&["up"], &images);
    model.settle();
    assert_eq!(model.remembered.iter().filter(|known| !known.is_empty()).count(), 3);
}
