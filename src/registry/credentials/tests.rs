//! Which credential a repository gets, and what a builder gets.

use super::*;

fn secret(auths: &str) -> String {
    format!(r#"{{"auths":{{{auths}}}}}"#)
}

fn keychain(auths: &str) -> Keychain {
    Keychain::from_secrets([("s", secret(auths).as_bytes())]).expect(auths)
}

fn user(keychain: &Keychain, image: &str) -> Option<String> {
    let image: Reference = image.parse().expect(image);
    let found = keychain.lookup(image.registry(), image.path(), CredentialUse::Pull);
    found.map(|credential| match credential {
        Credential::Password { username, .. } | Credential::IdentityToken { username, .. } => {
            username.clone()
        }
        Credential::RegistryToken { .. } => "a token".into(),
    })
}

fn entry(key: &str, user: &str) -> String {
    format!(r#""{key}":{{"username":"{user}","password":"hunter2"}}"#)
}

#[test]
fn the_longest_path_wins_then_the_fewest_wildcards_then_the_first_secret() {
    let first = secret(
        &[
            entry("*.example.com", "glob"),
            entry("r.example.com", "host"),
            entry("r.example.com/team", "team"),
        ]
        .join(","),
    );
    let second =
        secret(&[entry("r.example.com", "late"), entry("r.example.com/team/app", "app")].join(","));
    let keychain = Keychain::from_secrets([("a", first.as_bytes()), ("b", second.as_bytes())])
        .expect("keychain");
    for (image, expected) in [
        ("r.example.com/other/x", Some("host")),
        ("r.example.com/team/x", Some("team")),
        ("r.example.com/team/app", Some("app")),
        ("q.example.com/team/app", Some("glob")),
        ("example.com/x/y", None),
        ("a.b.example.com/x/y", None),
        ("r.example.com:5000/x/y", None),
        ("alpine", None),
    ] {
        assert_eq!(user(&keychain, image).as_deref(), expected, "{image}");
    }
}

#[test]
fn all_names_of_docker_hub_are_equivalent() {
    for key in [
        "https://index.docker.io/v1/",
        "index.docker.io",
        "docker.io",
        "https://registry-1.docker.io/v2/",
    ] {
        assert_eq!(user(&keychain(&entry(key, "hub")), "alpine").as_deref(), Some("hub"), "{key}");
    }
}

#[test]
fn identity_follows_the_credential_of_the_repository() {
    let identity =
        |keychain: &Keychain, path| keychain.identity(["r.example"], path, CredentialUse::Pull);
    let (a, b) = (keychain(&entry("r.example", "a")), keychain(&entry("r.example", "b")));
    assert_eq!(
        identity(&a, "x/y"),
        identity(&keychain(&entry("https://r.example/v1/", "a")), "other")
    );
    assert_ne!(identity(&a, "x/y"), identity(&b, "x/y"));
    assert_ne!(identity(&a, "x/y"), identity(&Keychain::default(), "x/y"));
    assert_eq!(
        identity(&keychain(&entry("elsewhere.example", "a")), "x/y"),
        identity(&Keychain::default(), "x/y")
    );
}

#[test]
fn the_docker_config_contains_only_the_requested_credentials() {
    let all = [
        entry("docker.io", "hub"),
        entry("*.example.com/team", "team"),
        entry("secret.example", "other"),
    ]
    .join(",");
    let images: Vec<Reference> = ["r.example.com/team/app", "alpine", "quay.io/x/y"]
        .iter()
        .map(|image| image.parse().expect(image))
        .collect();
    let pulled = images.iter().map(|image| (image, CredentialUse::Pull));
    let emitted = keychain(&all).docker_config(pulled);
    let expected = concat!(
        r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOmh1bnRlcjI="},"#,
        r#""r.example.com":{"auth":"dGVhbTpodW50ZXIy"}}}"#
    );
    assert_eq!(emitted.expose_secret(), expected);
    assert_eq!(
        user(
            &Keychain::from_secrets([("again", expected.as_bytes())]).expect("own output"),
            "alpine"
        )
        .as_deref(),
        Some("hub")
    );
}

#[test]
fn a_secret_is_used_only_for_what_it_is_for() {
    use CredentialUse::{Pull, Push};

    let payloads = ["both", "push", "pull"].map(|user| secret(&entry("r.example", user)));
    let credential = |name: &str, uses: &[CredentialUse]| RegistryCredential {
        name: name.into(),
        uses: uses.into(),
    };
    let find = |credentials: &[RegistryCredential], wanted| {
        let payload = |name: &str| payloads.iter().find(|payload| payload.contains(name));
        let secrets = credentials.iter().map(|known| {
            let value = payload(&known.name).expect("a payload").as_bytes();
            (known, SecretPayload { form: SecretForm::DockerConfigJson, value })
        });
        let keychain = Keychain::from_credentials(secrets).expect("a keychain");
        let image: Reference = "r.example/team/app".parse().expect("an image");
        let config = keychain.docker_config([(&image, wanted)]).expose_secret().to_owned();
        let found =
            keychain.lookup("r.example", "team/app", wanted).map(|credential| match credential {
                Credential::Password { username, .. }
                | Credential::IdentityToken { username, .. } => username.clone(),
                Credential::RegistryToken { .. } => "a token".into(),
            });
        assert_eq!(config.contains("r.example"), found.is_some());
        found
    };
    let (both, push, pull) = (
        credential("both", &[Pull, Push]),
        credential("push", &[Push]),
        credential("pull", &[Pull]),
    );
    for (credentials, pulls, pushes) in [
        (vec![both.clone()], Some("both"), Some("both")),
        (vec![both.clone(), pull.clone()], Some("pull"), Some("both")),
        (vec![push.clone(), both.clone()], Some("both"), Some("push")),
        (vec![push, pull.clone()], Some("pull"), Some("push")),
        (vec![pull], Some("pull"), None),
    ] {
        assert_eq!(find(&credentials, Pull).as_deref(), pulls, "{credentials:?}");
        assert_eq!(find(&credentials, Push).as_deref(), pushes, "{credentials:?}");
    }
}

#[test]
fn debug_shows_hosts_and_no_secrets() {
    let debug = format!("{:?}", keychain(&entry("r.example/team", "somebody")));
    assert_eq!(debug, r"{r.example/team}");
}

#[test]
fn too_many_entries_are_rejected() {
    let many: Vec<String> =
        (0..=MAX_ENTRIES).map(|n| entry(&format!("r{n}.example"), "u")).collect();
    let error =
        Keychain::from_secrets([("s", secret(&many.join(",")).as_bytes())]).expect_err("too many");
    assert_eq!(error, SecretError::TooMany { secret: "s".into() });
}

#[test]
fn a_secret_that_cannot_be_used_does_not_affect_the_others() {
    let usable = secret(&entry("r.example", "u"));
    let of = |secrets: &[(&'static str, &str)]| {
        Keychain::from_secrets(secrets.iter().map(|(name, value)| (*name, value.as_bytes())))
    };
    let keychain = of(&[("bad", "hunter2"), ("fine", &usable), ("empty", "{}")]).expect("one");
    assert_eq!(user(&keychain, "r.example/app").as_deref(), Some("u"));
    let ignored: Vec<String> = keychain.ignored().iter().map(ToString::to_string).collect();
    assert!(ignored[0].starts_with("Secret bad: .dockerconfigjson is not"), "{ignored:?}");
    assert!(ignored[1].starts_with("Secret empty: .dockerconfigjson has no"), "{ignored:?}");
    assert_eq!(ignored.len(), 2);
    let error = of(&[("empty", "{}"), ("bad", "hunter2")]).expect_err("none");
    assert_eq!(error, SecretError::Empty { secret: "empty".into(), key: ".dockerconfigjson" });
    assert!(of(&[]).is_ok(), "a family may name none");
}
