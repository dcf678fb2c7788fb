//! Requests of users: each is carried out once, its status says what happens to it, requests do not
//! block one another, and an object and the plugin have the same effect.

use std::{path::PathBuf, process::Stdio};

use groundswell::api::{
    Cascade, CauseType, FamilyRequest, ImageFamily, ImageState, ManagedImage, RequestState,
    condition::Reason, labels,
};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    events::v1::Event,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
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

    /// Creates a request on the family: its fields without the family.
    async fn ask(&self, name: &str, fields: &Value) {
        self.try_ask(name, fields).await.expect("a request");
    }

    async fn try_ask(&self, name: &str, fields: &Value) -> kube::Result<FamilyRequest> {
        let mut spec = json!({"family": "app"});
        spec.as_object_mut().expect("a spec").extend(fields.as_object().expect("fields").clone());
        let spec = serde_json::from_value(spec).expect("a spec");
        let request = FamilyRequest::new(name, spec);
        self.place.api().create(&PostParams::default(), &request).await
    }

    async fn request(&self, name: &str) -> FamilyRequest {
        self.place.api().get(name).await.expect("a request")
    }

    /// Waits until a request is in a state. Returns its message.
    async fn wait_state(&self, name: &str, state: RequestState) -> String {
        wait_for(format!("the request {name} to be {state:?}"), 30, async || {
            let request = self.request(name).await;
            match &request.status {
                Some(status) if status.state == Some(state) => Ok(status.message.clone()),
                status => Err(format!("{status:#?}")),
            }
        })
        .await
    }

    /// Creates a request and waits until it is done. Returns the message.
    async fn done(&self, name: &str, fields: &Value) -> String {
        self.ask(name, fields).await;
        self.wait_state(name, RequestState::Done).await
    }

    /// Creates a request and waits until it has effect.
    async fn active(&self, name: &str, fields: &Value) {
        self.ask(name, fields).await;
        self.wait_state(name, RequestState::Active).await;
    }

    /// Creates a request and waits until it is refused. Returns the message.
    async fn refused(&self, name: &str, fields: &Value) -> String {
        self.ask(name, fields).await;
        self.wait_state(name, RequestState::Refused).await
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

    /// Waits until a build of the image runs.
    async fn wait_running(&self, image: &str) {
        wait_for(format!("a build of {image} to run"), 60, async || {
            let status = self.image_status(image).await;
            status.running.as_ref().map(|_| ()).ok_or_else(|| format!("{status:#?}"))
        })
        .await;
    }

    async fn image_status(&self, image: &str) -> groundswell::api::ManagedImageStatus {
        let found = self.place.api::<ManagedImage>().get_opt(&format!("app.{image}")).await;
        found.expect("an answer").and_then(|found| found.status).unwrap_or_default()
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
async fn a_trigger_starts_at_once_and_once() {
    let client = client().await;
    let scene = Scene::new(&client, "trigger").await;
    let (_, mut operator) = scene.built(json!({ "settle": "1h", "maxSettle": "2h" })).await;
    scene.move_to_candidate("2").await;
    assert_eq!(scene.builds().await, [Some(1); 4], "the quiet time delays it");
    scene.done("t1", &json!({"action": "Trigger", "by": "ann"})).await;
    scene.wait_builds([2; 4]).await;
    let request = scene.request("t1").await;
    let owner = &request.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.controller), ("ImageFamily", None));
    assert_eq!(request.status.expect("a status").images, Some(4));

    // It is done, also for a controller that has just started.
    scene.move_to_candidate("3").await;
    operator.kill();
    let _operator = Operator::ready(&scene.settings()).await;
    scene.done("r1", &json!({"action": "Unhold", "image": "join"})).await;
    assert_eq!(scene.builds().await, [Some(2); 4]);
    assert_eq!(scene.place.list::<Cascade>().await.len(), 2);
    scene.done("t2", &json!({"action": "Trigger", "image": "left"})).await;
    scene.wait_builds([3; 4]).await;
    scene.assert_builds("app", 3).await;
}

