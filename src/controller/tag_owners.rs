//! Which family owns a tag of a repository, among all families of the cluster: the one that has
//! set it, or else the first that claims it. And which images name a repository that the operator
//! does not allow their namespace. No client is needed.
//!
//! Repositories are compared as registries understand them, so that another spelling is no other
//! tag. A suspended family claims a tag only if nobody else does, because it sets none.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::{
    api::{
        ImageFamily, ManagedImage,
        condition::{Reason, STALLED},
    },
    controller::{object_cache::Key, repository_rules::RepositoryRules, stores::Stores},
    engine::{
        Problem,
        blueprint::repository,
        validate::{TagClaim, claims},
    },
    rollout::{normalize_folder, normalize_repository},
};

/// What the message of a conflict says before the owner.
const CLAIMED_BY: &str = " already claimed by ";
/// How a message names an owner in another namespace: whose tag it is concerns nobody.
const ELSEWHERE: &str = "a family of another namespace";

/// A repository, normalized, and a tag of it.
type RepositoryTag = (String, String);

/// The tags of other families, each with its family, by repository.
pub type ForeignTags = HashMap<String, BTreeMap<String, String>>;

/// Why images cannot have the tags or the repository that they name, by image.
pub type ClaimProblems = BTreeMap<String, Problem>;

/// The families that claim a tag of another one, or a repository that they may not name.
#[derive(Debug, Default)]
pub struct TagOwners {
    rules: RepositoryRules,
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
    /// By family, its images whose first tags belong to other families.
    of: HashMap<Key, ClaimProblems>,
}

impl TagOwners {
    /// Returns the owners under the operator's rules.
    #[must_use]
    pub fn new(rules: RepositoryRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Returns the problems of the images of this family that name a repository that is not
    /// allowed, or a tag that belongs to another family.
    pub fn problems(&self, family: &ImageFamily, stores: &Stores) -> ClaimProblems {
        let namespace = family.namespace().unwrap_or_default();
        let mut problems = self.conflicts(family, stores);
        for image in &family.spec.images {
            let repository = repository(&family.spec, image);
            if let Some(refusal) = self.rules.refusal(&namespace, &image.name, &repository) {
                problems.insert(image.name.clone(), refusal);
            }
        }
        problems
    }

    fn conflicts(&self, family: &ImageFamily, stores: &Stores) -> ClaimProblems {
        let mut all = stores.families.all();
        all.sort_by_key(|family| precedence(family));
        let mut hasher = DefaultHasher::new();
        for family in &all {
            (family.uid(), family.metadata.generation).hash(&mut hasher);
        }
        let version = hasher.finish();
        let mut known = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != version {
            *known = Conflicts { version, of: conflicts(&all, stores, &self.rules) };
        }
        known.of.get(&Key::of(family)).cloned().unwrap_or_default()
    }

    /// Returns the tags of these repositories that belong to other families: those that they have
    /// set, and those that an earlier one claims, unless this family has set them. Tags that depend
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
        // Two spellings of one repository are two keys.
        let mut spellings: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for repository in repositories {
            spellings.entry(normalize_repository(repository)).or_default().push(repository);
        }
        let own = set_tags(family, stores);
        let all = stores.families.all();
        // Most families are elsewhere, and no tag of theirs is rendered.
        let is_other = |other: &&Arc<ImageFamily>| {
            other.uid() != family.uid() && has_any_below(&spellings, &other.spec.repository)
        };
        let mut others: Vec<&Arc<ImageFamily>> = all.iter().filter(is_other).collect();
        others.sort_by_key(|other| precedence(other));
        let mut known = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        known.forget_deleted(all.len());
        for other in others {
            let is_earlier = precedence(other) < precedence(family);
            let claimed = if is_earlier { known.of(other, &self.rules) } else { Arc::default() };
            let unset = claimed.iter().filter(|tag| !own.contains(*tag));
            for (repository, tag) in set_tags(other, stores).iter().chain(unset) {
                for spelling in spellings.get(repository).into_iter().flatten() {
                    let tags = found.entry((*spelling).to_owned()).or_default();
                    tags.entry(tag.clone()).or_insert_with(|| shown_to(family, other));
                }
            }
        }
        found
    }
}

