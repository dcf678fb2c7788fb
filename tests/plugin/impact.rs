//! `kubectl family impact`.

use crate::runs::run;

const RECORDED: &str = "-f tests/plugin/recorded.yaml";

#[test]
fn a_move_of_an_upstream_by_level() {
    insta::assert_snapshot!(run(&format!("impact debian {RECORDED}")).fine());
    insta::assert_snapshot!("rows", run(&format!("impact debian -o wide {RECORDED}")).fine());
    let names = run(&format!("impact debian -o name {RECORDED}")).fine();
    assert_eq!(names, "base\npython\ntool\napp\nreport\n");
}

#[test]
fn an_image_that_nothing_is_built_on() {
    let text = run(&format!("impact report {RECORDED}")).fine();
    assert_eq!(text, "report: nothing is rebuilt if it moves\n");
}

#[test]
fn json_matches_its_schema() {
    let document = run(&format!("impact debian -o json {RECORDED}")).document("impact");
    // base 40 s, python 2 min, app the median of the family: 40 s. tool and report run meanwhile.
    assert_eq!(document["estimatedSeconds"], 200, "{document:#}");
    assert_eq!(document["criticalPath"], serde_json::json!(["base", "python", "app"]));
    assert_eq!(document["held"], serde_json::json!(["pinned"]));
    assert_eq!(document["workloads"], serde_json::json!(["Deployment web/app"]));
    // Five requests per image, and one for the tag of base.
    assert_eq!(document["registryRequests"], 26);
}
