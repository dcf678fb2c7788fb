//! The families of a cluster, with everything that is recorded of them. All lists are read to their
//! last page before anything is shown.

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt as _, api::ListParams};

use groundswell::api::ImageFamily;

use crate::{
    cluster::ClusterConnection,
    input::{Estate, EstateOrigin, InputArguments, InputObjects, Place, PlacedFamily},
};

/// Reads the families that the flags select.
pub async fn read(arguments: &InputArguments) -> anyhow::Result<Estate> {
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    let selected = match &arguments.selector {
        Some(selector) => ListParams::default().labels(selector),
        None => ListParams::default(),
    };
    let (families, images, cascades, requests) = tokio::try_join!(
        cluster.list::<ImageFamily>(api(&cluster, arguments), selected),
        cluster.list(api(&cluster, arguments), ListParams::default()),
        cluster.list(api(&cluster, arguments), ListParams::default()),
        cluster.list(api(&cluster, arguments), ListParams::default()),
    )?;
    let families = families.into_iter().map(|family| {
        let namespace = family.namespace().unwrap_or_default();
        let place = Place::Cluster(format!("ImageFamily {namespace}/{}", family.name_any()));
        PlacedFamily { family, place }
    });
    let objects = InputObjects { families: families.collect(), images, cascades, requests };
    Ok(objects.estate(Vec::new(), EstateOrigin::Cluster))
}

fn api<K>(cluster: &ClusterConnection, arguments: &InputArguments) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    if arguments.all_namespaces { Api::all(cluster.client.clone()) } else { cluster.api() }
}
