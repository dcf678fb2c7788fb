//! Lookups of fingerprints: whether a registry already has the image that a build would push. The
//! registry is the record of what was built, whatever any status says. No client of the API server
//! is needed.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::{
    api::{EdgeUse, ParentDigest, condition::Reason, labels},
    backoff::{self, jitter_seed},
    build_records::{RecordedBuild, UnrecordedImage},
    controller::family::{
        reconcile::Reconcile,
        registry::{
            DecisionValidity,
            patience::Patience,
            pushed_image::{self, BaseComparison, Repository},
            recognition::Recognition,
        },
    },
    engine::{Effect, Lookup, LookupResult, LookupScope, Problem, causes::short, tags},
    identity::Fingerprint,
    lineage::{ImageIndex, Parent},
    registry::{Platform, PlatformImage},
};

/// The pause after the first failed or rejected lookup. It doubles with each one in a row.
const MIN_LOOKUP_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// Upper bound on the pause after a failed or rejected lookup.
const MAX_LOOKUP_PAUSE: SignedDuration = SignedDuration::from_mins(2);

/// A lookup that the decision asks for.
struct WantedLookup<'a> {
    image: ImageIndex,
    fingerprint: &'a Fingerprint,
    scope: LookupScope,
    /// The last attempt of the build that ended before the lookup.
    after: Option<i32>,
}

/// The answer to a lookup.
struct AnsweredLookup {
    image: ImageIndex,
    lookup: Lookup,
    /// What else was learned of the build's record.
    note: Option<RecordNote>,
}

/// What a lookup has learned of the record of a build.
enum RecordNote {
    /// The build has this record.
    Recorded(RecordedBuild),
    /// The tag points to an image that is no build of ours.
    Unrecorded(UnrecordedImage),
}

/// What a registry has answered to a lookup.
enum LookupAnswer {
    /// A build of ours, or that there is none, and what was learned of its record.
    Found(LookupResult, Option<RecordNote>),
    /// An image that must not be used.
    Rejected(Problem),
}

impl Reconcile<'_> {
    /// Looks up the fingerprints that the decision asks for.
    pub async fn look_up_fingerprints(&mut self) -> DecisionValidity {
        let reconcile = &*self;
        let retry_at = reconcile.lookup_retry_at(self.cache.failed_lookups.saturating_add(1));
        let wanted = reconcile.decision.effects.iter().filter_map(|effect| match effect {
            Effect::LookUp { image, fingerprint, scope, after } => {
                Some(WantedLookup { image: *image, fingerprint, scope: *scope, after: *after })
            }
            _ => None,
        });
        let patience = Patience::default();
        let lookups: Vec<_> =
            wanted.map(|wanted| reconcile.look_up(wanted, &patience, retry_at)).collect();
        let answers: Vec<AnsweredLookup> = reconcile.registry_time.run(lookups).await;
        if answers.is_empty() {
            return DecisionValidity::Current;
        }
        let has_failed = |answer: &AnsweredLookup| {
            matches!(answer.lookup.result, LookupResult::Failed(..) | LookupResult::Rejected(..))
        };
        self.cache.failed_lookups = if answers.iter().any(has_failed) {
            self.cache.failed_lookups.saturating_add(1)
        } else {
            0
        };
        for AnsweredLookup { image, lookup, note } in answers {
            if let Some(image) = self.snapshot.family.spec.images.get(image.position()) {
                match note {
                    Some(RecordNote::Recorded(recorded)) => {
                        self.cache.build_records.insert(image.name.clone(), recorded);
                    }
                    Some(RecordNote::Unrecorded(unrecorded)) => {
                        self.cache.note_unrecorded(&image.name, unrecorded);
                    }
                    None => {}
                }
                if let LookupResult::Existing(existing) = &lookup.result {
                    let at = self.context.clock.now();
                    self.cache.note_read_tags(&image.name, &existing.tags, at);
                }
                self.cache.lookups.record(&image.name, lookup);
            }
        }
        DecisionValidity::Outdated
    }

    /// Returns when a registry is asked again after this many failed or rejected lookups in a row.
    /// The pause is the same for all images of a family, so that one reconcile retries them all,
    /// and differs between families, so that they do not come back to a registry at the same
    /// moment.
    #[must_use]
    pub fn lookup_retry_at(&self, failures: u32) -> Timestamp {
        let uid = self.snapshot.family.uid().unwrap_or_default();
        let seed = jitter_seed(&[&uid]).wrapping_add(failures.into());
        let pause = backoff::pause(failures, MIN_LOOKUP_PAUSE, MAX_LOOKUP_PAUSE, seed);
        self.now.saturating_add(pause).unwrap_or(Timestamp::MAX)
    }

    async fn look_up(
        &self,
        wanted: WantedLookup<'_>,
        patience: &Patience,
        retry_at: Timestamp,
    ) -> AnsweredLookup {
        let WantedLookup { image, fingerprint, .. } = wanted;
        let repository = self.snapshot.repository(image);
        let registry = repository.split('/').next().unwrap_or_default();
        let asked = Box::pin(patience.ask(registry, self.ask_registry(&wanted))).await;
        let (result, note) = match asked {
            Ok(LookupAnswer::Found(result, note)) => (result, note),
            Ok(LookupAnswer::Rejected(problem)) => {
                (LookupResult::Rejected(problem, retry_at), None)
            }
            Err(problem) => (LookupResult::Failed(problem, retry_at), None),
        };
        AnsweredLookup { image, lookup: Lookup { fingerprint: fingerprint.clone(), result }, note }
    }

    async fn ask_registry(&self, wanted: &WantedLookup<'_>) -> Result<LookupAnswer, Problem> {
        let name = self.snapshot.repository(wanted.image);
        let repository = Repository::new(&self.context.registry, &self.snapshot.keychain, &name)?;
        FingerprintQuery { reconcile: self, image: wanted.image, repository }.ask(wanted).await
    }
}

