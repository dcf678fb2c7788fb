//! Builds that are played: a strategy whose container runs nothing and is told everything, and the
//! push that a real builder would make of it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use kube::Client;
use serde_json::json;

use super::{images::Images, objects};

/// What the builder's container of a pod is told, by the strategy.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// The reference that is to be pushed, with its tag.
    pub reference: String,
    /// The parents, by digest; the base first.
    pub parents: Vec<String>,
    annotations: BTreeMap<String, String>,
}

/// Makes the strategy. Its pods live on `node`, or wait for a scheduler that the cluster does not
/// have.
pub async fn strategy(client: &Client, name: &str, node: Option<&str>) {
    let arguments = json!([
        "reference {{ image.reference }}",
        "{{ parents | each(\"parent {pinned}\") }}",
        "{{ annotations | each(\"annotation {name}={value}\") }}",
    ]);
    let mut pod = json!({ "containers": [{ "name": "build", "image": "played.invalid/builder", "args": arguments }] });
    if let Some(node) = node {
        pod["nodeName"] = json!(node);
    }
    objects::strategy(
        client,
        name,
        json!({ "userNamespace": "NotRequired", "template": { "spec": pod } }),
    )
    .await;
}

impl Task {
    /// What a pod of the strategy is told.
    pub fn of(pod: &PodSpec) -> Self {
        let container =
            pod.containers.iter().find(|container| container.name == "build").expect("the builder");
        let mut task = Self::default();
        for argument in container.args.iter().flatten() {
            match argument.split_once(' ').expect("a word and a value") {
                ("reference", reference) => task.reference = reference.into(),
                ("parent", pinned) => task.parents.push(pinned.into()),
                ("annotation", pair) => {
                    let (name, value) = pair.split_once('=').expect("name=value");
                    task.annotations.insert(name.into(), value.into());
                }
                other => panic!("{other:?}"),
            }
        }
        task
    }

    /// Pushes an image that stands on the first parent, and whose own layer follows from what the
    /// build was told.
    pub async fn push(&self, images: &Images) {
        self.push_content(images, &format!("{} {:?}", self.reference, self.parents)).await;
    }

    /// Pushes an image whose own layer is the same in every build.
    pub async fn push_same(&self, images: &Images) {
        self.push_content(images, "the same").await;
    }

    async fn push_content(&self, images: &Images, content: &str) {
        let (repository, tag) = self.reference.rsplit_once(':').expect("a tag");
        let (_, repository) = repository.split_once('/').expect("a host");
        images
            .push(
                repository,
                tag,
                self.parents.first().map(String::as_str),
                content,
                &self.annotations,
            )
            .await;
    }
}
