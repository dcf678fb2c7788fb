//! Carries one change of a plan out. The only place that writes to somebody's workload.
//!
//! Images are set by JSON patch and not by server-side apply: an apply takes back every field that
//! its owner leaves out later, so that shortening an image's `rollout` would remove the image of a
//! running container; and it creates an object, or a container, that has meanwhile been deleted.
//! The patch tests the uid, the container's name and the image that was seen, so that it changes
//! what the plan looked at or nothing. Its owner is still recorded, as
//! [`labels::ROLLOUT_FIELD_OWNER`].

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

/// The longest that one change may take.
const PATCH_TIMEOUT: Duration = Duration::from_secs(10);
/// The most characters of the API server's words that are passed on.
const MAX_MESSAGE: usize = 256;

/// Why a change was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum RolloutError {
    /// The workload is not as the plan saw it; plan again once the cache has caught up.
    #[error("{0} has changed since it was looked at")]
    Conflict(WorkloadKey),
    /// The controller lacks the right.
    #[error(
        "the controller may not patch {0}: grant it `patch` on that kind, as the chart's roles do"
    )]
    Forbidden(WorkloadKey),
    /// The API server, or an admission webhook, refused the change.
    #[error("the API server refused to change {key}: {message}")]
    Rejected {
        /// The workload.
        key: WorkloadKey,
        /// The API server's words.
        message: String,
    },
    /// No answer in time.
    #[error("no answer from the API server in time when changing {0}")]
    Timeout(WorkloadKey),
    /// The API server could not be asked.
    #[error("cannot change {key}")]
    Client {
        /// The workload.
        key: WorkloadKey,
        /// What went wrong.
        #[source]
        source: Box<kube::Error>,
    },
}

/// Carries out one change. A second call with the same change, after the first has come through, is
/// a [`Conflict`](RolloutError::Conflict).
pub async fn apply(client: &Client, patch: &WorkloadPatch) -> Result<(), RolloutError> {
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
            serde_json::from_value(body(patch))
                .map_err(|error| failed(kube::Error::SerdeError(error)))?,
        ),
        WorkloadChange::Restart { .. } => Patch::Merge(body(patch)),
    };
    let answer =
        tokio::time::timeout(PATCH_TIMEOUT, workloads.patch(&key.name, &params, &body)).await;
    answer.map_err(|_| RolloutError::Timeout(key.clone()))?.map(drop).map_err(failed)
}

fn api_resource(kind: WorkloadKind) -> ApiResource {
    match kind {
        WorkloadKind::Deployment => ApiResource::erase::<Deployment>(&()),
        WorkloadKind::StatefulSet => ApiResource::erase::<StatefulSet>(&()),
        WorkloadKind::DaemonSet => ApiResource::erase::<DaemonSet>(&()),
        WorkloadKind::CronJob => ApiResource::erase::<CronJob>(&()),
    }
}

/// The body of the request: a JSON patch for images, a merge patch for a restart, whose annotation
/// may be the first one.
fn body(patch: &WorkloadPatch) -> Value {
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
                let place = format!("{template}/{list}/{}", container.index);
                operations.extend([
                    json!({"op": "test", "path": format!("{place}/name"), "value": container.name}),
                    json!({"op": "test", "path": format!("{place}/image"), "value": container.image}),
                    json!({"op": "replace", "path": format!("{place}/image"), "value": image}),
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

/// Whether the object is gone, another one, or not as the patch tests it to be. A failed test of a
/// JSON patch is answered by 422 without causes, and another uid in a merge patch by that field as
/// a cause. Other causes are fields that validation refuses, and an admission webhook has words of
/// its own.
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
            }],
            image: "r/app@sha256:bb".into(),
        }
    }

    /// Applies a patch against an API server that gives one answer; returns the request and the
    /// outcome.
    async fn ask(
        patch: &WorkloadPatch,
        code: u16,
        answer: Value,
    ) -> (String, Value, Result<(), RolloutError>) {
        let seen = Arc::new(Mutex::new(None));
        let record = Arc::clone(&seen);
        let service = tower::service_fn(move |request: Request<Body>| {
            let (record, answer) = (Arc::clone(&record), answer.clone());
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let kind = request.headers()["content-type"].to_str().expect("ascii").to_owned();
                let body = request.into_body().collect_bytes().await.expect("a body");
                let body: Value = serde_json::from_slice(&body).expect("JSON");
                *record.lock().expect("lock") = Some((format!("{line} {kind}"), body));
                let answer = Body::from(serde_json::to_vec(&answer).expect("JSON"));
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(answer).expect("a response"),
                )
            }
        });
        let outcome = apply(&Client::new(service, "default"), patch).await;
        let (line, body) = seen.lock().expect("lock").take().expect("a request");
        (line, body, outcome)
    }

    fn status(code: u16, message: &str) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "details": {}, "message": message, "code": code})
    }

    #[tokio::test]
    async fn an_image_is_set_only_where_it_was_seen() {
        let object =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}});
        let (line, body, outcome) =
            ask(&patch(WorkloadKind::Deployment, image()), 200, object).await;
        outcome.expect("applied");
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
                {"op": "test", "path": "/spec/template/spec/containers/2/image", "value": "r/app:1"},
                {"op": "replace", "path": "/spec/template/spec/containers/2/image", "value": "r/app@sha256:bb"}
            ])
        );
    }

    #[tokio::test]
    async fn a_cron_jobs_template_is_one_level_down() {
        let object =
            json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "web"}});
        let restart =
            patch(WorkloadKind::CronJob, WorkloadChange::Restart { digest: "sha256:bb".into() });
        let (line, body, outcome) = ask(&restart, 200, object).await;
        outcome.expect("applied");
        assert!(line.starts_with("PATCH /apis/batch/v1/namespaces/shop/cronjobs/web"), "{line}");
        assert!(line.ends_with("application/merge-patch+json"), "{line}");
        let annotation =
            "/spec/jobTemplate/spec/template/metadata/annotations/groundswell.dev~1digest";
        assert_eq!(body.pointer(annotation), Some(&json!("sha256:bb")));
        assert_eq!(body.pointer("/metadata/uid"), Some(&json!("u1")));
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        let patch = patch(WorkloadKind::Deployment, image());
        let mut another = status(422, "is invalid: metadata.uid: field is immutable");
        another["details"]["causes"] = json!([{"field": "metadata.uid", "message": "field is \
            immutable"}]);
        let mut invalid = status(422, "is invalid: image: Required value");
        invalid["details"]["causes"] =
            json!([{"field": "spec.template.spec.containers[0].image", "message": "Required"}]);
        for (answer, expected) in [
            (another, "changed since"),
            (invalid, "Required value"),
            (status(409, "uid mismatch"), "changed since"),
            (status(404, "not found"), "changed since"),
            (
                status(422, "the server rejected our request due to an error in our request"),
                "changed since",
            ),
            (status(422, "admission webhook \"policy\" denied the request: no tags"), "no tags"),
            (status(403, "User \"x\" cannot patch resource \"deployments\""), "may not patch"),
            (
                status(403, "admission webhook \"policy\" denied the request: not signed"),
                "not signed",
            ),
            (status(400, "bad"), "refused"),
            (status(500, "oops"), "cannot change"),
        ] {
            let code = u16::try_from(answer["code"].as_u64().expect("code")).expect("u16");
            let error = ask(&patch, code, answer).await.2.expect_err("refused");
            assert!(error.to_string().contains(expected), "{code}: {error}");
            assert!(error.to_string().contains("Deployment shop/web"), "{code}: {error}");
        }
    }
}
