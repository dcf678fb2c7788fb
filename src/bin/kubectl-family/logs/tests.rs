use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use clap::Parser;
use serde_json::{Value, json};

use super::*;
use crate::{
    fake_cluster::{FakeReply, cluster, list},
    input::fixtures::estate,
};

#[derive(Parser, Debug)]
struct LogsLine {
    #[command(flatten)]
    arguments: LogsArguments,
}

fn arguments(line: &str) -> LogsArguments {
    let words = ["logs"].into_iter().chain(line.split_whitespace());
    LogsLine::try_parse_from(words).expect("a line").arguments
}

/// A pod whose containers have these states.
fn pod(phase: &str, states: &[(&str, Value)]) -> Value {
    let status: Vec<Value> = states
        .iter()
        .map(|(name, state)| {
            json!({"name": name, "state": state, "image": "i", "imageID": "i", "ready": false,
                   "restartCount": 0})
        })
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "app-1", "uid": "u1", "creationTimestamp": "2026-05-01T12:00:00Z",
                     "resourceVersion": "1",
                     "labels": {"batch.kubernetes.io/job-name": "app-1"}},
        "spec": {
            "initContainers": [{"name": "buildkitd", "restartPolicy": "Always"},
                               {"name": "prepare"}],
            "containers": [{"name": "build"}]
        },
        "status": {"phase": phase, "containerStatuses": status}
    })
}

fn ended() -> Value {
    json!({"terminated": {"exitCode": 0}})
}

const FAMILY: &str = "
apiVersion: groundswell.dev/v1alpha1
kind: ImageFamily
metadata: {name: shop, namespace: team}
spec:
  repository: registry.example.com/shop
  upstreams: [{name: debian, image: docker.io/library/debian, follow: {tag: trixie}}]
  images:
  - name: app
    from: [{upstream: debian}]
    source: {inline: FROM x}
    checks: [{name: smoke, command: [x]}]
---
apiVersion: groundswell.dev/v1alpha1
kind: ManagedImage
metadata: {name: shop.app, namespace: team}
spec: {family: shop, image: app}
status:
  state: Failed
  lastBuild: 3
  lastBuildFingerprint: f3
  failure:
    fingerprint: f3
    last: {class: Build, reason: BuildFailed, message: \"make:\\e exit 2\"}
  history:
  - {build: 2, fingerprint: f2, digest: 'sha256:a2', message: a parent was rebuilt}
  - {build: 1, fingerprint: f1, digest: 'sha256:a2', message: unchanged, spared: true}
";

/// Shows the log of `app` on a cluster, and returns what was written.
async fn logs(
    answer: impl Fn(&http::Request<Vec<u8>>) -> FakeReply + Clone + Send + Sync + 'static,
    line: &str,
) -> anyhow::Result<String> {
    let arguments = arguments(&format!("shop/app {line}"));
    let estate = estate(FAMILY);
    let (family, index) = arguments.image.find_image(&estate)?;
    let run = LoggedRun::of(family, index, arguments.work())?;
    let mut written = String::new();
    let mut write = |text: &str| {
        written.push_str(text);
        Ok(())
    };
    let extent = show(&cluster(answer), &run, &arguments, &mut write).await?;
    Ok(if extent == LogExtent::Empty { "(empty)".into() } else { written })
}

fn query(request: &http::Request<Vec<u8>>) -> String {
    request.uri().to_string()
}

#[tokio::test]
async fn containers_are_shown_in_order_and_nothing_acts_on_the_terminal() {
    let answer = |request: &http::Request<Vec<u8>>| {
        let query = query(request);
        if query.contains("/log?") {
            let container = query.split("container=").nth(1).expect("a container");
            let container = container.split('&').next().expect("a container");
            let line = "2026-05-01T12:00:01.5Z";
            return FakeReply::Text(format!(
                "{line} {container} 1%\r{container} 1\r\n{line} \u{1b}[31mred\u{1b}[0m\u{9b}2J\n\
                 {line} no end"
            ));
        }
        let states = [("prepare", ended()), ("build", ended()), ("buildkitd", ended())];
        list("Pod", &[pod("Succeeded", &states)])
    };
    let text = logs(answer, "").await.expect("a log");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "==> prepare <==",
            "prepare 1",
            "red\\u{9b}2J",
            "no end",
            "==> build <==",
            "build 1",
            "red\\u{9b}2J",
            "no end",
            "==> buildkitd <==",
            "buildkitd 1",
            "red\\u{9b}2J",
            "no end",
        ]
    );
    let one = logs(answer, "-c build --tail 5").await.expect("a log");
    assert!(one.starts_with("build 1\n"), "{one}");
    let error = logs(answer, "-c none").await.expect_err("no such container").to_string();
    assert!(error.contains("it has prepare, build, buildkitd"), "{error}");
}

