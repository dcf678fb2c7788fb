//! The connection to the cluster, and questions to it that end in time and in words.

use std::{fmt::Debug, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use k8s_openapi::{NamespaceResourceScope, api::authentication::v1::SelfSubjectReview};
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{api::request::MAX_BY, cli::Place};

/// The longest that one question may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How many objects are read at once, and the most that are shown.
const PAGE: u32 = 500;
const MOST: usize = 5000;

/// The cluster and the namespace that the caller means.
#[derive(Clone)]
pub struct Cluster {
    pub client: Client,
    pub namespace: String,
}

impl Cluster {
    pub async fn connect(place: &Place) -> anyhow::Result<Self> {
        let options =
            KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
        let mut config = if place.context.is_some() {
            let kubeconfig = Kubeconfig::read().context("read the kubeconfig")?;
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .context("use the kubeconfig")?
        } else {
            Config::infer().await.context("find a cluster: set KUBECONFIG or --context")?
        };
        // A person waits: better an error now than an answer some time.
        config.default_retry = false;
        let namespace = place.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok(Self { client: Client::try_from(config).context("set up the connection")?, namespace })
    }

    /// The objects of a kind in the namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Who the caller is, as the API server says; `None` where it does not.
    pub async fn who(&self) -> Option<String> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let asked = PostParams::default();
        let review =
            in_time::<SelfSubjectReview, _>(reviews.create(&asked, &SelfSubjectReview::default()))
                .await
                .ok()?;
        let name = review.status?.user_info?.username?;
        let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_BY).collect();
        (!name.is_empty()).then_some(name)
    }

    /// One object.
    pub async fn get<K>(&self, api: Api<K>, name: &str) -> anyhow::Result<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let found = in_time::<K, _>(api.get_opt(name)).await?;
        found.ok_or_else(|| {
            anyhow!(
                "there is no {} `{name}` in namespace {}; `kubectl get {} -A` lists those there are",
                K::kind(&()),
                self.namespace,
                K::plural(&())
            )
        })
    }

    /// All objects that a field selector picks, up to a bound.
    pub async fn list<K>(&self, api: Api<K>, fields: Option<&str>) -> anyhow::Result<Vec<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let mut parameters = ListParams::default().limit(PAGE);
        if let Some(fields) = fields {
            parameters = parameters.fields(fields);
        }
        let mut all = Vec::new();
        while all.len() < MOST {
            let page = in_time::<K, _>(api.list(&parameters)).await?;
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

    /// The object after a patch; `None` if it has changed since the version that the patch names.
    pub async fn patch<K>(
        &self,
        api: &Api<K>,
        name: &str,
        parameters: &PatchParams,
        patch: &Patch<impl Serialize + Debug>,
    ) -> anyhow::Result<Option<K>>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
    {
        let changed =
            |error: &kube::Error| matches!(error, kube::Error::Api(status) if status.is_conflict());
        in_time::<K, _>(async {
            match api.patch(name, parameters, patch).await {
                Ok(object) => Ok(Some(object)),
                Err(error) if changed(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })
        .await
    }
}

async fn in_time<K, T>(question: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T>
where
    K: Resource<DynamicType = ()>,
{
    let plural = K::plural(&());
    match tokio::time::timeout(TIMEOUT, question).await {
        Err(_) => bail!("no answer from the API server within {} s", TIMEOUT.as_secs()),
        Ok(Err(kube::Error::Api(status))) if status.is_not_found() => {
            bail!("the cluster does not know {plural}: is Groundswell installed there?")
        }
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => bail!("{}", status.message),
        Ok(answer) => answer.with_context(|| format!("ask the API server for {plural}")),
    }
}
