//! Tests of updates: nothing that users have written is lost, and nothing is removed whose
//! Dockerfile exists.

use git2::Repository;

use super::*;

/// A tree of two images that was imported once.
struct ImportedOnce {
    folder: tempfile::TempDir,
}

impl ImportedOnce {
    fn new() -> Self {
        let folder = tree(&[
            ("images/a/Dockerfile", "FROM debian:12\n"),
            ("images/b/Dockerfile", "FROM registry.example.com/platform/a\nARG V=0\nARG N=1\n"),
            ("images/b/build.args", "V=1\n"),
        ]);
        let once = Self { folder };
        assert_eq!(once.run(&["--repository", REPOSITORY]), Vec::<String>::new());
        once
    }

    /// Imports again, and returns what is listed.
    fn run(&self, more: &[&str]) -> Vec<String> {
        write_families(self.folder.path(), more).expect("written")
    }

    fn manifest(&self) -> String {
        fs::read_to_string(self.folder.path().join("families/images.yaml")).expect("a manifest")
    }

    /// Changes the manifest as a user does.
    fn edit(&self, old: &str, new: &str) {
        let text = self.manifest();
        assert!(text.contains(old), "{text}");
        let file = self.folder.path().join("families/images.yaml");
        fs::write(file, text.replace(old, new)).expect("written");
    }

    fn append(&self, text: &str) {
        let file = self.folder.path().join("families/images.yaml");
        fs::write(file, self.manifest() + text).expect("written");
    }

    fn add(&self, path: &str, text: &str) {
        let path = self.folder.path().join("src").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, text).expect("written");
    }

    fn remove(&self, folder: &str) {
        fs::remove_dir_all(self.folder.path().join("src").join(folder)).expect("removed");
    }
}

#[test]
fn a_line_after_a_block_scalar_stays() {
    let once = ImportedOnce::new();
    once.edit(
        "      V: \"1\"\n",
        "      V: \"1\"\n      N: |\n        hello\n    resources: {requests: {cpu: \"2\"}}\n",
    );
    once.add("images/b/build.args", "V=2\n");
    assert_eq!(once.run(&[]), Vec::<String>::new());
    let text = once.manifest();
    assert!(text.contains("    resources: {requests: {cpu: \"2\"}}\n"), "{text}");
    assert!(text.contains("V: '2'") || text.contains("V: \"2\""), "{text}");
}

#[test]
fn an_argument_of_the_manifest_that_the_dockerfile_does_not_declare_is_listed() {
    let once = ImportedOnce::new();
    once.edit("      V: \"1\"\n", "      V: \"1\"\n      N: mine\n");
    assert_eq!(once.run(&[]), Vec::<String>::new());
    once.add("images/b/Dockerfile", "FROM registry.example.com/platform/a\nARG N=1\n");
    let before = once.manifest();
    let listed = once.run(&[]);
    assert_eq!(once.manifest(), before);
    let [stale] = listed.as_slice() else { panic!("{listed:?}") };
    assert!(stale.contains(": image b: args.V of the manifest stays"), "{stale}");
}

#[test]
fn an_image_of_another_kind_of_source_is_listed_and_stays() {
    let once = ImportedOnce::new();
    once.append(
        "  - name: c\n    source:\n      inline: |\n        FROM debian:12\n        RUN mine\n    \
         tags: [latest]\n  - name: d\n    source:\n      configMap: {name: mine}\n",
    );
    let before = once.manifest();
    once.add("images/c/Dockerfile", "FROM debian:13\n");
    once.add("images/d/Dockerfile", "FROM debian:13\n");
    let listed = once.run(&[]);
    assert_eq!(once.manifest(), before);
    let [c, d] = listed.as_slice() else { panic!("{listed:?}") };
    assert!(c.contains("spec.images[c]: its `source` in the manifest"), "{c}");
    assert!(d.contains("spec.images[d]: its `source` in the manifest"), "{d}");
}

