//! The connection to the cluster. Every call has a timeout and an error message for the user.

use std::{error::Error as _, fmt::Debug, io::ErrorKind, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use k8s_openapi::{NamespaceResourceScope, api::authentication::v1::SelfSubjectReview};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ListParams, PostParams},
    client::ClientBuilder,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    runtime::{wait, watcher},
};
use serde::{Serialize, de::DeserializeOwned};

use groundswell::api::family_request::MAX_BY;

use crate::{
    bounded_answers::BoundedAnswers, command_line::KubectlFlags, missing_rights::MissingRights,
};

/// Timeout of one call to the API server, if `--request-timeout` is not set.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
/// Field owner of what the plugin creates.
const FIELD_OWNER: &str = "kubectl-family";
/// Number of objects that are read per page.
const PAGE_SIZE: u32 = 500;
/// Maximum number of objects of one list. More is an error: nothing is left out silently.
const MAX_OBJECTS: usize = 500_000;
/// How often a list is started again because the API server has dropped a page of it.
const MAX_RESTARTS: usize = 3;

/// Connection to a cluster, and the namespace that the user selected.
#[derive(Clone)]
pub struct ClusterConnection {
    pub client: Client,
    pub namespace: String,
    /// Timeout of one call.
    pub timeout: Duration,
}

/// Returns the proxy for the API server, or `None` if it is the proxy of the environment and
/// `NO_PROXY` excludes the API server. The client library compares that variable with the address
/// of the proxy.
fn proxy(config: &Config, variable: impl Fn(&str) -> Option<String>) -> Option<Uri> {
    let proxy = config.proxy_url.clone()?;
    let either_case = |name: &str| {
        let value = variable(name).or_else(|| variable(&name.to_lowercase()));
        value.filter(|value| !value.is_empty())
    };
    let of_environment =
        either_case("HTTPS_PROXY").filter(|url| url.parse::<Uri>().is_ok_and(|url| url == proxy));
    let Some(of_environment) = of_environment else { return Some(proxy) };
    let excluded = either_case("NO_PROXY").unwrap_or_default();
    let matcher = Matcher::builder().all(of_environment).no(excluded).build();
    matcher.intercept(&config.cluster_url).map(|_| proxy)
}

impl ClusterConnection {
    pub async fn connect(flags: &KubectlFlags) -> anyhow::Result<Self> {
        let mut config = configuration(flags).await?;
        config.proxy_url = proxy(&config, |name| std::env::var(name).ok());
        // A user waits, so an error at once is better than retries.
        config.default_retry = false;
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        if let Some(user) = &flags.impersonated {
            config.auth_info.impersonate = Some(user.clone());
        }
        let timeout = flags.request_timeout.map_or(DEFAULT_TIMEOUT, Into::into);
        let client = ClientBuilder::try_from(config).context("set up the connection")?;
        let client = client.with_layer(&BoundedAnswers::default()).build();
        Ok(Self { client, namespace, timeout })
    }

    /// Returns the API of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Returns the name of the user according to the API server, or `None` if it reports none.
    pub async fn user_name(&self) -> Option<String> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        let review = self
            .call::<SelfSubjectReview, _>(
                reviews.create(&parameters, &SelfSubjectReview::default()),
            )
            .await
            .ok()?;
        let name = review.status?.user_info?.username?;
        let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_BY).collect();
        (!name.is_empty()).then_some(name)
    }

    /// Returns one object. The error of a missing one says how to list the others.
    pub async fn get<K>(&self, api: Api<K>, name: &str) -> anyhow::Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let found = self.call::<K, _>(api.get_opt(name)).await?;
        found.ok_or_else(|| {
            anyhow!(
                "{} `{name}` not found in namespace {}; list all with `kubectl get {} -A`",
                K::kind(&()),
                self.namespace,
                K::plural(&())
            )
        })
    }

    /// Returns the objects that the parameters select, page by page to the last one, sorted by
    /// namespace and name.
    ///
    /// # Errors
    ///
    /// Returns an error if a page cannot be read, or if there are more than [`MAX_OBJECTS`]: half a
    /// list is never returned.
    pub async fn list<K>(&self, api: Api<K>, parameters: ListParams) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        for _ in 0..MAX_RESTARTS {
            if let PagedList::Complete(mut all) = self.list_once(&api, &parameters).await? {
                all.sort_by_key(|object| (object.namespace(), object.name_any()));
                return Ok(all);
            }
        }
        bail!("the list of {} changes faster than it can be read; try again", K::plural(&()))
    }

    async fn list_once<K>(
        &self,
        api: &Api<K>,
        parameters: &ListParams,
    ) -> anyhow::Result<PagedList<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let mut parameters = parameters.clone().limit(PAGE_SIZE);
        let mut all = Vec::new();
        loop {
            let page = match self.call::<K, _>(api.list(&parameters)).await {
                Ok(page) => page,
                Err(error) if !all.is_empty() && is_expired(&error) => {
                    return Ok(PagedList::Expired);
                }
                Err(error) => return Err(error),
            };
            let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
            all.extend(page);
            if all.len() > MAX_OBJECTS {
                bail!("there are more than {MAX_OBJECTS} {}; select fewer", K::plural(&()));
            }
            match next {
                Some(token) => parameters = parameters.continue_token(&token),
                None => return Ok(PagedList::Complete(all)),
            }
        }
    }

    /// Waits for a call at most as long as the timeout, and describes its error.
    pub async fn call<K, T>(&self, call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T>
    where
        K: Resource<DynamicType = ()>,
    {
        let plural = K::plural(&());
        match tokio::time::timeout(self.timeout, call).await {
            Err(_) => bail!(
                "the API server did not answer within {} s; check the cluster, or set a longer \
                 --request-timeout",
                self.timeout.as_secs()
            ),
            Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
                bail!(
                    "the cluster does not serve {plural}: install Groundswell, or select another \
                     cluster with --context"
                )
            }
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => {
                Err(MissingRights::of(status.message.clone()).into())
            }
            Ok(Err(kube::Error::Api(status))) if status.is_invalid() => bail!("{}", status.message),
            Ok(answer) => answer.with_context(|| format!("read or write {plural}")),
        }
    }

    /// Creates an object and returns it.
    pub async fn create<K>(&self, api: &Api<K>, object: &K, mode: WriteMode) -> anyhow::Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        let parameters = PostParams {
            dry_run: mode == WriteMode::DryRun,
            field_manager: Some(FIELD_OWNER.into()),
        };
        self.call::<K, _>(api.create(&parameters, object)).await
    }
}

