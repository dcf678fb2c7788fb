//! What happens to a family, reconcile by reconcile, in [`model`].

mod admission;
mod adoption;
mod breaker;
mod cascades;
mod checks;
mod edits;
mod gates;
mod imports;
mod label_tags;
mod late_pushes;
mod losses;
mod maturing;
mod model;
mod outages;
mod parallel_cascades;
mod platforms;
mod refresh;
mod requests;
mod rollbacks;
mod several_requests;
mod start_gates;
mod states;
mod superseding_cascades;

use jiff::SignedDuration;

use crate::{
    api::{CascadePhase, FailureClass, Hold, ImageFamilyStatus, ImageState, condition::Reason},
    engine::*,
};
use model::FamilyModel;

const CURRENT: ImageState = ImageState::Current;

#[test]
fn a_chain_is_built_once_parents_first_and_tagged() {
    let mut model = FamilyModel::new(&["up"], &[("app", "lib"), ("lib", "base"), ("base", "up")]);
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [0, 0, 1], "a child never starts before its parent is current");
    model.settle();
    assert_eq!(model.states(), [CURRENT; 3]);
    assert_eq!(model.builds(), [1, 1, 1]);
    let tags: Vec<&str> = model.record("app").tags.iter().map(|tag| tag.tag.as_str()).collect();
    assert_eq!(tags.len(), 2);
    assert_eq!(model.cascades.len(), 1);
    assert_eq!(model.cascades[0].phase, CascadePhase::Complete);
    assert_eq!(model.cascades[0].critical_path, ["base", "lib", "app"]);
}

#[test]
fn moves_that_come_together_build_each_image_once() {
    let mut model = FamilyModel::new(
        &["up1", "up2"],
        &[("base", "up1"), ("left", "base"), ("right", "base up2*"), ("join", "left right*")],
    );
    model.settle();
    assert_eq!(model.builds(), [1; 4]);
    model.upstream_digests[0] = "sha256:up1-1".into();
    let decision = model.reconcile();
    assert_eq!(decision.cascade, CascadeDecision::None, "the quiet time has not passed");
    assert!(decision.wake_at.is_some_and(|at| at == model.now + SignedDuration::from_secs(30)));
    model.now += SignedDuration::from_secs(20);
    model.upstream_digests[1] = "sha256:up2-1".into();
    let decision = model.reconcile();
    assert!(
        decision.wake_at.is_some_and(|at| at == model.now + SignedDuration::from_secs(30)),
        "the quiet time starts again"
    );
    model.settle();
    assert_eq!(model.builds(), [2; 4]);
    assert_eq!(model.states(), [CURRENT; 4]);
    assert_eq!(model.cascades.len(), 2);
}

#[test]
fn max_settle_bounds_the_delay_of_a_cascade() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    let start = model.now;
    let opened = (1..).find_map(|round| {
        model.upstream_digests[0] = format!("sha256:up-{round}");
        let decision = model.reconcile();
        model.now += SignedDuration::from_secs(20);
        matches!(decision.cascade, CascadeDecision::Start { .. }).then_some(model.now)
    });
    let waited = opened.expect("a cascade").duration_since(start).as_secs();
    assert!((600..=640).contains(&waited), "{waited}");
}

#[test]
fn an_upstream_that_moves_mid_cascade_is_adopted_by_the_next() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.reconcile();
    model.reconcile();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.builds(), [1, 1], "the cascade continues with what it began with");
    model.settle();
    assert_eq!(model.builds(), [2, 2]);
    assert_eq!(model.cascades.len(), 2);
}

#[test]
fn losing_every_record_builds_nothing() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    let before: Vec<_> = model
        .records
        .iter()
        .flatten()
        .map(|record| (record.digest.clone(), record.build))
        .collect();
    model.records = vec![None; 2];
    model.status = ImageFamilyStatus::default();
    model.asked.clear();
    model.jobs.clear();
    model.settle();
    assert_eq!(model.builds(), [1, 1]);
    let after: Vec<_> = model
        .records
        .iter()
        .flatten()
        .map(|record| (record.digest.clone(), record.build))
        .collect();
    assert_eq!(before, after);
    assert_eq!(model.cascades.len(), 1, "no cascade is recorded for builds that were only found");
}

