//! A user rolls an image back: its tags go to an earlier build, and nothing is built.

use groundswell::api::{FamilyRequest, ImageState, ManagedImage, ManagedImageStatus, RequestState};
use kube::api::{DeleteParams, ListParams, PostParams};
use serde_json::{Value, json};

use super::{
    client, cluster,
    restart::Scene,
    support::{
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

async fn ask(scene: &Scene, name: &str, fields: Value) -> kube::Result<FamilyRequest> {
    let mut spec = json!({"family": "app"});
    spec.as_object_mut().expect("a spec").extend(fields.as_object().expect("fields").clone());
    let spec = serde_json::from_value(spec).expect("a spec");
    scene.place.api().create(&PostParams::default(), &FamilyRequest::new(name, spec)).await
}

/// Waits until a request is in a state. Returns its message.
async fn wait_state(scene: &Scene, name: &str, state: RequestState) -> String {
    wait_for(format!("the request {name} to be {state:?}"), 30, async || {
        let request: FamilyRequest = scene.place.api().get(name).await.expect("a request");
        match &request.status {
            Some(status) if status.state == Some(state) => Ok(status.message.clone()),
            status => Err(format!("{status:#?}")),
        }
    })
    .await
}

async fn wait_tag(scene: &Scene, image: &str, digest: &str) {
    wait_for(format!("{image}:latest to be {digest}"), 30, async || {
        let found = scene.tag(image, "latest").await;
        if found == digest { Ok(()) } else { Err(found) }
    })
    .await;
}

/// Waits until the record of an image satisfies `is`.
async fn wait_record(scene: &Scene, image: &str, is: impl Fn(&ManagedImageStatus) -> bool) {
    wait_for(format!("the record of {image}"), 30, async || {
        let found = scene.place.api::<ManagedImage>().get_opt(&format!("app.{image}")).await;
        let status = found.expect("an answer").and_then(|found| found.status).unwrap_or_default();
        if is(&status) { Ok(()) } else { Err(format!("{status:#?}")) }
    })
    .await;
}

#[tokio::test]
async fn a_rolled_back_image_stays_at_its_digest_until_a_user_ends_it() {
    let client = client().await;
    let scene = Scene::new(&client, "rollback").await;
    let settings = Settings::new(cluster(), &scene.place.namespace, &[]);
    let mut operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["policy"] = json!({"settle": "0s"});
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    let before = scene.place.digests("app").await;
    scene.move_upstream("2").await;
    wait_record(&scene, "join", |status| status.build == Some(2)).await;
    scene.place.wait_family("app", "Ready", 60).await;
    let newest = scene.place.digests("app").await;

    // The API server refuses what has no reason.
    let without = json!({"action": "Rollback", "image": "base", "digest": before["base"]});
    let error = ask(&scene, "none", without).await.expect_err("no reason").to_string();
    assert!(error.contains("Rollback needs `image`, `digest` and `reason`"), "{error}");
    let unknown = format!("sha256:{}", "0".repeat(64));
    let unknown = json!({"action": "Rollback", "image": "base", "digest": unknown, "reason": "so"});
    ask(&scene, "unknown", unknown).await.expect("a request");
    let message = wait_state(&scene, "unknown", RequestState::Refused).await;
    assert!(message.contains("build 2 (") && message.contains("build 1 ("), "{message}");

    let back = json!({"action": "Rollback", "image": "base", "digest": before["base"],
                      "subtree": true, "reason": "it leaks"});
    ask(&scene, "back", back).await.expect("a request");
    wait_state(&scene, "back", RequestState::Active).await;
    for image in ["base", "left", "right", "join"] {
        wait_tag(&scene, image, &before[image]).await;
        wait_record(&scene, image, |status| {
            status.state == ImageState::Held && status.message.ends_with("it leaks")
        })
        .await;
    }

    // Neither a new upstream nor the loss of every record undoes it, also with a new controller.
    scene.move_upstream("3").await;
    operator.kill();
    let all = ListParams::default();
    let images = scene.place.api::<ManagedImage>();
    images.delete_collection(&DeleteParams::default(), &all).await.expect("deleted");
    let _operator = Operator::ready(&settings).await;
    for image in ["base", "left", "right", "join"] {
        wait_record(&scene, image, |status| {
            status.rollback.as_ref().is_some_and(|back| back.digest == before[image])
        })
        .await;
        assert_eq!(scene.tag(image, "latest").await, before[image], "{image}");
    }
    scene.assert_builds("app", 2).await;

    ask(&scene, "on", json!({"action": "Unhold", "image": "base"})).await.expect("a request");
    wait_state(&scene, "on", RequestState::Done).await;
    wait_state(&scene, "back", RequestState::Done).await;
    scene.place.wait_family("app", "Ready", 60).await;
    wait_record(&scene, "join", |status| status.state == ImageState::Current).await;
    let last = scene.place.digests("app").await;
    for image in ["base", "left", "right", "join"] {
        wait_tag(&scene, image, &last[image]).await;
        assert!(last[image] != before[image] && last[image] != newest[image], "{image}");
    }
    scene.assert_builds("app", 3).await;
}
