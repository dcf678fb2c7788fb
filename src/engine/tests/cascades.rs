//! How cascades come together, end early, stop where nothing has changed, and are promoted.

use jiff::SignedDuration;

use crate::{
    api::{
        CascadePhase, Cutoff, FailureClass, ImageState, Promotion, Supersede, condition::Reason,
    },
    engine::{
        BuildOutcome, CascadeDecision,
        tests::{CURRENT, model::FamilyModel},
    },
};

fn chain() -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("lib", "base"), ("app", "lib")]);
    model.settle();
    model
}

/// Moves the upstream to `sha256:up-2`, until the cascade that runs is ended for it.
fn supersede(model: &mut FamilyModel) {
    model.upstream_digests[0] = "sha256:up-2".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    let decision = model.reconcile();
    assert!(
        matches!(&decision.cascade, CascadeDecision::Finish { ending } if ending[0].superseded),
        "{:?}",
        decision.cascade
    );
}

#[test]
fn causes_reach_down_to_the_upstream() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let causes = &model.record("app").causes;
    let root = causes.iter().find(|cause| cause.name == "up").expect("the upstream");
    assert_eq!((root.from.as_str(), root.to.as_str()), ("sha256:up-0", "sha256:up-1"));
    assert_eq!(root.via, ["base", "lib"]);
    let cascade = model.cascades.last().expect("a cascade");
    let app = cascade.images.iter().find(|image| image.name == "app").expect("a result");
    assert_eq!(&app.causes, causes);
    assert!(app.message.contains("because up moved from up-0 to up-1"), "{}", app.message);
}

#[test]
fn a_cascade_runs_to_completion_however_fast_an_upstream_moves() {
    let mut model = chain();
    model.spec.policy.settle = crate::api::Duration::from_secs(0);
    for round in 1..40 {
        model.upstream_digests[0] = format!("sha256:up-{round}");
        model.now += SignedDuration::from_secs(1);
        model.reconcile();
        model.finish_builds();
    }
    let complete =
        model.cascades.iter().filter(|cascade| cascade.phase == CascadePhase::Complete).count();
    assert!(complete >= 5, "{complete}");
    assert!(model.builds()[2] >= complete - 1, "{:?}", model.builds());
}

#[test]
fn a_cascade_is_cancelled_for_a_newer_digest_and_the_next_one_is_not() {
    let mut model = chain();
    model.spec.policy.supersede = Supersede::Cancel;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    assert_eq!(model.builds(), [2, 1, 1]);
    supersede(&mut model);
    let decision = model.reconcile();
    assert!(
        matches!(&decision.cascade, CascadeDecision::Start { supersedes: Some(_), .. }),
        "{:?}",
        decision.cascade
    );
    model.reconcile();
    assert_eq!(model.stopped(), 1, "the build for the older digest is ended");
    model.jobs.retain(|(_, job)| job.live || job.outcome != crate::engine::BuildOutcome::Stopped);
    model.reconcile();
    assert_eq!(model.builds(), [3, 1, 1]);
    model.upstream_digests[0] = "sha256:up-3".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(60);
    let decision = model.reconcile();
    assert!(
        matches!(decision.cascade, CascadeDecision::Continue),
        "a cascade that superseded another runs to completion"
    );
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
    assert_eq!(model.stopped(), 0);
    let phases: Vec<CascadePhase> = model.cascades.iter().map(|cascade| cascade.phase).collect();
    assert_eq!(
        phases,
        [
            CascadePhase::Complete,
            CascadePhase::Superseded,
            CascadePhase::Complete,
            CascadePhase::Complete
        ]
    );
}

#[test]
fn the_cascade_that_takes_the_place_of_another_does_not_wait_for_what_that_has_left_ready() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("other", "up")]);
    model.settle();
    model.spec.policy.supersede = Supersede::Cancel;
    model.spec.policy.parallelism = 1;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    assert_eq!(model.record("other").reason, Reason::ParallelismReached);
    supersede(&mut model);
    let decision = model.reconcile();
    assert!(matches!(decision.cascade, CascadeDecision::Start { .. }), "{:?}", decision.cascade);
}