#[tokio::test]
async fn a_forced_image_is_rebuilt_once_though_it_is_current() {
    let client = client().await;
    let scene = Scene::new(&client, "force").await;
    let (_, _operator) = scene.built(json!({ "settle": "1h", "maxSettle": "2h" })).await;
    let before = scene.place.digests("app").await;
    scene.done("f1", &json!({"action": "Force", "image": "left"})).await;
    // The played builder pushes something new each time, so the images built on it follow.
    scene.wait_builds([1, 2, 1, 2]).await;
    let digests = scene.place.digests("app").await;
    assert_eq!((&digests["base"], &digests["right"]), (&before["base"], &before["right"]));
    assert_ne!(digests["left"], before["left"]);
    let status = scene.image("left").await.status.expect("a status");
    let nonce = status.nonce.expect("a nonce");
    assert!(nonce.ends_with("Z/f1"), "{nonce}");
    assert!(
        status.causes.iter().any(|cause| cause.type_ == CauseType::Manual && cause.to == nonce),
        "{:?}",
        status.causes
    );

    scene.done("f2", &json!({"action": "Force", "image": "left", "subtree": true})).await;
    scene.wait_builds([1, 3, 1, 3]).await;
    for jobs in scene.place.jobs_per_fingerprint("app").await.values() {
        assert_eq!(*jobs, 1);
    }
}

#[tokio::test]
async fn a_waiting_request_is_answered_and_blocks_neither_cancel_nor_hold() {
    let client = client().await;
    let scene = Scene::new(&client, "waiting").await;
    let (_, _operator) = scene.built(json!({ "settle": "0s" })).await;
    scene.builder.hold("right");
    scene.move_upstream("2").await;
    scene.wait_running("right").await;
    scene.move_to_candidate("3").await;
    // Two users ask for it in the same moment.
    let trigger = json!({"action": "Trigger", "reason": "the cure"});
    tokio::join!(scene.ask("ann", &trigger), scene.ask("bob", &trigger));
    for name in ["ann", "bob"] {
        let said = scene.wait_state(name, RequestState::Waiting).await;
        assert!(
            said.starts_with("starts when the cascade app-")
                && said.contains("which waits for right (Building)")
                && said.ends_with("to end it now: kubectl family cancel app"),
            "{said}"
        );
    }
    scene.active("hold", &json!({"action": "Hold", "image": "join"})).await;
    scene.done("unhold", &json!({"action": "Unhold", "image": "join"})).await;
    scene.wait_state("hold", RequestState::Done).await;
    scene.done("cancel", &json!({"action": "Cancel", "image": "right"})).await;
    // The cascade ends, and the next one adopts the candidate.
    scene.builder.release("right");
    for name in ["ann", "bob"] {
        scene.wait_state(name, RequestState::Done).await;
    }
    scene.wait_states([Current; 4]).await;
}

#[tokio::test]
async fn holds_by_request_outlive_new_candidates_and_restarts() {
    let client = client().await;
    let scene = Scene::new(&client, "hold").await;
    let (_, mut operator) = scene.built(json!({ "settle": "0s" })).await;
    let hold = json!({"action": "Hold", "upstream": "alpine", "reason": "release", "by": "ann"});
    scene.active("h1", &hold).await;
    scene.move_to_candidate("2").await;
    operator.kill();
    // As a restore from a backup does.
    let lost = json!({"status": null});
    let patched: kube::Result<ImageFamily> =
        scene.place.api().patch_status("app", &PatchParams::default(), &Patch::Merge(lost)).await;
    patched.expect("a family without a status");
    let _operator = Operator::ready(&scene.settings()).await;
    let newest = scene.move_to_candidate("3").await;
    scene
        .wait_upstream("the hold to be reported".into(), |upstream| {
            let message = upstream["message"].as_str().unwrap_or_default();
            upstream["reason"] == Reason::Held.as_str()
                && message.contains("release")
                && upstream["hold"]["by"] == "ann"
                && upstream["hold"]["request"] == "h1"
        })
        .await;
    assert_eq!(scene.builds().await, [Some(1); 4]);
    scene.done("h2", &json!({"action": "Unhold", "upstream": "alpine"})).await;
    scene.wait_builds([2; 4]).await;
    scene
        .wait_upstream("it to be adopted".into(), |upstream| {
            upstream["adopted"]["digest"] == newest
        })
        .await;

    let held = scene.place.digests("app").await["left"].clone();
    scene.active("h3", &json!({"action": "Hold", "image": "left"})).await;
    scene.move_upstream("4").await;
    scene.wait_states([Current, Held, Current, Current]).await;
    wait_for("the others to be rebuilt", 60, async || {
        let builds = scene.builds().await;
        if builds == [3, 2, 3, 3].map(Some) { Ok(()) } else { Err(format!("{builds:?}")) }
    })
    .await;
    let inputs = scene.image("join").await.status.and_then(|status| status.inputs).expect("inputs");
    assert_eq!(inputs.parents[0].digest, held, "a child is still built on the held digest");
    // The hold lasts as long as its object.
    let deleted = scene.place.api::<FamilyRequest>().delete("h3", &DeleteParams::default()).await;
    deleted.expect("a request");
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
            upstream["reason"] == Reason::AwaitingApproval.as_str()
        })
        .await;
    let approve = |digest: &str| {
        let by = "ann";
        json!({"action": "Approve", "upstream": "alpine", "digest": digest, "by": by})
    };
    let said = scene.refused("a1", &approve(&second)).await;
    assert!(said.contains(&third), "{said}");
    assert_eq!(scene.builds().await, [Some(1); 4]);
    scene.done("a2", &approve(&third)).await;
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
    scene.wait_running("right").await;
    scene.done("c1", &json!({"action": "Cancel", "image": "right"})).await;
    scene.wait_states([Current, Current, Failed, Blocked]).await;
    assert_eq!(scene.image("right").await.status.expect("a status").reason, Reason::Cancelled);
    wait_for("its Job to be gone", 30, async || {
        let jobs = scene.place.jobs("app").await;
        let gone = jobs.iter().all(|job| label(job, labels::IMAGE) != "right");
        if gone { Ok(()) } else { Err(format!("{jobs:#?}")) }
    })
    .await;
    scene.builder.release("right");
    scene.done("c2", &json!({"action": "Retry", "image": "right"})).await;
    scene.wait_states([Current; 4]).await;
    scene.place.wait_family("app", "Ready", 30).await;
    assert!(!scene.tag("join", "latest").await.is_empty());
}

