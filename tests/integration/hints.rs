//! Hints: what a registry says to have got is polled at once.

use std::time::Instant;

use serde_json::json;

use super::{
    client, cluster,
    restart::Scene,
    support::operator::{Operator, Settings},
};

const TOKEN: &str = "the-token-of-the-registry";

#[tokio::test]
async fn a_hint_of_a_registry_starts_a_cascade_long_before_the_next_poll() {
    let client = client().await;
    let scene = Scene::new(&client, "hints").await;
    let settings = Settings {
        hint_token: Some(TOKEN.into()),
        ..Settings::new(cluster(), &scene.place.namespace, &[])
    };
    let operator = Operator::ready(&settings).await;
    let mut spec = scene.spec();
    spec["policy"]["settle"] = json!("0s");
    for upstream in spec["upstreams"].as_array_mut().expect("upstreams") {
        upstream["interval"] = json!("1h");
    }
    let image = spec["upstreams"][0]["image"].as_str().expect("a repository");
    let reference = format!("{image}:3.20");
    scene.place.apply_family("app", &spec).await.expect("a family");
    scene.place.wait_family("app", "Ready", 60).await;
    let digests = scene.place.digests("app").await;

    scene.move_upstream("2").await;
    let hint = async |token: &str| {
        let request = reqwest::Client::new().post(format!("http://{}/hint", operator.hints));
        let request = request.bearer_auth(token).json(&json!({ "references": [reference] }));
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    };
    assert_eq!(hint("a-token-of-somebody-else").await.0, 401);
    let hinted = Instant::now();
    assert_eq!(hint(TOKEN).await, (202, "1 polls are due\n".into()));
    scene.place.wait_rebuilt("app", &digests, 60).await;
    println!("rebuilt {:?} after the hint", hinted.elapsed());
}
