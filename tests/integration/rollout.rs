//! Rollouts: workloads of every kind get a new digest, and nothing else in them changes. No pod
//! starts here.

use std::collections::BTreeSet;

use futures::StreamExt as _;
use groundswell::{
    api::{self, Rollout, RolloutMode, RolloutState, WorkloadKind},
    object_watch::DeniedWatches,
    rollout::{
        self, ChangedObject, DigestOrigin, RolloutError, RolloutFamily, RolloutStep, WorkloadStore,
    },
};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    batch::v1::CronJob,
    core::v1::Namespace,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{
    client,
    support::{objects::Place, wait::wait_for},
};

const REPOSITORY: &str = "registry.example.com/team/app";
const DIGEST: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

/// A filled cache that watches keep up to date until it is dropped.
struct Watching {
    stores: WorkloadStore,
    work: JoinHandle<()>,
    changed: tokio::sync::mpsc::UnboundedReceiver<ChangedObject>,
}

impl Watching {
    async fn start(client: &Client, namespaces: &[&Place]) -> Self {
        let only: BTreeSet<String> =
            namespaces.iter().map(|place| place.namespace.clone()).collect();
        let (stores, mut changes) = WorkloadStore::start(client, &only, &DeniedWatches::default());
        let (report, changed) = tokio::sync::mpsc::unbounded_channel();
        let work = tokio::spawn(async move {
            while let Some(change) = changes.next().await {
                _ = report.send(change);
            }
        });
        let watching = Self { stores, work, changed };
        wait_for("the caches to be filled", 20, async || {
            let waiting = watching.stores.waiting_for();
            if waiting.is_empty() { Ok(()) } else { Err(format!("{waiting:?}")) }
        })
        .await;
        watching
    }

    fn plan(&self, place: &Place, rollouts: &[Rollout]) -> Vec<RolloutStep> {
        let family = RolloutFamily {
            namespace: &place.namespace,
            name: "images",
            origin: DigestOrigin::Built,
        };
        rollout::plan(family, REPOSITORY, DIGEST, rollouts, &self.stores)
    }

    /// Waits until every step of the plan satisfies `wanted`.
    async fn wait_steps(
        &self,
        place: &Place,
        rollouts: &[Rollout],
        wanted: impl Fn(&RolloutStep) -> bool,
    ) {
        wait_for("the plan to be as wanted", 20, async || {
            let steps = self.plan(place, rollouts);
            if steps.iter().all(&wanted) { Ok(()) } else { Err(format!("{steps:#?}")) }
        })
        .await;
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.work.abort();
    }
}

fn shown<K: Serialize>(object: &K) -> Value {
    serde_json::to_value(object).expect("JSON")
}

fn pods(old: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {
            "restartPolicy": "Always",
            "initContainers": [{"name": "prepare", "image": old}],
            "containers": [
                {"name": "proxy", "image": "docker.io/library/envoy:1"},
                {
                    "name": "app", "image": old, "imagePullPolicy": "Always",
                    "env": [{"name": "COLOUR", "value": "blue"}]
                }
            ]
        }
    })
}

fn spec(kind: WorkloadKind, old: &str) -> Value {
    let selector = json!({"matchLabels": {"app": "web"}});
    let mut pods = pods(old);
    match kind {
        WorkloadKind::Deployment => {
            json!({
                "selector": selector, "template": pods,
                "progressDeadlineSeconds": 2, "minReadySeconds": 0,
            })
        }
        WorkloadKind::StatefulSet => {
            json!({"selector": selector, "template": pods, "serviceName": "web"})
        }
        WorkloadKind::DaemonSet => json!({"selector": selector, "template": pods}),
        WorkloadKind::CronJob => {
            pods["spec"]["restartPolicy"] = "Never".into();
            json!({
                "schedule": "0 3 * * *", "suspend": true,
                "jobTemplate": {"spec": {"template": pods}},
            })
        }
    }
}

async fn create<K>(place: &Place, kind: WorkloadKind, old: &str) -> K
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Serialize
        + DeserializeOwned
        + std::fmt::Debug,
{
    let body =
        json!({"metadata": {"name": "web", "labels": {"team": "shop"}}, "spec": spec(kind, old)});
    let object: K = serde_json::from_value(body).expect("a workload");
    place.api::<K>().create(&PostParams::default(), &object).await.expect("created")
}