#[test]
fn only_the_candidate_that_a_cascade_was_ended_for_begins_without_a_quiet_time() {
    let mut model = chain();
    model.spec.policy.supersede = Supersede::Cancel;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    supersede(&mut model);
    // In that moment the publisher takes it back.
    model.upstream_digests[0] = "sha256:up-1".into();
    for image in ["base", "lib", "app"] {
        let index = model.index(image);
        model.spec.images[index].hold = Some(crate::api::ImageHold::default());
    }
    model.finish_builds();
    model.reconcile();
    model.now += SignedDuration::from_secs(3600);
    model.reconcile();
    model.upstream_digests[0] = "sha256:up-3".into();
    let decision = model.reconcile();
    assert_eq!(decision.cascade, CascadeDecision::None, "a later one has a quiet time of its own");
    assert!(decision.pending.is_some());
    model.now += SignedDuration::from_secs(30);
    assert!(matches!(model.reconcile().cascade, CascadeDecision::Start { .. }));
}

#[test]
fn an_image_is_finished_when_its_build_ended_although_nobody_was_there_to_record_it() {
    let mut model = chain();
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    let end = model.now;
    model.finish_builds();
    // The leader was killed, and another one took over.
    model.now += SignedDuration::from_secs(600);
    model.reconcile();
    model.settle();
    let cascade = model.cascades.last().expect("a cascade");
    let finished = |image: &str| {
        let result = cascade.images.iter().find(|result| result.name == image);
        result.and_then(|result| result.finished_at)
    };
    assert_eq!(finished("base"), Some(end));
    assert!(finished("lib") > Some(end));
}

#[test]
fn changes_during_a_cascade_wait_no_longer_than_max_settle() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    // It moves faster than the quiet time, for longer than `maxSettle`, while one build runs.
    for round in 2..40 {
        model.upstream_digests[0] = format!("sha256:up-{round}");
        model.now += SignedDuration::from_secs(20);
        model.reconcile();
    }
    assert_eq!(model.cascades.len(), 1, "the cascade continues");
    model.upstream_digests[0] = "sha256:up-40".into();
    while model.cascades.len() == 1 {
        model.finish_builds();
        model.reconcile();
    }
    assert!(
        matches!(model.reconcile().cascade, CascadeDecision::Start { .. }),
        "{:?}",
        model.status.pending
    );
}

#[test]
fn a_quiet_time_passes_while_something_else_keeps_the_cascade_from_beginning() {
    let mut model = chain();
    model.spec.suspend = true;
    model.upstream_digests[0] = "sha256:up-1".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(30);
    model.reconcile();
    model.spec.suspend = false;
    assert!(matches!(model.reconcile().cascade, CascadeDecision::Start { .. }));
}

#[test]
fn a_rebuild_that_changes_nothing_stops_the_cascade() {
    for (cutoff, builds) in [(Cutoff::Content, [2, 2, 1]), (Cutoff::Never, [2, 2, 2])] {
        let mut model =
            FamilyModel::new(&["up"], &[("base", "up"), ("lib", "base"), ("app", "lib")]);
        model.spec.policy.cutoff = cutoff;
        model.content.insert(1, "the same".into());
        model.settle();
        let before = model.record("lib").digest.clone();
        model.upstream_digests[0] = "sha256:up-1".into();
        model.settle();
        assert_eq!(model.builds(), builds, "{cutoff:?}");
        assert_eq!(model.record("lib").digest == before, cutoff == Cutoff::Content);
        if cutoff == Cutoff::Content {
            let cascade = model.cascades.last().expect("a cascade");
            let spared: Vec<&str> = cascade
                .images
                .iter()
                .filter(|image| image.spared)
                .map(|image| image.name.as_str())
                .collect();
            assert_eq!(spared, ["lib", "app"]);
            assert!(cascade.message.starts_with("1 rebuilt, 2 spared"), "{}", cascade.message);
            model.records = vec![None; 3];
            model.asked.clear();
            model.jobs.clear();
            model.settle();
            assert_eq!(model.builds(), builds, "the registry remembers what came out the same");
            assert_eq!(model.record("lib").digest, before);
        }
    }
}

