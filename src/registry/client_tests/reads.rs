//! Reading manifests: HEAD, GET and what is missing.

use super::*;

#[tokio::test]
async fn a_head_returns_the_digest_and_the_type() {
    let registry = FaultRegistry::start(complete_reply).await;
    let found = client(&registry)
        .head(&image(registry.address), &none())
        .await
        .expect("head")
        .expect("there");
    assert_eq!(found.digest, Digest::of(MANIFEST.as_bytes()));
    assert_eq!(found.media_type.as_deref(), Some(OCI_MANIFEST));
    assert_eq!(registry.request_lines(), [format!("HEAD {TAG}")]);
}

#[tokio::test]
async fn an_incomplete_head_is_followed_by_a_get() {
    for status in [200, 405] {
        let registry = FaultRegistry::start(move |request| match request.method.as_str() {
            "HEAD" => reply(status, &[("content-type", OCI_MANIFEST)], Body::empty()),
            _ => reply(200, &[("content-type", OCI_MANIFEST)], MANIFEST),
        })
        .await;
        let found = client(&registry)
            .head(&image(registry.address), &none())
            .await
            .expect("head")
            .expect("there");
        assert_eq!(found.digest, Digest::of(MANIFEST.as_bytes()));
        assert_eq!(registry.request_lines(), [format!("HEAD {TAG}"), format!("GET {TAG}")]);
    }
}

#[tokio::test]
async fn a_missing_image_is_none_for_head_and_an_error_for_get() {
    let registry =
        FaultRegistry::start(|_| reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#))
            .await;
    let (client, image) = (client(&registry), image(registry.address));
    assert_eq!(client.head(&image, &none()).await, Ok(None));
    let error = client.manifest(&image, &none()).await.expect_err("404");
    assert_eq!(error.reason(), Reason::ImageNotFound);
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
    let lines = registry.request_lines();
    let expected = [format!("HEAD {TAG}"), format!("GET {TAG}"), format!("GET {TAG}")];
    assert_eq!(lines, expected, "a definite response is not retried");
}
