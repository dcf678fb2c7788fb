//! The operator's image by digest: that of the pod this process runs in. A tag may have moved since
//! the pod started, and every build and every check runs the image.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::{Api, Client};
use tracing::{info, warn};

use crate::rollout::normalize_repository;

/// The container of the controller in its pod.
const CONTAINER: &str = "controller";

/// Returns the operator's image by the digest that this pod runs, or as it is configured if the
/// pod does not show a digest of that repository.
pub(super) async fn resolve(
    client: &Client,
    configured: &str,
    namespace: &str,
    pod: &str,
) -> String {
    if configured.contains('@') {
        return configured.to_owned();
    }
    let answer = Api::<Pod>::namespaced(client.clone(), namespace).get(pod).await;
    let statuses = match &answer {
        Ok(pod) => pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()),
        Err(error) => {
            warn!(%error, pod, "the digest of the operator's image is not known");
            None
        }
    };
    if let Some(pinned) = pinned(configured, statuses.unwrap_or_default()) {
        info!(image = pinned, "builds and checks run the image of this pod");
        return pinned;
    }
    warn!(
        image = configured,
        "builds and checks run the operator's image by its tag: set image.digest to pin it"
    );
    configured.to_owned()
}

/// Returns the image by the digest that the controller's container runs. A runtime may name an
/// image by another repository, such as one of its own for images that were never pulled: whether
/// the digest exists in the configured one is then not known.
fn pinned(configured: &str, statuses: &[ContainerStatus]) -> Option<String> {
    let status = statuses.iter().find(|status| status.name == CONTAINER)?;
    let running = status.image_id.rsplit_once("://").map_or(&*status.image_id, |(_, id)| id);
    let (repository, digest) = running.split_once('@')?;
    let is_digest = digest
        .strip_prefix("sha256:")
        .is_some_and(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if !is_digest || normalize_repository(repository) != normalize_repository(configured) {
        return None;
    }
    let name = match configured.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => configured,
    };
    Some(format!("{name}@{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_becomes_the_digest_that_the_pod_runs() {
        let digest = format!("sha256:{}", "a".repeat(64));
        let pinned_by = |configured: &str, name: &str, image_id: &str| {
            let status = ContainerStatus {
                name: name.into(),
                image_id: image_id.into(),
                ..ContainerStatus::default()
            };
            pinned(configured, &[status])
        };
        let image = "registry.example.com:5000/groundswell";
        let by_digest = format!("{image}@{digest}");
        for configured in [format!("{image}:0.1.0"), image.to_owned()] {
            for image_id in [by_digest.clone(), format!("docker-pullable://{by_digest}")] {
                let found = pinned_by(&configured, "controller", &image_id);
                assert_eq!(found.as_deref(), Some(&*by_digest), "{configured} {image_id}");
            }
        }
        let found = pinned_by("me/op:1", "controller", &format!("docker.io/me/op@{digest}"));
        assert_eq!(found, Some(format!("me/op@{digest}")));
        for (name, image_id) in [
            ("controller", digest.clone()),
            ("controller", String::new()),
            ("controller", format!("docker.io/library/import-2026-01-01@{digest}")),
            ("controller", format!("{image}@sha256:aa")),
            ("sidecar", by_digest),
        ] {
            assert_eq!(pinned_by(&format!("{image}:0.1.0"), name, &image_id), None, "{image_id}");
        }
    }
}
