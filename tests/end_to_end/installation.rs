//! The operator as people run it: the chart, installed once for all tests of this binary.

use std::process::Command;

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use tokio::sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::support::{Cluster, wait::wait_for};

/// Where the operator runs.
pub const NAMESPACE: &str = "groundswell-system";
/// The name of the release, and so of the Deployment and the Lease.
pub const RELEASE: &str = "groundswell";
/// What the pods of the operator are selected by.
const PODS: &str = "app.kubernetes.io/name=groundswell";
/// How many lines of each replica's log are shown when a test fails.
const LINES: &str = "--tail=60";

/// Held shared by most tests, and alone by those that stop or replace the operator.
static TURN: RwLock<()> = RwLock::const_new(());

/// The cluster, with the chart installed, in the hands of one test. When the test fails, it shows
/// how things stand.
pub struct Session {
    pub cluster: &'static Cluster,
    pub client: Client,
    image: &'static str,
    _turn: Turn,
}

/// A place among those who share the cluster, or the whole of it: held until the test ends.
type Turn = (Option<RwLockReadGuard<'static, ()>>, Option<RwLockWriteGuard<'static, ()>>);

impl Session {
    /// For a test that others may run beside.
    pub async fn shared() -> Self {
        Self::new((Some(TURN.read().await), None)).await
    }

    /// For a test that the operator's other users would feel.
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

    /// `helm upgrade --install`, with values beside those of the development cluster. Returns when
    /// all replicas are ready.
    pub fn install(&self, values: &[&str]) {
        install(self.cluster, self.image, values);
    }

    /// The operator's pods.
    pub async fn operators(&self) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), NAMESPACE);
        pods.list(&ListParams::default().labels(PODS)).await.expect("the operator's pods").items
    }

    /// The name of the pod that leads.
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
                Err(format!(
                    "the Lease is held by \
                {holder:?}; {pods:?}"
                ))
            }
        })
        .await
    }

    /// Kills the leading process, as the kernel does, and deletes its pod, so that another one has
    /// to follow: the Lease is not given back. Returns the pod's name.
    pub async fn lose_leader(&self) -> String {
        let leader = self.kill_leader().await;
        self.delete(&leader).await;
        leader
    }

    /// Kills the leading process as the kernel does. Its container is started again, in the same
    /// pod.
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

    /// Deletes a pod of the operator, without grace.
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
            &["--namespace", NAMESPACE, "logs", "--selector", PODS, "--prefix", LINES],
        ] {
            let shown = self.cluster.run("kubectl", arguments).unwrap_or_else(|error| error);
            let end: Vec<&str> = shown.lines().rev().take(150).collect();
            eprintln!("---- kubectl {}", arguments.join(" "));
            end.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Pushes the operator's image, made of the binary that cargo compiled for these tests. Returns its
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
    let said =
        cluster.run("dev/images/operator", &["--cluster", &cluster.name, "--binary", &binary]);
    said.expect("the operator's image").lines().last().expect("a reference").to_owned()
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
