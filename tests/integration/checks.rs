//! Checks run before tags move and children start, their exit code decides, and none runs twice.

use std::collections::BTreeMap;

use groundswell::api::{
    CheckState, ImageState, ManagedImage, ManagedImageStatus, condition::Reason, labels,
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Pod, PodSpec},
};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        family::{self, label},
        objects::Place,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// The Jobs of checks, or of builds, of an image, ordered by check and attempt.
async fn jobs(place: &Place, component: &str, image: &str) -> Vec<Job> {
    let mut jobs = place.jobs("app").await;
    jobs.retain(|job| {
        label(job, labels::COMPONENT) == component && label(job, labels::IMAGE) == image
    });
    jobs.sort_by_key(|job| (label(job, labels::CHECK), label(job, labels::ATTEMPT)));
    jobs
}

/// Waits until the checks of the image `base` have `count` Jobs with pods. Returns each check's
/// name with its pod.
pub async fn checks(place: &Place, count: usize) -> Vec<(String, Pod)> {
    wait_for(format!("{count} checks"), 60, async || {
        let mut found = Vec::new();
        for job in jobs(place, labels::COMPONENT_CHECK, "base").await {
            let of_job = ListParams::default()
                .labels(&format!("batch.kubernetes.io/job-name={}", job.name_any()));
            let pods = place.api::<Pod>().list(&of_job).await.expect("pods").items;
            found.extend(pods.into_iter().map(|pod| (label(&job, labels::CHECK), pod)));
        }
        if found.len() == count {
            Ok(found)
        } else {
            Err(format!("{} checks, {:?}", found.len(), status(place).await))
        }
    })
    .await
}

/// Whether something else than the check ended its pod.
#[derive(PartialEq)]
pub enum Disruption {
    None,
    Evicted,
}

/// Ends the pod of a check as a kubelet would.
pub async fn end(place: &Place, pod: &Pod, exit_code: i32, said: &str, disruption: Disruption) {
    let phase = if exit_code == 0 { "Succeeded" } else { "Failed" };
    let ended = json!({ "exitCode": exit_code, "reason": "Error", "message": said });
    let mut status = json!({ "phase": phase, "containerStatuses": [{
        "name": "check", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
        "state": { "terminated": ended },
    }] });
    if disruption == Disruption::Evicted {
        status["conditions"] = json!([{
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
        }]);
    }
    let patch = Patch::Merge(json!({ "status": status }));
    let pods = place.api::<Pod>();
    pods.patch_status(&pod.name_any(), &PatchParams::default(), &patch).await.expect("a pod's end");
}

async fn status(place: &Place) -> ManagedImageStatus {
    let image = place.api::<ManagedImage>().get_opt("app.base").await.expect("an answer");
    image.and_then(|image| image.status).unwrap_or_default()
}

/// A family of `base`, with these checks, and `left`, which is built on it.
fn spec(scene: &Scene, checks: &Value) -> Value {
    let mut spec = scene.spec();
    let mut base = family::image("base", "alpine");
    base["checks"] = checks.clone();
    spec["images"] = json!([base, family::image("left", "base")]);
    spec["policy"] = json!({ "settle": "0s", "retries": { "build": 0, "infrastructure": 1 } });
    spec
}

/// The image that checks run in, by its name in the cluster's registry.
struct Scanner<'a> {
    scene: &'a Scene,
    repository: String,
}

impl<'a> Scanner<'a> {
    fn of(scene: &'a Scene) -> Self {
        Self { scene, repository: format!("{}/tools/scanner", scene.place.namespace) }
    }

    /// The name of the image, without tag and digest.
    fn name(&self) -> String {
        format!("{}/{}", cluster().registry, self.repository)
    }

    /// Pushes a version of the image over its tag. Returns the image's name with the digest.
    async fn push(&self, version: &str) -> String {
        let images = &self.scene.images;
        let digest = images.push(&self.repository, "1", None, version, &BTreeMap::new()).await;
        format!("{}@{digest}", self.name())
    }
}

fn image_of(pod: &Pod) -> &str {
    pod_spec(pod).containers[0].image.as_deref().unwrap_or_default()
}

