//! The controller's process, from its settings to running controllers and to an orderly shutdown.

mod authorities;
mod definitions;
mod hints;
mod own_image;
mod pollers;
mod record_keys;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use kube::{
    Client,
    runtime::events::{Recorder, Reporter},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

use self::hints::HintEndpoint;
use crate::{
    api::{self, labels},
    build_info,
    build_records::{RecordPolicy, RecordSettings, keys::RecordKeys},
    builds::{job::BuildEnvironment, pod_settings::PodSettings, proxy::ProxyVariables},
    clock::Clock,
    controller::{
        backoff::ReconcileBackoff,
        context::Context,
        deferred_triggers::DeferredTriggers,
        dependents::Dependents,
        event_queue::EventQueue,
        installations::Installations,
        quota::{BuildLimits, BuildQuota},
        reconcile_cache::ReconcileCaches,
        repository_rules::RepositoryRules,
        resource_quotas::QuotaChanges,
        rollouts::Rollouts,
        run::run,
        served::describe,
        stores::Stores,
        tag_owners::TagOwners,
        watch::Scopes,
    },
    fence::Fence,
    lease::LeaderElection,
    object_watch::DeniedWatches,
    registry::{self, Platform},
    rollout,
    server::{self, Metrics, Readiness, metrics::PausedRegistry},
};

/// Name of the Lease, and of the reporter of Events.
const NAME: &str = "groundswell";
/// How long the API server may send nothing on a connection that is waited for.
const READ_TIMEOUT: Duration = Duration::from_secs(100);
/// How long running reconciles may take to complete when the process is asked to stop.
const SHUTDOWN_GRACE_PERIOD: Duration = Duration::from_secs(20);
/// Settings of the controller. None of them is a secret: all are logged at start-up.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// Namespaces to watch, comma separated. All namespaces are watched if empty
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// Image of the operator. It runs the first step of every build
    #[arg(long, env = "OPERATOR_IMAGE")]
    operator_image: String,
    #[arg(
        long,
        env = "OPERATOR_IMAGE_PULL_POLICY",
        help = "Pull policy of the operator's image: Always, IfNotPresent or Never. Kubernetes \
                chooses one if not set"
    )]
    operator_image_pull_policy: Option<String>,
    /// Names of Secrets for pulling the images of build and check pods, comma separated. They must
    /// exist in the namespaces of the families
    #[arg(long, env = "BUILD_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    build_image_pull_secrets: Vec<String>,
    /// Path of a YAML file that configures the operator's own steps and the pods of checks
    #[arg(long, env = "BUILDS_CONFIG")]
    builds_config: Option<PathBuf>,
    /// Path of a PEM file with certificate authorities that the controller and the builds trust in
    /// addition to those of the system
    #[arg(long, env = "CA_BUNDLE")]
    ca_bundle: Option<PathBuf>,
    /// Path of a YAML file that configures the access to registries
    #[arg(long, env = "REGISTRIES_CONFIG")]
    registries_config: Option<PathBuf>,
    /// Path of a YAML file that says which namespaces may name which repositories. Every namespace
    /// may name every repository if not set
    #[arg(long, env = "REPOSITORIES_CONFIG")]
    repositories_config: Option<PathBuf>,
    /// Namespace of the leader election Lease, normally that of the controller
    #[arg(long, env = "POD_NAMESPACE", default_value = "groundswell-system")]
    lease_namespace: String,
    /// Name of the Secret with the keys that sign the records of builds, in the namespace of the
    /// controller. It is made if it does not exist
    #[arg(long, env = "RECORD_KEYS", default_value = "groundswell-record-keys")]
    record_keys: String,
    #[arg(
        long,
        env = "RECORDS",
        value_enum,
        default_value_t,
        help = "Whether a build that has no record in its registry is used: never (Required), or \
                if it has the annotations of a build (Warn)"
    )]
    records: RecordPolicy,
    #[arg(
        long,
        env = "INSTALLATION",
        help = "Name of this installation, normally that of its Deployment. One namespace holds \
                one installation"
    )]
    installation: Option<String>,
    /// Identity of this replica in the Lease, normally the name of its pod
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// Address that serves health and metrics. [::] means all IPv4 and IPv6 addresses
    #[arg(long, env = "LISTEN", default_value = "[::]:8080")]
    listen: SocketAddr,
    #[arg(
        long,
        env = "HINT_LISTEN",
        requires = "hint_tokens",
        help = "Address that takes hints of registries, POST /hint: what they name is polled at \
                once. None are taken if not set"
    )]
    hint_listen: Option<SocketAddr>,
    #[arg(
        long,
        env = "HINT_TOKENS",
        help = "File with the tokens of those who may give hints, one in each line"
    )]
    hint_tokens: Option<PathBuf>,
    /// Interval at which the controller checks whether another client has moved a floating tag
    #[arg(long, env = "TAG_AUDIT_INTERVAL", default_value = "10m")]
    tag_audit_interval: api::Duration,
    #[arg(
        long,
        env = "DEFAULT_PLATFORM",
        value_parser = linux_platform,
        help = "Platform of the builds of new families whose strategies name none, such as \
                linux/arm64. That of the controller's node if not set"
    )]
    default_platform: Option<Platform>,
    /// Maximum number of builds that run at once in the cluster. 0 means no limit
    #[arg(long, env = "BUILDS_PER_CLUSTER", default_value_t = 0)]
    builds_per_cluster: u32,
    /// Maximum number of builds that run at once in each namespace. 0 means no limit
    #[arg(long, env = "BUILDS_PER_NAMESPACE", default_value_t = 0)]
    builds_per_namespace: u32,
    /// Maximum number of builds that run at once because of one upstream. 0 means no limit
    #[arg(long, env = "BUILDS_PER_UPSTREAM", default_value_t = 0)]
    builds_per_upstream: u32,
}

