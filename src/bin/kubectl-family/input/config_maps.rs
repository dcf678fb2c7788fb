//! The `ConfigMap`s from which images are built: those of files, and those that a command that
//! reads Dockerfiles asks a cluster for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use groundswell::{
    api::{Image, SourceKind},
    builds::{config_map::config_map_files, pod_paths::DOCKERFILE},
};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt as _};

use crate::{
    cluster::ClusterConnection,
    input::{Estate, EstateFamily, EstateOrigin, InputArguments},
    output::note,
};

/// Maximum number of `ConfigMap`s that are asked for at the same time.
const MAX_CONCURRENT_CALLS: usize = 8;

/// The `ConfigMap`s of one namespace by name.
pub type ConfigMaps = BTreeMap<String, ConfigMap>;

/// Returns the Dockerfile of an image that is a part of its family, or of a `ConfigMap` that is
/// here.
pub fn dockerfile_of(image: &Image, config_maps: &ConfigMaps) -> Option<String> {
    match image.source.kind()? {
        SourceKind::Inline(text) => Some(text.to_owned()),
        SourceKind::ConfigMap(source) => {
            let found = config_maps.get(&source.name)?;
            let texts = found.data.clone().unwrap_or_default().into_iter();
            let bytes = found.binary_data.clone().unwrap_or_default().into_iter();
            let content: BTreeMap<String, Vec<u8>> = bytes
                .map(|(key, value)| (key, value.0))
                .chain(texts.map(|(key, value)| (key, value.into_bytes())))
                .collect();
            let files = config_map_files(&content, &source.items).ok()?;
            let dockerfile = files.into_iter().find(|file| file.path == DOCKERFILE)?;
            String::from_utf8(dockerfile.content.to_vec()).ok()
        }
        SourceKind::Git(_) => None,
    }
}

impl Estate {
    /// Reads the `ConfigMap`s that the families of a cluster name. What cannot be read is noted: an
    /// image without its Dockerfile is no error.
    ///
    /// # Errors
    ///
    /// Returns an error if there is no connection.
    pub(super) async fn read_config_maps(
        &mut self,
        arguments: &InputArguments,
    ) -> anyhow::Result<()> {
        let wanted: BTreeSet<(String, String)> = self
            .families
            .iter()
            .flat_map(|family| {
                let namespace = &family.name.namespace;
                let images = family.family.spec.images.iter();
                let sources = images.filter_map(|image| image.source.config_map.as_ref());
                sources.map(|source| (namespace.clone(), source.name.clone()))
            })
            .collect();
        if self.origin == EstateOrigin::Files || wanted.is_empty() {
            return Ok(());
        }
        let cluster = &ClusterConnection::connect(&arguments.kubectl_flags).await?;
        let calls = wanted.into_iter().map(|(namespace, name)| async move {
            let api: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &namespace);
            let found = cluster.call::<ConfigMap, _>(api.get_opt(&name)).await;
            (namespace, name, found)
        });
        let mut problems = BTreeSet::new();
        let mut calls = stream::iter(calls).buffer_unordered(MAX_CONCURRENT_CALLS);
        while let Some((namespace, name, found)) = calls.next().await {
            match found {
                Ok(Some(found)) => self.add_config_map(&namespace, &found),
                Ok(None) => _ = problems.insert(format!("{namespace}: no ConfigMap `{name}`")),
                Err(error) => _ = problems.insert(format!("{namespace}: {error:#}")),
            }
        }
        for problem in problems {
            note(&problem);
        }
        Ok(())
    }

    fn add_config_map(&mut self, namespace: &str, found: &ConfigMap) {
        let of_namespace =
            self.families.iter_mut().filter(|family| family.name.namespace == namespace);
        for family in of_namespace {
            Arc::make_mut(&mut family.config_maps).insert(found.name_any(), found.clone());
        }
    }
}

impl EstateFamily {
    /// Returns the Dockerfile of an image of the family, if it is inline or in a `ConfigMap` that
    /// is here.
    pub fn dockerfile(&self, image: &Image) -> Option<String> {
        dockerfile_of(image, &self.config_maps)
    }
}
