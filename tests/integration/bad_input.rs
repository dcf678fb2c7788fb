//! Bad input gets a condition with a reason and a message to act on, an Event and no build, and
//! affects no other family.

use std::panic::AssertUnwindSafe;

use base64::Engine;
use futures::{FutureExt, future::join_all};
use groundswell::api::{ImageFamily, condition::Reason};
use k8s_openapi::api::events::v1::Event;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::{
    builder::STRATEGY,
    client, cluster,
    odd_registry::OddRegistry,
    restart::Scene,
    support::{
        objects::{self, Place},
        operator::{Operator, Settings},
        wait::wait_for,
    },
};

/// A spec that can't be built, and what the condition of its family must be.
struct Case {
    name: &'static str,
    spec: Value,
    reason: Reason,
    messages: Vec<String>,
}

/// Collects the cases: each differs in one thing from a family that could be built.
struct Cases<'a> {
    scene: &'a Scene,
    cases: Vec<Case>,
}

impl Cases<'_> {
    fn add(
        &mut self,
        name: &'static str,
        change: impl FnOnce(&mut Value),
        reason: Reason,
        messages: &[&str],
    ) {
        let mut spec = self.scene.spec();
        // Each case has its own repository, so that no two claim the same tag by accident.
        spec["repository"] =
            json!(format!("{}/{}/{name}", cluster().registry, self.scene.place.namespace));
        change(&mut spec);
        self.cases.push(Case {
            name,
            spec,
            reason,
            messages: messages.iter().map(|&part| part.into()).collect(),
        });
    }
}

#[tokio::test]
async fn bad_input_is_reported_and_affects_no_other_family() {
    let client = client().await;
    let scene = Scene::new(&client, "bad").await;
    let odd = OddRegistry::open().await;
    let closed = OddRegistry::closed().await;
    let place = &scene.place;
    let mut settings = Settings::new(cluster(), &place.namespace, &[&odd.host, &closed]);
    settings.registries =
        settings.registries.replacen('{', "{\"readTimeout\":\"2s\",\"timeout\":\"5s\",", 1);
    let _operator = Operator::ready(&settings).await;
    let containers = json!([{ "name": "build", "image": "{{ imag.name }}" }]);
    let template = json!({ "spec": { "containers": containers } });
    let misspelt = json!({ "userNamespace": "NotRequired", "template": template });
    objects::strategy(&client, "misspelt", misspelt).await;
    let of_others = json!({
        "userNamespace": "NotRequired", "namespaces": ["others", "other-*"],
        "template": { "spec": { "containers": [{ "name": "build", "image": "i" }] } },
    });
    objects::strategy(&client, "of-others", of_others).await;
    place.secret("misshapen", "Opaque", ".dockerconfigjson", "{\"auths\": [").await;
    place.secret("empty", "Opaque", "password", "secret").await;
    let auth = base64::engine::general_purpose::STANDARD.encode("me:wrong-password");
    let config = json!({ "auths": { odd.host.clone(): { "auth": auth } } });
    place
        .secret(
            "refused",
            "kubernetes.io/dockerconfigjson",
            ".dockerconfigjson",
            &config.to_string(),
        )
        .await;
    place.config_map("keyless", &[("README", "no Dockerfile here")]).await;

    place.apply_family("valid", &scene.spec()).await.expect("a family");
    place.wait_family("valid", "Ready", 60).await;
    let digests = place.digests("valid").await;

    let cases = cases(&scene, &odd.host, &closed);
    for case in &cases {
        place
            .apply_family(case.name, &case.spec)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", case.name));
    }
    let problems = join_all(cases.iter().map(|case| problem(place, case))).await;
    let problems: Vec<String> = problems.into_iter().flatten().collect();
    assert!(problems.is_empty(), "{}", problems.join("\n\n"));

    scene.move_upstream("2").await;
    place.wait_rebuilt("valid", &digests, 60).await;
    scene.assert_builds("valid", 2).await;
    for case in &cases {
        let jobs = place.jobs(case.name).await;
        assert!(jobs.is_empty(), "{} was built", case.name);
    }
}

fn cases(scene: &Scene, odd: &str, closed: &str) -> Vec<Case> {
    let namespace = &scene.place.namespace;
    let mut all = Cases { scene, cases: Vec::new() };
    all.add(
        "cycle",
        |spec| spec["images"][0]["from"] = json!([{ "image": "join" }]),
        Reason::Cycle,
        &[
            "spec.images: the edges form a cycle: ",
            "base -> join",
            "remove one of these `from` entries",
        ],
    );
    all.add(
        "unknown-parent",
        |spec| spec["images"][1]["from"][0]["image"] = json!("bsae"),
        Reason::UnknownParent,
        &["spec.images[left].from", "`bsae`", "correct the name or add it"],
    );
    all.add(
        "collision-within",
        |spec| spec["images"][1]["path"] = json!("base"),
        Reason::ImagesFailed,
        &[
            "spec.images[base].tags",
            "/base:latest",
            "a tag of `left`",
            "give each image its own tag or `path`",
        ],
    );
    all.add(
        "collision-across",
        |spec| spec["repository"] = scene.spec()["repository"].clone(),
        Reason::TagCollision,
        &["spec.images[base].tags", &format!("the family {namespace}/valid"), "use another tag"],
    );
    all.add(
        "tag-variable",
        |spec| spec["images"][0]["tags"] = json!(["{{ version }}"]),
        Reason::ImagesLeftOut,
        &["spec.images[base].tags", "{{ version }}", "known are"],
    );
    credentials(&mut all, odd, namespace);
    registries(&mut all, odd, closed);
    strategies_and_sources(&mut all, namespace, closed);
    all.cases
}

