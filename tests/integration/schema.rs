//! How the API server treats our kinds: it merges, refuses and explains.

use groundswell::api::ImageFamily;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Map, Value, json};

use super::{
    client, cluster,
    support::{family, objects::Place},
};

fn spec() -> Value {
    let mut spec =
        family::spec("registry.example.com/platform", "docker.io/library/alpine", "buildkit");
    spec["images"] = json!([family::image("base", "alpine"), family::image("site", "base")]);
    spec
}

/// The spec with a value set at a JSON pointer, whose last part may be new.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = spec();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer");
    let parent = spec.pointer_mut(parent).expect(pointer);
    match parent {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().expect("an index")] = value,
        other => other[key] = value,
    }
    spec
}

/// A spec that the API server refuses.
struct Case {
    what: &'static str,
    spec: Value,
    /// A part of the API server's message.
    message: &'static str,
}

fn case(what: &'static str, spec: Value, message: &'static str) -> Case {
    Case { what, spec, message }
}

/// Specs whose edges or sources the API server refuses.
fn edges_and_sources() -> Vec<Case> {
    let git = |git: Value| with("/images/0/source", json!({ "git": git }));
    let items = |path: &str| {
        with(
            "/images/0/source",
            json!({ "configMap": { "name": "a", "items": [{ "key": "a", "path": path }] } }),
        )
    };
    vec![
        case(
            "unknown upstream",
            with("/images/0/from/0", json!({ "upstream": "alpin" })),
            "names an upstream in `from` that is not in `upstreams`",
        ),
        case(
            "an edge to nothing",
            with("/images/0/from/0", json!({ "arg": "A" })),
            "either `upstream` or `image`",
        ),
        case(
            "an edge to both",
            with("/images/0/from/0", json!({ "upstream": "alpine", "image": "site" })),
            "either `upstream` or `image`",
        ),
        case(
            "as and arg",
            with("/images/0/from/0", json!({ "upstream": "alpine", "as": "a", "arg": "A" })),
            "must not set both `as` and `arg`",
        ),
        case(
            "an import without a name",
            with(
                "/images/0/from/0",
                json!({ "family": { "namespace": "a", "name": "b" }, "image": "base" }),
            ),
            "must also set `as` or `arg`",
        ),
        case(
            "two bases",
            with("/images/1/from/-", json!({ "upstream": "alpine" })),
            "an image has one base",
        ),
        case(
            "a name that is neither a label nor a template",
            with("/images/0/name", json!("Base_{1}")),
            "name",
        ),
        case(
            "no source",
            with("/images/0/source", json!({})),
            "exactly one of `inline`, `configMap` and `git`",
        ),
        case(
            "two sources",
            with("/images/0/source", json!({ "inline": "FROM a", "configMap": { "name": "a" } })),
            "exactly one of `inline`, `configMap` and `git`",
        ),
        case(
            "a second argument in the name of one",
            with("/images/0/args", json!({ "BASE_IMAGE=evil.example.com/x:1": "z" })),
            "a key of `args` is the name of a build argument",
        ),
        case("a path upward", items("../a"), "path"),
        case(
            "a folder upward",
            git(
                json!({ "url": "https://git.example.com/a", "revision": "main", "path": "a/../b" }),
            ),
            "path must not contain `..`",
        ),
        case(
            "a Dockerfile upward",
            git(json!({
                "url": "https://git.example.com/a", "revision": "main",
                "dockerfile": "../Dockerfile",
            })),
            "dockerfile must not contain `..`",
        ),
        case(
            "Git too often",
            git(
                json!({ "url": "https://git.example.com/a", "revision": "main", "interval": "1s" }),
            ),
            "interval must be at least 5s",
        ),
        case(
            "Git with a password",
            git(json!({ "url": "https://me:secret@git.example.com/a", "revision": "main" })),
            "url",
        ),
    ]
}

/// Specs of which the API server refuses something else.
fn other_fields() -> Vec<Case> {
    let rollout = |rollout: Value| with("/images/0/rollout", json!([rollout]));
    vec![
        case(
            "polls too often",
            with("/upstreams/0/interval", json!("1s")),
            "interval must be at least 5s",
        ),
        case("a bad duration", with("/upstreams/0/interval", json!("5 minutes")), "interval"),
        case(
            "a bad digest",
            with("/upstreams/0/hold", json!({ "digest": "sha256:abc" })),
            "hold.digest",
        ),
        case(
            "settle above its limit",
            with("/policy", json!({ "settle": "20m" })),
            "settle must not be longer than maxSettle",
        ),
        case("no parallelism", with("/policy/parallelism", json!(0)), "parallelism"),
        case(
            "a rollout of nothing",
            rollout(json!({ "container": "web" })),
            "exactly one of `deployment`, `statefulSet`, `daemonSet` and `cronJob`",
        ),
        case(
            "a rollout of two",
            rollout(json!({ "deployment": { "name": "a" }, "cronJob": { "name": "a" } })),
            "exactly one of `deployment`",
        ),
        case(
            "a workload without a name",
            rollout(json!({ "deployment": {} })),
            "either `name` or `matchLabels`",
        ),
        case(
            "a workload named twice",
            rollout(json!({ "deployment": { "name": "a", "matchLabels": { "a": "b" } } })),
            "either `name` or `matchLabels`",
        ),
        case(
            "a variable that the operator sets",
            with(
                "/images/0/checks",
                json!([{ "name": "a", "command": ["a"], "env": { "GROUNDSWELL_IMAGE": "b" } }]),
            ),
            "remove them from the check's `env`",
        ),
        case("an image's name", with("/images/0/name", json!("Base")), "images[0].name"),
        case("a name twice", with("/images/-", family::image("base", "alpine")), "base"),
        case("no registry", with("/repository", json!("platform")), "repository"),
        case("no images", with("/images", json!([])), "images"),
        case("a field that is not there", with("/images/0/frm", json!([])), "frm"),
    ]
}

