//! The controller's process: from its settings to running controllers, and to an orderly end.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::Args;
use kube::{
    Api, Client, Resource,
    api::ListParams,
    runtime::events::{Recorder, Reporter},
};
use serde::de::DeserializeOwned;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::{info, warn};

use crate::{
    api::{self, BuildStrategy, Cascade, ImageFamily, ManagedImage, condition::reason},
    builds::{git, job::BuildEnvironment},
    clock::Clock,
    controller::{
        backoff::ReconcileBackoff,
        context::Context,
        dependents::Dependents,
        git_poll,
        quota::{BuildLimits, BuildQuota},
        reconcile_cache::ReconcileCaches,
        rollouts::Rollouts,
        run::run,
        stores::Stores,
        tag_owners::TagOwners,
        watch::Scopes,
    },
    lease::LeaderElection,
    registry, rollout,
    server::{self, Metrics, Readiness, metrics::PollResult},
    upstream::{self, Poller},
};

/// The name of the Lease, and of the reporter of Events.
const NAME: &str = "groundswell";
/// How long passes under way may take to come to their end when the process is told to stop.
const GRACE: Duration = Duration::from_secs(20);
/// Until a missing definition is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// The longest that one poll of a tag or a revision may take.
const POLL_TIMEOUT: Duration = Duration::from_mins(1);
/// The longest that a Git server may take to list its branches and tags.
const GIT_TIMEOUT: Duration = Duration::from_secs(45);
/// How many Git servers are asked at once.
const GIT_AT_ONCE: usize = 4;

/// Settings of the controller.
#[derive(Args, Clone, Debug)]
pub struct Settings {
    /// The only namespaces to work in, comma separated; all, if empty.
    #[arg(long, env = "WATCH_NAMESPACES", value_delimiter = ',')]
    watch_namespaces: Vec<String>,
    /// The operator's own image, which runs the first step of every build.
    #[arg(long, env = "OPERATOR_IMAGE")]
    operator_image: String,
    /// When that image is pulled: Always, `IfNotPresent` or Never; as Kubernetes decides, if not
    /// given.
    #[arg(long, env = "OPERATOR_IMAGE_PULL_POLICY")]
    operator_image_pull_policy: Option<String>,
    /// A YAML file that says how registries are reached.
    #[arg(long, env = "REGISTRIES_CONFIG")]
    registries_config: Option<PathBuf>,
    /// The namespace of the Lease: the controller's own.
    #[arg(long, env = "POD_NAMESPACE", default_value = "groundswell-system")]
    lease_namespace: String,
    /// This replica's name in the Lease: its pod's.
    #[arg(long, env = "POD_NAME")]
    identity: String,
    /// Where health and metrics are served.
    #[arg(long, env = "LISTEN", default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// How often our own floating tags are looked at, for somebody else may have moved them.
    #[arg(long, env = "TAG_AUDIT_INTERVAL", default_value = "10m")]
    tag_audit_interval: api::Duration,
    /// How many builds may run at once in the cluster; 0 is no limit.
    #[arg(long, env = "BUILDS_PER_CLUSTER", default_value_t = 0)]
    builds_per_cluster: u32,
    /// How many builds may run at once in each namespace; 0 is no limit.
    #[arg(long, env = "BUILDS_PER_NAMESPACE", default_value_t = 0)]
    builds_per_namespace: u32,
    /// How many builds may run at once of those that one upstream has caused; 0 is no limit.
    #[arg(long, env = "BUILDS_PER_UPSTREAM", default_value_t = 0)]
    builds_per_upstream: u32,
}

impl Settings {
    /// The limits of builds at once.
    fn limits(&self) -> BuildLimits {
        let limit = |builds: u32| usize::try_from(builds).ok().filter(|builds| *builds > 0);
        BuildLimits {
            cluster: limit(self.builds_per_cluster),
            namespace: limit(self.builds_per_namespace),
            upstream: limit(self.builds_per_upstream),
        }
    }
}