fn credentials(all: &mut Cases<'_>, odd: &str, namespace: &str) {
    all.add(
        "no-secret",
        |spec| spec["credentials"] = json!([{ "name": "absent" }]),
        Reason::SecretNotFound,
        &[
            "spec.credentials[absent]",
            &format!("there is no Secret {namespace}/absent"),
            "create it",
        ],
    );
    all.add(
        "misshapen-secret",
        |spec| spec["credentials"] = json!([{ "name": "misshapen" }]),
        Reason::InvalidSecret,
        &["spec.credentials", "misshapen"],
    );
    all.add(
        "empty-secret",
        |spec| spec["credentials"] = json!([{ "name": "empty" }]),
        Reason::InvalidSecret,
        &["spec.credentials[empty]", ".dockerconfigjson"],
    );
    all.add(
        "refused",
        |spec| {
            spec["credentials"] = json!([{ "name": "refused" }]);
            spec["upstreams"][0]["image"] = json!(format!("{odd}/denied/alpine"));
        },
        Reason::RegistryDenied,
        &["upstream alpine", "/denied/alpine:3.20", "denied access", "credentials"],
    );
    all.add(
        "refused-push",
        |spec| {
            spec["credentials"] = json!([{ "name": "refused" }]);
            spec["repository"] = json!(format!("{odd}/denied"));
        },
        Reason::RegistryDenied,
        &["the platform of earlier builds", "/denied/base:", "denied access", "credentials"],
    );
}

fn registries(all: &mut Cases<'_>, odd: &str, closed: &str) {
    for (name, image, reason, said) in [
        (
            "unreachable",
            format!("{closed}/library/alpine"),
            Reason::RegistryUnavailable,
            "is unavailable",
        ),
        ("broken", format!("{odd}/broken/alpine"), Reason::RegistryUnavailable, "is unavailable"),
        ("silent", format!("{odd}/silent/alpine"), Reason::RegistryUnavailable, "is unavailable"),
        (
            "garbage",
            format!("{odd}/garbage/alpine"),
            Reason::InvalidRegistryResponse,
            "check that it is an OCI registry",
        ),
        (
            "large",
            format!("{odd}/large/alpine"),
            Reason::ManifestTooLarge,
            "more than 4194304 bytes",
        ),
        (
            "no-upstream",
            format!("{odd}/none/alpine"),
            Reason::ImageNotFound,
            "correct the image or the tag",
        ),
    ] {
        all.add(
            name,
            |spec| spec["upstreams"][0]["image"] = json!(image),
            reason,
            &["upstream alpine", &format!("{image}:3.20"), said],
        );
    }
}

fn strategies_and_sources(all: &mut Cases<'_>, namespace: &str, closed: &str) {
    let git_url = format!("https://{closed}/tools.git");
    all.add(
        "no-strategy",
        |spec| spec["strategy"] = json!({ "name": "absent" }),
        Reason::StrategyNotFound,
        &["spec.images[base].strategy", "BuildStrategy `absent`", "kubectl get buildstrategies"],
    );
    all.add(
        "misspelt-strategy",
        |spec| spec["strategy"] = json!({ "name": "misspelt" }),
        Reason::InvalidStrategy,
        &["spec.images[base].strategy", "`imag.name`", "the variables are annotations"],
    );
    all.add(
        "unknown-parameter",
        |spec| spec["strategy"] = json!({ "name": STRATEGY, "parameters": { "colour": "red" } }),
        Reason::InvalidStrategy,
        &["spec.images[base].strategy", "`colour`"],
    );
    all.add(
        "strategy-of-others",
        |spec| spec["strategy"] = json!({ "name": "of-others" }),
        Reason::StrategyNotAllowed,
        &[
            "spec.images[base].strategy",
            &format!("BuildStrategy `of-others` does not serve namespace {namespace}"),
            "spec.namespaces",
        ],
    );
    all.add(
        "no-config-map",
        |spec| spec["images"][0]["source"] = json!({ "configMap": { "name": "absent" } }),
        Reason::SourceNotFound,
        &[
            "spec.images[base].source.configMap",
            &format!("there is no ConfigMap {namespace}/absent"),
            "create it or correct the name",
        ],
    );
    all.add(
        "no-dockerfile",
        |spec| spec["images"][0]["source"] = json!({ "configMap": { "name": "keyless" } }),
        Reason::SourceNotFound,
        &["spec.images[base].source.configMap", &format!("{namespace}/keyless"), "Dockerfile"],
    );
    all.add(
        "no-key",
        |spec| {
            let items = json!([{ "key": "Containerfile", "path": "Dockerfile" }]);
            spec["images"][0]["source"] =
                json!({ "configMap": { "name": "keyless", "items": items } });
        },
        Reason::SourceNotFound,
        &["spec.images[base].source.configMap", &format!("{namespace}/keyless"), "Containerfile"],
    );
    all.add(
        "no-git",
        |spec| {
            spec["images"][0]["source"] = json!({ "git": { "url": git_url, "revision": "main" } });
        },
        Reason::SourceUnavailable,
        &["spec.images[base].source.git", &git_url],
    );
    all.add(
        "no-git-secret",
        |spec| {
            let secret = json!({ "name": "absent" });
            spec["images"][0]["source"] =
                json!({ "git": { "url": git_url, "revision": "main", "secretRef": secret } });
        },
        Reason::SecretNotFound,
        &["spec.images[base].source.git", "absent"],
    );
}

