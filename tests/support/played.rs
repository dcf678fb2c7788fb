//! Played builds: a strategy whose container runs nothing but gets all values of a build as
//! arguments, and the push that a real builder would make from them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use kube::Client;
use serde_json::json;

use super::{
    images::{Images, Parts},
    objects,
};

/// The values of a build, as the strategy passes them to the builder's container.
#[derive(Clone, Debug, Default)]
pub struct Task {
    /// The reference to push, with its tag.
    pub reference: String,
    /// The parents, by digest; the base first.
    pub parents: Vec<String>,
    annotations: BTreeMap<String, String>,
    /// The architecture to build for.
    architecture: String,
    /// Labels that the built image gets.
    labels: BTreeMap<String, String>,
}

/// Creates the strategy. Its pods are bound to `node`, or wait for a scheduler that the cluster
/// does not have.
pub async fn strategy(client: &Client, name: &str, node: Option<&str>) {
    let arguments = json!([
        "reference {{ image.reference }}",
        "{{ parents | each(\"parent {pinned}\") }}",
        "architecture {{ platform }}",
        "{{ annotations | each(\"annotation {name}={value}\") }}",
    ]);
    let container =
        json!({ "name": "build", "image": "played.invalid/builder", "args": arguments });
    let mut pod = json!({ "containers": [container] });
    if let Some(node) = node {
        pod["nodeName"] = json!(node);
    }
    objects::strategy(
        client,
        name,
        json!({
            "userNamespace": "NotRequired",
            "parameters": [{ "name": "platform" }],
            "template": { "spec": pod },
        }),
    )
    .await;
}

impl Task {
    /// Reads the values from a pod of the strategy.
    pub fn of(pod: &PodSpec) -> Self {
        let container =
            pod.containers.iter().find(|container| container.name == "build").expect("the builder");
        let mut task = Self::default();
        for argument in container.args.iter().flatten() {
            match argument.split_once(' ').expect("a word and a value") {
                ("reference", reference) => task.reference = reference.into(),
                ("architecture", platform) => {
                    let (_, architecture) = platform.split_once('/').expect("a platform");
                    task.architecture = architecture.into();
                }
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

    /// Gives labels to the image, as its Dockerfile's `LABEL` would.
    pub fn label(&mut self, labels: &BTreeMap<String, String>) {
        self.labels.clone_from(labels);
    }

    /// Pushes an image that is built on the first parent. Its own layer follows from the values of
    /// the build. Returns its digest, which the builder reports.
    pub async fn push(&self, images: &Images) -> String {
        self.push_content(images, &format!("{} {:?}", self.reference, self.parents)).await
    }

    /// Pushes an image whose own layer is the same in every build. Returns its digest.
    pub async fn push_same(&self, images: &Images) -> String {
        self.push_content(images, "the same").await
    }

    /// Pushes an image for another architecture than that of the build. Returns its digest.
    pub async fn push_for(mut self, architecture: &str, images: &Images) -> String {
        self.architecture = architecture.into();
        self.push(images).await
    }

    async fn push_content(&self, images: &Images, content: &str) -> String {
        let (repository, tag) = self.reference.rsplit_once(':').expect("a tag");
        let (_, repository) = repository.split_once('/').expect("a host");
        let parts = Parts {
            architecture: &self.architecture,
            base: self.parents.first().map(String::as_str),
            content,
            annotations: &self.annotations,
            labels: &self.labels,
        };
        images.push_parts(repository, tag, &parts).await
    }
}
