//! States that the records of images do not have yet. The controller writes a passing state of an
//! image only once it has lasted some seconds. The record of a running cascade has it within a
//! second.

use std::collections::HashMap;

use jiff::Timestamp;
use kube::{Resource, ResourceExt as _};

use groundswell::api::{
    Cascade, CascadePhase, ImageResult, ImageState, ManagedImage, labels::FIELD_OWNER,
};

/// Sets the passing states of images that the records of running cascades have, if the controller
/// has written those after the records of the images.
pub fn set_live_states<'a>(
    images: impl IntoIterator<Item = &'a mut ManagedImage>,
    cascades: impl IntoIterator<Item = &'a Cascade>,
) {
    let mut newest: HashMap<(String, &str, &str), LiveState<'_>> = HashMap::new();
    for cascade in cascades {
        let (Some(status), Some(at)) = (&cascade.status, status_written_at(cascade)) else {
            continue;
        };
        if status.phase != CascadePhase::Running {
            continue;
        }
        for result in &status.images {
            let namespace = cascade.namespace().unwrap_or_default();
            let image = (namespace, cascade.spec.family.as_str(), result.name.as_str());
            let known = newest.entry(image).or_insert(LiveState { result, at });
            if known.at < at {
                *known = LiveState { result, at };
            }
        }
    }
    if newest.is_empty() {
        return;
    }
    for image in images {
        let namespace = image.namespace().unwrap_or_default();
        let key = (namespace, image.spec.family.as_str(), image.spec.image.as_str());
        if let Some(live) = newest.get(&key) {
            live.set(image);
        }
    }
}

/// What a running cascade says of an image.
#[derive(Clone, Copy, Debug)]
struct LiveState<'a> {
    result: &'a ImageResult,
    /// When the controller has written it.
    at: Timestamp,
}

impl LiveState<'_> {
    fn set(self, image: &mut ManagedImage) {
        let Some(written_at) = status_written_at(image) else { return };
        let Some(status) = &mut image.status else { return };
        // Within one second, an image that has reached its end has done so last: its record is
        // written before that of the cascade.
        let is_newer = self.at > written_at || self.at == written_at && is_passing(status.state);
        let state = self.result.state;
        if !is_newer || !is_passing(state) || status.state == state {
            return;
        }
        status.state = state;
        state.as_str().clone_into(&mut status.reason);
        status.message.clone_from(&self.result.message);
        let is_first_build = state == ImageState::Building && self.result.builds == 1;
        status.since = self.result.started_at.filter(|_| is_first_build);
    }
}

/// Whether an image is in this state for a while only.
const fn is_passing(state: ImageState) -> bool {
    use ImageState::{Building, Checking, Queued, Waiting};
    matches!(state, Waiting | Queued | Building | Checking)
}

/// Returns when the controller has last changed the status of an object, in whole seconds.
fn status_written_at<K: Resource<DynamicType = ()>>(object: &K) -> Option<Timestamp> {
    let entries = object.meta().managed_fields.as_deref().unwrap_or_default().iter();
    let of_status = entries.filter(|entry| {
        entry.manager.as_deref() == Some(FIELD_OWNER)
            && entry.subresource.as_deref() == Some("status")
    });
    of_status.filter_map(|entry| Some(entry.time.as_ref()?.0)).max()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn written(second: u32) -> Value {
        json!([{"manager": "groundswell", "operation": "Apply", "subresource": "status",
                "apiVersion": "groundswell.dev/v1alpha1", "fieldsType": "FieldsV1",
                "fieldsV1": {}, "time": format!("2026-05-01T12:00:{second:02}Z")}])
    }

    fn image(state: &str, second: u32) -> ManagedImage {
        serde_json::from_value(json!({
            "metadata": {"name": "f.a", "namespace": "team", "managedFields": written(second)},
            "spec": {"family": "f", "image": "a"},
            "status": {"state": state, "reason": "Old", "message": "old"},
        }))
        .expect("an image")
    }

    fn cascade(phase: &str, state: &str, second: u32) -> Cascade {
        serde_json::from_value(json!({
            "metadata": {"name": "c", "namespace": "team", "managedFields": written(second)},
            "spec": {"family": "f"},
            "status": {"phase": phase, "images": [{
                "name": "a", "state": state, "builds": 1, "message": "debian moved",
                "startedAt": "2026-05-01T12:00:03Z",
            }]},
        }))
        .expect("a cascade")
    }

    fn live(mut image: ManagedImage, cascades: &[Cascade]) -> (ImageState, String) {
        set_live_states([&mut image], cascades);
        let status = image.status.expect("a status");
        (status.state, status.message)
    }

    #[test]
    fn a_passing_state_of_a_running_cascade_is_shown_if_it_was_written_last() {
        let (old, new) = ("old", "debian moved");
        let check =
            |of_image: (&str, u32), of_cascade: (&str, &str), expected: (ImageState, &str)| {
                let cascade = cascade(of_cascade.0, of_cascade.1, 4);
                let (state, message) = live(image(of_image.0, of_image.1), &[cascade]);
                assert_eq!((state, message.as_str()), expected, "{of_image:?}, {of_cascade:?}");
            };
        let building = ("Running", "Building");
        check(("Current", 2), building, (ImageState::Building, new));
        check(("Queued", 4), building, (ImageState::Building, new));
        check(("Current", 4), building, (ImageState::Current, old));
        check(("Current", 5), building, (ImageState::Current, old));
        check(("Building", 2), building, (ImageState::Building, old));
        check(("Current", 2), ("Complete", "Building"), (ImageState::Current, old));
        // The record of an image that has failed was written before.
        check(("Queued", 2), ("Running", "Failed"), (ImageState::Queued, old));
    }

    #[test]
    fn of_two_cascades_the_one_that_was_written_last_counts() {
        let cascades = [cascade("Running", "Checking", 5), cascade("Running", "Queued", 4)];
        assert_eq!(live(image("Current", 2), &cascades).0, ImageState::Checking);
    }

    #[test]
    fn without_the_times_of_writes_the_record_of_the_image_counts() {
        let mut stripped = image("Current", 2);
        stripped.metadata.managed_fields = None;
        let cascades = [cascade("Running", "Building", 4)];
        assert_eq!(live(stripped, &cascades).0, ImageState::Current);
    }
}
