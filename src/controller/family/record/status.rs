//! The status of a family. Nothing is written that has not changed. Needs a client.

use std::collections::HashMap;

use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PatchParams},
    runtime::{controller::Action, events::EventType},
};
use tracing::warn;

use crate::{
    api::{
        Attention, ImageFamily, ImageFamilyStatus, ImageState, ManagedImage, UpstreamStatus,
        condition::{self, RECONCILING, Reason, ReasonClass, ReasonTrait, STALLED, shorten},
        family_status::MAX_ATTENTION,
        labels,
    },
    controller::{
        context::Context,
        error::{ReconcileError, call},
        family::{
            RESYNC,
            observe::{Observer, ownership::is_record_of},
            reconcile::Reconcile,
            record::{
                conditions::{
                    self, CREDENTIALS_INCOMPLETE, FamilyConditions, UPSTREAM_END_OF_LIFE,
                    incomplete_credentials,
                },
                events::{self, Notice},
                image_status::needs_user,
                requests::REST_PAUSE,
                staleness::{self, ImageStaleness},
            },
        },
        object_cache::Key,
        reconcile_cache::ReconcileCache,
        writes::{apply_status_unchanged, delete},
    },
    engine::{CascadeDecision, Problem, cascade::status, causes, end_of_life},
    lineage::ImageIndex,
    server::metrics::FamilyMetrics,
};

/// The most characters of a message in the list of images that need a user.
const MAX_ATTENTION_MESSAGE: usize = 256;
/// The most characters of a name in that list. An image that cannot be expanded may have a longer
/// one.
const MAX_NAME_LENGTH: usize = 63;

impl Observer<'_> {
    /// Records that the spec is rejected. The rest of the status stays as it is. The rejection is
    /// logged once per generation and problem.
    pub async fn record_rejection(&mut self, problem: &Problem) -> Result<Action, ReconcileError> {
        let old = self.family.status.clone().unwrap_or_default();
        let generation = self.family.metadata.generation;
        let mut status = ImageFamilyStatus { observed_generation: generation, ..old.clone() };
        let conditions = FamilyConditions::rejected(problem);
        conditions.set(&mut status.conditions, generation, self.now);
        conditions::set_problem(&mut status, CREDENTIALS_INCOMPLETE, None, self.now);
        if self.cache.should_log_rejection(generation, problem) {
            warn!(
                generation, reason = problem.reason.as_str(), problem = %problem.message,
                "the spec is rejected; the family is stalled until it is corrected"
            );
        }
        if status != old {
            write_status(self.context, &self.family, &status, self.cache).await?;
            let notice = Notice {
                type_: EventType::Warning,
                reason: problem.reason,
                action: "Check",
                note: problem.message.clone(),
            };
            events::about_family(self.context, &self.family, &notice);
        }
        let is_rest = self.record_waiting_requests(problem).await?;
        Ok(Action::requeue(if is_rest { REST_PAUSE } else { RESYNC }))
    }
}

