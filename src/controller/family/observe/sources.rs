//! The revisions of images' sources. Needs a client, to read a `ConfigMap` that has changed.

use std::{fmt::Display, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, ResourceExt};

use crate::{
    api::{ConfigMapSource, GitSource, Image, SourceKind, condition::Reason},
    builds::{
        config_map::{ConfigMapError, config_map_hash},
        git::{FolderError, GitFolder, selection::Selection},
        pod_paths::DOCKERFILE,
    },
    controller::{
        error::{ReconcileError, call},
        family::observe::{Observer, dockerfiles::DockerfileReader},
        git_poll::GitKey,
        object_cache::Key,
        reconcile_cache::CachedRevision,
    },
    engine::{Observed, Problem},
    found_edges::dockerfile,
    identity::FolderRevision,
};

impl Observer<'_> {
    /// Reads an image's source, and notes what its Dockerfile says if that is needed. Both are of
    /// the same version. The blueprint has the revision of an inline source.
    pub(super) async fn read_source(
        &mut self,
        image: &Image,
        reader: &DockerfileReader,
    ) -> Result<ObservedSource, ReconcileError> {
        let revision = match image.source.kind() {
            Some(SourceKind::ConfigMap(source)) => {
                self.config_map_revision(image, source, reader).await?
            }
            Some(SourceKind::Git(source)) => {
                let folder = match invalid_git_source(&image.name, source) {
                    Some(problem) => Observed::Failed(problem),
                    None => self.git_folder(&image.name, source),
                };
                if let Observed::Known(folder) = &folder {
                    self.note_folder(image, folder, reader);
                }
                return Ok(ObservedSource::of_folder(folder));
            }
            Some(SourceKind::Inline(text)) => {
                let version = reader.version("inline");
                if dockerfile::is_needed(image) && !self.has_read(image, &version) {
                    self.note_dockerfile(image, version, text, reader);
                }
                Observed::Pending
            }
            None => {
                let message = format!(
                    "spec.images[{}].source: name one of `inline`, `configMap` and `git`",
                    image.name
                );
                Observed::Failed(Problem { reason: Reason::InvalidSpec, message })
            }
        };
        Ok(ObservedSource { revision, folder: None })
    }

    /// Notes what the Dockerfile of a folder says, if that is needed.
    fn note_folder(&mut self, image: &Image, folder: &FolderRevision, reader: &DockerfileReader) {
        let version = reader.version(&folder.revision);
        if let Some(text) = &folder.dockerfile
            && dockerfile::is_needed(image)
            && !self.has_read(image, &version)
        {
            self.note_dockerfile(image, version, text, reader);
        }
    }

    async fn config_map_revision(
        &mut self,
        image: &Image,
        source: &ConfigMapSource,
        reader: &DockerfileReader,
    ) -> Result<Observed<String>, ReconcileError> {
        let name = &image.name;
        let key = Key::new(&self.key.namespace, &source.name);
        let Some(known) = self.context.stores.config_maps.get(&key) else {
            let message = format!(
                "spec.images[{name}].source.configMap: there is no ConfigMap {}/{}; create it or \
                 correct the name",
                key.namespace, key.name
            );
            return Ok(Observed::Failed(Problem { reason: Reason::SourceNotFound, message }));
        };
        // The items are part of what is read, so they are part of the version.
        let version =
            format!("{}/{:?}", known.resource_version().unwrap_or_default(), source.items);
        let text_version = reader.version(&version);
        let is_read = !dockerfile::is_needed(image) || self.has_read(image, &text_version);
        let cached = self.cache.config_maps.get(name);
        if let Some(cached) =
            cached.filter(|cached| cached.version == version && (is_read || cached.is_invalid()))
        {
            return Ok(cached.revision.clone());
        }
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let what = || format!("read ConfigMap {}/{}", key.namespace, key.name);
        let content = match call(what, api.get(&key.name)).await {
            Ok(content) => content,
            Err(error) if error.is_not_found() => return Ok(Observed::Pending),
            Err(error) => return Err(error),
        };
        let revision = match content_hash(&content, source) {
            Ok(hash) => Observed::Known(hash),
            Err(error) => {
                let message = format!(
                    "spec.images[{name}].source.configMap: {}/{}: {error}",
                    key.namespace, key.name
                );
                Observed::Failed(Problem { reason: Reason::SourceNotFound, message })
            }
        };
        match dockerfile_of(&content, source) {
            Some(text) if dockerfile::is_needed(image) => {
                self.note_dockerfile(image, text_version, &text, reader);
            }
            _ => {}
        }
        let cached = CachedRevision { version, revision: revision.clone() };
        self.cache.config_maps.insert(name.clone(), cached);
        Ok(revision)
    }

    /// Returns the folder of a Git source.
    fn git_folder(&self, image: &str, source: &GitSource) -> Observed<Arc<FolderRevision>> {
        let failed = |reason, problem: &dyn Display| {
            let message = format!("spec.images[{image}].source.git{problem}");
            Observed::Failed(Problem { reason, message })
        };
        let Ok(folder) = GitFolder::of(source) else { return Observed::Pending };
        let Some(polled) = self.context.revisions.latest(&self.git_key(source)) else {
            return Observed::Pending;
        };
        let answer = polled.value.as_ref().and_then(|answer| answer.folders.get(&folder));
        match (answer, &polled.problem) {
            (Some(Ok(folder)), _) => Observed::Known(Arc::clone(folder)),
            (Some(Err(error)), _) => failed(folder_reason(error), &format_args!(".{error}")),
            (None, Some(problem)) => failed(problem.reason, &format_args!(": {}", problem.message)),
            (None, None) => Observed::Pending,
        }
    }

    /// Returns the key by which the revision of a Git source is polled.
    pub(super) fn git_key(&self, source: &GitSource) -> GitKey {
        let version = source.secret_ref.as_ref().and_then(|secret| {
            let key = Key::new(&self.key.namespace, &secret.name);
            self.context.stores.secrets.get(&key)?.resource_version()
        });
        GitKey::new(&self.key.namespace, source, version)
    }
}