impl ClaimedTags {
    fn of(&mut self, family: &ImageFamily, rules: &RepositoryRules) -> Arc<Vec<RepositoryTag>> {
        let uid = family.uid().unwrap_or_default();
        let generation = family.metadata.generation;
        if let Some((known, tags)) = self.0.get(&uid)
            && *known == generation
        {
            return Arc::clone(tags);
        }
        let claims = allowed_claims(family, rules).into_iter();
        let tag = |claim: TagClaim<'_>| (normalize_repository(&claim.repository), claim.tag.name);
        let tags = Arc::new(claims.map(tag).collect());
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

/// The order in which families own what several of them claim and none has set. The uid decides
/// between two of the same second: unlike a name, nobody chooses it.
fn precedence(family: &ImageFamily) -> impl Ord + use<> {
    (family.spec.suspend, family.creation_timestamp(), family.uid())
}

/// Returns the claims of a family, without those to repositories that it may not name.
fn allowed_claims<'a>(family: &'a ImageFamily, rules: &RepositoryRules) -> Vec<TagClaim<'a>> {
    let namespace = family.namespace().unwrap_or_default();
    let mut claims = claims(&family.spec).unwrap_or_default();
    claims.retain(|claim| rules.allows(&namespace, &claim.repository));
    claims
}

/// Returns how a message to one family names another.
fn shown_to(family: &ImageFamily, owner: &ImageFamily) -> String {
    let Key { namespace, name } = Key::of(owner);
    if family.namespace().as_ref() == Some(&namespace) {
        format!("the family {namespace}/{name}")
    } else {
        ELSEWHERE.to_owned()
    }
}

/// Returns the conflicts that the images of a family have had with one in another namespace. They
/// go on while a namespace cannot be watched: that the other family is not found does not mean that
/// it has given up the tag.
pub fn unresolved_conflicts<'a>(
    family: &ImageFamily,
    records: impl IntoIterator<Item = &'a ManagedImage>,
) -> ClaimProblems {
    let claims = claims(&family.spec).unwrap_or_default();
    let still_claimed = |message: &str| {
        claims.iter().find(|claim| message.starts_with(&collision_of(claim, ELSEWHERE)))
    };
    let problem =
        |message: &str| Problem { reason: Reason::TagCollision, message: message.to_owned() };
    let conditions = family.status.iter().flat_map(|status| &status.conditions);
    let is_stalled = |condition: &&Condition| {
        condition.type_ == STALLED
            && condition.status == "True"
            && condition.reason == Reason::TagCollision
    };
    // It was that of all images, and names the first one only.
    if let Some(stalled) = conditions.into_iter().find(is_stalled)
        && still_claimed(&stalled.message).is_some()
    {
        let images = family.spec.images.iter();
        return images.map(|image| (image.name.clone(), problem(&stalled.message))).collect();
    }
    let statuses = records.into_iter().filter_map(|record| record.status.as_ref());
    let collided = statuses.filter(|status| status.reason == Reason::TagCollision.as_str());
    collided
        .filter_map(|status| {
            let claim = still_claimed(&status.message)?;
            Some((claim.image.to_owned(), problem(&status.message)))
        })
        .collect()
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
        let repository = normalize_repository(&record.spec.repository);
        tags.map(|known| (repository.clone(), known.tag.clone())).collect::<Vec<_>>()
    };
    records.iter().filter(is_owned).flat_map(of).collect()
}

/// Whether a repository is below the repository of a family.
fn is_below(repository: &str, of_family: &str) -> bool {
    repository.strip_prefix(of_family).is_some_and(|path| path.starts_with('/'))
}

/// Whether any of these normalized repositories is below the repository of a family.
fn has_any_below(repositories: &BTreeMap<String, Vec<&str>>, of_family: &str) -> bool {
    let of_family = normalize_folder(of_family);
    let mut next = repositories.range(format!("{of_family}/")..);
    next.next().is_some_and(|(repository, _)| is_below(repository, &of_family))
}

/// A family that claims a tag.
struct Claimant<'a> {
    family: &'a ImageFamily,
    claim: TagClaim<'a>,
}

