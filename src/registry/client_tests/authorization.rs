//! Basic, tokens, and secrets that must not leak.

use super::*;

#[tokio::test]
async fn tokens_are_cached_and_never_shared_between_credentials() {
    let service = FaultRegistry::start(with_tokens(None)).await;
    let registry = FaultRegistry::start(with_tokens(Some(service.address))).await;
    let client = Client::new(config(&[registry.address, service.address])).expect("client");
    let image = image(registry.address);
    for user in ["alice", "alice", "bob", "alice"] {
        client.head(&image, &keychain(registry.address, user)).await.expect(user);
    }
    client.head(&image, &none()).await.expect("anonymous");
    // One token each: YWxpY2U6aHVudGVyMg== is alice:hunter2.
    let sent: Vec<_> =
        service.requests().into_iter().map(|request| request.authorization).collect();
    let basic = |user: &str| Some(format!("Basic {user}"));
    assert_eq!(sent, [basic("YWxpY2U6aHVudGVyMg=="), basic("Ym9iOmh1bnRlcjI="), None]);
    assert!(
        service.request_lines()[0]
            .starts_with("GET /token?service=r&scope=repository%3Ateam%2Fapp%3Apull")
    );
    // The password is never sent to a registry that has a token service.
    let tokens: Vec<_> =
        registry.requests().into_iter().filter_map(|request| request.authorization).collect();
    assert!(tokens.iter().all(|token| token.starts_with("Bearer token-")), "{tokens:?}");
    assert_eq!(tokens.iter().filter(|token| token.contains("Ym9i")).count(), 1);
}

#[tokio::test]
async fn basic_is_used_if_the_registry_requires_it() {
    let registry = FaultRegistry::start(|request| match request.authorization.as_deref() {
        Some("Basic YWxpY2U6aHVudGVyMg==") => complete_reply(request),
        _ => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], Body::empty()),
    })
    .await;
    let (client, image) = (client(&registry), image(registry.address));
    client.head(&image, &keychain(registry.address, "alice")).await.expect("alice");
    for wrong in [none(), keychain(registry.address, "bob"), keychain("elsewhere.example", "alice")]
    {
        let error = client.head(&image, &wrong).await.expect_err("wrong");
        assert_eq!((error.reason(), error.is_transient()), (Reason::RegistryDenied, false));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_revoked_token_is_replaced() {
    let service = FaultRegistry::start(|request| {
        reply(200, &[], format!(r#"{{"access_token":"t{}","expires_in":300}}"#, request.previous))
    })
    .await;
    let realm = service.address;
    let registry = FaultRegistry::start(move |request| match request.authorization.as_deref() {
        Some("Bearer t0") if request.previous < 2 => complete_reply(request),
        Some("Bearer t1") => complete_reply(request),
        _ => reply(401, &[("www-authenticate", &bearer(realm))], Body::empty()),
    })
    .await;
    let client = Client::new(config(&[registry.address, realm])).expect("client");
    client.head(&image(registry.address), &none()).await.expect("first");
    client
        .head(&image(registry.address), &none())
        .await
        .expect("second, after the first token was revoked");
    assert_eq!(service.request_lines().len(), 2);
}

#[tokio::test]
async fn errors_of_the_token_service_are_reported() {
    for (status, expected) in [(401, Reason::RegistryDenied), (503, Reason::RegistryUnavailable)] {
        let service =
            FaultRegistry::start(move |_| reply(status, &[("retry-after", "60")], "hunter2")).await;
        let registry = FaultRegistry::start(with_tokens(Some(service.address))).await;
        let client = Client::new(config(&[registry.address, service.address])).expect("client");
        let error = client
            .head(&image(registry.address), &keychain(registry.address, "alice"))
            .await
            .expect_err("an error");
        assert_eq!(error.reason(), expected);
        assert!(error.to_string().contains(&service.address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_token_service_without_https_receives_no_credential() {
    let service = FaultRegistry::start(with_tokens(None)).await;
    let registry = FaultRegistry::start(with_tokens(Some(service.address))).await;
    let error = client(&registry)
        .head(&image(registry.address), &keychain(registry.address, "alice"))
        .await
        .expect_err("an error");
    assert!(error.to_string().contains("without HTTPS"), "{error}");
    assert!(service.request_lines().is_empty());
}

#[tokio::test]
async fn secrets_that_the_registry_repeats_are_redacted() {
    let registry = FaultRegistry::start(|request| {
        let sent = request.authorization.clone().unwrap_or_default();
        match sent.as_str() {
            "" => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], Body::empty()),
            _ => reply(
                403,
                &[],
                format!(r#"{{"errors":[{{"code":"DENIED","message":"{sent} hunter2 may not"}}]}}"#),
            ),
        }
    })
    .await;
    let error = client(&registry)
        .head(&image(registry.address), &keychain(registry.address, "alice"))
        .await;
    // The response to a HEAD has no body; the response to a GET has one.
    assert_eq!(error.expect_err("denied").reason(), Reason::RegistryDenied);
    let error = client(&registry)
        .manifest(&image(registry.address), &keychain(registry.address, "alice"))
        .await;
    let text = error.expect_err("denied").to_string();
    assert!(text.contains("Basic [redacted] [redacted] may not"), "{text}");
}
