//! The requests of users, from the annotations of the family and of its images. No client is
//! needed.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api::{
        HandledRequest, ImageFamily, ManagedImage, Request, RequestError,
        handled_request::{is_handled, unreadable_id},
        labels,
    },
    engine::{ObservedRequest, RequestObject},
    lineage::ImageIndex,
};

/// Returns the requests on the family and on its images that are not handled yet.
#[must_use]
pub(in crate::controller::family) fn pending(
    family: &ImageFamily,
    records: &HashMap<String, Arc<ManagedImage>>,
    now: Timestamp,
) -> Vec<ObservedRequest> {
    let observed = |target: RequestObject,
                    value: &str,
                    known: Option<&[HandledRequest]>,
                    request: Result<Request, RequestError>| {
        let id =
            request.as_ref().map_or_else(|_| unreadable_id(value), |request| request.id.clone());
        let request = request.map_err(|error| HandledRequest::unreadable(value, &error, now));
        let handled = known.is_some_and(|known| is_handled(known, &id));
        (!handled).then_some(ObservedRequest { target, request })
    };
    let of_family = family.annotations().get(labels::REQUEST).and_then(|value| {
        let known = family.status.as_ref().map(|status| status.requests.as_slice());
        observed(RequestObject::Family, value, known, Request::parse(value))
    });
    let of_images = ImageIndex::enumerate(&family.spec.images).filter_map(|(index, image)| {
        let record = records.get(&image.name)?;
        let value = record.annotations().get(labels::REQUEST)?;
        let known = record.status.as_ref().map(|status| status.requests.as_slice());
        observed(
            RequestObject::Image(index),
            value,
            known,
            Request::parse_on_image(value, &image.name),
        )
    });
    of_family.into_iter().chain(of_images).collect()
}
