//! The state that the system must converge to when nothing goes wrong any more. It is computed from
//! scratch: from the specs, the sources and the registries, without the engine.
//!
//! [`images`]: what each image must have become; [`tags`]: which digests upstreams and tags must be
//! at.

mod images;
mod tags;

use std::collections::BTreeMap;

use groundswell::{
    api::{Image, ImageFamilySpec, ImageFamilyStatus, ManagedImageStatus, RequestState},
    controller::object_cache::Key,
};
use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    cluster::Cluster,
    invariants::requests,
    job_controller::Phase,
    objects::{Kind, owner, uid},
};

/// How strict the oracle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// An image may stay failed if its last build failed for any reason.
    Lenient,
    /// Only an image that can't be built may stay failed, and no hold may be about to end, because
    /// that would start a cascade.
    Strict,
}

/// The state that an image has converged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FinalState {
    /// Built from its current inputs.
    Current,
    /// Held at its digest.
    Held,
    /// Failed.
    Failed,
    /// Blocked by a failed ancestor.
    Blocked,
    /// Waits for a parent that never has a digest.
    Waiting,
}

/// Returns the first difference from the expected state.
pub fn mismatch(cluster: &Cluster, strictness: Strictness) -> Option<String> {
    if let Some(work) = cluster.work.values().find(|work| work.phase == Phase::Live) {
        return Some(format!("{} runs", work.key.name));
    }
    let families: Option<BTreeMap<String, FamilyView>> = cluster
        .objects
        .all(Kind::Family)
        .map(|(key, _)| Some((key.name.clone(), FamilyView::of(cluster, key)?)))
        .collect();
    let Some(families) = families else { return Some("a family can't be read".into()) };
    if strictness == Strictness::Strict
        && let Some(until) =
            families.values().find_map(|family| family.hold_end(cluster.time.truth()))
    {
        return Some(format!("a hold ends at {until}"));
    }
    let mut oracle =
        Oracle { cluster, families: &families, strictness, final_states: BTreeMap::new() };
    families
        .values()
        .filter_map(|family| {
            oracle.family(family).err().map(|why| format!("{}: {why}", family.key.name))
        })
        .next()
}

/// A family and its records.
struct FamilyView {
    key: Key,
    uid: String,
    spec: ImageFamilySpec,
    status: ImageFamilyStatus,
    records: BTreeMap<String, ManagedImageStatus>,
}

impl FamilyView {
    fn of(cluster: &Cluster, key: &Key) -> Option<Self> {
        let object = cluster.objects.get(Kind::Family, key)?;
        let spec = ImageFamilySpec::deserialize(&object["spec"]).ok()?;
        let status = ImageFamilyStatus::deserialize(&object["status"]).unwrap_or_default();
        let record = |image: &Image| {
            let key = Key::new(&key.namespace, &format!("{}.{}", key.name, image.name));
            let object = cluster.objects.get(Kind::Image, &key)?;
            Some((image.name.clone(), ManagedImageStatus::deserialize(&object["status"]).ok()?))
        };
        let records = spec.images.iter().filter_map(record).collect();
        Some(Self { key: key.clone(), uid: uid(object).into(), spec, status, records })
    }

    fn image(&self, name: &str) -> Option<&Image> {
        self.spec.images.iter().find(|image| image.name == name)
    }

    /// Returns when an active hold ends, if one has an end.
    fn hold_end(&self, now: Timestamp) -> Option<Timestamp> {
        let upstreams =
            self.spec.upstreams.iter().filter_map(|upstream| upstream.hold.as_ref()?.until);
        let images = self.spec.images.iter().filter_map(|image| image.hold.as_ref()?.until);
        let of_upstreams =
            self.status.upstreams.iter().filter_map(|upstream| upstream.hold.as_ref()?.until);
        let of_images = self.records.values().filter_map(|record| record.hold.as_ref()?.until);
        upstreams.chain(images).chain(of_upstreams).chain(of_images).find(|until| *until > now)
    }

    fn record(&self, name: &str) -> ManagedImageStatus {
        self.records.get(name).cloned().unwrap_or_default()
    }
}

struct Oracle<'a> {
    cluster: &'a Cluster,
    families: &'a BTreeMap<String, FamilyView>,
    strictness: Strictness,
    /// The final states of images, by family and name.
    final_states: BTreeMap<(String, String), FinalState>,
}

impl Oracle<'_> {
    fn family(&mut self, family: &FamilyView) -> Result<(), String> {
        for upstream in &family.spec.upstreams {
            self.adopted(family, upstream)?;
        }
        let mut final_states = Vec::new();
        for image in &family.spec.images {
            final_states.push(self.final_state(family, image)?);
        }
        let mut tag_is_taken = false;
        for image in &family.spec.images {
            tag_is_taken |= self.tags(family, image, &final_states)?;
        }
        let status = &family.status;
        let ready = status
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let all_current =
            final_states.iter().all(|final_state| *final_state == FinalState::Current);
        if (all_current && !tag_is_taken) != ready && !final_states.contains(&FinalState::Held) {
            return Err(format!(
                "all images current: {all_current}, Ready: {ready}: {:?}",
                status.conditions
            ));
        }
        let current =
            final_states.iter().filter(|final_state| **final_state == FinalState::Current).count();
        if usize::try_from(status.counts.current) != Ok(current)
            && !final_states.contains(&FinalState::Held)
        {
            return Err(format!("counts.current is {}, and not {current}", status.counts.current));
        }
        if let Some(pending) = &status.pending {
            return Err(format!("{pending:?}"));
        }
        if let Some(cascade) = status.cascades.first() {
            return Err(format!("{cascade:?}"));
        }
        let cascades = self
            .cluster
            .objects
            .all(Kind::Cascade)
            .filter(|(_, cascade)| owner(cascade) == family.uid);
        let running = cascades.filter(|(_, cascade)| {
            matches!(cascade["status"]["phase"].as_str(), None | Some("Running"))
        });
        if let Some((cascade, _)) = running.into_iter().next() {
            return Err(format!("{} runs", cascade.name));
        }
        self.requests(family)?;
        let records =
            self.cluster.objects.all(Kind::Image).filter(|(_, record)| owner(record) == family.uid);
        let gone = records.filter(|(_, record)| {
            record["spec"]["image"].as_str().is_none_or(|name| family.image(name).is_none())
        });
        match gone.into_iter().next() {
            Some((name, _)) => {
                Err(format!("{} is the record of an image that does not exist", name.name))
            }
            None => Ok(()),
        }
    }

    /// Checks that every request is answered, and that those that last have effect.
    fn requests(&self, family: &FamilyView) -> Result<(), String> {
        for (key, object) in self.cluster.objects.all(Kind::Request) {
            if object["spec"]["family"] != family.key.name.as_str() {
                continue;
            }
            let state = requests::state(object);
            if state.is_none_or(|state| state == RequestState::Waiting) {
                return Err(format!("{} is not carried out: {object}", key.name));
            }
            let is_hold = object["spec"]["action"] == "Hold";
            let image =
                object["spec"]["image"].as_str().filter(|name| family.image(name).is_some());
            if let (Some(RequestState::Active), true, Some(image)) = (state, is_hold, image)
                && family.record(image).hold.is_none_or(|hold| hold.request != key.name)
            {
                return Err(format!("{} does not hold {image}", key.name));
            }
        }
        Ok(())
    }
}