#[test]
fn pruning_removes_only_what_has_no_dockerfile_in_the_directories() {
    let once = ImportedOnce::new();
    let before = once.manifest();
    once.add("images/b/Dockerfile", "FROM ${BASE}\n");
    let listed = once.run(&["--prune"]);
    assert_eq!(once.manifest(), before, "the Dockerfile exists");
    assert_eq!(listed.len(), 1, "{listed:?}");

    // Of a part of the tree, nothing else is removed.
    Repository::init(once.folder.path().join("src")).expect("a repository");
    once.remove("images/b");
    let families = once.folder.path().join("families");
    let only = |directory: &str| {
        let directory = once.folder.path().join("src").join(directory);
        let options = ["--write", families.to_str().expect("a path"), "--prune"];
        let arguments = arguments(&directory, &options);
        let existing = ExistingManifests::read(&families).expect("manifests");
        let mut imported = import(&arguments, &existing).expect("an import");
        write::write(&families, &existing, &mut imported, OrphanPolicy::Remove).expect("written");
    };
    only("images/a");
    assert_eq!(once.manifest(), before, "b is not below images/a");
    only("images");
    assert!(!once.manifest().contains("name: b"), "{}", once.manifest());
}

#[test]
fn a_version_whose_dockerfile_is_only_not_read_stays_in_the_matrix() {
    let once = ImportedOnce::new();
    let versions = || {
        let family: ImageFamily = serde_yaml::from_str(&once.manifest()).expect("a family");
        let images = family.spec.images;
        images.into_iter().flat_map(|image| image.matrix.into_values()).flatten().collect()
    };
    for version in ["3.12", "3.13", "3.14"] {
        once.add(&format!("images/python/{version}/Dockerfile"), "FROM debian:12\n");
    }
    once.run(&[]);
    let all: Vec<String> = versions();
    assert_eq!(all, ["3.12", "3.13", "3.14"]);
    once.add("images/python/3.12/Dockerfile", "FROM ${BASE}\n");
    once.remove("images/python/3.14");
    let listed = once.run(&[]);
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert!(listed.iter().any(|one| one.contains(", 3.14]: no file builds it")), "{listed:?}");
    assert_eq!(versions(), all);
    once.run(&["--prune"]);
    assert_eq!(versions(), ["3.12", "3.13"]);
}

#[test]
fn a_dash_in_a_line_of_its_own_is_removed_with_its_entry() {
    let once = ImportedOnce::new();
    once.edit("  - name: b\n", "  -\n    name: b\n");
    once.remove("images/b");
    assert_eq!(once.run(&["--prune"]), Vec::<String>::new());
    let text = once.manifest();
    assert!(!text.contains("name: b") && !text.contains("  -\n"), "{text}");
}

#[test]
fn a_family_without_files_is_listed_and_stays() {
    let once = ImportedOnce::new();
    once.add("other/x/Dockerfile", "FROM alpine:3\n");
    once.run(&[]);
    once.remove("other");
    let listed = once.run(&["--prune"]);
    assert!(listed[0].contains("no file builds any image of the family other"), "{listed:?}");
    assert!(once.folder.path().join("families/other.yaml").exists());
}

#[test]
fn a_second_target_of_a_dockerfile_is_a_new_image() {
    let once = ImportedOnce::new();
    let first = "target \"app\" {\n  args = { V = \"1\" }\n}\n";
    once.add("images/app/Dockerfile", "FROM debian:12\nARG V=0\n");
    once.add("images/app/docker-bake.hcl", first);
    assert_eq!(once.run(&[]), Vec::<String>::new());
    let second = first.replace("app", "web").replace('1', "2");
    once.add("images/app/docker-bake.hcl", &format!("{first}{second}"));
    assert_eq!(once.run(&[]), Vec::<String>::new());
    assert!(once.manifest().contains("- name: app\n") && once.manifest().contains("- name: web\n"));
}

#[test]
fn the_name_of_an_image_that_a_user_has_renamed_is_not_given_twice() {
    let once = ImportedOnce::new();
    once.edit("- name: b\n", "- name: c\n");
    once.add("images/c/Dockerfile", "FROM debian:13\n");
    let listed = once.run(&[]);
    let [only] = listed.as_slice() else { panic!("{listed:?}") };
    assert!(only.contains("images/c/Dockerfile: the image `c` of the manifests"), "{only}");
    assert!(once.manifest().contains("- name: c\n    edges: Dockerfile\n"));
}

