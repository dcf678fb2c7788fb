//! Which records belong to a family: those that it controls. What any other record says is not
//! believed. Pure.

use kube::{Resource, ResourceExt};

use crate::{
    api::{ImageFamily, ManagedImage},
    controller::object_cache::{Key, ObjectCache},
};

/// Who controls a record, by its owner references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordControl {
    /// The family.
    Family,
    /// Nobody, or a family that no longer exists.
    Nobody,
    /// Another object, with this kind and name.
    Other(String),
}

impl RecordControl {
    /// Returns who controls a record, from the point of view of a family.
    pub fn of<K: Resource>(
        record: &K,
        family: &ImageFamily,
        families: &ObjectCache<ImageFamily>,
    ) -> Self {
        let owners = record.owner_references();
        let Some(owner) = owners.iter().find(|owner| owner.controller == Some(true)) else {
            return Self::Nobody;
        };
        if Some(&owner.uid) == family.metadata.uid.as_ref() {
            return Self::Family;
        }
        let is_family = owner.kind == ImageFamily::kind(&())
            && owner.api_version.starts_with(&format!("{}/", ImageFamily::group(&())));
        let others = families.group(&Key::new(&record.namespace().unwrap_or_default(), ""));
        let exists = || others.iter().any(|other| other.uid().as_ref() == Some(&owner.uid));
        if is_family && !exists() {
            return Self::Nobody;
        }
        // Whether an object of another kind exists is not known here. If it does not, the garbage
        // collector deletes the record.
        Self::Other(format!("{} {}", owner.kind, owner.name))
    }
}

/// Returns whether a family controls an object.
pub fn is_controlled_by<K: Resource>(object: &K, family: &ImageFamily) -> bool {
    let mut owners = object.owner_references().iter();
    family
        .metadata
        .uid
        .as_ref()
        .is_some_and(|uid| owners.any(|owner| owner.controller == Some(true) && owner.uid == *uid))
}

/// Returns whether an object is the record of an image of a family: it has the name of that record,
/// and the family controls it.
#[must_use]
pub fn is_record_of(record: &ManagedImage, family: &ImageFamily) -> bool {
    let (name, family_name) = (&record.metadata.name, &family.metadata.name);
    let (name, family_name) =
        (name.as_deref().unwrap_or_default(), family_name.as_deref().unwrap_or_default());
    let image = name.strip_prefix(family_name).and_then(|rest| rest.strip_prefix('.'));
    image == Some(record.spec.image.as_str()) && is_controlled_by(record, family)
}

/// Returns the name of the record of an image.
#[must_use]
pub fn record_name(family: &str, image: &str) -> String {
    format!("{family}.{image}")
}

#[cfg(test)]
mod tests {
    use kube::runtime::watcher::Event;
    use serde_json::{Value, json};

    use super::*;
    use crate::controller::stores::Stores;

    fn family(name: &str, uid: &str) -> ImageFamily {
        let mut family = ImageFamily::new(name, crate::api::ImageFamilySpec::default());
        (family.metadata.namespace, family.metadata.uid) = (Some("shop".into()), Some(uid.into()));
        family
    }

    fn record(name: &str, owners: Value) -> ManagedImage {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "shop", "ownerReferences": owners},
            "spec": {"family": "web", "image": "app", "repository": "r.example.com/app"},
        }))
        .expect("a ManagedImage")
    }

    fn owner(api_version: &str, kind: &str, uid: &str) -> Value {
        json!({
            "apiVersion": api_version, "kind": kind, "name": "web", "uid": uid, "controller": true,
        })
    }

    #[test]
    fn a_record_belongs_to_the_family_that_controls_it() {
        let (web, stores) = (family("web", "8a7d"), Stores::default());
        for known in [web.clone(), family("other", "11f0")] {
            stores.families.observe("", Event::Apply(known));
        }
        let group = "groundswell.dev/v1alpha1";
        let mut no_controller = owner(group, "ImageFamily", "8a7d");
        no_controller["controller"] = json!(false);
        let other = |text: &str| RecordControl::Other(text.into());
        for (owners, expected) in [
            (json!([owner(group, "ImageFamily", "8a7d")]), RecordControl::Family),
            (json!([]), RecordControl::Nobody),
            (json!([no_controller]), RecordControl::Nobody),
            (json!([owner(group, "ImageFamily", "gone")]), RecordControl::Nobody),
            (json!([owner(group, "ImageFamily", "11f0")]), other("ImageFamily web")),
            (json!([owner("apps/v1", "Deployment", "gone")]), other("Deployment web")),
            (json!([owner("example.com/v1", "ImageFamily", "x")]), other("ImageFamily web")),
        ] {
            let record = record("web.app", owners.clone());
            assert_eq!(RecordControl::of(&record, &web, &stores.families), expected, "{owners}");
            assert_eq!(is_record_of(&record, &web), expected == RecordControl::Family, "{owners}");
        }
        let ours = json!([owner(group, "ImageFamily", "8a7d")]);
        assert!(!is_record_of(&record("planted", ours), &web), "the name says which image");
    }
}
