//! Upstreams whose tags point to indexes: each image is built on that of its own platform, and only
//! a change of such an image is a candidate.

use jiff::SignedDuration;

use crate::{
    api::{
        AdoptedDigest, Approval, CandidateDigest, Duration, Hold, ImageState, UpstreamStatus,
        condition::Reason,
    },
    engine::tests::{CURRENT, model::FamilyModel},
};

const AMD: &str = "linux/amd64";
const ARM: &str = "linux/arm64";

/// Returns a family on one upstream, whose tag points to an index, with everything built.
fn family(images: &[(&'static str, &'static str)]) -> FamilyModel {
    let names: Vec<(&str, &str)> = images.iter().map(|(name, _)| (*name, "up")).collect();
    let mut model = FamilyModel::new(&["up"], &names);
    for (index, (_, platform)) in images.iter().enumerate() {
        model.platforms.insert(index, Some(*platform));
    }
    point(&mut model, "index-1", &[(AMD, "amd-1"), (ARM, "arm-1")]);
    model.settle();
    model
}

/// Points the tag to an index.
fn point(model: &mut FamilyModel, index: &str, images: &[(&'static str, &'static str)]) {
    model.upstream_digests[0] = index.into();
    model.upstream_images[0] = images.to_vec();
}

fn upstream(model: &FamilyModel) -> &UpstreamStatus {
    &model.status.upstreams[0]
}

/// Returns the digest of the adopted tag, and those of its images.
fn adopted(model: &FamilyModel) -> (&str, Vec<&str>) {
    let content = upstream(model).adopted.as_ref().expect("one").content();
    (content.digest, content.built().collect())
}

/// Returns the digest that an image is built on.
fn base(model: &FamilyModel, image: &str) -> String {
    let inputs = model.record(image).inputs.as_ref().expect("inputs");
    inputs.parents[0].digest.clone()
}

#[test]
fn a_platform_that_is_changed_and_changed_back_passes_no_gate_of_the_upstream() {
    let gates: [fn(&mut FamilyModel); 3] = [
        |_| {},
        |model| {
            model.spec.upstreams[0].approval = Approval::Manual;
            model.spec.upstreams[0].minimum_age = Duration::from_secs(7 * 24 * 3600);
        },
        |model| model.spec.upstreams[0].hold = Some(Hold::default()),
    ];
    for gate in gates {
        let mut model = family(&[("app", AMD)]);
        gate(&mut model);
        let end = model.now + SignedDuration::from_hours(1);
        assert_eq!(base(&model, "app"), "amd-1");
        for (platform, expected, builds) in [(ARM, "arm-1", 2), (AMD, "amd-1", 2)] {
            model.platforms.insert(0, Some(platform));
            model.settle();
            assert_eq!((base(&model, "app").as_str(), model.builds()), (expected, vec![builds]));
            assert_eq!(model.states(), [CURRENT]);
            assert_eq!(
                (&upstream(&model).candidate, upstream(&model).superseded.len()),
                (&None, 0)
            );
        }
        assert!(model.now < end);
    }
}

#[test]
fn images_for_two_platforms_change_nothing_for_each_other() {
    let mut model = family(&[("web", AMD), ("api", AMD)]);
    let edge = crate::api::Image { name: "edge".into(), ..model.spec.images[0].clone() };
    model.spec.images.push(edge);
    model.records.push(None);
    model.platforms.insert(2, Some(ARM));
    model.settle();
    assert_eq!((model.builds(), base(&model, "edge")), (vec![1, 1, 1], "arm-1".to_owned()));

    point(&mut model, "index-2", &[(AMD, "amd-1"), (ARM, "arm-2")]);
    model.settle();
    assert_eq!(model.builds(), [1, 1, 2]);
    assert_eq!(adopted(&model), ("index-2", vec!["amd-1", "arm-2"]));

    let cascades = model.cascades.len();
    point(&mut model, "index-3", &[("linux/s390x", "z"), (AMD, "amd-1"), (ARM, "arm-2")]);
    let decision = model.reconcile();
    assert_eq!((decision.wake_at, &upstream(&model).candidate), (None, &None));
    assert_eq!(adopted(&model), ("index-3", vec!["amd-1", "arm-2"]));
    model.settle();
    assert_eq!((model.builds(), model.cascades.len()), (vec![1, 1, 2], cascades));
}

