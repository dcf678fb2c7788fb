//! Which family owns a tag of a repository, among all families of the cluster: the one that has
//! set it, or else the oldest that claims it. No client is needed.

use std::{
    collections::{BTreeMap, HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use kube::ResourceExt;

use crate::{
    api::{
        ImageFamily, ManagedImage,
        condition::{STALLED, reason},
    },
    controller::{object_cache::Key, stores::Stores},
    engine::{
        Problem,
        validate::{TagClaim, claims},
    },
};

/// What the message of a conflict says before the namespace and the name of the owner.
const CLAIMED_BY: &str = " already claimed by the family ";

/// The families that claim a tag of another one.
#[derive(Debug, Default)]
pub struct TagOwners(Mutex<Conflicts>);

/// The conflicts of a set of families. They are worked out again only when a family's spec has
/// changed, or when a family was created or deleted.
#[derive(Debug, Default)]
struct Conflicts {
    /// Hash of the uids and generations of the families.
    version: u64,
    /// By family, the first of its tags that belongs to another family.
    of: HashMap<Key, Problem>,
}

impl TagOwners {
    /// Returns a problem with the first tag of this family that belongs to another family.
    pub fn conflict(&self, family: &ImageFamily, stores: &Stores) -> Option<Problem> {
        let mut all = stores.families.all();
        // Names decide between two of the same second.
        all.sort_by_key(|family| (family.creation_timestamp(), Key::of(&**family)));
        let mut hasher = DefaultHasher::new();
        for family in &all {
            (family.uid(), family.metadata.generation).hash(&mut hasher);
        }
        let version = hasher.finish();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != version {
            *known = Conflicts { version, of: conflicts(&all, stores) };
        }
        known.of.get(&Key::of(family)).cloned()
    }
}

/// Returns the conflict that a family has had with one in a namespace that cannot be watched now.
/// It goes on: that the other family is not found does not mean that it has given up the tag.
#[must_use]
pub fn unresolved_conflict<'a>(
    family: &ImageFamily,
    unwatched: impl IntoIterator<Item = &'a String>,
) -> Option<Problem> {
    let conditions = family.status.iter().flat_map(|status| &status.conditions);
    let mut stalled =
        conditions.filter(|known| known.type_ == STALLED && known.reason == reason::TAG_COLLISION);
    let message = &stalled.find(|known| known.status == "True")?.message;
    let mut unwatched = unwatched.into_iter();
    unwatched
        .any(|namespace| message.contains(&format!("{CLAIMED_BY}{namespace}/")))
        .then(|| Problem { reason: reason::TAG_COLLISION, message: message.clone() })
}

/// Returns the tags of a repository that other families claim or have set, each with its family.
/// Tags that depend on labels are checked against them before they are set.
#[must_use]
pub fn foreign_tags(
    family: &ImageFamily,
    repository: &str,
    stores: &Stores,
) -> BTreeMap<String, String> {
    let mut tags = BTreeMap::new();
    let others = stores.families.all().into_iter().filter(|other| other.uid() != family.uid());
    // Most families are elsewhere, and no tag of theirs is rendered.
    for other in others.filter(|other| is_below(repository, &other.spec.repository)) {
        let owner = Key::of(&*other);
        let claims = claims(&other.spec).unwrap_or_default().into_iter();
        let claimed = claims.filter(|claim| claim.repository == repository);
        let records = stores.images.group(&owner);
        let is_set = |record: &&Arc<ManagedImage>| {
            let mut owners = record.owner_references().iter();
            record.spec.repository == repository
                && owners.any(|owner| Some(&owner.uid) == other.metadata.uid.as_ref())
        };
        let records = records.iter().filter(is_set);
        let set = records.flat_map(|record| record.status.iter().flat_map(|status| &status.tags));
        let names = claimed.map(|claim| claim.tag.name).chain(set.map(|known| known.tag.clone()));
        for name in names {
            tags.entry(name).or_insert_with(|| format!("{}/{}", owner.namespace, owner.name));
        }
    }
    tags
}

/// Whether a repository is below the repository of a family.
fn is_below(repository: &str, of_family: &str) -> bool {
    repository.strip_prefix(of_family).is_some_and(|path| path.starts_with('/'))
}

/// A family that claims a tag.
struct Claimant<'a> {
    family: &'a ImageFamily,
    claim: TagClaim<'a>,
}

