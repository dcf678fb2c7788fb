//! Objects of the API: ways to apply, read and print them.

use std::{fmt::Debug, fs, path::Path};

use groundswell::api::{BuildStrategy, ImageFamily};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{ConfigMap, Namespace, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
    core::NamespaceResourceScope,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{cluster::root, wait::wait_for};

/// The field owner of what a test applies.
pub const USER: &str = "user";

/// Applies every definition of `crds/`, and waits until the API server serves them.
pub async fn define(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in manifests(&root().join("crds")) {
        let name = definition["metadata"]["name"].as_str().expect("a name").to_owned();
        let parameters = PatchParams::apply(USER).force();
        api.patch(&name, &parameters, &Patch::Apply(&definition))
            .await
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        wait_for(format!("{name} to be established"), 30, async || {
            let definition = api.get(&name).await.expect("the definition");
            let conditions =
                definition.status.and_then(|status| status.conditions).unwrap_or_default();
            let established =
                conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
            established.then_some(()).ok_or_else(|| format!("{conditions:?}"))
        })
        .await;
    }
}

/// The YAML files of a folder, as JSON.
pub fn manifests(folder: &Path) -> Vec<Value> {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|ending| ending == "yaml")).collect();
    files.sort();
    files
        .iter()
        .map(|path| serde_yaml::from_str(&fs::read_to_string(path).expect("a file")).expect("YAML"))
        .collect()
}

/// Applies a strategy.
pub async fn strategy(client: &Client, name: &str, spec: Value) {
    let api: Api<BuildStrategy> = Api::all(client.clone());
    let body = json!({
        "apiVersion": "groundswell.dev/v1alpha1", "kind": "BuildStrategy",
        "metadata": { "name": name }, "spec": spec,
    });
    api.patch(name, &PatchParams::apply(USER).force(), &Patch::Apply(body))
        .await
        .expect("a strategy");
}

/// A namespace, with methods to work in it.
#[derive(Clone)]
pub struct Place {
    /// The client that all calls go through.
    pub client: Client,
    /// The namespace's name.
    pub namespace: String,
}

impl Place {
    /// Creates a namespace whose name begins with `prefix`.
    pub async fn new(client: &Client, prefix: &str) -> Self {
        let namespace = Namespace {
            metadata: kube::api::ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..Default::default()
            },
            ..Namespace::default()
        };
        let api: Api<Namespace> = Api::all(client.clone());
        let made = api.create(&PostParams::default(), &namespace).await.expect("a namespace");
        Self { client: client.clone(), namespace: made.name_any() }
    }

    /// The API of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// All objects of a kind.
    pub async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        self.api::<K>().list(&ListParams::default()).await.expect("a list").items
    }

    /// The Jobs of one family.
    pub async fn jobs(&self, family: &str) -> Vec<Job> {
        let of_family = ListParams::default().labels(&format!("groundswell.dev/family={family}"));
        self.api::<Job>().list(&of_family).await.expect("the Jobs").items
    }

    /// Applies a family's spec as a user does.
    ///
    /// # Errors
    /// Returns the API server's message, if it refuses the spec.
    pub async fn apply_family(&self, name: &str, spec: &Value) -> Result<ImageFamily, String> {
        let body = json!({
            "apiVersion": "groundswell.dev/v1alpha1", "kind": "ImageFamily",
            "metadata": { "name": name }, "spec": spec,
        });
        let parameters = PatchParams::apply(USER).force();
        let applied = self.api::<ImageFamily>().patch(name, &parameters, &Patch::Apply(body)).await;
        applied.map_err(|error| error.to_string())
    }

    /// Creates a `ConfigMap` with these files.
    pub async fn config_map(&self, name: &str, files: &[(&str, &str)]) {
        let data =
            files.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let map = ConfigMap { data: Some(data), ..named(name) };
        self.api().create(&PostParams::default(), &map).await.expect("a ConfigMap");
    }

    /// Creates a Deployment with one container.
    pub async fn deployment(&self, name: &str, image: &str) {
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name },
            "spec": {
                "selector": { "matchLabels": { "app": name } },
                "template": {
                    "metadata": { "labels": { "app": name } },
                    "spec": { "containers": [{ "name": name, "image": image }] },
                },
            },
        });
        let deployment: Deployment = serde_json::from_value(deployment).expect("a Deployment");
        self.api().create(&PostParams::default(), &deployment).await.expect("a Deployment");
    }

    /// Creates a Secret with a type and one key.
    pub async fn secret(&self, name: &str, type_: &str, key: &str, value: &str) {
        let secret = Secret {
            type_: Some(type_.into()),
            string_data: Some([(key.to_owned(), value.to_owned())].into()),
            ..named(name)
        };
        self.api().create(&PostParams::default(), &secret).await.expect("a Secret");
    }
}

fn named<K: Resource + Default>(name: &str) -> K {
    let mut object = K::default();
    object.meta_mut().name = Some(name.into());
    object
}

/// An object as YAML, without its managed fields.
pub fn show<K: Resource + Clone + Serialize>(object: &K) -> String {
    let mut object = object.clone();
    object.meta_mut().managed_fields = None;
    serde_yaml::to_string(&object).unwrap_or_default()
}
