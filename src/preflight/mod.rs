//! The pre-flight: whether builds can run in a namespace of a cluster, before or after the
//! installation. Every line of its report says that something is ok, or what to do.
//!
//! - [`report`]: the lines and the exit code
//! - `cluster`: the version of the API server, and the definitions of our kinds
//! - `installation`: the installed controller
//! - `rights`: the rights of the caller and of the controller
//! - `build_pod`: whether a build's pod is admitted and started; runs one pod
//! - `strategies`: the strategy that is tried
//! - `files`: what the user gives as files
//! - `registries`: credentials, repositories and upstreams of a family
//!
//! The kubectl plugin runs it as the user, the Helm test as the controller's `ServiceAccount`. It
//! creates nothing but one Job, which it deletes.

mod build_pod;
mod call;
mod cluster;
mod files;
mod installation;
mod registries;
pub mod report;
pub mod rights;
mod strategies;

use std::{path::PathBuf, pin::Pin};

use anyhow::{Context as _, bail};
use clap::Args;
use kube::{Api, Client};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    api::{BuildStrategy, Duration, ImageFamily, RegistryCredential, StrategyRef},
    builds::{platform::named_platform, pod_settings::PodSettings, trial::TrialPlace},
    engine::expansion::expand,
    preflight::{
        build_pod::{Interrupted, PodTrial, TriedStrategy},
        call::call,
        files::{family_in, judge_left_out, read},
        installation::{Installation, names_of},
        registries::FamilyKeychain,
        report::{Finding, Report, ReportFormat, Strictness},
        rights::ReviewedSubject,
        strategies::{CheckTime, NamedStrategy},
    },
    registry::{self, CaBundle, Platform},
};

/// Longest time that is waited for a pod. Longer values are shortened.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);

/// Settings of a pre-flight.
#[derive(Args, Clone, Debug)]
pub struct PreflightSettings {
    /// Name of a family whose credentials, repositories and upstreams are checked as well
    #[arg(long, conflicts_with = "filename")]
    family: Option<String>,
    /// Path of a manifest with such a family, which need not exist in the cluster
    #[arg(short, long, value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Name of the build strategy to try. Defaults to that of the family, or to buildkit
    #[arg(long)]
    strategy: Option<String>,
    /// Skip what exists only after the installation: definitions and controller
    #[arg(long)]
    pre: bool,
    /// Do not run a pod. Nothing is created then
    #[arg(long)]
    no_pod: bool,
    /// How long to wait for the pod, for example 3m. At most 1h
    #[arg(long, default_value = "3m", value_name = "DURATION")]
    timeout: Duration,
    /// Format of the report
    #[arg(short, long, value_enum, default_value = "text")]
    output: ReportFormat,
    /// Exit with 0 if something could not be checked and nothing is wrong otherwise
    #[arg(long)]
    allow_unchecked: bool,
    /// Namespace of the controller
    #[arg(long, env = "POD_NAMESPACE", hide_env = true, default_value = "groundswell-system")]
    operator_namespace: String,
    /// Image of the operator. Defaults to that of the installed controller
    #[arg(long, env = "OPERATOR_IMAGE", hide_env = true)]
    operator_image: Option<String>,
    /// Pull policy of the operator's image. Defaults to that of the installed controller
    #[arg(long, env = "OPERATOR_IMAGE_PULL_POLICY", hide_env = true)]
    operator_image_pull_policy: Option<String>,
    /// Names of Secrets for pulling the images of builds, comma separated. Defaults to those of the
    /// installed controller
    #[arg(long, env = "BUILD_IMAGE_PULL_SECRETS", hide_env = true)]
    build_image_pull_secrets: Option<String>,
    /// Path of a YAML file that configures the operator's own steps. Defaults to the configuration
    /// of the installed controller
    #[arg(long, env = "BUILDS_CONFIG", hide_env = true)]
    builds_config: Option<PathBuf>,
    /// Path of a YAML file that configures the access to registries. Defaults to the configuration
    /// of the installed controller
    #[arg(long, env = "REGISTRIES_CONFIG", hide_env = true)]
    registries_config: Option<PathBuf>,
    /// Path of a PEM file with certificate authorities of registries
    #[arg(long, env = "CA_BUNDLE", hide_env = true)]
    ca_bundle: Option<PathBuf>,
}