#[tokio::test]
async fn rejections_say_what_is_wrong() {
    let place = Place::new(&client().await, "schema").await;
    place.apply_family("fine", &spec()).await.expect("the spec that the others differ from");
    let args: Map<String, Value> = (0..128).map(|n| (format!("A{n}"), "b".into())).collect();
    for (pointer, value) in [("/images/0/from", json!([])), ("/images/0/args", args.into())] {
        place.apply_family("fine", &with(pointer, value)).await.expect(pointer);
    }

    for Case { what, spec, message } in edges_and_sources().into_iter().chain(other_fields()) {
        let rejection = place.apply_family("refused", &spec).await.expect_err(what);
        assert!(rejection.contains(message), "{what}: {rejection}");
    }

    for name in ["with.dots", &"a".repeat(51)] {
        let said = place.apply_family(name, &spec()).await.expect_err(name);
        assert!(said.contains("must be a DNS label of at most 47 characters"), "{name}: {said}");
    }
}

#[tokio::test]
async fn two_users_apply_their_parts() {
    let place = Place::new(&client().await, "merge").await;
    let api: Api<ImageFamily> = place.api();
    let apply = async |who: &str, spec: Value| {
        let body = json!({
            "apiVersion": "groundswell.dev/v1alpha1", "kind": "ImageFamily",
            "metadata": { "name": "shared" }, "spec": spec,
        });
        api.patch("shared", &PatchParams::apply(who), &Patch::Apply(body)).await
    };
    apply("platform", spec()).await.expect("the first");
    let debian =
        json!({ "name": "debian", "image": "docker.io/library/debian", "follow": { "tag": "12" } });
    let mut tool = family::image("tool", "alpine");
    tool["from"] = json!([{ "upstream": "debian" }]);
    let tools = json!({
        "repository": "registry.example.com/platform", "upstreams": [debian], "images": [tool],
    });
    apply("tools", tools).await.expect("the second");

    let names = |family: &ImageFamily| -> (Vec<String>, Vec<String>) {
        let upstreams = family.spec.upstreams.iter().map(|upstream| upstream.name.clone());
        (upstreams.collect(), family.spec.images.iter().map(|image| image.name.clone()).collect())
    };
    let both = place.family("shared").await;
    assert_eq!(
        names(&both),
        (vec!["alpine".into(), "debian".into()], vec!["base".into(), "site".into(), "tool".into()])
    );

    // What one user removes is gone, and the other user's part stays.
    let mut less = spec();
    less["images"].as_array_mut().expect("images").remove(1);
    let left = apply("platform", less).await.expect("the first again");
    assert_eq!(names(&left).1, ["base", "tool"]);

    // A user who takes over another user's image gets a conflict.
    let mut other = family::image("base", "alpine");
    other["source"] = json!({ "inline": "FROM docker.io/library/alpine:3.20\nRUN other\n" });
    let conflict =
        apply("tools", json!({ "images": [other] })).await.expect_err("a conflict").to_string();
    assert!(conflict.contains("conflicts with \"platform\""), "{conflict}");
}

#[tokio::test]
async fn kubectl_explains_every_level() {
    client().await;
    for (path, said) in [
        ("imagefamily.spec.upstreams", "Interval at which the controller queries the registry"),
        ("imagefamily.spec.images.from", "Reference as the Dockerfile writes it"),
        ("imagefamily.spec.images.source.git", "The Secret is sent only to the hosts"),
        (
            "imagefamily.spec.policy",
            "Maximum number of builds and checks of this family that run at once",
        ),
        ("managedimage.status", "Digest of the last verified build"),
        ("cascade.status", "Names of the images on the chain of builds that took longest"),
        ("familyrequest.spec", "What to do. `Trigger` starts stale builds now"),
        ("buildstrategy.spec", "Maximum duration of one build"),
    ] {
        let text = cluster().run("kubectl", &["explain", path]).expect(path);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.contains(said), "{path}: {text}");
    }
    for (short, name) in [
        ("imgfam", "imagefamilies"),
        ("mimg", "managedimages"),
        ("casc", "cascades"),
        ("famreq", "familyrequests"),
        ("bstrat", "buildstrategies"),
    ] {
        let text = cluster()
            .run("kubectl", &["api-resources", "--categories=groundswell", "--no-headers"])
            .expect("resources");
        assert!(
            text.lines().any(|line| line.contains(name) && line.contains(short)),
            "{short}: {text}"
        );
    }
}

#[tokio::test]
async fn the_api_server_takes_the_examples() {
    client().await;
    for example in ["alpine-web", "diamond", "flask", "greeting", "groundswell", "versions"] {
        let folder = format!("examples/{example}");
        cluster()
            .run("kubectl", &["apply", "-f", &format!("{folder}/namespace.yaml")])
            .expect(example);
        let applied = cluster()
            .run("kubectl", &["apply", "--server-side", "--dry-run=server", "-k", &folder])
            .expect(example);
        assert!(
            applied.contains(&format!("imagefamily.groundswell.dev/{example} serverside-applied")),
            "{applied}"
        );
    }
}
