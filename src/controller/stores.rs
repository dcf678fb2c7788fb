//! The objects of the cluster, in a store per kind.

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{Resource, ResourceExt, core::PartialObjectMeta};

use crate::{
    api::{BuildStrategy, Cascade, FamilyRequest, ImageFamily, ManagedImage, labels},
    controller::object_cache::{Key, ObjectCache},
    engine::expansion::expand,
};

/// Objects as the watches have shown them and as we have written them.
pub struct Stores {
    /// The families, grouped by namespace. Their specs are expanded, so that every reader sees
    /// plain images.
    pub families: Arc<ObjectCache<ImageFamily>>,
    /// The records of images, grouped by family.
    pub images: Arc<ObjectCache<ManagedImage>>,
    /// The records of cascades, grouped by family.
    pub cascades: Arc<ObjectCache<Cascade>>,
    /// The requests of users, grouped by family.
    pub requests: Arc<ObjectCache<FamilyRequest>>,
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
            families: Arc::new(
                ObjectCache::new(|family: &ImageFamily| Some(Key::new(&family.namespace()?, "")))
                    .with_preparation(expanded),
            ),
            images: Arc::new(ObjectCache::new(|image| {
                Some(Key::new(&image.namespace()?, &image.spec.family))
            })),
            cascades: Arc::new(ObjectCache::new(|cascade| {
                Some(Key::new(&cascade.namespace()?, &cascade.spec.family))
            })),
            requests: Arc::new(ObjectCache::new(|request| {
                Some(Key::new(&request.namespace()?, &request.spec.family))
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
            ("FamilyRequest", self.requests.synced(scopes)),
            ("BuildStrategy", self.strategies_synced()),
            ("Job", self.jobs.synced(scopes)),
            ("Pod", self.pods.synced(scopes)),
            ("ConfigMap", self.config_maps.synced(scopes)),
            ("Secret", self.secrets.synced(scopes)),
        ];
        synced.into_iter().filter(|(_, synced)| !synced).map(|(kind, _)| kind.to_owned()).collect()
    }
}

/// Returns a family with its spec expanded. Each generation is expanded once.
fn expanded(mut family: ImageFamily, known: Option<&ImageFamily>) -> ImageFamily {
    let generation = |family: &ImageFamily| (family.uid(), family.metadata.generation);
    family.spec = match known.filter(|known| generation(known) == generation(&family)) {
        Some(known) if known.metadata.generation.is_some() => known.spec.clone(),
        _ => expand(family.spec),
    };
    family
}

/// Returns a store of objects of which only the changes matter.
#[must_use]
pub fn outlines<K>() -> Arc<ObjectCache<PartialObjectMeta<K>>>
where
    PartialObjectMeta<K>: Resource,
{
    Arc::new(ObjectCache::new(|_| None))
}

/// Returns the family that an object belongs to, by its label.
pub fn family_of<K: ResourceExt>(object: &K) -> Option<Key> {
    Some(Key::new(&object.namespace()?, object.labels().get(labels::FAMILY)?))
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::json;

    use super::*;

    fn family(generation: i64, version: &str, values: &[&str]) -> ImageFamily {
        let image = json!({"name": "a", "from": [], "matrix": {"v": values},
            "source": {"inline": "FROM scratch"}});
        serde_json::from_value(json!({
            "metadata": {"name": "f", "namespace": "ns", "uid": "1", "generation": generation,
                "resourceVersion": version},
            "spec": {"repository": "registry.example.com/a", "images": [image]},
        }))
        .expect("a family")
    }

    #[test]
    fn a_stored_family_is_expanded_once_per_generation() {
        let stores = Stores::default();
        let names = || {
            let family = stores.families.get(&Key::new("ns", "f")).expect("a family");
            let names = family.spec.images.iter().map(|image| image.name.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        let events = stores.families.observe("", Event::Apply(family(1, "1", &["x", "y"])));
        assert_eq!(events[0].object().spec.images.len(), 2, "those who watch see it expanded");
        assert_eq!(names(), "a-x a-y");
        // Nobody changes a spec without its generation; here it shows what is not done again.
        stores.families.record_write(family(1, "2", &["z"]));
        assert_eq!(names(), "a-x a-y");
        stores.families.record_write(family(2, "3", &["z"]));
        assert_eq!(names(), "a-z");
        let mut recreated = family(2, "4", &["w"]);
        recreated.metadata.uid = Some("2".into());
        stores.families.observe("", Event::Apply(recreated));
        assert_eq!(names(), "a-w", "it is another family of this name");
    }
}