/// Runs the controller until it is told to stop. An error, loss of leadership among them, ends the
/// process.
pub async fn operate(settings: Settings) -> anyhow::Result<()> {
    let mut config = kube::Config::infer().await.context("find the API server")?;
    // Its retries honour any Retry-After, without a bound; ours are the passes themselves.
    config.default_retry = false;
    let client = Client::try_from(config).context("set up the client of the API server")?;
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let stop = stop_signal()?;
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("listen on {}", settings.listen))?;
    let server = tokio::spawn(server::serve(
        listener,
        readiness.clone(),
        metrics.clone(),
        raised(stop.clone()),
    ));

    let result = lead(&settings, client, metrics, readiness, stop).await;
    if result.is_ok() {
        server.await.context("end the server")??;
    }
    result
}

/// Waits for the definitions and for leadership, and then works until either it or the process
/// ends.
async fn lead(
    settings: &Settings,
    client: Client,
    metrics: Metrics,
    readiness: Readiness,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    tokio::select! {
        () = definitions(&client, &readiness) => {}
        () = raised(stop.clone()) => return Ok(()),
    }
    let (context, workloads) = context(settings, client.clone(), metrics.clone())?;
    let election = LeaderElection::new(client, &settings.lease_namespace, NAME, &settings.identity);
    let leadership = tokio::select! {
        leadership = election.acquire() => leadership,
        () = raised(stop.clone()) => return Ok(()),
    };
    metrics.leading(true);
    let filling = Arc::clone(&context);
    readiness.require("caches", move || {
        let mut waiting = filling.stores.waiting_for(filling.scopes.as_slice());
        waiting.extend(filling.workloads.waiting_for());
        waiting
    });

    let work = run(Arc::clone(&context), workloads, raised(stop.clone()));
    let finished = async {
        tokio::pin!(work);
        tokio::select! {
            () = &mut work => true,
            () = async { raised(stop.clone()).await; tokio::time::sleep(GRACE).await } => false,
        }
    };
    tokio::select! {
        // The Lease is given back only when nothing of ours can act any more; otherwise it runs out
        // by itself.
        finished = finished => {
            if finished {
                leadership.release().await;
            }
            Ok(())
        }
        () = leadership.lost() => bail!("leadership is lost; the process ends so that nothing of \
            it acts beside the next leader"),
    }
}