/// Returns the conflicts of these families, which are sorted from the oldest to the newest.
///
/// Age alone does not decide: whoever owns an old family could add somebody else's tag to it, and
/// stall the family that has pushed there all along.
fn conflicts(all: &[Arc<ImageFamily>], stores: &Stores) -> HashMap<Key, Problem> {
    let mut claimants: HashMap<String, Vec<Claimant<'_>>> = HashMap::new();
    // The tags in the order of families and images, so that each family reports its first one.
    let mut tags = Vec::new();
    for family in all {
        for claim in claims(&family.spec).unwrap_or_default() {
            let tag = claim.reference();
            let claimed = claimants.entry(tag.clone()).or_default();
            if claimed.iter().all(|known| !std::ptr::eq(known.family, Arc::as_ptr(family))) {
                claimed.push(Claimant { family, claim });
                tags.push(tag);
            }
        }
    }
    let mut found = HashMap::new();
    for tag in tags {
        let claimed = claimants.get(&tag).map_or(&[][..], Vec::as_slice);
        let [first, _, ..] = claimed else { continue };
        let holder = claimed.iter().find(|known| known.has_set_tag(stores));
        let owner = holder.unwrap_or(first);
        for other in claimed.iter().filter(|other| !std::ptr::eq(*other, owner)) {
            let why = if holder.is_some() { "has pushed it" } else { "is older" };
            let problem = || collision(&tag, other, owner, why);
            found.entry(Key::of(other.family)).or_insert_with(problem);
        }
    }
    found
}

impl Claimant<'_> {
    /// Whether the record of the image says that the family has set the tag, or has pushed to the
    /// repository if the tag names the build.
    fn has_set_tag(&self, stores: &Stores) -> bool {
        let TagClaim { image, repository, tag } = &self.claim;
        let uid = self.family.metadata.uid.as_ref();
        let is_record = |record: &ManagedImage| {
            let mut owners = record.owner_references().iter();
            record.spec.image == **image
                && record.spec.repository == *repository
                && owners.any(|owner| Some(&owner.uid) == uid)
        };
        let has_set = |record: &ManagedImage| {
            record.status.as_ref().is_some_and(|status| {
                let is_recorded = || status.tags.iter().any(|known| known.tag == tag.name);
                if tag.immutable { status.digest.is_some() } else { is_recorded() }
            })
        };
        let records = stores.images.group(&Key::of(self.family));
        records.iter().any(|record| is_record(record) && has_set(record))
    }
}

