//! Families that begin with images that exist.

use crate::{
    api::{
        Adoption, CauseType, FailureClass, ImageFamilyStatus, ImageState, Promotion, Unmatched,
        condition::Reason,
    },
    engine::{
        tests::{CURRENT, model::FamilyModel},
        *,
    },
};

/// A chain `base`, `app` whose tags point to images that others have pushed. `mismatches` says what
/// is wrong with each of them.
fn existing(mismatches: [Option<&str>; 2], unmatched: Unmatched) -> FamilyModel {
    let mut model = FamilyModel::new(&["up"], &[("base", "up"), ("app", "base")]);
    model.spec.adopt = Some(Adoption { unmatched });
    for (image, mismatch) in mismatches.into_iter().enumerate() {
        let digest = format!("sha256:existing-{image}");
        model.tags.insert((image, "latest".into()), digest.clone());
        let found = FoundImage {
            digest: digest.into(),
            size: 1,
            content: Some(format!("content-{image}").into()),
            blobs: None,
        };
        let existing = ExistingImage {
            tags: [].into(),
            found: Some(found),
            mismatch: mismatch.map(str::to_owned),
            lost_platforms: Vec::new(),
            last_build: None,
            read_at: model.now,
            ask_at: model.now,
        };
        model.existing.insert(image, existing);
    }
    model
}

/// Every tag with what it points to, sorted.
fn tags(model: &FamilyModel) -> Vec<String> {
    let mut tags: Vec<String> =
        model.tags.iter().map(|((image, tag), digest)| format!("{image}:{tag} {digest}")).collect();
    tags.sort();
    tags
}

const UNTOUCHED: [&str; 2] = ["0:latest sha256:existing-0", "1:latest sha256:existing-1"];

#[test]
fn images_that_exist_are_adopted_without_a_build_and_the_next_cascade_is_an_ordinary_one() {
    let mut model = existing([None, None], Unmatched::Wait);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![0, 0]));
    assert_eq!((tags(&model), model.cascades.len()), (UNTOUCHED.map(str::to_owned).into(), 0));
    let base = model.record("base");
    assert_eq!(base.digest.as_deref(), Some("sha256:existing-0"));
    assert_eq!((base.promoted.clone(), base.reason.as_str()), (base.digest.clone(), "Current"));
    assert!(base.adopted.as_ref().is_some_and(|adopted| adopted.at == Some(model.now)));

    // The records are lost. Nothing else has changed, so that the same is adopted again.
    model.records = vec![None; 2];
    model.status = ImageFamilyStatus::default();
    model.asked.clear();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![0, 0]));

    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![1, 1]));
    assert_eq!(model.cascades.len(), 1);
    let base = model.record("base");
    assert_eq!((base.adopted.clone(), base.build), (None, Some(1)));
    assert_eq!(base.causes[0].type_, CauseType::Upstream);
    assert_eq!(
        tags(&model),
        [
            "0:latest sha256:built-1",
            "0:r1 sha256:built-1",
            "1:latest sha256:built-2",
            "1:r1 sha256:built-2"
        ]
    );
}

#[test]
fn an_image_on_another_base_stays_until_a_user_or_its_base_says_otherwise() {
    let mut model = existing([Some("it is built on another base"), None], Unmatched::Wait);
    model.settle();
    assert_eq!(model.states(), [ImageState::Held, CURRENT]);
    assert_eq!((tags(&model), model.builds()), (UNTOUCHED.map(str::to_owned).into(), vec![0, 0]));
    let base = model.record("base");
    assert_eq!(base.reason, Reason::NotAdopted);
    assert!(base.message.starts_with("it is built on another base; "), "{}", base.message);
    let mut moved = existing([Some("it is built on another base"), None], Unmatched::Wait);
    moved.settle();
    moved.upstream_digests[0] = "sha256:up-1".into();
    moved.settle();
    assert_eq!((moved.states(), moved.builds()), (vec![CURRENT; 2], vec![1, 1]));
    assert_eq!(moved.record("base").causes[0].type_, CauseType::Upstream);

    model.ask(r#"{"id":"1","action":"Force","image":"base"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![1, 1]));
}

#[test]
fn an_image_on_another_base_is_built_if_the_family_says_so() {
    let mut model = existing([Some("it is built on another base"), None], Unmatched::Build);
    model.settle();
    assert_eq!((model.states(), model.builds()[0]), (vec![CURRENT; 2], 1));

    // The family changes its mind, or wants to adopt no more.
    for adopt in [Some(Adoption { unmatched: Unmatched::Build }), None] {
        let mut model = existing([Some("it is built on another base"), None], Unmatched::Wait);
        model.settle();
        model.spec.adopt = adopt;
        model.settle();
        assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![1, 1]));
    }
}

