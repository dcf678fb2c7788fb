//! The reconciler of a `ManagedImage`: moves its workloads to its promoted digest. Needs a client.
//!
//! It is separate from the reconciler of the family, so that a cascade never waits for a rollout,
//! nor a rollout for a cascade. It writes `status.rollouts` and the condition `RolledOut` under a
//! field owner of its own.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{
    Api, ResourceExt,
    api::PatchParams,
    runtime::{controller::Action, events::EventType, reflector::ObjectRef},
};
use serde_json::json;
use tracing::{info, warn};

use crate::{
    api::{
        ImageFamily, ManagedImage, ManagedImageStatus, Rollout, RolloutRecord, RolloutState,
        condition::{self, ConditionUpdate, Reason},
        labels,
    },
    controller::{
        context::Context,
        error::{ReconcileError, again_after_conflict, call},
        family::{
            observe::ownership::is_record_of,
            record::events::{self, Notice},
        },
        object_cache::Key,
        writes::apply_status_unchanged,
    },
    engine::blueprint::repository,
    rollout::{self, DigestOrigin, RolloutFamily, RolloutStep},
};

/// Condition of a `ManagedImage` that is true when its workloads run its digest.
pub const ROLLED_OUT: &str = "RolledOut";
/// Upper bound on the time between two reconciles of an image.
const RESYNC: Duration = Duration::from_mins(10);
/// The pause until a change of a workload that failed is retried.
const PATCH_RETRY_PAUSE: Duration = Duration::from_secs(10);

/// Reconciles the workloads of an image once.
///
/// # Errors
///
/// Returns an error if the status cannot be written. A workload that cannot be changed is part of
/// the status.
pub async fn reconcile(
    image: Arc<ManagedImage>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    again_after_conflict(reconcile_once(image, context).await)
}

async fn reconcile_once(
    image: Arc<ManagedImage>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    // 1. (pure) Read the image and its family from the stores.
    let key = Key::of(&*image);
    let live = |image: &Arc<ManagedImage>| image.metadata.deletion_timestamp.is_none();
    let Some(image) = context.stores.images.get(&key).filter(live) else {
        return Ok(Action::await_change());
    };
    let family = context.stores.families.get(&Key::new(&key.namespace, &image.spec.family));
    let serves = |family: &Arc<ImageFamily>| {
        !family.spec.suspend
            && is_record_of(&image, family)
            && !context.installations.is_others(family)
    };
    let Some(family) = family.filter(serves) else {
        return Ok(Action::requeue(RESYNC));
    };
    let Some(RolledOutImage { repository, rollouts }) = RolledOutImage::of(&family, &image) else {
        return Ok(Action::requeue(RESYNC));
    };
    context.rollouts.register(&ObjectRef::from_obj(&*image), &key.namespace, rollouts);
    let Some(digest) = rollout_digest(image.status.as_ref()).filter(|_| !is_frozen(&image)) else {
        return Ok(Action::requeue(RESYNC));
    };

    // 2. (pure) Plan the changes of the workloads.
    let of = RolloutFamily {
        namespace: &key.namespace,
        name: &image.spec.family,
        origin: digest_origin(image.status.as_ref()),
    };
    let mut steps = rollout::plan(of, &repository, digest, rollouts, &context.workloads);
    let now = context.clock.now();
    let uid = image.metadata.uid.as_deref().unwrap_or_default();
    let review_in = context.reverts.review(uid, &mut steps, now);

    // 3. (API) Change the workloads.
    let rollout = RolloutReconcile { context: &context, family: &family, image: &image, uid, now };
    let failure = rollout.change_workloads(&steps).await;

    // 4. (API) Record the rollouts.
    rollout.record(steps, failure.as_deref()).await?;
    let retry_in = failure.is_some().then_some(PATCH_RETRY_PAUSE);
    Ok(Action::requeue([retry_in, review_in].into_iter().flatten().min().unwrap_or(RESYNC)))
}

/// What the family says of an image that is rolled out. Whoever may patch a record may change its
/// spec for a moment, so that nothing of it is believed.
#[derive(Debug, PartialEq)]
struct RolledOutImage<'a> {
    repository: String,
    rollouts: &'a [Rollout],
}

impl<'a> RolledOutImage<'a> {
    /// Returns what the family says of the image of a record. An image that the family does not
    /// have has no rollouts. `None` if the record is about another repository: its digest is not in
    /// the one of the family, or somebody has changed the record.
    fn of(family: &'a ImageFamily, record: &ManagedImage) -> Option<Self> {
        let mut images = family.spec.images.iter();
        let Some(image) = images.find(|candidate| candidate.name == record.spec.image) else {
            return Some(Self { repository: String::new(), rollouts: &[] });
        };
        let repository = repository(&family.spec, image);
        let is_same = repository == record.spec.repository;
        is_same.then_some(Self { repository, rollouts: image.rollout.as_slice() })
    }
}