#[test]
fn a_failure_blocks_its_descendants_and_nobody_else() {
    let mut model = FamilyModel::new(
        &["up"],
        &[("base", "up"), ("bad", "base"), ("below", "bad"), ("sibling", "base")],
    );
    let bad = model.index("bad");
    model.failing.insert(bad, FailureClass::Build);
    model.settle();
    assert_eq!(model.states(), [CURRENT, ImageState::Failed, ImageState::Blocked, CURRENT]);
    assert_eq!(model.builds(), [1, 2, 0, 1], "retries.build is 1");
    assert_eq!(model.record("below").message, "blocked by bad, which failed");
    assert_eq!(model.cascades[0].phase, CascadePhase::Incomplete);
    assert!(
        model.cascades[0].message.contains("failed: bad")
            && model.cascades[0].message.contains("blocked: below"),
        "{}",
        model.cascades[0].message
    );

    model.failing.clear();
    model.settle();
    assert_eq!(model.builds(), [1, 2, 0, 1], "nothing is tried again while no input changes");
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 4], "a base update after a failure is not swallowed");
    assert_eq!(model.builds(), [2, 3, 1, 2]);
}

#[test]
fn what_is_certain_to_fail_again_is_not_tried_again() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.failing.insert(0, FailureClass::Input);
    model.settle();
    assert_eq!(model.builds(), [1]);
}

#[test]
fn a_build_whose_pushed_image_is_missing_is_retried() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    for (_, job) in &mut model.jobs {
        (job.outcome, job.live) = (BuildOutcome::Succeeded, false);
    }
    model.reconcile();
    assert_eq!(model.record("base").reason, Reason::Retrying);
    model.settle();
    assert_eq!(model.builds(), [2]);
    assert_eq!(model.states(), [CURRENT]);
}

#[test]
fn a_build_is_stopped_when_its_namespace_may_not_use_the_strategy_any_more() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [1]);
    let revision = std::mem::take(&mut model.strategy);
    let decision = model.reconcile();
    let stopped = |effect: &Effect| matches!(effect, Effect::Stop { .. });
    assert_eq!(decision.effects.iter().filter(|effect| stopped(effect)).count(), 1);
    assert_eq!(model.record("base").reason, Reason::StrategyNotAllowed);
    model.strategy = revision;
    model.settle();
    assert_eq!(model.states(), [CURRENT], "and it is built when the namespace may again");
}

#[test]
fn a_job_that_a_sidecar_outlives_is_ended_once_its_result_is_taken() {
    let stops = |decision: &Decision| {
        decision.effects.iter().filter(|effect| matches!(effect, Effect::Stop { .. })).count()
    };
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    model.finish_builds();
    model.jobs[0].1.live = true;
    model.registry_unreachable = true;
    let decision = model.reconcile();
    assert_eq!(stops(&decision), 0, "the registry has not answered");
    assert!(decision.wake_at.is_some());
    model.registry_unreachable = false;
    model.settle();
    let job = &model.jobs[0].1;
    assert_eq!((&job.outcome, job.live), (&BuildOutcome::Succeeded, false));
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![1]));
    assert_eq!(model.record("base").failure, None);
    assert_eq!(model.cascades[0].phase, CascadePhase::Complete);

    // The push is not there: the Job is ended before the next attempt.
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.reconcile();
    model.reconcile();
    model.jobs[0].1.outcome = BuildOutcome::Succeeded;
    model.settle();
    assert!(model.jobs.iter().all(|(_, job)| !job.live));
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![2]));
}