/// The source of an image, as a reconcile has read it.
#[derive(Clone, Debug)]
pub struct ObservedSource {
    /// The revision.
    pub revision: Observed<String>,
    /// The folder that has the revision, if that is known and the source is a Git repository.
    pub folder: Option<Arc<FolderRevision>>,
}

impl ObservedSource {
    fn of_folder(folder: Observed<Arc<FolderRevision>>) -> Self {
        match folder {
            Observed::Known(folder) => {
                let revision = Observed::Known(folder.revision.clone());
                Self { revision, folder: Some(folder) }
            }
            Observed::Pending => Self { revision: Observed::Pending, folder: None },
            Observed::Failed(problem) => Self { revision: Observed::Failed(problem), folder: None },
        }
    }
}

const fn folder_reason(error: &FolderError) -> Reason {
    match error {
        FolderError::NoFolder { .. }
        | FolderError::NoDockerfile { .. }
        | FolderError::NoMatch { .. } => Reason::SourceNotFound,
        FolderError::InvalidGlobs { .. } | FolderError::InvalidPattern { .. } => {
            Reason::InvalidSpec
        }
        FolderError::TooLarge { .. } => Reason::SourceUnavailable,
    }
}

/// Returns what the API server cannot reject of a Git source, so that it is not polled.
fn invalid_git_source(image: &str, source: &GitSource) -> Option<Problem> {
    let path = source.folder().err().map(|error| error.to_string());
    let globs = || Selection::verify(source).err().map(|error| error.to_string());
    let message = format!("spec.images[{image}]: {}", path.or_else(globs)?);
    Some(Problem { reason: Reason::InvalidSpec, message })
}

/// Returns the text of the Dockerfile in a `ConfigMap`.
fn dockerfile_of(content: &ConfigMap, source: &ConfigMapSource) -> Option<String> {
    let item = source.items.iter().find(|item| item.path == DOCKERFILE);
    let key = match item {
        Some(item) => item.key.as_str(),
        None if source.items.is_empty() => DOCKERFILE,
        None => return None,
    };
    let text = content.data.as_ref().and_then(|data| data.get(key));
    let binary = content.binary_data.as_ref().and_then(|data| data.get(key));
    let binary = binary.map(|value| String::from_utf8_lossy(&value.0).into_owned());
    text.cloned().or(binary)
}

/// Returns the hash of the files that a `ConfigMap` source becomes. `prepare` computes the same
/// hash inside the build.
fn content_hash(content: &ConfigMap, source: &ConfigMapSource) -> Result<String, ConfigMapError> {
    let data = content.data.clone().unwrap_or_default();
    let binary = content.binary_data.clone().unwrap_or_default();
    let binary = binary.into_iter().map(|(key, value)| (key, value.0)).collect();
    config_map_hash(&data, &binary, &source.items)
}
