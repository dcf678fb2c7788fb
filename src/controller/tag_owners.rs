//! Which family was the first to claim a tag of a repository, among all families of the cluster. No
//! client is needed.

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

/// The conflicts of a set of families. They are worked out again only when a family's spec has
/// changed, or when a family was created or deleted.
#[derive(Debug, Default)]
struct Conflicts {
    /// Hash of the uids and generations of the families.
    version: u64,
    /// By family, the first of its tags that an older family claims, too.
    of: HashMap<Key, Problem>,
}

impl TagOwners {
    /// Returns a problem with the first tag of this family that an older family claims, too.
    pub fn conflict(
        &self,
        family: &ImageFamily,
        families: &ObjectCache<ImageFamily>,
    ) -> Option<Problem> {
        let mut all = families.all();
        // The oldest family owns a tag. Names decide between two of the same second.
        all.sort_by_key(|family| (family.creation_timestamp(), Key::of(&**family)));
        let mut hasher = DefaultHasher::new();
        for family in &all {
            (family.uid(), family.metadata.generation).hash(&mut hasher);
        }
        let version = hasher.finish();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != version {
            *known = Conflicts { version, of: conflicts(&all) };
        }
        known.of.get(&Key::of(family)).cloned()
    }
}

/// Returns the conflicts of these families, which are sorted from the oldest to the newest.
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
