//! Redirects, mirrors and the concurrency per host.

use super::*;

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_credential() {
    let storage = FaultRegistry::start(|_| {
        reply(200, &[], r#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]}}"#)
    })
    .await;
    let to = format!("http://{}/blob?signature=s", storage.address);
    let registry = FaultRegistry::start(move |request| match &request.authorization {
        None => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], Body::empty()),
        Some(_) => reply(307, &[("location", &to)], Body::empty()),
    })
    .await;
    let body = r#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]}}"#;
    let manifest = MANIFEST.replace(
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        Digest::of(body.as_bytes()).as_str(),
    );
    let manifest = Manifest::parse(Some(OCI_MANIFEST), manifest.into()).expect("manifest");
    let client = Client::new(config(&[registry.address, storage.address])).expect("client");
    let image = image(registry.address);
    let config = client
        .config(&image, manifest.image().expect("image"), &keychain(registry.address, "alice"))
        .await;
    assert_eq!(config.expect("config").platform.to_string(), "linux/amd64");
    let requests = storage.requests();
    assert_eq!(
        (requests.len(), requests[0].target.as_str(), &requests[0].authorization),
        (1, "/blob?signature=s", &None)
    );
}

#[tokio::test]
async fn a_redirect_over_plain_http_leads_to_listed_hosts_only() {
    let storage = FaultRegistry::start(complete_reply).await;
    let to = format!("http://{}/v2/team/app/manifests/1", storage.address);
    let registry =
        FaultRegistry::start(move |_| reply(307, &[("location", &to)], Body::empty())).await;
    let unlisted = Config {
        allowed_addresses: vec![storage.address.ip().to_string()],
        ..config(&[registry.address])
    };
    let unlisted = Client::new(unlisted).expect("client");
    let error = unlisted.manifest(&image(registry.address), &none()).await.expect_err("refused");
    assert_eq!(error.reason(), Reason::InvalidRegistryResponse);
    let listed = format!("list {} in `registries.plainHttp`", storage.address);
    assert!(error.to_string().contains(&listed), "{error}");
    assert_eq!(storage.requests().len(), 0, "it is not asked");
    let listed = Client::new(config(&[registry.address, storage.address])).expect("client");
    assert!(listed.manifest(&image(registry.address), &none()).await.is_ok());
}

#[tokio::test]
async fn redirects_are_limited() {
    let registry =
        FaultRegistry::start(|request| reply(302, &[("location", &request.target)], Body::empty()))
            .await;
    let error =
        client(&registry).manifest(&image(registry.address), &none()).await.expect_err("loop");
    assert_eq!(error.reason(), Reason::InvalidRegistryResponse);
    assert_eq!(registry.request_lines().len(), 6);
}

#[tokio::test]
async fn mirrors_are_tried_first_and_receive_no_credential_of_the_registry() {
    let origin = FaultRegistry::start(complete_reply).await;
    for status in [200, 404, 500, 401] {
        let wants = [("www-authenticate", "Basic realm=\"m\"")];
        let mirror = FaultRegistry::start(move |request| {
            if status == 200 {
                complete_reply(request)
            } else {
                reply(status, &wants, Body::empty())
            }
        })
        .await;
        let registry = origin.address.to_string();
        let mirrors = [(
            registry.clone(),
            vec![format!("http://{}", mirror.address).parse().expect("mirror")],
        )];
        let client = Client::new(Config { mirrors: mirrors.into(), ..config(&[origin.address]) })
            .expect("client");
        let before = origin.request_lines().len();
        let keychain = keychain(&registry, "alice");
        assert!(
            client.head(&image(&registry), &keychain).await.expect("head").is_some(),
            "{status}"
        );
        assert_eq!(mirror.request_lines(), [format!("HEAD {TAG}?ns={registry}")]);
        assert_eq!(mirror.requests()[0].authorization, None);
        assert_eq!(origin.request_lines().len() - before, usize::from(status != 200), "{status}");

        let manifest = Manifest::parse(Some(OCI_MANIFEST), MANIFEST.into()).expect("manifest");
        client.set_tag(&image(&registry), &manifest, &keychain).await.expect("tag");
        assert_eq!(mirror.request_lines().len(), 1, "pushes never go to a mirror");
    }
}

#[tokio::test]
async fn not_found_on_a_mirror_is_not_the_word_of_an_unreachable_registry() {
    let mirror =
        FaultRegistry::start(|_| reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#))
            .await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let origin = listener.local_addr().expect("address");
    drop(listener);
    let mirrors =
        [(origin.to_string(), vec![format!("http://{}", mirror.address).parse().expect("mirror")])];
    let client =
        Client::new(Config { mirrors: mirrors.into(), ..config(&[origin]) }).expect("client");
    let error = client.head(&image(origin), &none()).await.expect_err("unreachable");
    assert_eq!(error.reason(), Reason::RegistryUnavailable);
    assert!(error.to_string().contains(&mirror.address.to_string()), "{error}");
}

#[tokio::test]
async fn concurrency_per_host_is_limited() {
    let registry = FaultRegistry::start(|request| FaultReply {
        pause: Duration::from_millis(50),
        ..complete_reply(request)
    })
    .await;
    let client =
        Client::new(Config { concurrent_requests_per_host: 2, ..config(&[registry.address]) })
            .expect("client");
    let image = image(registry.address);
    let keychain = none();
    let calls = (0..8).map(|_| client.head(&image, &keychain));
    assert!(futures::future::join_all(calls).await.into_iter().all(|result| result.is_ok()));
    assert_eq!(registry.max_concurrent(), 2);
}
