//! What a newcomer does: the first family of README.md, command by command, and the script for a
//! local cluster.

use std::fs;

use super::{
    installation::Session,
    scene::{CASCADE, REGISTRY},
    support::{cluster::root, objects::Place},
};

/// The family of README.md and of `examples/greeting`.
const GREETING: &str = "greeting";

/// Returns the fenced block of a language that contains a text.
fn block<'a>(document: &'a str, language: &str, text: &str) -> &'a str {
    let start = format!("\n```{language}\n");
    let mut blocks = document.split(&start).skip(1).filter_map(|block| block.split("```").next());
    blocks.find(|block| block.contains(text)).expect("a block of README.md")
}

/// Runs the commands as they are written, but for the registry and the namespace.
#[tokio::test]
async fn the_first_family_of_the_readme_is_built() {
    let session = Session::shared().await;
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    let here = |text: &str| text.replace("registry.example.com", &format!("{REGISTRY}/readme"));
    let folder = tempfile::tempdir().expect("a folder");
    let family = folder.path().join("greeting.yaml");
    fs::write(&family, here(block(&readme, "yaml", "kind: ImageFamily"))).expect("the manifest");

    let console = block(&readme, "console", "apply -f greeting.yaml");
    let commands: Vec<String> = console
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .map(|line| line.replace("=registry.example.com ", &format!("={REGISTRY} ")))
        .map(|line| line.replace("namespace greeting", "namespace readme"))
        .map(|line| line.replace("-n greeting", "-n readme"))
        .map(|line| here(&line))
        .collect();
    assert!(commands.len() > 7, "{commands:?}");
    let script = format!("cd {}\n{}", folder.path().display(), commands.join("\n"));
    let shown = session.cluster.run("bash", &["-ec", &script]).expect("the commands of README.md");
    assert!(shown.contains("all 2 images are current"), "{shown}");

    let place = Place { client: session.client.clone(), namespace: "readme".into() };
    let digest = place.wait_rolled_out(GREETING, "greeter").await;
    assert_eq!(
        place.deployed("greeter").await,
        format!("{REGISTRY}/readme/greeting/greeter@{digest}")
    );
    for arguments in
        ["get mimg", "get cascades", "explain imgfam.spec --recursive"].map(|line| line.split(' '))
    {
        let arguments: Vec<&str> = arguments.chain(["--namespace", "readme"]).collect();
        session.cluster.run("kubectl", &arguments).expect("a command of README.md");
    }
}

/// The script installs over the release that the other tests use, so nothing else runs meanwhile.
#[tokio::test]
async fn the_local_script_builds_and_rebuilds_the_first_family() {
    let session = Session::alone().await;
    let cluster = session.cluster;
    let context = cluster.run("kubectl", &["config", "current-context"]).expect("a context");
    let up = ["up", "--context", context.trim(), "--image", session.image()];
    let shown = cluster.run("examples/local/cluster", &up).expect("a local cluster");
    assert!(shown.contains("the strategy is buildkit\n"), "{shown}");
    assert!(shown.contains("all 2 images are current"), "{shown}");

    let place = Place { client: session.client.clone(), namespace: GREETING.into() };
    let before = place.digests(GREETING).await;
    let patch = ["--cluster", &cluster.name, "alpine"];
    cluster.run("dev/images/patch", &patch).expect("a new version of alpine");
    place.wait_rebuilt(GREETING, &before, CASCADE).await;
    let digest = place.wait_rolled_out(GREETING, "greeter").await;
    assert_eq!(place.deployed("greeter").await, format!("{REGISTRY}/greeting/greeter@{digest}"));

    // `up` continues from where the cluster is.
    let again = cluster.run("examples/local/cluster", &up).expect("a local cluster");
    assert!(again.contains("all 2 images are current"), "{again}");
    assert_eq!(place.digests(GREETING).await[&"greeter".to_owned()], digest);
    session.install(&[]);
}

/// A compiler that checks what is in the build context, and "compiles" to how it was called.
const CARGO: &str = "#!/bin/sh
set -e
[ -f Cargo.lock ] && [ -d src ] && [ ! -e docs ] && [ ! -e dev ] && [ ! -e .git ]
mkdir -p target/release
echo \"$@\" commit=\"$GROUNDSWELL_COMMIT\" >target/release/groundswell
";

/// `make image` with `BuildKit` and a stand-in for the compiler: that the Dockerfile compiles
/// the operator is shown by `dev/self-build`, which takes much longer.
#[tokio::test]
async fn make_image_builds_the_dockerfile_with_buildkit() {
    let session = Session::shared().await;
    let cluster = session.cluster;
    let run = |program: &str, arguments: &[&str]| cluster.run(program, arguments).expect(program);
    let place = Place::new(&session.client, "make-image").await;
    let namespace = ["--namespace", &place.namespace];
    let kubectl = |arguments: &[&str]| run("kubectl", &[&namespace[..], arguments].concat());
    run("dev/images/build", &["--cluster", &cluster.name, "distroless"]);

    let folder = tempfile::tempdir().expect("a folder");
    let [bin, layer] = ["usr/local/bin", "layer.tar"].map(|path| folder.path().join(path));
    fs::create_dir_all(&bin).expect("a folder");
    fs::write(bin.join("cargo"), CARGO).expect("a script");
    run("chmod", &["755", &bin.join("cargo").display().to_string()]);
    let [layer, root] = [layer.as_path(), folder.path()].map(|path| path.display().to_string());
    run("tar", &["--create", "--file", &layer, "--directory", &root, "usr"]);
    let [debian, compiler] = ["debian", "stand-in-for-rust:1"]
        .map(|name| format!("{}/library/{name}", cluster.registry));
    let tags = run("crane", &["ls", &debian]);
    let debian = format!("{debian}:{}", tags.lines().next().expect("a tag"));
    let platform =
        format!("linux/{}", if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" });
    let append = ["append", "--platform", &platform, "--base", &debian];
    run("crane", &[&append[..], &["--new_layer", &layer, "--new_tag", &compiler]].concat());

    kubectl(&["apply", "--filename", "tests/end_to_end/buildkitd.yaml"]);
    kubectl(&["wait", "pod/buildkitd", "--for=condition=Ready", "--timeout=60s"]);
    let address = kubectl(&["get", "pod", "buildkitd", "--output", "jsonpath={.status.podIP}"]);
    let host = format!("BUILDKIT_HOST=tcp://{address}:1234");
    let stand_in = "RUST_IMAGE=docker.io/library/stand-in-for-rust:1";
    let image = format!("IMAGE={REGISTRY}/{}/groundswell:v0.1.0", place.namespace);
    run("env", &[&host, stand_in, "ENGINE=buildctl", "make", "image", &image, "PUSH=1"]);

    let pushed = format!("{}/{}/groundswell:v0.1.0", cluster.registry, place.namespace);
    let config = run("crane", &["config", "--platform", &platform, &pushed]);
    let config: serde_json::Value = serde_json::from_str(&config).expect("JSON");
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/usr/local/bin/groundswell"]));
    let export = format!("crane export --platform {platform} {pushed} - | tar -xO usr/local/bin");
    let called = run("bash", &["-ec", &export]);
    assert!(called.starts_with("build --locked --profile release --bin groundswell"), "{called}");
    assert!(!called.trim().ends_with("commit="), "{called}");
}
