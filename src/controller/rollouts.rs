//! Which images roll out in which namespaces, so that a changed workload triggers the images that
//! it concerns, and no others. No client is needed.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use kube::runtime::reflector::ObjectRef;

use crate::{
    api::{ManagedImage, Rollout, WorkloadKind},
    rollout::ChangedObject,
};

/// All workloads of one kind in one namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct WorkloadGroup {
    kind: WorkloadKind,
    namespace: String,
}

/// Images by the kinds and namespaces of the workloads that they roll out.
#[derive(Debug, Default)]
pub struct Rollouts(Mutex<HashMap<WorkloadGroup, HashSet<ObjectRef<ManagedImage>>>>);

impl Rollouts {
    /// Registers what an image rolls out, in place of what was registered before.
    pub fn register(&self, image: &ObjectRef<ManagedImage>, namespace: &str, rollouts: &[Rollout]) {
        let mut groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        groups.retain(|_, images| {
            images.remove(image);
            !images.is_empty()
        });
        for (kind, workload) in rollouts.iter().filter_map(Rollout::workload) {
            let namespace = workload.namespace.as_deref().unwrap_or(namespace);
            let group = WorkloadGroup { kind, namespace: namespace.into() };
            groups.entry(group).or_default().insert(image.clone());
        }
    }

    /// Forgets a deleted image.
    pub fn forget(&self, image: &ObjectRef<ManagedImage>) {
        self.register(image, "", &[]);
    }

    /// Returns the images that a change concerns.
    #[must_use]
    pub fn concerned(&self, changed: &ChangedObject) -> Vec<ObjectRef<ManagedImage>> {
        let groups = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_concerned = |group: &WorkloadGroup| match changed {
            ChangedObject::Workload(key) => {
                group.kind == key.kind && group.namespace == key.namespace
            }
            ChangedObject::Namespace(name) => group.namespace == *name,
        };
        let images = groups
            .iter()
            .filter(|(group, _)| is_concerned(group))
            .flat_map(|(_, images)| images.iter().cloned());
        let unique: HashSet<ObjectRef<ManagedImage>> = images.collect();
        unique.into_iter().collect()
    }
}
