//! A family begins with images that others have pushed: nothing is built, and no tag moves, whoever
//! moves them later.

use std::collections::BTreeMap;

use groundswell::api::{Cascade, ImageState, ManagedImage, ManagedImageStatus, condition::Reason};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use super::{
    client, cluster,
    restart::Scene,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// The images of a scene as somebody else has pushed them.
struct Existing {
    scene: Scene,
    upstream: String,
}

impl Existing {
    async fn new(name: &str) -> Self {
        let scene = Scene::new(&client().await, name).await;
        let upstream = scene.move_upstream("1").await;
        let upstream = format!("docker.io/library/{}@{upstream}", scene.place.namespace);
        Self { scene, upstream }
    }

    fn repository(&self, image: &str) -> String {
        format!("{}/{image}", self.scene.place.namespace)
    }

    /// A digest of an image, as a build uses it.
    fn pinned(&self, image: &str, digest: &str) -> String {
        format!("{}/{}@{digest}", cluster().registry, self.repository(image))
    }

    /// Pushes an image under `latest`. Returns its digest.
    async fn push(&self, image: &str, base: Option<&str>, content: &str) -> String {
        let (repository, none) = (self.repository(image), BTreeMap::new());
        self.scene.images.push(&repository, "latest", base, content, &none).await
    }

    /// Waits until an image has begun with a digest.
    async fn wait_adopted(&self, image: &str, digest: &str, state: ImageState) {
        wait_for(format!("{image} to begin with {digest}"), 60, async || {
            let status = status(&self.scene, image).await;
            let has_begun = status.digest.as_deref() == Some(digest)
                && status.adopted.is_some()
                && status.state == state;
            if has_begun { Ok(()) } else { Err(format!("{status:?}")) }
        })
        .await;
    }
}

#[tokio::test]
async fn images_that_exist_are_adopted_and_rebuilt_when_their_base_moves() {
    let pushed = Existing::new("adopt").await;
    let (scene, place) = (&pushed.scene, &pushed.scene.place);
    let base = pushed.push("base", Some(&pushed.upstream), "a base").await;
    let left = pushed.push("left", Some(&pushed.pinned("base", &base)), "a left").await;
    let right = pushed.push("right", None, "a right").await;
    let join = pushed.push("join", Some(&pushed.pinned("left", &left)), "a join").await;
    let of_base = pushed.pinned("base", &base);
    let existing: BTreeMap<String, String> =
        [("base", base), ("join", join), ("left", left), ("right", right)]
            .map(|(image, digest)| (image.to_owned(), digest))
            .into();

    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["adopt"] = json!({});
    place.apply_family("app", &spec).await.expect("a family");
    let (reason, message) = place.wait_family("app", "Stalled", 60).await;
    assert_eq!(reason, Reason::NotAdopted, "{message}");
    assert!(message.starts_with("right: its tags point to "), "{message}");
    assert_eq!(place.digests("app").await, existing);
    for (image, digest) in &existing {
        let status = status(scene, image).await;
        let state = if image == "right" { ImageState::Held } else { ImageState::Current };
        assert_eq!(status.state, state, "{image}: {status:?}");
        assert_eq!(status.promoted.as_ref(), Some(digest));
        let adopted = status.adopted.unwrap_or_default();
        assert_eq!((adopted.at.is_some(), adopted.mismatch.is_some()), (true, image == "right"));
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}");
        assert_eq!(scene.tag(image, "r0").await + &scene.tag(image, "r1").await, "", "{image}");
    }
    assert!(place.jobs("app").await.is_empty() && place.list::<Cascade>().await.is_empty());

    // Whoever has pushed `right` pushes it on the base.
    let right = pushed.push("right", Some(&of_base), "a right on its base").await;
    pushed.wait_adopted("right", &right, ImageState::Current).await;
    assert_eq!(scene.tag("right", "latest").await, right, "the tag is left alone");
    // The images that use it have another input since.
    place.wait_family("app", "Ready", 120).await;
    assert_eq!(scene.tag("base", "latest").await, existing["base"]);

    let existing = place.digests("app").await;
    scene.move_upstream("2").await;
    let rebuilt = place.wait_rebuilt("app", &existing, 120).await;
    for (image, digest) in &rebuilt {
        assert_eq!(status(scene, image).await.adopted, None, "{image}");
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}");
        let build = if image == "join" { "r2" } else { "r1" };
        assert_eq!(scene.tag(image, build).await, *digest, "{image}");
    }
}

