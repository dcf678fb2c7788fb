//! The registry client against a real registry: CNCF Distribution, which the development cluster
//! also runs.
//!
//! Needs Go, which compiles it: `cargo test --features needs-go --test registry`.

#![allow(clippy::expect_used, clippy::panic, reason = "tests report failures by panicking")]

mod behaviours;
mod certificate;
mod server;
#[path = "../support/tls.rs"]
mod tls;
mod token_service;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use groundswell::{
    api::condition::Reason,
    registry::{
        Client, Config, Digest, Keychain, ManifestKind, OCI_INDEX, OCI_MANIFEST, Reference,
    },
    upstream::{ImageKey, TagNeeds, resolve_tag},
};
use server::{RegistryServer, Users};

fn client(server: &RegistryServer) -> Client {
    Client::new(Config { plain_http: vec![server.address.clone()], ..Config::default() })
        .expect("client")
}

fn reference(server: &RegistryServer, rest: &str) -> Reference {
    format!("{}/{rest}", server.address).parse().expect(rest)
}

fn keychain(host: &str, user: &str, password: &str) -> Keychain {
    let auth = serde_json::json!({ "auths": { host: { "username": user, "password": password } } })
        .to_string();
    Keychain::from_secrets([("regcred", auth.as_bytes())]).expect("keychain")
}

#[tokio::test]
async fn an_image_is_read_and_its_tag_set_without_its_layers() {
    let server = RegistryServer::start(Users::Anonymous).await;
    let pushed = server.push("team/app", "1", "amd64", "one").await;
    let (client, none) = (client(&server), Keychain::default());
    let image = reference(&server, "team/app:1");

    let found = client.head(&image, &none).await.expect("head").expect("there");
    assert_eq!((&found.digest, found.media_type.as_deref()), (&pushed, Some(OCI_MANIFEST)));
    let manifest = client.manifest(&image, &none).await.expect("manifest");
    assert_eq!(manifest.digest, pushed);
    assert_eq!(manifest.annotations().get("test.variant").map(String::as_str), Some("one"));
    let config =
        client.config(&image, manifest.image().expect("image"), &none).await.expect("config");
    assert_eq!(config.platform.to_string(), "linux/amd64");
    assert_eq!(config.created, Some("2026-01-02T03:04:05Z".parse().expect("time")));
    assert_eq!(config.diff_ids, [Digest::of(b"layer one")]);

    let latest = reference(&server, "team/app:latest");
    assert_eq!(client.head(&latest, &none).await, Ok(None));
    // Twice, because an interrupted promotion is repeated.
    for _ in 0..2 {
        client.set_tag(&latest, &manifest, &none).await.expect("tag");
        assert_eq!(
            client.head(&latest, &none).await.expect("head").map(|found| found.digest),
            Some(pushed.clone())
        );
    }
    let two = server.push("team/app", "2", "amd64", "two").await;
    let by_digest = client.manifest(&image.with_digest(&two), &none).await.expect("by digest");
    client.set_tag(&latest, &by_digest, &none).await.expect("move");
    assert_eq!(
        client.head(&latest, &none).await.expect("head").map(|found| found.digest),
        Some(two)
    );
    assert_eq!(
        client.head(&image, &none).await.expect("head").map(|found| found.digest),
        Some(pushed)
    );
}

#[tokio::test]
async fn missing_images_are_reported() {
    let server = RegistryServer::start(Users::Anonymous).await;
    server.push("team/app", "1", "amd64", "one").await;
    let (client, none) = (client(&server), Keychain::default());
    for rest in ["team/app:2", "nobody/nothing:1"] {
        let image = reference(&server, rest);
        assert_eq!(client.head(&image, &none).await, Ok(None), "{rest}");
        let error = client.manifest(&image, &none).await.expect_err(rest);
        assert_eq!(error.reason(), Reason::ImageNotFound, "{error}");
    }
    // The layers are not in that repository, so the registry rejects the manifest.
    let manifest =
        client.manifest(&reference(&server, "team/app:1"), &none).await.expect("manifest");
    let error = client
        .set_tag(&reference(&server, "team/other:1"), &manifest, &none)
        .await
        .expect_err("no layers");
    assert!(!error.is_transient() && error.to_string().contains("BLOB_UNKNOWN"), "{error}");
}