fn rollout(kind: WorkloadKind, mode: RolloutMode, namespace: Option<&str>) -> Rollout {
    let workload = Some(api::Workload {
        name: Some("web".into()),
        namespace: namespace.map(Into::into),
        ..api::Workload::default()
    });
    let mut rollout = Rollout { mode, container: Some("app".into()), ..Rollout::default() };
    match kind {
        WorkloadKind::Deployment => rollout.deployment = workload,
        WorkloadKind::StatefulSet => rollout.stateful_set = workload,
        WorkloadKind::DaemonSet => rollout.daemon_set = workload,
        WorkloadKind::CronJob => rollout.cron_job = workload,
    }
    rollout
}

/// Fails unless the specs before and after differ only in the images of these containers.
fn assert_only_images_changed(before: &Value, after: &Value, template: &str, changed: &[&str]) {
    let mut expected = before["spec"].clone();
    for place in changed {
        *expected.pointer_mut(&format!("{template}/spec/{place}/image")).expect("a container") =
            format!("{REPOSITORY}@{DIGEST}").into();
    }
    assert_eq!(expected, after["spec"]);
}

#[tokio::test]
async fn workloads_of_every_kind_get_the_digest() {
    let client = client().await;
    let place = Place::new(&client, "rollout").await;
    let old = format!("{REPOSITORY}:1.0");
    let before = [
        shown(&create::<Deployment>(&place, WorkloadKind::Deployment, &old).await),
        shown(&create::<StatefulSet>(&place, WorkloadKind::StatefulSet, &old).await),
        shown(&create::<DaemonSet>(&place, WorkloadKind::DaemonSet, &old).await),
        shown(&create::<CronJob>(&place, WorkloadKind::CronJob, &old).await),
    ];
    let watching = Watching::start(&client, &[&place]).await;
    let kinds = [
        WorkloadKind::Deployment,
        WorkloadKind::StatefulSet,
        WorkloadKind::DaemonSet,
        WorkloadKind::CronJob,
    ];
    // No container is named: both containers of the repository get the digest.
    let rollouts =
        kinds.map(|kind| Rollout { container: None, ..rollout(kind, RolloutMode::Digest, None) });

    let steps = watching.plan(&place, &rollouts);
    assert_eq!(steps.len(), 4);
    for step in &steps {
        rollout::apply(&client, step.patch.as_ref().expect("a change")).await.expect("applied");
    }
    watching.wait_steps(&place, &rollouts, |step| step.patch.is_none()).await;
    let again = rollout::apply(&client, steps[0].patch.as_ref().expect("a change")).await;
    assert!(matches!(again, Err(RolloutError::Conflict(_))), "{again:?}");

    let after = [
        shown(&place.api::<Deployment>().get("web").await.expect("read")),
        shown(&place.api::<StatefulSet>().get("web").await.expect("read")),
        shown(&place.api::<DaemonSet>().get("web").await.expect("read")),
        shown(&place.api::<CronJob>().get("web").await.expect("read")),
    ];
    for ((before, after), kind) in before.iter().zip(&after).zip(kinds) {
        let template =
            if kind == WorkloadKind::CronJob { "/jobTemplate/spec/template" } else { "/template" };
        assert_only_images_changed(before, after, template, &["initContainers/0", "containers/1"]);
        let managers = after["metadata"]["managedFields"].as_array().expect("managers");
        assert!(
            managers.iter().any(|entry| entry["manager"] == "groundswell/rollout"),
            "{managers:?}"
        );
    }

    let steps = watching.plan(&place, &rollouts[3..]);
    assert_eq!(steps[0].record.state, RolloutState::Complete, "a CronJob is complete at once");
    // No kubelet starts the pods, so the Deployment exceeds its own deadline.
    watching
        .wait_steps(&place, &rollouts[..1], |step| step.record.state == RolloutState::Stalled)
        .await;
}

#[tokio::test]
async fn a_restart_annotates_the_template_once() {
    let client = client().await;
    let place = Place::new(&client, "restart").await;
    let before =
        create::<Deployment>(&place, WorkloadKind::Deployment, &format!("{REPOSITORY}:1.0")).await;
    let watching = Watching::start(&client, &[&place]).await;
    let rollouts = [rollout(WorkloadKind::Deployment, RolloutMode::Restart, None)];
    let step = watching.plan(&place, &rollouts).remove(0);
    rollout::apply(&client, step.patch.as_ref().expect("a change")).await.expect("applied");
    watching.wait_steps(&place, &rollouts, |step| step.patch.is_none()).await;
    let after = place.api::<Deployment>().get("web").await.expect("read");
    let annotations = after
        .spec
        .clone()
        .and_then(|spec| spec.template.metadata)
        .and_then(|metadata| metadata.annotations);
    assert_eq!(annotations.expect("annotations")["groundswell.dev/digest"], DIGEST);
    assert_eq!(
        after.metadata.generation,
        before.metadata.generation.map(|generation| generation + 1)
    );
}

