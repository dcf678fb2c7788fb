//! The images of families, from what the controller has recorded.

use jiff::Timestamp;
use kube::ResourceExt as _;

use groundswell::{
    api::{EdgeUse, Image, ManagedImageStatus, UpstreamStatus},
    lineage::{ImageIndex, Parent, families::FamilyName},
};

use crate::{
    audit::{
        report::{
            AuditOrigin, AuditReport, AuditedBase, AuditedImage, AuditedUpstream, BehindReason,
        },
        upstream_digests::{UpstreamDigestFinder, UpstreamDigests, tagged_parents},
    },
    history::patched::TimeToPatched,
    input::{Estate, EstateFamily, digest_in_use},
};

/// Describes the images of an estate at a time.
pub fn audit(estate: &Estate, owner_label: &str, now: Timestamp) -> AuditReport {
    let mut finder = UpstreamDigestFinder::new(estate);
    let mut images = Vec::new();
    for family in &estate.families {
        for (index, image) in ImageIndex::enumerate(&family.family.spec.images) {
            let below = finder.of_tagged(family, index);
            let audited = ImageOfFamily { estate, family, index, image };
            images.push(audited.describe(below, owner_label, now));
        }
    }
    images.sort_by(|a, b| a.name.cmp(&b.name));
    let cascades = estate.families.iter().flat_map(|family| &family.cascades);
    AuditReport {
        origin: AuditOrigin::Records,
        images,
        time_to_patched: TimeToPatched::of(cascades),
        problems: Vec::new(),
    }
}

/// An image of a family.
struct ImageOfFamily<'a> {
    estate: &'a Estate,
    family: &'a EstateFamily,
    index: ImageIndex,
    image: &'a Image,
}

impl ImageOfFamily<'_> {
    fn describe(&self, below: UpstreamDigests, owner_label: &str, now: Timestamp) -> AuditedImage {
        let family = self.family;
        let status = family.recorded(self.index);
        let labels = family.family.labels();
        let owner = labels.get(owner_label).or_else(|| self.image.labels.get(owner_label));
        let built_at = status.and_then(built_at);
        let repository = family.blueprint.images.get(self.index.position());
        let upstreams = below.into_iter().map(|((of, name), digest)| {
            let (reference, status) = (self.reference(&of, &name), self.upstream(&of, &name));
            UpstreamOfImage { reference, status }.describe(digest, now)
        });
        AuditedImage {
            name: format!("{}/{}", family.name, self.image.name),
            repository: repository.map(|known| known.repository.clone()).unwrap_or_default(),
            owner: owner.cloned(),
            state: status.map(|status| status.state.as_str()),
            build: status.and_then(|status| match &status.rollback {
                Some(rollback) => rollback.build,
                None => status.build,
            }),
            digest: status.and_then(tagged_digest).map(str::to_owned),
            built_at,
            age_seconds: built_at.map(|at| now.duration_since(at).as_secs().max(0)),
            base: self.base(status),
            upstreams: upstreams.collect(),
        }
    }

    /// Returns what is recorded of an upstream of a family.
    fn upstream(&self, family: &FamilyName, name: &str) -> Option<&UpstreamStatus> {
        let status = self.estate.family(family)?.family.status.as_ref()?;
        status.upstreams.iter().find(|known| known.name == name)
    }

    /// Returns what an upstream of a family follows.
    fn reference(&self, family: &FamilyName, name: &str) -> String {
        let family = self.estate.family(family);
        let mut upstreams = family.iter().flat_map(|family| &family.family.spec.upstreams);
        let upstream = upstreams.find(|upstream| upstream.name == name);
        upstream.map_or_else(|| name.to_owned(), groundswell::api::Upstream::reference)
    }

    /// Returns what the build that the tags point to has as its base.
    fn base(&self, status: Option<&ManagedImageStatus>) -> Option<AuditedBase> {
        let place = self.image.from.iter().position(|edge| edge.usage == EdgeUse::Base)?;
        let pinned = tagged_parents(status?).get(place)?;
        let newest = match *self.family.blueprint.lineage.parents(self.index).get(place)? {
            Parent::Image(base) => self.family.recorded(base).and_then(|base| base.digest.clone()),
            Parent::Upstream(_) => {
                let adopted = self.upstream(&self.family.name, &pinned.name)?.adopted.as_ref()?;
                Some(digest_in_use(adopted, &pinned.digest))
            }
            Parent::Import(_) => None,
        };
        let is_outdated = newest.as_ref().map(|newest| *newest != pinned.digest);
        Some(AuditedBase {
            name: pinned.name.clone(),
            digest: Some(pinned.digest.clone()),
            newest,
            is_outdated,
        })
    }
}

/// Returns the digest that the floating tags of an image point to: that of the last verified build,
/// or of the build to which a user has rolled back.
fn tagged_digest(status: &ManagedImageStatus) -> Option<&str> {
    let rollback = status.rollback.as_ref().map(|rollback| rollback.digest.as_str());
    rollback.or(status.digest.as_deref())
}

/// Returns when the build of the digest ended that the tags point to.
fn built_at(status: &ManagedImageStatus) -> Option<Timestamp> {
    let digest = tagged_digest(status)?;
    // Of builds that gave the same image, the oldest one has made it.
    let mut builds = status.history.iter().rev();
    builds.find(|build| build.digest == digest)?.finished_at
}

/// An upstream, and what is recorded of it.
struct UpstreamOfImage<'a> {
    reference: String,
    status: Option<&'a UpstreamStatus>,
}

impl UpstreamOfImage<'_> {
    /// Describes how a digest that an image depends on differs from what the tag points to.
    fn describe(self, digest: Option<String>, now: Timestamp) -> AuditedUpstream {
        let adopted = self.status.and_then(|status| status.adopted.as_ref());
        let candidate = self.status.and_then(|status| status.candidate.as_ref());
        let outdated_since = self.status.and_then(|status| status.outdated_since);
        let is_built = match (&digest, adopted) {
            (Some(digest), Some(adopted)) => Some(adopted.content().names(digest)),
            _ => None,
        };
        let (behind, since) = match (is_built, candidate) {
            (Some(false), _) => {
                let adopted = adopted.and_then(|adopted| adopted.first_observed.or(adopted.since));
                (Some(BehindReason::NotRebuilt), adopted.or(outdated_since))
            }
            (Some(true), Some(_)) => (Some(BehindReason::NotAdopted), outdated_since),
            (Some(true), None) => (None, None),
            (None, _) => (Some(BehindReason::Unknown), None),
        };
        let pinned = digest.as_deref().unwrap_or_default();
        let adopted = adopted.map(|adopted| digest_in_use(adopted, pinned));
        AuditedUpstream {
            reference: self.reference,
            digest,
            observed: candidate
                .map(|candidate| candidate.digest.clone())
                .or_else(|| adopted.clone()),
            adopted,
            behind,
            behind_since: since,
            behind_seconds: since.map(|since| now.duration_since(since).as_secs().max(0)),
        }
    }
}
