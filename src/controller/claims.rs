//! Which family was the first to claim a tag of a repository, over all families of the cluster.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use kube::ResourceExt;

use super::cache::{Cache, Key};
use crate::{
    api::{ImageFamily, condition::reason},
    engine::{Fault, validate::claims},
};

/// Owners of tags. Made anew only when a family's spec has changed, a family came or went.
#[derive(Debug, Default)]
pub struct Claims(Mutex<(u64, Arc<HashMap<String, Key>>)>);

impl Claims {
    /// The first tag of this family that an older family claims too.
    pub fn conflict(&self, family: &ImageFamily, families: &Cache<ImageFamily>) -> Option<Fault> {
        let owners = self.owners(families);
        let me = Key::of(family);
        claims(&family.spec).ok()?.into_iter().find_map(|(image, claim)| {
            let owner = owners.get(&claim).filter(|owner| **owner != me)?;
            let message = format!(
                "spec.images[{image}].tags: {claim} is already claimed by the family {}/{}, which is older; use another tag, `path` or `repository`",
                owner.namespace, owner.name
            );
            Some(Fault { reason: reason::TAG_COLLISION, message })
        })
    }

    fn owners(&self, families: &Cache<ImageFamily>) -> Arc<HashMap<String, Key>> {
        let mut all = families.all();
        // The oldest family owns a tag; names decide between two of the same second.
        all.sort_by_key(|family| (family.creation_timestamp(), Key::of(&**family)));
        let mut hasher = DefaultHasher::new();
        for family in &all {
            (family.uid(), family.metadata.generation).hash(&mut hasher);
        }
        let seen = hasher.finish();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != seen || all.is_empty() {
            let mut owners = HashMap::new();
            for family in &all {
                for (_, claim) in claims(&family.spec).unwrap_or_default() {
                    owners.entry(claim).or_insert_with(|| Key::of(&**family));
                }
            }
            *known = (seen, Arc::new(owners));
        }
        Arc::clone(&known.1)
    }
}
