//! Registries that fail, limit the rate of requests or send invalid responses.

use super::*;

#[tokio::test]
async fn a_short_pause_is_waited_for_and_a_long_one_reported() {
    let registry = FaultRegistry::start(|request| match request.previous {
        0 => reply(429, &[("retry-after", "1")], Body::empty()),
        _ => complete_reply(request),
    })
    .await;
    let began = std::time::Instant::now();
    client(&registry).head(&image(registry.address), &none()).await.expect("head");
    assert!(began.elapsed() >= Duration::from_secs(1));

    let registry = FaultRegistry::start(|_| {
        reply(429, &[("retry-after", "600")], r#"{"errors":[{"code":"TOOMANYREQUESTS"}]}"#)
    })
    .await;
    let error =
        client(&registry).manifest(&image(registry.address), &none()).await.expect_err("limited");
    assert_eq!((error.is_transient(), error.retry_after()), (true, Some(Duration::from_mins(10))));
    assert!(error.to_string().contains("429 Too Many Requests, TOOMANYREQUESTS"), "{error}");
    assert_eq!(registry.request_lines().len(), 1);
}

#[tokio::test]
async fn a_rate_limit_pauses_requests_with_that_credential_only() {
    let registry = FaultRegistry::start(|request| match request.previous {
        0 => reply(429, &[("retry-after", "600")], Body::empty()),
        _ => complete_reply(request),
    })
    .await;
    let (client, image) = (client(&registry), image(registry.address));
    for _ in 0..2 {
        let error = client.head(&image, &none()).await.expect_err("limited");
        assert!(
            error.is_transient() && error.retry_after() > Some(Duration::from_mins(9)),
            "{error}"
        );
    }
    assert_eq!(registry.request_lines().len(), 1);
    client.head(&image, &keychain(registry.address, "alice")).await.expect("another credential");
}

#[tokio::test]
async fn server_errors_are_retried_a_limited_number_of_times() {
    let registry = FaultRegistry::start(|request| {
        if request.previous < 2 { reply(500, &[], Body::empty()) } else { complete_reply(request) }
    })
    .await;
    client(&registry).head(&image(registry.address), &none()).await.expect("head");
    assert_eq!(registry.request_lines().len(), 3);

    let registry = FaultRegistry::start(|_| reply(502, &[], Body::empty())).await;
    let error =
        client(&registry).head(&image(registry.address), &none()).await.expect_err("an error");
    assert_eq!((error.reason(), registry.request_lines().len()), (Reason::RegistryUnavailable, 4));
}

#[tokio::test]
async fn an_unreachable_registry_is_unavailable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let error = Client::new(config(&[address]))
        .expect("client")
        .head(&image(address), &none())
        .await
        .expect_err("an error");
    assert_eq!(error.reason(), Reason::RegistryUnavailable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn invalid_responses_are_rejected() {
    let other = Digest::of(b"other");
    let wrong = other.to_string();
    for (content_type, digest, body, problem) in [
        ("text/html", "", "<html>hunter2</html>", "not a manifest"),
        (OCI_INDEX, "", MANIFEST, "malformed"),
        (OCI_MANIFEST, wrong.as_str(), MANIFEST, "for sha256:"),
    ] {
        let (content_type, digest) = (content_type.to_owned(), digest.to_owned());
        let registry = FaultRegistry::start(move |_| {
            let headers = [
                ("content-type", content_type.as_str()),
                ("docker-content-digest", digest.as_str()),
            ];
            reply(200, if digest.is_empty() { &headers[..1] } else { &headers }, body)
        })
        .await;
        let error =
            client(&registry).manifest(&image(registry.address), &none()).await.expect_err(body);
        assert_eq!(
            (error.reason(), error.is_transient()),
            (Reason::InvalidRegistryResponse, false)
        );
        assert!(
            error.to_string().contains(problem) && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
    // A request by digest must return that digest, whatever the header says.
    let registry = FaultRegistry::start(complete_reply).await;
    for by_digest in [false, true] {
        let image = image(registry.address).with_digest(&other);
        let client = client(&registry);
        let result = if by_digest {
            client.manifest(&image, &none()).await.map(|_| ())
        } else {
            client.head(&image, &none()).await.map(|_| ())
        };
        assert_eq!(result.expect_err("wrong digest").reason(), Reason::InvalidRegistryResponse);
    }
}

#[tokio::test]
async fn a_large_manifest_is_rejected_with_and_without_a_content_length() {
    for has_length in [true, false] {
        let registry = FaultRegistry::start(move |_| {
            let body = Bytes::from(vec![b' '; 5 * 1024 * 1024]);
            let chunks = stream::iter(
                body.chunks(64 * 1024)
                    .map(Bytes::copy_from_slice)
                    .map(Ok::<_, std::io::Error>)
                    .collect::<Vec<_>>(),
            );
            reply(
                200,
                &[("content-type", OCI_MANIFEST)],
                if has_length { Body::from(body) } else { Body::from_stream(chunks) },
            )
        })
        .await;
        let error =
            client(&registry).manifest(&image(registry.address), &none()).await.expect_err("large");
        assert_eq!((error.reason(), error.is_transient()), (Reason::ManifestTooLarge, false));
    }
}

#[tokio::test]
async fn a_configuration_that_fills_the_memory_is_rejected() {
    let zeros = |count: usize| {
        let text = r#"{"os":"linux","config":[0],"rootfs":{"diff_ids":[]}}"#;
        text.replace("[0]", &format!("[{}0]", "0,".repeat(count))).into_bytes()
    };
    for (body, expected) in [
        (zeros(10_000), None),
        (zeros(100_000), Some("sent an image configuration with more than 65536 values")),
        (zeros(2_000_000), Some("more than 1048576 bytes")),
    ] {
        let digest = Digest::of(&body);
        let registry =
            FaultRegistry::start(move |_| reply(200, &[], Body::from(body.clone()))).await;
        let config = Descriptor { digest, media_type: String::new(), size: 0 };
        let manifest = ImageManifest {
            config,
            layers: Vec::new(),
            annotations: std::collections::BTreeMap::new(),
            artifact_type: None,
        };
        let client = client(&registry);
        let read = client.config(&image(registry.address), &manifest, &none()).await;
        let problem = read.err().map(|error| error.to_string());
        let is_expected = match (&problem, expected) {
            (Some(problem), Some(expected)) => problem.contains(expected),
            (problem, expected) => problem.is_none() && expected.is_none(),
        };
        assert!(is_expected, "{problem:?} instead of {expected:?}");
    }
}

#[tokio::test]
async fn a_body_that_stalls_times_out() {
    let registry = FaultRegistry::start(|_| {
        let start = stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        reply(
            200,
            &[("content-type", OCI_MANIFEST)],
            Body::from_stream(start.chain(stream::pending())),
        )
    })
    .await;
    let config =
        Config { timeout: crate::api::Duration::from_secs(3), ..config(&[registry.address]) };
    let call = Client::new(config).expect("client");
    let image = image(registry.address);
    let result = tokio::time::timeout(Duration::from_secs(30), call.manifest(&image, &none()))
        .await
        .expect("bounded");
    assert_eq!(result.expect_err("silent").reason(), Reason::RegistryUnavailable);
}
