//! `lint` on files.

use serde_json::Value;

use crate::runs::{Files, run};

const FAMILY: &str = r"
apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: shop}
spec:
  repository: registry.example.com/shop
  upstreams:
  - {name: alpine, image: docker.io/library/alpine, follow: {tag: latest}}
  images:
  - name: base
    from: [{upstream: alpine}]
    tags: [latest]
    source:
      inline: |
        FROM docker.io/library/alpine:latest
        USER app
  - name: web
    from: [{image: base, arg: BASE}]
    tags: [latest]
    source:
      inline: |
        ARG BASE
        FROM $BASE
        USER root
";

#[test]
fn findings_have_an_exit_code_and_every_format() {
    let files = Files::new(&[("family.yaml", FAMILY)]);
    let line = format!("lint -f {}", files.folder());
    let text = run(&line);
    assert_eq!(text.code, Some(1), "{text:#?}");
    assert!(text.stdout.contains("root-again"), "{}", text.stdout);
    assert!(text.stdout.contains("2 findings, 2 Dockerfiles read"), "{}", text.stdout);
    let document = run(&format!("{line} -o json")).document("lint");
    let rules: Vec<&Value> =
        document["findings"].as_array().expect("a list").iter().map(|one| &one["rule"]).collect();
    assert_eq!(rules, ["unpinned-reference", "root-again"]);
    let sarif: Value =
        serde_json::from_str(&run(&format!("{line} -o sarif")).stdout).expect("SARIF");
    assert_eq!(sarif["version"], "2.1.0");
    assert_eq!(sarif["runs"][0]["results"][1]["ruleId"], "root-again");
}

#[test]
fn a_checkout_that_does_not_exist_is_named() {
    let files = Files::new(&[("family.yaml", FAMILY)]);
    let run = run(&format!("lint -f {} --checkout /nonexistent/folder", files.folder()));
    assert_eq!(run.code, Some(2), "{run:#?}");
    assert!(run.stderr.contains("--checkout /nonexistent/folder"), "{}", run.stderr);
    assert_eq!(run.stdout, "");
}

#[test]
fn rules_are_disabled_by_their_names() {
    let files = Files::new(&[("family.yaml", FAMILY)]);
    let line = format!("lint -f {}", files.folder());
    let none = run(&format!("{line} --disable root-again,unpinned-reference")).fine();
    assert_eq!(none, "0 findings, 2 Dockerfiles read\n");
    let wrong = run(&format!("{line} --disable no-such-rule"));
    assert_eq!(wrong.code, Some(2), "{wrong:#?}");
    assert!(wrong.stderr.contains("root-again"), "the rules are listed: {}", wrong.stderr);
}

#[test]
fn examples_of_the_repository_have_no_errors() {
    let run = run("lint -f examples -R -o json");
    let document: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let findings = document["findings"].as_array().expect("a list");
    let errors: Vec<_> = findings.iter().filter(|one| one["level"] == "error").collect();
    assert!(errors.is_empty(), "{errors:#?}");
}