/// Who runs the pre-flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckCaller {
    /// A user.
    User,
    /// The controller's own `ServiceAccount`.
    Controller,
}

/// A signal to stop, as a future that completes when it arrives.
type StopSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Runs the pre-flight in a namespace and prints its report. Returns the exit code.
///
/// # Errors
/// Returns an error if a file cannot be read, or if the user stops the check.
pub async fn run(
    client: &Client,
    namespace: &str,
    caller: CheckCaller,
    settings: &PreflightSettings,
) -> anyhow::Result<std::process::ExitCode> {
    // From here on a signal does not end the process, so that the pod is deleted.
    let mut stop = stop_signal()?;
    let check = PreflightRun { client, namespace, caller, settings };
    let report = Box::pin(check.run(&mut stop)).await?;
    print!("{}", report.render(settings.output));
    let strictness =
        if settings.allow_unchecked { Strictness::ProblemsOnly } else { Strictness::Strict };
    Ok(report.exit_code(strictness))
}

fn stop_signal() -> anyhow::Result<StopSignal> {
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    Ok(Box::pin(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    }))
}

/// What all steps of a pre-flight share.
struct PreflightRun<'a> {
    client: &'a Client,
    namespace: &'a str,
    caller: CheckCaller,
    settings: &'a PreflightSettings,
}

/// What the first steps have read for the later ones.
struct ReadInputs {
    installation: Installation,
    family: Option<ImageFamily>,
    chosen: StrategyRef,
    strategy: Option<BuildStrategy>,
}

impl ReadInputs {
    /// The registry credentials of the family.
    fn credentials(&self) -> &[RegistryCredential] {
        self.family.as_ref().map_or(&[], |family| &family.spec.credentials)
    }

    /// The platform of the family's builds, if one strategy names it for all of them.
    fn built_platform(&self) -> Option<Platform> {
        let images = &self.family.as_ref()?.spec.images;
        if images.iter().any(|image| image.strategy.is_some()) {
            return None;
        }
        named_platform(self.strategy.as_ref()?, &self.chosen).ok().flatten()
    }
}