#[test]
fn holds_keep_an_upstream_at_its_digest() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    let until = model.now + SignedDuration::from_secs(600);
    model.spec.upstreams[0].hold =
        Some(Hold { digest: None, until: Some(until), reason: Some("freeze".into()) });
    model.upstream_digests[0] = "sha256:up-1".into();
    let decision = model.reconcile();
    assert_eq!(decision.upstreams[0].known_reason(), Some(Reason::Held));
    assert!(
        decision.upstreams[0].message.as_deref().is_some_and(|message| message.contains("freeze"))
    );
    assert_eq!(decision.wake_at, Some(until));
    model.settle();
    assert_eq!(model.builds(), [2], "the hold has ended by itself");
    model.spec.upstreams[0].hold =
        Some(Hold { digest: Some("sha256:up-0".into()), until: None, reason: None });
    model.settle();
    assert_eq!(model.builds(), [2], "what was built before is found in the registry");
    assert_eq!(
        model.status.upstreams[0].adopted.as_ref().map(|adopted| adopted.digest.as_str()),
        Some("sha256:up-0")
    );
}

#[test]
fn a_suspended_family_starts_nothing_and_moves_no_tag() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.spec.suspend = true;
    model.settle();
    assert_eq!((model.builds(), model.tags.len()), (vec![0], 0));
    assert_eq!(model.record("base").reason, Reason::Suspended);
    model.spec.suspend = false;
    model.settle();
    assert_eq!((model.builds(), model.tags.len()), (vec![1], 2));
}

#[test]
fn no_more_builds_run_than_parallelism_allows() {
    let images: Vec<(String, String)> =
        (0..12).map(|image| (format!("image{image}"), "up".to_owned())).collect();
    let images: Vec<(&str, &str)> =
        images.iter().map(|(name, parent)| (name.as_str(), parent.as_str())).collect();
    let mut model = FamilyModel::new(&["up"], &images);
    model.spec.policy.parallelism = 3;
    model.settle();
    assert_eq!(model.states(), [CURRENT; 12]);
    assert_eq!(model.most_at_once, 3);
}

#[test]
fn the_longest_remaining_path_starts_first() {
    let mut model = FamilyModel::new(
        &["up"],
        &[("leaf", "up"), ("deep", "up"), ("below", "deep"), ("bottom", "below")],
    );
    model.spec.policy.parallelism = 1;
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [0, 1, 0, 0]);
}

#[test]
fn a_tag_that_somebody_moved_is_restored_and_an_immutable_one_is_not() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    let digest = model.record("base").digest.clone().expect("a digest");
    model.tags.insert((0, "latest".into()), "sha256:elsewhere".into());
    let records = model.records.clone();
    let decision = model.decide();
    assert_eq!(model.records, records);
    // The record still says what we have set: that is how a foreign move is distinguished from one
    // of ours.
    model.records[0]
        .as_mut()
        .expect("base")
        .tags
        .iter_mut()
        .for_each(|tag| tag.digest.clone_from(&digest));
    let moved = |decision: &Decision| {
        decision.effects.iter().any(|effect| {
            matches!(effect, Effect::Promote { tags, .. }
            if tags[0].tag == "latest" && tags[0].moved_to == Some("sha256:elsewhere".into()))
        })
    };
    assert!(moved(&decision) && moved(&model.decide()));
    model.reconcile();
    assert_eq!(model.tags[&(0, "latest".to_owned())], digest);

    model.tags.insert((0, "r1".into()), "sha256:elsewhere".into());
    assert!(!model.decide().effects.iter().any(|effect| matches!(effect, Effect::Promote { .. })));
}

#[test]
fn a_tag_that_could_not_be_restored_is_retried_though_it_is_recorded() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    let blueprint = model.blueprint();
    let mut input = model.input(&blueprint);
    let problem =
        Problem { reason: Reason::RegistryUnavailable, message: "it is unreachable".into() };
    let retry_at = model.now + SignedDuration::from_secs(10);
    input.images[0].tags.insert("latest".into(), ObservedTag::Failed(problem, retry_at));
    let moves = |now| {
        decide(&input, now).effects.iter().any(|effect| matches!(effect, Effect::Promote { .. }))
    };
    assert!(!moves(model.now));
    assert!(moves(retry_at));
}

