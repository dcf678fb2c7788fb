use std::{collections::BTreeSet, path::Path};

use groundswell::{
    api::{ImageState, Window},
    engine::Observed,
    lineage::UpstreamIndex,
};

use super::*;
use crate::input::{
    Estate,
    fixtures::{estate, layered_family},
};

fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().expect("a time")
}

/// Returns the names of the images that are built.
fn built(family: &EstateFamily, end: &DryRunEnd) -> BTreeSet<String> {
    let images = &family.family.spec.images;
    end.builds.iter().map(|build| images[build.image.position()].name.clone()).collect()
}

/// Plans a current family after a move of this upstream.
fn moved(family: &EstateFamily, upstream: usize) -> DryRunEnd {
    let nothing = AssumedDigests::default();
    let mut run = DryRun::new(family, &nothing, now());
    run.make_current();
    let mut assumed = AssumedDigests::default();
    let reference = family.family.spec.upstreams[upstream].reference();
    assumed.upstreams.insert(reference, digest_of("moved"));
    run.with_spec(family, &assumed).run()
}

fn example(name: &str) -> Estate {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("examples/{name}/family.yaml"));
    estate(&std::fs::read_to_string(path).expect("an example"))
}

#[test]
fn every_example_is_current_if_the_registry_has_all_builds() {
    for name in ["alpine-web", "diamond", "flask", "greeting", "groundswell", "versions"] {
        let estate = example(name);
        let family = &estate.families[0];
        let nothing = AssumedDigests::default();
        let mut run = DryRun::new(family, &nothing, now());
        run.make_current();
        let end = run.run();
        let states = end.last.images.iter().map(|image| image.state);
        assert!(states.clone().all(|state| state == ImageState::Current), "{name}: {states:?}");
        assert_eq!(built(family, &end), BTreeSet::new(), "{name}");
    }
}

#[test]
fn a_move_builds_the_descendants_of_the_upstream_and_nothing_else() {
    for text in [layered_family(60), layered_family(600)] {
        let estate = estate(&text);
        let family = &estate.families[0];
        for upstream in 0..2 {
            let lineage = &family.blueprint.lineage;
            let children = lineage.upstream_children(UpstreamIndex::new(upstream));
            let below = lineage.with_descendants(children.iter().copied());
            let images = family.family.spec.images.iter().zip(below);
            let expected: BTreeSet<String> = images
                .filter(|(_, is_below)| *is_below)
                .map(|(image, _)| image.name.clone())
                .collect();
            assert_eq!(built(family, &moved(family, upstream)), expected);
        }
    }
}

#[test]
fn the_source_of_an_image_is_that_of_its_newest_build_also_if_it_has_failed() {
    let recorded = |state: &str| {
        format!(
            "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {{name: shop}}
spec:
  repository: registry.example.com/shop
  upstreams: [{{name: debian, image: docker.io/library/debian}}]
  images:
  - {{name: app, from: [{{upstream: debian}}], source: {{configMap: {{name: app}}}}}}
status:
  upstreams: [{{name: debian, adopted: {{digest: 'sha256:d1'}}}}]
---
apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {{name: shop.app}}
spec: {{family: shop, image: app}}
status:
  state: {state}
  digest: sha256:a1
  build: 1
  fingerprint: f1
  inputs: {{parents: [{{name: debian, digest: 'sha256:d1'}}], source: s1, spec: s, strategy: s}}
  history:
  - {{build: 2, fingerprint: f2, message: failed,
     causes: [{{type: Source, name: app, from: s1, to: s2}}]}}
  - {{build: 1, fingerprint: f1, digest: 'sha256:a1', message: new}}
"
        )
    };
    let source = |state: &str| {
        let estate = estate(&recorded(state));
        let assumed = AssumedDigests::default();
        let run = DryRun::new(&estate.families[0], &assumed, now());
        run.input().images[0].source.clone()
    };
    assert_eq!(source("Failed"), Observed::Known("s2".to_owned()));
    assert_eq!(source("Current"), Observed::Known("s1".to_owned()));
}