#[tokio::test]
async fn an_invalid_request_is_rejected_or_refused_with_a_message() {
    let client = client().await;
    let scene = Scene::new(&client, "refused").await;
    let (mut spec, _operator) = scene.built(json!({ "settle": "0s" })).await;
    let digest = format!("sha256:{}", "0".repeat(64));
    for (fields, words) in [
        (json!({"action": "Hold"}), "Hold and Unhold need either `image` or `upstream`"),
        (
            json!({"action": "Hold", "image": "left", "upstream": "alpine"}),
            "Hold and Unhold need either `image` or `upstream`",
        ),
        (
            json!({"action": "Approve", "upstream": "alpine"}),
            "Approve needs `upstream` and `digest`",
        ),
        (json!({"action": "Force", "upstream": "alpine"}), "this action applies to images"),
        (json!({"action": "Force", "subtree": true}), "`subtree` needs `image`"),
        (json!({"action": "Force", "digest": digest}), "take `digest`"),
        (json!({"action": "Retry", "until": "2031-01-01T00:00:00Z"}), "only Hold takes `until`"),
        (json!({"action": "Retry", "image": "Left"}), "spec.image"),
        (json!({"action": "Retry", "reason": "a\nb"}), "spec.reason"),
        (json!({"action": "Retry", "by": "b".repeat(129)}), "spec.by"),
    ] {
        let error = scene.try_ask("r0", &fields).await.expect_err("rejected").to_string();
        assert!(error.contains(words), "{fields}: {error}");
    }
    let said = scene.refused("r1", &json!({"action": "Force", "image": "nobody"})).await;
    assert!(said.contains("no image `nobody`"), "{said}");
    let said = scene.refused("r2", &json!({"action": "Hold", "upstream": "nobody"})).await;
    assert!(said.contains("no upstream `nobody`"), "{said}");
    let past = json!({"action": "Hold", "image": "left", "until": "2001-01-01T00:00:00Z"});
    scene.refused("r3", &past).await;
    wait_for("an Event about it", 10, async || {
        let events = scene.place.list::<Event>().await;
        let found = events
            .iter()
            .any(|event| event.reason.as_deref() == Some(Reason::RequestRefused.as_str()));
        found.then_some(()).ok_or_else(|| format!("{events:#?}"))
    })
    .await;
    let change = json!({"spec": {"action": "Retry"}});
    let changed: kube::Result<FamilyRequest> =
        scene.place.api().patch("r1", &PatchParams::default(), &Patch::Merge(change)).await;
    let error = changed.expect_err("immutable").to_string();
    assert!(error.contains("a request cannot be changed"), "{error}");
    scene.assert_builds("app", 1).await;

    // A request without a family is answered, and so is one on a family that is rejected.
    scene.ask("r5", &json!({"family": "nobody", "action": "Trigger"})).await;
    let said = scene.wait_state("r5", RequestState::Waiting).await;
    assert!(said.contains("has no ImageFamily `nobody`"), "{said}");
    spec["images"][0]["from"] = json!([{ "image": "join" }]);
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Stalled", 30).await;
    scene.ask("r4", &json!({"action": "Trigger"})).await;
    let said = scene.wait_state("r4", RequestState::Waiting).await;
    assert!(said.starts_with("waits until the spec of the family is valid: "), "{said}");
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
async fn the_plugin_requests_and_says_what_happens() {
    let client = client().await;
    let scene = Scene::new(&client, "plugin").await;
    let mut operator = Operator::ready(&scene.settings()).await;
    let mut spec = scene.spec();
    spec["upstreams"][0]["approval"] = json!("Manual");
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;

    let (done, said) = plugin(&scene, "hold app/left --for 72h --reason release").await;
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
    let (done, said) = plugin(&scene, "hold app --upstream nobody").await;
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

    let suspended = json!({"spec": {"suspend": true}});
    let patched: kube::Result<ImageFamily> =
        scene.place.api().patch("app", &PatchParams::default(), &Patch::Merge(suspended)).await;
    patched.expect("a family");
    let (done, said) = plugin(&scene, "force app/left").await;
    assert!(done && said.contains("\nwaiting: waits until spec.suspend is cleared"), "{said}");
    let (done, said) = plugin(&scene, "trigger app --wait --timeout 1s").await;
    assert!(!done && said.contains("not carried out within 1s: waiting: "), "{said}");

    operator.kill();
    let (done, said) = plugin(&scene, "retry app/left").await;
    assert!(done && said.contains("no answer yet: "), "{said}");
    let resumed = json!({"spec": {"suspend": false}});
    let patched: kube::Result<ImageFamily> =
        scene.place.api().patch("app", &PatchParams::default(), &Patch::Merge(resumed)).await;
    patched.expect("a family");
    let _operator = Operator::ready(&scene.settings()).await;
    scene.wait_builds([2, 3, 2, 3]).await;
    let (done, said) = plugin(&scene, "retry app/nobody").await;
    assert!(!done && said.contains("the family has no image `nobody`"), "{said}");
    let (done, said) = plugin(&scene, "retry nobody").await;
    assert!(!done && said.contains("ImageFamily `nobody` not found"), "{said}");
}

/// The policy of the documentation, for the namespace of the test.
#[tokio::test]
async fn an_admission_policy_tells_actions_apart() {
    let client = client().await;
    let scene = Scene::new(&client, "policy").await;
    scene.place.apply_family("app", &scene.spec()).await.expect("a family");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/teams.md");
    let text = std::fs::read_to_string(path).expect("the documentation");
    let block = text
        .split("```yaml\n")
        .find(|block| block.contains("kind: ValidatingAdmissionPolicy"))
        .and_then(|block| block.split("```").next())
        .expect("a policy");
    let (policy, binding) = block.split_once("\n---\n").expect("a policy and its binding");
    let mut policy: ValidatingAdmissionPolicy = serde_yaml::from_str(policy).expect("a policy");
    let namespace = &scene.place.namespace;
    let spec = policy.spec.as_mut().expect("a spec");
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    spec.match_constraints.as_mut().expect("constraints").namespace_selector =
        Some(serde_json::from_value(selector).expect("a selector"));
    let mut binding: ValidatingAdmissionPolicyBinding =
        serde_yaml::from_str(binding).expect("a binding");
    (policy.metadata.name, binding.metadata.name) =
        (Some(namespace.clone()), Some(namespace.clone()));
    binding.spec.policy_name = namespace.clone();
    let (policies, bindings) = (Api::all(client.clone()), Api::all(client.clone()));
    policies.create(&PostParams::default(), &policy).await.expect("a policy");
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");

    wait_for("the policy to have effect", 60, async || {
        let (done, said) = plugin(&scene, "force app").await;
        let denied = !done && said.contains("only release-managers may approve and force");
        if denied { Ok(()) } else { Err(said) }
    })
    .await;
    let (done, said) = plugin(&scene, "trigger app").await;
    assert!(done, "{said}");
    let error = scene.try_ask("r1", &json!({"action": "Trigger"})).await.expect_err("rejected");
    assert!(error.to_string().contains("your own user name"), "{error}");
    bindings.delete(namespace, &DeleteParams::default()).await.expect("a binding");
    policies.delete(namespace, &DeleteParams::default()).await.expect("a policy");
}
