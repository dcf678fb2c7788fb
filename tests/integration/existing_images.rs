//! A family begins with images that others have pushed: nothing is built, and no tag moves.

use std::collections::BTreeMap;

use groundswell::api::{Cascade, ImageState, ManagedImage, ManagedImageStatus, condition::reason};
use serde_json::json;

use super::{
    client, cluster,
    restart::Scene,
    support::operator::{Operator, Settings},
};

#[tokio::test]
async fn images_that_exist_are_adopted_and_rebuilt_when_their_base_moves() {
    let client = client().await;
    let scene = Scene::new(&client, "adopt").await;
    let place = &scene.place;
    let upstream = scene.move_upstream("1").await;
    let push = async |image: &str, base: Option<String>| {
        let (repository, base) = (format!("{}/{image}", place.namespace), base.as_deref());
        let content = format!("an existing {image}");
        scene.images.push(&repository, "latest", base, &content, &BTreeMap::new()).await
    };
    let pinned = |image: &str, digest: &str| {
        Some(format!("{}/{}/{image}@{digest}", cluster().registry, place.namespace))
    };
    let base =
        push("base", Some(format!("docker.io/library/{}@{upstream}", place.namespace))).await;
    let left = push("left", pinned("base", &base)).await;
    let right = push("right", None).await;
    let join = push("join", pinned("left", &left)).await;
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
    assert_eq!(reason, reason::NOT_ADOPTED, "{message}");
    assert!(message.starts_with("right: its tags point to "), "{message}");
    assert_eq!(place.digests("app").await, existing);
    for (image, digest) in &existing {
        let status = status(&scene, image).await;
        let state = if image == "right" { ImageState::Held } else { ImageState::Current };
        assert_eq!(status.state, state, "{image}: {status:?}");
        assert_eq!(status.promoted.as_ref(), Some(digest));
        let adopted = status.adopted.unwrap_or_default();
        assert_eq!((adopted.at.is_some(), adopted.mismatch.is_some()), (true, image == "right"));
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}");
        assert_eq!(scene.tag(image, "r0").await + &scene.tag(image, "r1").await, "", "{image}");
    }
    assert!(place.jobs("app").await.is_empty() && place.list::<Cascade>().await.is_empty());

    scene.move_upstream("2").await;
    let rebuilt = place.wait_rebuilt("app", &existing, 120).await;
    scene.assert_builds("app", 1).await;
    assert_eq!(place.list::<Cascade>().await.len(), 1);
    for (image, digest) in &rebuilt {
        assert_eq!(status(&scene, image).await.adopted, None, "{image}");
        assert_eq!(scene.tag(image, "latest").await, *digest, "{image}");
        assert_eq!(scene.tag(image, "r1").await, *digest, "{image}");
    }
}

async fn status(scene: &Scene, image: &str) -> ManagedImageStatus {
    let images = scene.place.api::<ManagedImage>();
    images.get(&format!("app.{image}")).await.expect(image).status.unwrap_or_default()
}
