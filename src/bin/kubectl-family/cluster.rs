//! The connection to the cluster. Every call has a timeout and an error message for the user.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use http::Uri;
use hyper_util::client::proxy::matcher::Matcher;
use k8s_openapi::{NamespaceResourceScope, api::authentication::v1::SelfSubjectReview};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};

use groundswell::api::family_request::MAX_BY;

use crate::command_line::KubectlFlags;

/// Timeout of one call to the API server.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Field owner of what the plugin creates.
const FIELD_OWNER: &str = "kubectl-family";
/// Number of objects that are read per page.
const PAGE_SIZE: u32 = 500;
/// Maximum number of objects that are shown.
const MAX_OBJECTS: usize = 5000;

/// Connection to a cluster, and the namespace that the user selected.
#[derive(Clone)]
pub struct ClusterConnection {
    pub client: Client,
    pub namespace: String,
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
        let options =
            KubeConfigOptions { context: flags.context.clone(), ..KubeConfigOptions::default() };
        let mut config = if flags.context.is_some() {
            let kubeconfig = Kubeconfig::read().context("read the kubeconfig")?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .context("use the kubeconfig")?
        } else {
            Config::infer().await.context("find a cluster: set KUBECONFIG or --context")?
        };
        config.proxy_url = proxy(&config, |name| std::env::var(name).ok());
        // A user waits, so an error at once is better than retries.
        config.default_retry = false;
        let namespace = flags.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config).context("set up the connection")?, namespace })
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
        let review = call::<SelfSubjectReview, _>(
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
        let found = call::<K, _>(api.get_opt(name)).await?;
        found.ok_or_else(|| {
            anyhow!(
                "{} `{name}` not found in namespace {}; list all with `kubectl get {} -A`",
                K::kind(&()),
                self.namespace,
                K::plural(&())
            )
        })
    }

    /// Returns the objects that a field selector matches, at most [`MAX_OBJECTS`].
    pub async fn list<K>(&self, api: Api<K>, fields: Option<&str>) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let mut parameters = ListParams::default().limit(PAGE_SIZE);
        if let Some(fields) = fields {
            parameters = parameters.fields(fields);
        }
        let mut all = Vec::new();
        while all.len() < MAX_OBJECTS {
            let page = call::<K, _>(api.list(&parameters)).await?;
            let next = page.metadata.continue_.clone().filter(|token| !token.is_empty());
            all.extend(page);
            match next {
                Some(token) => parameters = parameters.continue_token(&token),
                None => break,
            }
        }
        all.sort_by_key(|object| (object.namespace(), object.name_any()));
        Ok(all)
    }

    /// Creates an object and returns it.
    pub async fn create<K>(&self, api: &Api<K>, object: &K) -> anyhow::Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + Debug,
    {
        let parameters =
            PostParams { field_manager: Some(FIELD_OWNER.into()), ..PostParams::default() };
        call::<K, _>(api.create(&parameters, object)).await
    }
}

/// Waits for a call at most [`TIMEOUT`] and describes its error.
async fn call<K, T>(call: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T>
where
    K: Resource<DynamicType = ()>,
{
    let plural = K::plural(&());
    match tokio::time::timeout(TIMEOUT, call).await {
        Err(_) => bail!("the API server did not answer within {} s", TIMEOUT.as_secs()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
            bail!(
                "the cluster does not serve {plural}: install Groundswell, or select another \
                   cluster with --context"
            )
        }
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() || status.is_invalid() => {
            bail!("{}", status.message)
        }
        Ok(answer) => answer.with_context(|| format!("read or write {plural}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_excludes_the_api_server_from_the_proxy_of_the_environment_only() {
        let url = "http://proxy.example.com:3128";
        let used = |configured: &str, excluded: &str| {
            let cluster = "https://api.example.com:6443".parse().expect("a URL");
            let mut config = Config::new(cluster);
            config.proxy_url = Some(configured.parse().expect("a URL"));
            let variable = |name: &str| match name {
                "HTTPS_PROXY" => Some(url.to_owned()),
                "no_proxy" => Some(excluded.to_owned()),
                _ => None,
            };
            proxy(&config, variable).map(|used| used.to_string())
        };
        for excluded in ["", "other.example.com", "10.0.0.0/8"] {
            assert_eq!(used(url, excluded), Some(format!("{url}/")), "{excluded}");
        }
        for excluded in ["api.example.com", ".example.com", "*"] {
            assert_eq!(used(url, excluded), None, "{excluded}");
        }
        let of_kubeconfig = "http://other.example.com:3128";
        assert_eq!(used(of_kubeconfig, "*"), Some(format!("{of_kubeconfig}/")));
    }
}
