//! Which families depend on images of which others, so that a change triggers the families that it
//! concerns, and no others. No client is needed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

use crate::{controller::object_cache::Key, lineage::families::ConsultedFamily};

/// Families by those that they depend on, directly or not.
#[derive(Debug, Default)]
pub struct Dependents(Mutex<HashMap<Key, BTreeMap<Key, BTreeSet<String>>>>);

impl Dependents {
    /// Registers what a family depends on, in place of what was registered before.
    pub fn register(&self, family: &Key, consulted: &[ConsultedFamily]) {
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

    /// Forgets a deleted family.
    pub fn forget(&self, family: &Key) {
        self.register(family, &[]);
    }

    /// Returns the families that depend on this one, whether it exists or not, sorted.
    #[must_use]
    pub fn of_family(&self, family: &Key) -> Vec<Key> {
        let dependents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        dependents.get(family).into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Returns the families that depend on this image of a family, sorted.
    #[must_use]
    pub fn of_image(&self, family: &Key, image: &str) -> Vec<Key> {
        let dependents = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_family = dependents.get(family).into_iter().flatten();
        of_family
            .filter(|(_, images)| images.contains(image))
            .map(|(dependent, _)| dependent.clone())
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
    fn a_change_concerns_the_families_that_depend_on_it() {
        let dependents = Dependents::default();
        let [base, web, shop] = ["base", "web", "shop"].map(|name| Key::new("ns", name));
        dependents.register(&web, &[on("base", &["alpine"])]);
        dependents.register(&shop, &[on("base", &["alpine", "python"]), on("web", &["app"])]);
        assert_eq!(dependents.of_family(&base), [&shop, &web].map(Key::clone));
        assert_eq!(dependents.of_image(&base, "python"), std::slice::from_ref(&shop));
        assert_eq!(dependents.of_image(&base, "go"), []);
        assert_eq!(dependents.of_family(&shop), []);
        dependents.register(&shop, &[on("web", &["app"])]);
        assert_eq!(
            dependents.of_family(&base),
            std::slice::from_ref(&web),
            "what was registered before is forgotten"
        );
        dependents.forget(&shop);
        assert_eq!(dependents.of_family(&web), []);
        assert_eq!(dependents.0.lock().expect("index").len(), 1);
    }
}
