//! The records of cascades: each is created when the cascade opens, updated while it runs, and kept
//! if it is one of the last few that have ended. Needs a client.

use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, PatchParams, PostParams},
    core::ObjectMeta,
    runtime::events::EventType,
};
use tracing::info;

use crate::{
    api::{Cascade, CascadePhase, CascadeSpec, CascadeStatus, condition::Reason, labels},
    controller::{
        error::{ReconcileError, call},
        family::{
            observe::ownership::is_controlled_by, reconcile::Reconcile, record::events::Notice,
        },
        writes::{apply_status_unchanged, delete},
    },
    engine::{CascadeDecision, cascade::status, causes},
    lineage::ImageIndex,
};

impl Reconcile<'_> {
    /// Records what the decision says about the cascades. Returns when a deferred write is due.
    pub(super) async fn record_cascades(&mut self) -> Result<Option<Timestamp>, ReconcileError> {
        self.delete_old_cascades().await?;
        if let CascadeDecision::Start { name, causes, supersedes, levels } = &self.decision.cascade
        {
            let names = |level: &Vec<ImageIndex>| {
                level.iter().map(|image| self.image_name(*image).to_owned()).collect()
            };
            let spec = CascadeSpec {
                family: self.snapshot.key.name.clone(),
                supersedes: supersedes.as_ref().map(String::from),
                causes: causes.clone(),
                levels: levels.iter().map(names).collect(),
            };
            let name = name.clone();
            self.open_cascade(name.as_str(), spec).await?;
            return Ok(None);
        }
        let mut due = None;
        for cascade in self.snapshot.cascades.clone() {
            due = [due, self.record_running(&cascade).await?].into_iter().flatten().min();
        }
        Ok(due)
    }

    /// Records the state of a running cascade, or its end. Returns when a deferred write is due.
    async fn record_running(
        &mut self,
        cascade: &Cascade,
    ) -> Result<Option<Timestamp>, ReconcileError> {
        let status = self.cascade_status(cascade);
        if status.phase != CascadePhase::Running {
            self.write_cascade_status(cascade, &status).await?;
            self.publish_cascade_end(&status);
            return Ok(None);
        }
        if cascade.status.as_ref() == Some(&status) {
            return Ok(None);
        }
        let written = format!("cascade {}", cascade.name_any());
        if let due @ Some(_) = self.cache.write_deferred_until(&written, self.now) {
            return Ok(due);
        }
        self.cache.note_write(&written, self.now);
        self.write_cascade_status(cascade, &status).await?;
        Ok(None)
    }

    fn cascade_status(&self, cascade: &Cascade) -> CascadeStatus {
        let planned: BTreeSet<&str> =
            cascade.spec.levels.iter().flatten().map(String::as_str).collect();
        let previous = cascade.status.clone().unwrap_or_default();
        let created_at = || cascade.creation_timestamp().map(|time| time.0);
        let started_at = previous.started_at.or_else(created_at);
        let previous = CascadeStatus { started_at, ..previous };
        status::cascade_status(
            &self.snapshot.input(self.cache),
            &self.decision,
            &cascade.name_any().into(),
            &planned,
            &previous,
            self.now,
        )
    }

    async fn open_cascade(&mut self, name: &str, spec: CascadeSpec) -> Result<(), ReconcileError> {
        let note = format!("{}: {}", name, causes::sentence(&spec.causes));
        let family = &self.snapshot.family;
        let labels = [
            (labels::FAMILY.to_owned(), self.snapshot.key.name.clone()),
            (labels::MANAGED_BY.into(), labels::MANAGED_BY_VALUE.into()),
        ];
        let cascade = Cascade {
            metadata: ObjectMeta {
                name: Some(name.into()),
                namespace: Some(self.snapshot.key.namespace.clone()),
                labels: Some(labels.into()),
                owner_references: family.controller_owner_ref(&()).map(|owner| vec![owner]),
                ..ObjectMeta::default()
            },
            spec,
            status: None,
        };
        let api: Api<Cascade> = self.api();
        // Noted before the call, and until it is answered: this reconcile may end in between.
        self.cache.unanswered_cascade = Some(name.into());
        let parameters = PostParams::default();
        let create = api.create(&parameters, &cascade);
        match call(|| format!("create Cascade {name}"), create).await {
            Ok(created) => self.context.stores.cascades.record_write(created),
            // An earlier reconcile has created it, and got no answer.
            Err(error) if error.is_already_exists() => {
                let existing = call(|| format!("read Cascade {name}"), api.get(name)).await?;
                self.context.stores.cascades.record_write(existing);
                self.cache.unanswered_cascade = None;
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.cache.unanswered_cascade = None;
        info!("the cascade has started");
        self.context.metrics.cascade_started();
        let notice = Notice {
            type_: EventType::Normal,
            reason: Reason::CascadeStarted,
            action: "Cascade",
            note,
        };
        self.publish_about_family(&notice);
        Ok(())
    }

    async fn write_cascade_status(
        &self,
        cascade: &Cascade,
        status: &CascadeStatus,
    ) -> Result<(), ReconcileError> {
        let api: Api<Cascade> = self.api();
        let name = cascade.name_any();
        let patch = apply_status_unchanged(cascade, status);
        let parameters = PatchParams::apply(labels::FIELD_OWNER).force();
        let what = || format!("write the status of Cascade {name}");
        match call(what, api.patch_status(&name, &parameters, &patch)).await {
            Ok(written) => self.context.stores.cascades.record_write(written),
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                if error.is_conflict() {
                    let read = call(|| format!("read Cascade {name}"), api.get(&name)).await?;
                    self.context.stores.cascades.record_write(read);
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn publish_cascade_end(&self, status: &CascadeStatus) {
        let complete = status.phase == CascadePhase::Complete;
        info!(result = %status.message, complete, "the cascade has ended");
        let duration = status.duration.map_or(Duration::ZERO, Duration::from);
        self.context.metrics.cascade_finished(status.phase, duration);
        let notice = Notice {
            type_: if complete { EventType::Normal } else { EventType::Warning },
            reason: Reason::CascadeFinished,
            action: "Cascade",
            note: status.message.clone(),
        };
        self.publish_about_family(&notice);
    }

    /// Deletes the records of the cascades that ended first, beyond the limit of the spec.
    async fn delete_old_cascades(&self) -> Result<(), ReconcileError> {
        let mut ended = self.context.stores.cascades.group(&self.snapshot.key);
        ended.retain(|cascade| {
            let phase = cascade.status.as_ref().map(|status| status.phase).unwrap_or_default();
            phase != CascadePhase::Running
                && cascade.metadata.deletion_timestamp.is_none()
                && is_controlled_by(&**cascade, &self.snapshot.family)
        });
        // The sort is stable, and the store sorts by name: names decide within one second.
        ended.sort_by_key(|cascade| {
            let finished_at = cascade.status.as_ref().and_then(|status| status.finished_at);
            (finished_at, cascade.creation_timestamp())
        });
        let limit = self.snapshot.family.spec.history.cascades;
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(1).max(1));
        let api: Api<Cascade> = self.api();
        for cascade in ended.into_iter().take(surplus) {
            delete(&api, &cascade.name_any(), &DeleteParams::default()).await?;
        }
        Ok(())
    }
}