#[test]
fn an_image_for_another_platform_waits_if_the_tag_has_moved_on() {
    let mut model = family(&[("app", AMD)]);
    model.spec.upstreams[0].approval = Approval::Manual;
    point(&mut model, "index-2", &[(AMD, "amd-2"), (ARM, "arm-2")]);
    model.settle();
    model.platforms.insert(0, Some(ARM));
    model.settle();
    let record = model.record("app");
    assert_eq!(
        (record.state, record.reason.as_str()),
        (ImageState::Waiting, Reason::AwaitingApproval.as_str())
    );
    for part in
        ["upstream up: the tag has moved on", ARM, "family approve FAMILY up --digest index-2"]
    {
        assert!(record.message.contains(part), "{}", record.message);
    }
    assert_eq!((model.builds(), model.running.is_empty()), (vec![1], true));
    model.platforms.insert(0, Some(AMD));
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT], vec![1]));

    // Without a gate, the candidate is adopted in an ordinary cascade.
    model.platforms.insert(0, Some(ARM));
    model.spec.upstreams[0].approval = Approval::Automatic;
    model.settle();
    assert_eq!((model.builds(), base(&model, "app")), (vec![2], "arm-2".to_owned()));
}

#[test]
fn an_unknown_platform_changes_nothing() {
    let mut model = family(&[("web", AMD), ("edge", ARM)]);
    let before = model.status.upstreams.clone();
    model.platforms.insert(1, None);
    model.settle();
    assert_eq!(model.status.upstreams, before);
    assert_eq!(model.record("edge").reason, Reason::StrategyNotFound);
    // The others go on.
    point(&mut model, "index-2", &[(AMD, "amd-2"), (ARM, "arm-1")]);
    model.settle();
    assert_eq!(model.builds(), [2, 1]);
    model.platforms.insert(1, Some(ARM));
    model.settle();
    assert_eq!((model.builds(), model.states()), (vec![2, 1], vec![CURRENT; 2]));
}

#[test]
fn a_digest_that_lacks_a_platform_in_use_waits_and_one_that_never_had_it_does_not() {
    let mut model = family(&[("web", AMD), ("edge", ARM)]);
    point(&mut model, "index-2", &[(AMD, "amd-2")]);
    model.settle();
    assert_eq!(upstream(&model).known_reason(), Some(Reason::PlatformMissing));
    assert_eq!((model.builds(), model.states()), (vec![1, 1], vec![CURRENT; 2]));

    let mut model = family(&[("web", AMD), ("edge", "linux/s390x")]);
    let edge = model.record("edge");
    assert_eq!(
        (edge.reason.as_str(), model.builds()),
        (Reason::PlatformMissing.as_str(), vec![1, 0])
    );
    assert!(edge.message.contains("has no image for linux/s390x"), "{}", edge.message);
    point(&mut model, "index-2", &[(AMD, "amd-2"), (ARM, "arm-1")]);
    model.settle();
    assert_eq!(model.builds(), [2, 0]);
}