#[test]
fn an_earlier_build_becomes_current_again_unchanged() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.policy.cutoff = Cutoff::Never;
    model.content.insert(0, "the same".into());
    model.settle();
    let (first, before) = (model.record("base").digest.clone(), model.upstream_digests[0].clone());
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_ne!(model.record("base").digest, first);
    // An immutable tag of the first build points to its digest.
    model.spec.policy.cutoff = Cutoff::Content;
    model.upstream_digests[0] = before;
    model.reconcile();
    model.now += SignedDuration::from_hours(24);
    model.settle();
    assert_eq!((model.record("base").digest.clone(), model.builds()), (first, vec![2]));
}

#[test]
fn tags_of_a_cascade_move_together_or_not_at_all() {
    let mut model = chain();
    model.spec.policy.promotion = Promotion::Cascade;
    model.settle();
    let latest = |model: &FamilyModel, name: &str| {
        model.tags[&(model.index(name), "latest".to_owned())].clone()
    };
    let before: Vec<String> =
        ["base", "lib", "app"].iter().map(|name| latest(&model, name)).collect();
    model.failing.insert(2, FailureClass::Build);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.states(), [CURRENT, CURRENT, ImageState::Failed]);
    let after: Vec<String> =
        ["base", "lib", "app"].iter().map(|name| latest(&model, name)).collect();
    assert_eq!(before, after, "nothing moves");
    assert!(model.tags.contains_key(&(0, "r2".to_owned())), "but for tags that name the build");
    let message = &model.cascades.last().expect("a cascade").message;
    assert!(message.contains("required images are missing: app"), "{message}");
    model.failing.clear();
    model.spec.images[2].args.insert("A".into(), "1".into());
    model.settle();
    for name in ["base", "lib", "app"] {
        assert_eq!(
            latest(&model, name),
            model.record(name).digest.clone().expect("a digest"),
            "{name}"
        );
    }
}

#[test]
fn tags_do_not_move_without_a_cancelled_image_that_the_cascade_does_not_list_yet() {
    let mut model = FamilyModel::new(&["up"], &[("one", "up"), ("two", "up")]);
    model.spec.policy.promotion = Promotion::Cascade;
    // The inputs of `two` become known after the cascade has planned its builds, and the status is
    // not written again before it ends.
    let unlist = |model: &mut FamilyModel| {
        let Some(cascade) = model.running.first_mut() else { return };
        cascade.planned = vec![vec!["one".into()]];
        cascade.status.images.retain(|image| image.name == "one");
    };
    model.begin();
    model.finish_only("one");
    unlist(&mut model);
    model.reconcile();
    model.ask(r#"{"id":"1","action":"Cancel","image":"two"}"#);
    for _ in 0..3 {
        unlist(&mut model);
        model.reconcile();
        // The cluster deletes the Job before the next reconcile.
        model.jobs.retain(|(_, job)| job.outcome != BuildOutcome::Stopped);
    }
    model.settle();
    assert_eq!(model.states(), [CURRENT, ImageState::Failed]);
    assert!(!model.tags.contains_key(&(0, "latest".to_owned())), "{:?}", model.tags);
    let cascade = model.cascades.last().expect("a cascade");
    assert_eq!(cascade.phase, CascadePhase::Incomplete, "{}", cascade.message);
    assert!(cascade.message.contains("required images are missing: two"), "{}", cascade.message);
}

#[test]
fn a_cascade_does_not_wait_for_what_is_not_required() {
    let mut model = chain();
    model.spec.policy.promotion = Promotion::Cascade;
    model.spec.images[2].required = false;
    model.settle();
    model.failing.insert(2, FailureClass::Build);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let latest = |name: &str| model.tags[&(model.index(name), "latest".to_owned())].clone();
    assert_eq!(Some(latest("lib")), model.record("lib").digest);
    assert_eq!(Some(latest("app")), model.record("app").digest, "its last verified digest");
}

#[test]
fn tags_move_together_without_an_image_that_is_held_before_its_first_build() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.policy.promotion = Promotion::Cascade;
    model.settle();
    let added = FamilyModel::new(
        &["up"],
        &[("base", "up"), ("app", "base"), ("new", "base"), ("below", "new")],
    );
    model.spec.images.extend(added.spec.images[2..].iter().cloned());
    model.spec.images[2].hold = Some(crate::api::ImageHold::default());
    model.records.resize(4, None);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [2, 2, 0, 0]);
    for name in ["base", "app"] {
        let latest = model.tags[&(model.index(name), "latest".to_owned())].clone();
        assert_eq!(Some(latest), model.record(name).digest, "{name}");
    }
    let message = &model.cascades.last().expect("a cascade").message;
    assert!(message.contains("held: new"), "{message}");
    assert!(message.contains("floating tags move together"), "{message}");
}

