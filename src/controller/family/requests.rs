//! Requests of people: read from the annotations of the family and of its images, and their outcomes kept.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt;

use super::{
    super::context::Context,
    events::{self, Tone},
    observe::World,
};
use crate::{
    api::{
        FamilyImage, HandledRequest, ImageFamily, Request,
        condition::reason,
        labels,
        request::{RequestOutcome, is_handled, record, unreadable_id},
    },
    engine::{Decision, RequestSight, Target},
};

/// The requests that are not handled yet: of the family, and of its images by name.
#[must_use]
pub(super) fn sights(
    family: &ImageFamily,
    records: &HashMap<String, Arc<FamilyImage>>,
    now: Timestamp,
) -> Vec<RequestSight> {
    let handled = |requests: Option<&[HandledRequest]>, id: &str| requests.is_some_and(|known| is_handled(known, id));
    let mut sights = Vec::new();
    if let Some(value) = family.annotations().get(labels::REQUEST) {
        let known = family.status.as_ref().map(|status| status.requests.as_slice());
        let request = Request::parse(value).map_err(|error| HandledRequest::unreadable(value, &error, now));
        let id = request.as_ref().map_or_else(|_| unreadable_id(value), |request| request.id.clone());
        if !handled(known, &id) {
            sights.push(RequestSight { target: Target::Family, request });
        }
    }
    for (index, image) in family.spec.images.iter().enumerate() {
        let Some(record) = records.get(&image.name) else { continue };
        let Some(value) = record.annotations().get(labels::REQUEST) else { continue };
        let known = record.status.as_ref().map(|status| status.requests.as_slice());
        let request =
            Request::parse_on_image(value, &image.name).map_err(|error| HandledRequest::unreadable(value, &error, now));
        let id = request.as_ref().map_or_else(|_| unreadable_id(value), |request| request.id.clone());
        if !handled(known, &id) {
            sights.push(RequestSight { target: Target::Image(index), request });
        }
    }
    sights
}

/// The record of requests with those that this pass has handled on an object, newest first.
#[must_use]
pub fn recorded(decision: &Decision, target: Target, old: &[HandledRequest]) -> Vec<HandledRequest> {
    let mut requests = old.to_vec();
    for (_, handled) in decision.handled.iter().filter(|(of, _)| *of == target) {
        record(&mut requests, handled.clone());
    }
    requests
}

/// Tells what came of the requests that this pass has handled.
pub async fn tell(context: &Context, world: &World, decision: &Decision) {
    for (target, handled) in &decision.handled {
        let (tone, reason) = match handled.outcome {
            RequestOutcome::Done => (Tone::Normal, reason::REQUEST_DONE),
            RequestOutcome::Refused => (Tone::Warning, reason::REQUEST_REFUSED),
        };
        let on = match target {
            Target::Family => String::new(),
            Target::Image(index) => {
                world.family.spec.images.get(*index).map_or_else(String::new, |image| format!("{}: ", image.name))
            }
        };
        let note = format!("{on}request {}: {}", handled.id, handled.message);
        events::publish(context, &world.family, tone, reason, "Request", &note).await;
    }
}
