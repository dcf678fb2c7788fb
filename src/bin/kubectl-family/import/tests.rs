//! Tests of the whole import: generated trees whose edges are known, and updates of manifests.

use std::{collections::BTreeSet, fs, path::Path};

use clap::Parser;
use groundswell::{
    api::{ImageFamily, ImageFamilySpec},
    engine::{expansion::expand, validate::validate},
};

use super::{existing::ExistingManifests, references::EdgeParent, *};

#[path = "../../../../tests/support/monorepo.rs"]
mod monorepo;

use monorepo::{Monorepo, REPOSITORY};

#[path = "resolution_tests.rs"]
mod resolution;
#[path = "update_tests.rs"]
mod updates;

#[derive(Parser, Debug)]
struct ImportLine {
    #[command(flatten)]
    arguments: ImportArguments,
}

fn arguments(root: &Path, more: &[&str]) -> ImportArguments {
    let root = root.to_str().expect("a path");
    let line = ["import", root, "--git-url", "https://git.example.com/images.git"];
    ImportLine::parse_from(line.iter().chain(more)).arguments
}

/// A tree of these files, which are pairs of a path and a text.
fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (path, text) in files {
        let path = folder.path().join("src").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("written");
    }
    folder
}

fn import_tree(files: &[(&str, &str)], mapping: &str) -> ImportedTree {
    let folder = tree(files);
    let mapping_file = folder.path().join("mapping.yaml");
    fs::write(&mapping_file, mapping).expect("written");
    let options = ["--repository", REPOSITORY, "--mapping", mapping_file.to_str().expect("a path")];
    let arguments = arguments(&folder.path().join("src"), &options);
    import(&arguments, &ExistingManifests::default()).expect("an import")
}

fn edges(imported: &ImportedTree) -> BTreeSet<(String, String)> {
    let name = |parent: &EdgeParent| match parent {
        EdgeParent::Image(position) => imported.images[*position].name.clone(),
        EdgeParent::Upstream(reference) => reference.clone(),
    };
    let of_image = |image: &ImportedImage| {
        let child = image.name.clone();
        let edges = image.edges.iter().map(move |edge| (child.clone(), name(&edge.parent)));
        edges.collect::<Vec<_>>()
    };
    imported.images.iter().flat_map(of_image).collect()
}

fn pairs(edges: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    edges.iter().map(|(child, parent)| ((*child).to_owned(), (*parent).to_owned())).collect()
}

/// The specs of what is written, as the controller reads it.
fn specs(imported: &ImportedTree) -> Vec<(String, ImageFamilySpec)> {
    let spec = |manifest: &FamilyManifest| {
        let text = manifest.text().expect("a text");
        let family: ImageFamily = serde_yaml::from_str(&text).expect("a family");
        (manifest.name.clone(), family.spec)
    };
    imported.manifests.iter().map(spec).collect()
}

#[test]
fn generated_trees_are_imported_with_all_edges_and_no_other() {
    for dockerfiles in [10, 100, 2000] {
        let expected = Monorepo::generate(dockerfiles);
        let folder = tempfile::tempdir().expect("a folder");
        expected.write(folder.path());
        let arguments = arguments(folder.path(), &["--repository", REPOSITORY]);
        let imported = import(&arguments, &ExistingManifests::default()).expect("an import");
        assert_eq!(imported.findings, [], "{dockerfiles}");
        assert_eq!(edges(&imported), expected.edges, "{dockerfiles}");
        let mut names = BTreeSet::new();
        let mut entries = 0;
        for (family, spec) in specs(&imported) {
            entries += spec.images.len();
            let spec = expand(spec);
            assert_eq!(spec.left_out, [], "{family}");
            let blueprint =
                validate(&spec).unwrap_or_else(|problem| panic!("{family}: {problem:?}"));
            assert!(blueprint.images.iter().all(|image| image.problem.is_none()), "{family}");
            names.extend(spec.images.into_iter().map(|image| image.name));
        }
        assert_eq!(names, expected.images, "{dockerfiles}");
        assert!(entries < names.len(), "the versions of a runtime are one entry");
    }
}

#[test]
fn edges_to_another_family_are_declared_and_exported() {
    let imported = import_tree(
        &[
            ("platform/base/Dockerfile", "FROM alpine:3.20\n"),
            (
                "shop/app/Dockerfile",
                "FROM registry.example.com/platform/base:1.2@sha256:e3b0c44298fc1c149afbf4c8996fb9\
                 2427ae41e4649b934ca495991b7852b855\n",
            ),
        ],
        "images:\n- {dockerfile: platform/base/Dockerfile, family: platform, tags: ['1.2']}\n\
         - {dockerfile: shop/app/Dockerfile, family: shop}\n",
    );
    assert_eq!(imported.findings, []);
    let specs = specs(&imported);
    let [(_, platform), (_, shop)] = specs.as_slice() else { panic!("{specs:?}") };
    assert_eq!(platform.exports[0].image, "base");
    assert_eq!(platform.images[0].tags, ["1.2"]);
    let edge = &shop.images[0].from[0];
    assert_eq!(edge.family.as_ref().map(|family| family.name.as_str()), Some("platform"));
    assert_eq!(edge.reference.as_deref(), Some("registry.example.com/platform/base:1.2"));
}

