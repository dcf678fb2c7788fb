//! What people ask for: requests as the annotations of the family and of its images tell them.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api::{
        FamilyImage, HandledRequest, ImageFamily, Request,
        handled_request::{is_handled, unreadable_id},
        labels,
    },
    engine::{RequestSight, Target},
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