fn collision(tag: &str, other: &Claimant<'_>, owner: &Claimant<'_>, why: &str) -> Problem {
    let (image, owner) = (other.claim.image, Key::of(owner.family));
    let message = format!(
        "spec.images[{image}].tags: {tag} is{CLAIMED_BY}{}/{}, which {why}; use another tag, \
         `path` or `repository`",
        owner.namespace, owner.name
    );
    Problem { reason: reason::TAG_COLLISION, message }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Adds a family that claims `registry.example.com/base:latest`, created in this second.
    fn add_family(stores: &Stores, name: &str, second: u32) {
        let family: Value = json!({
            "apiVersion": "groundswell.dev/v1alpha1",
            "kind": "ImageFamily",
            "metadata": {"name": name, "namespace": "team", "uid": name, "generation": 1,
                "resourceVersion": "1",
                "creationTimestamp": format!("2026-01-01T00:00:{second:02}Z")},
            "spec": {"repository": "registry.example.com",
                "upstreams": [{"name": "up", "image": "a", "follow": {"tag": "1"}}],
                "images": [{"name": "base", "from": [{"upstream": "up"}], "tags": ["latest"],
                    "source": {"inline": "FROM a"}}]}});
        stores.families.record_write(serde_json::from_value(family).expect("a family"));
    }

    /// Records that a family has set this tag in this repository.
    fn add_record(stores: &Stores, family: &str, repository: &str, tag: &str, version: u32) {
        let record: Value = json!({
            "apiVersion": "groundswell.dev/v1alpha1",
            "kind": "ManagedImage",
            "metadata": {"name": format!("{family}.base"), "namespace": "team",
                "resourceVersion": version.to_string(),
                "ownerReferences": [{"apiVersion": "groundswell.dev/v1alpha1",
                    "kind": "ImageFamily", "name": family, "uid": family, "controller": true}]},
            "spec": {"family": family, "image": "base", "repository": repository, "level": 1},
            "status": {"digest": "sha256:00", "tags": [{"tag": tag, "digest": "sha256:00"}]}});
        stores.images.record_write(serde_json::from_value(record).expect("a record"));
    }

    /// Returns the message of a family in conflict.
    fn problem_of(stores: &Stores, name: &str) -> Option<String> {
        let family = stores.families.get(&Key::new("team", name)).expect("a family");
        TagOwners::default().conflict(&family, stores).map(|problem| problem.message)
    }

    #[test]
    fn the_tags_of_other_families_are_those_that_they_claim_or_have_set() {
        let stores = Stores::default();
        add_family(&stores, "old", 1);
        add_family(&stores, "new", 2);
        add_record(&stores, "new", "registry.example.com/base", "1.2", 1);
        let family = stores.families.get(&Key::new("team", "old")).expect("a family");
        let foreign = |repository: &str| foreign_tags(&family, repository, &stores);
        let new = || "team/new".to_owned();
        let expected = [("1.2".to_owned(), new()), ("latest".to_owned(), new())];
        assert_eq!(foreign("registry.example.com/base"), BTreeMap::from(expected));
        assert_eq!(foreign("registry.example.com/other"), BTreeMap::new());
        assert_eq!(foreign("registry.example.community/base"), BTreeMap::new());
    }

    #[test]
    fn a_tag_belongs_to_the_family_that_has_set_it_and_else_to_the_oldest() {
        let stores = Stores::default();
        add_family(&stores, "old", 1);
        add_family(&stores, "new", 2);
        assert_eq!(problem_of(&stores, "old"), None);
        let message = problem_of(&stores, "new").unwrap_or_default();
        assert!(message.contains("team/old, which is older"), "{message}");

        add_record(&stores, "new", "registry.example.com/base", "latest", 1);
        assert_eq!(problem_of(&stores, "new"), None);
        let message = problem_of(&stores, "old").unwrap_or_default();
        assert!(message.contains("team/new, which has pushed it"), "{message}");

        // Its owner's namespace cannot be watched: the owner is not found, and still has the tag.
        let stalled = json!({"conditions": [{"type": "Stalled", "status": "True",
            "reason": reason::TAG_COLLISION, "message": message,
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
        let old = stores.families.get(&Key::new("team", "old")).expect("a family");
        let mut old = ImageFamily::clone(&old);
        old.status = serde_json::from_value(stalled).expect("a status");
        let unresolved = |family: &ImageFamily, unwatched: &str| {
            unresolved_conflict(family, &[unwatched.to_owned()]).map(|problem| problem.message)
        };
        assert_eq!(unresolved(&old, "team"), Some(message));
        assert_eq!(unresolved(&old, "tea"), None, "the owner is elsewhere");
        old.status = None;
        assert_eq!(unresolved(&old, "team"), None);

        // Another tag, or one of another repository, is no claim to this one.
        for (version, repository, tag) in
            [(2, "registry.example.com/base", "edge"), (3, "elsewhere.example.com/base", "latest")]
        {
            add_record(&stores, "new", repository, tag, version);
            assert_eq!(problem_of(&stores, "old"), None, "{repository}:{tag}");
        }
    }
}
