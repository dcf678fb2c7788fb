//! The controller's requests to registries: few per image, and one at the registry of the base.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    client, cluster,
    guarded_registry::GuardedRegistry,
    restart::Scene,
    support::operator::{Operator, Settings},
};

/// Upper bound on the requests per image and cascade at the registry that it is pushed to: a look
/// before and after the build, the configuration, the record, a look for the immutable tag, and two
/// tags.
const MAX_PER_IMAGE: usize = 7;

#[tokio::test]
async fn a_cascade_asks_registries_a_few_times_per_image() {
    let client = client().await;
    let scene = Scene::new(&client, "asks").await;
    let own = GuardedRegistry::without_account(&cluster().registry).await;
    let of_base = GuardedRegistry::without_account(&cluster().registry).await;
    let registries = json!({
        "plainHttp": [own.host, of_base.host, cluster().registry],
        "mirrors": { "docker.io": [format!("http://{}", of_base.host)] },
    });
    let settings = Settings {
        registries: registries.to_string(),
        // The check whether a tag still points to its digest is no part of a cascade.
        audit: "1h".into(),
        ..Settings::new(cluster(), &scene.place.namespace, &[])
    };
    let _operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["repository"] = json!(format!("{}/{}", own.host, scene.place.namespace));
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    let digests = scene.place.digests("app").await;

    own.forget();
    of_base.forget();
    scene.move_upstream("2").await;
    scene.place.wait_rebuilt("app", &digests, 60).await;
    let mut requests = counted(&own);
    // The first audit of each tag comes at a time of its own.
    requests.remove("HEAD manifests a tag");
    let total: usize = requests.values().sum();
    println!("{total} requests for {} images: {requests:#?}", digests.len());
    println!("at the registry of the base: {:#?}", counted(&of_base));
    assert!(total <= MAX_PER_IMAGE * digests.len(), "{total}: {requests:#?}");
    // Polls are cheap, and their number depends on the time. What costs a pull is a GET.
    let pulls = of_base.requests().into_iter().filter(|of| of.starts_with("GET /v2/"));
    let manifests: Vec<String> = pulls.filter(|of| of.contains("/manifests/")).collect();
    assert_eq!(manifests.len(), 1, "the manifest of the new digest: {manifests:#?}");
}

/// The number of requests by method and by what they are about.
fn counted(registry: &GuardedRegistry) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    for request in registry.requests() {
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = path.split('?').next().unwrap_or_default();
        let parts: Vec<&str> = path.rsplitn(3, '/').collect();
        let name = parts.first().copied().unwrap_or_default();
        let kind = match name {
            digest if digest.starts_with("sha256:") => "by digest",
            tag if tag.starts_with("gs-") => "gs-",
            "" => "a new one",
            _ => "a tag",
        };
        let what = parts.get(1).copied().unwrap_or_default();
        *counted.entry(format!("{method} {what} {kind}")).or_default() += 1;
    }
    counted
}
