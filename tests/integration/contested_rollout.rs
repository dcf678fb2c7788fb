//! A rollout to a workload whose owner keeps changing the image back, as a self-healing GitOps tool
//! does.

use std::time::{Duration, Instant};

use groundswell::api::{ManagedImage, RolloutState, condition::Reason};
use k8s_openapi::api::{apps::v1::Deployment, events::v1::Event};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{
    client, cluster,
    restart::Scene,
    support::{
        family::{self, condition},
        objects::Place,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

const OWNER: &str = "argocd-controller";

/// The owner of a Deployment `web`, who applies its own image whenever it finds another one.
struct SelfHeal<'a> {
    place: &'a Place,
    image: String,
    /// When each revert was made.
    reverts: Vec<Instant>,
    /// How often it has looked.
    syncs: usize,
}

impl SelfHeal<'_> {
    /// Changes the image back if it is another one, and triggers a reconcile in any case.
    async fn sync(&mut self) {
        let api = self.place.api::<Deployment>();
        let deployment = api.get("web").await.expect("the Deployment");
        let pod = deployment.spec.and_then(|spec| spec.template.spec).expect("a pod");
        if pod.containers[0].image.as_ref() != Some(&self.image) {
            let manifest = json!({
                "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
                "spec": { "template": { "spec": {
                    "containers": [{ "name": "web", "image": self.image }],
                }}},
            });
            let as_owner = PatchParams::apply(OWNER).force();
            api.patch("web", &as_owner, &Patch::Apply(manifest)).await.expect("applied");
            self.reverts.push(Instant::now());
        }
        self.syncs += 1;
        let labels = json!({ "metadata": { "labels": { "syncs": self.syncs.to_string() } } });
        api.patch("web", &PatchParams::default(), &Patch::Merge(labels)).await.expect("labelled");
    }
}

#[tokio::test]
async fn a_rollout_whose_workload_is_changed_back_is_reported_and_slows_down() {
    let client = client().await;
    let scene = Scene::new(&client, "contested").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;
    let image = format!("{}/{}/base:latest", cluster().registry, place.namespace);
    place.deployment("web", &image).await;
    let mut spec = scene.spec();
    spec["images"] = json!([family::image("base", "alpine")]);
    spec["images"][0]["rollout"] = json!([{ "deployment": { "name": "web" } }]);
    place.apply_family("app", &spec).await.expect("a family");

    let mut owner = SelfHeal { place, image, reverts: Vec::new(), syncs: 0 };
    let expected = format!("manager `{OWNER}` has replaced the digest 3 times");
    wait_for("the third revert to be reported", 90, async || {
        owner.sync().await;
        let image = place.api::<ManagedImage>().get("app.base").await;
        let status = image.ok().and_then(|image| image.status).unwrap_or_default();
        let contested = condition(&status.conditions, "RolledOut").is_some_and(|rolled_out| {
            rolled_out.status == "False"
                && rolled_out.reason == Reason::RolloutContested
                && rolled_out.message.contains(&expected)
        });
        let is_recorded = status.rollouts.iter().any(|r| r.state == RolloutState::Contested);
        if contested && is_recorded { Ok(()) } else { Err(format!("{:#?}", status.rollouts)) }
    })
    .await;

    let pauses: Vec<Duration> =
        owner.reverts.windows(2).map(|pair| pair[1].duration_since(pair[0])).collect();
    assert_eq!(pauses.len(), 2, "{pauses:?}");
    assert!(pauses[1] >= Duration::from_secs(9), "the second revert is answered late: {pauses:?}");
    let deployment = place.api::<Deployment>().get("web").await.expect("the Deployment");
    assert_eq!(deployment.metadata.generation, Some(7), "three changes, and three back");
    wait_for("an Event about it on the family and on the image", 10, async || {
        let events = place.list::<Event>().await;
        let is_on = |kind: &str, event: &Event| {
            let regarding = event.regarding.as_ref().and_then(|object| object.kind.as_deref());
            event.reason.as_deref() == Some(Reason::RolloutContested.as_str())
                && regarding == Some(kind)
        };
        let found = ["ImageFamily", "ManagedImage"]
            .iter()
            .all(|kind| events.iter().any(|event| is_on(kind, event)));
        found.then_some(()).ok_or_else(|| format!("{events:#?}"))
    })
    .await;
}
