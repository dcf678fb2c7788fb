//! The record of a cascade: made when it opens, kept while it runs, and only the last few are kept
//! after.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PatchParams, PostParams},
    core::ObjectMeta,
};
use tracing::info;

use crate::{
    api::{Cascade, CascadePhase, CascadeSpec, CascadeStatus, condition::reason, labels},
    controller::{
        context::{Context, ReconcileCache},
        error::{ReconcileError, call},
        family::{
            observe::snapshot::Snapshot,
            record::events::{self, Tone},
        },
        writes::{apply_status, delete},
    },
    engine::{CascadeStep, Decision, cascade::record, causes},
    lineage::ImageIndex,
};

/// Records what has become of the cascade. Says when what was held back is to be written.
pub async fn record(
    context: &Context,
    snapshot: &Snapshot,
    decision: &Decision,
    cache: &mut ReconcileCache,
    now: Timestamp,
) -> Result<Option<Timestamp>, ReconcileError> {
    forget_old(context, snapshot).await?;
    match (&decision.cascade, &snapshot.cascade) {
        (CascadeStep::Open { name, causes, supersedes, levels }, _) => {
            let spec = CascadeSpec {
                family: snapshot.key.name.clone(),
                supersedes: supersedes.clone(),
                causes: causes.clone(),
                levels: levels
                    .iter()
                    .map(|level| level.iter().map(|image| name_of(snapshot, *image)).collect())
                    .collect(),
            };
            open(context, snapshot, name, spec, cache).await?;
            Ok(None)
        }
        (CascadeStep::Running { .. }, Some(cascade)) => {
            let status = status(snapshot, decision, cascade, cache, now);
            if cascade.status.as_ref() == Some(&status) {
                return Ok(None);
            }
            if let due @ Some(_) = cache.held_back("cascade", now) {
                return Ok(due);
            }
            cache.writes("cascade", now);
            write(context, snapshot, cascade, &status).await?;
            Ok(None)
        }
        (CascadeStep::Close { .. }, Some(cascade)) => {
            let status = status(snapshot, decision, cascade, cache, now);
            write(context, snapshot, cascade, &status).await?;
            told_closed(context, snapshot, &status).await;
            Ok(None)
        }
        _ => Ok(None),
    }
}

fn name_of(snapshot: &Snapshot, image: ImageIndex) -> String {
    snapshot
        .family
        .spec
        .images
        .get(image.position())
        .map(|image| image.name.clone())
        .unwrap_or_default()
}

fn status(
    snapshot: &Snapshot,
    decision: &Decision,
    cascade: &Cascade,
    cache: &ReconcileCache,
    now: Timestamp,
) -> CascadeStatus {
    let planned: BTreeSet<&str> =
        cascade.spec.levels.iter().flatten().map(String::as_str).collect();
    let previous = cascade.status.clone().unwrap_or_default();
    let previous = CascadeStatus {
        started_at: previous.started_at.or_else(|| cascade.creation_timestamp().map(|time| time.0)),
        ..previous
    };
    record::cascade_status(
        &snapshot.input(cache),
        decision,
        &cascade.name_any(),
        &planned,
        &previous,
        now,
    )
}

async fn open(
    context: &Context,
    snapshot: &Snapshot,
    name: &str,
    spec: CascadeSpec,
    cache: &mut ReconcileCache,
) -> Result<(), ReconcileError> {
    let note = format!("{}: {}", name, causes::sentence(&spec.causes));
    let cascade = Cascade {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(snapshot.key.namespace.clone()),
            labels: Some(
                [
                    (labels::FAMILY.to_owned(), snapshot.key.name.clone()),
                    (labels::MANAGED_BY.into(), labels::MANAGED_BY_VALUE.into()),
                ]
                .into(),
            ),
            owner_references: snapshot.family.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    };
    let api: Api<Cascade> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    // Until an answer says what came of it, even if this pass goes no further.
    cache.unanswered_cascade = Some(name.into());
    match call(|| format!("create Cascade {name}"), api.create(&PostParams::default(), &cascade))
        .await
    {
        Ok(created) => context.stores.cascades.wrote(created),
        // An earlier pass has made it and did not hear of it.
        Err(error) if error.is_already_exists() => {
            let existing = call(|| format!("read Cascade {name}"), api.get(name)).await?;
            context.stores.cascades.wrote(existing);
            cache.unanswered_cascade = None;
            return Ok(());
        }
        Err(error) => return Err(error),
    }
    cache.unanswered_cascade = None;
    info!(cascade = name, "cascade begins");
    context.metrics.cascade_started();
    events::publish(
        context,
        &snapshot.family,
        Tone::Normal,
        reason::CASCADE_STARTED,
        "Cascade",
        &note,
    )
    .await;
    Ok(())
}

async fn write(
    context: &Context,
    snapshot: &Snapshot,
    cascade: &Cascade,
    status: &CascadeStatus,
) -> Result<(), ReconcileError> {
    let api: Api<Cascade> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    let name = cascade.name_any();
    let patch = apply_status::<Cascade>(&name, status);
    let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
    let written = call(
        || format!("write the status of Cascade {name}"),
        api.patch_status(&name, &parameters, &patch),
    )
    .await;
    match written {
        Ok(written) => context.stores.cascades.wrote(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn told_closed(context: &Context, snapshot: &Snapshot, status: &CascadeStatus) {
    let complete = status.phase == CascadePhase::Complete;
    info!(family = %snapshot.key.name, outcome = %status.outcome, complete, "cascade ends");
    let length = status.duration.map_or(Duration::ZERO, Duration::from);
    context.metrics.cascade_finished(status.phase, length);
    let tone = if complete { Tone::Normal } else { Tone::Warning };
    events::publish(
        context,
        &snapshot.family,
        tone,
        reason::CASCADE_FINISHED,
        "Cascade",
        &status.outcome,
    )
    .await;
}

/// Deletes the oldest records of ended cascades beyond the limit.
async fn forget_old(context: &Context, snapshot: &Snapshot) -> Result<(), ReconcileError> {
    let mut ended = context.stores.cascades.group(&snapshot.key);
    ended.retain(|cascade| {
        let phase = cascade.status.as_ref().map(|status| status.phase).unwrap_or_default();
        phase != CascadePhase::Running && cascade.metadata.deletion_timestamp.is_none()
    });
    // Of one second, the names tell which came first.
    ended.sort_by_key(|cascade| cascade.creation_timestamp());
    let kept = usize::try_from(snapshot.family.spec.history.cascades).unwrap_or(1).max(1);
    let surplus = ended.len().saturating_sub(kept);
    let api: Api<Cascade> = Api::namespaced(context.client.clone(), &snapshot.key.namespace);
    for cascade in ended.into_iter().take(surplus) {
        delete(&api, &cascade.name_any(), &DeleteParams::default()).await?;
    }
    Ok(())
}
