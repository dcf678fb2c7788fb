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
