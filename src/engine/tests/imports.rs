//! Images that stand on images of other families.

use crate::{
    api::{Cause, CauseType, FamilyRef, ImageState, OnParentFailure, condition::reason},
    engine::{
        ImportState, ImportedBuild, ObservedImport, Problem,
        tests::{CURRENT, world::World},
    },
};

fn imported(digest: &str, state: ImportState) -> ObservedImport {
    let cause = Cause {
        type_: CauseType::Upstream,
        name: "alpine".into(),
        from: "sha256:a".into(),
        to: "sha256:b".into(),
        via: vec![],
    };
    let verified = ImportedBuild {
        digest: digest.into(),
        repository: "registry.example.com/base/left".into(),
        base_seen: None,
        causes: vec![cause],
    };
    ObservedImport { problem: None, verified: Some(verified), state }
}

/// `join` stands on `left` and `right` of the family `base`.
fn world() -> World {
    let mut world = World::new(&[], &[("join", "left right*"), ("app", "join")]);
    for edge in &mut world.spec.images[0].from {
        edge.family = Some(FamilyRef { namespace: Some("platform".into()), name: "base".into() });
    }
    world.imports = vec![
        imported("sha256:l0", ImportState::Settled),
        imported("sha256:r0", ImportState::Settled),
    ];
    world.settle();
    world
}

#[test]
fn a_join_over_two_families_is_built_once() {
    let mut world = world();
    assert_eq!((world.builds(), world.states()), (vec![1, 1], vec![CURRENT; 2]));
    world.imports[0].state = ImportState::InProgress;
    world.imports[1].state = ImportState::InProgress;
    world.settle();
    assert_eq!(world.record("join").reason, reason::WAITING_FOR_PARENT);
    world.imports[0] = imported("sha256:l1", ImportState::Settled);
    world.settle();
    assert_eq!(world.builds(), [1, 1], "right is still on its way");
    world.imports[1] = imported("sha256:r1", ImportState::Settled);
    world.now += jiff::SignedDuration::from_secs(1);
    world.pass();
    world.pass();
    assert_eq!(world.builds(), [2, 1], "without a quiet time of its own");
    world.settle();
    assert_eq!((world.builds(), world.cascades.len()), (vec![2, 2], 2));
    let causes = &world.record("app").causes;
    let root = causes.iter().find(|cause| cause.name == "alpine").expect(
        "the upstream of the \
        other family",
    );
    assert_eq!(root.via, ["platform/base.left", "join"]);
}

#[test]
fn a_family_that_never_rests_does_not_starve_those_that_stand_on_it() {
    let mut world = world();
    for round in 1..5 {
        world.imports = vec![
            imported(&format!("sha256:l{round}"), ImportState::InProgress),
            imported(&format!("sha256:r{round}"), ImportState::InProgress),
        ];
        world.settle();
    }
    assert_eq!(world.builds(), [5, 5]);
}

#[test]
fn what_another_family_lost_or_withdrew_is_told() {
    let mut world = world();
    world.imports[0].state = ImportState::Failed { by: "platform/base.left".into() };
    world.settle();
    assert_eq!(world.states(), [ImageState::Blocked; 2]);
    assert_eq!(world.record("app").message, "blocked by platform/base.left, which failed");
    world.spec.images[0].on_parent_failure = OnParentFailure::UseLastGood;
    world.settle();
    assert_eq!((world.states(), world.builds()), (vec![CURRENT; 2], vec![1, 1]));
    let problem = Problem { reason: reason::IMPORT_REFUSED, message: "not exported".into() };
    world.imports[0] =
        ObservedImport { problem: Some(problem), ..imported("sha256:l0", ImportState::Settled) };
    world.settle();
    assert_eq!(world.record("join").reason, reason::IMPORT_REFUSED);
    assert_eq!(world.builds(), [1, 1]);
}