#[test]
fn an_option_that_the_manifests_overrule_is_listed() {
    let once = ImportedOnce::new();
    let before = once.manifest();
    let listed = once.run(&["--revision", "v2", "--namespace", "team"]);
    assert_eq!(once.manifest(), before);
    let [namespace, revision] = listed.as_slice() else { panic!("{listed:?}") };
    assert!(namespace.contains("metadata.namespace is not set, and stays"), "{namespace}");
    assert!(revision.contains("git.revision is main, and stays"), "{revision}");
}

#[test]
fn a_revision_that_is_not_known_is_asked_for() {
    let once = ImportedOnce::new();
    let root = once.folder.path().join("src");
    let repository = Repository::init(&root).expect("a repository");
    let author = git2::Signature::now("A", "a@example.com").expect("an author");
    let tree = repository.index().expect("an index").write_tree().expect("a tree");
    let tree = repository.find_tree(tree).expect("a tree");
    let commit = repository.commit(None, &author, &author, "one", &tree, &[]).expect("a commit");
    repository.set_head_detached(commit).expect("a head");
    // The revision of families that exist is theirs.
    assert_eq!(once.run(&[]), Vec::<String>::new());
    once.add("other/x/Dockerfile", "FROM alpine:3\n");
    let error = write_families(once.folder.path(), &[]).expect_err("no branch");
    assert!(error.to_string().contains("--revision"), "{error}");
    assert_eq!(once.run(&["--revision", "main"]), Vec::<String>::new());
}

#[test]
fn an_upstream_of_a_user_with_the_same_name_is_another_one() {
    let once = ImportedOnce::new();
    let before = once.manifest();
    assert!(!before.contains("upstreams"), "{before}");
    once.edit(
        "  images:\n",
        "  upstreams:\n  - name: alpine-3-20\n    image: mirror.example.com/alpine\n    follow:\n \
         \x20    tag: '3.18'\n  images:\n",
    );
    once.add("images/app/Dockerfile", "FROM one\n");
    once.add(
        "images/app/docker-bake.hcl",
        "target \"app\" {\n  contexts = { one = \"docker-image://alpine:3.20\" }\n}\n",
    );
    assert_eq!(once.run(&[]), Vec::<String>::new());
    let text = once.manifest();
    let family: ImageFamily = serde_yaml::from_str(&text).expect("a family");
    let app = family.spec.images.iter().find(|image| image.name == "app").expect("app");
    assert_eq!(app.from[0].upstream.as_deref(), Some("alpine-3-20-x"), "{text}");
    let own = family.spec.upstreams.iter().find(|one| one.name == "alpine-3-20-x").expect("one");
    assert_eq!((&*own.image, &*own.follow.tag), ("docker.io/library/alpine", "3.20"));
}

#[test]
fn comments_after_an_apostrophe_and_other_line_ends_stay() {
    let once = ImportedOnce::new();
    once.add("images/b/build.args", "V=O'Brien\n");
    once.run(&[]);
    once.edit("V: O'Brien\n", "V: O'Brien  # kept\n");
    let file = once.folder.path().join("families/images.yaml");
    fs::write(&file, once.manifest().replace('\n', "\r\n")).expect("written");
    once.add("images/b/build.args", "V=O'Neill\n");
    assert_eq!(once.run(&[]), Vec::<String>::new());
    let text = once.manifest();
    assert!(text.contains("      V: O'Neill # kept\r\n"), "{text}");
    assert_eq!(text.matches('\n').count(), text.matches("\r\n").count(), "{text:?}");
}

#[cfg(unix)]
#[test]
fn a_manifest_that_is_a_link_stays_one() {
    let once = ImportedOnce::new();
    let families = once.folder.path().join("families");
    let real = once.folder.path().join("real.yaml");
    fs::rename(families.join("images.yaml"), &real).expect("renamed");
    std::os::unix::fs::symlink(&real, families.join("images.yaml")).expect("a link");
    once.add("images/c/Dockerfile", "FROM debian:12\n");
    once.run(&[]);
    assert!(families.join("images.yaml").is_symlink());
    let text = fs::read_to_string(&real).expect("a manifest");
    assert!(text.contains("name: c"), "{text}");
}
