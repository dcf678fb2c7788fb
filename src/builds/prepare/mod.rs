//! The init container of a build, from the operator's own image: `groundswell prepare`.
//!
//! It verifies that the pod runs in the user namespace that the strategy requires, writes the build
//! context, compares the Dockerfile with the declared edges, and writes for the builder: the
//! credentials, the images that it may pull, the dates of the image and the configuration of the
//! registries. If one of these fails, it writes the error as its termination message, and the
//! builder never starts.

mod buildkitd;
mod ca_bundle;
mod context;
mod contexts;
mod dates;
pub(in crate::builds) mod docker_config;
pub mod error;
mod parents;
pub mod source_policy;
pub mod spec;
mod user_namespace;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use jiff::Timestamp;
use tokio::runtime::Handle;

use crate::{
    builds::{
        dockerfile::{self, BuildOptions, Dockerfile, ReplacedDigest},
        git::FetchLimits,
        pod_paths,
        prepare::{
            dates::ImageDates,
            error::{PrepareError, PrepareReason},
            parents::ParentImage,
            spec::PrepareSpec,
        },
    },
    registry::{CaBundle, Config, Keychain, Platform},
};

/// Maximum duration of `prepare`. libgit2 does not time out by itself on a server that sends
/// nothing.
const PREPARE_TIMEOUT: Duration = Duration::from_mins(15);

/// The paths in the pod.
#[derive(Clone, Debug)]
struct PodPaths {
    root: PathBuf,
    workspace: PathBuf,
    docker_config: PathBuf,
    config_map: PathBuf,
    git_secret: PathBuf,
    credentials: PathBuf,
    uid_map: PathBuf,
    termination_log: PathBuf,
}

impl PodPaths {
    /// Returns the paths of a pod under `root`, which is `/` except in tests.
    fn under(root: &Path) -> Self {
        let under = |path: &str| root.join(path.trim_start_matches('/'));
        Self {
            root: root.to_owned(),
            workspace: under(pod_paths::WORKSPACE),
            docker_config: under(pod_paths::DOCKER_CONFIG),
            config_map: under(pod_paths::CONFIG_MAP),
            git_secret: under(pod_paths::GIT_SECRET),
            credentials: under(pod_paths::CREDENTIALS),
            uid_map: under("/proc/self/uid_map"),
            termination_log: under("/dev/termination-log"),
        }
    }

    fn context(&self) -> PathBuf {
        self.workspace.join("context")
    }
}

