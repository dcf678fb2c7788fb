use std::path::Path;

use groundswell::api::{Edge, Upstream};

use super::*;

const FAMILY: &str = "apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: f}
spec:
  repository: registry.example.com/f
  upstreams:
  - {name: alpine, image: docker.io/library/alpine}
  images:
  - name: base
    from: [{upstream: alpine}]
    source: {inline: FROM docker.io/library/alpine}
";

/// Reads files with these texts, in a folder.
fn read(texts: &[(&str, &str)]) -> Estate {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in texts {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    let read = files::read_all(&[folder.path().to_owned()], files::Depth::Single).expect("read");
    let mut estate = Estate::of_files(&read, "default");
    for problem in &mut estate.problems {
        let place = problem.place.split('/').next_back().unwrap_or_default();
        problem.place = place.to_owned();
    }
    estate
}

fn problems(texts: &[(&str, &str)]) -> Vec<String> {
    read(texts).problems.iter().map(ToString::to_string).collect()
}

#[test]
fn a_family_is_expanded_and_gets_what_is_recorded_of_it() {
    let records = "apiVersion: v1
kind: List
items:
- apiVersion: groundswell.dev/v1alpha1
  kind: ManagedImage
  metadata: {name: f.base}
  spec: {family: f, image: base}
  status: {state: Current}
- apiVersion: groundswell.dev/v1alpha1
  kind: Cascade
  metadata: {name: f-2}
  spec: {family: f}
- apiVersion: groundswell.dev/v1alpha1
  kind: Cascade
  metadata: {name: other-1}
  spec: {family: other}
";
    let matrix = FAMILY.replace("base\n", "base\n    matrix: {version: ['1', '2']}\n");
    let estate = read(&[("a.yaml", &matrix), ("b.yaml", records), ("c.yaml", "kind: Secret\n")]);
    assert_eq!(estate.problems, []);
    let [family] = estate.families.as_slice() else { panic!("one family") };
    assert_eq!(family.name.to_string(), "default/f");
    let names: Vec<&str> =
        family.family.spec.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["base-1", "base-2"]);
    assert!(family.images.contains_key("base"));
    assert_eq!(family.cascades.len(), 1);
}

/// The API server accepts such a manifest.
#[test]
fn a_field_that_is_null_is_absent() {
    let text = FAMILY.replace("spec:\n", "spec:\n  suspend: null\n  policy:\n");
    let estate = read(&[("f.yaml", &text)]);
    assert_eq!(estate.problems, []);
    assert_eq!(estate.families.len(), 1);
}

#[test]
fn the_problems_of_all_files_are_found_at_once_with_their_places() {
    let typo = FAMILY.replace("from:", "form:").replace("alpine}]", "alpin}]");
    let unknown =
        FAMILY.replace("name: f", "name: g").replace("upstream: alpine", "image: missing");
    let found = problems(&[
        ("a.yaml", &typo),
        ("b.yaml", "apiVersion: groundswell.dev/v1alpha1\nkind: [\n"),
        ("c.yaml", &unknown),
        ("d.yaml", "{{ a template }}: ["),
    ]);
    assert_eq!(
        found[0],
        "a.yaml:10:5: spec.images[base].form: there is no such field; correct or \
                          remove it"
    );
    assert!(found[1].starts_with("b.yaml:") && found[1].contains("this is not YAML"), "{found:?}");
    assert_eq!(
        found[2],
        "c.yaml:4:1: spec.images[base].from names the image `missing`, which the family does not \
         have; correct the name or add it"
    );
    assert_eq!(found.len(), 3, "a template of something else is skipped: {found:?}");
}

