//! The families of a cluster, with everything that is recorded of them. All lists are read to their
//! last page before anything is shown.

use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Resource, ResourceExt as _, api::ListParams};

use groundswell::api::ImageFamily;

use crate::{
    cluster::ClusterConnection,
    input::{
        Estate, EstateOrigin, InputArguments,
        objects::{InputObjects, Place, PlacedFamily},
    },
    missing_rights::check_rights,
};

/// Reads the families that the flags select.
pub async fn read(arguments: &InputArguments) -> anyhow::Result<Estate> {
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    let (families, images, cascades, requests) = tokio::join!(
        cluster.list::<ImageFamily>(api(&cluster, arguments), selected(arguments)),
        cluster.list(api(&cluster, arguments), ListParams::default()),
        cluster.list(api(&cluster, arguments), ListParams::default()),
        cluster.list(api(&cluster, arguments), ListParams::default()),
    );
    check_rights([
        families.as_ref().err(),
        images.as_ref().err(),
        cascades.as_ref().err(),
        requests.as_ref().err(),
    ])?;
    let objects = InputObjects {
        families: placed(families?),
        images: images?,
        cascades: cascades?,
        requests: requests?,
        ..InputObjects::default()
    };
    let namespace = Some(cluster.namespace).filter(|_| !arguments.all_namespaces);
    Ok(Estate { namespace, ..objects.estate(Vec::new(), EstateOrigin::Cluster) })
}

/// Reads the families that the flags select, without what is recorded of them.
pub async fn read_families(arguments: &InputArguments) -> anyhow::Result<Estate> {
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    let families = cluster.list(api(&cluster, arguments), selected(arguments)).await?;
    let objects = InputObjects { families: placed(families), ..InputObjects::default() };
    Ok(objects.estate(Vec::new(), EstateOrigin::Cluster))
}

fn selected(arguments: &InputArguments) -> ListParams {
    match &arguments.selector {
        Some(selector) => ListParams::default().labels(selector),
        None => ListParams::default(),
    }
}

pub(super) fn placed(families: Vec<ImageFamily>) -> Vec<PlacedFamily> {
    let place = |family: ImageFamily| {
        let namespace = family.namespace().unwrap_or_default();
        let place = Place::Cluster(format!("ImageFamily {namespace}/{}", family.name_any()));
        PlacedFamily { family, place }
    };
    families.into_iter().map(place).collect()
}

pub(super) fn api<K>(cluster: &ClusterConnection, arguments: &InputArguments) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    if arguments.all_namespaces { Api::all(cluster.client.clone()) } else { cluster.api() }
}
