//! What the operator relies on, over real registries: without accounts, with a list of users, with
//! a token service, over TLS, and behind a pull-through mirror.

use std::sync::Arc;

use groundswell::{
    api::condition::Reason,
    registry::{CaBundle, Client, Config, Digest, Keychain, Manifest, Reference},
};

use crate::{
    certificate::Certificate,
    keychain,
    server::{Program, RegistryServer, Setup, Users},
    token_service::{ALICE, TokenService},
};

/// A registry, a client that trusts it, and the keychain that may push.
struct Place {
    server: RegistryServer,
    client: Client,
    keychain: Keychain,
}

impl Place {
    async fn new(setup: Setup) -> Self {
        let certificate = setup.certificate.clone();
        let has_users = !matches!(setup.users, Users::Anonymous);
        let server = RegistryServer::with_setup(setup).await;
        let mut config = Config::default();
        config.allowed_addresses.push("127.0.0.1".into());
        match &certificate {
            Some(certificate) => {
                config.ca_bundle = CaBundle::parse(&certificate.pem).expect("a bundle");
            }
            None => config.plain_http.push(server.address.clone()),
        }
        let client = Client::new(config).expect("a client");
        let keychain = if has_users {
            keychain(&server.address, ALICE.0, ALICE.1)
        } else {
            Keychain::default()
        };
        Self { server, client, keychain }
    }

    fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.server.address).parse().expect(rest)
    }

    async fn manifest(&self, rest: &str) -> Manifest {
        self.client.manifest(&self.reference(rest), &self.keychain).await.expect(rest)
    }

    /// The digest that the registry itself gives for a tag of ours.
    async fn own(&self, rest: &str) -> Option<Digest> {
        let head = self.client.own_head(&self.reference(rest), &self.keychain).await;
        head.expect(rest).map(|head| head.digest)
    }
}

async fn setups() -> Vec<(&'static str, Setup)> {
    let certificate = Arc::new(Certificate::of_loopback());
    let service = TokenService::start(Arc::clone(&certificate)).await;
    let over_tls =
        |users| Setup { users, certificate: Some(Arc::clone(&certificate)), ..Setup::default() };
    vec![
        ("anonymous", Setup::default()),
        ("another implementation", Setup { program: Program::Crane, ..Setup::default() }),
        ("users", Setup { users: Users::Alice, ..Setup::default() }),
        ("anonymous over TLS", over_tls(Users::Anonymous)),
        ("users over TLS", over_tls(Users::Alice)),
        ("tokens over TLS", over_tls(Users::OfService(service))),
    ]
}

#[tokio::test]
async fn every_registry_reads_sets_and_refuses_as_the_operator_relies_on() {
    for (name, setup) in setups().await {
        println!("{name}");
        let has_users = !matches!(setup.users, Users::Anonymous);
        let place = Place::new(setup).await;
        absent_images_are_absent(&place).await;
        tags_are_read_and_set(&place).await;
        rights_are_known(&place).await;
        if has_users {
            wrong_credentials_are_denied(&place).await;
        }
    }
}

/// A tag that does not exist, and a repository that does not, before the first push.
async fn absent_images_are_absent(place: &Place) {
    assert_eq!(place.own("team/app:gs-1").await, None, "an absent repository");
    place.server.push("team/app", "1", "amd64", "one").await;
    assert_eq!(place.own("team/app:gs-1").await, None, "an absent tag");
    let missing = place.client.manifest(&place.reference("team/app:gs-1"), &place.keychain).await;
    assert_eq!(missing.expect_err("absent").reason(), Reason::ImageNotFound);
}

/// A tag is moved without its layers, again after that, and back.
async fn tags_are_read_and_set(place: &Place) {
    let one = place.server.push("team/app", "1", "amd64", "one").await;
    let two = place.server.push("team/app", "2", "amd64", "two").await;
    for (tag, digest) in [("1", &one), ("2", &two), ("2", &two), ("1", &one)] {
        let manifest = place.manifest(&format!("team/app:{tag}")).await;
        assert_eq!(&manifest.digest, digest);
        let latest = place.reference("team/app:latest");
        place.client.set_tag(&latest, &manifest, &place.keychain).await.expect("a tag");
        assert_eq!(place.own("team/app:latest").await.as_ref(), Some(digest));
        let polled = place.client.head(&latest, &place.keychain).await.expect("a poll");
        assert_eq!(polled.map(|head| head.digest).as_ref(), Some(digest));
    }
    let image = place.reference("team/app:1");
    let manifest = place.manifest("team/app:1").await;
    let config =
        place.client.config(&image, manifest.image().expect("an image"), &place.keychain).await;
    assert_eq!(config.expect("a configuration").diff_ids, [Digest::of(b"layer one")]);
}