impl PreflightRun<'_> {
    /// Runs the steps in order.
    async fn run(&self, stop: &mut StopSignal) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let findings = &mut report.findings;
        let inputs = tokio::select! {
            inputs = self.check_cluster(findings) => inputs?,
            () = stop.as_mut() => bail!("stopped"),
        };
        if let Err(Interrupted(job)) = self.check_build_pod(&inputs, findings, stop).await {
            bail!("stopped; {job}");
        }
        tokio::select! {
            checked = self.check_family(&inputs, findings) => checked?,
            () = stop.as_mut() => bail!("stopped"),
        }
        Ok(report)
    }

    /// 1. The API server, what is installed, and the rights.
    async fn check_cluster(&self, findings: &mut Vec<Finding>) -> anyhow::Result<ReadInputs> {
        findings.push(cluster::check_version(self.client).await);
        let mut installation = Installation::default_of_this_version();
        if !self.settings.pre {
            findings.push(cluster::check_definitions(self.client).await);
            let operator_namespace = &self.settings.operator_namespace;
            let (read, found) =
                installation::check_controller(self.client, operator_namespace, self.namespace)
                    .await;
            installation = read;
            findings.extend(found);
        }
        self.settings.configure(&mut installation)?;
        if self.caller == CheckCaller::Controller {
            let line = installation.set_proxy(|name| std::env::var(name).ok());
            // Its Deployment may have said the same.
            findings.extend(line.filter(|line| !findings.contains(line)));
        }
        self.check_rights(&installation, findings).await;
        let family = self.read_family().await?;
        let chosen = self.chosen_strategy(family.as_ref());
        let time = if self.settings.pre { CheckTime::Before } else { CheckTime::After };
        let named = NamedStrategy { name: &chosen.name, namespace: self.namespace };
        let (strategy, finding) = named.find(self.client, time).await;
        findings.extend(finding);
        Ok(ReadInputs { installation, family, chosen, strategy })
    }

    async fn check_rights(&self, installation: &Installation, findings: &mut Vec<Finding>) {
        let (client, namespace) = (self.client, self.namespace);
        let operator = &self.settings.operator_namespace;
        if self.caller == CheckCaller::Controller {
            let own = ReviewedSubject::Caller;
            findings.push(rights::check_controller_rights(client, own, namespace, operator).await);
            return;
        }
        if self.settings.pre {
            findings.push(rights::check_installer(client, operator).await);
            return;
        }
        findings.push(rights::check_author(client, namespace).await);
        if let Some(name) = &installation.service_account {
            let account = ReviewedSubject::ServiceAccount {
                namespace: &self.settings.operator_namespace,
                name,
            };
            findings
                .push(rights::check_controller_rights(client, account, namespace, operator).await);
        }
    }

    /// 2. The pod of a build: admission, then one trial.
    async fn check_build_pod(
        &self,
        inputs: &ReadInputs,
        findings: &mut Vec<Finding>,
        stop: &mut StopSignal,
    ) -> Result<(), Interrupted> {
        let Some(strategy) = &inputs.strategy else { return Ok(()) };
        let name = trial_name();
        let deadline = std::time::Duration::from_secs(
            self.settings.timeout.as_secs().min(MAX_TIMEOUT.as_secs()).into(),
        );
        let platform = inputs.installation.platform_of(inputs.family.as_ref());
        let place = TrialPlace {
            name: &name,
            namespace: self.namespace,
            credentials: inputs.credentials(),
            platform: platform.as_ref(),
            deadline,
        };
        let (chosen, environment) = (&inputs.chosen, &inputs.installation.environment);
        let tried = TriedStrategy { strategy, chosen, environment, place };
        let job = match tried.job() {
            Ok(job) => job,
            Err(finding) => {
                findings.push(finding);
                return Ok(());
            }
        };
        findings.push(tried.rendered());
        let trial = if self.settings.no_pod { PodTrial::LeftOut } else { PodTrial::Follows };
        let admission = tokio::select! {
            admission = build_pod::check_admission(self.client, &tried, &job, trial) => admission,
            () = stop.as_mut() => return Err(Interrupted("nothing was created".into())),
        };
        findings.push(admission);
        if trial == PodTrial::LeftOut {
            return Ok(());
        }
        if !inputs.installation.image_is_known {
            findings.push(build_pod::unknown_image());
            return Ok(());
        }
        eprintln!(
            "running a pod in namespace {} for at most {} s",
            self.namespace,
            deadline.as_secs()
        );
        let trial = Box::pin(build_pod::run_trial(self.client, &tried, &job, stop));
        findings.extend(trial.await?);
        Ok(())
    }

    /// 3. The registries of a family.
    async fn check_family(
        &self,
        inputs: &ReadInputs,
        findings: &mut Vec<Finding>,
    ) -> anyhow::Result<()> {
        let Some(family) = &inputs.family else { return Ok(()) };
        findings.extend(judge_left_out(&family.spec.left_out));
        let FamilyKeychain { keychain, finding } =
            registries::check_credentials(self.client, self.namespace, inputs.credentials()).await;
        findings.push(finding);
        let Some(keychain) = keychain else { return Ok(()) };
        let client = registry::Client::new(inputs.installation.registries.clone())
            .context("set up the registry client")?;
        let built_for = inputs.built_platform();
        let found =
            registries::check_registries(&client, &family.spec, &keychain, built_for.as_ref());
        findings.extend(found.await);
        Ok(())
    }

    /// Reads the family from the file or from the cluster, and expands its spec.
    async fn read_family(&self) -> anyhow::Result<Option<ImageFamily>> {
        let family = self.read_written_family().await?;
        Ok(family.map(|family| ImageFamily { spec: expand(family.spec), ..family }))
    }

    async fn read_written_family(&self) -> anyhow::Result<Option<ImageFamily>> {
        if let Some(path) = &self.settings.filename {
            let family = family_in(&read(path)?);
            return Ok(Some(family.with_context(|| path.display().to_string())?));
        }
        let Some(name) = &self.settings.family else { return Ok(None) };
        let api: Api<ImageFamily> = Api::namespaced(self.client.clone(), self.namespace);
        let family = call(api.get(name))
            .await
            .with_context(|| format!("read the family {name} in namespace {}", self.namespace))?;
        Ok(Some(family))
    }

    fn chosen_strategy(&self, family: Option<&ImageFamily>) -> StrategyRef {
        let of_family = family.map(|family| family.spec.strategy.clone()).unwrap_or_default();
        match &self.settings.strategy {
            Some(name) if *name != of_family.name => {
                StrategyRef { name: name.clone(), ..StrategyRef::default() }
            }
            _ => of_family,
        }
    }
}