#[tokio::test]
async fn the_next_server_side_apply_conflicts_with_a_digest_and_not_with_a_restart() {
    let client = client().await;
    for mode in [RolloutMode::Digest, RolloutMode::Restart] {
        let place = Place::new(&client, "applied").await;
        let kind = WorkloadKind::Deployment;
        let manifest = Patch::Apply(json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": spec(kind, &format!("{REPOSITORY}:1.0"))
        }));
        let (api, as_owner) = (place.api::<Deployment>(), PatchParams::apply("helm"));
        api.patch("web", &as_owner, &manifest).await.expect("applied");
        let watching = Watching::start(&client, &[&place]).await;
        let step = watching.plan(&place, &[rollout(kind, mode, None)]).remove(0);
        let patch = step.patch.expect("a change");
        if mode == RolloutMode::Digest {
            assert_eq!(patch.manager.as_deref(), Some("helm"));
        }
        rollout::apply(&client, &patch).await.expect("applied");
        match (mode, api.patch("web", &as_owner, &manifest).await) {
            (RolloutMode::Digest, Err(kube::Error::Api(status))) => {
                assert!(
                    status.message.contains("conflict with \"groundswell/rollout\""),
                    "{status}"
                );
            }
            (RolloutMode::Restart, Ok(applied)) => {
                let template = shown(&applied)["spec"]["template"]["metadata"].clone();
                assert_eq!(template["annotations"]["groundswell.dev/digest"], DIGEST);
            }
            (mode, outcome) => panic!("{mode:?}: {outcome:?}"),
        }
    }
}

#[tokio::test]
async fn a_change_never_applies_to_another_object_of_the_same_name() {
    let client = client().await;
    let place = Place::new(&client, "recreated").await;
    let old = format!("{REPOSITORY}:1.0");
    create::<Deployment>(&place, WorkloadKind::Deployment, &old).await;
    let watching = Watching::start(&client, &[&place]).await;
    let planned: Vec<RolloutStep> = [RolloutMode::Digest, RolloutMode::Restart]
        .into_iter()
        .flat_map(|mode| watching.plan(&place, &[rollout(WorkloadKind::Deployment, mode, None)]))
        .collect();
    let api = place.api::<Deployment>();
    api.delete("web", &DeleteParams::background()).await.expect("deleted");
    for step in &planned {
        let outcome = rollout::apply(&client, step.patch.as_ref().expect("a change")).await;
        assert!(matches!(outcome, Err(RolloutError::Conflict(_))), "{outcome:?}");
    }
    assert!(api.get_opt("web").await.expect("asked").is_none(), "a rollout created a Deployment");
    let second = create::<Deployment>(&place, WorkloadKind::Deployment, &old).await;
    for step in &planned {
        let outcome = rollout::apply(&client, step.patch.as_ref().expect("a change")).await;
        assert!(matches!(outcome, Err(RolloutError::Conflict(_))), "{outcome:?}");
    }
    assert_eq!(api.get("web").await.expect("read").metadata.generation, second.metadata.generation);
}

#[tokio::test]
async fn another_namespace_consents_and_withdraws_its_consent() {
    let client = client().await;
    let (family, shop) = (Place::new(&client, "family").await, Place::new(&client, "shop").await);
    create::<Deployment>(&shop, WorkloadKind::Deployment, &format!("{REPOSITORY}:1.0")).await;
    let mut watching = Watching::start(&client, &[&family, &shop]).await;
    let rollouts = [rollout(WorkloadKind::Deployment, RolloutMode::Digest, Some(&shop.namespace))];
    let step = watching.plan(&family, &rollouts).remove(0);
    assert_eq!((step.record.state, step.patch.is_none()), (RolloutState::Refused, true));
    while watching.changed.try_recv().is_ok() {}

    let namespaces: Api<Namespace> = Api::all(client.clone());
    for consent in [Some(&family.namespace), None] {
        let annotations =
            json!({"metadata": {"annotations": {"groundswell.dev/rollout-from": consent}}});
        let patched = namespaces
            .patch(&shop.namespace, &PatchParams::default(), &Patch::Merge(annotations))
            .await;
        assert_eq!(patched.expect("annotated").name_any(), shop.namespace);
        watching
            .wait_steps(&family, &rollouts, |step| step.patch.is_some() == consent.is_some())
            .await;
        let reported = tokio::time::timeout(std::time::Duration::from_secs(10), async {
            while watching.changed.recv().await
                != Some(ChangedObject::Namespace(shop.namespace.clone()))
            {}
        });
        reported.await.expect("the change of the Namespace is reported");
    }
}
