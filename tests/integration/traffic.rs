//! What the controller asks of the API server: no list in a pass, and no write where nothing has
//! changed.

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
async fn a_pass_lists_nothing_and_a_quiet_family_is_left_alone() {
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
    assert!(gate.taken().iter().any(|asked| is_list(asked)), "the caches are filled by lists");

    let digests = scene.place.digests("app").await;
    scene.move_upstream("2").await;
    scene.place.wait_rebuilt("app", &digests, 60).await;
    let cascade = gate.taken();
    let lists: Vec<&String> = cascade.iter().filter(|asked| is_list(asked)).collect();
    assert!(lists.is_empty(), "lists in the passes of a cascade: {lists:#?}");

    // Passes that find nothing new: each is set off by a change that means nothing to it.
    let before = passes(&operator).await;
    settled(&gate).await;
    for turn in 0..5 {
        let touched = json!({ "metadata": { "annotations": { "touched": turn.to_string() } } });
        let families = scene.place.api::<ImageFamily>();
        families
            .patch("app", &PatchParams::default(), &Patch::Merge(touched))
            .await
            .expect("touched");
        wait_for("a pass", 20, async || {
            let now = passes(&operator).await;
            if now > before + turn { Ok(()) } else { Err(format!("{now} passes")) }
        })
        .await;
    }
    let asked = gate.taken();
    let calls: Vec<&String> = asked.iter().filter(|asked| !asked.contains("watch=true")).collect();
    assert!(calls.is_empty(), "calls of passes that found nothing new: {calls:#?}");
}

fn is_list(asked: &str) -> bool {
    // Of the kinds that passes read one by one, the path goes on after the plural; lists and
    // watches end with it.
    let (method, url) = asked.split_once(' ').expect("a method");
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let plural = path.rsplit('/').next().unwrap_or_default();
    let plurals = [
        "imagefamilies",
        "managedimages",
        "cascades",
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

/// Waits until what the cascade has left to write is written.
async fn settled(gate: &Gate) {
    wait_for("the controller to come to rest", 30, async || {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        let asked = gate.taken();
        if asked.is_empty() { Ok(()) } else { Err(format!("{asked:#?}")) }
    })
    .await;
}

/// How many passes over families there have been.
async fn passes(operator: &Operator) -> u64 {
    let (_, metrics) = operator.get("metrics").await.expect("metrics");
    let count = metrics
        .lines()
        .find_map(|line| line.strip_prefix("groundswell_reconciles_total{kind=\"ImageFamily\"} "));
    count.and_then(|count| count.parse().ok()).unwrap_or_default()
}