#[tokio::test]
async fn an_index_has_one_digest_and_several_platforms() {
    let server = RegistryServer::start(Users::Anonymous).await;
    let digest = server.push_index("team/multi", "1", &["amd64", "arm64"]).await;
    let (client, none) = (client(&server), Arc::new(Keychain::default()));
    let image = reference(&server, "team/multi:1");
    let manifest = client.manifest(&image, &none).await.expect("manifest");
    assert_eq!((&manifest.digest, manifest.media_type.as_str()), (&digest, OCI_INDEX));
    let ManifestKind::Index(index) = &manifest.kind else { panic!("{manifest:?}") };
    let entry = &index.manifests[1].descriptor;
    let arm = client.manifest(&image.with_digest(&entry.digest), &none).await.expect("entry");
    let config = client.config(&image, arm.image().expect("image"), &none).await.expect("config");
    assert_eq!(config.platform.to_string(), "linux/arm64");

    let platforms = ["linux/arm64/v8", "linux/s390x", "linux/amd64"].map(str::to_owned);
    for (required, missing) in [(&platforms[..], &["linux/s390x"][..]), (&[], &[])] {
        let needs = TagNeeds::Images { required: required.to_vec() };
        let key = ImageKey::new(&client, &image.to_string(), &needs, &none);
        let found = resolve_tag(&client, &key, None).await.expect("resolve");
        assert_eq!(found.tagged, digest.as_str());
        assert_eq!(found.image_for(&config.platform), Some(entry.digest.as_str()));
        assert_eq!(found.missing_platforms, missing);
    }
}

#[tokio::test]
async fn a_registry_requires_the_right_credential() {
    let server = RegistryServer::start(Users::Alice).await;
    server.push("team/app", "1", "amd64", "one").await;
    let client = client(&server);
    let image = reference(&server, "team/app:1");
    // The wrong credentials come first: a client that binds a host to the first credential that it
    // sees would then fail with the right one.
    for wrong in [
        Keychain::default(),
        keychain(&server.address, "alice", "wr0ng"),
        keychain("other.example", "alice", "hunter2"),
    ] {
        let error = client.head(&image, &wrong).await.expect_err("denied");
        assert_eq!((error.reason(), error.is_transient()), (Reason::RegistryDenied, false));
        let text = error.to_string();
        assert!(
            text.starts_with(&image.to_string())
                && !text.contains("wr0ng")
                && !text.contains("hunter2"),
            "{text}"
        );
    }
    let alice = keychain(&format!("{}/team", server.address), "alice", "hunter2");
    let manifest = client.manifest(&image, &alice).await.expect("manifest");
    client.set_tag(&reference(&server, "team/app:latest"), &manifest, &alice).await.expect("tag");
    assert_eq!(
        client.head(&image, &Keychain::default()).await.expect_err("denied").reason(),
        Reason::RegistryDenied
    );
}

#[tokio::test]
async fn a_mirror_serves_docker_hub_under_its_usual_name() {
    let server = RegistryServer::start(Users::Anonymous).await;
    let pushed = server.push("library/alpine", "3.20", "amd64", "substitute").await;
    let mirror = format!("http://{}", server.address).parse().expect("mirror");
    let config =
        Config { mirrors: [("docker.io".to_owned(), vec![mirror])].into(), ..Config::default() };
    let client = Client::new(config).expect("client");
    let found = client
        .head(&"alpine:3.20".parse().expect("reference"), &Keychain::default())
        .await
        .expect("head");
    assert_eq!(found.map(|found| found.digest), Some(pushed));
}

#[tokio::test]
async fn an_unreachable_registry_is_reported_until_it_returns() {
    let mut server = RegistryServer::start(Users::Anonymous).await;
    let pushed = server.push("team/app", "1", "amd64", "one").await;
    let (client, none) = (client(&server), Keychain::default());
    let image = reference(&server, "team/app:1");
    server.stop().await;
    let error = client.head(&image, &none).await.expect_err("unreachable");
    assert_eq!((error.reason(), error.is_transient()), (Reason::RegistryUnavailable, true));
    server.restart().await;
    // A registry that did not respond several times is left alone for some seconds.
    let deadline = Instant::now() + Duration::from_secs(30);
    let found = loop {
        match client.head(&image, &none).await {
            Err(error) if error.is_transient() && Instant::now() < deadline => {
                tokio::time::sleep(error.retry_after().unwrap_or_default()).await;
            }
            found => break found.expect("head"),
        }
    };
    assert_eq!(found.map(|found| found.digest), Some(pushed));
}
