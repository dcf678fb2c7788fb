//! Which family was the first to claim a tag of a repository, over all families of the cluster.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use kube::ResourceExt;

use crate::{
    api::{ImageFamily, condition::reason},
    controller::object_cache::{Key, ObjectCache},
    engine::{Problem, validate::claims},
};

/// The families that claim a tag of an older one.
#[derive(Debug, Default)]
pub struct TagOwners(Mutex<Conflicts>);

/// Made anew only when a family's spec has changed, a family came or went.
#[derive(Debug, Default)]
struct Conflicts {
    /// Which specs these are.
    seen: u64,
    /// The first tag of a family that an older one claims too.
    of: HashMap<Key, Problem>,
}

impl TagOwners {
    /// The first tag of this family that an older family claims too.
    pub fn conflict(
        &self,
        family: &ImageFamily,
        families: &ObjectCache<ImageFamily>,
    ) -> Option<Problem> {
        let mut all = families.all();
        // The oldest family owns a tag; names decide between two of the same second.
        all.sort_by_key(|family| (family.creation_timestamp(), Key::of(&**family)));
        let mut hasher = DefaultHasher::new();
        for family in &all {
            (family.uid(), family.metadata.generation).hash(&mut hasher);
        }
        let seen = hasher.finish();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.seen != seen {
            *known = Conflicts { seen, of: conflicts(&all) };
        }
        known.of.get(&Key::of(family)).cloned()
    }
}

/// The conflicts of these families, the oldest of which comes first.
fn conflicts(all: &[Arc<ImageFamily>]) -> HashMap<Key, Problem> {
    let mut owners: HashMap<String, Key> = HashMap::new();
    let mut found = HashMap::new();
    for family in all {
        let me = Key::of(&**family);
        for (image, claim) in claims(&family.spec).unwrap_or_default() {
            let Some(owner) = owners.get(&claim) else {
                owners.insert(claim, me.clone());
                continue;
            };
            if *owner != me && !found.contains_key(&me) {
                let message = format!(
                    "spec.images[{image}].tags: {claim} is already claimed by the family {}/{}, \
                     which is older; use another tag, `path` or `repository`",
                    owner.namespace, owner.name
                );
                found.insert(me.clone(), Problem { reason: reason::TAG_COLLISION, message });
            }
        }
    }
    found
}
