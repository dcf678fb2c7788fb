//! What the registry has been pushed. The registry is the memory: what stands there was built,
//! whatever any status says.

use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{EdgeUse, condition::reason, labels},
    backoff,
    controller::{
        context::{Context, ReconcileCache},
        family::{
            observe::snapshot::Snapshot,
            registry::pushed_image::{self, Repository},
        },
    },
    engine::{Action, Decision, Lookup, LookupResult, Problem, causes::short, tags},
    identity::Fingerprint,
    lineage::{ImageIndex, Parent},
    registry::PlatformImage,
};

/// How many questions a pass asks at once.
pub const AT_ONCE: usize = 8;
/// Until a registry that could not answer, or whose answer is of no use, is asked again; it grows
/// up to the longest.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(5);
/// The longest such pause.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_mins(2);

/// Asks what the decision wants to know. Whether anything was asked: then the decision is to be
/// made anew.
pub async fn look_up(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> bool {
    let questions = decision.actions.iter().filter_map(|action| match action {
        Action::Probe { image, fingerprint, after } => Some((*image, fingerprint.clone(), *after)),
        _ => None,
    });
    let again = again(cache.useless_answers.saturating_add(1), now);
    let answers: Vec<(ImageIndex, Lookup)> = stream::iter(questions.collect::<Vec<_>>())
        .map(|(image, fingerprint, after)| async move {
            let result = ask(context, snapshot, decision, image, &fingerprint, after, again).await;
            (image, Lookup { fingerprint, result })
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let asked = !answers.is_empty();
    let useless = |lookup: &Lookup| {
        matches!(lookup.result, LookupResult::Failed(..) | LookupResult::Rejected(..))
    };
    if answers.iter().any(|(_, lookup)| useless(lookup)) {
        cache.useless_answers = cache.useless_answers.saturating_add(1);
    } else if asked {
        cache.useless_answers = 0;
    }
    for (image, lookup) in answers {
        if let Some(image) = snapshot.family.spec.images.get(image.position()) {
            cache.lookups.answered(&image.name, lookup);
        }
    }
    asked
}

/// When a registry is asked again, after so many answers in a row that were of no use.
#[must_use]
pub fn again(failures: u32, now: Timestamp) -> Timestamp {
    let pause = backoff::pause(failures, FIRST_PAUSE, LONGEST_PAUSE, u64::from(failures) * 389);
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

async fn ask(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    image: ImageIndex,
    fingerprint: &Fingerprint,
    after: Option<i32>,
    again: Timestamp,
) -> LookupResult {
    let repository =
        Repository::new(&context.registry, &snapshot.keychain, &snapshot.repository(image));
    let answer = match repository {
        Ok(repository) => {
            FingerprintQuery { context, snapshot, decision, image, repository }
                .ask(fingerprint, after)
                .await
        }
        Err(problem) => Err(problem),
    };
    match answer {
        Ok(LookupAnswer::Found(result)) => result,
        Ok(LookupAnswer::Rejected(problem)) => LookupResult::Rejected(problem, again),
        Err(problem) => LookupResult::Failed(problem, again),
    }
}

/// What a registry has answered, good or not.
enum LookupAnswer {
    Found(LookupResult),
    Rejected(Problem),
}

/// One question to a registry.
struct FingerprintQuery<'a> {
    context: &'a Context,
    snapshot: &'a Snapshot,
    decision: &'a Decision,
    image: ImageIndex,
    repository: Repository<'a>,
}

impl FingerprintQuery<'_> {
    async fn ask(
        &self,
        fingerprint: &Fingerprint,
        after: Option<i32>,
    ) -> Result<LookupAnswer, Problem> {
        let tag = tags::pushed_as(fingerprint);
        let Some(manifest) = self.repository.tagged(&tag).await? else {
            return Ok(LookupAnswer::Found(LookupResult::Absent {
                last_build: self.last_build(fingerprint).await?,
                after,
            }));
        };
        if !self.repository.is_of(&manifest, fingerprint).await? {
            let message = format!(
                "{}:{tag} stands in the registry without the annotation {}={fingerprint}: it was \
                 not pushed by a build of ours, or the build strategy does not set annotations; \
                 delete the tag or correct the strategy",
                self.snapshot.repository(self.image),
                labels::OCI_FINGERPRINT
            );
            return Ok(LookupAnswer::Rejected(Problem {
                reason: reason::INVALID_REGISTRY_RESPONSE,
                message,
            }));
        }
        let images = self.repository.images(&manifest).await?;
        if let Some(problem) = self.stands_elsewhere(&images).await? {
            return Ok(LookupAnswer::Rejected(problem));
        }
        Ok(LookupAnswer::Found(pushed_image::present(&manifest, &images)))
    }

    /// The number of the last build, as the registry has it; asked only where it is not recorded.
    async fn last_build(&self, fingerprint: &Fingerprint) -> Result<Option<i64>, Problem> {
        let recorded = self.snapshot.records.get(self.image.position()).and_then(Option::as_ref);
        if recorded.and_then(|record| record.status.as_ref()?.build).is_some() {
            return Ok(None);
        }
        let Some(image) = self.snapshot.family.spec.images.get(self.image.position()) else {
            return Ok(None);
        };
        let tags = |build| {
            tags::render(&self.snapshot.family.spec, image, build, fingerprint).unwrap_or_default()
        };
        self.repository.last_build(tags).await
    }

    /// Proof that the build has used the pinned base: the base's layers are the first ones of the
    /// result. A builder that is told of a parent under a name that the Dockerfile does not use
    /// would build from another one without a word.
    async fn stands_elsewhere(&self, images: &[PlatformImage]) -> Result<Option<Problem>, Problem> {
        let (Some(image), Some(inputs)) = (
            self.snapshot.family.spec.images.get(self.image.position()),
            self.decision.images.get(self.image.position()).and_then(|image| image.inputs.as_ref()),
        ) else {
            return Ok(None);
        };
        let parents =
            self.snapshot.blueprint.lineage.parents(self.image).iter().zip(&inputs.parents);
        let base = image.from.iter().zip(parents).find(|(edge, _)| edge.usage == EdgeUse::Base);
        let Some((_, (of, parent))) = base else { return Ok(None) };
        let of_parent = Repository::new(
            &self.context.registry,
            &self.snapshot.keychain,
            &self.parent_repository(*of),
        )?;
        if of_parent.is_below(&parent.digest.parse()?, images).await? {
            return Ok(None);
        }
        let message = format!(
            "the build of {} does not stand on {} at {}, from which it was to be built: its first \
             layers are others; check that `as` in `from` is what the Dockerfile's FROM says, and \
             delete the tag {}",
            image.name,
            parent.name,
            short(&parent.digest),
            self.decision
                .images
                .get(self.image.position())
                .and_then(|image| image.fingerprint.as_ref())
                .map(tags::pushed_as)
                .unwrap_or_default()
        );
        Ok(Some(Problem { reason: reason::DOCKERFILE_MISMATCH, message }))
    }

    fn parent_repository(&self, parent: Parent) -> String {
        match parent {
            Parent::Upstream(upstream) => self
                .snapshot
                .family
                .spec
                .upstreams
                .get(upstream.position())
                .map(|upstream| upstream.image.clone()),
            Parent::Image(image) => Some(self.snapshot.repository(image)),
            Parent::Import(import) => self
                .snapshot
                .imports
                .get(import.position())
                .and_then(|import| Some(import.verified.as_ref()?.repository.clone())),
        }
        .unwrap_or_default()
    }
}