/// Returns the digest that workloads are moved to: the promoted one, once the floating tags point
/// to it, because a restarted pod pulls by tag.
fn rollout_digest(status: Option<&ManagedImageStatus>) -> Option<&str> {
    let status = status?;
    let digest = status.promoted.as_deref()?;
    let mut floating = status.tags.iter().filter(|tag| !tag.immutable).peekable();
    let is_set = match &status.rollback {
        // Tags that name labels of the newest build do not go back.
        Some(_) => floating.peek().is_none() || floating.any(|tag| tag.digest == digest),
        None => floating.all(|tag| tag.digest == digest),
    };
    is_set.then_some(digest)
}

/// Whether the workloads stay as they are: the image is rolled back without them.
fn is_frozen(image: &ManagedImage) -> bool {
    let rollback = image.status.as_ref().and_then(|status| status.rollback.as_ref());
    rollback.is_some_and(|rollback| !rollback.rollout)
}

fn digest_origin(status: Option<&ManagedImageStatus>) -> DigestOrigin {
    let adopted = status.and_then(|status| status.adopted.as_ref());
    adopted.map_or(DigestOrigin::Built, |_| DigestOrigin::Adopted)
}

/// One reconcile of an image: what its steps share.
struct RolloutReconcile<'a> {
    context: &'a Context,
    family: &'a ImageFamily,
    image: &'a ManagedImage,
    /// The uid of the image.
    uid: &'a str,
    now: Timestamp,
}

impl RolloutReconcile<'_> {
    /// Changes the workloads as planned. Returns the first failure.
    async fn change_workloads(&self, steps: &[RolloutStep]) -> Option<String> {
        let mut failure = None;
        for step in steps {
            let Some(patch) = &step.patch else { continue };
            match rollout::apply(&self.context.client, patch).await {
                Ok(generation) => {
                    self.context.reverts.record_change(self.uid, step, generation, self.now);
                    info!(workload = %patch.key, "moved a workload to a new digest");
                }
                // The store is outdated. The watch will show the change that caused the conflict,
                // and trigger the next reconcile.
                Err(rollout::RolloutError::Conflict(_)) => {}
                Err(error) => {
                    warn!(workload = %patch.key, %error, "could not move a workload");
                    failure = failure.or_else(|| Some(error.to_string()));
                }
            }
        }
        failure
    }

    /// Records the rollouts, if they have changed.
    async fn record(
        &self,
        steps: Vec<RolloutStep>,
        failure: Option<&str>,
    ) -> Result<(), ReconcileError> {
        let old = self.image.status.clone().unwrap_or_default();
        let rollouts: Vec<RolloutRecord> = steps.into_iter().map(|step| step.record).collect();
        self.export_states(&rollouts);
        let condition = rolled_out_condition(&old.conditions, &rollouts, failure, self.now);
        let known = old.conditions.iter().find(|known| known.type_ == ROLLED_OUT);
        if old.rollouts == rollouts && known == condition.as_ref() {
            return Ok(());
        }
        let status =
            json!({ "conditions": condition.iter().collect::<Vec<_>>(), "rollouts": rollouts });
        let name = self.image.name_any();
        let namespace = self.image.namespace().unwrap_or_default();
        let api: Api<ManagedImage> = Api::namespaced(self.context.client.clone(), &namespace);
        let parameters = PatchParams::apply(labels::ROLLOUT_FIELD_OWNER).force();
        let patch = apply_status_unchanged(self.image, &status);
        let what = || format!("write the rollouts of ManagedImage {name}");
        match call(what, api.patch_status(&name, &parameters, &patch)).await {
            Ok(written) => self.context.stores.images.record_write(written),
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        self.publish_events(&old.rollouts, &rollouts);
        Ok(())
    }

    /// Exports the states of the rollouts as metrics.
    fn export_states(&self, rollouts: &[RolloutRecord]) {
        let Key { namespace, name } = Key::of(self.image);
        let image = format!("{namespace}/{name}");
        if rollouts.is_empty() {
            self.context.metrics.image_gone(&image);
        } else {
            let states = rollouts.iter().map(|record| record.state).collect();
            self.context.metrics.rollouts(&image, states);
        }
    }

    /// Publishes what has changed between two records of the rollouts.
    fn publish_events(&self, old: &[RolloutRecord], new: &[RolloutRecord]) {
        for record in new {
            let before = old.iter().find(|before| {
                before.workload == record.workload && before.digest == record.digest
            });
            if before.is_some_and(|before| before.state == record.state) {
                continue;
            }
            let (type_, reason) = match record.state {
                RolloutState::Complete if before.is_some() => (EventType::Normal, Reason::Current),
                RolloutState::Complete => continue,
                RolloutState::Progressing => (EventType::Normal, Reason::RollingOut),
                RolloutState::Stalled => (EventType::Warning, Reason::RolloutStalled),
                RolloutState::Contested => (EventType::Warning, Reason::RolloutContested),
                RolloutState::Refused => (EventType::Warning, Reason::RolloutRefused),
            };
            let note = format!("{}: {}", record.workload, record.message);
            let notice = Notice { type_, reason, action: "Rollout", note };
            events::about_image(self.context, self.family, &self.image.spec.image, &notice);
        }
    }
}

