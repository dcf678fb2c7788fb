//! What the watches have shown: a cache per kind.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{ResourceExt, core::PartialObjectMeta};

use super::cache::{Cache, Key};
use crate::api::{BuildStrategy, Cascade, FamilyImage, ImageFamily, labels};

/// Objects as the watches have shown them, and as we have written them.
pub struct Caches {
    /// Families.
    pub families: Arc<Cache<ImageFamily>>,
    /// Records of images, grouped by family.
    pub images: Arc<Cache<FamilyImage>>,
    /// Records of waves, grouped by family.
    pub cascades: Arc<Cache<Cascade>>,
    /// Strategies.
    pub strategies: Arc<Cache<BuildStrategy>>,
    /// Our Jobs, grouped by family.
    pub jobs: Arc<Cache<Job>>,
    /// Our Jobs' Pods, grouped by family.
    pub pods: Arc<Cache<Pod>>,
    /// Metadata of `ConfigMap`s; their content is read when it changes.
    pub config_maps: Arc<Cache<PartialObjectMeta<ConfigMap>>>,
    /// Metadata of Secrets; their content is read when it changes.
    pub secrets: Arc<Cache<PartialObjectMeta<Secret>>>,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            families: Arc::new(Cache::new(|family| Some(Key::new(&family.namespace()?, "")))),
            images: Arc::new(Cache::new(|image| Some(Key::new(&image.namespace()?, &image.spec.family)))),
            cascades: Arc::new(Cache::new(|cascade| Some(Key::new(&cascade.namespace()?, &cascade.spec.family)))),
            strategies: Arc::new(Cache::new(|_| None)),
            jobs: Arc::new(Cache::new(family_of)),
            pods: Arc::new(Cache::new(family_of)),
            config_maps: Arc::new(Cache::new(|_| None)),
            secrets: Arc::new(Cache::new(|_| None)),
        }
    }
}

impl Caches {
    /// The kinds whose first listing has not ended.
    #[must_use]
    pub fn waiting_for(&self, scopes: &[String]) -> Vec<String> {
        let everywhere = [String::new()];
        let synced = [
            ("ImageFamily", self.families.synced(scopes)),
            ("FamilyImage", self.images.synced(scopes)),
            ("Cascade", self.cascades.synced(scopes)),
            ("BuildStrategy", self.strategies.synced(&everywhere)),
            ("Job", self.jobs.synced(scopes)),
            ("Pod", self.pods.synced(scopes)),
            ("ConfigMap", self.config_maps.synced(scopes)),
            ("Secret", self.secrets.synced(scopes)),
        ];
        synced.into_iter().filter(|(_, synced)| !synced).map(|(kind, _)| kind.to_owned()).collect()
    }
}

/// The family that an object of ours belongs to, by its label.
pub fn family_of<K: ResourceExt>(object: &K) -> Option<Key> {
    Some(Key::new(&object.namespace()?, object.labels().get(labels::FAMILY)?))
}