#[test]
fn a_build_that_is_due_is_not_confused_with_the_last_one() {
    let said = |state: &str, work: LoggedWork| {
        let estate =
            estate(&FAMILY.replace("state: Failed", &format!("state: {state}\n  build: 2")));
        let (family, index) = arguments("shop/app").image.find_image(&estate).expect("an image");
        LoggedRun::of(family, index, work).expect("a run").not_begun()
    };
    let queued = said("Queued", LoggedWork::NewestBuild).expect("a note");
    assert_eq!(queued, "app is Queued: this is the log of an earlier build");
    assert_eq!(said("Queued", LoggedWork::Build(1)), None);
    assert_eq!(said("Building", LoggedWork::NewestBuild), None);
}

#[tokio::test]
async fn a_log_without_a_line_is_empty() {
    let answer = |request: &http::Request<Vec<u8>>| {
        if query(request).contains("/log?") {
            return FakeReply::Text(String::new());
        }
        let states = [("prepare", ended()), ("build", ended()), ("buildkitd", ended())];
        list("Pod", &[pod("Succeeded", &states)])
    };
    assert_eq!(logs(answer, "-c build").await.expect("a log"), "(empty)");
    assert_eq!(logs(answer, "").await.expect("a log"), "(empty)");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_off_is_continued_after_its_last_line() {
    let streams = Arc::new(AtomicUsize::new(0));
    let opened = streams.clone();
    let answer = move |request: &http::Request<Vec<u8>>| {
        let query = query(request);
        let line = |second: u8, text: &str| format!("2026-05-01T12:00:{second:02}.1Z {text}\n");
        if query.contains("/log?") {
            return FakeReply::Text(match opened.fetch_add(1, Ordering::SeqCst) {
                0 => line(1, "one") + &line(1, "same time") + &line(2, "two"),
                1 => {
                    assert!(query.contains("sinceTime=2026-05-01T12%3A00%3A02"), "{query}");
                    line(2, "two") + &line(3, "three")
                }
                _ => line(3, "three"),
            });
        }
        let is_over = opened.load(Ordering::SeqCst) >= 2;
        let state = if is_over { ended() } else { json!({"running": {}}) };
        let pod = pod("Running", &[("build", state)]);
        if query.contains("/pods/app-1") { FakeReply::Json(pod) } else { list("Pod", &[pod]) }
    };
    let text = logs(answer, "-f -c build").await.expect("a log");
    assert_eq!(text, "one\nsame time\ntwo\nthree\n");
    assert_eq!(streams.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_pod_that_is_gone_leaves_its_record() {
    let gone = |_: &http::Request<Vec<u8>>| list("Pod", &[]);
    let text = logs(gone, "").await.expect("a record");
    assert!(text.starts_with("The pod is gone"), "{text}");
    assert!(text.ends_with("BuildFailed\nmake:\\u{1b} exit 2\n"), "{text}");
    let third = logs(gone, "--build 3").await.expect("a record");
    assert!(third.contains("BuildFailed"), "{third}");
    let second = logs(gone, "--build 2").await.expect("a record");
    assert!(second.contains("build 2 gave sha256:a2\na parent was rebuilt"), "{second}");
    let error =
        |line: &'static str| async move { logs(gone, line).await.expect_err(line).to_string() };
    assert!(error("--build 9").await.contains("kubectl family history app"));
    assert!(error("--check smoke").await.contains("has not run yet"));
    assert!(error("--check none").await.contains("it has smoke"));
}

#[tokio::test]
async fn what_has_not_started_and_what_is_forbidden_is_said() {
    let waits = |request: &http::Request<Vec<u8>>| {
        assert!(!query(request).contains("/log?"), "there is no log");
        let waiting = json!({"waiting": {"reason": "ImagePullBackOff", "message": "denied"}});
        list("Pod", &[pod("Pending", &[("build", waiting)])])
    };
    assert_eq!(logs(waits, "-c build").await.expect("no log"), "");
    let denied = |_: &http::Request<Vec<u8>>| {
        FakeReply::Refused(403, "pods is forbidden: ann cannot list pods")
    };
    let error = logs(denied, "").await.expect_err("denied").to_string();
    assert_eq!(error, "pods is forbidden: ann cannot list pods");
}