#[test]
fn a_misspelt_kind_version_or_label_is_a_problem_and_no_other_object() {
    let found = problems(&[
        ("a.yaml", &FAMILY.replace("kind: ImageFamily", "kind: ImageFamilly")),
        ("b.yaml", &FAMILY.replace("v1alpha1", "v9").replace("name: f", "name: b")),
        ("c.yaml", &FAMILY.replace("{name: f}", "{name: c, lables: {team: web}}")),
        ("d.yaml", &FAMILY.replace("spec:", "statuss: {}\nspec:").replace("name: f", "name: d")),
        ("e.yaml", "apiVersion: groundswell.dev/v1alpha1\nmetadata: {name: e}\n"),
        ("f.yaml", "apiVersion: groundswell.dev/v1alpha1\nkind: BuildStrategy\n"),
        ("g.yaml", &FAMILY.replace("groundswell.dev/v1alpha1", "groundswell.dev")),
    ]);
    let expected = [
        "a.yaml:2:1: groundswell.dev has no kind `ImageFamilly`",
        "b.yaml:1:1: the only version of groundswell.dev is v1alpha1",
        "c.yaml:3:21: metadata.lables: there is no such field",
        "d.yaml:4:1: statuss: there is no such field",
        "e.yaml:1:1: groundswell.dev has no kind ``",
        "g.yaml:1:1: the only version of groundswell.dev is v1alpha1",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{expected}: {found}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn a_family_is_in_one_place() {
    let found = problems(&[("a.yaml", FAMILY), ("b.yaml", FAMILY)]);
    let [one] = found.as_slice() else { panic!("one problem: {found:?}") };
    assert!(one.starts_with("b.yaml:1:1: ImageFamily default/f is in "), "{one}");
}

#[test]
fn an_image_that_cannot_be_expanded_has_the_place_of_its_entry() {
    let wrong = FAMILY.replace("    source: {inline: FROM docker.io/library/alpine}\n", "");
    let found = problems(&[("a.yaml", &wrong)]);
    assert!(
        found[0].starts_with("a.yaml:9:5: spec.images[base].source: set `inline`"),
        "{found:?}"
    );
}

#[test]
fn odd_texts_never_panic() {
    let deep = "[".repeat(10_000);
    let bomb: String = (0..30).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".into(), |text, level| {
        let next = level + 1;
        text + &format!("a{next}: &a{next} [*a{level},*a{level},*a{level},*a{level}]\n")
    });
    for text in [
        "",
        "---\n---\n",
        "just text",
        "- 1\n- 2\n",
        "kind: List\nitems: 5\n",
        "kind: ImageFamily\napiVersion: groundswell.dev/v1alpha1\n",
        "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamilyList\nitems: [1, {kind: List}]\n",
        "apiVersion: groundswell.dev/v1alpha1\nkind: ManagedImage\nspec: 5\n",
        &deep,
        &bomb,
    ] {
        let file = files::InputFile { name: "x".into(), text: text.into(), named: true };
        let manifest = manifests::ParsedFile::parse(&file);
        assert!(manifest.families.is_empty(), "{text}");
    }
}

#[test]
fn every_example_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let read = files::read_all(&[examples], files::Depth::Recursive).expect("the examples");
    let estate = Estate::of_files(&read, "default");
    assert_eq!(estate.problems, []);
    assert!(estate.families.len() >= 5, "{}", estate.families.len());
}

#[test]
fn edges_of_dockerfiles_are_those_that_are_recorded() {
    let family = FAMILY.replace("from: [{upstream: alpine}]", "edges: Dockerfile");
    let record = "apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {name: f.base}
spec: {family: f, image: base}
status:
  edges:
  - {reference: 'docker.io/library/alpine:latest', use: Base, upstream: alpine}
  - {reference: 'localhost:5000/go:1.26@sha256:0', use: BuildStage, upstream: go}
";
    let estate = read(&[("a.yaml", &family), ("b.yaml", record)]);
    assert_eq!(estate.problems, []);
    let spec = &estate.families[0].family.spec;
    let references: Vec<String> = spec.upstreams.iter().map(Upstream::reference).collect();
    assert_eq!(references, ["docker.io/library/alpine:latest", "localhost:5000/go:1.26"]);
    let parents: Vec<&str> = spec.images[0].from.iter().map(Edge::parent).collect();
    assert_eq!(parents, ["alpine", "go"]);

    let estate = read(&[("a.yaml", &family)]);
    let family_read = &estate.families[0];
    let parents: Vec<&str> =
        family_read.family.spec.images[0].from.iter().map(Edge::parent).collect();
    assert_eq!(parents, ["alpine"], "an inline Dockerfile");
    assert!(family_read.unknown_edges.is_empty());

    let git = "{git: {url: 'https://r.example/a', revision: main}}";
    let estate =
        read(&[("a.yaml", &family.replace("{inline: FROM docker.io/library/alpine}", git))]);
    assert_eq!(estate.families[0].family.spec.images[0].from, []);
    assert_eq!(estate.families[0].unknown_edges, BTreeSet::from(["base".to_owned()]));
}
