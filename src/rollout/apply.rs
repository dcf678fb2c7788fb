//! Applies one change of a plan. This is the only module that writes to users' workloads.
//!
//! Images are set by JSON patch and not by server-side apply, for two reasons. An apply removes
//! every field that its owner omits later, so shortening an image's `rollout` would remove the
//! image of a running container. An apply also creates an object, or a container, that has been
//! deleted in the meantime. The JSON patch tests the uid, the container's name and the observed
//! image, so it changes exactly what the plan read or nothing. Its field owner is still recorded,
//! as [`labels::ROLLOUT_FIELD_OWNER`].

use std::time::Duration;

use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment, StatefulSet},
    batch::v1::CronJob,
};
use kube::{
    Api, Client,
    api::{DynamicObject, Patch, PatchParams},
    core::{ApiResource, Status},
};
use serde_json::{Value, json};

use crate::{
    api::{WorkloadKind, condition::shorten, labels},
    rollout::{WorkloadChange, WorkloadKey, WorkloadPatch},
};

/// Timeout for applying one change.
const PATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of characters of the API server's message that are reported.
const MAX_MESSAGE: usize = 256;

/// The error for a change that was not applied.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The workload differs from what the plan read. Plan again once the cache is up to date.
    #[error("{0} has changed since it was read")]
    Conflict(WorkloadKey),
    /// The controller lacks the permission.
    #[error(
        "the controller is not allowed to patch {0}: grant it `patch` on that kind, as the chart's \
         roles do"
    )]
    Forbidden(WorkloadKey),
    /// The API server, or an admission webhook, rejected the change.
    #[error("the API server rejected the change of {key}: {message}")]
    Rejected {
        /// The workload.
        key: WorkloadKey,
        /// The API server's message.
        message: String,
    },
    /// The API server did not respond in time.
    #[error("the API server did not respond in time to the change of {0}")]
    Timeout(WorkloadKey),
    /// The request to the API server failed.
    #[error("could not change {key}")]
    Client {
        /// The workload.
        key: WorkloadKey,
        /// The cause.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Applies one change. Returns the generation of the workload after it. A second call with the same
/// image change after a successful first one fails with a [`Conflict`](RolloutError::Conflict).
pub async fn apply(client: &Client, patch: &WorkloadPatch) -> Result<i64, RolloutError> {
    let key = &patch.key;
    let workloads: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), &key.namespace, &api_resource(key.kind));
    let params = PatchParams {
        field_manager: Some(labels::ROLLOUT_FIELD_OWNER.into()),
        ..PatchParams::default()
    };
    let failed = |source: kube::Error| classify_error(key, source);
    let body = match &patch.change {
        WorkloadChange::Image { .. } => Patch::Json(
            serde_json::from_value(patch_body(patch))
                .map_err(|error| failed(kube::Error::SerdeError(error)))?,
        ),
        WorkloadChange::Restart { .. } => Patch::Merge(patch_body(patch)),
    };
    let response =
        tokio::time::timeout(PATCH_TIMEOUT, workloads.patch(&key.name, &params, &body)).await;
    let changed = response.map_err(|_| RolloutError::Timeout(key.clone()))?.map_err(failed)?;
    Ok(changed.metadata.generation.unwrap_or_default())
}

fn api_resource(kind: WorkloadKind) -> ApiResource {
    match kind {
        WorkloadKind::Deployment => ApiResource::erase::<Deployment>(&()),
        WorkloadKind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        WorkloadKind::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
        WorkloadKind::CronJob => ApiResource::erase::<CronJob>(&()),
    }
}

/// Returns the body of the request: a JSON patch for images, a merge patch for a restart. The pod
/// template may have no annotations yet, and a JSON patch cannot add a key to a missing map.
fn patch_body(patch: &WorkloadPatch) -> Value {
    let cron_job = patch.key.kind == WorkloadKind::CronJob;
    match &patch.change {
        WorkloadChange::Image { containers, image } => {
            let template = if cron_job {
                "/spec/jobTemplate/spec/template/spec"
            } else {
                "/spec/template/spec"
            };
            let mut operations =
                vec![json!({"op": "test", "path": "/metadata/uid", "value": patch.uid})];
            for container in containers {
                let list = if container.init { "initContainers" } else { "containers" };
                let path = format!("{template}/{list}/{}", container.index);
                operations.extend([
                    json!({"op": "test", "path": format!("{path}/name"), "value": container.name}),
                    json!({
                        "op": "test", "path": format!("{path}/image"), "value": container.image
                    }),
                    json!({"op": "replace", "path": format!("{path}/image"), "value": image}),
                ]);
            }
            Value::Array(operations)
        }
        WorkloadChange::Restart { digest } => {
            let template =
                json!({"template": {"metadata": {"annotations": {labels::ROLLED_OUT: digest}}}});
            let spec = if cron_job { json!({"jobTemplate": {"spec": template}}) } else { template };
            json!({"metadata": {"uid": patch.uid}, "spec": spec})
        }
    }
}

fn classify_error(key: &WorkloadKey, source: kube::Error) -> RolloutError {
    let key = key.clone();
    match source {
        kube::Error::Api(status) if is_conflict(&status) => RolloutError::Conflict(key),
        kube::Error::Api(status)
            if status.code == 403 && status.message.contains("cannot patch") =>
        {
            RolloutError::Forbidden(key)
        }
        kube::Error::Api(status) if (400..429).contains(&status.code) => {
            RolloutError::Rejected { key, message: shorten(&status.message, MAX_MESSAGE) }
        }
        source => RolloutError::Client { key, source: Box::new(source) },
    }
}

