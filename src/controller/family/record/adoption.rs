//! Adoption of records that have lost their family: restored from a backup, copied from another
//! cluster, or left by a deleted family of the same name. Needs a client.
//!
//! The family becomes their owner, so that they are deleted with it. What such a record says is not
//! believed, because anybody may have written it: the status of an image is cleared before the
//! family owns it, and is written again from what the registry has. Only the history of ended
//! cascades is kept, which no decision depends on.

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
    core::NamespaceResourceScope,
    runtime::events::EventType,
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::info;

use crate::{
    api::{Cascade, CascadePhase, ManagedImage, RememberedUpstream, condition::Reason, labels},
    controller::{
        error::{ReconcileError, call},
        family::{
            observe::{
                ObserveError, Observer,
                ownership::{RecordControl, record_name},
            },
            record::{
                events::{self, Notice},
                image::MAX_CONCURRENT_WRITES,
            },
        },
        object_cache::{Key, ObjectCache},
        writes::delete,
    },
    engine::Problem,
};

impl Observer<'_> {
    /// Makes the family the owner of its records that have none.
    ///
    /// # Errors
    ///
    /// Returns a problem if another object controls the record of an image of the spec: the state
    /// of the image could not be recorded.
    pub async fn adopt_records(&mut self) -> Result<(), ObserveError> {
        let images = self.images_to_adopt()?;
        let cascades = self.cascades_to_adopt();
        let Some(owner) = self.family.controller_owner_ref(&()) else { return Ok(()) };
        if images.is_empty() && cascades.is_empty() {
            return Ok(());
        }
        let (ended, running): (Vec<_>, Vec<_>) = cascades.into_iter().partition(has_ended);
        let notice = adoption_note(&images, ended.len());
        for image in &images {
            // The cached answers lack what the record had when the registry was asked.
            self.cache.lookups.forget(&image.spec.image);
            self.cache.tags.remove(&image.spec.image);
        }
        let client = &self.context.client;
        let (namespace, stores) = (&self.key.namespace, &self.context.stores);
        let adopter = Adopter {
            api: Api::namespaced(client.clone(), namespace),
            cache: &stores.images,
            owner: &owner,
        };
        adopter.adopt_all(images).await?;
        let adopter = Adopter {
            api: Api::namespaced(client.clone(), namespace),
            cache: &stores.cascades,
            owner: &owner,
        };
        adopter.adopt_all(ended).await?;
        for cascade in running {
            // Nobody continues it.
            let how = DeleteParams::default().preconditions(Preconditions {
                uid: cascade.uid(),
                resource_version: cascade.resource_version(),
            });
            delete(&adopter.api, &cascade.name_any(), &how).await?;
            stores.cascades.record_missing(&Key::of(&cascade));
        }
        info!(note = %notice.note, "adopted records");
        events::about_family(self.context, &self.family, &notice);
        Ok(())
    }

    /// Returns the records of the family's images, of removed ones as well, that nobody controls.
    fn images_to_adopt(&self) -> Result<Vec<ManagedImage>, Problem> {
        let (stores, family) = (&self.context.stores, &self.key.name);
        let mut adopted = Vec::new();
        // Whatever has the name of a record is in its place, even if its spec names another image.
        for image in &self.family.spec.images {
            let name = record_name(family, &image.name);
            let Some(record) = stores.images.get(&Key::new(&self.key.namespace, &name)) else {
                continue;
            };
            match RecordControl::of(&*record, &self.family, &stores.families) {
                RecordControl::Family => {}
                RecordControl::Nobody => adopted.push(ManagedImage::clone(&record)),
                RecordControl::Other(owner) => return Err(conflict(&image.name, &name, &owner)),
            }
        }
        for record in stores.images.group(&self.key) {
            let is_removed = self.family.spec.images.iter().all(|i| i.name != record.spec.image);
            let control = RecordControl::of(&*record, &self.family, &stores.families);
            if is_removed
                && record.name_any() == record_name(family, &record.spec.image)
                && control == RecordControl::Nobody
            {
                adopted.push(ManagedImage::clone(&record));
            }
        }
        adopted.retain(|record| record.metadata.deletion_timestamp.is_none());
        Ok(adopted)
    }

    fn cascades_to_adopt(&self) -> Vec<Cascade> {
        let stores = &self.context.stores;
        let cascades = stores.cascades.group(&self.key).into_iter().filter(|cascade| {
            cascade.metadata.deletion_timestamp.is_none()
                && RecordControl::of(&**cascade, &self.family, &stores.families)
                    == RecordControl::Nobody
        });
        cascades.map(|cascade| Cascade::clone(&cascade)).collect()
    }
}

