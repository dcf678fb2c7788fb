//! Images that are built on images of other families.

use crate::{
    api::{Cause, CauseType, FamilyRef, ImageState, OnParentFailure, condition::Reason},
    engine::{
        ImportState, ImportedBuild, ObservedImport, Problem,
        tests::{CURRENT, model::FamilyModel},
    },
};

fn imported(digest: &str, state: ImportState) -> ObservedImport {
    let cause = Cause {
        type_: CauseType::Upstream,
        name: "alpine".into(),
        from: "sha256:a".into(),
        to: "sha256:b".into(),
        ..Cause::default()
    };
    let verified = ImportedBuild {
        digest: digest.into(),
        repository: "registry.example.com/base/left".into(),
        base_observed: None,
        causes: vec![cause],
        rolled_back_to: None,
    };
    ObservedImport { problem: None, verified: Some(verified), state }
}

/// `join` is built on `left` and `right` of the family `base`.
fn model() -> FamilyModel {
    let mut model = FamilyModel::new(&[], &[("join", "left right*"), ("app", "join")]);
    for edge in &mut model.spec.images[0].from {
        edge.family = Some(FamilyRef { namespace: Some("platform".into()), name: "base".into() });
    }
    model.imports = vec![
        imported("sha256:l0", ImportState::Settled),
        imported("sha256:r0", ImportState::Settled),
    ];
    model.settle();
    model
}

#[test]
fn a_join_over_two_families_is_built_once() {
    let mut model = model();
    assert_eq!((model.builds(), model.states()), (vec![1, 1], vec![CURRENT; 2]));
    model.imports[0].state = ImportState::InProgress;
    model.imports[1].state = ImportState::InProgress;
    model.settle();
    assert_eq!(model.record("join").reason, Reason::WaitingForParent);
    model.imports[0] = imported("sha256:l1", ImportState::Settled);
    model.settle();
    assert_eq!(model.builds(), [1, 1], "right is still in progress");
    model.imports[1] = imported("sha256:r1", ImportState::Settled);
    model.now += jiff::SignedDuration::from_secs(1);
    model.reconcile();
    model.reconcile();
    assert_eq!(model.builds(), [2, 1], "without a quiet time of its own");
    model.settle();
    assert_eq!((model.builds(), model.cascades.len()), (vec![2, 2], 2));
    let causes = &model.record("app").causes;
    let root = causes
        .iter()
        .find(|cause| cause.name == "alpine")
        .expect("the upstream of the other family");
    assert_eq!(root.via, ["platform/base.left", "join"]);
}

#[test]
fn a_family_that_never_rests_does_not_starve_its_dependents() {
    let mut model = model();
    for round in 1..5 {
        model.imports = vec![
            imported(&format!("sha256:l{round}"), ImportState::InProgress),
            imported(&format!("sha256:r{round}"), ImportState::InProgress),
        ];
        model.settle();
    }
    assert_eq!(model.builds(), [5, 5]);
}

#[test]
fn what_another_family_lost_or_withdrew_is_reported() {
    let mut model = model();
    model.imports[0].state = ImportState::Failed { by: "platform/base.left".into() };
    model.settle();
    assert_eq!(model.states(), [ImageState::Blocked; 2]);
    assert_eq!(model.record("app").message, "blocked by platform/base.left, which failed");
    model.spec.images[0].on_parent_failure = OnParentFailure::UseLastVerified;
    model.settle();
    assert_eq!((model.states(), model.builds()), (vec![CURRENT; 2], vec![1, 1]));
    let problem = Problem { reason: Reason::ImportRefused, message: "not exported".into() };
    model.imports[0] =
        ObservedImport { problem: Some(problem), ..imported("sha256:l0", ImportState::Settled) };
    model.settle();
    assert_eq!(model.record("join").reason, Reason::ImportRefused);
    assert_eq!(model.builds(), [1, 1]);
}