#[test]
fn an_image_that_does_not_exist_waits_for_a_user() {
    let mut model = existing([Some("it has no tag"), None], Unmatched::Wait);
    let found = model.existing.get_mut(&0).expect("base").found.take();
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![ImageState::Waiting; 2], vec![0, 0]));
    assert_eq!(model.record("base").reason, Reason::NotAdopted);
    // Somebody pushes it.
    let base = model.existing.get_mut(&0).expect("base");
    (base.found, base.mismatch) = (found, None);
    model.now += jiff::SignedDuration::from_mins(20);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![0, 0]));

    let mut model = existing([Some("it has no tag"), None], Unmatched::Build);
    model.existing.get_mut(&0).expect("base").found = None;
    model.settle();
    assert_eq!((model.states(), model.builds()[0]), (vec![CURRENT; 2], 1));
}

#[test]
fn without_adoption_and_with_a_build_nothing_is_adopted() {
    let mut model = existing([None, None], Unmatched::Wait);
    model.spec.adopt = None;
    model.settle();
    assert_eq!(model.builds(), [1, 1]);
    model.spec.adopt = Some(Adoption::default());
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.builds(), [2, 2], "what is built once is never adopted");
}

#[test]
fn an_adopted_digest_does_not_stand_for_a_rebuild_with_the_same_content() {
    let mut model = existing([None, None], Unmatched::Wait);
    model.settle();
    model.content.insert(0, "content-0".into());
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    assert_eq!(model.record("base").digest.as_deref(), Some("sha256:built-1"));
    assert!(!model.record("base").history[0].spared);
}

/// Pushes another image under the tag of an image. `mismatch` says what is wrong with it.
fn push(model: &mut FamilyModel, image: usize, digest: &str, mismatch: Option<&str>) {
    model.tags.insert((image, "latest".into()), digest.into());
    let existing = model.existing.get_mut(&image).expect("an image");
    existing.found.as_mut().expect("an image").digest = digest.into();
    existing.mismatch = mismatch.map(str::to_owned);
}

#[test]
fn a_tag_that_moves_after_the_adoption_is_never_moved_back() {
    let newer = ["0:latest sha256:newer-0", "1:latest sha256:newer-1"];
    for suspend in [true, false] {
        let mut model = existing([None, None], Unmatched::Wait);
        model.spec.suspend = suspend;
        model.settle();
        push(&mut model, 0, "sha256:newer-0", None);
        push(&mut model, 1, "sha256:newer-1", None);
        model.settle();
        model.spec.suspend = false;
        model.settle();
        assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![0, 0]), "{suspend}");
        assert_eq!(tags(&model), newer, "{suspend}");
        for (image, digest) in [("base", "sha256:newer-0"), ("app", "sha256:newer-1")] {
            let record = model.record(image);
            assert_eq!(record.digest.as_deref(), Some(digest), "{suspend}");
            assert_eq!(record.promoted.as_deref(), Some(digest), "{suspend}");
            let adopted = record.adopted.as_ref().expect("adopted");
            assert_eq!(adopted.digest, digest);
        }
    }
}

#[test]
fn a_child_of_an_image_that_is_adopted_again_is_built_if_it_was_not_pushed_on_it() {
    let mut model = existing([None, None], Unmatched::Wait);
    model.settle();
    push(&mut model, 0, "sha256:newer-0", None);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![0, 1]));
    let mut model = existing([None, None], Unmatched::Wait);
    model.settle();
    push(&mut model, 0, "sha256:newer-0", None);
    push(&mut model, 1, "sha256:newer-1", Some("it is built on another base"));
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![0, 1]));
}