/// The right to push is verified without a push.
async fn rights_are_known(place: &Place) {
    let image = place.reference("team/other:x");
    place.client.verify_push(&image, &place.keychain).await.expect("the right to push");
    assert_eq!(place.own("team/other:x").await, None, "nothing was written");
}

async fn wrong_credentials_are_denied(place: &Place) {
    let image = place.reference("team/app:1");
    for wrong in [Keychain::default(), keychain(&place.server.address, ALICE.0, "wr0ng")] {
        for denied in [
            place.client.head(&image, &wrong).await.map(|_| ()),
            place.client.verify_push(&image, &wrong).await,
        ] {
            let error = denied.expect_err("a wrong credential");
            assert_eq!((error.reason(), error.is_transient()), (Reason::RegistryDenied, false));
            assert!(!error.to_string().contains("wr0ng"), "{error}");
        }
    }
}

#[tokio::test]
async fn a_token_is_requested_once_per_repository_and_right() {
    let certificate = Arc::new(Certificate::of_loopback());
    let service = TokenService::start(Arc::clone(&certificate)).await;
    let users = Users::OfService(Arc::clone(&service));
    let setup = Setup { users, certificate: Some(certificate), ..Setup::default() };
    let place = Place::new(setup).await;
    place.server.push("public/base", "1", "amd64", "one").await;
    let nobody = Keychain::default();
    let image = place.reference("public/base:1");
    assert_eq!(service.issued(), 0);
    for _ in 0..5 {
        place.client.head(&image, &nobody).await.expect("a poll").expect("an image");
    }
    assert_eq!(service.issued(), 1, "anybody may pull");
    let manifest = place.manifest("public/base:1").await;
    for tag in ["a", "b", "c"] {
        let tag = place.reference(&format!("public/base:{tag}"));
        place.client.set_tag(&tag, &manifest, &place.keychain).await.expect("a tag");
    }
    assert_eq!(service.issued(), 3, "one of alice to pull, and one to push");
}

#[tokio::test]
async fn a_pull_through_mirror_has_no_word_on_own_tags() {
    let origin = RegistryServer::start(Users::Anonymous).await;
    let mirrored = Some(origin.address.clone());
    let mirror = RegistryServer::with_setup(Setup { mirrored, ..Setup::default() }).await;
    let one = origin.push("team/app", "latest", "amd64", "one").await;
    let two = origin.push("team/app", "2", "amd64", "two").await;
    let url = format!("http://{}", mirror.address).parse().expect("a mirror");
    let config = Config {
        plain_http: vec![origin.address.clone(), mirror.address.clone()],
        mirrors: [(origin.address.clone(), vec![url])].into(),
        ..Config::default()
    };
    let (client, nobody) = (Client::new(config).expect("a client"), Keychain::default());
    let reference = |rest: &str| format!("{}/{rest}", origin.address).parse().expect(rest);

    // The mirror keeps the manifest by its digest, and the tag for a while.
    let latest: Reference = reference("team/app:latest");
    let read = client.manifest(&latest, &nobody).await.expect("through the mirror");
    assert_eq!(read.digest, one);
    let newer = client.manifest(&reference("team/app:2"), &nobody).await.expect("a manifest");
    client.set_tag(&latest, &newer, &nobody).await.expect("a tag at the registry");
    let own = client.own_head(&latest, &nobody).await.expect("the registry's word");
    assert_eq!(own.map(|head| head.digest), Some(two.clone()));
    let absent = client.own_head(&reference("team/app:gs-1"), &nobody).await;
    assert_eq!(absent, Ok(None));
    // A mirror cannot be pushed to, so that the right to push is asked of the registry.
    client.verify_push(&latest, &nobody).await.expect("the right to push");

    // With the registry away, what the mirror has is still read by its digest.
    drop(origin);
    let kept = client.manifest(&latest.with_digest(&one), &nobody).await.expect("from the mirror");
    assert_eq!(kept.digest, one);
}
