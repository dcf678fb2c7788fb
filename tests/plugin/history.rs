//! `kubectl family history`.

use crate::runs::run;

const RECORDED: &str = "-f tests/plugin/recorded.yaml";
const CASCADES: &str = "-f tests/plugin/cascades.yaml";

#[test]
fn the_builds_of_an_image_with_their_bases() {
    insta::assert_snapshot!("base", run(&format!("history base {RECORDED}")).fine());
    insta::assert_snapshot!("base_csv", run(&format!("history base -o csv {RECORDED}")).fine());
    let running = run(&format!("history python -o json {RECORDED}")).document("history-builds");
    assert_eq!(running["builds"][0]["outcome"], "Running", "{running:#}");
    assert_eq!(running["builds"][1]["base"].as_str().map(|base| &base[..12]), Some("sha256:ba5e1"));
    let names = run(&format!("history base -o name {RECORDED}")).fine();
    assert!(names.starts_with("registry.example.com/shop/base@sha256:ba5e2"), "{names}");
}

#[test]
fn the_cascades_of_families_with_the_time_to_patched() {
    insta::assert_snapshot!("cascades_csv", run(&format!("history -o csv {CASCADES}")).fine());
    let document = run(&format!("history -o json {CASCADES}")).document("history-cascades");
    let times = &document["cascades"][0]["timeToPatched"];
    assert_eq!((&times["p50Seconds"], &times["maxSeconds"]), (&30.into(), &90.into()));
    assert_eq!(times["images"], 3, "{document:#}");
    let names = run(&format!("history -o name {CASCADES}")).fine();
    assert_eq!(names, "cascade/shop-20260502-090000\ncascade/shop-20260501-120000\n");
    let table = run(&format!("history {CASCADES}")).fine();
    assert!(table.contains("Incomplete") && table.contains("30s"), "{table}");
}

#[test]
fn what_is_not_recorded_is_said() {
    let failed = run("history flask -f examples/flask/family.yaml");
    assert_eq!((failed.code, failed.stdout.as_str()), (Some(2), ""), "{failed:#?}");
    assert!(failed.stderr.contains("nothing is recorded of default/flask/flask"), "{failed:#?}");
    let none = run("history -f examples/flask/family.yaml").fine();
    assert_eq!(none, "no cascade is recorded\n");
    let unknown = run("history --family none -f examples/flask/family.yaml");
    assert!(unknown.stderr.contains("there is no family none"), "{unknown:#?}");
    let built = run(&format!("history app {RECORDED}")).fine();
    assert_eq!(built, "no build is recorded\n");
}
