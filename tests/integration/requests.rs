//! Requests of users: each action is carried out once per id, its outcome is recorded on the object
//! that carries the request, and an annotation and the plugin have the same effect.

use std::{fmt::Debug, path::PathBuf, process::Stdio};

use groundswell::api::{
    Cascade, CauseType, HandledRequest, ImageFamily, ImageState, ManagedImage, RequestOutcome,
    condition::reason, labels,
};
use k8s_openapi::{NamespaceResourceScope, api::events::v1::Event};
use kube::{
    Resource,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        family::label,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// An object that takes requests.
trait RequestTarget:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned
{
    fn requests(&self) -> (Option<&str>, &[HandledRequest]);
}

impl RequestTarget for ImageFamily {
    fn requests(&self) -> (Option<&str>, &[HandledRequest]) {
        let status = self.status.as_ref();
        status.map_or((None, &[]), |status| {
            (status.last_handled_request.as_deref(), &status.requests)
        })
    }
}

impl RequestTarget for ManagedImage {
    fn requests(&self) -> (Option<&str>, &[HandledRequest]) {
        let status = self.status.as_ref();
        status.map_or((None, &[]), |status| {
            (status.last_handled_request.as_deref(), &status.requests)
        })
    }
}

impl Scene {
    /// A family with this policy, built and ready, and its controller.
    async fn built(&self, policy: Value) -> (Value, Operator) {
        let operator = Operator::ready(&self.settings()).await;
        let mut spec = self.spec();
        spec["policy"] = policy;
        self.place.apply_family("app", &spec).await.expect("a family");
        self.place.wait_family("app", "Ready", 60).await;
        (spec, operator)
    }

    fn settings(&self) -> Settings {
        Settings::new(cluster(), &self.place.namespace, &[])
    }

    /// Annotates an object with a request.
    async fn ask<K: RequestTarget>(&self, name: &str, value: &str) {
        let patch = json!({ "metadata": { "annotations": { labels::REQUEST: value } } });
        self.place
            .api::<K>()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .expect("an annotation");
    }

    /// Waits until a request is handled. Returns its outcome.
    async fn outcome<K: RequestTarget>(&self, name: &str, id: &str) -> HandledRequest {
        wait_for(format!("the request {id} on {name} to be handled"), 30, async || {
            let object = self.place.api::<K>().get(name).await.expect("the object");
            let (_, requests) = object.requests();
            requests
                .iter()
                .find(|handled| handled.id == id)
                .cloned()
                .ok_or_else(|| format!("{object:#?}"))
        })
        .await
    }

    /// Sends a request and waits until it is done. Returns the message.
    async fn done<K: RequestTarget>(&self, name: &str, id: &str, fields: &str) -> String {
        self.ask::<K>(name, &format!(r#"{{"id": "{id}", {fields}}}"#)).await;
        let handled = self.outcome::<K>(name, id).await;
        assert_eq!(handled.outcome, RequestOutcome::Done, "{handled:?}");
        handled.message
    }

    /// Sends a request and waits until it is refused. Returns the message.
    async fn refused<K: RequestTarget>(&self, name: &str, id: &str, fields: &str) -> String {
        self.ask::<K>(name, &format!(r#"{{"id": "{id}", {fields}}}"#)).await;
        let handled = self.outcome::<K>(name, id).await;
        assert_eq!(handled.outcome, RequestOutcome::Refused, "{handled:?}");
        handled.message
    }

    /// Moves the upstream and waits until the family has the new candidate.
    async fn move_to_candidate(&self, version: &str) -> String {
        let digest = self.move_upstream(version).await;
        self.wait_upstream(format!("version {version} to be observed"), |upstream| {
            upstream["candidate"]["digest"] == digest
        })
        .await;
        digest
    }

    /// Waits until the status of the family's upstream satisfies `is`.
    async fn wait_upstream(&self, what: String, is: impl Fn(&Value) -> bool) {
        wait_for(what, 30, async || {
            let status = self.place.family("app").await.status.unwrap_or_default();
            let upstream = serde_json::to_value(status.upstreams.first()).expect("JSON");
            if is(&upstream) { Ok(()) } else { Err(format!("{upstream:#}")) }
        })
        .await;
    }

    async fn image(&self, name: &str) -> ManagedImage {
        self.place.api().get(&format!("app.{name}")).await.expect("a ManagedImage")
    }

    /// Waits until the images are in these states: base, left, right, join.
    async fn wait_states(&self, wanted: [ImageState; 4]) {
        wait_for(format!("the states {wanted:?}"), 60, async || {
            let mut found = Vec::new();
            for name in ["base", "left", "right", "join"] {
                found.push(self.image(name).await.status.unwrap_or_default());
            }
            let states: Vec<ImageState> = found.iter().map(|status| status.state).collect();
            if states == wanted { Ok(()) } else { Err(format!("{states:?}: {found:#?}")) }
        })
        .await;
    }

    /// The numbers of the last verified builds: base, left, right, join.
    async fn builds(&self) -> [Option<i64>; 4] {
        let mut builds = [None; 4];
        for (build, name) in builds.iter_mut().zip(["base", "left", "right", "join"]) {
            *build = self.image(name).await.status.and_then(|status| status.build);
        }
        builds
    }

    async fn wait_builds(&self, wanted: [i64; 4]) {
        let wanted = wanted.map(Some);
        wait_for(format!("the builds {wanted:?}"), 60, async || {
            let builds = self.builds().await;
            if builds == wanted { Ok(()) } else { Err(format!("{builds:?}")) }
        })
        .await;
        self.place.wait_family("app", "Ready", 30).await;
    }
}

use ImageState::{Blocked, Current, Failed, Held};

#[tokio::test]
async fn a_trigger_starts_at_once_and_once_per_id() {
    let client = client().await;
    let scene = Scene::new(&client, "trigger").await;
    let (_, mut operator) = scene.built(json!({ "settle": "1h", "maxSettle": "2h" })).await;
    scene.move_to_candidate("2").await;
    assert_eq!(scene.builds().await, [Some(1); 4], "the quiet time delays it");
    scene.done::<ImageFamily>("app", "t1", r#""action": "Trigger", "by": "ann""#).await;
    scene.wait_builds([2; 4]).await;
    let family = scene.place.family("app").await;
    let (last, requests) = family.requests();
    assert_eq!((last, requests.len(), requests[0].by.as_deref()), (Some("t1"), 1, Some("ann")));

    // The id is in the status: neither the annotation that still exists nor a new one with the same
    // id does anything, not even for a controller that has just started.
    scene.move_to_candidate("3").await;
    scene.ask::<ImageFamily>("app", r#"{"id": "t1", "action": "Force"}"#).await;
    operator.kill();
    let _operator = Operator::ready(&scene.settings()).await;
    // A later request is handled, so the earlier one has been read.
    scene.done::<ManagedImage>("app.join", "r1", r#""action": "Unhold""#).await;
    assert_eq!(scene.builds().await, [Some(2); 4]);
    assert_eq!(scene.place.list::<Cascade>().await.len(), 2);
    scene.done::<ManagedImage>("app.left", "t1", r#""action": "Trigger""#).await;
    scene.wait_builds([3; 4]).await;
    scene.assert_builds("app", 3).await;
}

#[tokio::test]
async fn a_forced_image_is_rebuilt_once_though_it_is_current() {
    let client = client().await;
    let scene = Scene::new(&client, "force").await;
    let (_, _operator) = scene.built(json!({ "settle": "1h", "maxSettle": "2h" })).await;
    let before = scene.place.digests("app").await;
    scene.done::<ManagedImage>("app.left", "f1", r#""action": "Force""#).await;
    // The played builder pushes something new each time, so the images built on it follow.
    scene.wait_builds([1, 2, 1, 2]).await;
    let digests = scene.place.digests("app").await;
    assert_eq!((&digests["base"], &digests["right"]), (&before["base"], &before["right"]));
    assert_ne!(digests["left"], before["left"]);
    let status = scene.image("left").await.status.expect("a status");
    assert_eq!(status.nonce.as_deref(), Some("f1"));
    assert!(
        status.causes.iter().any(|cause| cause.type_ == CauseType::Manual && cause.to == "f1"),
        "{:?}",
        status.causes
    );

    scene
        .done::<ImageFamily>("app", "f2", r#""action": "Force", "image": "left", "subtree": true"#)
        .await;
    scene.wait_builds([1, 3, 1, 3]).await;
    for jobs in scene.place.jobs_per_fingerprint("app").await.values() {
        assert_eq!(*jobs, 1);
    }
}

#[tokio::test]
async fn holds_by_request_outlive_new_candidates_and_restarts() {
    let client = client().await;
    let scene = Scene::new(&client, "hold").await;
    let (_, mut operator) = scene.built(json!({ "settle": "0s" })).await;
    scene
        .done::<ImageFamily>(
            "app",
            "h1",
            r#""action": "Hold", "upstream": "alpine", "reason": "release", "by": "ann""#,
        )
        .await;
    scene.move_to_candidate("2").await;
    operator.kill();
    let _operator = Operator::ready(&scene.settings()).await;
    let newest = scene.move_to_candidate("3").await;
    scene
        .wait_upstream("the hold to be reported".into(), |upstream| {
            let message = upstream["message"].as_str().unwrap_or_default();
            upstream["reason"] == reason::HELD
                && message.contains("release")
                && upstream["hold"]["by"] == "ann"
        })
        .await;
    assert_eq!(scene.builds().await, [Some(1); 4]);
    scene.done::<ImageFamily>("app", "h2", r#""action": "Unhold", "upstream": "alpine""#).await;
    scene.wait_builds([2; 4]).await;
    scene
        .wait_upstream("it to be adopted".into(), |upstream| {
            upstream["adopted"]["digest"] == newest
        })
        .await;

    let held = scene.place.digests("app").await["left"].clone();
    scene.done::<ManagedImage>("app.left", "h1", r#""action": "Hold""#).await;
    scene.move_upstream("4").await;
    scene.wait_states([Current, Held, Current, Current]).await;
    wait_for("the others to be rebuilt", 60, async || {
        let builds = scene.builds().await;
        if builds == [3, 2, 3, 3].map(Some) { Ok(()) } else { Err(format!("{builds:?}")) }
    })
    .await;
    let inputs = scene.image("join").await.status.and_then(|status| status.inputs).expect("inputs");
    assert_eq!(inputs.parents[0].digest, held, "a child is still built on the held digest");
    scene.done::<ManagedImage>("app.left", "h2", r#""action": "Unhold""#).await;
    scene.wait_builds([3, 3, 3, 4]).await;
}

#[tokio::test]
async fn only_the_candidate_is_approved() {
    let client = client().await;
    let scene = Scene::new(&client, "approve").await;
    let _operator = Operator::ready(&scene.settings()).await;
    let mut spec = scene.spec();
    spec["upstreams"][0]["approval"] = json!("Manual");
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    let second = scene.move_to_candidate("2").await;
    let third = scene.move_to_candidate("3").await;
    scene
        .wait_upstream("it to wait for approval".into(), |upstream| {
            upstream["reason"] == reason::AWAITING_APPROVAL
        })
        .await;
    let approve = |digest: &str| {
        format!(r#""action": "Approve", "upstream": "alpine", "digest": "{digest}", "by": "ann""#)
    };
    let said = scene.refused::<ImageFamily>("app", "a1", &approve(&second)).await;
    assert!(said.contains(&third), "{said}");
    assert_eq!(scene.builds().await, [Some(1); 4]);
    scene.done::<ImageFamily>("app", "a2", &approve(&third)).await;
    scene.wait_builds([2; 4]).await;
    let status = scene.place.family("app").await.status.expect("a status");
    let approval = status.upstreams[0].approval.as_ref().expect("a record");
    assert_eq!((approval.digest.as_str(), approval.by.as_deref()), (third.as_str(), Some("ann")));
}

#[tokio::test]
async fn a_retry_repeats_a_cancelled_build() {
    let client = client().await;
    let scene = Scene::new(&client, "cancel").await;
    let _operator = Operator::ready(&scene.settings()).await;
    scene.builder.hold("right");
    scene.place.apply_family("app", &scene.spec()).await.expect("a family");
    wait_for("the build to run", 60, async || {
        let running = scene.place.list::<ManagedImage>().await;
        let found = running.iter().any(|image| {
            image.spec.image == "right"
                && image.status.as_ref().is_some_and(|status| status.running.is_some())
        });
        found.then_some(()).ok_or_else(|| format!("{running:#?}"))
    })
    .await;
    scene.done::<ManagedImage>("app.right", "c1", r#""action": "Cancel""#).await;
    scene.wait_states([Current, Current, Failed, Blocked]).await;
    assert_eq!(scene.image("right").await.status.expect("a status").reason, reason::CANCELLED);
    wait_for("its Job to be gone", 30, async || {
        let jobs = scene.place.jobs("app").await;
        let gone = jobs.iter().all(|job| label(job, labels::IMAGE) != "right");
        if gone { Ok(()) } else { Err(format!("{jobs:#?}")) }
    })
    .await;
    scene.builder.release("right");
    scene.done::<ImageFamily>("app", "c2", r#""action": "Retry", "image": "right""#).await;
    scene.wait_states([Current; 4]).await;
    scene.place.wait_family("app", "Ready", 30).await;
    assert!(!scene.tag("join", "latest").await.is_empty());
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_a_message_and_uses_up_no_id() {
    let client = client().await;
    let scene = Scene::new(&client, "refused").await;
    let (_, _operator) = scene.built(json!({ "settle": "0s" })).await;
    scene.ask::<ImageFamily>("app", r#"{"id": "r1", "action": "Rebuild"}"#).await;
    let refused = wait_for("the annotation to be refused", 30, async || {
        let family = scene.place.family("app").await;
        family.requests().1.first().cloned().ok_or_else(|| format!("{family:#?}"))
    })
    .await;
    assert_eq!((refused.outcome, refused.action), (RequestOutcome::Refused, None));
    assert!(
        refused.id.starts_with("unreadable-") && refused.message.contains("`Trigger`"),
        "{refused:?}"
    );
    scene.done::<ImageFamily>("app", "r1", r#""action": "Retry""#).await;

    let said =
        scene.refused::<ImageFamily>("app", "r2", r#""action": "Force", "image": "nobody""#).await;
    assert!(said.contains("no image `nobody`"), "{said}");
    let said = scene
        .refused::<ImageFamily>("app", "r3", r#""action": "Hold", "upstream": "nobody""#)
        .await;
    assert!(said.contains("no upstream `nobody`"), "{said}");
    let past = r#""action": "Hold", "until": "2001-01-01T00:00:00Z""#;
    scene.refused::<ManagedImage>("app.left", "r1", past).await;
    scene
        .ask::<ManagedImage>("app.left", r#"{"id": "r2", "action": "Retry", "image": "right"}"#)
        .await;
    wait_for("a request for another image to be refused", 30, async || {
        let image = scene.image("left").await;
        let said =
            image.requests().1.first().map(|handled| handled.message.clone()).unwrap_or_default();
        if said.contains("names `right`") { Ok(()) } else { Err(format!("{image:#?}")) }
    })
    .await;
    wait_for("an Event about it", 10, async || {
        let events = scene.place.list::<Event>().await;
        let found =
            events.iter().any(|event| event.reason.as_deref() == Some(reason::REQUEST_REFUSED));
        found.then_some(()).ok_or_else(|| format!("{events:#?}"))
    })
    .await;
    scene.assert_builds("app", 1).await;
}

/// Runs the plugin as a user does. Returns whether it succeeded, and what it printed.
async fn plugin(scene: &Scene, line: &str) -> (bool, String) {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_kubectl-family"));
    let output = tokio::process::Command::new(program)
        .args(line.split_whitespace())
        .args(["--namespace", &scene.place.namespace])
        .env("KUBECONFIG", &cluster().kubeconfig)
        .stdin(Stdio::null())
        .output()
        .await
        .expect("the plugin");
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    (output.status.success(), text)
}

#[tokio::test]
async fn the_plugin_requests_waits_and_overwrites_no_other_request() {
    let client = client().await;
    let scene = Scene::new(&client, "plugin").await;
    let mut operator = Operator::ready(&scene.settings()).await;
    let mut spec = scene.spec();
    spec["upstreams"][0]["approval"] = json!("Manual");
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;

    let (done, said) = plugin(&scene, "hold app/left --for 72h --reason release --wait").await;
    assert!(
        done && said.contains("requested: Hold left until")
            && said.contains("\ndone: left is held at its current digest"),
        "{said}"
    );
    let status = scene.image("left").await.status.expect("a status");
    let hold = status.hold.expect("a hold");
    assert_eq!(hold.reason.as_deref(), Some("release"));
    assert!(hold.by.is_some_and(|by| !by.is_empty()), "the API server says who asks");
    let (done, said) = plugin(&scene, "unhold app/left --wait").await;
    assert!(done && said.contains("done: the hold of left has ended"), "{said}");
    let (done, said) = plugin(&scene, "hold app --upstream nobody --wait").await;
    assert!(
        !done && said.contains("error: refused: the family has no upstream `nobody`"),
        "{said}"
    );

    let candidate = scene.move_to_candidate("2").await;
    let other = format!("sha256:{}", "0".repeat(64));
    let (done, said) = plugin(&scene, &format!("approve app alpine --digest {other}")).await;
    assert!(!done && said.contains(&candidate), "{said}");
    let (done, said) = plugin(&scene, "approve app alpine --wait").await;
    assert!(
        done && said.contains(&format!("candidate {candidate}")) && said.contains("\ndone: "),
        "{said}"
    );
    scene.wait_builds([2; 4]).await;

    operator.kill();
    let (done, _) = plugin(&scene, "retry app/left").await;
    assert!(done);
    let (done, said) = plugin(&scene, "force app/left").await;
    assert!(!done && said.contains("is not handled yet: Retry left"), "{said}");
    let (done, said) = plugin(&scene, "force app/left --replace --wait --timeout 1s").await;
    assert!(!done && said.contains("not handled within 1s"), "{said}");
    let _operator = Operator::ready(&scene.settings()).await;
    scene.wait_builds([2, 3, 2, 3]).await;

    let managers = scene.image("left").await.metadata.managed_fields.unwrap_or_default();
    let own = managers
        .iter()
        .find(|fields| fields.manager.as_deref() == Some("kubectl-family"))
        .expect("its fields");
    let fields = serde_json::to_string(&own.fields_v1).expect("JSON");
    assert!(fields.contains(labels::REQUEST) && !fields.contains("f:spec"), "{fields}");
    let (done, said) = plugin(&scene, "retry app/nobody").await;
    assert!(!done && said.contains("ManagedImage `app.nobody` not found"), "{said}");
}
