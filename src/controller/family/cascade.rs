//! The record of a wave: made when it opens, kept while it runs, and only the last few are kept after.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PatchParams, PostParams},
    core::ObjectMeta,
};
use tracing::info;

use super::{
    super::{
        context::{Context, Memory},
        error::{Error, call},
        writes::{apply_status, delete},
    },
    events::{self, Tone},
    observe::World,
};
use crate::{
    api::{Cascade, CascadePhase, CascadeSpec, CascadeStatus, condition::reason, labels},
    engine::{Decision, WaveStep, causes, wave},
};

/// Records what has become of the wave. Says when what was held back is to be written.
pub async fn record(
    context: &Context,
    world: &World,
    decision: &Decision,
    memory: &mut Memory,
    now: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    forget_old(context, world).await?;
    match (&decision.wave, &world.wave) {
        (WaveStep::Open { name, causes, supersedes, levels }, _) => {
            let spec = CascadeSpec {
                family: world.key.name.clone(),
                supersedes: supersedes.clone(),
                causes: causes.clone(),
                levels: levels.iter().map(|level| level.iter().map(|image| name_of(world, *image)).collect()).collect(),
            };
            open(context, world, name, spec, memory).await?;
            Ok(None)
        }
        (WaveStep::Running { .. }, Some(cascade)) => {
            let status = status(world, decision, cascade, memory, now);
            if cascade.status.as_ref() == Some(&status) {
                return Ok(None);
            }
            if let due @ Some(_) = memory.held_back("cascade", now) {
                return Ok(due);
            }
            memory.writes("cascade", now);
            write(context, world, cascade, &status).await?;
            Ok(None)
        }
        (WaveStep::Close { .. }, Some(cascade)) => {
            let status = status(world, decision, cascade, memory, now);
            write(context, world, cascade, &status).await?;
            told_closed(context, world, &status).await;
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn name_of(world: &World, image: usize) -> String {
    world.family.spec.images.get(image).map(|image| image.name.clone()).unwrap_or_default()
}

fn status(world: &World, decision: &Decision, cascade: &Cascade, memory: &Memory, now: Timestamp) -> CascadeStatus {
    let planned: BTreeSet<&str> = cascade.spec.levels.iter().flatten().map(String::as_str).collect();
    let previous = cascade.status.clone().unwrap_or_default();
    let previous = CascadeStatus {
        started_at: previous.started_at.or_else(|| cascade.creation_timestamp().map(|time| time.0)),
        ..previous
    };
    wave::record(&world.seen(memory), decision, &cascade.name_any(), &planned, &previous, now)
}

async fn open(
    context: &Context,
    world: &World,
    name: &str,
    spec: CascadeSpec,
    memory: &mut Memory,
) -> Result<(), Error> {
    let note = format!("{}: {}", name, causes::sentence(&spec.causes));
    let cascade = Cascade {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(world.key.namespace.clone()),
            labels: Some(
                [
                    (labels::FAMILY.to_owned(), world.key.name.clone()),
                    (labels::MANAGED_BY.into(), labels::MANAGED_BY_VALUE.into()),
                ]
                .into(),
            ),
            owner_references: world.family.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let api: Api<Cascade> = Api::namespaced(context.client.clone(), &world.key.namespace);
    // Until an answer says what came of it, even if this pass goes no further.
    memory.unanswered_wave = Some(name.into());
    match call(|| format!("create Cascade {name}"), api.create(&PostParams::default(), &cascade)).await {
        Ok(created) => context.caches.cascades.wrote(created),
        // An earlier pass has made it and did not hear of it.
        Err(error) if error.is_already_exists() => {
            let existing = call(|| format!("read Cascade {name}"), api.get(name)).await?;
            context.caches.cascades.wrote(existing);
            memory.unanswered_wave = None;
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    memory.unanswered_wave = None;
    info!(cascade = name, "wave begins");
    context.metrics.cascade_started();
    events::publish(context, &world.family, Tone::Normal, reason::CASCADE_STARTED, "Cascade", &note).await;
    Ok(())
}

async fn write(context: &Context, world: &World, cascade: &Cascade, status: &CascadeStatus) -> Result<(), Error> {
    let api: Api<Cascade> = Api::namespaced(context.client.clone(), &world.key.namespace);
    let name = cascade.name_any();
    let patch = apply_status::<Cascade>(&name, status);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
    let written =
        call(|| format!("write the status of Cascade {name}"), api.patch_status(&name, &parameters, &patch)).await;
    match written {
        Ok(written) => context.caches.cascades.wrote(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn told_closed(context: &Context, world: &World, status: &CascadeStatus) {
    let complete = status.phase == CascadePhase::Complete;
    info!(family = %world.key.name, outcome = %status.outcome, complete, "wave ends");
    let length = u64::try_from(status.seconds.unwrap_or_default()).unwrap_or_default();
    context.metrics.cascade_finished(status.phase, Duration::from_secs(length));
    let tone = if complete { Tone::Normal } else { Tone::Warning };
    events::publish(context, &world.family, tone, reason::CASCADE_FINISHED, "Cascade", &status.outcome).await;
}

/// Deletes the oldest records of ended waves beyond the limit.
async fn forget_old(context: &Context, world: &World) -> Result<(), Error> {
    let mut ended = context.caches.cascades.group(&world.key);
    ended.retain(|cascade| {
        let phase = cascade.status.as_ref().map(|status| status.phase).unwrap_or_default();
        phase != CascadePhase::Running && cascade.metadata.deletion_timestamp.is_none()
    });
    // Of one second, the names tell which came first.
    ended.sort_by_key(|cascade| cascade.creation_timestamp());
    let kept = usize::try_from(world.family.spec.history.cascades).unwrap_or(1).max(1);
    let surplus = ended.len().saturating_sub(kept);
    let api: Api<Cascade> = Api::namespaced(context.client.clone(), &world.key.namespace);
    for cascade in ended.into_iter().take(surplus) {
        delete(&api, &cascade.name_any(), &DeleteParams::default()).await?;
    }
    Ok(())
}
