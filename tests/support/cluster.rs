//! A development cluster for one test binary.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

/// Environment variable with the name of a running cluster that the tests use and do not remove
/// afterwards. For work on the tests themselves.
const BORROWED: &str = "GROUNDSWELL_TEST_CLUSTER";

/// A running cluster.
#[derive(Debug)]
pub struct Cluster {
    /// Its name, for `dev/cluster --name`.
    pub name: String,
    /// Path of a kubeconfig with all rights.
    pub kubeconfig: PathBuf,
    /// Its registry, as this machine reaches it: an address and a port.
    pub registry: String,
    /// `PATH` with kubectl, crane and helm of the cluster's versions.
    pub path: String,
}

impl Cluster {
    /// Starts a cluster named after `kind` and this process. It is removed when this process ends.
    ///
    /// # Panics
    /// When it does not start; the message holds its log.
    pub fn start(kind: &str, profile: &str) -> Self {
        match std::env::var(BORROWED) {
            Ok(name) => Self::up(name, &["--profile", profile]),
            Err(_) => Self::start_own(kind, profile),
        }
    }

    /// Starts a cluster that nothing has used yet.
    pub fn start_own(kind: &str, profile: &str) -> Self {
        Self::up_own(kind, &["--profile", profile])
    }

    /// Starts a cluster without a node that emulates an older version of Kubernetes.
    pub fn start_emulating(kind: &str, version: &str) -> Self {
        Self::up_own(kind, &["--profile", "api", "--emulate", version])
    }

    fn up_own(kind: &str, options: &[&str]) -> Self {
        let name = format!("{kind}-{}", std::process::id());
        leave_nothing_behind(&name);
        Self::up(name, options)
    }

    fn up(name: String, options: &[&str]) -> Self {
        let up = script("dev/cluster")
            .args(["up", "--name", &name])
            .args(options)
            .output()
            .expect("dev/cluster");
        assert!(up.status.success(), "dev/cluster up:\n{}", String::from_utf8_lossy(&up.stderr));
        let env =
            script("dev/cluster").args(["env", "--name", &name]).output().expect("dev/cluster");
        let env = String::from_utf8(env.stdout).expect("text");
        let value = |variable: &str| {
            let line =
                env.lines().find_map(|line| line.strip_prefix(&format!("export {variable}=")));
            line.unwrap_or_else(|| panic!("dev/cluster env prints no {variable}:\n{env}"))
                .to_owned()
        };
        let path = value("PATH").replace("$PATH", &std::env::var("PATH").unwrap_or_default());
        Self { kubeconfig: value("KUBECONFIG").into(), registry: value("REGISTRY"), path, name }
    }

    /// A client with all rights. One for each test, because its connections belong to the test's
    /// runtime.
    pub async fn client(&self) -> Client {
        // A second installation fails, and would be the same.
        _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .expect("config");
        Client::try_from(config).expect("client")
    }

    /// Runs a program of the cluster's `PATH`, in the repository's root.
    ///
    /// # Errors
    /// Returns what the program wrote to stderr, if it failed.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        self.feed(program, arguments, "")
    }

    /// Does the same as [`Cluster::run`] with a standard input.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new("timeout")
            .args(["300", "env", program])
            .args(arguments)
            .current_dir(root())
            .env("PATH", &self.path)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("GROUNDSWELL_CLUSTER", &self.name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect(program);
        child.stdin.take().expect("stdin").write_all(input.as_bytes()).expect("write");
        let output = child.wait_with_output().expect(program);
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!(
                "{program} {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            ))
        }
    }
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(path: &str) -> Command {
    let mut command = Command::new(root().join(path));
    command.stdin(Stdio::null());
    command
}

/// Starts a process that removes the cluster when this process has ended: on success, on a panic
/// and when it is killed. It reads from a pipe that the kernel closes in each of these cases.
fn leave_nothing_behind(name: &str) {
    let guard = Command::new("setsid")
        .args([
            "bash",
            "-c",
            "cat >/dev/null; exec dev/cluster down --name \"$0\" 2>/dev/null",
            name,
        ])
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("a process that removes the cluster");
    // The pipe must stay open until the kernel closes it.
    std::mem::forget(guard);
}
