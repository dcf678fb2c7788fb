//! `kubectl family why`.

use crate::runs::run;

const RECORDED: &str = "-f tests/plugin/recorded.yaml";

#[test]
fn the_last_build_a_running_one_and_one_that_waits() {
    for image in ["base", "python", "app"] {
        insta::assert_snapshot!(image, run(&format!("why {image} {RECORDED}")).fine());
    }
}

#[test]
fn what_has_failed_or_is_blocked_is_a_finding() {
    for image in ["tool", "report"] {
        let found = run(&format!("why {image} {RECORDED}"));
        assert_eq!(found.code, Some(1), "{found:#?}");
        insta::assert_snapshot!(image, found.stdout);
    }
}

#[test]
fn json_matches_its_schema() {
    let document = run(&format!("why app -o json {RECORDED}")).document("why");
    assert_eq!((&document["state"], &document["image"]), (&"Waiting".into(), &"app".into()));
}

#[test]
fn what_nothing_is_recorded_of_is_an_error() {
    let failed = run("why flask -f examples/flask/family.yaml");
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{failed:#?}");
    assert!(failed.stderr.contains("nothing is recorded of flask"), "{}", failed.stderr);
}