/// Waits until the family of a case is `Stalled`. Returns what is wrong with its condition or
/// Event.
async fn problem(place: &Place, case: &Case) -> Option<String> {
    // A case that is never reported is one problem; the other cases are still checked.
    let stalled =
        AssertUnwindSafe(place.wait_family(case.name, "Stalled", 60)).catch_unwind().await;
    let Ok((reason, message)) = stalled else {
        return Some(format!("{}: never reported", case.name));
    };
    let mut problems = Vec::new();
    if reason != case.reason {
        problems.push(format!("the reason is {reason}, not {}", case.reason));
    }
    problems.extend(
        case.messages
            .iter()
            .filter(|part| !message.contains(*part))
            .map(|part| format!("the message does not contain {part:?}")),
    );
    if message.contains("wrong-password") {
        problems.push("the message repeats a password".into());
    }
    // It is published a moment after the condition is written.
    let published = wait_for("an Event", 60, async || {
        let is_published = place.list::<Event>().await.into_iter().any(|event| {
            let about = event.regarding.and_then(|about| about.name);
            about.as_deref() == Some(case.name)
                && event.reason.as_deref() == Some(case.reason.as_str())
                && event.type_.as_deref() == Some("Warning")
        });
        if is_published { Ok(()) } else { Err("there is none".to_owned()) }
    });
    if AssertUnwindSafe(published).catch_unwind().await.is_err() {
        problems.push("there is no Event for it".into());
    }
    (!problems.is_empty())
        .then(|| format!("{}: {}\n{reason}: {message}", case.name, problems.join(", ")))
}

/// A family continues by itself when what it lacked is created.
#[tokio::test]
async fn a_family_continues_when_its_input_is_corrected() {
    let client = client().await;
    let scene = Scene::new(&client, "mended").await;
    let place = &scene.place;
    let _operator = Operator::ready(&Settings::new(cluster(), &place.namespace, &[])).await;

    let mut spec = scene.spec();
    let strategy = format!("late-{}", place.namespace);
    spec["strategy"]["name"] = json!(strategy);
    spec["credentials"] = json!([{ "name": "late" }]);
    spec["images"][0]["source"] = json!({ "configMap": { "name": "late" } });
    place.apply_family("app", &spec).await.expect("a family");
    let stalled = async |wanted: Reason| {
        wait_for(wanted, 30, async || {
            let (reason, message) = place.wait_family("app", "Stalled", 30).await;
            if reason == wanted { Ok(()) } else { Err(format!("{reason}: {message}")) }
        })
        .await;
    };
    stalled(Reason::SecretNotFound).await;
    let config =
        json!({ "auths": { "registry.example.com": { "username": "me", "password": "secret" } } });
    place
        .secret("late", "kubernetes.io/dockerconfigjson", ".dockerconfigjson", &config.to_string())
        .await;
    stalled(Reason::SourceNotFound).await;
    place.config_map("late", &[("Dockerfile", "FROM docker.io/library/alpine:3.20\n")]).await;
    stalled(Reason::StrategyNotFound).await;
    super::builder::Builder::strategy_named(&client, &strategy).await;
    place.wait_family("app", "Ready", 60).await;

    // A later family that claims the same tags waits until the older one is deleted.
    place.apply_family("heir", &spec).await.expect("a family");
    wait_for("the heir to report the collision", 30, async || {
        let (reason, message) = place.wait_family("heir", "Stalled", 30).await;
        if reason == Reason::TagCollision { Ok(()) } else { Err(format!("{reason}: {message}")) }
    })
    .await;
    place.api::<ImageFamily>().delete("app", &DeleteParams::background()).await.expect("deleted");
    place.wait_family("heir", "Ready", 60).await;
    assert_eq!(place.digests("heir").await.len(), family_size(&spec));
}

fn family_size(spec: &Value) -> usize {
    spec["images"].as_array().map_or(0, Vec::len)
}
