use anstream::adapter::strip_str;
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-05-01T12:00:00Z".parse().expect("a time")
}

fn digest(letter: &str) -> String {
    format!("sha256:{}", letter.repeat(64))
}

fn the_family() -> ImageFamily {
    serde_json::from_value(json!({
        "metadata": {"name": "flask", "namespace": "team"},
        "spec": {"repository": "r.example.com/team", "upstreams": [], "images": []},
        "status": {
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "Cascading", "message": "3 of 5 \
                    images are current",
                "lastTransitionTime": "2026-05-01T11:59:20Z"
            }],
            "upstreams": [{
                "name": "debian", "reference": "docker.io/library/debian:bookworm-slim",
                "adopted": {"digest": digest("a"), "since": "2026-05-01T11:50:00Z"},
                "candidate": {"digest": digest("b"), "firstObserved": "2026-05-01T11:59:50Z"},
                "reason": "Held", "message": "held by its owner"
            }],
            "counts": {"total": 5, "current": 2, "building": 1, "waiting": 1, "failed": 1},
            "cascades": [{"name": "flask-7", "startedAt": "2026-05-01T11:59:20Z"}]
        }
    }))
    .expect("a family")
}

fn image(level: i32, name: &str, status: &serde_json::Value) -> ManagedImage {
    serde_json::from_value(json!({
        "metadata": {"name": format!("flask.{name}"), "namespace": "team"},
        "spec": {
            "family": "flask", "image": name, "level": level,
            "repository": format!("r.example.com/team/{name}")
        },
        "status": status
    }))
    .expect("an image")
}

#[test]
fn nothing_of_a_status_acts_on_the_terminal() {
    let mut hostile = the_family();
    let status = hostile.status.as_mut().expect("a status");
    status.conditions[0].message = "\u{1b}[2J\u{9b}31mred\rall is well".into();
    status.upstreams[0].message = Some("held\u{202e}by\u{1b}]0;x\u{7}".into());
    let hidden = json!({"state": "Failed", "reason": "BuildFailed", "message": "\u{1b}c gone"});
    let hidden = image(1, "base", &hidden);
    let one = family(&hostile, &[&hidden], now(), None);
    let list = families(&[&hostile], NamespaceColumn::Shown, now(), None);
    for text in [one, list] {
        let plain = strip_str(&text).to_string();
        assert!(
            plain.chars().all(|c| c == '\n' || !c.is_control() && c != '\u{202e}'),
            "{plain:?}"
        );
        assert!(plain.contains("\\u{1b}[2J\\u{9b}31mred"), "{plain}");
    }
}

fn the_images() -> Vec<ManagedImage> {
    let since = "2026-05-01T11:59:30Z";
    vec![
        image(
            3,
            "flask",
            &json!({"state": "Waiting", "reason": "WaitingForParent", "message": "waits for python",
            "since": "2026-04-20T12:00:00Z", "build": 1, "digest": digest("1")}),
        ),
        image(
            1,
            "base",
            &json!({"state": "Current", "reason": "Current", "since": since, "build": 2,
            "digest": digest("c"),
            "rollouts": [
                {"workload": "Deployment team/web", "digest": digest("c"), "state": "Complete",
                 "message": "all 3 pods are updated"},
                {"workload": "Deployment shop/web", "digest": digest("c"), "state": "Refused",
                 "message": "namespace shop does not consent"}
            ]}),
        ),
        image(
            2,
            "python",
            &json!({"state": "Building", "reason": "Building",
            "message": "build 2 runs as Job gs-python-0123456789ab;\nbecause upstream debian moved",
            "since": since, "build": 1, "digest": digest("d"),
            "checks": [
                {"name": "starts", "state": "Passed", "message": "Python 3.12"},
                {"name": "scan", "state": "Passed", "message": "0 critical findings",
                 "image": format!("registry.example.com/tools/scanner@{}", digest("5"))},
                {"name": "size", "state": "Failed", "message": "310 MB, and 300 MB is the limit"}
            ]}),
        ),
        image(
            2,
            "node",
            &json!({"state": "Failed", "reason": "BuildFailed", "message": "RUN apt-get install: \
                exit code 100",
            "since": "2026-05-01T09:00:00Z"}),
        ),
        image(4, "hello", &serde_json::Value::Null),
    ]
}

#[test]
fn a_family_is_shown_level_by_level() {
    let images = the_images();
    let text = family(&the_family(), &images.iter().collect::<Vec<_>>(), now(), None);
    insta::assert_snapshot!(strip_str(&text).to_string());
}

#[test]
fn a_narrow_terminal_cuts_the_last_column_and_then_the_widest() {
    let images = the_images();
    let text = family(&the_family(), &images.iter().collect::<Vec<_>>(), now(), Some(80));
    let text = strip_str(&text).to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn states_are_coloured() {
    let images = the_images();
    let text = family(&the_family(), &images.iter().collect::<Vec<_>>(), now(), None);
    let line =
        |name: &str| text.lines().find(|line| line.contains(name)).expect("a line").to_owned();
    assert!(text.len() > strip_str(&text).to_string().len());
    let (failed, current) = (line("apt-get"), line("cccccccccccc"));
    assert!(failed.contains("\u{1b}["), "{failed:?}");
    assert_ne!(
        failed.find("Failed").map(|at| &failed[..at]),
        current.find("Current").map(|at| &current[..at])
    );
}

#[test]
fn families_are_shown_one_per_line() {
    let mut young = the_family();
    (young.metadata.name, young.status) = (Some("young".into()), None);
    let text = families(&[&the_family(), &young], NamespaceColumn::Shown, now(), Some(100));
    insta::assert_snapshot!(strip_str(&text).to_string());
    assert_eq!(families(&[], NamespaceColumn::Hidden, now(), None), "no families\n");
}

#[test]
fn ages_have_the_format_of_kubectl() {
    let ago = |seconds| age(Some(now() - jiff::SignedDuration::from_secs(seconds)), now());
    assert_eq!(
        [0, 119, 120, 7_199, 7_200, 200_000].map(ago),
        ["0s", "119s", "2m", "119m", "2h", "2d"]
    );
    assert_eq!(ago(-5), "0s");
    assert_eq!(age(None, now()), "-");
}
