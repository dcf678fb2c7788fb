//! Secrets are planted wherever the operator reads one or a stranger may repeat one, and looked for
//! wherever it writes.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use groundswell::api::{Cascade, FamilyRequest, ImageFamily, ManagedImage};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{Event, Pod, Secret},
};
use kube::api::PostParams;
use serde_json::{Value, json};

use super::{
    builder::{Builder, STRATEGY},
    checks::{Disruption, checks, end},
    client, cluster,
    guarded_registry::{GuardedRegistry, REPEATING},
    support::{
        family,
        images::Images,
        objects::{Place, show},
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

const USER: &str = "robot";
/// The password of the registry's account.
const PASSWORD: &str = "Xq7-planted-registry-9Zw";
/// A credential of a Git server, which no registry may see.
const GIT_TOKEN: &str = "Xq7-planted-git-4Bt";
/// A value of an entry that is malformed, so that something has to be said about it.
const BROKEN: &str = "Xq7-planted-broken-2Lk";

/// Where something was found, and the text around it.
type Found = BTreeMap<String, String>;

#[tokio::test]
async fn planted_secrets_are_found_nowhere() {
    let client = client().await;
    let place = Place::new(&client, "planted").await;
    let blobs = GuardedRegistry::without_account(&cluster().registry).await;
    let guarded = GuardedRegistry::open(&cluster().registry, [USER, PASSWORD], &blobs.host).await;
    let images = Images::new(&cluster().registry);
    let upstream = format!("library/{}", place.namespace);
    images.push(&upstream, "3.20", None, "1", &BTreeMap::new()).await;
    let _builder = Builder::start(&place, &images);
    let settings = Settings {
        log: "groundswell=trace,debug".into(),
        ..Settings::new(cluster(), &place.namespace, &[&guarded.host, &blobs.host])
    };
    let operator = Operator::ready(&settings).await;
    plant(&place, &guarded).await;

    place.apply_family("app", &spec(&place, &guarded, &upstream)).await.expect("a family");
    // What a check prints is quoted, and it may print what it was given.
    let running = checks(&place, 1).await;
    let printed = format!("{PASSWORD} {} no findings", encoded_account());
    end(&place, &running[0].1, 0, &printed, Disruption::None).await;
    wait_for("the image to be current, and the other one to be denied", 90, async || {
        let images = place.list::<ManagedImage>().await;
        let state = |name: &str| {
            let image = images.iter().find(|image| image.spec.image == name);
            let status = image.and_then(|image| image.status.as_ref());
            status.map(|status| (status.reason.clone(), status.message.clone()))
        };
        let (base, other) = (state("base"), state(REPEATING));
        let is_built = base.as_ref().is_some_and(|(reason, _)| reason == "Current");
        let is_denied = other.as_ref().is_some_and(|(reason, _)| reason == "RegistryDenied");
        if is_built && is_denied { Ok(()) } else { Err(format!("{base:?} {other:?}")) }
    })
    .await;
    let used =
        guarded.requests().into_iter().filter(|received| received.contains("Basic ")).count();
    assert!(used > 0, "the credential was not used");
    assert!(!blobs.requests().is_empty(), "no blob was read from the other host");

    let found = search(&place, &operator, &blobs).await;
    assert!(found.is_empty(), "secrets in {found:#?}");
}

/// The account as a request and a Docker configuration have it.
fn encoded_account() -> String {
    STANDARD.encode(format!("{USER}:{PASSWORD}"))
}

/// Creates the Secrets: one for the registry, which names the account in each of the forms that are
/// read, with a malformed entry, and one for Git.
async fn plant(place: &Place, guarded: &GuardedRegistry) {
    let encoded = encoded_account();
    let config = json!({ "auths": {
        &guarded.host: { "auth": encoded },
        "other.example.com": { "username": USER, "password": PASSWORD },
        "broken.example.com": { "auth": BROKEN },
    }});
    let config = config.to_string();
    place.secret("registry", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &config).await;
    let git = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/basic-auth",
        "metadata": { "name": "git", "annotations": { "groundswell.dev/hosts": "git.invalid" } },
        "stringData": { "username": USER, "password": GIT_TOKEN },
    });
    let git: Secret = serde_json::from_value(git).expect("a Secret");
    place.api().create(&PostParams::default(), &git).await.expect("a Secret");
}

/// A family with an image that is built, one in a repository whose registry repeats the credential,
/// and one from a Git server that is not there.
fn spec(place: &Place, guarded: &GuardedRegistry, upstream: &str) -> Value {
    let repository = format!("{}/{}", guarded.host, place.namespace);
    let mut spec = family::spec(&repository, &format!("docker.io/{upstream}"), STRATEGY);
    let mut base = family::image("base", "alpine");
    base["checks"] = json!([{ "name": "scan", "command": ["scan"] }]);
    let mut from_git = family::image("from-git", "alpine");
    let git = json!({ "url": "https://git.invalid/app.git", "secretRef": { "name": "git" } });
    from_git["source"] = json!({ "git": git });
    spec["images"] = json!([base, family::image(REPEATING, "alpine"), from_git]);
    spec["credentials"] = json!([{ "name": "registry" }]);
    spec
}

/// Looks for the planted secrets in everything that the operator writes.
async fn search(place: &Place, operator: &Operator, blobs: &GuardedRegistry) -> Found {
    let mut texts: Vec<(&str, String)> = vec![
        ("the log", operator.whole_log()),
        ("the metrics", operator.get("metrics").await.expect("metrics").1),
        ("requests to the host of the blobs", blobs.requests().join("\n")),
    ];
    texts.extend(place.list::<ImageFamily>().await.iter().map(|of| ("a family", show(of))));
    texts.extend(place.list::<ManagedImage>().await.iter().map(|of| ("an image", show(of))));
    texts.extend(place.list::<Cascade>().await.iter().map(|of| ("a cascade", show(of))));
    texts.extend(place.list::<FamilyRequest>().await.iter().map(|of| ("a request", show(of))));
    texts.extend(place.list::<Job>().await.iter().map(|of| ("a Job", show(of))));
    // The status of a pod has what the check has printed itself.
    let pods = place.list::<Pod>().await.into_iter().map(|pod| Pod { status: None, ..pod });
    texts.extend(pods.map(|pod| ("a pod", show(&pod))));
    texts.extend(place.list::<Event>().await.iter().map(|of| ("an Event", show(of))));
    assert!(texts.iter().any(|(kind, _)| *kind == "a pod"), "no build has run");
    let encoded = encoded_account();
    let planted = [PASSWORD, GIT_TOKEN, BROKEN, &encoded];
    let mut found = Found::new();
    for (kind, text) in &texts {
        for secret in planted {
            if let Some(line) = text.lines().find(|line| line.contains(secret)) {
                found.insert((*kind).to_owned(), line.chars().take(600).collect());
            }
        }
    }
    found
}