/// The lookup of one fingerprint in the repository of its image.
pub(super) struct FingerprintQuery<'a> {
    pub(super) reconcile: &'a Reconcile<'a>,
    pub(super) image: ImageIndex,
    pub(super) repository: Repository<'a>,
}

/// The pinned base of an image, and how images compare with it.
pub(super) struct ComparedBase<'a> {
    pub(super) parent: &'a ParentDigest,
    /// The platform of the build.
    pub(super) platform: Platform,
    pub(super) comparison: BaseComparison,
}

impl FingerprintQuery<'_> {
    async fn ask(&self, wanted: &WantedLookup<'_>) -> Result<LookupAnswer, Problem> {
        let fingerprint = wanted.fingerprint;
        if let Some(rebuilt) = self.rebuilt(fingerprint).await? {
            return Ok(LookupAnswer::Found(rebuilt, None));
        }
        let tag = tags::pushed_as(fingerprint);
        let Some(manifest) = self.repository.tagged(&tag).await? else {
            return Ok(LookupAnswer::Found(self.absent(wanted).await?, None));
        };
        let recognition = self.recognize(fingerprint, &manifest).await?;
        if recognition == Recognition::Unknown {
            let note = RecordNote::Unrecorded(UnrecordedImage {
                tag: format!("{}:{tag}", self.repository.full_name()),
                digest: manifest.digest.as_str().into(),
            });
            return Ok(LookupAnswer::Found(self.absent(wanted).await?, Some(note)));
        }
        if !self.repository.has_fingerprint(&manifest, fingerprint).await? {
            let message = format!(
                "{}:{tag} has no annotation {}={fingerprint}: it was not pushed by a build of \
                 ours, or the build strategy does not set annotations; delete the tag or correct \
                 the strategy",
                self.reconcile.snapshot.repository(self.image),
                labels::OCI_FINGERPRINT
            );
            return Ok(LookupAnswer::Rejected(Problem {
                reason: Reason::InvalidRegistryResponse,
                message,
            }));
        }
        let images = self.repository.images(&manifest).await?;
        if let Some(problem) = self.platform_mismatch(&tag, &images) {
            return Ok(LookupAnswer::Rejected(problem));
        }
        if let Some(problem) = self.base_mismatch(&images).await? {
            return Ok(LookupAnswer::Rejected(problem));
        }
        let result = pushed_image::present(&manifest, &images);
        let recorded = self.ensure_record(fingerprint, &manifest, recognition, &result).await?;
        Ok(LookupAnswer::Found(result, recorded.map(RecordNote::Recorded)))
    }

    /// Returns the answer for a fingerprint that has no build of ours.
    async fn absent(&self, wanted: &WantedLookup<'_>) -> Result<LookupResult, Problem> {
        let WantedLookup { fingerprint, scope, after, .. } = *wanted;
        if scope == LookupScope::FloatingTags
            && let Some(existing) = self.existing(fingerprint).await?
        {
            return Ok(LookupResult::Existing(existing));
        }
        let (last_build, asked_at) = (self.last_build(fingerprint).await?, self.reconcile.now);
        Ok(LookupResult::Absent { last_build, after, asked_at })
    }

    /// Returns the number of the last build according to the registry. It is asked only if the
    /// record has no number.
    pub(super) async fn last_build(
        &self,
        fingerprint: &Fingerprint,
    ) -> Result<Option<i64>, Problem> {
        let recorded =
            self.reconcile.snapshot.records.get(self.image.position()).and_then(Option::as_ref);
        if recorded.and_then(|record| record.status.as_ref()?.build).is_some() {
            return Ok(None);
        }
        let Some(image) = self.reconcile.image(self.image) else { return Ok(None) };
        let spec = &self.reconcile.snapshot.family.spec;
        let tags = |build| tags::render(spec, image, build, fingerprint).unwrap_or_default();
        self.repository.last_build(tags).await
    }

    /// Returns a problem if the image is not for the platform of the build.
    fn platform_mismatch(&self, tag: &str, images: &[PlatformImage]) -> Option<Problem> {
        let wrong = wrong_platform(images, self.reconcile.snapshot.platform(self.image))?;
        let message = format!(
            "the build of {} {wrong}, and delete the tag {tag}",
            self.reconcile.image_name(self.image)
        );
        Some(Problem { reason: Reason::PlatformMismatch, message })
    }

    /// Returns a problem if the build has not used the pinned base: the layers of the base must be
    /// the first ones of the result. A builder that is given a parent under a name that the
    /// Dockerfile does not use would silently build from another image.
    async fn base_mismatch(&self, images: &[PlatformImage]) -> Result<Option<Problem>, Problem> {
        let decided = self.reconcile.decision.images.get(self.image.position());
        let (Some(image), Some(compared)) =
            (self.reconcile.image(self.image), self.compare_base(images).await?)
        else {
            return Ok(None);
        };
        let ComparedBase { parent, platform, comparison } = compared;
        let base = format!("{} at {}", parent.name, short(&parent.digest));
        let (reason, message) = match comparison {
            BaseComparison::IsBase => return Ok(None),
            BaseComparison::OtherLayers => {
                let fingerprint = decided.and_then(|decided| decided.fingerprint.as_ref());
                let message = format!(
                    "the build of {} did not use its base {base}: its first layers are not those \
                     of the base; check that `as` in `from` is what the Dockerfile's FROM says, \
                     and delete the tag {}",
                    image.name,
                    fingerprint.map(tags::pushed_as).unwrap_or_default()
                );
                (Reason::DockerfileMismatch, message)
            }
            BaseComparison::OtherPlatform(other) => {
                let message = format!(
                    "{} is built for {platform}, but its base {base} is an image for {other}; use \
                     a base for {platform}, or set the strategy's parameter `platform`",
                    image.name
                );
                (Reason::PlatformMismatch, message)
            }
            BaseComparison::NotOffered => {
                let message = format!(
                    "{} is built for {platform}, which its base {base} does not offer; use a base \
                     for {platform}, or set the strategy's parameter `platform`",
                    image.name
                );
                (Reason::PlatformMismatch, message)
            }
        };
        Ok(Some(Problem { reason, message }))
    }

    /// Compares images with the pinned base, or returns `None` if the image has no base.
    pub(super) async fn compare_base(
        &self,
        images: &[PlatformImage],
    ) -> Result<Option<ComparedBase<'_>>, Problem> {
        let snapshot = &self.reconcile.snapshot;
        let decided = self.reconcile.decision.images.get(self.image.position());
        let (Some(image), Some(inputs)) =
            (self.reconcile.image(self.image), decided.and_then(|decided| decided.inputs.as_ref()))
        else {
            return Ok(None);
        };
        let parents = snapshot.blueprint.lineage.parents(self.image).iter().zip(&inputs.parents);
        let base = image.from.iter().zip(parents).find(|(edge, _)| edge.usage == EdgeUse::Base);
        let Some((_, (of, parent))) = base else { return Ok(None) };
        let built_for = images.first().map(|image| &image.platform);
        let Some(platform) = snapshot.platform(self.image).or(built_for) else { return Ok(None) };
        let of_parent = Repository::new(
            &self.reconcile.context.registry,
            &snapshot.keychain,
            &self.parent_repository(*of),
        )?;
        let comparison = of_parent.compare_base(&parent.digest.parse()?, images, platform).await?;
        Ok(Some(ComparedBase { parent, platform: platform.clone(), comparison }))
    }

    fn parent_repository(&self, parent: Parent) -> String {
        let snapshot = &self.reconcile.snapshot;
        let repository = match parent {
            Parent::Upstream(upstream) => {
                let upstream = snapshot.family.spec.upstreams.get(upstream.position());
                upstream.map(|upstream| upstream.image.clone())
            }
            Parent::Image(image) => Some(snapshot.repository(image)),
            Parent::Import(import) => snapshot
                .imports
                .get(import.position())
                .and_then(|import| Some(import.verified.as_ref()?.repository.clone())),
        };
        repository.unwrap_or_default()
    }
}