#[test]
fn what_cannot_be_resolved_is_listed_with_what_is_built_on_it() {
    let imported = import_tree(
        &[
            ("base/Dockerfile", "ARG X\nFROM ${X}\n"),
            ("mid/Dockerfile", "FROM base\n"),
            ("app/Dockerfile", "FROM team/tools:1\n"),
            ("tools/Dockerfile", "FROM alpine\n"),
            ("a/Dockerfile", "FROM b\n"),
            ("b/Dockerfile", "FROM a\n"),
            ("many/Dockerfile", "FROM alpine\n"),
            ("one/Dockerfile", "FROM registry.example.com/platform/many:1\n"),
            ("two/Dockerfile", "FROM registry.example.com/platform/many:2\n"),
            ("with space/Dockerfile", "FROM alpine\n"),
            ("copy/Dockerfile", "FROM alpine AS x\nCOPY --from=9 /a /a\n"),
        ],
        "",
    );
    let names: Vec<_> = imported.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, ["mid", "tools"]);
    // Without the image, `base` is a name like any other.
    assert_eq!(
        edges(&imported),
        pairs(&[
            ("mid", "docker.io/library/base:latest"),
            ("tools", "docker.io/library/alpine:latest")
        ])
    );
    for (place, problem) in [
        ("base/Dockerfile", "FROM ${X} is empty"),
        ("app/Dockerfile", "line 1: `team/tools:1` may be the image `tools` of this tree"),
        ("a/Dockerfile", "are built on one another: "),
        ("many/Dockerfile", "name it with the tags 1, 2"),
        ("one/Dockerfile", "it is built on `many`, which is left out"),
        ("with space/Dockerfile", "its path contains ` `"),
        ("copy/Dockerfile", "there is no stage number 9"),
    ] {
        let found = imported
            .findings
            .iter()
            .any(|finding| finding.place == place && finding.message.contains(problem));
        assert!(found, "{place}: {problem} in {:#?}", imported.findings);
    }
}

#[test]
fn the_mapping_decides_what_a_reference_means() {
    let files = [
        ("base/Dockerfile", "FROM node:20\n"),
        ("node/Dockerfile", "FROM alpine\n"),
        ("app/Dockerfile", "FROM team/base:1\n"),
    ];
    let mapping = "local: {'team/base:1': base}\nexternal: ['node']\n";
    let imported = import_tree(&files, mapping);
    assert_eq!(imported.findings, []);
    assert_eq!(
        edges(&imported),
        pairs(&[
            ("app", "base"),
            ("base", "docker.io/library/node:20"),
            ("node", "docker.io/library/alpine:latest")
        ])
    );
    let specs = specs(&imported);
    let app = specs[0].1.images.iter().find(|image| image.name == "app").expect("app");
    assert_eq!(app.from[0].reference.as_deref(), Some("team/base:1"));
}

#[test]
fn triggers_of_parents_in_the_tree_are_edges() {
    let imported = import_tree(
        &[
            ("base/Dockerfile", "FROM alpine\nONBUILD COPY --from=busybox:1 /a /a\n"),
            ("app/Dockerfile", "FROM base\n"),
        ],
        "",
    );
    assert_eq!(imported.findings, []);
    assert!(edges(&imported).contains(&("app".into(), "docker.io/library/busybox:1".into())));
    let specs = specs(&imported);
    let app = specs[0].1.images.iter().find(|image| image.name == "app").expect("app");
    assert_eq!(app.from[0].upstream.as_deref(), Some("busybox-1"));
    assert_eq!(specs[0].1.upstreams[0].image, "docker.io/library/busybox");
}

/// Imports into `folder/families`, and returns the report of what is not imported.
fn write_families(folder: &Path, more: &[&str]) -> anyhow::Result<Vec<String>> {
    let families = folder.join("families");
    let options = [&["--write", families.to_str().expect("a path")], more].concat();
    let arguments = arguments(&folder.join("src"), &options);
    let existing = ExistingManifests::read(&families)?;
    let mut imported = import(&arguments, &existing)?;
    let orphans = if arguments.prune { OrphanPolicy::Remove } else { OrphanPolicy::Keep };
    write::write(&families, &existing, &mut imported, orphans)?;
    Ok(imported.findings.iter().map(ToString::to_string).collect())
}

