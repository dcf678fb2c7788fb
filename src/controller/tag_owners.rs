//! Which family owns a tag of a repository, among all families of the cluster: the one that has
//! set it, or else the oldest that claims it. No client is needed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use kube::ResourceExt;

use crate::{
    api::{
        ImageFamily, ManagedImage,
        condition::{Reason, STALLED},
    },
    controller::{object_cache::Key, stores::Stores},
    engine::{
        Problem,
        validate::{TagClaim, claims},
    },
};

/// What the message of a conflict says before the namespace and the name of the owner.
const CLAIMED_BY: &str = " already claimed by the family ";

/// A repository and a tag of it.
type RepositoryTag = (String, String);

/// The tags of other families, each with its family, by repository.
pub type ForeignTags = HashMap<String, BTreeMap<String, String>>;

/// The families that claim a tag of another one.
#[derive(Debug, Default)]
pub struct TagOwners {
    conflicts: Mutex<Conflicts>,
    claimed: Mutex<ClaimedTags>,
}

/// The tags that the specs of families claim, rendered once per generation, by the family's uid.
#[derive(Debug, Default)]
struct ClaimedTags(HashMap<String, (Option<i64>, Arc<Vec<RepositoryTag>>)>);

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
        all.sort_by_key(|family| age(family));
        let mut hasher = DefaultHasher::new();
        for family in &all {
            (family.uid(), family.metadata.generation).hash(&mut hasher);
        }
        let version = hasher.finish();
        let mut known = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != version {
            *known = Conflicts { version, of: conflicts(&all, stores) };
        }
        known.of.get(&Key::of(family)).cloned()
    }

    /// Returns the tags of these repositories that belong to other families: those that they have
    /// set, and those that an older one claims, unless this family has set them. Tags that depend
    /// on labels are checked against them before they are set.
    pub fn foreign_tags(
        &self,
        family: &ImageFamily,
        repositories: &BTreeSet<&str>,
        stores: &Stores,
    ) -> ForeignTags {
        let mut found = ForeignTags::new();
        if repositories.is_empty() {
            return found;
        }
        let own = set_tags(family, stores);
        let all = stores.families.all();
        // Most families are elsewhere, and no tag of theirs is rendered.
        let is_other = |other: &&Arc<ImageFamily>| {
            other.uid() != family.uid() && has_any_below(repositories, &other.spec.repository)
        };
        let mut others: Vec<&Arc<ImageFamily>> = all.iter().filter(is_other).collect();
        others.sort_by_key(|other| age(other));
        let mut known = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget_deleted(all.len());
        for other in others {
            let is_older = age(other) < age(family);
            let claimed = if is_older { known.of(other) } else { Arc::default() };
            let unset = claimed.iter().filter(|tag| !own.contains(*tag));
            let owner = Key::of(&**other);
            for (repository, tag) in set_tags(other, stores).iter().chain(unset) {
                if repositories.contains(repository.as_str()) {
                    let tags = found.entry(repository.clone()).or_default();
                    let owner = || format!("{}/{}", owner.namespace, owner.name);
                    tags.entry(tag.clone()).or_insert_with(owner);
                }
            }
        }
        found
    }
}

impl ClaimedTags {
    fn of(&mut self, family: &ImageFamily) -> Arc<Vec<RepositoryTag>> {
        let uid = family.uid().unwrap_or_default();
        let generation = family.metadata.generation;
        if let Some((known, tags)) = self.0.get(&uid)
            && *known == generation
        {
            return Arc::clone(tags);
        }
        let claims = claims(&family.spec).unwrap_or_default().into_iter();
        let tags = Arc::new(claims.map(|claim| (claim.repository, claim.tag.name)).collect());
        self.0.insert(uid, (generation, Arc::clone(&tags)));
        tags
    }

    /// Clears the cache if it has more entries than there are families.
    fn forget_deleted(&mut self, families: usize) {
        if self.0.len() > families {
            self.0.clear();
        }
    }
}

/// The order in which families own what several of them claim. Names decide between two of the
/// same second.
fn age(family: &ImageFamily) -> impl Ord + use<> {
    (family.creation_timestamp(), Key::of(family))
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
        conditions.filter(|known| known.type_ == STALLED && known.reason == Reason::TagCollision);
    let message = &stalled.find(|known| known.status == "True")?.message;
    let mut unwatched = unwatched.into_iter();
    unwatched
        .any(|namespace| message.contains(&format!("{CLAIMED_BY}{namespace}/")))
        .then(|| Problem { reason: Reason::TagCollision, message: message.clone() })
}