#[test]
fn an_upstream_without_its_platforms_waits() {
    let model = FamilyModel::new(&["up"], &[("base", "up")]);
    let blueprint = model.blueprint();
    let mut input = model.input(&blueprint);
    input.upstreams[0].newest.as_mut().expect("observed").missing_platforms =
        vec!["linux/arm64".into()];
    let decision = decide(&input, model.now);
    assert!(decision.upstreams[0].adopted.is_none());
    assert!(decision.effects.is_empty());
}

#[test]
fn an_unusable_strategy_is_reported_although_no_platform_is_known_for_the_upstream() {
    let model = FamilyModel::new(&["up"], &[("base", "up")]);
    let blueprint = model.blueprint();
    let mut input = model.input(&blueprint);
    input.upstreams[0].newest = None;
    assert_eq!(decide(&input, model.now).images[0].reason, Reason::Resolving);
    let problem = Problem { reason: Reason::StrategyNotFound, message: "gone".into() };
    input.images[0].strategy = Observed::Failed(problem);
    let image = &decide(&input, model.now).images[0];
    assert_eq!((image.reason, image.in_progress), (Reason::StrategyNotFound, false));
}

#[test]
fn deciding_is_pure() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.reconcile();
    assert_eq!(model.decide(), model.decide());
}

#[test]
fn a_source_that_is_asked_for_again_makes_nothing_stale() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model.source = Observed::Pending;
    model.reconcile();
    assert_eq!(
        model.states(),
        [CURRENT; 2],
        "what is remembered of the source is enough to be current"
    );
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [1, 1], "and not enough to build");
    assert!(!model.running.is_empty(), "the cascade waits for it");
    model.source = Observed::Known("source".into());
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 2], vec![CURRENT; 2]));
}

#[test]
fn an_image_that_moves_to_a_new_source_does_not_fall_back_while_that_is_polled_again() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.settle();
    model.source = Observed::Known("newer".into());
    model.begin();
    assert_eq!(model.builds(), [2, 1]);
    model.source = Observed::Pending;
    model.reconcile();
    model.finish_builds();
    model.reconcile();
    assert_eq!(model.states(), [ImageState::Waiting; 2]);
    assert_eq!(model.record("base").reason, Reason::Resolving);
    assert!(!model.running.is_empty());
    model.source = Observed::Known("newer".into());
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 2], vec![CURRENT; 2]));

    // The process died after it had said where the tags were about to go.
    let record = model.records[0].as_mut().expect("a record");
    record.promoted = Some("sha256:newest".into());
    model.source = Observed::Pending;
    model.reconcile();
    assert_eq!(model.states()[0], ImageState::Waiting);
    assert_eq!(model.tags[&(0, "latest".to_owned())], "sha256:newest", "the move is completed");
}

#[test]
fn a_recorded_candidate_is_polled_again_before_it_is_used() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.reconcile();
    model.now += SignedDuration::from_secs(3600);
    let blueprint = model.blueprint();
    let mut input = model.input(&blueprint);
    input.upstreams[0].newest = None;
    let decision = decide(&input, model.now);
    assert_eq!(decision.cascade, CascadeDecision::None);
    assert_eq!(decision.upstreams[0].known_reason(), Some(Reason::Resolving));
}

#[test]
fn a_build_number_names_one_build_for_ever() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.settle();
    for digest in ["sha256:up-1", "sha256:up-0", "sha256:up-2"] {
        model.upstream_digests[0] = digest.into();
        model.settle();
    }
    assert_eq!(model.builds(), [3], "the way back is found in the registry");
    assert_eq!(model.record("base").build, Some(3), "2 was given before the way back");
}

#[test]
fn failures_are_remembered_while_an_input_is_missing() {
    let mut model = FamilyModel::new(&["up"], &[("base", "up")]);
    model.failing.insert(0, FailureClass::Build);
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2], vec![ImageState::Failed]));
    model.jobs.clear();
    model.source =
        Observed::Failed(Problem { reason: Reason::SourceNotFound, message: "away".into() });
    model.settle();
    model.source = Observed::Known("source".into());
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2], vec![ImageState::Failed]));
}
