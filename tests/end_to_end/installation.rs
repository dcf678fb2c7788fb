//! The operator as users run it: the chart, installed once for all tests of this binary.

use std::process::Command;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::support::{Cluster, wait::wait_for};

/// The namespace of the operator.
pub const NAMESPACE: &str = "groundswell-system";
/// The name of the release, the Deployment and the Lease.
pub const RELEASE: &str = "groundswell";
/// The label selector of the operator's pods.
const PODS: &str = "app.kubernetes.io/name=groundswell";
/// The option that limits the log lines per replica that a failed test prints.
const LOG_LINES: &str = "--tail=60";

/// Most tests hold a shared lock. Tests that stop or replace the operator hold an exclusive one.
static TURN: RwLock<()> = RwLock::const_new(());

/// The cluster of one test, with the chart installed. If the test fails, the state of the cluster
/// is printed.
pub struct Session {
    pub cluster: &'static Cluster,
    pub client: Client,
    image: &'static str,
    _turn: Turn,
}

/// A shared or an exclusive lock on the cluster, held until the test ends.
type Turn = (Option<RwLockReadGuard<'static, ()>>, Option<RwLockWriteGuard<'static, ()>>);

impl Session {
    /// Returns a session for a test that can run concurrently with others.
    pub async fn shared() -> Self {
        Self::new((Some(TURN.read().await), None)).await
    }

    /// Returns a session for a test that would affect concurrent ones.
    pub async fn alone() -> Self {
        Self::new((None, Some(TURN.write().await))).await
    }

    async fn new(turn: Turn) -> Self {
        static INSTALLED: OnceCell<(Cluster, String)> = OnceCell::const_new();
        let (cluster, image) = INSTALLED
            .get_or_init(async || {
                let cluster = Cluster::start("end-to-end", "full");
                let image = push_operator(&cluster);
                install(&cluster, &image, &[]);
                (cluster, image)
            })
            .await;
        Self { cluster, client: cluster.client().await, image, _turn: turn }
    }

    /// Runs `helm upgrade --install` with values in addition to those of the development cluster.
    /// Returns when all replicas are ready.
    pub fn install(&self, values: &[&str]) {
        install(self.cluster, self.image, values);
    }

    /// Returns the reference of the operator's image.
    pub const fn image(&self) -> &'static str {
        self.image
    }

    /// Returns the operator's pods.
    pub async fn operators(&self) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        pods.list(&ListParams::default().labels(PODS)).await.expect("the operator's pods").items
    }

    /// Returns the name of the leader's pod.
    pub async fn leader(&self) -> String {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), NAMESPACE);
        wait_for("a replica to lead", 60, async || {
            let lease = leases.get(RELEASE).await.map_err(|error| error.to_string())?;
            let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
            let pods: Vec<String> =
                self.operators().await.iter().map(ResourceExt::name_any).collect();
            if pods.contains(&holder) {
                Ok(holder)
            } else {
                Err(format!("the Lease is held by {holder:?}; the pods are {pods:?}"))
            }
        })
        .await
    }

    /// Kills the leader's process with SIGKILL and deletes its pod, so that another replica must
    /// take over without the Lease being released. Returns the pod's name.
    pub async fn lose_leader(&self) -> String {
        let leader = self.kill_leader().await;
        self.delete(&leader).await;
        leader
    }

    /// Kills the leader's process with SIGKILL. The kubelet restarts its container in the same pod.
    pub async fn kill_leader(&self) -> String {
        let leader = self.leader().await;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let pod = pods.get(&leader).await.expect("the leader's pod");
        let status = pod
            .status
            .and_then(|status| status.container_statuses?.into_iter().next())
            .expect("a container");
        let id =
            status.container_id.unwrap_or_default().trim_start_matches("containerd://").to_owned();
        let kill = ["ctr", "--namespace", "k8s.io", "tasks", "kill", "--signal", "SIGKILL", &id];
        let arguments = [&["exec", "--name", &self.cluster.name, "--"][..], &kill].concat();
        self.cluster.run("dev/cluster", &arguments).expect("killed");
        leader
    }

    /// Deletes a pod of the operator without a grace period.
    pub async fn delete(&self, pod: &str) {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        pods.delete(pod, &at_once).await.expect("deleted");
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for arguments in [
            &[
                "get",
                "imagefamilies,managedimages,cascades,jobs,pods,deployments",
                "--all-namespaces",
            ][..],
            &["get", "events", "--all-namespaces", "--sort-by=.metadata.creationTimestamp"],
            &["--namespace", NAMESPACE, "logs", "--selector", PODS, "--prefix", LOG_LINES],
        ] {
            let shown = self.cluster.run("kubectl", arguments).unwrap_or_else(|error| error);
            let end: Vec<&str> = shown.lines().rev().take(150).collect();
            eprintln!("---- kubectl {}", arguments.join(" "));
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Pushes the operator's image with the binary that cargo compiled for these tests. Returns its
/// reference.
fn push_operator(cluster: &Cluster) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = folder.path().join("groundswell");
    let stripped = Command::new("strip")
        .arg("-o")
        .arg(&binary)
        .arg(env!("CARGO_BIN_EXE_groundswell"))
        .status();
    assert!(stripped.expect("strip").success(), "strip: {}", binary.display());
    let binary = binary.to_str().expect("a path").to_owned();
    let output =
        cluster.run("dev/images/operator", &["--cluster", &cluster.name, "--binary", &binary]);
    output.expect("the operator's image").lines().last().expect("a reference").to_owned()
}

fn install(cluster: &Cluster, image: &str, values: &[&str]) {
    let (repository, digest) = image.split_once('@').expect("a digest");
    let image = [format!("image.repository={repository}"), format!("image.digest={digest}")];
    let mut arguments =
        vec!["upgrade", "--install", RELEASE, "charts/groundswell", "--namespace", NAMESPACE];
    arguments.extend([
        "--create-namespace",
        "--values",
        "dev/demo.d/values.yaml",
        "--wait",
        "--timeout",
        "3m",
    ]);
    for value in image
        .iter()
        .map(String::as_str)
        .chain(["tagAuditInterval=5s"])
        .chain(values.iter().copied())
    {
        arguments.extend(["--set", value]);
    }
    cluster.run("helm", &arguments).expect("the chart to be installed");
}
