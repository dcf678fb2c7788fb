//! Verifying the right to push.

use super::*;

const BEGIN: &str = "POST /v2/team/app/blobs/uploads/";

async fn begun_with(location: &'static str) -> FaultRegistry {
    FaultRegistry::start(move |request| match request.method.as_str() {
        "POST" => reply(202, &[("location", location)], Body::empty()),
        _ => reply(204, &[], Body::empty()),
    })
    .await
}

#[tokio::test]
async fn an_upload_is_begun_and_cancelled_and_no_tag_is_written() {
    let registry = begun_with("/v2/team/app/blobs/uploads/7?state=a%2Fb").await;
    client(&registry).verify_push(&image(registry.address), &none()).await.expect("the right");
    let cancel = "DELETE /v2/team/app/blobs/uploads/7?state=a%2Fb";
    assert_eq!(registry.request_lines(), [BEGIN, cancel]);
}

#[tokio::test]
async fn an_upload_elsewhere_is_left_alone() {
    for location in
        ["https://storage.example/v2/team/app/x", "/v2/team/other/blobs/uploads/7", "http://["]
    {
        let registry = begun_with(location).await;
        client(&registry).verify_push(&image(registry.address), &none()).await.expect("the right");
        assert_eq!(registry.request_lines(), [BEGIN], "{location}");
    }
}

#[tokio::test]
async fn a_missing_right_and_a_missing_repository_are_reported() {
    for (status, code, expected) in [
        (401, "UNAUTHORIZED", Reason::RegistryDenied),
        (403, "DENIED", Reason::RegistryDenied),
        (404, "NAME_UNKNOWN", Reason::ImageNotFound),
    ] {
        let registry = FaultRegistry::start(move |request| {
            let secret = request.authorization.clone().unwrap_or_default();
            let headers = [("www-authenticate", "Basic realm=\"r\"")];
            reply(
                if request.authorization.is_none() { 401 } else { status },
                &headers,
                format!(r#"{{"errors":[{{"code":"{code}","message":"{secret}"}}]}}"#),
            )
        })
        .await;
        let keychain = keychain(registry.address, "me");
        let error = client(&registry)
            .verify_push(&image(registry.address), &keychain)
            .await
            .expect_err("an error");
        assert_eq!(error.reason(), expected, "{error}");
        let sent = registry.requests()[1].authorization.clone().expect("a credential");
        let secret = sent.trim_start_matches("Basic ");
        assert!(!error.to_string().contains(secret), "{error}");
    }
}
