//! `kubectl family plan`.

use crate::runs::{Files, root, run};

const FLASK: &str = "-f examples/flask/family.yaml";

fn flask() -> String {
    std::fs::read_to_string(root().join("examples/flask/family.yaml")).expect("an example")
}

#[test]
fn a_move_of_an_upstream() {
    insta::assert_snapshot!(run(&format!("plan --move debian {FLASK}")).fine());
    insta::assert_snapshot!("rows", run(&format!("plan --move debian -o wide {FLASK}")).fine());
    let digest = "a".repeat(64);
    let set = run(&format!("plan --set upstream.debian=sha256:{digest} -o name {FLASK}")).fine();
    assert_eq!(set, run(&format!("plan --move debian -o name {FLASK}")).fine());
    assert_eq!(set.lines().count(), 5);
    assert!(set.starts_with("default/flask/base\n"), "{set}");
}

#[test]
fn the_first_builds_of_a_family() {
    insta::assert_snapshot!(run("plan -f examples/diamond/family.yaml").fine());
}

#[test]
fn another_manifest_as_a_comment_of_a_pull_request() {
    let edited = flask()
        .replace("  - name: flask-helloworld\n", "  - name: flask-hello\n")
        .replace("  - name: python\n", "  - name: python\n    labels: {team: web}\n");
    let files = Files::new(&[("after.yaml", &edited)]);
    let after = files.path("after.yaml");
    let line = format!("plan {FLASK} --edit {} -o markdown", after.display());
    insta::assert_snapshot!(run(&line).fine());
    let nothing = run(&format!("plan {FLASK} --edit examples/flask/family.yaml")).fine();
    assert_eq!(nothing, "default/flask: nothing is built\n");
}

#[test]
fn folders_of_an_edit_are_read_with_those_below() {
    let edited = flask().replace("  - name: python\n", "  - name: python\n    labels: {a: b}\n");
    let files = Files::new(&[("below/after.yaml", &edited)]);
    let line = format!("plan {FLASK} -o name --edit {}", files.folder());
    assert_eq!(run(&line).code, Some(2));
    let below = run(&format!("{line} -R")).fine();
    assert!(below.starts_with("default/flask/python\n"), "{below}");
    let alone = run("plan -R");
    assert!(alone.stderr.contains("name one with --filename"), "{alone:#?}");
}

#[test]
fn what_runs_waits_and_has_failed() {
    insta::assert_snapshot!(run("plan -f tests/plugin/recorded.yaml").fine());
}

#[test]
fn json_matches_its_schema() {
    let line = "plan -f tests/plugin/recorded.yaml --move debian -o json";
    let document = run(line).document("plan");
    assert_eq!(document["families"][0]["name"], "shop", "{document:#}");
    let document = run(&format!("plan --move debian -o json {FLASK}")).document("plan");
    assert_eq!(document["families"][0]["builds"].as_array().map(Vec::len), Some(5));
}

#[test]
fn wrong_flags_are_explained() {
    for (flags, expected) in [
        ("--move flask", "is an image; name an upstream"),
        ("--move nothing", "there is no image or upstream nothing"),
        ("--set debian=sha256:0", "upstream.NAME=sha256:"),
        ("--edit /nonexistent.yaml", "no such file or folder"),
    ] {
        let failed = run(&format!("plan {FLASK} {flags}"));
        assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{flags}: {failed:#?}");
        assert!(failed.stderr.contains(expected), "{flags}: {}", failed.stderr);
    }
}