#[test]
fn records_of_earlier_versions_are_completed_in_place() {
    // Earlier versions recorded the digest of the index or that of one image.
    for recorded in ["index-1", "amd-1"] {
        let mut model = family(&[("app", AMD)]);
        model.spec.upstreams[0].approval = Approval::Manual;
        let digest = recorded.to_owned();
        let first_observed = model.now.checked_sub(SignedDuration::from_hours(99)).ok();
        let before = AdoptedDigest { digest, first_observed, ..AdoptedDigest::default() };
        model.status.upstreams[0].adopted = Some(before);
        model.settle();
        assert_eq!(upstream(&model).candidate, None, "{recorded}");
        assert_eq!(adopted(&model), ("index-1", vec!["amd-1"]), "{recorded}");
        let adopted = upstream(&model).adopted.as_ref().expect("one");
        assert_eq!(adopted.first_observed, first_observed);
    }
    for recorded in ["index-2", "amd-2"] {
        let mut model = family(&[("app", AMD)]);
        model.spec.upstreams[0].minimum_age = Duration::from_secs(7 * 24 * 3600);
        point(&mut model, "index-2", &[(AMD, "amd-2")]);
        let digest = recorded.to_owned();
        let first_observed = model.now.checked_sub(SignedDuration::from_hours(6 * 24)).ok();
        let candidate = CandidateDigest { digest, first_observed, ..CandidateDigest::default() };
        model.status.upstreams[0].candidate = Some(candidate);
        model.reconcile();
        let candidate = upstream(&model).candidate.as_ref().expect("one");
        assert_eq!(
            (candidate.digest.as_str(), candidate.first_observed),
            ("index-2", first_observed)
        );
        model.spec.upstreams[0].minimum_age = Duration::from_secs(0);
        model.spec.upstreams[0].approval = Approval::Manual;
        let fields = r#""action":"Approve","upstream":"up""#;
        model.ask(&format!(r#"{{"id":"1",{fields},"digest":"{recorded}"}}"#));
        model.settle();
        assert_eq!((base(&model, "app").as_str(), model.builds()), ("amd-2", vec![2]));
    }
}

#[test]
fn an_approval_and_a_hold_may_name_an_image_and_outlive_an_equal_index() {
    let mut model = family(&[("app", AMD)]);
    model.spec.upstreams[0].approval = Approval::Manual;
    model.spec.suspend = true;
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let image: &'static str = digest("a").leak();
    point(&mut model, "index-2", &[(AMD, image)]);
    model.settle();
    model.ask(&format!(r#"{{"id":"1","action":"Approve","upstream":"up","digest":"{image}"}}"#));
    model.settle();
    point(&mut model, "index-3", &[(AMD, image), (ARM, "arm-3")]);
    model.settle();
    model.spec.suspend = false;
    model.settle();
    assert_eq!((base(&model, "app").as_str(), adopted(&model).0), (image, "index-3"));

    for (held, expected) in [(image, "index-4"), ("index-3", "index-3")] {
        let mut model = family(&[("app", AMD)]);
        point(&mut model, "index-3", &[(AMD, image)]);
        let hold = Hold { digest: Some(held.into()), ..Hold::default() };
        model.spec.upstreams[0].hold = Some(hold);
        model.settle();
        point(&mut model, "index-4", &[(AMD, image), (ARM, "arm-4")]);
        model.settle();
        assert_eq!((base(&model, "app").as_str(), model.builds()), (image, vec![2]));
        assert_eq!(adopted(&model), (expected, vec![image]));
    }
}

#[test]
fn an_image_that_was_replaced_is_recognized_in_another_index() {
    let mut model = family(&[("app", AMD)]);
    point(&mut model, "index-2", &[(AMD, "amd-2"), (ARM, "arm-1")]);
    model.settle();
    assert_eq!(upstream(&model).superseded, ["index-1", "amd-1"]);
    point(&mut model, "index-3", &[(AMD, "amd-1"), (ARM, "arm-3")]);
    model.settle();
    assert_eq!(upstream(&model).known_reason(), Some(Reason::DigestReturned));
    assert_eq!(model.builds(), [2]);
    model.now += SignedDuration::from_hours(24);
    model.settle();
    assert_eq!((base(&model, "app").as_str(), upstream(&model).superseded.len()), ("amd-1", 0));
}

#[test]
fn gates_do_not_open_while_polls_fail() {
    let mut model = family(&[("app", AMD)]);
    for index in ["index-2", "index-1"] {
        let image = if index == "index-1" { "amd-1" } else { "amd-2" };
        point(&mut model, index, &[(AMD, image)]);
        model.settle();
    }
    model.confirmed_at = Some(model.now);
    model.now += SignedDuration::from_hours(25);
    let decision = model.reconcile();
    assert_eq!(decision.upstreams[0].known_reason(), Some(Reason::Resolving));
    assert_eq!(decision.wake_at, Some(model.now + SignedDuration::from_mins(1)));
    assert_eq!(base(&model, "app"), "amd-2");
    // The registry answers again. What its tag pointed to meanwhile is not known.
    model.confirmed_at = None;
    model.resumed_at = Some(model.now);
    let decision = model.reconcile();
    assert_eq!(decision.upstreams[0].known_reason(), Some(Reason::DigestReturned));
    assert_eq!(decision.wake_at, Some(model.now + SignedDuration::from_hours(24)));
    model.now += SignedDuration::from_hours(23);
    model.reconcile();
    assert_eq!(base(&model, "app"), "amd-2");
    model.now += SignedDuration::from_hours(1);
    model.settle();
    assert_eq!(base(&model, "app"), "amd-1");
}

#[test]
fn an_approval_that_was_not_used_does_not_lie_in_wait() {
    let digest = |c: &str| format!("sha256:{}", c.repeat(64));
    let mut model = family(&[("app", AMD)]);
    let images: Vec<&'static str> = ["a", "b", "c"].map(|c| &*digest(c).leak()).to_vec();
    for image in [0, 1, 0] {
        point(&mut model, images[image], &[]);
        model.settle();
    }
    model.spec.suspend = true;
    let asked = images[0];
    model.ask(&format!(r#"{{"id":"1","action":"Approve","upstream":"up","digest":"{asked}"}}"#));
    model.settle();
    assert!(upstream(&model).approval.is_some());
    point(&mut model, images[2], &[]);
    model.settle();
    assert_eq!(upstream(&model).approval, None);
    model.spec.suspend = false;
    model.settle();
    point(&mut model, images[0], &[]);
    model.settle();
    assert_eq!(upstream(&model).known_reason(), Some(Reason::DigestReturned));
    assert_eq!(base(&model, "app"), images[2]);
}
