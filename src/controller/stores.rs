//! What the watches have shown: a cache per kind.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{ResourceExt, core::PartialObjectMeta};

use crate::{
    api::{BuildStrategy, Cascade, ImageFamily, ManagedImage, labels},
    controller::object_cache::{Key, ObjectCache},
};

/// Objects as the watches have shown them, and as we have written them.
pub struct Stores {
    /// Families.
    pub families: Arc<ObjectCache<ImageFamily>>,
    /// Records of images, grouped by family.
    pub images: Arc<ObjectCache<ManagedImage>>,
    /// Records of cascades, grouped by family.
    pub cascades: Arc<ObjectCache<Cascade>>,
    /// Strategies.
    pub strategies: Arc<ObjectCache<BuildStrategy>>,
    /// Our Jobs, grouped by family.
    pub jobs: Arc<ObjectCache<Job>>,
    /// Our Jobs' Pods, grouped by family.
    pub pods: Arc<ObjectCache<Pod>>,
    /// Metadata of `ConfigMap`s; their content is read when it changes.
    pub config_maps: Arc<ObjectCache<PartialObjectMeta<ConfigMap>>>,
    /// Metadata of Secrets; their content is read when it changes.
    pub secrets: Arc<ObjectCache<PartialObjectMeta<Secret>>>,
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            families: Arc::new(ObjectCache::new(|family| Some(Key::new(&family.namespace()?, "")))),
            images: Arc::new(ObjectCache::new(|image| {
                Some(Key::new(&image.namespace()?, &image.spec.family))
            })),
            cascades: Arc::new(ObjectCache::new(|cascade| {
                Some(Key::new(&cascade.namespace()?, &cascade.spec.family))
            })),
            strategies: Arc::new(ObjectCache::new(|_| None)),
            jobs: Arc::new(ObjectCache::new(family_of)),
            pods: Arc::new(ObjectCache::new(family_of)),
            config_maps: Arc::new(ObjectCache::new(|_| None)),
            secrets: Arc::new(ObjectCache::new(|_| None)),
        }
    }
}

impl Stores {
    /// The kinds whose first listing has not ended.
    #[must_use]
    pub fn waiting_for(&self, scopes: &[String]) -> Vec<String> {
        let everywhere = [String::new()];
        let synced = [
            ("ImageFamily", self.families.synced(scopes)),
            ("ManagedImage", self.images.synced(scopes)),
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
