//! Families of two namespaces that stand on one another: consent, cascades that cross from one to
//! the other, circles.

use std::collections::BTreeMap;

use groundswell::api::{
    CauseType, ImageState, ManagedImage, ManagedImageStatus, condition::reason,
};
use kube::Client;
use serde_json::{Value, json};

use super::{
    builder::{Builder, STRATEGY},
    client, cluster,
    restart::Scene,
    support::{
        family,
        objects::Place,
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// The family `platform` with `base` and, on that, `tools`, in one namespace; and in another the
/// family `shop`, whose `join` stands on both and whose `app` stands on `join`.
struct Streets {
    platform: Scene,
    shop: Place,
    _builder: Builder,
    _operator: Operator,
}

impl Streets {
    async fn new(client: &Client) -> Self {
        let platform = Scene::new(client, "platform").await;
        let shop = Place::new(client, "shop").await;
        let builder = Builder::start(&shop, &platform.images);
        let settings = Settings {
            beside: vec![shop.namespace.clone()],
            ..Settings::new(cluster(), &platform.place.namespace, &[])
        };
        Self { platform, shop, _builder: builder, _operator: Operator::ready(&settings).await }
    }

    /// The spec of `platform`, with these exports to the namespace of `shop`.
    fn platform(&self, exports: &[&str]) -> Value {
        let mut spec = self.platform.spec();
        spec["images"] = json!([family::image("base", "alpine"), family::image("tools", "base")]);
        let export = |image: &&str| json!({ "image": image, "namespaces": [self.shop.namespace] });
        spec["exports"] = exports.iter().map(export).collect();
        spec
    }

    /// The spec of `shop`.
    fn shop(&self) -> Value {
        let repository = format!("{}/{}", cluster().registry, self.shop.namespace);
        let mut spec = family::spec(&repository, "docker.io/library/unused", STRATEGY);
        let platform = json!({ "namespace": self.platform.place.namespace, "name": "platform" });
        let mut join = family::image("join", "base");
        join["from"] = json!([
            { "family": platform, "image": "tools", "arg": "BASE_IMAGE" },
            { "family": platform, "image": "base", "as": "base", "use": "BuildStage" },
        ]);
        spec["upstreams"] = json!([]);
        spec["images"] = json!([join, family::image("app", "join")]);
        spec
    }

    async fn apply(&self, platform: &Value, shop: &Value) {
        self.platform.place.apply_family("platform", platform).await.expect("platform");
        self.shop.apply_family("shop", shop).await.expect("shop");
    }

    async fn record(&self, place: &Place, name: &str) -> ManagedImageStatus {
        place
            .api::<ManagedImage>()
            .get(name)
            .await
            .ok()
            .and_then(|image| image.status)
            .unwrap_or_default()
    }

    /// Waits until an image of `shop` is in this state for this reason. Returns its message.
    async fn wait(&self, image: &str, state: ImageState, reason: &str) -> String {
        wait_for(format!("{image} to be {} for {reason}", state.as_str()), 60, async || {
            let status = self.record(&self.shop, &format!("shop.{image}")).await;
            let found = format!("{} {}: {}", status.state.as_str(), status.reason, status.message);
            if (status.state, status.reason.as_str()) == (state, reason) {
                Ok(status.message)
            } else {
                Err(found)
            }
        })
        .await
    }

    /// Builds per image of `shop`.
    async fn builds(&self) -> BTreeMap<String, usize> {
        let mut builds = BTreeMap::new();
        for ((image, fingerprint), jobs) in self.shop.jobs_per_fingerprint("shop").await {
            assert_eq!(jobs, 1, "Jobs of {image} at {fingerprint}");
            *builds.entry(image).or_default() += 1;
        }
        builds
    }
}

fn built(times: usize) -> BTreeMap<String, usize> {
    ["app", "join"].map(|image| (image.to_owned(), times)).into()
}

#[tokio::test]
async fn consent_is_asked_for_and_can_be_withdrawn() {
    let streets = Streets::new(&client().await).await;
    let (exported, shop) = (streets.platform(&["base", "tools"]), streets.shop());
    streets.apply(&streets.platform(&["base"]), &shop).await;
    let message = streets.wait("join", ImageState::Waiting, reason::IMPORT_REFUSED).await;
    assert!(
        message
            .contains("/platform, which does not export it: have it listed in spec.exports there"),
        "{message}"
    );
    streets.platform.place.wait_family("platform", "Ready", 60).await;
    assert_eq!(streets.builds().await, BTreeMap::new());

    streets.apply(&exported, &shop).await;
    streets.shop.wait_family("shop", "Ready", 60).await;
    assert_eq!(streets.builds().await, built(1));
    let digests = streets.shop.digests("shop").await;

    let mut renamed = exported.clone();
    renamed["images"][1]["name"] = json!("toolbox");
    renamed["exports"][1]["image"] = json!("toolbox");
    for (changed, words) in [
        (streets.platform(&["base"]), "which does not export it"),
        (renamed, "which has none of that name: it was renamed or taken out there"),
    ] {
        streets.apply(&changed, &shop).await;
        let message = wait_for(format!("join to be told `{words}`"), 60, async || {
            let message = streets.wait("join", ImageState::Waiting, reason::IMPORT_REFUSED).await;
            if message.contains(words) { Ok(()) } else { Err(message) }
        });
        message.await;
        assert_eq!(streets.shop.digests("shop").await, digests, "what is built stays");
    }
    streets.apply(&exported, &shop).await;
    streets.shop.wait_family("shop", "Ready", 60).await;
    assert_eq!((streets.builds().await, streets.shop.digests("shop").await), (built(1), digests));
}

#[tokio::test]
async fn a_cascade_crosses_families_and_builds_a_join_once() {
    let streets = Streets::new(&client().await).await;
    streets.apply(&streets.platform(&["base", "tools"]), &streets.shop()).await;
    streets.shop.wait_family("shop", "Ready", 90).await;
    let digests = streets.shop.digests("shop").await;

    streets.platform.builder.hold("tools");
    let moved = streets.platform.move_upstream("2").await;
    wait_for("tools to be built", 60, async || {
        let state = streets.record(&streets.platform.place, "platform.tools").await.state;
        if state == ImageState::Building { Ok(()) } else { Err(state.as_str().to_owned()) }
    })
    .await;
    streets.wait("join", ImageState::Waiting, reason::WAITING_FOR_PARENT).await;
    assert_eq!(
        streets.builds().await,
        built(1),
        "one side of the join is built anew, and the other is on its way"
    );

    streets.platform.builder.release("tools");
    streets.shop.wait_rebuilt("shop", &digests, 90).await;
    assert_eq!(streets.builds().await, built(2));
    let causes = streets.record(&streets.shop, "shop.app").await.causes;
    let root = causes
        .iter()
        .find(|cause| cause.type_ == CauseType::Upstream)
        .unwrap_or_else(|| panic!("{causes:?}"));
    assert_eq!(
        (root.name.as_str(), root.to.as_str()),
        ("alpine", moved.as_str()),
        "down to what moved first"
    );
}

#[tokio::test]
async fn a_circle_through_two_families_is_named_and_stops_nobody_else() {
    let streets = Streets::new(&client().await).await;
    let platform = streets.platform(&["base", "tools"]);
    let mut shop = streets.shop();
    shop["exports"] = json!([{ "image": "app", "namespaces": ["*"] }]);
    streets.apply(&platform, &shop).await;
    streets.shop.wait_family("shop", "Ready", 90).await;

    let mut circle = platform.clone();
    let app = json!({ "family": { "namespace": streets.shop.namespace, "name": "shop" }, "image": "app", "as": "app", "use": "BuildStage" });
    circle["images"][1]["from"].as_array_mut().expect("edges").push(app);
    streets.apply(&circle, &shop).await;
    let [ours, theirs] = [&streets.platform.place.namespace, &streets.shop.namespace];
    let words = format!(
        "{theirs}/shop.join -> {ours}/platform.tools -> {theirs}/shop.app -> {theirs}/shop.join"
    );
    let message = streets.wait("join", ImageState::Waiting, reason::IMPORT_REFUSED).await;
    assert!(message.contains(&words), "{message}");
    wait_for("the other family to name it as well", 60, async || {
        let status = streets.record(&streets.platform.place, "platform.tools").await;
        if status.reason == reason::IMPORT_REFUSED { Ok(()) } else { Err(status.message) }
    })
    .await;

    let before = streets.platform.place.digests("platform").await;
    streets.platform.move_upstream("2").await;
    wait_for("base to be built, which is not on the circle", 60, async || {
        let digests = streets.platform.place.digests("platform").await;
        if digests["base"] == before["base"] { Err(format!("{digests:?}")) } else { Ok(()) }
    })
    .await;
    let digests = streets.shop.digests("shop").await;
    streets.apply(&platform, &shop).await;
    streets.shop.wait_rebuilt("shop", &digests, 90).await;
    streets.platform.place.wait_family("platform", "Ready", 60).await;
    assert_eq!(streets.builds().await, built(2));
}
