//! Jobs that the cluster does not admit wait with the words of the refuser, spend no attempt, and
//! are created once they are admitted.

use groundswell::api::{ImageState, ManagedImage, ManagedImageStatus, condition::Reason, labels};
use k8s_openapi::api::{
    admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding},
    batch::v1::Job,
    core::v1::ResourceQuota,
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    client, cluster,
    restart::Scene,
    support::{
        family::label,
        objects::Place,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// Limits a resource of a namespace.
async fn quota(place: &Place, resource: &str, hard: &str) {
    let quotas = place.api::<ResourceQuota>();
    let quota = json!({"metadata": {"name": "small"}, "spec": {"hard": {resource: hard}}});
    let quota = serde_json::from_value(quota).expect("a quota");
    quotas.create(&PostParams::default(), &quota).await.expect("a quota");
    // A quota counts only once its controller has noted what is used.
    let used = json!({"status": {"hard": {resource: hard}, "used": {resource: "0"}}});
    let patch = Patch::Merge(used);
    quotas.patch_status("small", &PatchParams::default(), &patch).await.expect("a use");
}

async fn lift_quota(place: &Place) {
    let quotas = place.api::<ResourceQuota>();
    quotas.delete("small", &DeleteParams::default()).await.expect("a deletion");
}

async fn status(place: &Place) -> ManagedImageStatus {
    let image = place.api::<ManagedImage>().get_opt("app.base").await.expect("an answer");
    image.and_then(|image| image.status).unwrap_or_default()
}

/// Waits until the image `base` waits with this reason, and returns its message.
async fn wait_refused(place: &Place, reason: Reason) -> String {
    let waiting = wait_for("the image to say that it is not admitted", 110, async || {
        let status = status(place).await;
        if status.reason == reason { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await;
    assert_eq!((waiting.state, waiting.failure), (ImageState::Queued, None));
    waiting.message
}

/// Waits until everything is built, and fails if an attempt was spent.
async fn wait_built(scene: &Scene) {
    scene.place.wait_family("app", "Ready", 120).await;
    scene.assert_builds("app", 1).await;
    let jobs = scene.place.jobs("app").await;
    let attempts: Vec<String> = jobs.iter().map(|job: &Job| label(job, labels::ATTEMPT)).collect();
    assert!(attempts.iter().all(|attempt| attempt == "0"), "{attempts:?}");
    assert_eq!(status(&scene.place).await.failure, None);
}

#[tokio::test]
async fn an_image_waits_for_a_quota_and_spends_no_attempt() {
    let client = client().await;
    let scene = Scene::new(&client, "quota").await;
    let place = &scene.place;
    quota(place, "count/jobs.batch", "0").await;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    place.apply_family("app", &scene.spec()).await.expect("a family");
    let message = wait_refused(place, Reason::QuotaTooSmall).await;
    assert!(message.contains("never fits into the quota `small`"), "{message}");
    assert!(message.contains("exceeded quota: small"), "{message}");
    lift_quota(place).await;
    wait_built(&scene).await;
}

/// The fourth pause is more than a minute.
#[tokio::test]
async fn a_changed_quota_wakes_the_images_that_wait_for_it() {
    let client = client().await;
    let scene = Scene::new(&client, "woken").await;
    let place = &scene.place;
    quota(place, "count/jobs.batch", "0").await;
    let operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    place.apply_family("app", &scene.spec()).await.expect("a family");
    wait_for("the fourth rejection", 110, async || {
        let rejections = operator.log().matches("the Job is not admitted now").count();
        if rejections >= 4 { Ok(()) } else { Err(format!("{rejections} rejections")) }
    })
    .await;
    lift_quota(place).await;
    wait_for("the first build", 30, async || {
        let jobs = place.jobs("app").await.len();
        if jobs > 0 { Ok(()) } else { Err("no Job") }
    })
    .await;
    wait_built(&scene).await;
}

#[tokio::test]
async fn an_image_waits_for_a_policy_and_spends_no_attempt() {
    let client = client().await;
    let scene = Scene::new(&client, "policy").await;
    let place = &scene.place;
    let name = &place.namespace;
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let policy = json!({"metadata": {"name": name}, "spec": {
        "matchConstraints": {"resourceRules": [{"apiGroups": ["batch"], "apiVersions": ["v1"],
            "operations": ["CREATE"], "resources": ["jobs"]}]},
        "validations": [{"expression": "false", "message": "no builds on Sundays"}],
    }});
    let policy = serde_json::from_value(policy).expect("a policy");
    policies.create(&PostParams::default(), &policy).await.expect("a policy");
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let here = json!({"kubernetes.io/metadata.name": place.namespace});
    let binding = json!({"metadata": {"name": name}, "spec": {"policyName": name,
        "validationActions": ["Deny"],
        "matchResources": {"namespaceSelector": {"matchLabels": here}}}});
    let binding = serde_json::from_value(binding).expect("a binding");
    bindings.create(&PostParams::default(), &binding).await.expect("a binding");
    let container = json!({"name": "c", "image": "i"});
    let pod = json!({"containers": [container], "restartPolicy": "Never"});
    let job = json!({"metadata": {"name": "j"}, "spec": {"template": {"spec": pod}}});
    let job: Job = serde_json::from_value(job).expect("a Job");
    wait_for("the policy to be in force", 60, async || {
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let answer = place.api::<Job>().create(&dry, &job).await;
        answer.map_or(Ok(()), |_| Err("a Job was admitted".to_owned()))
    })
    .await;

    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    place.apply_family("app", &scene.spec()).await.expect("a family");
    // The API server answers 422, as it does to a malformed Job.
    let message = wait_refused(place, Reason::JobRefused).await;
    assert!(message.contains("denied request: no builds on Sundays; change the"), "{message}");
    bindings.delete(name, &DeleteParams::default()).await.expect("a deletion");
    policies.delete(name, &DeleteParams::default()).await.expect("a deletion");
    wait_built(&scene).await;
}

#[tokio::test]
async fn an_image_whose_pod_is_refused_says_so_and_spends_no_attempt() {
    let client = client().await;
    let scene = Scene::new(&client, "pods").await;
    let place = &scene.place;
    quota(place, "limits.cpu", "8").await;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    place.apply_family("app", &scene.spec()).await.expect("a family");
    let message = wait_refused(place, Reason::JobRefused).await;
    assert!(message.contains("failed quota: small: must specify limits.cpu for: "), "{message}");
    assert!(message.contains("`cpuLimit`"), "{message}");
    wait_for("the Job to be gone", 60, async || {
        let jobs = place.jobs("app").await.len();
        if jobs == 0 { Ok(()) } else { Err(format!("{jobs} Jobs")) }
    })
    .await;
    lift_quota(place).await;
    wait_built(&scene).await;
}