#[test]
fn a_plan_waits_for_the_quiet_time_and_for_windows() {
    let mut estate = estate(&layered_family(3));
    let policy = &mut estate.families[0].family.spec.policy;
    policy.settle = groundswell::api::Duration::from_secs(30);
    let waited = |estate: &Estate| {
        let end = moved(&estate.families[0], 0);
        assert_eq!(built(&estate.families[0], &end).len(), 3);
        assert_eq!(end.opened.len(), 1, "{:?}", end.opened);
        let wait = end.builds[0].at.duration_since(now()).as_secs();
        (wait, end.opened[0].gates.join(", "))
    };
    assert_eq!(waited(&estate), (30, "the quiet time".into()));
    let window = Window {
        schedule: "0 22 * * *".into(),
        duration: groundswell::api::Duration::from_secs(3600),
        time_zone: "UTC".into(),
    };
    let family = &mut estate.families[0];
    family.family.spec.policy.windows = vec![window];
    family.blueprint =
        groundswell::engine::validate::validate(&family.family.spec).expect("a valid family");
    assert_eq!(waited(&estate), (10 * 3600, "a window".into()));
}

#[test]
fn an_edit_builds_what_it_changes_and_what_is_built_on_it() {
    let text = layered_family(60);
    let (before, after) = (
        estate(&text),
        text.replace(
            "runtime-003, from",
            "runtime-003, args: \
        {VERSION: '2'}, from",
        ),
    );
    let after = estate(&after);
    let (before, after) = (&before.families[0], &after.families[0]);
    let nothing = AssumedDigests::default();
    let mut run = DryRun::new(before, &nothing, now());
    run.make_current();
    let end = run.with_spec(after, &nothing).run();
    let names = built(after, &end);
    assert!(names.contains("runtime-003") && !names.contains("runtime-002"), "{names:?}");
    assert!(names.len() > 5, "{names:?}");
}

/// Returns a family of four images in a row, of which the third one has this field.
fn row(field: &str) -> Estate {
    let text = layered_family(1)
        + &format!(
            "  - {{name: one, from: [{{image: base-000}}]}}
  - {{name: two, from: [{{image: one}}]{field}}}
  - {{name: three, from: [{{image: two}}]}}
"
        );
    estate(&text)
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).into()).collect()
}

#[test]
fn neither_held_images_nor_what_is_built_on_them_are_built() {
    let estate = row(", hold: {reason: freeze}");
    let end = moved(&estate.families[0], 0);
    assert_eq!(built(&estate.families[0], &end), names(&["base-000", "one"]));
    let states: Vec<ImageState> = end.last.images.iter().map(|image| image.state).collect();
    let (current, held) = (ImageState::Current, ImageState::Held);
    assert_eq!(states, [current, current, held, current]);
    assert_eq!(end.cut_at, None);
}

#[test]
fn the_end_of_a_hold_is_a_gate() {
    let estate = row(", hold: {until: '2026-05-03T12:00:00Z'}");
    let end = moved(&estate.families[0], 0);
    assert_eq!(built(&estate.families[0], &end).len(), 4);
    let gates: Vec<&str> =
        end.opened.iter().flat_map(|one| &one.gates).map(String::as_str).collect();
    assert_eq!(gates, ["the quiet time", "the end of the hold of two", "the quiet time"]);
    let far = row(", hold: {until: '2029-05-03T12:00:00Z'}");
    let end = moved(&far.families[0], 0);
    assert_eq!(built(&far.families[0], &end), names(&["base-000", "one"]));
    assert_eq!(end.cut_at, now().checked_add(HORIZON).ok());
}

#[test]
fn images_start_in_the_order_of_their_levels_and_once() {
    let estate = estate(&layered_family(600));
    let family = &estate.families[0];
    let end = moved(family, 0);
    let mut builds: Vec<ImageIndex> = end.builds.iter().map(|build| build.image).collect();
    let levels: Vec<usize> =
        builds.iter().map(|image| family.blueprint.lineage.level(*image)).collect();
    assert!(levels.is_sorted(), "{levels:?}");
    builds.sort();
    builds.dedup();
    assert_eq!(builds.len(), end.builds.len());
    assert_eq!(end.new_digests.iter().flatten().count(), builds.len());
}

#[test]
fn a_suspended_family_builds_nothing() {
    let mut estate = row("");
    estate.families[0].family.spec.suspend = true;
    let end = moved(&estate.families[0], 0);
    assert_eq!(end.builds.len(), 0);
    assert!(end.last.pending.is_some() && end.cut_at.is_none());
}
