//! Names that a shell completes and that are no names of families: of the cluster, of the
//! kubeconfig, and of what is recorded of one image.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, ResourceExt, api::ListParams, config::Kubeconfig};

use groundswell::api::{BuildStrategy, ImageFamily};

use crate::{
    cluster::ClusterConnection,
    command_line::KubectlFlags,
    input::{Estate, InputArguments, target::TargetName},
};

/// Returns the namespaces of the families of files, or those of the cluster: those that have
/// families if the user may not list the others.
pub async fn namespaces(input: &InputArguments) -> anyhow::Result<Vec<String>> {
    if !input.filenames.is_empty() {
        let mut input = input.clone();
        // It is what is being written.
        input.kubectl_flags.namespace = None;
        let estate = Box::pin(Estate::read_names(&input)).await?;
        let names = estate.families.into_iter().map(|family| family.name.namespace);
        return Ok(names.collect::<BTreeSet<String>>().into_iter().collect());
    }
    let cluster = ClusterConnection::connect(&input.kubectl_flags).await?;
    let client = cluster.client.clone();
    let all = cluster.list::<Namespace>(Api::all(client.clone()), ListParams::default()).await;
    if let Ok(all) = all {
        return Ok(all.iter().map(ResourceExt::name_any).collect());
    }
    let families = cluster.list::<ImageFamily>(Api::all(client), ListParams::default()).await?;
    let names = families.iter().filter_map(ResourceExt::namespace);
    Ok(names.collect::<BTreeSet<String>>().into_iter().collect())
}

/// Returns the contexts of the kubeconfig.
pub fn contexts(flags: &KubectlFlags) -> anyhow::Result<Vec<String>> {
    let kubeconfig = match &flags.kubeconfig {
        Some(path) => Kubeconfig::read_from(path)?,
        None => Kubeconfig::read()?,
    };
    Ok(kubeconfig.contexts.into_iter().map(|context| context.name).collect())
}

/// Returns the build strategies of the cluster.
pub async fn strategies(input: &InputArguments) -> anyhow::Result<Vec<String>> {
    let cluster = ClusterConnection::connect(&input.kubectl_flags).await?;
    let api = Api::<BuildStrategy>::all(cluster.client.clone());
    let all = cluster.list(api, ListParams::default()).await?;
    Ok(all.iter().map(ResourceExt::name_any).collect())
}

/// Returns the checks of an image.
pub async fn checks(input: &InputArguments, image: &TargetName) -> anyhow::Result<Vec<String>> {
    let estate = Box::pin(Estate::read_names(&of_image(input, image))).await?;
    let (family, index) = image.find_image(&estate)?;
    let spec = family.family.spec.images.get(index.position());
    let checks = spec.into_iter().flat_map(|image| &image.checks);
    Ok(checks.map(|check| check.name.clone()).collect())
}

/// Returns the recorded builds of an image, the newest first: each number, and whether the build
/// was verified.
pub async fn builds(
    input: &InputArguments,
    image: &TargetName,
) -> anyhow::Result<Vec<(i64, bool)>> {
    let estate = Box::pin(Estate::read_if_any(&of_image(input, image))).await?;
    let (family, index) = image.find_image(&estate)?;
    let history = family.recorded(index).into_iter().flat_map(|status| &status.history);
    Ok(history.filter_map(|build| Some((build.build?, !build.digest.is_empty()))).collect())
}

/// Returns the input that has an image: its name may have a namespace.
fn of_image(input: &InputArguments, image: &TargetName) -> InputArguments {
    let mut input = input.clone();
    if let Some(namespace) = image.namespace().filter(|_| !input.all_namespaces) {
        input.kubectl_flags.namespace = Some(namespace.to_owned());
    }
    input
}