/// Returns what a build did wrong whose images are not for its platform, and what to do. An index
/// without an image is for no platform: nobody could pull it.
fn wrong_platform(images: &[PlatformImage], wanted: Option<&Platform>) -> Option<String> {
    if images.is_empty() {
        return Some("pushed an index that lists no image; correct the strategy".into());
    }
    let wanted = wanted?;
    let other = images.iter().find_map(|image| other_platform(image, wanted))?;
    Some(format!(
        "made an image for {other}, and not for {wanted}; let the strategy build for \
         `{{{{ platform }}}}`"
    ))
}

/// Returns the platform of an image that is not for the wanted one: what its index says, or else
/// its own configuration.
fn other_platform<'i>(image: &'i PlatformImage, wanted: &Platform) -> Option<&'i Platform> {
    if !image.is_for(wanted) {
        return Some(&image.platform);
    }
    let own = &image.config.platform;
    let is_same = (&own.os, &own.architecture) == (&wanted.os, &wanted.architecture);
    Some(own).filter(|own| own.is_known() && !is_same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{Descriptor, Digest, ImageConfig, ImageManifest};

    #[test]
    fn an_index_cannot_pass_off_an_image_for_another_platform() {
        let [amd, arm] = ["linux/amd64", "linux/arm64"]
            .map(|text| Platform::from_user(text).expect("a platform"));
        let unknown = Platform { os: String::new(), architecture: String::new(), variant: None };
        let image = |labelled: &Platform, own: &Platform| PlatformImage {
            platform: labelled.clone(),
            variant_is_named: true,
            manifest: ImageManifest {
                config: Descriptor { digest: Digest::of(b""), media_type: String::new(), size: 0 },
                layers: Vec::new(),
                annotations: std::collections::BTreeMap::new(),
                artifact_type: None,
            },
            config: ImageConfig {
                triggers: Vec::new(),
                labels: std::collections::BTreeMap::new(),
                history: Vec::new(),
                created: None,
                newest_layer: None,
                platform: own.clone(),
                variant_is_named: true,
                diff_ids: Vec::new(),
                size: 0,
                content: Digest::of(b""),
            },
        };
        for (labelled, own, is_wrong) in
            [(&amd, &amd, false), (&amd, &unknown, false), (&amd, &arm, true), (&arm, &amd, true)]
        {
            let wrong = wrong_platform(&[image(labelled, own)], Some(&amd));
            let names_it = wrong.as_ref().is_some_and(|wrong| wrong.contains("for linux/arm64"));
            assert_eq!((wrong.is_some(), names_it), (is_wrong, is_wrong), "{labelled} {own}");
        }
    }

    #[test]
    fn an_index_without_an_image_is_rejected() {
        for wanted in [None, Some(&Platform::default())] {
            let wrong = wrong_platform(&[], wanted).expect("a problem");
            assert!(wrong.contains("lists no image"), "{wrong}");
        }
    }
}