/// Returns the tags below the repository of a family that its records say it has set.
fn set_tags(family: &ImageFamily, stores: &Stores) -> HashSet<RepositoryTag> {
    let uid = family.metadata.uid.as_ref();
    let is_owned = |record: &&Arc<ManagedImage>| {
        record.owner_references().iter().any(|owner| Some(&owner.uid) == uid)
            && is_below(&record.spec.repository, &family.spec.repository)
    };
    let records = stores.images.group(&Key::of(family));
    let of = |record: &Arc<ManagedImage>| {
        let tags = record.status.iter().flat_map(|status| &status.tags);
        tags.map(|known| (record.spec.repository.clone(), known.tag.clone())).collect::<Vec<_>>()
    };
    records.iter().filter(is_owned).flat_map(of).collect()
}

/// Whether a repository is below the repository of a family.
fn is_below(repository: &str, of_family: &str) -> bool {
    repository.strip_prefix(of_family).is_some_and(|path| path.starts_with('/'))
}

/// Whether any of these is below the repository of a family.
fn has_any_below(repositories: &BTreeSet<&str>, of_family: &str) -> bool {
    let folder = format!("{of_family}/");
    let next = repositories.range(folder.as_str()..).next();
    next.is_some_and(|repository| is_below(repository, of_family))
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
    Problem { reason: Reason::TagCollision, message }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const BASE: &str = "registry.example.com/base";

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

    /// Returns the tags of `registry.example.com/base` that are foreign to a family.
    fn foreign(owners: &TagOwners, stores: &Stores, name: &str) -> Vec<(String, String)> {
        let family = stores.families.get(&Key::new("team", name)).expect("a family");
        // One that no family has, and one that only looks like one of theirs.
        let repositories = [BASE, "registry.example.com/other", "registry.example.community/base"];
        let mut found = owners.foreign_tags(&family, &repositories.into(), stores);
        let tags = found.remove(BASE).unwrap_or_default();
        assert!(found.is_empty(), "{found:?}");
        tags.into_iter().collect()
    }

    #[test]
    fn what_others_have_set_is_foreign_and_what_only_an_older_one_claims() {
        let stores = Stores::default();
        let owners = TagOwners::default();
        let of = |tag: &str, owner: &str| (tag.to_owned(), format!("team/{owner}"));
        add_family(&stores, "old", 1);
        add_family(&stores, "new", 2);
        assert_eq!(foreign(&owners, &stores, "old"), [], "a bare claim of a newer family");
        assert_eq!(foreign(&owners, &stores, "new"), [of("latest", "old")]);

        add_record(&stores, "new", BASE, "1.2", 1);
        assert_eq!(foreign(&owners, &stores, "old"), [of("1.2", "new")]);

        // A label has given the tag to the newer family before the older one claimed it.
        add_record(&stores, "new", BASE, "latest", 2);
        assert_eq!(foreign(&owners, &stores, "new"), []);
        assert_eq!(foreign(&owners, &stores, "old"), [of("latest", "new")]);

        // Both have set it.
        add_record(&stores, "old", BASE, "latest", 1);
        assert_eq!(foreign(&owners, &stores, "new"), [of("latest", "old")]);
        assert_eq!(foreign(&owners, &stores, "old"), [of("latest", "new")]);
    }

    #[test]
    fn claims_are_rendered_once_per_generation() {
        let stores = Stores::default();
        let owners = TagOwners::default();
        add_family(&stores, "old", 1);
        add_family(&stores, "new", 2);
        let known = |of: &str| {
            let family = stores.families.get(&Key::new("team", of)).expect("a family");
            let mut family = ImageFamily::clone(&family);
            move |generation: i64, tag: &str| {
                family.metadata.generation = Some(generation);
                family.spec.images[0].tags = vec![tag.into()];
                let claimed = owners.claimed.lock().expect("no panic").of(&family);
                claimed.iter().map(|(_, tag)| tag.clone()).collect::<Vec<_>>()
            }
        };
        let mut of_old = known("old");
        assert_eq!(of_old(1, "a"), ["a"]);
        assert_eq!(of_old(1, "b"), ["a"], "the same generation");
        assert_eq!(of_old(2, "b"), ["b"]);
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
            "reason": Reason::TagCollision.as_str(), "message": message,
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