impl PreflightSettings {
    /// Replaces what the installation says by what the settings say.
    fn configure(&self, installation: &mut Installation) -> anyhow::Result<()> {
        let environment = &mut installation.environment;
        if let Some(image) = &self.operator_image {
            environment.operator_image.clone_from(image);
            installation.image_is_known = true;
        }
        if self.operator_image_pull_policy.is_some() {
            environment.image_pull_policy.clone_from(&self.operator_image_pull_policy);
        }
        if let Some(names) = &self.build_image_pull_secrets {
            environment.image_pull_secrets = names_of(names);
        }
        if let Some(path) = &self.builds_config {
            environment.pods = PodSettings::from_yaml(&read(path)?)
                .with_context(|| format!("validate {}", path.display()))?;
        }
        if let Some(path) = &self.registries_config {
            let config: registry::Config = serde_yaml::from_str(&read(path)?)
                .with_context(|| format!("parse {}", path.display()))?;
            config.validate().with_context(|| format!("validate {}", path.display()))?;
            installation.set_registries(config);
        }
        if let Some(path) = &self.ca_bundle {
            let bundle = CaBundle::read(path).with_context(|| path.display().to_string())?;
            installation.environment.ca_bundle = bundle.clone();
            installation.registries.ca_bundle = bundle;
        }
        Ok(())
    }
}

/// Returns a name that no other check uses.
fn trial_name() -> String {
    let now = jiff::Timestamp::now().as_nanosecond();
    format!("groundswell-check-{now:x}-{:x}", std::process::id())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct CheckParser {
        #[command(flatten)]
        settings: PreflightSettings,
    }

    fn settings(arguments: &[&str]) -> PreflightSettings {
        let line = ["check"].iter().chain(arguments);
        CheckParser::try_parse_from(line).expect("settings").settings
    }

    #[test]
    fn settings_replace_what_is_installed() {
        let folder = tempfile::tempdir().expect("a folder");
        let registries = folder.path().join("registries.yaml");
        std::fs::write(&registries, "plainHttp: [registry.example.com]\n").expect("a file");
        let registries = registries.to_str().expect("a path").to_owned();
        let given = settings(&[
            "--operator-image",
            "operator:2",
            "--operator-image-pull-policy",
            "Never",
            "--build-image-pull-secrets",
            "a,b",
            "--registries-config",
            &registries,
        ]);
        let mut installation = Installation::default_of_this_version();
        given.configure(&mut installation).expect("configured");
        assert_eq!(installation.environment.operator_image, "operator:2");
        assert_eq!(installation.environment.image_pull_policy.as_deref(), Some("Never"));
        assert_eq!(installation.environment.image_pull_secrets, ["a", "b"]);
        assert!(installation.registries.is_plain_http("registry.example.com"));

        std::fs::write(&registries, "plainHttp: ['http://x']\n").expect("a file");
        let error = given.configure(&mut installation).expect_err("invalid");
        assert!(format!("{error:#}").contains("registries.yaml"), "{error:#}");
    }

    #[test]
    fn the_strategy_is_the_one_named_or_that_of_the_family() {
        let client = || {
            let none = tower::service_fn(|_: http::Request<kube::client::Body>| async {
                Err::<http::Response<kube::client::Body>, _>("no API server")
            });
            Client::new(none, "team")
        };
        let spec = serde_json::json!({"repository": "r.example/a", "images": [],
            "strategy": {"name": "own", "parameters": {"cpu": "1"}}});
        let family = ImageFamily::new("f", serde_json::from_value(spec).expect("a spec"));
        for (arguments, family, name, parameters) in [
            (&[][..], None, "buildkit", 0),
            (&[], Some(&family), "own", 1),
            (&["--strategy", "own"], Some(&family), "own", 1),
            (&["--strategy", "other"], Some(&family), "other", 0),
        ] {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let _entered = runtime.enter();
            let (client, settings) = (client(), settings(arguments));
            let check = PreflightRun {
                client: &client,
                namespace: "team",
                caller: CheckCaller::User,
                settings: &settings,
            };
            let chosen = check.chosen_strategy(family);
            assert_eq!((chosen.name.as_str(), chosen.parameters.len()), (name, parameters));
        }
    }
}