impl Reconcile<'_> {
    /// Records the status of the family. Returns when it must be recorded again.
    pub(super) async fn record_family(&mut self) -> Result<Option<Timestamp>, ReconcileError> {
        let old = self.snapshot.family.status.clone().unwrap_or_default();
        let expires_at = self.intended_until(&old);
        let mut new = self.family_status(&old);
        let conditions = FamilyConditions::of(&self.snapshot, &self.decision, &new);
        conditions.set(&mut new.conditions, new.observed_generation, self.now);
        let ended = end_of_life::ended_upstreams(&self.snapshot.family.spec.upstreams, self.now);
        let end_of_life = end_of_life::problem(&ended);
        conditions::set_problem(&mut new, UPSTREAM_END_OF_LIFE, end_of_life.as_ref(), self.now);
        let keychain = self.cache.keychain.as_ref();
        let credentials = keychain.and_then(|known| incomplete_credentials(&known.problems));
        conditions::set_problem(&mut new, CREDENTIALS_INCOMPLETE, credentials.as_ref(), self.now);
        self.export_metrics(&new, ended.len());
        if new == old {
            return Ok(expires_at);
        }
        let only_counts = ImageFamilyStatus { counts: old.counts.clone(), ..new.clone() } == old;
        let deferred = self.cache.write_deferred_until("family", self.now);
        if let Some(due) = deferred.filter(|_| only_counts) {
            return Ok(expires_at.into_iter().chain([due]).min());
        }
        self.cache.note_write("family", self.now);
        write_status(self.context, &self.snapshot.family, &new, self.cache).await?;
        self.publish_family_events(&old, &new);
        Ok(expires_at)
    }

    /// Returns the status of the family, with its old conditions.
    fn family_status(&self, old: &ImageFamilyStatus) -> ImageFamilyStatus {
        let decision = &self.decision;
        // The records of the images follow in the next reconcile.
        let are_images_recorded = !matches!(decision.cascade, CascadeDecision::Start { .. });
        let generation = self.snapshot.family.metadata.generation;
        ImageFamilyStatus {
            observed_generation: generation
                .filter(|_| are_images_recorded)
                .or(old.observed_generation),
            conditions: old.conditions.clone(),
            platform: self.default_platform_to_record(old),
            upstreams: decision.upstreams.clone(),
            counts: status::count_states(decision.images.iter().map(|image| image.state)),
            pending: decision.pending.clone(),
            cascades: self.cascades_to_record(old),
            window: decision.window.clone(),
            breaker: decision.breaker.clone(),
            attention: self.attention(),
            late_sources: self.snapshot.late_sources.clone(),
            installation: old.installation.clone(),
        }
    }

    /// Returns the default platform, once a build uses it. Until then nothing is fixed: a strategy
    /// may name another one.
    fn default_platform_to_record(&self, old: &ImageFamilyStatus) -> Option<String> {
        let decision = &self.decision;
        let may_build = decision.cascade != CascadeDecision::None;
        let is_used = ImageIndex::enumerate(&decision.images).any(|(index, image)| {
            self.snapshot.uses_default_platform(index) && (may_build || image.verified.is_some())
        });
        let default = &self.snapshot.default_platform;
        let platform = default.platform.as_ref().ok().filter(|_| !default.is_provisional());
        platform.filter(|_| is_used || old.platform.is_some()).map(ToString::to_string)
    }

    /// Publishes from where the default platform is, once it is fixed.
    fn publish_platform_event(&self, old: &ImageFamilyStatus, new: &ImageFamilyStatus) {
        let Some(platform) = new.platform.as_ref().filter(|_| old.platform.is_none()) else {
            return;
        };
        let notice = Notice {
            type_: EventType::Normal,
            reason: Reason::PlatformFixed,
            action: "Build",
            note: format!(
                "builds whose strategies name no platform are for {platform}, because of {}; to \
                 change it, set the strategy's parameter `platform`",
                self.snapshot.default_platform.source
            ),
        };
        self.publish_about_family(&notice);
    }

    /// Exports how many of the family's images are in each state, since when it is stale, and how
    /// many upstreams have no support.
    fn export_metrics(&mut self, status: &ImageFamilyStatus, ended_upstreams: usize) {
        let spec = &self.snapshot.family.spec;
        let images = self.snapshot.records.iter().zip(&self.decision.images);
        let images: Vec<ImageStaleness> = images
            .filter_map(|(record, decided)| {
                let old = record.as_ref()?.status.as_ref()?;
                Some(ImageStaleness::of(spec, old, decided, self.now))
            })
            .collect();
        if staleness::is_gated(spec, status) {
            self.cache.gated_until = Some(self.now);
        }
        let gated_until = self.cache.gated_until;
        let metrics = FamilyMetrics {
            counts: status.counts.clone(),
            stale_since: staleness::stale_since(status, &images),
            overdue_since: staleness::overdue_since(spec, status, &images, gated_until),
            ended_upstreams,
        };
        let name = format!("{}/{}", self.snapshot.key.namespace, self.snapshot.key.name);
        self.context.metrics.family(&name, metrics);
    }

    /// Returns the images that need a user: those that the spec cannot be expanded to, failed ones,
    /// and those that wait for something that does not happen by itself.
    fn attention(&self) -> Vec<Attention> {
        let spec = &self.snapshot.family.spec;
        let left_out = spec.left_out.iter().map(|left_out| Attention {
            image: shorten(&left_out.image, MAX_NAME_LENGTH),
            state: ImageState::Waiting,
            reason: left_out.problem.reason.into(),
            message: shorten(&left_out.problem.message, MAX_ATTENTION_MESSAGE),
        });
        let images = spec.images.iter().zip(&self.decision.images);
        let images = images.filter(|(_, decided)| needs_user(decided.state, decided.reason));
        let images = images.map(|(image, decided)| Attention {
            image: image.name.clone(),
            state: decided.state,
            reason: decided.reason.into(),
            message: shorten(&decided.message.to_string(), MAX_ATTENTION_MESSAGE),
        });
        left_out.chain(images).take(MAX_ATTENTION).collect()
    }

    /// Publishes what has changed between two statuses of the family.
    fn publish_family_events(&self, old: &ImageFamilyStatus, new: &ImageFamilyStatus) {
        self.publish_platform_event(old, new);
        for upstream in &new.upstreams {
            let before = old.upstreams.iter().find(|before| before.name == upstream.name);
            self.publish_upstream_events(before, upstream);
        }
        for type_ in [STALLED].into_iter().chain(conditions::OF_PROBLEMS) {
            let set = new.conditions.iter().find(|known| known.type_ == type_);
            let set = set.filter(|known| known.status == "True");
            let set = set.filter(|_| !condition::is_true(&old.conditions, type_));
            let Some((set, reason)) = set.and_then(|set| Some((set, Reason::parse(&set.reason)?)))
            else {
                continue;
            };
            let notice = Notice {
                type_: EventType::Warning,
                reason,
                action: "Reconcile",
                note: set.message.clone(),
            };
            self.publish_about_family(&notice);
        }
        self.publish_unstarted_event(old, new);
    }

    /// Publishes an Event if builds have come not to start, or do not for another reason. Its note
    /// is that of the first time: the message changes with each try.
    fn publish_unstarted_event(&self, old: &ImageFamilyStatus, new: &ImageFamilyStatus) {
        let reconciling = |status: &ImageFamilyStatus| {
            let mut known = status.conditions.iter();
            known.find(|known| known.type_ == RECONCILING && known.status == "True").cloned()
        };
        let Some(now) = reconciling(new) else { return };
        let is_known = reconciling(old).is_some_and(|before| before.reason == now.reason);
        let reason = Reason::parse(&now.reason).filter(|it| it.has(ReasonTrait::PreventsStart));
        let Some(reason) = reason.filter(|_| !is_known) else { return };
        let passes = reason.class() == ReasonClass::Expected;
        let notice = Notice {
            type_: if passes { EventType::Normal } else { EventType::Warning },
            reason,
            action: "Build",
            note: now.message,
        };
        self.publish_about_family(&notice);
    }

    fn publish_upstream_events(&self, old: Option<&UpstreamStatus>, new: &UpstreamStatus) {
        let digest = |status: &UpstreamStatus| Some(status.candidate.as_ref()?.digest.clone());
        if let Some(candidate) = digest(new).filter(|_| old.and_then(digest) != digest(new)) {
            let notice = Notice {
                type_: EventType::Normal,
                reason: Reason::UpstreamMoved,
                action: "Watch",
                note: format!("{} moved to {}", new.reference, causes::short(&candidate)),
            };
            self.publish_about_upstream(&new.name, &notice);
        }
        let is_new = old.is_none_or(|old| old.reason != new.reason);
        let reason = new.known_reason().filter(|_| is_new);
        if let (Some(reason), Some(message)) = (reason, &new.message)
            && reason != Reason::Resolving
        {
            let is_intended = reason.has(ReasonTrait::Intended);
            let notice = Notice {
                type_: if is_intended { EventType::Normal } else { EventType::Warning },
                reason,
                action: "Watch",
                note: format!("upstream {}: {message}", new.name),
            };
            self.publish_about_upstream(&new.name, &notice);
        }
    }

    /// Deletes the records of images that the family no longer has, or that it now pushes to
    /// another repository. While images are left out of the spec, a record may be that of one of
    /// them, whose name is not known. Then only records with another repository are deleted.
    pub(super) async fn delete_removed_images(&mut self) -> Result<(), ReconcileError> {
        let images = ImageIndex::enumerate(&self.snapshot.family.spec.images);
        let wanted: HashMap<&str, String> = images
            .map(|(index, image)| (image.name.as_str(), self.snapshot.repository(index)))
            .collect();
        self.cache.retain_images(&wanted.keys().copied().collect());
        let is_any_left_out = !self.snapshot.family.spec.left_out.is_empty();
        let api: Api<ManagedImage> = self.api();
        for record in self.context.stores.images.group(&self.snapshot.key) {
            let is_wanted = match wanted.get(record.spec.image.as_str()) {
                Some(repository) => *repository == record.spec.repository,
                None => is_any_left_out,
            };
            let is_ours = is_record_of(&record, &self.snapshot.family);
            if is_wanted || !is_ours || record.metadata.deletion_timestamp.is_some() {
                continue;
            }
            delete(&api, &record.name_any(), &DeleteParams::default()).await?;
        }
        Ok(())
    }
}

/// Reads the family if a write of its status got no answer. Until then the store may be outdated,
/// if the watch is behind.
pub async fn refresh_family(
    context: &Context,
    key: &Key,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    if !cache.status_unknown {
        return Ok(());
    }
    let api: Api<ImageFamily> = Api::namespaced(context.client.clone(), &key.namespace);
    let read = call(|| format!("read ImageFamily {}", key.name), api.get_opt(&key.name));
    if let Some(family) = read.await? {
        context.stores.families.record_write(family);
    }
    cache.status_unknown = false;
    Ok(())
}

async fn write_status(
    context: &Context,
    family: &ImageFamily,
    status: &ImageFamilyStatus,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    let api: Api<ImageFamily> =
        Api::namespaced(context.client.clone(), &family.namespace().unwrap_or_default());
    let name = family.name_any();
    let patch = apply_status_unchanged(family, status);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
    // Noted before the call, and until it is answered: this reconcile may end in between.
    cache.status_unknown = true;
    let what = || format!("write the status of ImageFamily {name}");
    match call(what, api.patch_status(&name, &parameters, &patch)).await {
        Ok(written) => context.stores.families.record_write(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    cache.status_unknown = false;
    Ok(())
}
