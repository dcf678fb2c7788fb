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
pub mod error;
pub mod spec;
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
        dockerfile::{self, BuilderPlatform, Dockerfile},
        git::FetchLimits,
        prepare::{
            error::{PrepareError, PrepareReason},
            spec::PrepareSpec,
        },
        source,
    },
    registry::Config,
};

/// The longest that a source may take to come: libgit2 does not give up by itself on a server that
/// says nothing.
const PREPARE_TIMEOUT: Duration = Duration::from_mins(15);

/// Where things lie in the pod.
#[derive(Clone, Debug)]
struct PodPaths {
    workspace: PathBuf,
    docker_config: PathBuf,
    config_map: PathBuf,
    git_secret: PathBuf,
    credentials: PathBuf,
    uid_map: PathBuf,
    termination_log: PathBuf,
}

impl PodPaths {
    /// The paths of a pod, under `root`: `/` but in tests.
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
    let paths = PodPaths::under(Path::new("/"));
    let variable = std::env::var_os(spec::VARIABLE);
    let work = tokio::task::spawn_blocking({
        let paths = paths.clone();
        move || run(variable, &paths)
    });
    let result = match tokio::time::timeout(PREPARE_TIMEOUT, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(PrepareError::new(
            PrepareReason::InfrastructureFailed,
            format!(
                "prepare broke \
            off: {error}"
            ),
        )),
        Err(_) => Err(PrepareError::new(
            PrepareReason::SourceUnavailable,
            format!("the source did not come within {} s", PREPARE_TIMEOUT.as_secs()),
        )),
    };
    let Err(refusal) = result else { return ExitCode::SUCCESS };
    tracing::error!(reason = refusal.reason.as_str(), "{}", refusal.message);
    if let Err(error) = fs::write(&paths.termination_log, refusal.write()) {
        tracing::error!(%error, "the termination message can't be written");
    }
    ExitCode::FAILURE
}

fn run(variable: Option<OsString>, paths: &PodPaths) -> Result<(), PrepareError> {
    let broken = |problem: String| {
        PrepareError::new(
            PrepareReason::InfrastructureFailed,
            format!("{}: {problem}", spec::VARIABLE),
        )
    };
    let variable = variable.and_then(|value| value.into_string().ok()).ok_or_else(|| {
        broken(
            "it is not set: this step is started by the controller, in a build's \
                               pod"
            .into(),
        )
    })?;
    let specification: PrepareSpec =
        serde_json::from_str(&variable).map_err(|error| broken(error.to_string()))?;
    user_namespace::check(specification.user_namespace, &paths.uid_map)?;
    context::write(&specification.source, paths, &FetchLimits::default())?;
    check_dockerfile(&specification, paths)?;
    let registries = registries(&specification)?;
    docker_config::write(&specification, &registries, paths)?;
    buildkitd::write(&registries, paths)
}

fn registries(specification: &PrepareSpec) -> Result<Config, PrepareError> {
    let config: Option<Config> =
        serde_json::from_value(specification.registries.clone()).map_err(|error| {
            let message =
                format!("the operator's configuration of registries can't be read: {error}");
            PrepareError::new(PrepareReason::InfrastructureFailed, message)
        })?;
    Ok(config.unwrap_or_default())
}

fn check_dockerfile(specification: &PrepareSpec, paths: &PodPaths) -> Result<(), PrepareError> {
    let path = specification.source.dockerfile_path();
    let text = context::read_dockerfile(&paths.context(), path)?;
    let mismatch = |message: String| PrepareError::new(PrepareReason::DockerfileMismatch, message);
    let dockerfile = Dockerfile::parse(&text, &specification.args, BuilderPlatform::here())
        .map_err(|error| mismatch(error.to_string()))?;
    dockerfile::verify_edges(&dockerfile, &specification.parents, specification.target.as_deref())
        .map_err(|error| mismatch(error.to_string()))
}

/// A refusal because of our own disk.
fn disk(path: &Path, error: &std::io::Error) -> PrepareError {
    PrepareError::new(PrepareReason::InfrastructureFailed, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