#[test]
fn an_image_that_moves_to_what_cannot_be_adopted_says_so_and_is_read_again() {
    let mut model = existing([None, None], Unmatched::Wait);
    model.settle();
    // Its tags point to different images.
    let base = model.existing.get_mut(&0).expect("base");
    let found = base.found.take();
    base.mismatch = Some("its tags point to different images".into());
    model.tags.insert((0, "latest".into()), "sha256:newer-0".into());
    model.settle();
    let base = model.record("base");
    assert_eq!((base.state, base.reason.as_str()), (ImageState::Held, Reason::NotAdopted.as_str()));
    assert!(base.message.starts_with("its tags point to different images; "), "{}", base.message);
    assert_eq!(base.digest.as_deref(), Some("sha256:existing-0"));
    let moved = ["0:latest sha256:newer-0", "1:latest sha256:existing-1"];
    assert_eq!((tags(&model), model.builds()), (moved.map(str::to_owned).into(), vec![0, 0]));

    // Another one that does not match, and then one that does.
    model.existing.get_mut(&0).expect("base").found = found;
    push(&mut model, 0, "sha256:newer-1", Some("it is built on another base"));
    model.now += jiff::SignedDuration::from_mins(20);
    model.settle();
    let base = model.record("base");
    assert_eq!((base.state, base.digest.as_deref()), (ImageState::Held, Some("sha256:newer-1")));
    push(&mut model, 0, "sha256:newer-2", None);
    model.settle();
    let base = model.record("base");
    assert_eq!((base.state, base.digest.as_deref()), (CURRENT, Some("sha256:newer-2")));
    assert_eq!(model.tags[&(0, "latest".to_owned())], "sha256:newer-2");
    assert_eq!(model.builds()[0], 0);
}

#[test]
fn a_family_that_adopts_no_more_leaves_a_tag_that_moves_alone() {
    let mut model = existing([None, None], Unmatched::Wait);
    model.settle();
    model.spec.adopt = None;
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![0, 0]));
    push(&mut model, 1, "sha256:newer-1", None);
    model.settle();
    let app = model.record("app");
    assert_eq!((app.state, app.reason.as_str()), (ImageState::Held, Reason::NotAdopted.as_str()));
    assert!(app.message.starts_with("its tag latest points to "), "{}", app.message);
    assert_eq!(model.tags[&(1, "latest".to_owned())], "sha256:newer-1");
    assert_eq!(model.builds(), [0, 0]);
}

#[test]
fn no_tag_is_moved_to_an_adopted_digest_while_a_cascade_is_incomplete() {
    let mut model = existing([None, None], Unmatched::Wait);
    model.spec.policy.promotion = Promotion::Cascade;
    model.failing.insert(1, FailureClass::Input);
    model.settle();
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    let base = model.record("base");
    assert_eq!(base.digest.as_deref(), Some("sha256:built-1"));
    assert_eq!(base.promoted.as_deref(), Some("sha256:existing-0"));
    model.tags.insert((0, "latest".into()), "sha256:newer-0".into());
    model.settle();
    assert_eq!(model.tags[&(0, "latest".to_owned())], "sha256:newer-0");
    model.failing.clear();
    model.upstream_digests[0] = "sha256:up-2".into();
    model.settle();
    assert_eq!(model.states(), [CURRENT; 2]);
    assert_eq!(model.tags[&(0, "latest".to_owned())], "sha256:built-2");
    assert_eq!(model.record("base").adopted, None);
}

#[test]
fn an_image_stays_whose_platforms_a_rebuild_would_take_away() {
    let mismatch = Some("it has images for linux/arm64");
    let mut model = existing([None, mismatch], Unmatched::Wait);
    model.existing.get_mut(&1).expect("app").lost_platforms = vec!["linux/arm64".into()];
    model.settle();
    assert_eq!(model.states(), [CURRENT, ImageState::Held]);
    assert_eq!(model.record("app").reason, Reason::NotAdopted);
    model.upstream_digests[0] = "sha256:up-1".into();
    model.settle();
    model.source = Observed::Known("another source".into());
    model.settle();
    assert_eq!(model.states(), [CURRENT, ImageState::Held]);
    assert_eq!(model.builds(), [2, 0]);
    assert_eq!(model.tags[&(1, "latest".to_owned())], UNTOUCHED[1].trim_start_matches("1:latest "));
    let adopted = model.record("app").adopted.clone().expect("adopted");
    assert_eq!(adopted.platforms, ["linux/arm64"]);

    // Somebody pushes one without them, built on the base as it is now.
    let mut pushed = existing([None, mismatch], Unmatched::Wait);
    pushed.existing.get_mut(&1).expect("app").lost_platforms = vec!["linux/arm64".into()];
    pushed.settle();
    pushed.existing.get_mut(&1).expect("app").lost_platforms.clear();
    push(&mut pushed, 1, "sha256:newer-1", None);
    pushed.settle();
    assert_eq!((pushed.states(), pushed.builds()), (vec![CURRENT; 2], vec![0, 0]));

    model.ask(r#"{"id":"1","action":"Force","image":"app"}"#);
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![2, 1]));
    let mut built = existing([None, mismatch], Unmatched::Build);
    built.existing.get_mut(&1).expect("app").lost_platforms = vec!["linux/arm64".into()];
    built.settle();
    assert_eq!((built.states(), built.builds()), (vec![CURRENT; 2], vec![0, 1]));
}
