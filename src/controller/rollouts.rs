//! Which images roll out in which namespaces, so that a changed workload wakes the images that it
//! concerns, and no others.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use kube::runtime::reflector::ObjectRef;

use crate::{
    api::{ManagedImage, Rollout, WorkloadKind},
    rollout::ChangedObject,
};

type Place = (WorkloadKind, String);

/// Images by the kinds and namespaces of the workloads that they roll out.
#[derive(Debug, Default)]
pub struct Rollouts(Mutex<HashMap<Place, HashSet<ObjectRef<ManagedImage>>>>);

impl Rollouts {
    /// Notes what an image rolls out, instead of what was noted of it before.
    pub fn follow(&self, image: &ObjectRef<ManagedImage>, namespace: &str, rollouts: &[Rollout]) {
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        places.retain(|_, images| {
            images.remove(image);
            !images.is_empty()
        });
        for (kind, workload) in rollouts.iter().filter_map(Rollout::workload) {
            let namespace = workload.namespace.as_deref().unwrap_or(namespace);
            places.entry((kind, namespace.into())).or_default().insert(image.clone());
        }
    }

    /// Forgets an image that is gone.
    pub fn forget(&self, image: &ObjectRef<ManagedImage>) {
        self.follow(image, "", &[]);
    }

    /// The images that a change concerns.
    #[must_use]
    pub fn concerned(&self, changed: &ChangedObject) -> Vec<ObjectRef<ManagedImage>> {
        let places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let concerns = |(kind, namespace): &Place| match changed {
            ChangedObject::Workload(key) => *kind == key.kind && *namespace == key.namespace,
            ChangedObject::Namespace(name) => namespace == name,
        };
        let images = places
            .iter()
            .filter(|(place, _)| concerns(place))
            .flat_map(|(_, images)| images.iter().cloned());
        let unique: HashSet<ObjectRef<ManagedImage>> = images.collect();
        unique.into_iter().collect()
    }
}
