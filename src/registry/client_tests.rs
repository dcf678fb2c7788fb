//! The client against a registry that misbehaves in every way we know of.

use std::{net::SocketAddr, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};

use crate::{
    api::condition::reason,
    registry::{
        fault_registry::{FaultRegistry, FaultReply, RecordedRequest, reply},
        *,
    },
};

const MANIFEST: &str = r#"{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"layers":[]}"#;
const TAG: &str = "/v2/team/app/manifests/1";

fn config(plain: &[SocketAddr]) -> Config {
    Config {
        plain_http: plain.iter().map(ToString::to_string).collect(),
        read_timeout: crate::api::Duration::from_secs(1),
        timeout: crate::api::Duration::from_secs(10),
        ..Config::default()
    }
}

fn client(registry: &FaultRegistry) -> Client {
    Client::new(config(&[registry.address])).expect("client")
}

fn image(address: impl std::fmt::Display) -> Reference {
    format!("{address}/team/app:1").parse().expect("reference")
}

fn keychain(address: impl std::fmt::Display, user: &str) -> Keychain {
    let secret =
        format!(r#"{{"auths":{{"{address}":{{"username":"{user}","password":"hunter2"}}}}}}"#);
    Keychain::from_secrets([("regcred", secret.as_bytes())]).expect("keychain")
}

fn none() -> Keychain {
    Keychain::default()
}

/// The manifest with all the headers that it should have.
fn good(seen: &RecordedRequest) -> FaultReply {
    let digest = Digest::of(MANIFEST.as_bytes());
    let headers = [("content-type", OCI_MANIFEST), ("docker-content-digest", digest.as_str())];
    match seen.method.as_str() {
        "HEAD" => reply(
            200,
            &[headers[0], headers[1], ("content-length", &MANIFEST.len().to_string())],
            Body::empty(),
        ),
        "PUT" => reply(201, &headers[1..], Body::empty()),
        _ => reply(200, &headers, MANIFEST),
    }
}

/// A registry whose tokens come from `realm`, or from itself; `token-<basic credential>` for that
/// credential.
fn with_tokens(realm: Option<SocketAddr>) -> impl Fn(&RecordedRequest) -> FaultReply {
    move |seen| {
        if seen.target.starts_with("/token") {
            let who = seen.authorization.as_deref().unwrap_or("anonymous").replace(' ', "-");
            return reply(200, &[], format!(r#"{{"token":"token-{who}","expires_in":300}}"#));
        }
        match (&seen.authorization, realm) {
            (Some(token), _) if token.starts_with("Bearer token-") => good(seen),
            (_, Some(realm)) => reply(401, &[("www-authenticate", &bearer(realm))], Body::empty()),
            (_, None) => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], Body::empty()),
        }
    }
}

fn bearer(realm: SocketAddr) -> String {
    format!(r#"Bearer realm="http://{realm}/token",service="r",scope="repository:team/app:pull""#)
}

#[tokio::test]
async fn a_head_is_enough() {
    let registry = FaultRegistry::start(good).await;
    let found = client(&registry)
        .head(&image(registry.address), &none())
        .await
        .expect("head")
        .expect("there");
    assert_eq!(found.digest, Digest::of(MANIFEST.as_bytes()));
    assert_eq!((found.media_type.as_str(), found.size), (OCI_MANIFEST, MANIFEST.len() as u64));
    assert_eq!(registry.requests(), [format!("HEAD {TAG}")]);
}

#[tokio::test]
async fn a_head_that_says_too_little_becomes_a_get() {
    for status in [200, 405] {
        let registry = FaultRegistry::start(move |seen| match seen.method.as_str() {
            "HEAD" => reply(status, &[("content-type", OCI_MANIFEST)], Body::empty()),
            _ => reply(200, &[("content-type", OCI_MANIFEST)], MANIFEST),
        })
        .await;
        let found = client(&registry)
            .head(&image(registry.address), &none())
            .await
            .expect("head")
            .expect("there");
        assert_eq!(
            (found.digest, found.size),
            (Digest::of(MANIFEST.as_bytes()), MANIFEST.len() as u64)
        );
        assert_eq!(registry.requests(), [format!("HEAD {TAG}"), format!("GET {TAG}")]);
    }
}

#[tokio::test]
async fn what_is_not_there_is_none_for_head_and_an_error_for_get() {
    let registry =
        FaultRegistry::start(|_| reply(404, &[], r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#))
            .await;
    let (client, image) = (client(&registry), image(registry.address));
    assert_eq!(client.head(&image, &none()).await, Ok(None));
    let error = client.manifest(&image, &none()).await.expect_err("404");
    assert_eq!(error.reason(), reason::IMAGE_NOT_FOUND);
    assert!(error.to_string().contains("MANIFEST_UNKNOWN"), "{error}");
    assert_eq!(registry.requests().len(), 2, "what is clear is not asked again");
}

#[tokio::test]
async fn tokens_are_kept_and_never_shared_between_credentials() {
    let service = FaultRegistry::start(with_tokens(None)).await;
    let registry = FaultRegistry::start(with_tokens(Some(service.address))).await;
    let client = Client::new(config(&[registry.address, service.address])).expect("client");
    let image = image(registry.address);
    for user in ["alice", "alice", "bob", "alice"] {
        client.head(&image, &keychain(registry.address, user)).await.expect(user);
    }
    client.head(&image, &none()).await.expect("anonymous");
    // One token each: YWxpY2U6aHVudGVyMg== is alice:hunter2.
    let asked: Vec<_> = service.seen().into_iter().map(|seen| seen.authorization).collect();
    let basic = |user: &str| Some(format!("Basic {user}"));
    assert_eq!(asked, [basic("YWxpY2U6aHVudGVyMg=="), basic("Ym9iOmh1bnRlcjI="), None]);
    assert!(
        service.requests()[0]
            .starts_with("GET /token?service=r&scope=repository%3Ateam%2Fapp%3Apull")
    );
    // The password itself never goes to the registry when it has a token service.
    let shown: Vec<_> = registry.seen().into_iter().filter_map(|seen| seen.authorization).collect();
    assert!(shown.iter().all(|shown| shown.starts_with("Bearer token-")), "{shown:?}");
    assert_eq!(shown.iter().filter(|shown| shown.contains("Ym9i")).count(), 1);
}

#[tokio::test]
async fn basic_where_it_is_asked_for() {
    let registry = FaultRegistry::start(|seen| match seen.authorization.as_deref() {
        Some("Basic YWxpY2U6aHVudGVyMg==") => good(seen),
        _ => reply(401, &[("www-authenticate", "Basic realm=\"r\"")], Body::empty()),
    })
    .await;
    let (client, image) = (client(&registry), image(registry.address));
    client.head(&image, &keychain(registry.address, "alice")).await.expect("alice");
    for wrong in [none(), keychain(registry.address, "bob"), keychain("elsewhere.example", "alice")]
    {
        let error = client.head(&image, &wrong).await.expect_err("wrong");
        assert_eq!((error.reason(), error.is_transient()), (reason::REGISTRY_DENIED, false));
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn a_token_that_no_longer_holds_is_replaced() {
    let service = FaultRegistry::start(|seen| {
        reply(200, &[], format!(r#"{{"access_token":"t{}","expires_in":300}}"#, seen.previous))
    })
    .await;
    let realm = service.address;
    let registry = FaultRegistry::start(move |seen| match seen.authorization.as_deref() {
        Some("Bearer t0") if seen.previous < 2 => good(seen),
        Some("Bearer t1") => good(seen),
        _ => reply(401, &[("www-authenticate", &bearer(realm))], Body::empty()),
    })
    .await;
    let client = Client::new(config(&[registry.address, realm])).expect("client");
    client.head(&image(registry.address), &none()).await.expect("first");
    client
        .head(&image(registry.address), &none())
        .await
        .expect("second, after the first token was revoked");
    assert_eq!(service.requests().len(), 2);
}

#[tokio::test]
async fn the_token_service_says_why() {
    for (status, expected) in [(401, reason::REGISTRY_DENIED), (503, reason::REGISTRY_UNAVAILABLE)]
    {
        let service =
            FaultRegistry::start(move |_| reply(status, &[("retry-after", "60")], "hunter2")).await;
        let registry = FaultRegistry::start(with_tokens(Some(service.address))).await;
        let client = Client::new(config(&[registry.address, service.address])).expect("client");
        let error = client
            .head(&image(registry.address), &keychain(registry.address, "alice"))
            .await
            .expect_err("refused");
        assert_eq!(error.reason(), expected);
        assert!(error.to_string().contains(&service.address.to_string()), "{error}");
    }
}

#[tokio::test]
async fn a_token_service_without_https_is_not_shown_the_credential() {
    let service = FaultRegistry::start(with_tokens(None)).await;
    let registry = FaultRegistry::start(with_tokens(Some(service.address))).await;
    let error = client(&registry)
        .head(&image(registry.address), &keychain(registry.address, "alice"))
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("without HTTPS"), "{error}");
    assert!(service.requests().is_empty());
}

#[tokio::test]
async fn what_is_repeated_by_the_registry_is_blacked_out() {
    let registry = FaultRegistry::start(|seen| {
        let sent = seen.authorization.clone().unwrap_or_default();
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
    // The answer to a HEAD has no body, and that to a GET has.
    assert_eq!(error.expect_err("denied").reason(), reason::REGISTRY_DENIED);
    let error = client(&registry)
        .manifest(&image(registry.address), &keychain(registry.address, "alice"))
        .await;
    let text = error.expect_err("denied").to_string();
    assert!(text.contains("Basic [redacted] [redacted] may not"), "{text}");
}

#[tokio::test]
async fn a_short_pause_is_kept_and_a_long_one_reported() {
    let registry = FaultRegistry::start(|seen| match seen.previous {
        0 => reply(429, &[("retry-after", "1")], Body::empty()),
        _ => good(seen),
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
    assert_eq!(registry.requests().len(), 1);
}

#[tokio::test]
async fn a_registry_that_limits_us_is_left_alone_with_that_credential() {
    let registry = FaultRegistry::start(|seen| match seen.previous {
        0 => reply(429, &[("retry-after", "600")], Body::empty()),
        _ => good(seen),
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
    assert_eq!(registry.requests().len(), 1);
    client.head(&image, &keychain(registry.address, "alice")).await.expect("another credential");
}

#[tokio::test]
async fn server_errors_are_tried_again_but_not_for_ever() {
    let registry = FaultRegistry::start(|seen| {
        if seen.previous < 2 { reply(500, &[], Body::empty()) } else { good(seen) }
    })
    .await;
    client(&registry).head(&image(registry.address), &none()).await.expect("head");
    assert_eq!(registry.requests().len(), 3);

    let registry = FaultRegistry::start(|_| reply(502, &[], Body::empty())).await;
    let error = client(&registry).head(&image(registry.address), &none()).await.expect_err("away");
    assert_eq!((error.reason(), registry.requests().len()), (reason::REGISTRY_UNAVAILABLE, 4));
}

#[tokio::test]
async fn nobody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    drop(listener);
    let error = Client::new(config(&[address]))
        .expect("client")
        .head(&image(address), &none())
        .await
        .expect_err("away");
    assert_eq!(error.reason(), reason::REGISTRY_UNAVAILABLE);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn garbage() {
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
            (reason::INVALID_REGISTRY_RESPONSE, false)
        );
        assert!(
            error.to_string().contains(problem) && !error.to_string().contains("hunter2"),
            "{error}"
        );
    }
    // Asked for by digest, the answer must be that digest, whatever its header says.
    let registry = FaultRegistry::start(good).await;
    for by_digest in [false, true] {
        let image = image(registry.address).with_digest(&other);
        let client = client(&registry);
        let result = if by_digest {
            client.manifest(&image, &none()).await.map(|_| ())
        } else {
            client.head(&image, &none()).await.map(|_| ())
        };
        assert_eq!(result.expect_err("wrong digest").reason(), reason::INVALID_REGISTRY_RESPONSE);
    }
}

#[tokio::test]
async fn too_large_with_and_without_saying_so() {
    for says_so in [true, false] {
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
                if says_so { Body::from(body) } else { Body::from_stream(chunks) },
            )
        })
        .await;
        let error =
            client(&registry).manifest(&image(registry.address), &none()).await.expect_err("large");
        assert_eq!((error.reason(), error.is_transient()), (reason::MANIFEST_TOO_LARGE, false));
    }
}

#[tokio::test]
async fn a_body_that_stops_coming() {
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
    assert_eq!(result.expect_err("silent").reason(), reason::REGISTRY_UNAVAILABLE);
}

#[tokio::test]
async fn a_redirect_to_another_host_goes_without_the_credential() {
    let storage = FaultRegistry::start(|_| {
        reply(200, &[], r#"{"os":"linux","architecture":"amd64","rootfs":{"diff_ids":[]}}"#)
    })
    .await;
    let to = format!("http://{}/blob?signature=s", storage.address);
    let registry = FaultRegistry::start(move |seen| match &seen.authorization {
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
    let (client, image) = (client(&registry), image(registry.address));
    let config = client
        .config(&image, manifest.image().expect("image"), &keychain(registry.address, "alice"))
        .await;
    assert_eq!(config.expect("config").platform.to_string(), "linux/amd64");
    let seen = storage.seen();
    assert_eq!(
        (seen.len(), seen[0].target.as_str(), &seen[0].authorization),
        (1, "/blob?signature=s", &None)
    );
}

#[tokio::test]
async fn a_redirect_without_end() {
    let registry =
        FaultRegistry::start(|seen| reply(302, &[("location", &seen.target)], Body::empty())).await;
    let error =
        client(&registry).manifest(&image(registry.address), &none()).await.expect_err("loop");
    assert_eq!(error.reason(), reason::INVALID_REGISTRY_RESPONSE);
    assert_eq!(registry.requests().len(), 6);
}

#[tokio::test]
async fn mirrors_come_first_and_get_no_credential_of_the_registry() {
    let origin = FaultRegistry::start(good).await;
    for status in [200, 404, 500, 401] {
        let wants = [("www-authenticate", "Basic realm=\"m\"")];
        let mirror = FaultRegistry::start(move |seen| {
            if status == 200 { good(seen) } else { reply(status, &wants, Body::empty()) }
        })
        .await;
        let registry = origin.address.to_string();
        let mirrors = [(
            registry.clone(),
            vec![format!("http://{}", mirror.address).parse().expect("mirror")],
        )];
        let client = Client::new(Config { mirrors: mirrors.into(), ..config(&[origin.address]) })
            .expect("client");
        let before = origin.requests().len();
        let keychain = keychain(&registry, "alice");
        assert!(
            client.head(&image(&registry), &keychain).await.expect("head").is_some(),
            "{status}"
        );
        assert_eq!(mirror.requests(), [format!("HEAD {TAG}?ns={registry}")]);
        assert_eq!(mirror.seen()[0].authorization, None);
        assert_eq!(origin.requests().len() - before, usize::from(status != 200), "{status}");

        let manifest = Manifest::parse(Some(OCI_MANIFEST), MANIFEST.into()).expect("manifest");
        client.set_tag(&image(&registry), &manifest, &keychain).await.expect("tag");
        assert_eq!(mirror.requests().len(), 1, "a mirror is never pushed to");
    }
}

#[tokio::test]
async fn not_on_the_mirror_and_the_registry_away_is_not_found() {
    let mirror = FaultRegistry::start(|_| reply(404, &[], Body::empty())).await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let origin = listener.local_addr().expect("address");
    drop(listener);
    let mirrors =
        [(origin.to_string(), vec![format!("http://{}", mirror.address).parse().expect("mirror")])];
    let client =
        Client::new(Config { mirrors: mirrors.into(), ..config(&[origin]) }).expect("client");
    assert_eq!(client.head(&image(origin), &none()).await, Ok(None));
}

#[tokio::test]
async fn so_many_at_once_and_no_more() {
    let registry =
        FaultRegistry::start(|seen| FaultReply { pause: Duration::from_millis(50), ..good(seen) })
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

#[tokio::test]
async fn a_tag_is_moved_without_layers_and_checked() {
    let manifest = Manifest::parse(Some(OCI_MANIFEST), MANIFEST.into()).expect("manifest");
    let wrong = Digest::of(b"other").to_string();
    for (told, stands, expected) in [
        (None, Digest::of(MANIFEST.as_bytes()).to_string(), true),
        (None, wrong.clone(), false),
        (Some(wrong.clone()), wrong, false),
    ] {
        let registry = FaultRegistry::start(move |seen| match (seen.method.as_str(), &told) {
            ("PUT", Some(told)) => reply(201, &[("docker-content-digest", told)], Body::empty()),
            ("PUT", None) => reply(201, &[], Body::empty()),
            _ => reply(
                200,
                &[
                    ("content-type", OCI_MANIFEST),
                    ("docker-content-digest", &stands),
                    ("content-length", "9"),
                ],
                Body::empty(),
            ),
        })
        .await;
        let result = client(&registry).set_tag(&image(registry.address), &manifest, &none()).await;
        assert_eq!(result.is_ok(), expected, "{result:?}");
        let put = &registry.seen()[0];
        assert_eq!(
            (put.method.as_str(), put.target.as_str(), put.body.as_slice()),
            ("PUT", TAG, MANIFEST.as_bytes())
        );
    }
}

#[tokio::test]
async fn an_immutable_tag_is_refused_in_words() {
    let registry =
        FaultRegistry::start(|_| reply(412, &[], r#"{"errors":[{"message":"tag is immutable"}]}"#))
            .await;
    let manifest = Manifest::parse(Some(OCI_MANIFEST), MANIFEST.into()).expect("manifest");
    let error = client(&registry)
        .set_tag(&image(registry.address), &manifest, &none())
        .await
        .expect_err("refused");
    assert!(error.to_string().contains("412 Precondition Failed, tag is immutable"), "{error}");
    assert!(!error.is_transient());
}