impl Settings {
    /// Returns the limits on concurrent builds.
    fn limits(&self) -> BuildLimits {
        let limit = |builds: u32| usize::try_from(builds).ok().filter(|builds| *builds > 0);
        BuildLimits {
            cluster: limit(self.builds_per_cluster),
            namespace: limit(self.builds_per_namespace),
            upstream: limit(self.builds_per_upstream),
        }
    }

    /// Returns the names of the pull secrets. An empty variable names none.
    fn pull_secrets(&self) -> Vec<String> {
        let names = self.build_image_pull_secrets.iter().map(|name| name.trim());
        names.filter(|name| !name.is_empty()).map(Into::into).collect()
    }

    /// Returns what the Lease says about the controller that holds it.
    fn lease_annotations(&self) -> BTreeMap<String, String> {
        let version = (labels::CONTROLLER_VERSION.to_owned(), build_info::LONG_VERSION.clone());
        let installation = self.installation.clone();
        let installation = installation.map(|name| (labels::INSTALLATION.to_owned(), name));
        installation.into_iter().chain([version]).collect()
    }

    /// Logs version, commit and every setting in one line.
    fn log(&self) {
        info!(
            version = build_info::VERSION,
            commit = build_info::COMMIT,
            watch_namespaces = self.watch_namespaces.join(","),
            operator_image = self.operator_image,
            operator_image_pull_policy = self.operator_image_pull_policy.as_deref(),
            build_image_pull_secrets = self.build_image_pull_secrets.join(","),
            builds_config = self.builds_config.as_deref().map(tracing::field::debug),
            ca_bundle = self.ca_bundle.as_deref().map(tracing::field::debug),
            registries_config = self.registries_config.as_deref().map(tracing::field::debug),
            repositories_config = self.repositories_config.as_deref().map(tracing::field::debug),
            lease_namespace = self.lease_namespace,
            record_keys = self.record_keys,
            records = self.records.as_str(),
            installation = self.installation.as_deref(),
            identity = self.identity,
            listen = %self.listen,
            hint_listen = self.hint_listen.as_ref().map(tracing::field::display),
            tag_audit_interval = %self.tag_audit_interval,
            default_platform = self.default_platform.as_ref().map(tracing::field::display),
            builds_per_cluster = self.builds_per_cluster,
            builds_per_namespace = self.builds_per_namespace,
            builds_per_upstream = self.builds_per_upstream,
            "starting the controller"
        );
    }
}

/// Returns that another installation leads in the namespace, and what to do.
fn another_installation(name: &str, namespace: &str) -> String {
    format!(
        "the installation {name} is active in namespace {namespace}, which holds one installation \
         only; install this one in another namespace, or uninstall {name}"
    )
}

