//! A repository of many images, as users keep them: several parents, bases that arguments select,
//! a stage that an argument names. The edges come from the Dockerfiles, and one entry of the family
//! is a matrix.

use std::collections::{BTreeMap, BTreeSet};

use groundswell::api::CascadePhase;
use serde_json::{Value, json};

use super::{
    git_server::GitServer,
    installation::{NAMESPACE, Session},
    scene::{CASCADE, FAMILY, REGISTRY, Scene},
    support::{
        objects::{Place, show},
        wait::wait_for,
    },
};

/// The images with one parent, whose Dockerfiles take their base from an argument.
const CHAIN: [(&str, &str); 9] = [
    ("base", "foundation"),
    ("minimal", "base"),
    ("julia", "minimal"),
    ("r", "minimal"),
    ("scipy", "minimal"),
    ("tensorflow", "scipy"),
    ("datascience", "scipy"),
    ("pyspark", "scipy"),
    ("pytorch", "scipy"),
];

/// Writes the Dockerfiles of fourteen images, two of which are made from one.
fn write_images(git: &GitServer, upstream: &str) {
    git.write("README.md", "Images for notebooks.\n");
    let root = format!("ARG ROOT_IMAGE={upstream}:3.24\nFROM $ROOT_IMAGE\nRUN echo 1 > /lineage\n");
    git.write("images/foundation/Dockerfile", &root);
    for (image, parent) in CHAIN {
        git.write(&format!("images/{image}/Dockerfile"), &child(image, parent));
    }
    // Two parents. Files are copied from the second one.
    let spark = head("pyspark").replace("FROM ", "FROM $REGISTRY/$OWNER/julia AS julia\nFROM ")
        + "COPY --from=julia /lineage /julia\n";
    git.write("images/all-spark/Dockerfile", &spark);
    // An argument names the stage that is built on.
    let cuda = format!(
        "{}FROM base-image AS variant-cpu\nFROM base-image AS variant-gpu\nRUN echo gpu > /gpu\n\
         FROM variant-${{VARIANT}}\nRUN echo code >> /lineage\n",
        head("pytorch")
            .replace("FROM $BASE_IMAGE\n", "ARG VARIANT=cpu\nFROM $BASE_IMAGE AS base-image\n")
    );
    git.write("images/code/Dockerfile", &cuda);
    git.write("images/lab/Dockerfile", &child("lab", "base"));
}

/// The arguments of a Dockerfile and its `FROM`, as the well-known notebook images write them.
fn head(parent: &str) -> String {
    format!(
        "ARG REGISTRY=quay.io\nARG OWNER=jupyter\nARG BASE_IMAGE=$REGISTRY/$OWNER/{parent}\n\
         FROM $BASE_IMAGE\n"
    )
}

fn child(image: &str, parent: &str) -> String {
    format!("{}RUN echo {image} >> /lineage\n", head(parent))
}

/// Returns the family: no image says what it is built on.
fn family(scene: &Scene, url: &str) -> Value {
    let image = |name: &str| {
        // The lowest image takes its base from one argument alone.
        let args = match name {
            "foundation" => json!({}),
            _ => json!({ "REGISTRY": REGISTRY, "OWNER": scene.place.namespace }),
        };
        json!({ "name": name, "edges": "Dockerfile", "args": args, "tags": ["latest"],
            "source": { "git": { "path": format!("images/{name}") } } })
    };
    let names = ["foundation", "all-spark", "lab"].into_iter();
    let names = names.chain(CHAIN.iter().map(|(name, _)| *name));
    let mut images: Vec<Value> = names.map(image).collect();
    let mut code = image("code");
    code["name"] = json!("code-{{ matrix.variant }}");
    code["matrix"] = json!({ "variant": ["cpu", "gpu"] });
    code["args"]["VARIANT"] = json!("{{ matrix.variant }}");
    images.push(code);
    json!({
        "repository": format!("{REGISTRY}/{}", scene.place.namespace),
        "upstreamDefaults": { "interval": "5s" },
        "sourceDefaults": { "git": { "url": url, "revision": "main", "interval": "5s" } },
        "images": images,
        "policy": { "settle": "0s", "parallelism": 4 },
    })
}

/// Waits until the operator has asked the Git server for a commit that has just been pushed.
async fn wait_polled(git: &GitServer) {
    let before = git.answered();
    wait_for("two more polls of the Git server", 60, async || {
        let polls = git.answered() - before;
        if polls >= 4 { Ok(()) } else { Err(format!("{polls} requests")) }
    })
    .await;
}

/// Returns how many builds each image has had.
async fn builds(place: &Place) -> BTreeMap<String, usize> {
    place.builds(FAMILY, None).await
}

#[tokio::test]
async fn a_monorepo_is_built_from_its_dockerfiles_and_rebuilt_by_folder() {
    let session = Session::alone().await;
    let git = GitServer::start(session.cluster).await;
    let operator = Place { client: session.client.clone(), namespace: NAMESPACE.into() };
    operator.config_map("git-authority", &[("ca.crt", &git.authority())]).await;
    session.install(&["caBundle.configMap=git-authority"]);
    let scene = Scene::new(&session, "monorepo").await;
    let place = &scene.place;
    write_images(&git, &format!("{REGISTRY}/{}/upstream/alpine", place.namespace));
    git.commit("All images");

    place.apply_family(FAMILY, &family(&scene, &git.url())).await.expect("a family");
    place.wait_family(FAMILY, "Ready", 2 * CASCADE).await;
    let first = builds(place).await;
    assert_eq!(first.len(), 14, "{first:?}");
    assert!(first.values().all(|count| *count == 1), "{first:?}");
    let digests = place.digests(FAMILY).await;
    assert_ne!(digests["code-cpu"], digests["code-gpu"]);

    git.write("README.md", "Images for notebooks, and how to use them.\n");
    git.commit("Say more");
    wait_polled(&git).await;
    assert_eq!(builds(place).await, first, "a commit that touches no folder builds nothing");

    // One commit moves an image to another parent.
    git.write("images/julia/Dockerfile", &child("julia", "base"));
    let bump = git.commit("Build julia on base");
    let rebuilt = BTreeSet::from(["julia", "all-spark"]);
    wait_for("julia and what is built on it to be rebuilt", CASCADE, async || {
        let now = place.digests(FAMILY).await;
        let moved: BTreeSet<&str> = now
            .iter()
            .filter(|(image, digest)| digests.get(*image) != Some(digest))
            .map(|(image, _)| image.as_str())
            .collect();
        if moved == rebuilt { Ok(()) } else { Err(format!("{moved:?}")) }
    })
    .await;
    place.wait_family(FAMILY, "Ready", CASCADE).await;
    let second = builds(place).await;
    for (image, count) in &second {
        let expected = if rebuilt.contains(image.as_str()) { 2 } else { 1 };
        assert_eq!(*count, expected, "{image}: {second:?}");
    }
    let cascade = place.last_cascade().await;
    assert_eq!(cascade.status.as_ref().map(|status| status.phase), Some(CascadePhase::Complete));
    assert!(show(&cascade).contains(&bump), "the cause names the commit:\n{}", show(&cascade));
    session.install(&[]);
}