fn pod_spec(pod: &Pod) -> &PodSpec {
    pod.spec.as_ref().expect("a spec")
}

#[tokio::test]
async fn checks_come_before_tags_and_children_and_are_run_once() {
    let client = client().await;
    let scene = Scene::new(&client, "checks").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    let scanner = Scanner::of(&scene);
    let pinned = scanner.push("1").await;
    let wanted = json!([
        {
            "name": "scan", "image": format!("{}:1", scanner.name()),
            "args": ["$(GROUNDSWELL_IMAGE)"], "required": false,
        },
        { "name": "starts", "command": ["python", "--version"] },
    ]);
    place.apply_family("app", &spec(&scene, &wanted)).await.expect("a family");
    let running = checks(place, 2).await;

    let repository = format!("{}/{}/base@sha256:", cluster().registry, place.namespace);
    let images: Vec<_> = running.iter().map(|(_, pod)| image_of(pod)).collect();
    assert_eq!(images[0], pinned);
    assert!(images[1].starts_with(&repository), "{images:?}");
    for (_, pod) in &running {
        let spec = pod_spec(pod);
        assert_eq!(spec.automount_service_account_token, Some(false));
        let given = spec.containers[0]
            .env
            .iter()
            .flatten()
            .find(|variable| variable.name == "GROUNDSWELL_IMAGE");
        assert!(
            given
                .and_then(|given| given.value.as_deref())
                .is_some_and(|image| image.starts_with(&repository))
        );
    }

    // A controller that is killed meanwhile finds them again.
    operator.kill();
    let _operator = Operator::ready(&settings).await;
    wait_for("the status to report the checks", 30, async || {
        let status = status(place).await;
        let is_checking = status.state == ImageState::Checking && status.reason == Reason::Checking;
        if is_checking { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(jobs(place, labels::COMPONENT_CHECK, "base").await.len(), 2);
    assert!(
        jobs(place, labels::COMPONENT_BUILD, "left").await.is_empty(),
        "a child was built from an unchecked parent"
    );
    assert!(status(place).await.tags.is_empty(), "a tag was moved to an unchecked digest");

    end(place, &running[0].1, 1, "3 findings, TOKEN=hunter2", Disruption::None).await;
    end(place, &running[1].1, 0, "Python 3.12", Disruption::None).await;
    place.wait_family("app", "Ready", 60).await;
    let status = status(place).await;
    let states: Vec<_> =
        status.checks.iter().map(|check| (check.name.as_str(), check.state)).collect();
    assert_eq!(states, [("scan", CheckState::Failed), ("starts", CheckState::Passed)]);
    assert!(status.checks[0].message.ends_with("3 findings, TOKEN=***"), "{:?}", status.checks);
    assert_eq!(status.checks[1].message, "Python 3.12");
    assert_eq!(scene.tag("base", "latest").await, status.digest.expect("a digest"));
    assert_eq!(jobs(place, labels::COMPONENT_CHECK, "base").await.len(), 2);
    for image in ["base", "left"] {
        assert_eq!(jobs(place, labels::COMPONENT_BUILD, image).await.len(), 1, "builds of {image}");
    }
}

#[tokio::test]
async fn a_failed_check_blocks_tags_and_children_until_it_is_corrected() {
    let client = client().await;
    let scene = Scene::new(&client, "checks").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let mut wanted = json!([{ "name": "starts", "command": ["pythn"] }]);
    place.apply_family("app", &spec(&scene, &wanted)).await.expect("a family");

    // An eviction says nothing about the image: the check gets another attempt.
    let running = checks(place, 1).await;
    end(place, &running[0].1, 137, "", Disruption::Evicted).await;
    let running = checks(place, 2).await;
    end(place, &running[1].1, 3, "no pythn here", Disruption::None).await;
    let failed = wait_for("the image to fail", 60, async || {
        let status = status(place).await;
        if status.state == ImageState::Failed { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(failed.reason, Reason::CheckFailed);
    assert!(failed.message.contains("no pythn here"), "{}", failed.message);
    assert!(failed.tags.is_empty(), "{:?}", failed.tags);
    wait_for("its child to be blocked", 30, async || {
        let image =
            place.api::<ManagedImage>().get("app.left").await.map_err(|error| error.to_string())?;
        let status = image.status.unwrap_or_default();
        if status.state == ImageState::Blocked { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert!(jobs(place, labels::COMPONENT_BUILD, "left").await.is_empty());

    // A changed check runs again, and nothing is built for it.
    wanted[0]["command"] = json!(["python"]);
    place.apply_family("app", &spec(&scene, &wanted)).await.expect("a family");
    let running = checks(place, 3).await;
    let open: Vec<_> = running
        .iter()
        .filter(|(_, pod)| {
            pod_spec(pod).containers[0].command.as_deref() == Some(&["python".to_owned()][..])
        })
        .collect();
    end(place, &open[0].1, 0, "", Disruption::None).await;
    place.wait_family("app", "Ready", 60).await;
    assert_eq!(
        jobs(place, labels::COMPONENT_BUILD, "base").await.len(),
        1,
        "a changed check rebuilds nothing"
    );
    assert_eq!(Some(scene.tag("base", "latest").await), status(place).await.digest);
}

#[tokio::test]
async fn a_check_runs_in_the_digest_that_the_tag_of_its_image_has() {
    let client = client().await;
    let scene = Scene::new(&client, "scanner").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    let scanner = Scanner::of(&scene);
    let wanted = json!([{ "name": "scan", "image": format!("{}:1", scanner.name()) }]);
    let account = json!({ "username": "robot", "password": "hunter2" });
    let config = json!({ "auths": { &cluster().registry: account } }).to_string();
    place.secret("push", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &config).await;
    let mut spec = spec(&scene, &wanted);
    spec["credentials"] = json!([{ "name": "push" }]);
    place.apply_family("app", &spec).await.expect("a family");

    // The image does not exist yet.
    let waiting = wait_for("the check to wait for its image", 60, async || {
        let status = status(place).await;
        let waits = status.reason == Reason::ImageNotFound;
        if waits { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!(waiting.state, ImageState::Checking);
    let expected = format!("{}:1 does not exist in the registry", scanner.name());
    let message = &waiting.message;
    assert!(message.starts_with("check scan: ") && message.contains(&expected), "{message}");
    assert_eq!(jobs(place, labels::COMPONENT_CHECK, "base").await.len(), 0);

    let first = scanner.push("1").await;
    let running = checks(place, 1).await;
    assert_eq!(image_of(&running[0].1), first);
    // The image is code of others: it gets nothing that can push.
    let pod = pod_spec(&running[0].1);
    assert_eq!((pod.init_containers.as_deref(), pod.volumes.as_deref()), (None, None));
    let job = &jobs(place, labels::COMPONENT_CHECK, "base").await[0];
    assert_eq!(label(job, labels::ATTEMPT), "0", "waiting spends no attempt");

    // The tag moves, and another controller finds the Job: the digest stays.
    let second = scanner.push("2").await;
    operator.kill();
    let _operator = Operator::ready(&settings).await;
    end(place, &running[0].1, 0, "no findings", Disruption::None).await;
    place.wait_family("app", "Ready", 60).await;
    let passed = status(place).await;
    assert_eq!(passed.checks[0].image.as_ref(), Some(&first), "{:?}", passed.checks);
    assert_eq!((passed.checks[0].state, passed.failure), (CheckState::Passed, None));
    assert_eq!(jobs(place, labels::COMPONENT_CHECK, "base").await.len(), 1, "checked once");

    // The next digest is checked in what the tag points to by then.
    scene.move_upstream("2").await;
    let running = checks(place, 2).await;
    let again = running.iter().find(|(_, pod)| image_of(pod) == second);
    let (_, again) = again.unwrap_or_else(|| panic!("no check runs in {second}"));
    end(place, again, 0, "no findings", Disruption::None).await;
    wait_for("the new digest to have passed", 60, async || {
        let status = status(place).await;
        let has_passed = status.digest != passed.digest && status.state == ImageState::Current;
        let image = status.checks.first().and_then(|check| check.image.as_ref());
        if has_passed && image == Some(&second) { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
}
