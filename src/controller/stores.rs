//! The objects of the cluster, in a store per kind.

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

/// Objects as the watches have shown them and as we have written them.
pub struct Stores {
    /// The families, grouped by namespace.
    pub families: Arc<ObjectCache<ImageFamily>>,
    /// The records of images, grouped by family.
    pub images: Arc<ObjectCache<ManagedImage>>,
    /// The records of cascades, grouped by family.
    pub cascades: Arc<ObjectCache<Cascade>>,
    /// The build strategies.
    pub strategies: Arc<ObjectCache<BuildStrategy>>,
    /// The Jobs of builds and checks, grouped by family.
    pub jobs: Arc<ObjectCache<Job>>,
    /// The Pods of these Jobs, grouped by family.
    pub pods: Arc<ObjectCache<Pod>>,
    /// The outlines of `ConfigMap`s. Their content is read when it changes.
    pub config_maps: Arc<ObjectCache<PartialObjectMeta<ConfigMap>>>,
    /// The outlines of Secrets. Their content is read when it changes.
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
    /// Returns whether the first listing of the strategies is complete.
    #[must_use]
    pub fn strategies_synced(&self) -> bool {
        self.strategies.synced(&[String::new()])
    }

    /// Returns whether the first listing of everything in a scope is complete.
    #[must_use]
    pub fn is_filled(&self, scope: &str) -> bool {
        self.waiting_for(&[scope.to_owned()]).is_empty()
    }

    /// Returns the kinds whose first listing is not complete.
    #[must_use]
    pub fn waiting_for(&self, scopes: &[String]) -> Vec<String> {
        let synced = [
            ("ImageFamily", self.families.synced(scopes)),
            ("ManagedImage", self.images.synced(scopes)),
            ("Cascade", self.cascades.synced(scopes)),
            ("BuildStrategy", self.strategies_synced()),
            ("Job", self.jobs.synced(scopes)),
            ("Pod", self.pods.synced(scopes)),
            ("ConfigMap", self.config_maps.synced(scopes)),
            ("Secret", self.secrets.synced(scopes)),
        ];
        synced.into_iter().filter(|(_, synced)| !synced).map(|(kind, _)| kind.to_owned()).collect()
    }
}

/// Returns the family that an object belongs to, by its label.
pub fn family_of<K: ResourceExt>(object: &K) -> Option<Key> {
    Some(Key::new(&object.namespace()?, object.labels().get(labels::FAMILY)?))
}