#[tokio::test]
async fn what_is_pushed_while_the_family_is_suspended_stays() {
    let pushed = Existing::new("adopt-suspended").await;
    let (scene, place) = (&pushed.scene, &pushed.scene.place);
    let base = pushed.push("base", Some(&pushed.upstream), "a base").await;
    let of_base = pushed.pinned("base", &base);
    let left = pushed.push("left", Some(&of_base), "a left").await;
    // `right` is for two platforms, and the family builds one.
    let right = {
        let mut images = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let (repository, none) = (pushed.repository("right"), BTreeMap::new());
            let images_of = &scene.images;
            let image = images_of
                .push_for(architecture, &repository, architecture, Some(&of_base), "a right", &none)
                .await;
            images.push((architecture, image));
        }
        let images: Vec<(&str, &str)> =
            images.iter().map(|(architecture, digest)| (*architecture, digest.as_str())).collect();
        scene.images.push_index(&pushed.repository("right"), "latest", &images).await
    };
    let of_left = pushed.pinned("left", &left);
    let join = pushed.push("join", Some(&of_left), "a join").await;

    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let _operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["adopt"] = json!({});
    spec["suspend"] = json!(true);
    place.apply_family("app", &spec).await.expect("a family");
    pushed.wait_adopted("right", &right, ImageState::Held).await;
    pushed.wait_adopted("join", &join, ImageState::Current).await;
    let held = status(scene, "right").await;
    assert_eq!((held.state, held.reason.as_str()), (ImageState::Held, Reason::NotAdopted.as_str()));
    assert!(held.message.contains("which has images for linux/arm64: a rebuild"), "{held:?}");

    // The old pipeline goes on, and the family is resumed.
    let newer = pushed.push("join", Some(&of_left), "a newer join").await;
    pushed.wait_adopted("join", &newer, ImageState::Current).await;
    spec["suspend"] = json!(false);
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Stalled", 60).await;
    let newest = pushed.push("join", Some(&of_left), "the newest join").await;
    pushed.wait_adopted("join", &newest, ImageState::Current).await;
    assert_eq!(scene.tag("join", "latest").await, newest);
    for (image, digest) in [("base", &base), ("left", &left), ("right", &right)] {
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}");
    }
    assert!(place.jobs("app").await.is_empty() && place.list::<Cascade>().await.is_empty());

    // The base moves. What would lose a platform stays.
    scene.move_upstream("2").await;
    wait_for("join to be built", 120, async || {
        let status = status(scene, "join").await;
        let is_built = status.adopted.is_none() && status.state == ImageState::Current;
        if is_built { Ok(()) } else { Err(format!("{status:?}")) }
    })
    .await;
    let held = status(scene, "right").await;
    assert_eq!((held.state, held.digest.as_deref()), (ImageState::Held, Some(right.as_str())));
    assert_eq!(scene.tag("right", "latest").await, right);
}

#[tokio::test]
async fn a_build_of_ours_from_other_inputs_is_not_adopted() {
    let client = client().await;
    let scene = Scene::new(&client, "adopt-ours").await;
    let place = &scene.place;
    let settings = Settings::new(cluster(), &place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    place.apply_family("app", &spec).await.expect("a family");
    place.wait_family("app", "Ready", 60).await;
    let digests = place.digests("app").await;

    // The records are lost, and the Dockerfile has changed since.
    operator.kill();
    for job in place.jobs("app").await {
        let name = job.metadata.name.unwrap_or_default();
        place.api::<Job>().delete(&name, &DeleteParams::background()).await.expect("deleted");
    }
    let (all, none) = (ListParams::default(), DeleteParams::default());
    place.api::<ManagedImage>().delete_collection(&none, &all).await.expect("deleted");
    spec["adopt"] = json!({});
    let join = spec["images"].as_array_mut().expect("images").last_mut().expect("join");
    // A change that leaves the Dockerfile as it is.
    join["args"] = json!({ "HTTP_PROXY": "" });
    place.apply_family("app", &spec).await.expect("a family");
    let _operator = Operator::ready(&settings).await;
    place.wait_family("app", "Ready", 60).await;
    let rebuilt = place.digests("app").await;
    assert_eq!(place.jobs("app").await.len(), 1, "only `join` is built again");
    assert_ne!(rebuilt["join"], digests["join"]);
    assert_eq!(status(&scene, "join").await.adopted, None);
    assert_eq!(rebuilt["left"], digests["left"]);
}

async fn status(scene: &Scene, image: &str) -> ManagedImageStatus {
    let images = scene.place.api::<ManagedImage>();
    let record = images.get_opt(&format!("app.{image}")).await.expect(image);
    record.and_then(|record| record.status).unwrap_or_default()
}