/// Whether the object is gone, has been replaced, or differs from what the patch tests. The API
/// server responds to a failed test of a JSON patch with 422 without causes, and to a different uid
/// in a merge patch with 422 and that field as a cause. Any other cause is a field that validation
/// rejects. A denial of an admission webhook is recognized by the start of its message.
fn is_conflict(status: &Status) -> bool {
    let causes = status.details.as_ref().map_or(&[][..], |details| details.causes.as_slice());
    let tested = causes.is_empty() || causes.iter().any(|cause| cause.field == "metadata.uid");
    match status.code {
        404 | 409 => true,
        422 => tested && !status.message.starts_with("admission webhook"),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::rollout::Container;

    fn patch(kind: WorkloadKind, change: WorkloadChange) -> WorkloadPatch {
        WorkloadPatch {
            key: WorkloadKey { kind, namespace: "shop".into(), name: "web".into() },
            uid: "u1".into(),
            generation: 1,
            manager: None,
            change,
        }
    }

    fn image() -> WorkloadChange {
        WorkloadChange::Image {
            containers: vec![Container {
                name: "app".into(),
                image: "r/app:1".into(),
                init: false,
                index: 2,
                always_pulls: false,
                manager: None,
            }],
            image: "r/app@sha256:bb".into(),
        }
    }

    /// The request of a patch and its outcome.
    struct Exchange {
        /// Method, URI and content type.
        line: String,
        body: Value,
        outcome: Result<i64, RolloutError>,
    }

    /// Applies a patch against an API server that sends one response.
    async fn exchange(patch: &WorkloadPatch, code: u16, response: Value) -> Exchange {
        let received = Arc::new(Mutex::new(None));
        let record = Arc::clone(&received);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (record, response) = (Arc::clone(&record), response.clone());
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let kind = request.headers()["content-type"].to_str().expect("ascii").to_owned();
                let body = request.into_body().collect_bytes().await.expect("a body");
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                *record.lock().expect("lock") = Some((format!("{line} {kind}"), body));
                let body = Body::from(serde_json::to_vec(&response).expect("JSON"));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(body).expect("a response"),
                )
            }
        });
        let outcome = apply(&Client::new(service, "default"), patch).await;
        let (line, body) = received.lock().expect("lock").take().expect("a request");
        Exchange { line, body, outcome }
    }

    fn status(code: u16, message: &str) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "details": {},
            "message": message, "code": code
        })
    }

    #[tokio::test]
    async fn an_image_is_set_only_where_it_was_observed() {
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "web", "generation": 7}
        });
        let Exchange { line, body, outcome } =
            exchange(&patch(WorkloadKind::Deployment, image()), 200, object).await;
        assert_eq!(outcome.expect("applied"), 7);
        assert_eq!(
            line,
            "PATCH \
             /apis/apps/v1/namespaces/shop/deployments/web?&fieldManager=groundswell%2Frollout \
             application/json-patch+json"
        );
        assert_eq!(
            body,
            json!([
                {"op": "test", "path": "/metadata/uid", "value": "u1"},
                {"op": "test", "path": "/spec/template/spec/containers/2/name", "value": "app"},
                {
                    "op": "test", "path": "/spec/template/spec/containers/2/image",
                    "value": "r/app:1"
                },
                {
                    "op": "replace", "path": "/spec/template/spec/containers/2/image",
                    "value": "r/app@sha256:bb"
                }
            ])
        );
    }

    #[tokio::test]
    async fn the_pod_template_of_a_cron_job_is_nested() {
        let object =
            json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "web"}});
        let restart =
            patch(WorkloadKind::CronJob, WorkloadChange::Restart { digest: "sha256:bb".into() });
        let Exchange { line, body, outcome } = exchange(&restart, 200, object).await;
        outcome.expect("applied");
        assert!(line.starts_with("PATCH /apis/batch/v1/namespaces/shop/cronjobs/web"), "{line}");
        assert!(line.ends_with("application/merge-patch+json"), "{line}");
        let annotation =
            "/spec/jobTemplate/spec/template/metadata/annotations/groundswell.dev~1digest";
        assert_eq!(body.pointer(annotation), Some(&json!("sha256:bb")));
        assert_eq!(body.pointer("/metadata/uid"), Some(&json!("u1")));
    }

    #[tokio::test]
    async fn errors_are_classified() {
        let patch = patch(WorkloadKind::Deployment, image());
        let mut another = status(422, "is invalid: metadata.uid: field is immutable");
        another["details"]["causes"] = json!([{"field": "metadata.uid", "message": "field is \
            immutable"}]);
        let mut invalid = status(422, "is invalid: image: Required value");
        invalid["details"]["causes"] =
            json!([{"field": "spec.template.spec.containers[0].image", "message": "Required"}]);
        for (response, expected) in [
            (another, "changed since"),
            (invalid, "Required value"),
            (status(409, "uid mismatch"), "changed since"),
            (status(404, "not found"), "changed since"),
            (
                status(422, "the server rejected our request due to an error in our request"),
                "changed since",
            ),
            (status(422, "admission webhook \"policy\" denied the request: no tags"), "no tags"),
            (
                status(403, "User \"x\" cannot patch resource \"deployments\""),
                "not allowed to patch",
            ),
            (
                status(403, "admission webhook \"policy\" denied the request: not signed"),
                "not signed",
            ),
            (status(400, "bad"), "rejected"),
            (status(500, "oops"), "could not change"),
        ] {
            let code = u16::try_from(response["code"].as_u64().expect("code")).expect("u16");
            let error = exchange(&patch, code, response).await.outcome.expect_err("an error");
            assert!(error.to_string().contains(expected), "{code}: {error}");
            assert!(error.to_string().contains("Deployment shop/web"), "{code}: {error}");
        }
    }
}
