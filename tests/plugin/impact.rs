//! `kubectl family impact`.

use crate::runs::{Files, run};

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

/// Two families that follow the same reference.
fn families(first: &str, second: &str) -> Files {
    let family = |name: &str, upstream: &str, policy: &str| {
        format!(
            "apiVersion: groundswell.dev/v1alpha1\nkind: ImageFamily\nmetadata: {{name: {name}}}\n\
             spec:\n  repository: registry.example.com/{name}\n  {policy}\n  upstreams:\n  \
             - {{name: alpine, image: docker.io/library/alpine, \
             follow: {{tag: '3.24'}}{upstream}}}\n  \
             images:\n  - name: alpine\n    from: [{{upstream: alpine}}]\n    \
             source: {{inline: FROM x}}\n"
        )
    };
    Files::new(&[
        ("one.yaml", &family("one", first, "suspend: false")),
        ("two.yaml", &family("two", second, "suspend: true")),
    ])
}

#[test]
fn families_that_share_an_upstream_are_counted_together() {
    let files = families("", ", approval: Manual, minimumAge: 72h");
    for name in ["upstream.alpine", "docker.io/library/alpine:3.24", "alpine:3.24"] {
        let text = run(&format!("impact {name} -f {}", files.folder())).fine();
        for expected in [
            "docker.io/library/alpine:3.24: if it moves, 2 images on 1 level",
            "default/two/alpine needs approval of the new digest",
            "default/two/alpine waits until the new digest is 72h00m old",
            "default/two is suspended and builds nothing",
        ] {
            assert!(text.contains(expected), "{name}: {expected}:\n{text}");
        }
    }
    let failed = run(&format!("impact alpine -f {}", files.folder()));
    assert!(failed.stderr.contains("default/one/alpine or default/two/alpine"), "{failed:#?}");
}

#[test]
fn a_family_that_holds_the_upstream_does_not_follow_it() {
    let files = families(", hold: {reason: freeze}", "");
    let run = || run(&format!("impact upstream.alpine -o json -f {}", files.folder()));
    let document = run().document("impact");
    assert_eq!(document["images"].as_array().map(Vec::len), Some(1), "{document:#}");
    assert_eq!(document["images"][0]["name"], "two/alpine");
    assert_eq!(document["gates"][0], "default/one/alpine is held, and does not follow");
}

#[test]
fn an_estimate_says_what_it_does_not_know() {
    let recorded = std::fs::read_to_string(crate::runs::root().join("tests/plugin/recorded.yaml"));
    let other = families("", "");
    std::fs::write(other.path("recorded.yaml"), recorded.expect("a file")).expect("a file");
    let debian = std::fs::read_to_string(other.path("one.yaml")).expect("a file");
    let debian =
        debian.replace("alpine, follow: {tag: '3.24'}", "debian, follow: {tag: trixie-slim}");
    std::fs::write(other.path("one.yaml"), debian).expect("a file");
    let text = run(&format!("impact web/shop/debian -f {}", other.folder())).fine();
    let expected = "more than 3m20s: no build is recorded of 1 of 6 images";
    assert!(text.contains(expected), "{text}");
}