/// Parses a platform of Linux.
fn linux_platform(text: &str) -> Result<Platform, String> {
    let platform = Platform::from_user(text).filter(|platform| platform.os == "linux");
    platform.ok_or_else(|| "write a platform such as linux/arm64".into())
}

/// Runs the controller until the process is asked to stop. Every error, loss of leadership among
/// them, ends the process.
pub async fn run_controller(settings: Settings) -> anyhow::Result<()> {
    settings.log();
    let mut config = kube::Config::infer().await.context("find the API server")?;
    // The client's retries would honour any Retry-After without a bound. The controller retries by
    // reconciling again.
    config.default_retry = false;
    // A connection that has died in silence ends the watches and calls on it. A watch that is alive
    // shows a bookmark every minute or so.
    config.read_timeout = Some(READ_TIMEOUT);
    config.reset_reader_on_write = true;
    let client = Client::try_from(config).context("set up the client of the API server")?;
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let stop = watch_stop_signals(authorities::changed(settings.ca_bundle.clone()))?;
    let listener = server::listen(settings.listen)
        .with_context(|| format!("listen on {}", settings.listen))?;
    let server = tokio::spawn(server::serve(
        listener,
        readiness.clone(),
        metrics.clone(),
        wait_for_stop(stop.clone()),
    ));

    let hints = HintEndpoint::default();
    if let (Some(address), Some(tokens)) = (settings.hint_listen, &settings.hint_tokens) {
        hints.listen(address, tokens.clone())?;
    }
    let lead = lead_until_stopped(&settings, client, metrics, readiness, &hints, stop);
    let result = Box::pin(lead).await;
    if result.is_ok() {
        server.await.context("end the server")??;
    }
    result
}

/// Waits for the `CustomResourceDefinitions` and for leadership, then runs the controllers until
/// leadership is lost or the process is asked to stop.
async fn lead_until_stopped(
    settings: &Settings,
    client: Client,
    metrics: Metrics,
    readiness: Readiness,
    hints: &HintEndpoint,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = definitions::wait_for_definitions(&client, &readiness) => {}
        () = wait_for_stop(stop.clone()) => return Ok(()),
    }
    let (namespace, secret) = (&settings.lease_namespace, &settings.record_keys);
    let keys = tokio::select! {
        keys = record_keys::wait_for_keys(&client, namespace, secret, &readiness) => keys,
        () = wait_for_stop(stop.clone()) => return Ok(()),
    };
    let (lease, identity) = (&settings.lease_namespace, &settings.identity);
    let election = LeaderElection::new(client.clone(), lease, NAME, identity)
        .with_annotations(settings.lease_annotations());
    let (other, namespace) = (election.other_installation(), lease.clone());
    readiness.require("leadership", move || {
        let name = other.name().into_iter();
        name.map(|name| another_installation(&name, &namespace)).collect()
    });
    let fence = election.fence();
    let client = fence.guard(&client);
    let (namespace, pod) = (&settings.lease_namespace, &settings.identity);
    let settings = &Settings {
        operator_image: own_image::resolve(&client, &settings.operator_image, namespace, pod).await,
        ..settings.clone()
    };
    let (context, workloads) = build_context(settings, client, fence, metrics.clone(), keys)?;
    let leadership = tokio::select! {
        leadership = election.acquire() => leadership,
        () = wait_for_stop(stop.clone()) => return Ok(()),
    };
    metrics.set_leader(true);
    hints.lead(&context);
    let filling = Arc::clone(&context);
    readiness.require("caches", move || filling.served().waiting_for());
    let served = Arc::clone(&context);
    readiness.note(move || served.served().unwatched().into_iter().map(describe).collect());
    let served = Arc::clone(&context);
    metrics.count_unwatched_namespaces(move || served.served().unwatched().len());
    let others = Arc::clone(&context);
    readiness.note(move || others.installations.notes());
    let registry = context.registry.clone();
    metrics.list_paused_registries(move || paused_registries(&registry));
    let others = Arc::clone(&context);
    metrics.count_families_of_others(move || others.installations.families_of_others());

    let work = run(Arc::clone(&context), workloads, wait_for_stop(stop.clone()));
    let grace_period_over = async {
        wait_for_stop(stop.clone()).await;
        tokio::time::sleep(SHUTDOWN_GRACE_PERIOD).await;
    };
    let finished = async {
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => true,
            () = grace_period_over => false,
        }
    };
    tokio::select! {
        // The Lease is released only when no reconcile of this process can act any more. Otherwise
        // it expires.
        finished = finished => {
            if finished {
                leadership.release().await;
            }
            Ok(())
        }
        () = leadership.lost() => bail!("leadership is lost: the process ends, so that it does not \
            act at the same time as the next leader"),
    }
}

