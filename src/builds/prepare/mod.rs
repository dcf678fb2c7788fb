//! The first step of a build, in the build's own pod and from the operator's own image:
//! `groundswell prepare`.
//!
//! It checks that the pod runs in the user namespace that the strategy asks for, writes the build
//! context, holds the Dockerfile against the declared edges, and writes the credentials and the
//! registries' configuration for the builder. What it refuses it says in its termination message,
//! and the builder never starts.

mod buildkitd;
mod context;
pub(in crate::builds) mod docker_config;
pub mod refusal;
pub mod specification;
mod user_namespace;

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use crate::{
    builds::{
        dockerfile::{self, Dockerfile, Platform},
        git::Limits,
        prepare::{
            refusal::{Reason, Refusal},
            specification::{Source, Specification},
        },
        source,
    },
    registry::Config,
};

/// The longest that a source may take to come: libgit2 does not give up by itself on a server that
/// says nothing.
const PATIENCE: Duration = Duration::from_mins(15);

/// Where things lie in the pod.
#[derive(Clone, Debug)]
struct Places {
    workspace: PathBuf,
    docker_config: PathBuf,
    config_map: PathBuf,
    git_secret: PathBuf,
    credentials: PathBuf,
    uid_map: PathBuf,
    termination_log: PathBuf,
}

impl Places {
    /// The places of a pod, under `root`: `/` but in tests.
    fn under(root: &Path) -> Self {
        let place = |path: &str| root.join(path.trim_start_matches('/'));
        Self {
            workspace: place(source::WORKSPACE),
            docker_config: place(source::DOCKER_CONFIG),
            config_map: place(source::CONFIG_MAP),
            git_secret: place(source::GIT_SECRET),
            credentials: place(source::CREDENTIALS),
            uid_map: place("/proc/self/uid_map"),
            termination_log: place("/dev/termination-log"),
        }
    }

    fn context(&self) -> PathBuf {
        self.workspace.join("context")
    }
}

/// The subcommand `prepare`: reads the specification from the environment, prepares the build, and
/// on a refusal writes the termination message and fails.
pub async fn main() -> ExitCode {
    let places = Places::under(Path::new("/"));
    let variable = std::env::var_os(specification::VARIABLE);
    let work = tokio::task::spawn_blocking({
        let places = places.clone();
        move || run(variable, &places)
    });
    let result = match tokio::time::timeout(PATIENCE, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(Refusal::new(
            Reason::InfrastructureFailed,
            format!(
                "prepare broke \
            off: {error}"
            ),
        )),
        Err(_) => Err(Refusal::new(
            Reason::SourceUnavailable,
            format!("the source did not come within {} s", PATIENCE.as_secs()),
        )),
    };
    let Err(refusal) = result else { return ExitCode::SUCCESS };
    tracing::error!(reason = refusal.reason.as_str(), "{}", refusal.message);
    if let Err(error) = fs::write(&places.termination_log, refusal.write()) {
        tracing::error!(%error, "the termination message can't be written");
    }
    ExitCode::FAILURE
}

fn run(variable: Option<OsString>, places: &Places) -> Result<(), Refusal> {
    let broken = |problem: String| {
        Refusal::new(
            Reason::InfrastructureFailed,
            format!("{}: {problem}", specification::VARIABLE),
        )
    };
    let variable = variable.and_then(|value| value.into_string().ok()).ok_or_else(|| {
        broken(
            "it is not set: this step is started by the controller, in a build's \
                               pod"
            .into(),
        )
    })?;
    let specification: Specification =
        serde_json::from_str(&variable).map_err(|error| broken(error.to_string()))?;
    user_namespace::check(specification.user_namespace, &places.uid_map)?;
    context::write(&specification.source, places, &Limits::default())?;
    check_dockerfile(&specification, places)?;
    let registries = registries(&specification)?;
    docker_config::write(&specification, &registries, places)?;
    buildkitd::write(&registries, places)
}

fn registries(specification: &Specification) -> Result<Config, Refusal> {
    let config: Option<Config> =
        serde_json::from_value(specification.registries.clone()).map_err(|error| {
            let message =
                format!("the operator's configuration of registries can't be read: {error}");
            Refusal::new(Reason::InfrastructureFailed, message)
        })?;
    Ok(config.unwrap_or_default())
}

fn check_dockerfile(specification: &Specification, places: &Places) -> Result<(), Refusal> {
    let path = match &specification.source {
        Source::Git { dockerfile, .. } => dockerfile,
        Source::Inline { .. } | Source::ConfigMap { .. } => source::DOCKERFILE,
    };
    let text = context::read_dockerfile(&places.context(), path)?;
    let mismatch = |message: String| Refusal::new(Reason::DockerfileMismatch, message);
    let dockerfile = Dockerfile::parse(&text, &specification.args, Platform::here())
        .map_err(|error| mismatch(error.to_string()))?;
    dockerfile::check(&dockerfile, &specification.parents, specification.target.as_deref())
        .map_err(|error| mismatch(error.to_string()))
}

/// A refusal because of our own disk.
fn disk(path: &Path, error: &std::io::Error) -> Refusal {
    Refusal::new(Reason::InfrastructureFailed, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