#[test]
fn a_cascade_that_completes_while_the_family_is_suspended_is_promoted_afterwards() {
    let mut model = chain();
    model.spec.policy.promotion = Promotion::Cascade;
    model.settle();
    let latest = |model: &FamilyModel| -> Vec<String> {
        (0..3).map(|image| model.tags[&(image, "latest".to_owned())].clone()).collect()
    };
    let before = latest(&model);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    while model.builds()[2] < 2 {
        model.finish_builds();
        model.reconcile();
    }
    model.spec.suspend = true;
    model.settle();
    assert!(model.running.is_empty(), "the running builds have ended, and with them the cascade");
    assert_eq!(latest(&model), before);
    let verified: Vec<_> =
        model.records.iter().flatten().filter_map(|record| record.digest.clone()).collect();
    // The next one begins at once, and does not complete.
    model.upstream_digests[0] = "sha256:up-2".into();
    model.settle();
    model.now += SignedDuration::from_secs(30);
    model.spec.suspend = false;
    model.failing.insert(2, FailureClass::Build);
    model.settle();
    assert_eq!(latest(&model), verified);
}

#[test]
fn an_interrupted_flip_is_completed() {
    let mut model = chain();
    model.spec.policy.promotion = Promotion::Cascade;
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let flipped = model.tags.clone();
    // As if the controller had been killed after it had recorded the target, and before it had
    // moved the last tag.
    let digest = model
        .record("base")
        .tags
        .iter()
        .find(|tag| tag.tag == "latest")
        .expect("a tag")
        .digest
        .clone();
    model.tags.insert((2, "latest".into()), digest.clone());
    let record = model.records[2].as_mut().expect("a record");
    record
        .tags
        .iter_mut()
        .filter(|tag| tag.tag == "latest")
        .for_each(|tag| tag.digest.clone_from(&digest));
    model.settle();
    assert_eq!(model.tags, flipped);
}

#[test]
fn a_second_parent_change_in_a_cascade_is_left_to_the_next() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base"), ("slow", "base")]);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.builds(), [2, 2, 2]);
    model.finish_only("app");
    model.reconcile();
    model.spec.images[0].args.insert("A".into(), "1".into());
    model.reconcile();
    model.finish_only("base");
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [3, 2, 2], "an edit of its own is built in the cascade");
    assert_eq!(model.record("app").reason, Reason::NextCascade);
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![3, 3, 3], vec![CURRENT; 3]));
    let last = model.cascades.iter().rev().nth(1).expect("a cascade");
    assert!(last.images.iter().all(|image| image.name == "base" || image.builds == 1), "{last:#?}");
}

#[test]
fn the_build_of_an_image_that_is_gone_is_ended() {
    let mut model = chain();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.begin();
    assert_eq!(model.stopped(), 0);
    model.rename("base", "ground");
    model.spec.images[1].from[0].image = Some("ground".into());
    model.reconcile();
    assert_eq!(model.stopped(), 1);
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
}

#[test]
fn a_clock_that_is_set_back_gives_no_cascade_the_name_of_an_earlier_one() {
    let mut model = chain();
    model.spec.policy.settle = crate::api::Duration::from_secs(0);
    let first = model.now;
    for round in 1..=2 {
        model.upstream_digests[0] = format!("sha256:up-{round}");
        model.settle();
        model.now += SignedDuration::from_hours(1);
    }
    model.now = first;
    model.upstream_digests[0] = "sha256:up-3".into();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 3], vec![4; 3]));
    let names: std::collections::BTreeSet<_> = model.ended.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), model.ended.len(), "{:?}", model.ended);
}
