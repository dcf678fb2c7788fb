//! Tests of what references and definitions mean: an edge is right, or it is listed.

use super::*;

/// Imports files, and returns what is listed, with the edges.
fn listed(files: &[(&str, &str)]) -> (Vec<String>, BTreeSet<(String, String)>) {
    let imported = import_tree(files, "");
    let findings = imported.findings.iter().map(ToString::to_string).collect();
    (findings, edges(&imported))
}

#[test]
fn the_dockerfile_of_a_refused_definition_is_not_imported_alone() {
    const ARG: &str = "ARG BASE=alpine:3\nFROM $BASE\n";
    for files in [
        vec![
            ("app/Dockerfile", ARG),
            (
                "ci/docker-bake.hcl",
                "target \"app\" {\n context = \".\"\n dockerfile = \"app/Dockerfile\"\n args = { \
                 BASE = \"debian:12\" }\n}\n",
            ),
        ],
        vec![
            ("docker/svc/Dockerfile", ARG),
            ("svc/x", ""),
            (
                "docker-bake.hcl",
                "target \"svc\" {\n  context = \"svc\"\n  dockerfile = \
                 \"../docker/svc/Dockerfile\"\n}\n",
            ),
        ],
        vec![
            ("app/Dockerfile", ARG),
            (
                "docker-bake.hcl",
                "target \"app\" {\n  context = \"app\"\n  tags = [upper(\"x\")]\n}\n",
            ),
        ],
        vec![
            ("web/Dockerfile", ARG),
            (
                "common.yaml",
                "services: {base: {build: {context: ./web, args: {BASE: 'debian:12'}}}}\n",
            ),
            ("compose.yaml", "services: {web: {extends: {file: common.yaml, service: base}}}\n"),
        ],
        vec![
            ("infra/db/Dockerfile", ARG),
            ("infra/stack.yaml", "services: {db: {build: {context: ./db}}}\n"),
            ("compose.yaml", "include: [infra/stack.yaml]\n"),
        ],
        vec![
            ("web/Dockerfile", ARG),
            ("compose.yaml", "services: {web: {image: 'a:${TAG}', build: ./web}}\n"),
        ],
    ] {
        let (findings, edges) = listed(&files);
        assert_eq!(edges, pairs(&[]), "{files:?}");
        assert_eq!(findings.len(), 1, "{files:?}: {findings:?}");
    }
}

#[test]
fn a_dockerfile_is_one_however_its_path_is_written() {
    let bake = "target \"lint\" {\n  dockerfile = \"./hack//lint.Dockerfile\"\n  args = { BASE = \
                \"debian:12\" }\n}\n";
    let files =
        [("docker-bake.hcl", bake), ("hack/lint.Dockerfile", "ARG BASE=alpine:3\nFROM $BASE\n")];
    let (findings, found) = listed(&files);
    assert_eq!(findings, Vec::<String>::new());
    assert_eq!(found, pairs(&[("lint", "docker.io/library/debian:12")]));
    let mapping = "images:\n- {dockerfile: ./hack/lint.Dockerfile, name: other}\n";
    let imported = import_tree(&files[1..], mapping);
    assert_eq!(edges(&imported), pairs(&[("other", "docker.io/library/alpine:3")]));
}

#[test]
fn a_reference_below_the_own_prefix_is_never_an_upstream_silently() {
    let files = [
        ("base/1.0/Dockerfile", "FROM debian:12\n"),
        ("base/2.0/Dockerfile", "FROM debian:13\n"),
        ("one/Dockerfile", "FROM registry.example.com/platform/base:1.0\n"),
        ("two/Dockerfile", "FROM registry.example.com/platform/base:1.0-slim\n"),
        ("three/Dockerfile", "FROM team/base:1.0\n"),
    ];
    let (findings, found) = listed(&files);
    assert_eq!(
        found,
        pairs(&[
            ("base-1-0", "docker.io/library/debian:12"),
            ("base-2-0", "docker.io/library/debian:13"),
            ("one", "base-1-0"),
        ])
    );
    assert!(findings[0].contains("three/Dockerfile: line 1: `team/base:1.0` may be"));
    assert!(findings[1].contains("two/Dockerfile: line 1: ") && findings[1].contains("is below"));
    let mapping = "external: ['registry.example.com/platform/base:1.0-slim', 'team/base']\n";
    assert_eq!(import_tree(&files, mapping).findings, []);
}