/// Returns what a user lacks for a watch, if the API server rejects it. A watch that breaks off for
/// another reason can be started again.
pub fn rejection(error: &watcher::Error) -> Option<anyhow::Error> {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return None;
    };
    match status {
        status if status.is_forbidden() => Some(MissingRights::of(status.message.clone()).into()),
        status if status.is_not_found() => {
            Some(anyhow!("the API server rejects the watch: {}", status.message))
        }
        _ => None,
    }
}

/// Returns what a user lacks for the watch of one object, if the API server rejects it.
pub fn rejection_of_wait(error: &wait::Error) -> Option<anyhow::Error> {
    let wait::Error::ProbeFailed(error) = error;
    rejection(error)
}

/// Whether the API server stores what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMode {
    Stored,
    /// It only checks it, and the rights of the user.
    DryRun,
}

/// The result of reading a list.
enum PagedList<K> {
    /// All of it.
    Complete(Vec<K>),
    /// The API server does not know the next page any more, so that the list has to be read again.
    Expired,
}

/// Whether an error says that a page of a list is too old.
fn is_expired(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<kube::Error>());
    causes.any(|cause| matches!(cause, kube::Error::Api(status) if status.code == 410))
}

/// Returns the configuration of the connection.
async fn configuration(flags: &KubectlFlags) -> anyhow::Result<Config> {
    if flags.context.is_none() && flags.kubeconfig.is_none() {
        return Config::infer().await.map_err(|error| {
            let kubeconfig = error.source().and_then(|source| source.downcast_ref());
            kubeconfig.map_or_else(|| anyhow!("find a cluster: {error}"), kubeconfig_error)
        });
    }
    let kubeconfig = match &flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path),
        None => Kubeconfig::read(),
    };
    let kubeconfig = kubeconfig.map_err(|error| kubeconfig_error(&error))?;
    if let Some(wanted) = &flags.context
        && !kubeconfig.contexts.iter().any(|context| context.name == *wanted)
    {
        let names: Vec<&str> =
            kubeconfig.contexts.iter().map(|context| context.name.as_str()).collect();
        bail!("the kubeconfig has no context {wanted}; it has {}", names.join(", "));
    }
    let options =
        KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
    Config::from_custom_kubeconfig(kubeconfig, &options).await.context("use the kubeconfig")
}

/// Describes why there is no usable kubeconfig. The messages of the client library repeat their
/// causes.
fn kubeconfig_error(error: &KubeconfigError) -> anyhow::Error {
    match error {
        KubeconfigError::ReadConfig(cause, path) if cause.kind() == ErrorKind::NotFound => {
            anyhow!(
                "read the kubeconfig {}: there is no such file; set KUBECONFIG or --kubeconfig, or \
                 name manifests with -f where a command has it",
                path.display()
            )
        }
        KubeconfigError::ReadConfig(cause, path) => {
            anyhow!("read the kubeconfig {}: {cause}", path.display())
        }
        other => anyhow!("read the kubeconfig: {other}"),
    }
}

#[cfg(test)]
#[path = "cluster_tests.rs"]
mod tests;
