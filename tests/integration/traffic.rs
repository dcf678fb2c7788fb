//! The controller's requests to the API server: a reconcile lists nothing, and nothing is written
//! when nothing has changed.

use groundswell::api::ImageFamily;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::{
    client, cluster,
    gate::Gate,
    restart::Scene,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

#[tokio::test]
async fn a_reconcile_lists_nothing_and_an_unchanged_family_is_left_alone() {
    let client = client().await;
    let scene = Scene::new(&client, "traffic").await;
    let gate = Gate::open(&client).await;
    let settings = Settings {
        kubeconfig: gate.kubeconfig.clone(),
        ..Settings::new(cluster(), &scene.place.namespace, &[])
    };
    let operator = Operator::ready(&settings).await;
    scene.place.apply_family("app", &scene.spec()).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    assert!(
        gate.take_requests().iter().any(|asked| is_list(asked)),
        "the caches are filled by lists"
    );

    let digests = scene.place.digests("app").await;
    scene.move_upstream("2").await;
    scene.place.wait_rebuilt("app", &digests, 60).await;
    let cascade = gate.take_requests();
    let lists: Vec<&String> = cascade.iter().filter(|asked| is_list(asked)).collect();
    assert!(lists.is_empty(), "lists during the reconciles of a cascade: {lists:#?}");

    // Reconciles that find nothing new: a change that does not matter triggers each of them.
    let before = reconciles(&operator).await;
    settled(&gate).await;
    for turn in 0..5 {
        let touched = json!({ "metadata": { "annotations": { "touched": turn.to_string() } } });
        let families = scene.place.api::<ImageFamily>();
        families
            .patch("app", &PatchParams::default(), &Patch::Merge(touched))
            .await
            .expect("touched");
        wait_for("a reconcile", 20, async || {
            let now = reconciles(&operator).await;
            if now > before + turn { Ok(()) } else { Err(format!("{now} reconciles")) }
        })
        .await;
    }
    let asked = gate.take_requests();
    let calls: Vec<&String> = asked.iter().filter(|asked| !asked.contains("watch=true")).collect();
    assert!(calls.is_empty(), "requests of reconciles that found nothing new: {calls:#?}");
}

fn is_list(asked: &str) -> bool {
    // The path of a single object continues after the plural; those of lists and watches end with
    // it.
    let (method, url) = asked.split_once(' ').expect("a method");
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let plural = path.rsplit('/').next().unwrap_or_default();
    let plurals = [
        "imagefamilies",
        "managedimages",
        "cascades",
        "familyrequests",
        "buildstrategies",
        "jobs",
        "pods",
        "configmaps",
        "secrets",
        "events",
        "deployments",
        "statefulsets",
        "daemonsets",
        "cronjobs",
        "namespaces",
    ];
    method == "GET" && plurals.contains(&plural) && !query.contains("watch=true")
}

/// Waits until the controller has written what remains of the cascade.
async fn settled(gate: &Gate) {
    wait_for("the controller to come to rest", 30, async || {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let asked = gate.take_requests();
        if asked.is_empty() { Ok(()) } else { Err(format!("{asked:#?}")) }
    })
    .await;
}

/// The number of reconciles of families so far.
async fn reconciles(operator: &Operator) -> u64 {
    let (_, metrics) = operator.get("metrics").await.expect("metrics");
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("groundswell_reconciles_total{kind=\"ImageFamily\"} "));
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}
