//! The records of a family and of its images. Nothing is written that is already so.

use std::collections::HashMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PatchParams},
    runtime::controller::Action,
};

use crate::{
    api::{
        Attention, ImageFamily, ImageFamilyStatus, ImageState, ManagedImage, RunningCascade,
        UpstreamStatus,
        condition::{
            self, ConditionUpdate, READY, RECONCILING, STALLED, reason, reason_from_str, shorten,
        },
        family_status::MAX_ATTENTION,
        labels,
    },
    controller::{
        context::{Context, ReconcileCache},
        error::{ReconcileError, call},
        family::{
            RESYNC,
            observe::snapshot::Snapshot,
            record::{
                cascade,
                events::{self, Tone},
                image::{self, needs_user},
                requests,
            },
        },
        object_cache::Key,
        writes::{apply_status, delete},
    },
    engine::{CascadeStep, Decision, Problem, Target, cascade::record, causes},
    lineage::ImageIndex,
};

/// How long a request to the API server may take effect after its sender is gone: as long as it
/// works on one by default.
const LATE: SignedDuration = SignedDuration::from_secs(60);
/// The most characters of a message in the list of images that need a person.
const MAX_ATTENTION_MESSAGE: usize = 256;

/// Records everything that the pass has come to. Says when what was held back is to be written.
///
/// The images are written first, so that whoever waits for the family to be `Ready` finds all of
/// them so. In the pass that opens a cascade they are left alone, for their state is another one a
/// moment later.
pub async fn record(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> Result<Option<Timestamp>, ReconcileError> {
    if !matches!(decision.cascade, CascadeStep::Open { .. }) {
        forget_removed(context, snapshot, cache).await?;
        image::write_all(context, snapshot, decision, cache, now).await?;
    }
    let held_back = family(context, snapshot, decision, cache, now).await?;
    let later = cascade::record(context, snapshot, decision, cache, now).await?;
    requests::tell(context, snapshot, decision).await;
    Ok([held_back, later].into_iter().flatten().min())
}

/// Records that the family can't be built as it stands. Nothing else of it is touched.
pub async fn stalled(
    context: &Context,
    family: &ImageFamily,
    problem: &Problem,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> Result<Action, ReconcileError> {
    let old = family.status.clone().unwrap_or_default();
    let generation = family.metadata.generation;
    let mut status = ImageFamilyStatus { observed_generation: generation, ..old.clone() };
    for (type_, value) in [(READY, false), (RECONCILING, false), (STALLED, true)] {
        let update = ConditionUpdate {
            type_,
            status: value,
            reason: problem.reason,
            message: &problem.message,
            observed_generation: generation,
        };
        condition::set(&mut status.conditions, update, now);
    }
    if status != old {
        write_family(context, family, &status, cache).await?;
        events::publish(context, family, Tone::Warning, problem.reason, "Check", &problem.message)
            .await;
    }
    Ok(Action::requeue(RESYNC))
}

async fn family(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> Result<Option<Timestamp>, ReconcileError> {
    let old = snapshot.family.status.clone().unwrap_or_default();
    let announced = announced(snapshot, decision, &old, now);
    let look_again =
        announced.as_ref().and_then(|cascade| cascade.started_at?.saturating_add(LATE).ok());
    let new = family_status(snapshot, decision, &old, announced, now);
    let name = format!("{}/{}", snapshot.key.namespace, snapshot.key.name);
    context.metrics.family(&name, &new.counts, stale_since(snapshot, &new));
    if new == old {
        return Ok(look_again);
    }
    let only_counts = ImageFamilyStatus { counts: old.counts.clone(), ..new.clone() } == old;
    if let Some(due) = cache.held_back("family", now).filter(|_| only_counts) {
        return Ok(look_again.into_iter().chain([due]).min());
    }
    cache.writes("family", now);
    write_family(context, &snapshot.family, &new, cache).await?;
    tell(context, snapshot, &old, &new).await;
    Ok(look_again)
}

/// A cascade that a pass before has announced, that this one does not begin, and of which there is
/// no record: it may still come, from a controller that has died, and if something begins
/// meanwhile, it must be that cascade and not another one beside it.
fn announced(
    snapshot: &Snapshot,
    decision: &Decision,
    old: &ImageFamilyStatus,
    now: Timestamp,
) -> Option<RunningCascade> {
    let is_late = |cascade: &RunningCascade| {
        cascade.started_at.is_some_and(|at| at <= now && now.duration_since(at) < LATE)
            && !snapshot.has_ended(&cascade.name)
    };
    old.cascade.clone().filter(|cascade| decision.cascade == CascadeStep::None && is_late(cascade))
}

fn family_status(
    snapshot: &Snapshot,
    decision: &Decision,
    old: &ImageFamilyStatus,
    announced: Option<RunningCascade>,
    now: Timestamp,
) -> ImageFamilyStatus {
    let generation = snapshot.family.metadata.generation;
    let cascade = match &decision.cascade {
        CascadeStep::Open { name, .. } => {
            Some(RunningCascade { name: name.clone(), started_at: Some(now) })
        }
        CascadeStep::Running { name } => Some(RunningCascade {
            name: name.clone(),
            started_at: snapshot
                .cascade
                .as_ref()
                .and_then(|cascade| Some(cascade.creation_timestamp()?.0)),
        }),
        CascadeStep::None => announced,
        CascadeStep::Close { .. } => None,
    };
    let cascade = match (cascade, &old.cascade) {
        (Some(new), Some(old)) if new.name == old.name => Some(old.clone()),
        (cascade, _) => cascade,
    };
    let requests = requests::recorded(decision, Target::Family, &old.requests);
    let mut status = ImageFamilyStatus {
        observed_generation: generation,
        conditions: old.conditions.clone(),
        upstreams: decision.upstreams.clone(),
        counts: record::count_states(decision.images.iter().map(|image| image.state)),
        pending: decision.pending.clone(),
        cascade,
        window: decision.window.clone(),
        breaker: decision.breaker.clone(),
        last_handled_request: requests
            .first()
            .map(|request| request.id.clone())
            .or_else(|| old.last_handled_request.clone()),
        requests,
        attention: attention(snapshot, decision),
    };
    let verdict = FamilyConditions::of(snapshot, &status);
    verdict.set(&mut status.conditions, generation, now);
    status
}

/// Since when the family is not what its inputs say: since the oldest digest that is seen and not
/// built from, the oldest change that waits, the cascade that runs, or the oldest failure.
fn stale_since(snapshot: &Snapshot, status: &ImageFamilyStatus) -> Option<Timestamp> {
    let candidates =
        status.upstreams.iter().filter_map(|upstream| upstream.candidate.as_ref()?.first_seen);
    let waiting = status.pending.iter().filter_map(|pending| pending.since);
    let running = status.cascade.iter().filter_map(|cascade| cascade.started_at);
    let failures = snapshot.records.iter().flatten().filter_map(|record| {
        let status = record.status.as_ref().filter(|status| status.state != ImageState::Current)?;
        status.failure.as_ref()?.at
    });
    candidates.chain(waiting).chain(running).chain(failures).min()
}

/// The images that need a person: failed ones, and those that wait for something that does not come
/// by itself.
fn attention(snapshot: &Snapshot, decision: &Decision) -> Vec<Attention> {
    let images = snapshot.family.spec.images.iter().zip(&decision.images);
    images
        .filter(|(_, image)| needs_user(image.state, image.reason))
        .take(MAX_ATTENTION)
        .map(|(spec, image)| Attention {
            image: spec.name.clone(),
            state: image.state,
            reason: image.reason.into(),
            message: shorten(&image.message.to_string(), MAX_ATTENTION_MESSAGE),
        })
        .collect()
}

/// What the three conditions say.
struct FamilyConditions {
    ready: bool,
    reconciling: bool,
    stalled: bool,
    reason: &'static str,
    message: String,
}

impl FamilyConditions {
    fn of(snapshot: &Snapshot, status: &ImageFamilyStatus) -> Self {
        let counts = &status.counts;
        let progress = format!("{} of {} images are current", counts.current, counts.total);
        let at_rest = Self {
            ready: false,
            reconciling: false,
            stalled: false,
            reason: reason::CURRENT,
            message: String::new(),
        };
        let settled = counts.current + counts.held == counts.total;
        if let Some(breaker) = &status.breaker {
            let failed = format!("{} failed: {}", breaker.cause, breaker.failures.join(", "));
            let tried = breaker.probe_at.map(|at| {
                format!(
                    "no build is started, for {failed}; one build is \
                    tried at {at:.0}"
                )
            });
            // Where nothing is left to be tried, nothing comes of waiting.
            let (stalled, message) = tried.map_or_else(
                || {
                    (
                        true,
                        format!(
                            "{failed}; nothing is left to be tried before the next cascade \
                                   or a retry"
                        ),
                    )
                },
                |message| (false, message),
            );
            return Self {
                reconciling: !stalled,
                stalled,
                reason: reason::BREAKER_OPEN,
                message,
                ..at_rest
            };
        }
        if let Some(first) = status.attention.first() {
            let more = status.attention.len().saturating_sub(1);
            let more = if more == 0 { String::new() } else { format!(" (and {more} more)") };
            let reason = if first.state == ImageState::Failed {
                reason::IMAGES_FAILED
            } else {
                reason_from_str(&first.reason).unwrap_or(reason::INVALID_SPEC)
            };
            let message = format!("{}: {}{more}", first.image, first.message);
            // A cascade goes on beside a failed image, and may still change what is said here.
            let reconciling = status.cascade.is_some();
            return Self { reconciling, stalled: !reconciling, reason, message, ..at_rest };
        }
        if snapshot.family.spec.suspend && !settled {
            return Self {
                reason: reason::SUSPENDED,
                message: format!(
                    "spec.suspend is set; \
                {progress}"
                ),
                ..at_rest
            };
        }
        if let Some(window) = status.window.as_ref().filter(|window| !window.open && !settled) {
            let until = window.until.map_or_else(String::new, |until| {
                format!(
                    "; the next one \
                opens at {until:.0}"
                )
            });
            let message = format!("no window of spec.policy.windows is open{until}; {progress}");
            return Self { reconciling: true, reason: reason::WINDOW_CLOSED, message, ..at_rest };
        }
        if let Some(cascade) = &status.cascade {
            let message = format!("{} runs; {} images", cascade.name, counts.total);
            return Self { reconciling: true, reason: reason::CASCADING, message, ..at_rest };
        }
        // What a suspension or a window keeps from beginning is not about to begin.
        let kept = snapshot.family.spec.suspend
            || status.window.as_ref().is_some_and(|window| !window.open);
        if status.pending.is_some() && !kept {
            let message = "changes are seen, and more may still come".to_owned();
            return Self { reconciling: true, reason: reason::SETTLING, message, ..at_rest };
        }
        if let Some((upstream, problem)) = faulty(&snapshot.upstreams()) {
            let message = format!("upstream {upstream}: {}", problem.message);
            // A registry that is away for a while does not make what it served unfit; one that
            // refuses may hide a patch.
            let away = problem.reason == reason::REGISTRY_UNAVAILABLE && settled;
            let message = if away { format!("{progress}; {message}") } else { message };
            let reason = if away { reason::CURRENT } else { problem.reason };
            return Self { ready: away, stalled: !away, reason, message, ..at_rest };
        }
        if settled {
            return Self { ready: true, message: told_settled(status), ..at_rest };
        }
        Self {
            reconciling: true,
            reason: reason::RESOLVING,
            message: "inputs are being looked up".into(),
            ..at_rest
        }
    }

    fn set(&self, conditions: &mut Vec<Condition>, generation: Option<i64>, now: Timestamp) {
        for (type_, value) in
            [(READY, self.ready), (RECONCILING, self.reconciling), (STALLED, self.stalled)]
        {
            let update = ConditionUpdate {
                type_,
                status: value,
                reason: self.reason,
                message: &self.message,
                observed_generation: generation,
            };
            condition::set(conditions, update, now);
        }
    }
}

/// What a family says of itself of which every image is where it is to be.
fn told_settled(status: &ImageFamilyStatus) -> String {
    let counts = &status.counts;
    let held = if counts.held == 0 { String::new() } else { format!(", {} held", counts.held) };
    let waits = status
        .upstreams
        .iter()
        .find(|upstream| upstream.candidate.is_some() && upstream.reason.is_some());
    let waits = waits.and_then(|upstream| {
        Some(format!("; upstream {}: {}", upstream.name, upstream.message.as_ref()?))
    });
    if counts.held == 0 && waits.is_none() {
        return format!("all {} images are current", counts.total);
    }
    format!(
        "{} of {} images are current{held}{}",
        counts.current,
        counts.total,
        waits.unwrap_or_default()
    )
}

/// The first upstream whose last poll has failed.
fn faulty<'a>(upstreams: &[(&'a str, Option<&'a Problem>)]) -> Option<(&'a str, &'a Problem)> {
    upstreams.iter().find_map(|(name, problem)| Some((*name, (*problem)?)))
}

/// Makes sure that the family is known as it is. After a write of its status that got no answer,
/// what is known of it may be out of date, if the watch is behind: then it is read.
pub async fn refresh(
    context: &Context,
    key: &Key,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    if cache.unsure {
        let api: Api<ImageFamily> = Api::namespaced(context.client.clone(), &key.namespace);
        if let Some(family) =
            call(|| format!("read ImageFamily {}", key.name), api.get_opt(&key.name)).await?
        {
            context.stores.families.wrote(family);
        }
        cache.unsure = false;
    }
    Ok(())
}

async fn write_family(
    context: &Context,
    family: &ImageFamily,
    status: &ImageFamilyStatus,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    let api: Api<ImageFamily> =
        Api::namespaced(context.client.clone(), &family.namespace().unwrap_or_default());
    let name = family.name_any();
    let patch = apply_status::<ImageFamily>(&name, status);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
    // Until an answer says what came of it, even if this pass goes no further.
    cache.unsure = true;
    match call(
        || format!("write the status of ImageFamily {name}"),
        api.patch_status(&name, &parameters, &patch),
    )
    .await
    {
        Ok(written) => context.stores.families.wrote(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    cache.unsure = false;
    Ok(())
}

/// Tells what has changed between two records of a family.
async fn tell(
    context: &Context,
    snapshot: &Snapshot,
    old: &ImageFamilyStatus,
    new: &ImageFamilyStatus,
) {
    for upstream in &new.upstreams {
        let before = old.upstreams.iter().find(|before| before.name == upstream.name);
        let digest = |status: &UpstreamStatus| {
            status.candidate.as_ref().map(|candidate| candidate.digest.clone())
        };
        if let Some(candidate) =
            digest(upstream).filter(|_| before.and_then(digest) != digest(upstream))
        {
            let note = format!("{} moved to {}", upstream.reference, causes::short(&candidate));
            events::publish(
                context,
                &snapshot.family,
                Tone::Normal,
                reason::UPSTREAM_MOVED,
                "Watch",
                &note,
            )
            .await;
        }
        let told = |status: &UpstreamStatus| status.reason.clone();
        if let (Some(why), Some(message)) =
            (told(upstream).filter(|_| before.and_then(told) != told(upstream)), &upstream.message)
            && why != reason::RESOLVING
        {
            let meant = [reason::HELD, reason::MINIMUM_AGE, reason::AWAITING_APPROVAL]
                .contains(&why.as_str());
            let tone = if meant { Tone::Normal } else { Tone::Warning };
            let note = format!("upstream {}: {message}", upstream.name);
            events::publish(context, &snapshot.family, tone, &why, "Watch", &note).await;
        }
    }
    let stalled = new
        .conditions
        .iter()
        .find(|condition| condition.type_ == STALLED && condition.status == "True");
    if let Some(stalled) = stalled.filter(|_| !condition::is_true(&old.conditions, STALLED)) {
        events::publish(
            context,
            &snapshot.family,
            Tone::Warning,
            &stalled.reason,
            "Reconcile",
            &stalled.message,
        )
        .await;
    }
}

/// Deletes the records of images that the family no longer has, or that it now pushes elsewhere.
async fn forget_removed(
    context: &Context,
    snapshot: &Snapshot,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    let images = ImageIndex::enumerate(&snapshot.family.spec.images);
    let wanted: HashMap<&str, String> =
        images.map(|(index, image)| (image.name.as_str(), snapshot.repository(index))).collect();
    cache.retain_images(&wanted.keys().copied().collect());
    let api: Api<ManagedImage> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    for record in context.stores.images.group(&snapshot.key) {
        let keep = wanted.get(record.spec.image.as_str()) == Some(&record.spec.repository);
        if keep || record.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let name = record.name_any();
        delete(&api, &name, &DeleteParams::default()).await?;
    }
    Ok(())
}
