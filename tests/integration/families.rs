//! Families of two namespaces that depend on one another: consent, cascades that cross from one to
//! the other, cycles.

use std::collections::BTreeMap;

use groundswell::api::{
    CauseType, ImageState, ManagedImage, ManagedImageStatus, condition::Reason,
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

/// Two families in two namespaces: `platform` with `base` and, built on it, `tools`; and `shop`,
/// whose `join` is built on both and whose `app` is built on `join`.
struct TwoFamilies {
    platform: Scene,
    shop: Place,
    _builder: Builder,
    _operator: Operator,
}

impl TwoFamilies {
    async fn new(client: &Client) -> Self {
        let platform = Scene::new(client, "platform").await;
        let shop = Place::new(client, "shop").await;
        let builder = Builder::start(&shop, &platform.images);
        let settings = Settings {
            more_namespaces: vec![shop.namespace.clone()],
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
    async fn wait(&self, image: &str, state: ImageState, reason: Reason) -> String {
        wait_for(format!("{image} to be {} for {reason}", state.as_str()), 60, async || {
            let status = self.record(&self.shop, &format!("shop.{image}")).await;
            let found = format!("{} {}: {}", status.state.as_str(), status.reason, status.message);
            if status.state == state && status.reason == reason {
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
async fn an_import_needs_consent_which_can_be_withdrawn() {
    let families = TwoFamilies::new(&client().await).await;
    let (exported, shop) = (families.platform(&["base", "tools"]), families.shop());
    families.apply(&families.platform(&["base"]), &shop).await;
    let message = families.wait("join", ImageState::Waiting, Reason::ImportRefused).await;
    assert!(
        message.contains(
            "/platform, which does not export it: ask its owner to add the image to spec.exports"
        ),
        "{message}"
    );
    families.platform.place.wait_family("platform", "Ready", 60).await;
    assert_eq!(families.builds().await, BTreeMap::new());

    families.apply(&exported, &shop).await;
    families.shop.wait_family("shop", "Ready", 60).await;
    assert_eq!(families.builds().await, built(1));
    let digests = families.shop.digests("shop").await;

    let mut renamed = exported.clone();
    renamed["images"][1]["name"] = json!("toolbox");
    renamed["exports"][1]["image"] = json!("toolbox");
    for (changed, words) in [
        (families.platform(&["base"]), "which does not export it"),
        (renamed, "does not have, or no longer"),
    ] {
        families.apply(&changed, &shop).await;
        let message =
            wait_for(format!("the message of join to contain `{words}`"), 60, async || {
                let message =
                    families.wait("join", ImageState::Waiting, Reason::ImportRefused).await;
                if message.contains(words) { Ok(()) } else { Err(message) }
            });
        message.await;
        assert_eq!(families.shop.digests("shop").await, digests, "the built digests stay");
    }
    families.apply(&exported, &shop).await;
    families.shop.wait_family("shop", "Ready", 60).await;
    assert_eq!((families.builds().await, families.shop.digests("shop").await), (built(1), digests));
}

#[tokio::test]
async fn a_cascade_crosses_families_and_builds_a_join_once() {
    let families = TwoFamilies::new(&client().await).await;
    families.apply(&families.platform(&["base", "tools"]), &families.shop()).await;
    families.shop.wait_family("shop", "Ready", 90).await;
    let digests = families.shop.digests("shop").await;

    families.platform.builder.hold("tools");
    let moved = families.platform.move_upstream("2").await;
    wait_for("tools to be built", 60, async || {
        let state = families.record(&families.platform.place, "platform.tools").await.state;
        if state == ImageState::Building { Ok(()) } else { Err(state.as_str().to_owned()) }
    })
    .await;
    families.wait("join", ImageState::Waiting, Reason::WaitingForParent).await;
    assert_eq!(
        families.builds().await,
        built(1),
        "the join waits: one parent is rebuilt, the other is building"
    );

    families.platform.builder.release("tools");
    families.shop.wait_rebuilt("shop", &digests, 90).await;
    assert_eq!(families.builds().await, built(2));
    let causes = families.record(&families.shop, "shop.app").await.causes;
    let root = causes
        .iter()
        .find(|cause| cause.type_ == CauseType::Upstream)
        .unwrap_or_else(|| panic!("{causes:?}"));
    assert_eq!(
        (root.name.as_str(), root.to.as_str()),
        ("alpine", moved.as_str()),
        "the cause is traced to the upstream that moved"
    );
}

#[tokio::test]
async fn a_cycle_through_two_families_is_reported_and_blocks_no_other_image() {
    let families = TwoFamilies::new(&client().await).await;
    let platform = families.platform(&["base", "tools"]);
    let mut shop = families.shop();
    shop["exports"] = json!([{ "image": "app", "namespaces": ["*"] }]);
    families.apply(&platform, &shop).await;
    families.shop.wait_family("shop", "Ready", 90).await;

    let mut cyclic = platform.clone();
    let app = json!({
        "family": { "namespace": families.shop.namespace, "name": "shop" },
        "image": "app", "as": "app", "use": "BuildStage",
    });
    cyclic["images"][1]["from"].as_array_mut().expect("edges").push(app);
    families.apply(&cyclic, &shop).await;
    let [ours, theirs] = [&families.platform.place.namespace, &families.shop.namespace];
    let words = format!(
        "{theirs}/shop.join -> {ours}/platform.tools -> {theirs}/shop.app -> {theirs}/shop.join"
    );
    let message = families.wait("join", ImageState::Waiting, Reason::ImportRefused).await;
    assert!(message.contains(&words), "{message}");
    wait_for("the other family to report it as well", 60, async || {
        let status = families.record(&families.platform.place, "platform.tools").await;
        if status.reason == Reason::ImportRefused { Ok(()) } else { Err(status.message) }
    })
    .await;

    let before = families.platform.place.digests("platform").await;
    families.platform.move_upstream("2").await;
    wait_for("base to be built, which is not part of the cycle", 60, async || {
        let digests = families.platform.place.digests("platform").await;
        if digests["base"] == before["base"] { Err(format!("{digests:?}")) } else { Ok(()) }
    })
    .await;
    let digests = families.shop.digests("shop").await;
    families.apply(&platform, &shop).await;
    families.shop.wait_rebuilt("shop", &digests, 90).await;
    families.platform.place.wait_family("platform", "Ready", 60).await;
    assert_eq!(families.builds().await, built(2));
}