/// Returns the condition `RolledOut`; `None` for an image without rollouts.
fn rolled_out_condition(
    old: &[Condition],
    rollouts: &[RolloutRecord],
    failure: Option<&str>,
    now: Timestamp,
) -> Option<Condition> {
    let worst = [
        (RolloutState::Refused, Reason::RolloutRefused),
        (RolloutState::Contested, Reason::RolloutContested),
        (RolloutState::Stalled, Reason::RolloutStalled),
        (RolloutState::Progressing, Reason::RollingOut),
    ]
    .into_iter()
    .find_map(|(state, reason)| {
        Some((reason, rollouts.iter().find(|record| record.state == state)?))
    });
    let (status, reason, message) = match (failure, worst) {
        _ if rollouts.is_empty() => return None,
        (Some(failure), _) => (false, Reason::RolloutRefused, failure.to_owned()),
        (None, Some((reason, record))) => {
            (false, reason, format!("{}: {}", record.workload, record.message))
        }
        (None, None) => {
            (true, Reason::Current, format!("all {} workloads run the digest", rollouts.len()))
        }
    };
    let mut conditions =
        old.iter().filter(|condition| condition.type_ == ROLLED_OUT).cloned().collect();
    let update = ConditionUpdate {
        type_: ROLLED_OUT,
        status,
        reason,
        message: &message,
        observed_generation: None,
    };
    condition::set(&mut conditions, update, now);
    conditions.pop()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Image, ImageFamilySpec, ManagedImageSpec};

    #[test]
    fn workloads_follow_a_rollback_only_if_a_user_has_asked_for_it() {
        let image = |rollback: serde_json::Value, tags: &[&str]| {
            let tag = |digest: &&str| json!({"tag": digest, "digest": digest, "immutable": false});
            let status = json!({"promoted": "old", "rollback": rollback,
                                "tags": tags.iter().map(tag).collect::<Vec<_>>()});
            let status = serde_json::from_value(status).expect("a status");
            ManagedImage { status: Some(status), ..ManagedImage::default() }
        };
        let target = |image: &ManagedImage| rollout_digest(image.status.as_ref()).is_some();
        let asked = json!({"digest": "old", "rollout": true});
        for (image, follows) in [
            (image(json!({"digest": "old"}), &["old"]), false),
            (image(asked.clone(), &["old", "named-by-a-label"]), true),
            (image(asked.clone(), &[]), true),
            (image(asked, &["new"]), false),
            (image(json!(null), &["old"]), true),
            (image(json!(null), &["old", "new"]), false),
        ] {
            assert_eq!(target(&image) && !is_frozen(&image), follows, "{image:?}");
        }
    }

    #[test]
    fn a_record_that_names_another_repository_rolls_nothing_out() {
        let image =
            Image { name: "web".into(), rollout: vec![Rollout::default()], ..Image::default() };
        let spec = ImageFamilySpec {
            repository: "registry.example.com/shop".into(),
            images: vec![image],
            ..ImageFamilySpec::default()
        };
        let family = ImageFamily::new("shop", spec);
        let record = |image: &str, repository: &str| {
            let (image, repository) = (image.to_owned(), repository.to_owned());
            let spec = ManagedImageSpec { image, repository, ..ManagedImageSpec::default() };
            ManagedImage::new("shop.web", spec)
        };
        let own = record("web", "registry.example.com/shop/web");
        let of_family = RolledOutImage::of(&family, &own).expect("what the family says");
        assert_eq!(of_family.repository, "registry.example.com/shop/web");
        assert_eq!(of_family.rollouts.len(), 1);
        assert_eq!(RolledOutImage::of(&family, &record("web", "evil.example.com/x")), None);
        let removed = record("gone", "registry.example.com/shop/gone");
        let removed = RolledOutImage::of(&family, &removed).expect("nothing to roll out");
        assert_eq!(removed.rollouts, &[]);
    }
}
