//! How large a family may be before the API server refuses it: the figures of `docs/families.md`.

use groundswell::api::ImageFamily;
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};

use super::{
    client,
    support::{family, objects::Place},
};

/// A spec with this many images, whose inline Dockerfiles have this many bytes.
fn inline(images: usize, bytes: usize) -> Value {
    let mut spec =
        family::spec("registry.example.com/platform", "docker.io/library/alpine", "buildkit");
    let image = |index: usize| {
        let mut image = family::image(&format!("image-{index}"), "alpine");
        let first = "FROM docker.io/library/alpine:3.20\n";
        let rest = "#".repeat(bytes.saturating_sub(first.len()));
        image["source"] = json!({ "inline": format!("{first}{rest}") });
        image
    };
    spec["images"] = (0..images).map(image).collect();
    spec
}

#[tokio::test]
async fn a_family_is_taken_up_to_the_documented_size() {
    let place = Place::new(&client().await, "sizes").await;
    let api: Api<ImageFamily> = place.api();
    // 1000 images of 1 KiB and 330 of 4 KiB are taken as well, and cost too much time here.
    for (bytes, taken, refused) in [(2048, 600, 700), (8192, 170, 200)] {
        let family = place.apply_family("large", &inline(taken, bytes)).await;
        family.unwrap_or_else(|error| panic!("{taken} of {bytes} bytes: {error}"));
        api.delete("large", &DeleteParams::default()).await.expect("deleted");
        let error = place.apply_family("large", &inline(refused, bytes)).await;
        let error = error.expect_err("too large");
        assert!(error.contains("too large"), "{error:.300}");
    }
}
