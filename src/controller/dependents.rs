//! Which families stand on images of which others, so that a change there wakes those that it
//! concerns, and no others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use crate::{controller::object_cache::Key, lineage::families::ConsultedFamily};

/// Families by those that they stand on, directly or not.
#[derive(Debug, Default)]
pub struct Dependents(Mutex<HashMap<Key, BTreeMap<Key, BTreeSet<String>>>>);

impl Dependents {
    /// Notes what a family stands on, instead of what was noted of it before.
    pub fn follow(&self, family: &Key, consulted: &[ConsultedFamily]) {
        let mut dependents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dependents.retain(|_, of| {
            of.remove(family);
            !of.is_empty()
        });
        for above in consulted {
            let key = Key::new(&above.family.namespace, &above.family.name);
            dependents.entry(key).or_default().insert(family.clone(), above.images.clone());
        }
    }

    /// Forgets a family that is gone.
    pub fn forget(&self, family: &Key) {
        self.follow(family, &[]);
    }

    /// The families that stand on this one, or would if it were there, sorted.
    #[must_use]
    pub fn of_family(&self, family: &Key) -> Vec<Key> {
        let dependents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dependents.get(family).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// The families that stand on this image of a family, sorted.
    #[must_use]
    pub fn of_image(&self, family: &Key, image: &str) -> Vec<Key> {
        let dependents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_family = dependents.get(family).into_iter().flatten();
        of_family
            .filter(|(_, images)| images.contains(image))
            .map(|(importer, _)| importer.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lineage::families::FamilyName;

    fn on(family: &str, images: &[&str]) -> ConsultedFamily {
        let family = FamilyName { namespace: "ns".into(), name: family.into() };
        ConsultedFamily {
            family,
            version: None,
            images: images.iter().map(|image| (*image).to_owned()).collect(),
        }
    }

    #[test]
    fn those_are_woken_that_stand_on_what_has_changed() {
        let dependents = Dependents::default();
        let [base, web, shop] = ["base", "web", "shop"].map(|name| Key::new("ns", name));
        dependents.follow(&web, &[on("base", &["alpine"])]);
        dependents.follow(&shop, &[on("base", &["alpine", "python"]), on("web", &["app"])]);
        assert_eq!(dependents.of_family(&base), [&shop, &web].map(Key::clone));
        assert_eq!(dependents.of_image(&base, "python"), std::slice::from_ref(&shop));
        assert_eq!(dependents.of_image(&base, "go"), []);
        assert_eq!(dependents.of_family(&shop), []);
        dependents.follow(&shop, &[on("web", &["app"])]);
        assert_eq!(
            dependents.of_family(&base),
            std::slice::from_ref(&web),
            "what was noted before \
            is forgotten"
        );
        dependents.forget(&shop);
        assert_eq!(dependents.of_family(&web), []);
        assert_eq!(dependents.0.lock().expect("index").len(), 1);
    }
}