/// Returns the registries that are not called now, for the metrics.
fn paused_registries(registry: &registry::Client) -> Vec<PausedRegistry> {
    let paused = registry.paused_hosts().into_iter().map(|paused| PausedRegistry {
        registry: paused.host,
        cause: match paused.cause {
            registry::PauseCause::Unresponsive => "Unresponsive",
            registry::PauseCause::Limited => "Limited",
        },
        pause: paused.pause,
    });
    paused.collect()
}

/// Builds what all reconciles share, and the stream of changed workloads.
fn build_context(
    settings: &Settings,
    client: Client,
    fence: Fence,
    metrics: Metrics,
    keys: RecordKeys,
) -> anyhow::Result<(
    Arc<Context>,
    impl futures::Stream<Item = rollout::ChangedObject> + Send + 'static,
)> {
    let mut registries = registries(settings)?;
    registries.ca_bundle = authorities::read(settings.ca_bundle.as_deref())?;
    let registry = registry::Client::guarded(registries.clone(), Arc::new(move || fence.is_open()))
        .context("set up the registry client")?;
    let scopes = Scopes::new(settings.watch_namespaces.clone());
    let only = scopes.as_slice().iter().filter(|scope| !scope.is_empty()).cloned().collect();
    let denied = DeniedWatches::default();
    let (workloads, changes) = rollout::WorkloadStore::start(&client, &only, &denied);

    let clock = Clock::wall();
    let tags =
        pollers::start_tag_poller(registry.clone(), &registries, metrics.clone(), clock.clone());
    let trust_file = authorities::write_trust_file(&registries.ca_bundle)?;
    let addresses = registries.addresses(|name| std::env::var(name).ok())?;
    let revisions =
        pollers::start_revision_poller(client.clone(), clock.clone(), trust_file, addresses)?;

    let reporter = Reporter { controller: NAME.into(), instance: Some(settings.identity.clone()) };
    let context = Context {
        events: EventQueue::new(Recorder::new(client.clone(), reporter)),
        installations: Installations::new(&settings.lease_namespace, NAME),
        stores: Stores::default(),
        rollouts: Rollouts::default(),
        reverts: rollout::RevertTracker::default(),
        records: RecordSettings { keys, policy: settings.records },
        environment: BuildEnvironment {
            operator_image: settings.operator_image.clone(),
            image_pull_policy: settings.operator_image_pull_policy.clone(),
            registries: serde_json::to_value(&registries)
                .context("serialize the configuration of registries")?,
            image_pull_secrets: settings.pull_secrets(),
            pods: pod_settings(settings)?,
            ca_bundle: registries.ca_bundle.clone(),
            proxy: proxy_of_builds(),
            platform: settings.default_platform.clone().unwrap_or_else(Platform::of_this_machine),
        },
        audit: settings.tag_audit_interval,
        deferred_triggers: DeferredTriggers::default(),
        dependents: Dependents::default(),
        quota: BuildQuota::new(settings.limits()),
        resource_quotas: QuotaChanges::default(),
        tag_owners: TagOwners::new(repository_rules(settings)?),
        failures: ReconcileBackoff::default(),
        reconcile_caches: ReconcileCaches::default(),
        client,
        clock,
        scopes,
        denied,
        workloads,
        registry,
        tags,
        revisions,
        metrics,
    };
    log_configuration(&context.environment);
    Ok((Arc::new(context), changes))
}

/// Logs what files and variables of the environment set, as it takes effect. It contains no
/// credential: the URL of a mirror has none, and builds use no proxy whose URL has one.
fn log_configuration(environment: &BuildEnvironment) {
    info!(
        registries = %environment.registries,
        builds = serde_json::to_string(&environment.pods).ok(),
        proxy_of_builds = %environment.proxy,
        log_filter = std::env::var("RUST_LOG").ok(),
        "the configuration is read"
    );
}

