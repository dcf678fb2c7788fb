//! The controller as a process of this machine that works in some namespaces of a cluster.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::{Cluster, wait::wait_for};

/// How many bytes at the end of a log are printed when a test fails.
const MAX_PRINTED_LOG: usize = 16_000;

/// How a controller is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The kubeconfig that it uses.
    pub kubeconfig: PathBuf,
    /// The namespace that it works in, and whose Lease it takes.
    pub namespace: String,
    /// Further namespaces that it works in.
    pub more_namespaces: Vec<String>,
    /// Its name in the Lease.
    pub identity: String,
    /// The content of its registries file, as YAML.
    pub registries: String,
    /// How often tags are checked.
    pub audit: String,
    /// The filter of its log, as `RUST_LOG`.
    pub log: String,
    /// The token of those who may give hints. None are taken without one.
    pub hint_token: Option<String>,
}

impl Settings {
    /// Settings for a controller of one namespace. The cluster's registry mirrors `docker.io`, and
    /// `plain` are further registries without TLS.
    pub fn new(cluster: &Cluster, namespace: &str, plain: &[&str]) -> Self {
        let registry = &cluster.registry;
        let hosts: Vec<&str> = plain.iter().copied().chain([registry.as_str()]).collect();
        let registries = serde_json::json!({
            "plainHttp": hosts, "mirrors": { "docker.io": [format!("http://{registry}")] },
            "connectTimeout": "2s",
        });
        Self {
            kubeconfig: cluster.kubeconfig.clone(),
            namespace: namespace.into(),
            more_namespaces: Vec::new(),
            identity: "one".into(),
            registries: registries.to_string(),
            audit: "5s".into(),
            log: "groundswell=debug,warn".into(),
            hint_token: None,
        }
    }
}

/// A running controller. Dropping it kills the process and, if the test is failing, prints the end
/// of its log.
#[derive(Debug)]
pub struct Operator {
    /// The process.
    pub child: Child,
    listen: String,
    /// The address that takes hints.
    pub hints: String,
    folder: tempfile::TempDir,
}

impl Operator {
    /// Starts a controller.
    pub fn start(settings: &Settings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let registries = folder.path().join("registries.yaml");
        fs::write(&registries, &settings.registries).expect("a file");
        let log = File::create(folder.path().join("log")).expect("a log");
        let (listen, hints) = (free_address(), free_address());
        let tokens = folder.path().join("tokens");
        let mut hint_arguments = Vec::new();
        if let Some(token) = &settings.hint_token {
            fs::write(&tokens, token).expect("a file");
            let tokens = tokens.display().to_string();
            hint_arguments =
                vec!["--hint-listen".into(), hints.clone(), "--hint-tokens".into(), tokens];
        }
        let watched = [std::slice::from_ref(&settings.namespace), &settings.more_namespaces]
            .concat()
            .join(",");
        let child = Command::new(env!("CARGO_BIN_EXE_groundswell"))
            .arg("controller")
            .args(["--watch-namespaces", &watched, "--lease-namespace", &settings.namespace])
            .args([
                "--identity",
                &settings.identity,
                "--listen",
                &listen,
                "--tag-audit-interval",
                &settings.audit,
            ])
            .args(["--operator-image", "ghcr.io/groundswell-dev/groundswell:dev"])
            .args(hint_arguments)
            .arg("--registries-config")
            .arg(&registries)
            .env("KUBECONFIG", &settings.kubeconfig)
            .env("RUST_LOG", &settings.log)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("the controller");
        Self { child, listen, hints, folder }
    }

    /// Starts a controller and waits until it is ready.
    pub async fn ready(settings: &Settings) -> Self {
        let operator = Self::start(settings);
        operator.wait_ready().await;
        operator
    }

    /// Waits until its readiness probe succeeds.
    pub async fn wait_ready(&self) {
        wait_for("the controller to be ready", 60, async || {
            let answer = self.get("readyz").await?;
            if answer.0 == 200 {
                Ok(())
            } else {
                Err(format!("{}: {}\n{}", answer.0, answer.1, self.log()))
            }
        })
        .await;
    }

    /// Status and body of one of its pages.
    pub async fn get(&self, page: &str) -> Result<(u16, String), String> {
        let answer = reqwest::get(format!("http://{}/{page}", self.listen))
            .await
            .map_err(|error| error.to_string())?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await.map_err(|error| error.to_string())?))
    }

    /// Kills the process without a warning.
    pub fn kill(&mut self) {
        // This fails if the process has already ended.
        _ = self.child.kill();
        self.child.wait().expect("the controller's end");
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        let text = self.whole_log();
        let start = text.len().saturating_sub(MAX_PRINTED_LOG);
        let start = (start..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or_default();
        text.get(start..).unwrap_or_default().to_owned()
    }

    /// Its log.
    pub fn whole_log(&self) -> String {
        let text = fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// An address of this machine. Its port is free now, and no other process of a test asks for a
/// fixed one.
fn free_address() -> String {
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    free.local_addr().expect("an address").to_string()
}

impl Drop for Operator {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("---- the end of the controller's log\n{}----", self.log());
        }
    }
}