/// Runs the subcommand `prepare`: reads the spec from the environment and prepares the build. If
/// this fails, writes the termination message and returns a failure.
pub async fn main() -> ExitCode {
    let paths = PodPaths::under(Path::new("/"));
    let variable = std::env::var_os(spec::PREPARE_VARIABLE);
    let work = tokio::task::spawn_blocking({
        let paths = paths.clone();
        let runtime = Handle::current();
        move || {
            run(variable, &paths, |spec, registries, keychain| {
                runtime.block_on(read_parents(spec, registries, keychain))
            })
        }
    });
    let result = match tokio::time::timeout(PREPARE_TIMEOUT, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(PrepareError::new(
            PrepareReason::InfrastructureFailed,
            format!("`prepare` was aborted: {error}"),
        )),
        Err(_) => Err(PrepareError::new(
            PrepareReason::SourceUnavailable,
            format!("the source could not be fetched within {} s", PREPARE_TIMEOUT.as_secs()),
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.report(&paths.termination_log),
    }
}

/// Prepares the build. `read_parents` returns the parents, in the order of the spec.
fn run(
    variable: Option<OsString>,
    paths: &PodPaths,
    read_parents: impl FnOnce(
        &PrepareSpec,
        &Config,
        &Keychain,
    ) -> Result<Vec<ParentImage>, PrepareError>,
) -> Result<(), PrepareError> {
    let broken = |problem: String| {
        PrepareError::new(
            PrepareReason::InfrastructureFailed,
            format!("{}: {problem}", spec::PREPARE_VARIABLE),
        )
    };
    let variable = variable.and_then(|value| value.into_string().ok()).ok_or_else(|| {
        broken(
            "the variable is not set; only the controller runs this command, in a build's pod"
                .into(),
        )
    })?;
    let spec: PrepareSpec =
        serde_json::from_str(&variable).map_err(|error| broken(error.to_string()))?;
    user_namespace::verify(spec.user_namespace, &paths.uid_map)?;
    // Before anything uses Git, whose TLS library reads the file once.
    ca_bundle::write(&spec, paths)?;
    let commit = context::write(&spec.source, paths, &FetchLimits::default())?;
    let dockerfile = parse_dockerfile(&spec, paths)?;
    // Before credentials are written, and again when the triggers of the parents are known.
    verify_dockerfile(&dockerfile, &spec, None)?;
    let registries = registries(&spec)?;
    let keychain = docker_config::write(&spec, &registries, paths)?;
    let parents = read_parents(&spec, &registries, &keychain)?;
    let replaced = verify_dockerfile(&dockerfile, &spec, Some(&parents))?;
    contexts::write(&spec, &replaced, paths)?;
    source_policy::write(&spec, paths)?;
    ImageDates::of(&spec, &parents, commit.committed_at, Timestamp::now()).write(paths)?;
    buildkitd::write(&registries, &ca_bundle::hosts(&spec), paths)
}

/// Reads the parents in their registries.
async fn read_parents(
    spec: &PrepareSpec,
    registries: &Config,
    keychain: &Keychain,
) -> Result<Vec<ParentImage>, PrepareError> {
    let ca_bundle = CaBundle::parse(&spec.ca_bundle).unwrap_or_default();
    let registries = Config { ca_bundle, ..registries.clone() };
    let Ok(platform) = spec.platform.parse::<Platform>();
    parents::read(spec, registries, keychain, &platform).await
}

fn registries(spec: &PrepareSpec) -> Result<Config, PrepareError> {
    let config: Option<Config> =
        serde_json::from_value(spec.registries.clone()).map_err(|error| {
            let message = format!("the operator's configuration of registries is invalid: {error}");
            PrepareError::new(PrepareReason::InfrastructureFailed, message)
        })?;
    Ok(config.unwrap_or_default())
}

fn parse_dockerfile(spec: &PrepareSpec, paths: &PodPaths) -> Result<Dockerfile, PrepareError> {
    let text = context::read_dockerfile(&paths.context(), spec.source.dockerfile_path())?;
    let Ok(platform) = spec.platform.parse::<Platform>();
    let options =
        BuildOptions { args: &spec.args, platform: &platform, target: spec.target.as_deref() };
    let dockerfile = Dockerfile::parse(&text, &options).map_err(mismatch)?;
    for arg in dockerfile::undeclared_args(&dockerfile, spec.args.keys()) {
        tracing::warn!(arg, "no ARG of the Dockerfile declares this build argument");
    }
    Ok(dockerfile)
}

/// Compares the Dockerfile with the edges. Returns the images whose digest in the Dockerfile is not
/// the pinned one.
fn verify_dockerfile(
    dockerfile: &Dockerfile,
    spec: &PrepareSpec,
    parents: Option<&[ParentImage]>,
) -> Result<Vec<ReplacedDigest>, PrepareError> {
    let triggers: Option<Vec<_>> =
        parents.map(|parents| parents.iter().map(|parent| parent.triggers.clone()).collect());
    dockerfile::verify_edges(dockerfile, &spec.parents, triggers.as_deref()).map_err(mismatch)
}

fn mismatch(error: impl ToString) -> PrepareError {
    PrepareError::new(PrepareReason::DockerfileMismatch, error.to_string())
}

/// Returns the error for a failed operation on the pod's own disk.
fn disk_error(path: &Path, error: &std::io::Error) -> PrepareError {
    PrepareError::new(PrepareReason::InfrastructureFailed, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