#[test]
fn the_name_of_an_official_image_alone_is_ambiguous() {
    let files = [
        ("alpine/Dockerfile", "FROM scratch\n"),
        ("base/Dockerfile", "FROM scratch\n"),
        ("node/Dockerfile", "FROM alpine\n"),
        ("app/Dockerfile", "FROM base\n"),
    ];
    let (findings, found) = listed(&files);
    assert_eq!(found, pairs(&[("app", "base")]));
    let [only] = findings.as_slice() else { panic!("{findings:?}") };
    assert!(only.contains("node/Dockerfile: line 1: `alpine` may be the image `alpine`"), "{only}");
    // The controller would take the name for the image of the family.
    let imported = import_tree(&files, "external: [alpine]\n");
    assert_eq!(imported.findings, []);
    let specs = specs(&imported);
    let images = specs.iter().flat_map(|(_, spec)| &spec.images);
    let node = images.clone().find(|image| image.name == "node").expect("node");
    assert_eq!(node.from[0].upstream.as_deref(), Some("alpine-x"));
    let local = import_tree(&files, "local: {alpine: alpine}\n");
    assert_eq!(edges(&local), pairs(&[("app", "base"), ("node", "alpine")]));
}

#[test]
fn tags_are_those_of_the_own_repository() {
    let bake = "target \"app\" {\n  tags = [\"ghcr.io/acme/app:edge\", \
                \"registry.example.com/platform/app:1\", \
                \"registry.example.com/platform/app-slim:7\"]\n}\n";
    let imported = import_tree(&[("Dockerfile", "FROM alpine:3\n"), ("docker-bake.hcl", bake)], "");
    assert_eq!(imported.findings, []);
    assert_eq!(imported.images[0].tags, ["1"]);
}

#[test]
fn two_images_with_one_tag_are_listed() {
    let compose = "services: {x: {image: 'registry.example.com/platform/web:1', build: ./b}}\n";
    let (findings, edges) = listed(&[
        ("one/b/Dockerfile", "FROM alpine:3\n"),
        ("one/compose.yaml", compose),
        ("two/b/Dockerfile", "FROM alpine:3\nRUN true\n"),
        ("two/compose.yaml", &compose.replace("{x:", "{y:")),
    ]);
    assert_eq!(edges, pairs(&[]));
    assert!(findings.iter().all(|one| one.contains("2 images are pushed as")), "{findings:?}");
    assert_eq!(findings.len(), 2, "{findings:?}");
}

#[test]
fn the_repository_is_not_guessed_from_a_name_alone() {
    let folder = tree(&[
        ("Dockerfile", "FROM alpine:3\n"),
        ("compose.yaml", "services: {web: {image: web, build: .}}\n"),
    ]);
    let arguments = arguments(&folder.path().join("src"), &[]);
    let error = import(&arguments, &ExistingManifests::default()).expect_err("no repository");
    assert!(error.to_string().contains("--repository"), "{error}");
}

#[test]
fn what_a_family_cannot_build_as_bake_does_is_listed() {
    let dockerfile = ("Dockerfile", "FROM alpine:3 AS base\nRUN true\nFROM base\n");
    for (text, problem) in [
        (
            "target \"app\" {\n  contexts = { base = \"docker-image://debian:12\" }\n}\n",
            "its context `base` replaces a stage",
        ),
        (
            "target \"app\" {\n context = \"app\"\n dockerfile-inline = \"FROM alpine:3\\nCOPY s \
             /src\\n\"\n}\n",
            "copies files of the context",
        ),
    ] {
        let (findings, edges) = listed(&[dockerfile, ("docker-bake.hcl", text)]);
        let found = findings.iter().any(|finding| finding.contains(problem));
        assert!(found && !edges.iter().any(|(image, _)| image == "app"), "{findings:?} {edges:?}");
    }
}

#[test]
fn files_that_are_not_read_are_listed() {
    let (findings, edges) = listed(&[
        ("web/Dockerfile", "FROM alpine:3.20\n"),
        ("compose.yaml", "services: {web: {build: ./web}}\n"),
        ("compose.override.yaml", "services: {web: {build: {args: {DEBUG: '1'}}}}\n"),
        ("json/Dockerfile", "FROM alpine:3.20\n"),
        ("docker-bake.json", "{\"target\": {\"a\": {\"context\": \"json\", \"args\": {}}}}"),
    ]);
    assert_eq!(edges, pairs(&[("web", "docker.io/library/alpine:3.20")]));
    assert!(findings[0].contains("compose.override.yaml: overrides are not merged"));
    assert!(findings[1].contains("docker-bake.json: Bake files in JSON are not read"));
}

#[test]
fn only_the_repository_itself_says_which_files_belong_to_it() {
    let folder = tree(&[
        ("repo/.gitignore", "build/\nout/\n"),
        ("repo/.ignore", "app/\n"),
        ("repo/app/Dockerfile", "FROM alpine:3\n"),
        ("repo/build/Dockerfile", "FROM alpine:3\n"),
        ("repo/out/Dockerfile", "FROM alpine:3\n"),
        (".gitignore", "*\n"),
    ]);
    let root = folder.path().join("src/repo");
    let repository = git2::Repository::init(&root).expect("a repository");
    let mut index = repository.index().expect("an index");
    index.add_path(Path::new("build/Dockerfile")).expect("a tracked file");
    index.write().expect("written");
    let arguments = arguments(&root, &["--repository", REPOSITORY]);
    let imported = import(&arguments, &ExistingManifests::default()).expect("an import");
    let names: Vec<_> = imported.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["app", "build"]);
}