/// Returns the conflicts of these families, which are sorted by their precedence.
///
/// That alone does not decide: whoever owns an old family could add somebody else's tag to it, and
/// take it from the family that has pushed there all along.
fn conflicts(
    all: &[Arc<ImageFamily>],
    stores: &Stores,
    rules: &RepositoryRules,
) -> HashMap<Key, ClaimProblems> {
    let mut claimants: BTreeMap<RepositoryTag, Vec<Claimant<'_>>> = BTreeMap::new();
    for family in all {
        for claim in allowed_claims(family, rules) {
            let tag = (normalize_repository(&claim.repository), claim.tag.name.clone());
            claimants.entry(tag).or_default().push(Claimant { family, claim });
        }
    }
    let mut found: HashMap<Key, ClaimProblems> = HashMap::new();
    for claimed in claimants.values() {
        let Some(first) = claimed.first() else { continue };
        let holder = claimed.iter().find(|known| known.has_set_tag(stores));
        let owner = holder.unwrap_or(first);
        for other in claimed.iter().filter(|other| !std::ptr::eq(other.family, owner.family)) {
            let why = match holder {
                Some(_) => "has pushed it",
                None if other.family.spec.suspend && !owner.family.spec.suspend => {
                    "is not suspended"
                }
                None => "is older",
            };
            let images = found.entry(Key::of(other.family)).or_default();
            let problem = || collision(other, owner, why);
            images.entry(other.claim.image.to_owned()).or_insert_with(problem);
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

/// Returns the beginning of the message about a tag that belongs to somebody else.
fn collision_of(claim: &TagClaim<'_>, owner: &str) -> String {
    let (image, tag) = (claim.image, claim.reference());
    format!("spec.images[{image}].tags: {tag} is{CLAIMED_BY}{owner}")
}

fn collision(other: &Claimant<'_>, owner: &Claimant<'_>, why: &str) -> Problem {
    let owner = shown_to(other.family, owner.family);
    let message = format!(
        "{}, which {why}; use another tag, `path` or `repository`",
        collision_of(&other.claim, &owner)
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
        add_changed(stores, name, second, |_| ());
    }

    /// Adds such a family with changes.
    fn add_changed(
        stores: &Stores,
        name: &str,
        second: u32,
        change: impl FnOnce(&mut ImageFamily),
    ) {
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
        let mut family = serde_json::from_value(family).expect("a family");
        change(&mut family);
        stores.families.record_write(family);
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

    /// Returns the messages of the images of a family, by image.
    fn problems_of(owners: &TagOwners, stores: &Stores, key: &Key) -> BTreeMap<String, String> {
        let family = stores.families.get(key).expect("a family");
        let problems = owners.problems(&family, stores).into_iter();
        problems.map(|(image, problem)| (image, problem.message)).collect()
    }

    /// Returns the message of the image `base` of a family in conflict.
    fn problem_of(stores: &Stores, name: &str) -> Option<String> {
        problems_of(&TagOwners::default(), stores, &Key::new("team", name)).remove("base")
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
        let of = |tag: &str, owner: &str| (tag.to_owned(), format!("the family team/{owner}"));
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
                let claimed = owners.claimed.lock().expect("no panic").of(&family, &owners.rules);
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

        // Another tag, or one of another repository, is no claim to this one.
        for (version, repository, tag) in
            [(2, "registry.example.com/base", "edge"), (3, "elsewhere.example.com/base", "latest")]
        {
            add_record(&stores, "new", repository, tag, version);
            assert_eq!(problem_of(&stores, "old"), None, "{repository}:{tag}");
        }
    }
    #[test]
    fn a_suspended_family_takes_no_tag_and_is_not_named_elsewhere() {
        let stores = Stores::default();
        let squatter = Key::new("evil", "squatter");
        add_changed(&stores, "squatter", 1, |family| {
            family.metadata.namespace = Some("evil".into());
            family.spec.suspend = true;
        });
        add_family(&stores, "app", 2);
        assert_eq!(problem_of(&stores, "app"), None);
        let problems = problems_of(&TagOwners::default(), &stores, &squatter);
        let message = &problems["base"];
        assert!(
            message.contains("a family of another namespace, which is not suspended"),
            "{message}"
        );
        assert!(!message.contains("team") && !message.contains("app"), "{message}");

        // It is the first that claims the tag, and is not suspended any more.
        let family = stores.families.get(&squatter).expect("a family");
        let mut family = ImageFamily::clone(&family);
        (family.spec.suspend, family.metadata.generation) = (false, Some(2));
        family.metadata.resource_version = Some("2".into());
        stores.families.record_write(family);
        let message = problem_of(&stores, "app").expect("a conflict");
        assert!(message.contains("a family of another namespace, which is older"), "{message}");
        assert!(!message.contains("evil") && !message.contains("squatter"), "{message}");
        let found = foreign(&TagOwners::default(), &stores, "app");
        assert_eq!(found, [("latest".to_owned(), ELSEWHERE.to_owned())]);

        // The tag is set, and the family that has set it keeps it.
        add_record(&stores, "app", BASE, "latest", 1);
        assert_eq!(problem_of(&stores, "app"), None);
        assert_eq!(problems_of(&TagOwners::default(), &stores, &squatter).len(), 1);
    }

    #[test]
    fn only_the_image_in_conflict_has_a_problem() {
        let stores = Stores::default();
        add_family(&stores, "old", 1);
        add_changed(&stores, "new", 2, |family| {
            let mut free = family.spec.images[0].clone();
            free.name = "free".into();
            family.spec.images.push(free);
        });
        let problems = problems_of(&TagOwners::default(), &stores, &Key::new("team", "new"));
        assert_eq!(problems.keys().collect::<Vec<_>>(), ["base"]);
    }

    #[test]
    fn another_spelling_is_the_same_tag() {
        for spelling in ["Registry.Example.com", "registry.example.com:443"] {
            let stores = Stores::default();
            add_family(&stores, "old", 1);
            add_changed(&stores, "new", 2, |family| family.spec.repository = spelling.into());
            let message = problem_of(&stores, "new").expect(spelling);
            assert!(message.contains(&format!("{spelling}/base:latest")), "{message}");
            let new = stores.families.get(&Key::new("team", "new")).expect("a family");
            let repository = format!("{spelling}/base");
            let repositories = [repository.as_str()].into();
            let found = TagOwners::default().foreign_tags(&new, &repositories, &stores);
            assert!(found[&repository].contains_key("latest"), "{found:?}");
        }
    }

    #[test]
    fn nobody_chooses_who_is_first_within_a_second() {
        let stores = Stores::default();
        add_changed(&stores, "a", 1, |family| family.metadata.uid = Some("2".into()));
        add_changed(&stores, "z", 1, |family| family.metadata.uid = Some("1".into()));
        assert_eq!(problem_of(&stores, "z"), None);
        assert!(problem_of(&stores, "a").is_some());
    }

    #[test]
    fn a_repository_that_is_not_allowed_is_refused_and_claims_nothing() {
        let rules = "[{repositories: [registry.example.com/*], namespaces: [team]}]";
        let owners = TagOwners::new(RepositoryRules::from_yaml(rules).expect("valid"));
        let stores = Stores::default();
        let squatter = Key::new("evil", "squatter");
        add_changed(&stores, "squatter", 1, |family| {
            family.metadata.namespace = Some("evil".into());
        });
        add_family(&stores, "app", 2);
        assert!(problems_of(&owners, &stores, &Key::new("team", "app")).is_empty());
        assert_eq!(foreign(&owners, &stores, "app"), []);
        let message = &problems_of(&owners, &stores, &squatter)["base"];
        assert!(message.contains("families of the namespace `evil` no repository"), "{message}");
    }

    #[test]
    fn a_conflict_goes_on_while_its_owner_may_be_unwatched() {
        let stores = Stores::default();
        add_family(&stores, "app", 1);
        let family = stores.families.get(&Key::new("team", "app")).expect("a family");
        let message = format!(
            "spec.images[base].tags: {BASE}:latest is already claimed by {ELSEWHERE}, which is \
             older; x"
        );
        let stalled = |message: &str| {
            let mut family = ImageFamily::clone(&family);
            let status = json!({"conditions": [{"type": "Stalled", "status": "True",
                "reason": Reason::TagCollision.as_str(), "message": message,
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
            family.status = serde_json::from_value(status).expect("a status");
            family
        };
        let unresolved = |family: &ImageFamily, records: &[ManagedImage]| {
            let problems = unresolved_conflicts(family, records).into_iter();
            problems.map(|(image, problem)| (image, problem.message)).collect::<Vec<_>>()
        };
        let kept = [("base".to_owned(), message.clone())];
        assert_eq!(unresolved(&stalled(&message), &[]), kept);
        let renamed = message.replace("latest", "edge");
        assert_eq!(unresolved(&stalled(&renamed), &[]), [], "the tag is not claimed any more");
        let own = message.replace(ELSEWHERE, "the family team/old");
        assert_eq!(unresolved(&stalled(&own), &[]), [], "the owner would be found");

        add_record(&stores, "app", BASE, "latest", 1);
        let records = stores.images.group(&Key::of(&*family));
        let mut record = ManagedImage::clone(&records[0]);
        assert_eq!(unresolved(&family, std::slice::from_ref(&record)), []);
        let status = record.status.as_mut().expect("a status");
        (status.reason, status.message) = (Reason::TagCollision.as_str().into(), message);
        assert_eq!(unresolved(&family, &[record]), kept);
    }
}
