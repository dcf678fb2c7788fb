//! Setting tags.

use super::*;

#[tokio::test]
async fn a_tag_is_set_without_layers_and_verified() {
    let manifest = Manifest::parse(Some(OCI_MANIFEST), MANIFEST.into()).expect("manifest");
    let wrong = Digest::of(b"other").to_string();
    for (reported, tagged, expected) in [
        (None, Digest::of(MANIFEST.as_bytes()).to_string(), true),
        (None, wrong.clone(), false),
        (Some(wrong.clone()), wrong, false),
    ] {
        let registry =
            FaultRegistry::start(move |request| match (request.method.as_str(), &reported) {
                ("PUT", Some(reported)) => {
                    reply(201, &[("docker-content-digest", reported)], Body::empty())
                }
                ("PUT", None) => reply(201, &[], Body::empty()),
                _ => reply(
                    200,
                    &[
                        ("content-type", OCI_MANIFEST),
                        ("docker-content-digest", &tagged),
                        ("content-length", "9"),
                    ],
                    Body::empty(),
                ),
            })
            .await;
        let result = client(&registry).set_tag(&image(registry.address), &manifest, &none()).await;
        assert_eq!(result.is_ok(), expected, "{result:?}");
        let put = &registry.requests()[0];
        assert_eq!(
            (put.method.as_str(), put.target.as_str(), put.body.as_slice()),
            ("PUT", TAG, MANIFEST.as_bytes())
        );
    }
}

#[tokio::test]
async fn an_immutable_tag_is_reported() {
    let registry =
        FaultRegistry::start(|_| reply(412, &[], r#"{"errors":[{"message":"tag is immutable"}]}"#))
            .await;
    let manifest = Manifest::parse(Some(OCI_MANIFEST), MANIFEST.into()).expect("manifest");
    let error = client(&registry)
        .set_tag(&image(registry.address), &manifest, &none())
        .await
        .expect_err("an error");
    assert!(error.to_string().contains("412 Precondition Failed, tag is immutable"), "{error}");
    assert_eq!((error.reason(), error.is_transient()), (Reason::PushRefused, false));
}
