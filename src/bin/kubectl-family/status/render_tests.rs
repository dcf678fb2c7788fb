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
    let one = family(&hostile, &[&hidden], now(), None, None);
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

#[test]
fn the_next_poll_of_an_upstream_is_shown_if_it_is_late() {
    let mut late = the_family();
    let mut shown = |next_poll: &str, message: Option<&str>| {
        let upstream = &mut late.status.as_mut().expect("a status").upstreams[0];
        upstream.next_poll = Some(next_poll.parse().expect("a time"));
        upstream.reason = message.map(|_| "RegistryUnavailable".into());
        upstream.message = message.map(Into::into);
        let text = strip_str(&family(&late, &[], now(), None, None)).to_string();
        text.lines().find(|line| line.contains("debian:")).expect("a row").to_owned()
    };
    let soon = "2026-05-01T12:04:30Z";
    assert!(shown(soon, None).ends_with(" next poll in 4m"));
    assert!(shown(soon, Some("down")).ends_with("RegistryUnavailable: down; next poll in 4m"));
    assert!(!shown("2026-05-01T11:59:59Z", None).contains("next poll"), "it has passed");
}

#[test]
fn a_git_source_is_shown_if_its_next_poll_is_late() {
    let mut late = the_family();
    let mut shown = |next_poll: &str, message: Option<&str>| {
        late.status.as_mut().expect("a status").late_sources = vec![LateSource {
            url: "https://git.example.com/images".into(),
            revision: "main".into(),
            next_poll: Some(next_poll.parse().expect("a time")),
            reason: message.map(|_| "SourceUnavailable".into()),
            message: message.map(Into::into),
        }];
        let text = strip_str(&family(&late, &[], now(), None, None)).to_string();
        text.lines().find(|line| line.starts_with("Source ")).map(ToOwned::to_owned)
    };
    let soon = "2026-05-01T12:04:30Z";
    let expected = "Source   https://git.example.com/images at main: next poll in 4m";
    assert_eq!(shown(soon, None).as_deref(), Some(expected));
    let why = shown(soon, Some("down\u{1b}c")).expect("a line");
    assert_eq!(why, format!("{expected}; SourceUnavailable: down\\u{{1b}}c"));
    assert_eq!(shown("2026-05-01T11:59:59Z", None), None, "it has passed");
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
    let text = family(&the_family(), &images.iter().collect::<Vec<_>>(), now(), None, None);
    insta::assert_snapshot!(strip_str(&text).to_string());
}

#[test]
fn a_narrow_terminal_cuts_the_last_column_and_then_the_widest() {
    let images = the_images();
    let text = family(&the_family(), &images.iter().collect::<Vec<_>>(), now(), Some(80), None);
    let text = strip_str(&text).to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}

#[test]
fn states_are_coloured() {
    let images = the_images();
    let text = family(&the_family(), &images.iter().collect::<Vec<_>>(), now(), None, None);
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

/// Returns 600 images on six levels: 3 failed, 4 that are built, others current or waiting.
fn many_images() -> Vec<ManagedImage> {
    let status = |index: i32| match index {
        0..200 => json!({"state": "Current", "reason": "Current", "message": "m", "build": 1}),
        200..203 => json!({"state": "Failed", "reason": "BuildFailed", "message": "failed twice",
            "failure": {"last": {"class": "Build", "reason": "BuildFailed",
                "message": "RUN make\n> cc -c a.c\n> a.c:1: \u{1b}[31merror\nexit code 2"}}}),
        203..207 => json!({"state": "Building", "reason": "Building", "message": "Job x runs"}),
        _ => json!({"state": "Waiting", "reason": "ParentInProgress", "message": "waits"}),
    };
    (0..600).map(|at| image(1 + at / 100, &format!("svc-{at:03}"), &status(at))).collect()
}

#[test]
fn six_hundred_images_fit_into_a_small_terminal() {
    let images = many_images();
    let images: Vec<&ManagedImage> = images.iter().collect();
    let text = family(&the_family(), &images, now(), Some(80), Some(23));
    let text = strip_str(&text).to_string();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.lines().count() <= 23, "{text}");
    let tall = family(&the_family(), &images, now(), Some(200), Some(49));
    let tall = strip_str(&tall).to_string();
    assert!(tall.lines().count() <= 49, "{tall}");
    insta::assert_snapshot!(tall);
    for width in [1, 15] {
        let narrow = family(&the_family(), &images, now(), Some(width), Some(1));
        assert_eq!(narrow.lines().count(), 1, "{narrow}");
    }
    let all = family(&the_family(), &images, now(), None, None);
    assert!(strip_str(&all).to_string().contains("svc-599"), "nothing is folded");
}

#[test]
fn what_is_left_is_estimated_from_recorded_builds() {
    let family: ImageFamily = serde_json::from_value(json!({
        "metadata": {"name": "f", "namespace": "team"},
        "spec": {
            "repository": "r.example.com/team",
            "upstreams": [{"name": "debian", "image": "docker.io/library/debian"}],
            "images": [
                {"name": "base", "from": [{"upstream": "debian"}], "source": {"inline": "FROM x"}},
                {"name": "app", "from": [{"image": "base"}], "source": {"inline": "FROM x"}},
            ]
        },
        "status": {"cascades": [{"name": "f-1"}]}
    }))
    .expect("a family");
    let record = |name: &str, state: &str, built: bool, since: &str| {
        let history = json!([{"fingerprint": "f", "digest": "sha256:1", "message": "m",
                              "duration": "1m"}]);
        image(
            1,
            name,
            &json!({
                "state": state, "reason": "R", "message": "m",
                "running": {"job": "j", "fingerprint": "f", "build": 2, "attempt": 0,
                            "startedAt": since},
                "history": if built { history } else { json!([]) },
            }),
        )
    };
    let now = now();
    let left = |base: &str, app: &str, built: bool| {
        let images = [
            record("base", base, built, "2026-05-01T11:59:40Z"),
            record("app", app, false, "2026-05-01T12:00:00Z"),
        ];
        progress::remaining(&family, &images.iter().collect::<Vec<_>>(), now)
    };
    assert_eq!(left("Current", "Current", true), None);
    let both = left("Building", "Waiting", true);
    assert_eq!(both.as_deref(), Some("about 1m40s, 2 images"), "40 s are left of the first");
    let unknown = left("Building", "Waiting", false);
    assert_eq!(unknown.as_deref(), Some("unknown: no build is recorded, 2 images"));
}