/// Reads and validates the configuration of registries, or returns the default without one.
fn registries(settings: &Settings) -> anyhow::Result<registry::Config> {
    let Some(path) = &settings.registries_config else { return Ok(registry::Config::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let config: registry::Config =
        serde_yaml::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
    config.validate().with_context(|| format!("validate {}", path.display()))?;
    Ok(config)
}

/// Reads and validates the configuration of steps and checks, or returns the default without one.
fn pod_settings(settings: &Settings) -> anyhow::Result<PodSettings> {
    let Some(path) = &settings.builds_config else { return Ok(PodSettings::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    PodSettings::from_yaml(&text).with_context(|| format!("validate {}", path.display()))
}

/// Reads and validates which namespaces may name which repositories. Without a file, all may.
fn repository_rules(settings: &Settings) -> anyhow::Result<RepositoryRules> {
    let Some(path) = &settings.repositories_config else { return Ok(RepositoryRules::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    RepositoryRules::from_yaml(&text).with_context(|| format!("validate {}", path.display()))
}

/// Returns the proxy that the environment names, for the pods of builds.
fn proxy_of_builds() -> ProxyVariables {
    ProxyVariables::from_environment(|name| std::env::var(name).ok()).unwrap_or_else(|error| {
        warn!(%error, "builds get no proxy");
        ProxyVariables::default()
    })
}

/// Watches for SIGTERM and SIGINT. The value becomes true when one arrives, or when the certificate
/// authorities have changed: the process ends in order, and the kubelet starts it again.
fn watch_stop_signals(
    authorities_changed: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<watch::Receiver<bool>> {
    let (sender, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("received a stop signal"),
            _ = interrupt.recv() => info!("received a stop signal"),
            () = authorities_changed => {
                info!("the certificate authorities have changed; the process ends, to start with \
                    the new ones");
            }
        }
        sender.send_replace(true);
        // The channel must stay open for as long as there are receivers.
        sender.closed().await;
    });
    Ok(stop)
}

/// Waits until the process is asked to stop.
async fn wait_for_stop(mut stop: watch::Receiver<bool>) {
    // It fails only when the process is ending anyway.
    _ = stop.wait_for(|stopped| *stopped).await;
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::telemetry::{LogFormat, tests::logged};

    #[derive(Parser)]
    struct SettingsParser {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn the_start_is_logged_with_version_commit_and_settings() {
        let line = [
            "controller",
            "--operator-image",
            "registry.example.com/op@sha256:0",
            "--identity",
            "groundswell-0",
            "--builds-per-cluster",
            "7",
        ];
        let settings = SettingsParser::try_parse_from(line).expect("settings").settings;
        let logged = logged(LogFormat::Json, || settings.log());
        let line: serde_json::Value = serde_json::from_str(&logged).expect("one line of JSON");
        assert_eq!(line["version"], build_info::VERSION);
        assert_eq!(line["commit"], build_info::COMMIT);
        assert_eq!(line["operator_image"], "registry.example.com/op@sha256:0");
        assert_eq!(line["identity"], "groundswell-0");
        assert_eq!(line["builds_per_cluster"], 7);
        assert_eq!(line["tag_audit_interval"], "10m");
    }

    #[test]
    fn the_default_platform_is_one_of_linux() {
        let parsed = |platform: &str| {
            let line = ["controller", "--operator-image", "op", "--identity", "0"];
            let line = line.into_iter().chain(["--default-platform", platform]);
            let parsed = SettingsParser::try_parse_from(line);
            parsed.map(|parsed| parsed.settings.default_platform.map(|known| known.to_string()))
        };
        let known = parsed("linux/aarch64").expect("settings");
        assert_eq!(known.as_deref(), Some("linux/arm64"));
        for platform in ["", "arm64", "windows/amd64"] {
            let error = parsed(platform).expect_err(platform).to_string();
            assert!(error.contains("write a platform such as linux/arm64"), "{error}");
        }
    }

    #[test]
    fn help_texts_are_plain() {
        let text =
            <SettingsParser as clap::CommandFactory>::command().render_long_help().to_string();
        assert!(text.contains("--tag-audit-interval") && !text.contains('`'), "{text}");
    }
}
