//! Which family owns a tag of a repository, among all families of the cluster: the one that has
//! set it, or else the first that has claimed it, which records remember. And which images name a
//! repository that the operator does not allow their namespace. No client is needed.
//!
//! Repositories are compared as registries understand them, so that another spelling is no other
//! tag. A suspended family claims a tag only if nobody else does, because it sets none.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;

use crate::{
    api::{
        ClaimRecord, ImageFamily, ManagedImage,
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
    /// Since when families claim tags, by their uid.
    claims: HashMap<String, FamilyClaims>,
}

/// Since when a family claims tags, by image.
type FamilyClaims = HashMap<String, ImageClaims>;

/// Since when the tags of an image are claimed.
#[derive(Debug, Default)]
struct ImageClaims {
    repository: String,
    claims: Vec<ClaimRecord>,
}

impl ImageClaims {
    /// Returns since when a tag of a repository is claimed, if that is known.
    fn since(&self, claim: &TagClaim<'_>) -> Option<Timestamp> {
        let mut claims = self.claims.iter().filter(|_| self.repository == claim.repository);
        claims.find(|known| known.tag == claim.tag.name)?.since
    }
}

impl TagOwners {
    /// Returns the owners under the operator's rules.
    #[must_use]
    pub fn new(rules: RepositoryRules) -> Self {
        Self { rules, ..Self::default() }
    }

    /// Returns the problems of the images of this family that name a repository that is not
    /// allowed, or a tag that belongs to another family.
    pub fn problems(&self, family: &ImageFamily, stores: &Stores, now: Timestamp) -> ClaimProblems {
        let namespace = family.namespace().unwrap_or_default();
        let mut problems = self.conflicts(family, stores, now);
        for image in &family.spec.images {
            let repository = repository(&family.spec, image);
            if let Some(refusal) = self.rules.refusal(&namespace, &image.name, &repository) {
                problems.insert(image.name.clone(), refusal);
            }
        }
        problems
    }

    /// Returns since when a family claims the tags of an image, as [`TagOwners::problems`] has
    /// found it.
    pub fn claims(&self, family: &ImageFamily, image: &str) -> Vec<ClaimRecord> {
        let known = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        let claims = family.metadata.uid.as_ref().and_then(|uid| known.claims.get(uid));
        claims.and_then(|of| of.get(image)).map(|of| of.claims.clone()).unwrap_or_default()
    }

    fn conflicts(&self, family: &ImageFamily, stores: &Stores, now: Timestamp) -> ClaimProblems {
        let mut all = stores.families.all();
        all.sort_by_key(|family| precedence(family));
        let mut hasher = DefaultHasher::new();
        for family in &all {
            (family.uid(), family.metadata.generation).hash(&mut hasher);
        }
        let version = hasher.finish();
        let mut known = self.conflicts.lock().unwrap_or_else(PoisonError::into_inner);
        if known.version != version {
            let view = ClaimView { stores, rules: &self.rules, known: &known.claims, now };
            *known = view.conflicts(version, &all);
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
    /// Since when. A family that is suspended claims nothing it has not claimed before.
    since: Option<Timestamp>,
}

/// What determines who owns a tag.
struct ClaimView<'a> {
    stores: &'a Stores,
    rules: &'a RepositoryRules,
    /// What this process has found before.
    known: &'a HashMap<String, FamilyClaims>,
    now: Timestamp,
}

impl ClaimView<'_> {
    /// Returns the conflicts of these families, which are sorted by their precedence.
    ///
    /// That alone does not decide: whoever owns an old family could add somebody else's tag to it,
    /// and take it from the family that has pushed there all along, or that claimed it before and
    /// still builds.
    fn conflicts(&self, version: u64, all: &[Arc<ImageFamily>]) -> Conflicts {
        let mut claimants: BTreeMap<RepositoryTag, Vec<Claimant<'_>>> = BTreeMap::new();
        let mut claims = HashMap::new();
        for family in all {
            let claimed = self.claims_of(family);
            claims.insert(family.uid().unwrap_or_default(), recordable(&claimed));
            for claimant in claimed {
                let TagClaim { repository, tag, .. } = &claimant.claim;
                let tag = (normalize_repository(repository), tag.name.clone());
                claimants.entry(tag).or_default().push(claimant);
            }
        }
        let mut of: HashMap<Key, ClaimProblems> = HashMap::new();
        for claimed in claimants.values_mut().filter(|claimed| claimed.len() > 1) {
            // The sort is stable: of two at the same time, the older family is the first.
            claimed.sort_by_key(|known| {
                (known.family.spec.suspend, known.since.is_none(), known.since)
            });
            let Some(first) = claimed.first() else { continue };
            let holder = claimed.iter().find(|known| known.has_set_tag(self.stores));
            let owner = holder.unwrap_or(first);
            for other in claimed.iter().filter(|other| !std::ptr::eq(other.family, owner.family)) {
                let why = other.why_not(owner, holder);
                let images = of.entry(Key::of(other.family)).or_default();
                let problem = || collision(other, owner, why);
                images.entry(other.claim.image.to_owned()).or_insert_with(problem);
            }
        }
        Conflicts { version, of, claims }
    }

    /// Returns what a family claims, and since when: as its records say, so that a restart changes
    /// nothing, or else as this process has found it.
    fn claims_of<'f>(&self, family: &'f ImageFamily) -> Vec<Claimant<'f>> {
        let uid = family.metadata.uid.as_ref();
        let known = uid.and_then(|uid| self.known.get(uid));
        let recorded: FamilyClaims = self
            .stores
            .images
            .group(&Key::of(family))
            .iter()
            .filter(|record| record.owner_references().iter().any(|owner| Some(&owner.uid) == uid))
            .filter_map(|record| {
                let claims = record.status.as_ref()?.claims.clone();
                let repository = record.spec.repository.clone();
                Some((record.spec.image.clone(), ImageClaims { repository, claims }))
            })
            .collect();
        let since = |claim: &TagClaim<'_>| {
            let of = |claims: &FamilyClaims| claims.get(claim.image)?.since(claim);
            let before = [of(&recorded), known.and_then(of)].into_iter().flatten().min();
            before.or((!family.spec.suspend).then_some(self.now))
        };
        let claims = allowed_claims(family, self.rules).into_iter();
        claims.map(|claim| Claimant { family, since: since(&claim), claim }).collect()
    }
}

/// Returns since when a family claims its tags, by image. A tag may be named twice.
fn recordable(claimed: &[Claimant<'_>]) -> FamilyClaims {
    let mut claims = FamilyClaims::new();
    for Claimant { claim, since, .. } in claimed.iter().filter(|claimed| claimed.since.is_some()) {
        let of = claims.entry(claim.image.to_owned()).or_default();
        of.repository.clone_from(&claim.repository);
        if of.claims.iter().all(|known| known.tag != claim.tag.name) {
            of.claims.push(ClaimRecord { tag: claim.tag.name.clone(), since: *since });
        }
    }
    claims
}

impl Claimant<'_> {
    /// Returns why the owner owns the tag, and this family does not.
    fn why_not(&self, owner: &Self, holder: Option<&Self>) -> &'static str {
        if holder.is_some() {
            "has pushed it"
        } else if self.family.spec.suspend && !owner.family.spec.suspend {
            "is not suspended"
        } else if self.since == owner.since {
            "is older"
        } else {
            "has claimed it first"
        }
    }

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
#[path = "tag_owners_tests.rs"]
mod tests;
