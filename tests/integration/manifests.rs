//! The manifests of `deploy/` on a cluster that has never had Groundswell.

use std::fs;

use super::support::{Cluster, cluster::root};

/// The first command of the installation without Helm.
const FIRST_COMMAND: &str = "kubectl apply --server-side -f deploy/crds.yaml\n";

/// Returns the block of shell commands of a document that installs the manifests.
fn commands(document: &str) -> String {
    let text = fs::read_to_string(root().join(document)).expect(document);
    let mut blocks = text.split("```sh\n").skip(1).filter_map(|block| block.split("```").next());
    let found = blocks.find(|block| block.contains(FIRST_COMMAND));
    found.unwrap_or_else(|| panic!("{document} does not install deploy/")).to_owned()
}

#[test]
fn the_commands_of_the_readme_install_everything_at_the_first_try() {
    let script = commands("README.md");
    assert_eq!(script, commands("docs/operations.md"));
    let cluster = Cluster::start_own("manifests", "api");
    // kubectl remembers the kinds of an address for minutes, and clusters share addresses.
    let cache = tempfile::tempdir().expect("a folder");
    let cache = cache.path().to_str().expect("UTF-8");
    // kubectl maps every object to a kind before it applies any of them.
    let at_once =
        ["--cache-dir", cache, "apply", "--server-side", "--dry-run=server", "-k", "deploy"];
    let refused = cluster.run("kubectl", &at_once).expect_err("there are no CRDs yet");
    assert!(refused.contains("ensure CRDs are installed first"), "{refused}");

    let script = format!("export KUBECACHEDIR={cache}\n{script}");
    let applied = cluster.run("bash", &["-ec", &script]).expect("the commands of README.md");
    assert!(applied.contains("deployment.apps/groundswell serverside-applied"), "{applied}");
    let strategies = cluster.run("kubectl", &["get", "buildstrategies", "-o", "name"]);
    assert_eq!(strategies.expect("listed").trim(), "buildstrategy.groundswell.dev/buildkit");
    assert_helm_takes_over(&cluster, cache);
}

/// Fails unless Helm takes over what kubectl has installed, and then what a release of another name
/// has left, with the options that docs/upgrade-and-uninstall.md names and not without them.
fn assert_helm_takes_over(cluster: &Cluster, cache: &str) {
    let helm = |command: &str| {
        let path = "export PATH=$(dev/tools/build --path helm):$PATH";
        let script = format!("{path}; export KUBECACHEDIR={cache}; helm {command}");
        cluster.run("bash", &["-ec", &script])
    };
    let first = "install groundswell charts/groundswell --namespace groundswell-system";
    let other = "install other charts/groundswell --namespace other-system --create-namespace";
    let refused = helm(first).expect_err("kubectl's objects");
    assert!(refused.contains("invalid ownership metadata"), "{refused}");
    helm(&format!("{first} --take-ownership --force-conflicts")).expect("installed");
    helm("uninstall groundswell --namespace groundswell-system").expect("uninstalled");
    let refused = helm(other).expect_err("the other release's objects");
    assert!(refused.contains("invalid ownership metadata"), "{refused}");
    helm(&format!("{other} --take-ownership --force-conflicts")).expect("installed");
}
