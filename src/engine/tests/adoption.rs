//! Families that begin with images that exist.

use crate::{
    api::{Adoption, CauseType, ImageFamilyStatus, ImageState, Unmatched, condition::reason},
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
            found: Some(found),
            mismatch: mismatch.map(str::to_owned),
            last_build: None,
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
    assert_eq!(base.reason, reason::NOT_ADOPTED);
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
    assert_eq!(model.record("base").reason, reason::NOT_ADOPTED);
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