#[test]
fn an_update_keeps_what_users_have_written() {
    let folder = tree(&[
        ("base/Dockerfile", "FROM alpine:3.20\n"),
        ("python/3.12/Dockerfile", "FROM base\n"),
        ("python/3.13/Dockerfile", "FROM base\n"),
        ("app/Dockerfile", "ARG V\nFROM base\n"),
        ("app/build.args", "V=1\n"),
    ]);
    let repository = ["--repository", REPOSITORY];
    assert_eq!(write_families(folder.path(), &repository).expect("written"), Vec::<String>::new());
    let file = folder.path().join("families/src.yaml");
    let first = fs::read_to_string(&file).expect("a manifest");
    write_families(folder.path(), &[]).expect("written");
    assert_eq!(fs::read_to_string(&file).expect("a manifest"), first, "nothing has changed");

    let edited = first
        .replace(
            "    args:\n      V: \"1\"\n",
            "    args: # of the release\n      V: \"1\" # one\n      W: x\n",
        )
        .replace(
            "  - name: base\n",
            "  # The base of all.\n  - name: base # kept\n    required: false\n",
        )
        .replace("        path: app\n", "        path: app\n        include: [src]\n")
        + "  policy:\n    parallelism: 9 # slow\n";
    assert!(edited.contains("W: x") && edited.contains("include"), "{first}");
    fs::write(&file, &edited).expect("written");
    fs::write(folder.path().join("src/app/build.args"), "V=2\n").expect("written");
    fs::create_dir(folder.path().join("src/python/3.14")).expect("a folder");
    fs::write(folder.path().join("src/python/3.14/Dockerfile"), "FROM base\n").expect("written");
    fs::create_dir(folder.path().join("src/web")).expect("a folder");
    fs::write(folder.path().join("src/web/Dockerfile"), "FROM base\n").expect("written");
    write_families(folder.path(), &[]).expect("written");
    insta::assert_snapshot!(fs::read_to_string(&file).expect("a manifest"));
}

#[test]
fn entries_without_files_stay_until_they_are_pruned() {
    let folder = tree(&[("a/Dockerfile", "FROM alpine\n"), ("b/Dockerfile", "FROM alpine\n")]);
    write_families(folder.path(), &["--repository", REPOSITORY]).expect("written");
    fs::remove_dir_all(folder.path().join("src/b")).expect("removed");
    let findings = write_families(folder.path(), &[]).expect("written");
    assert!(findings[0].contains("spec.images[b]: no file builds it any more"), "{findings:?}");
    let text = || fs::read_to_string(folder.path().join("families/src.yaml")).expect("a manifest");
    assert!(text().contains("name: b"));
    assert_eq!(write_families(folder.path(), &["--prune"]).expect("written"), Vec::<String>::new());
    assert!(!text().contains("name: b"), "{}", text());
}

#[test]
fn a_name_that_a_user_has_changed_stays() {
    let folder = tree(&[("a/Dockerfile", "FROM alpine\n"), ("b/Dockerfile", "FROM a\n")]);
    write_families(folder.path(), &["--repository", REPOSITORY]).expect("written");
    let file = folder.path().join("families/src.yaml");
    let text = fs::read_to_string(&file).expect("a manifest");
    fs::write(&file, text.replace("name: a\n", "name: first\n")).expect("written");
    let findings = write_families(folder.path(), &[]).expect("written");
    assert_eq!(findings, Vec::<String>::new());
    let text = fs::read_to_string(&file).expect("a manifest");
    assert!(text.contains("name: first\n") && !text.contains("name: a\n"), "{text}");
}

#[test]
fn a_manifest_that_cannot_be_updated_is_left_as_it_is() {
    let folder = tree(&[("a/Dockerfile", "FROM alpine\n")]);
    let families = folder.path().join("families");
    fs::create_dir(&families).expect("a folder");
    for (text, problem) in [
        (
            "kind: ImageFamily\nmetadata: {name: src}\nspec: {repository: r.example.com/x, images: \
             [{name: b}]}\n",
            "line",
        ),
        ("kind: [\n", "no YAML"),
        ("kind: ImageFamily\nmetadata: {name: src}\nspec: {images: 1}\n", "no valid ImageFamily"),
    ] {
        fs::write(families.join("src.yaml"), text).expect("written");
        let error = write_families(folder.path(), &["--repository", REPOSITORY]);
        let error = format!("{:#}", error.expect_err(problem));
        assert!(error.contains(problem), "{error}");
        assert_eq!(fs::read_to_string(families.join("src.yaml")).expect("a file"), text);
        assert_eq!(families.read_dir().expect("a folder").count(), 1, "no file is left");
    }
}

#[test]
fn wrong_arguments_are_named() {
    let folder = tree(&[("a/Dockerfile", "FROM alpine\n")]);
    for (more, problem) in [
        (vec![], "--repository"),
        (vec!["--repository", "no-host/x"], "is no repository prefix"),
        (vec!["--repository", REPOSITORY, "--platform", "x"], "--platform x"),
        (vec!["--repository", REPOSITORY, "--mapping", "/nonexistent"], "/nonexistent"),
    ] {
        let error =
            import(&arguments(&folder.path().join("src"), &more), &ExistingManifests::default());
        let error = format!("{:#}", error.expect_err(problem));
        assert!(error.contains(problem), "{error}");
    }
}