/// Waits until the API server knows our kinds; readiness says which it does not.
async fn definitions(client: &Client, readiness: &Readiness) {
    let (report, missing) = watch::channel(vec!["not looked for yet".to_owned()]);
    readiness.require("CustomResourceDefinitions", move || missing.borrow().clone());
    loop {
        let checks = tokio::join!(
            known::<ImageFamily>(client),
            known::<ManagedImage>(client),
            known::<Cascade>(client),
            known::<BuildStrategy>(client)
        );
        let absent: Vec<String> =
            [checks.0, checks.1, checks.2, checks.3].into_iter().flatten().collect();
        let done = absent.is_empty();
        if !done && *report.borrow() != absent {
            warn!(missing = ?absent, "waiting for the kinds to be known; install the chart's CRDs, \
                and grant `list` on them");
        }
        report.send_replace(absent);
        if done {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// What is missing for a kind to be listed.
async fn known<K>(client: &Client) -> Option<String>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<kube::core::PartialObjectMeta<K>> = Api::all(client.clone());
    let name = format!("{}.{}", K::plural(&()), K::group(&()));
    match tokio::time::timeout(LOOK_AGAIN * 5, api.list(&ListParams::default().limit(1))).await {
        // Not being allowed to list all namespaces says that the kind is known; the watches are for
        // the namespaces we may.
        Ok(Ok(_)) => None,
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => None,
        Ok(Err(error)) => Some(format!("{name}: {error}")),
        Err(_) => Some(format!("{name}: no answer from the API server")),
    }
}

/// Everything that the passes share.
fn context(
    settings: &Settings,
    client: Client,
    metrics: Metrics,
) -> anyhow::Result<(
    Arc<Context>,
    impl futures::Stream<Item = rollout::ChangedObject> + Send + 'static,
)> {
    let registries = registries(settings)?;
    let registry =
        registry::Client::new(registries.clone()).context("set up the registry client")?;
    let scopes = Scopes::new(settings.watch_namespaces.clone());
    let only = scopes.as_slice().iter().filter(|scope| !scope.is_empty()).cloned().collect();
    let (workloads, changes) = rollout::WorkloadStore::start(&client, &only);

    let clock = Clock::wall();
    let (images, counted) = (registry.clone(), metrics.clone());
    let tags = Poller::start(POLL_TIMEOUT, clock.clone(), move |key: upstream::ImageKey, last| {
        let (images, counted) = (images.clone(), counted.clone());
        async move {
            let last = last.and_then(|polled| polled.value.clone());
            let result = upstream::resolve_tag(&images, &key, last.as_ref()).await;
            counted.polled(match (&result, &last) {
                (Ok(digest), Some(last)) if digest.digest != last.digest => PollResult::Moved,
                // The first look at a tag tells of no move.
                (Ok(_), _) => PollResult::Unchanged,
                (Err(problem), _) if problem.reason == reason::IMAGE_NOT_FOUND => {
                    PollResult::NotFound
                }
                (Err(problem), _) if problem.reason == reason::REGISTRY_DENIED => {
                    PollResult::Denied
                }
                (Err(_), _) => PollResult::Unavailable,
            });
            result
        }
    });
    let git_client = client.clone();
    let program = std::env::current_exe().context(
        "find this program, which asks Git servers in a process of \
            its own",
    )?;
    let resolver = Arc::new(git::subprocess::Resolver::new(program, GIT_TIMEOUT, GIT_AT_ONCE));
    let revisions = Poller::start(POLL_TIMEOUT, clock.clone(), move |key, _| {
        let (client, resolver) = (git_client.clone(), Arc::clone(&resolver));
        async move { git_poll::resolve(client, &resolver, key).await }
    });

    let reporter = Reporter { controller: NAME.into(), instance: Some(settings.identity.clone()) };
    let context = Context {
        recorder: Recorder::new(client.clone(), reporter),
        stores: Stores::default(),
        rollouts: Rollouts::default(),
        environment: BuildEnvironment {
            operator_image: settings.operator_image.clone(),
            image_pull_policy: settings.operator_image_pull_policy.clone(),
            registries: serde_json::to_value(&registries).context(
                "write the registries' \
                configuration",
            )?,
        },
        audit: settings.tag_audit_interval,
        dependents: Dependents::default(),
        quota: BuildQuota::new(settings.limits()),
        tag_owners: TagOwners::default(),
        failures: ReconcileBackoff::default(),
        reconcile_caches: ReconcileCaches::default(),
        client,
        clock,
        scopes,
        workloads,
        registry,
        tags,
        revisions,
        metrics,
    };
    Ok((Arc::new(context), changes))
}

fn registries(settings: &Settings) -> anyhow::Result<registry::Config> {
    let Some(path) = &settings.registries_config else { return Ok(registry::Config::default()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let config: registry::Config =
        serde_yaml::from_str(&text).with_context(|| format!("read {}", path.display()))?;
    config.validate().with_context(|| format!("check {}", path.display()))?;
    Ok(config)
}

/// Set when the process is told to stop.
fn stop_signal() -> anyhow::Result<watch::Receiver<bool>> {
    let (raise, stop) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).context("wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("wait for SIGINT")?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        info!("told to stop");
        raise.send_replace(true);
        // The channel stays open for as long as anybody may ask.
        raise.closed().await;
    });
    Ok(stop)
}

async fn raised(mut stop: watch::Receiver<bool>) {
    // It fails only when the process is ending anyway.
    _ = stop.wait_for(|raised| *raised).await;
}
