//! The last lines of the log of an image's newest build or check.

use anyhow::bail;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, LogParams},
};
use serde::Serialize;

use groundswell::api::labels;

use crate::{cluster::ClusterConnection, ui::snapshot::ShownImage};

/// Maximum number of lines.
const MAX_LINES: i64 = 200;
/// Maximum number of bytes.
const MAX_BYTES: i64 = 256 * 1024;

/// A log.
#[derive(Debug, Serialize)]
pub struct BuildLog {
    /// The pod.
    pod: String,
    /// Its container.
    container: String,
    /// The last lines.
    text: String,
}

impl BuildLog {
    /// Reads the log of the newest pod of an image.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no pod any more, or if it cannot be read.
    pub async fn read(cluster: &ClusterConnection, image: &ShownImage<'_>) -> anyhow::Result<Self> {
        let name = &image.family.name;
        let spec = image.family.family.spec.images.get(image.index.position());
        let image = spec.map(|image| image.name.as_str()).unwrap_or_default();
        let selector = format!(
            "{}={},{}={},{}={image}",
            labels::MANAGED_BY,
            labels::MANAGED_BY_VALUE,
            labels::FAMILY,
            name.name,
            labels::IMAGE,
        );
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &name.namespace);
        let found = cluster.list(pods.clone(), ListParams::default().labels(&selector)).await?;
        let Some(pod) = found.into_iter().max_by_key(ResourceExt::creation_timestamp) else {
            bail!(
                "no build or check of {name}/{image} has a pod any more; its log is gone with it"
            );
        };
        let Some(container) = last_started(&pod) else {
            bail!("no container of pod {} has started yet", pod.name_any());
        };
        let parameters = LogParams {
            container: Some(container.clone()),
            tail_lines: Some(MAX_LINES),
            limit_bytes: Some(MAX_BYTES),
            ..LogParams::default()
        };
        let text = cluster.call::<Pod, _>(pods.logs(&pod.name_any(), &parameters)).await?;
        Ok(Self { pod: pod.name_any(), container, text })
    }
}

/// Returns the name of the container that has started last.
fn last_started(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let first = status.init_container_statuses.iter().flatten();
    let containers = first.chain(status.container_statuses.iter().flatten());
    let has_started = |container: &&ContainerStatus| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    };
    let mut started = containers.filter(has_started);
    started.next_back().map(|container| container.name.clone())
}