fn conflict(image: &str, record: &str, owner: &str) -> Problem {
    Problem {
        reason: Reason::RecordConflict,
        message: format!(
            "spec.images[{image}]: its ManagedImage {record} is controlled by {owner} and not by \
             this family; delete that ManagedImage, or rename the image"
        ),
    }
}

fn has_ended(cascade: &Cascade) -> bool {
    cascade.status.as_ref().is_some_and(|status| status.phase != CascadePhase::Running)
}

/// Returns what users read about adopted records.
fn adoption_note(images: &[ManagedImage], cascades: usize) -> Notice {
    let note = format!(
        "adopted {} ManagedImages and {cascades} Cascades that had no owner; the state of the \
         images is read from the registry",
        images.len()
    );
    let type_ = EventType::Normal;
    Notice { type_, reason: Reason::RecordsAdopted, action: "Adopt", note }
}

/// Makes a family the owner of records of one kind.
struct Adopter<'a, K> {
    api: Api<K>,
    cache: &'a ObjectCache<K>,
    owner: &'a OwnerReference,
}

impl<K> Adopter<'_, K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Adoptable,
{
    async fn adopt_all(&self, records: Vec<K>) -> Result<(), ReconcileError> {
        stream::iter(records)
            .map(|record| self.adopt(record))
            .buffer_unordered(MAX_CONCURRENT_WRITES)
            .try_collect()
            .await
    }

    /// Adopts one record, unless somebody has changed it since it was read. A record whose status
    /// is cleared and that is not owned yet is adopted by the next reconcile.
    async fn adopt(&self, record: K) -> Result<(), ReconcileError> {
        let key = Key::of(&record);
        match self.patch(record).await {
            Ok(written) => {
                self.cache.record_write(written);
                Ok(())
            }
            Err(error) if error.is_not_found() => {
                self.cache.record_missing(&key);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn patch(&self, mut record: K) -> Result<K, ReconcileError> {
        let (kind, name) = (K::kind(&()), record.name_any());
        let parameters = PatchParams {
            field_manager: Some(labels::FIELD_OWNER.into()),
            ..PatchParams::default()
        };
        if record.has_unverified_status() {
            let patch = json!({
                "metadata": {"resourceVersion": record.resource_version()},
                "status": null,
            });
            let what = || format!("clear the status of {kind} {name}");
            let patch = Patch::Merge(patch);
            record = call(what, self.api.patch_status(&name, &parameters, &patch)).await?;
        }
        // Server-side apply would keep the reference to a deleted family, and an object must not
        // have two controllers.
        let mut patch = json!({"metadata": {
            "resourceVersion": record.resource_version(),
            "ownerReferences": owners(record.owner_references(), self.owner),
        }});
        if let Some(body) = patch.as_object_mut()
            && let Some(remembered) = record.unverified_memory()
        {
            body.insert("spec".into(), json!({"upstreams": remembered}));
        }
        let patch = Patch::Merge(patch);
        let what = || format!("make the family the owner of {kind} {name}");
        call(what, self.api.patch(&name, &parameters, &patch)).await
    }
}

/// A record that can be adopted.
trait Adoptable {
    /// Returns whether the record has a status that a decision would depend on.
    fn has_unverified_status(&self) -> bool;

    /// Returns what the record remembers of upstreams, as somebody unknown has written it, if
    /// anything.
    fn unverified_memory(&self) -> Option<Vec<RememberedUpstream>> {
        None
    }
}

impl Adoptable for ManagedImage {
    fn has_unverified_status(&self) -> bool {
        self.status.is_some()
    }

    fn unverified_memory(&self) -> Option<Vec<RememberedUpstream>> {
        let known = self.spec.upstreams.iter().cloned();
        let unverified = known.map(|known| RememberedUpstream { unverified: true, ..known });
        (!self.spec.upstreams.is_empty()).then(|| unverified.collect())
    }
}

impl Adoptable for Cascade {
    fn has_unverified_status(&self) -> bool {
        false
    }
}

/// Returns the owners of an adopted record. Those that do not control it are kept, except other
/// families of the same name.
fn owners(known: &[OwnerReference], owner: &OwnerReference) -> Vec<OwnerReference> {
    let is_replaced = |known: &OwnerReference| {
        known.controller == Some(true) || (known.kind == owner.kind && known.name == owner.name)
    };
    let kept = known.iter().filter(|known| !is_replaced(known)).cloned();
    [owner.clone()].into_iter().chain(kept).collect()
}
