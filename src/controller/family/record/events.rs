//! Events about families and images, for users. An Event that cannot be published never fails a
//! reconcile, and none is waited for. No client is needed.
//!
//! An Event about one image is published on its `ManagedImage` as well as on the family. Such
//! Events are about changes that are rare: an image fails or needs a user, a tag was moved by
//! somebody else, a request was handled, a rollout changes. So each costs one more write, and there
//! are at most two writes per change.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Resource,
    runtime::events::{Event, EventType},
};

use crate::{
    api::{
        ImageFamily,
        condition::{Reason, shorten},
    },
    build_records::UnrecordedImage,
    controller::{
        context::Context, event_queue::EventQueue, family::reconcile::Reconcile, object_cache::Key,
    },
    engine::causes::short,
};

/// The most characters of an Event's note. The API server accepts 1 KiB.
const MAX_NOTE: usize = 250;

/// What an Event says.
#[derive(Clone, Debug)]
pub struct Notice {
    /// Whether it is expected or needs attention.
    pub type_: EventType,
    /// Why it is published.
    pub reason: Reason,
    /// The action of the controller that led to it.
    pub action: &'static str,
    /// What happened to which object, and what to do.
    pub note: String,
}

impl Notice {
    fn event(&self, related: Option<ObjectReference>) -> Event {
        Event {
            type_: self.type_,
            reason: self.reason.into(),
            note: Some(shorten(&self.note, MAX_NOTE)),
            action: self.action.into(),
            secondary: related,
        }
    }
}

impl Reconcile<'_> {
    /// Publishes an Event about the family.
    pub fn publish_about_family(&self, notice: &Notice) {
        about_family(self.context, &self.snapshot.family, notice);
    }

    /// Publishes an Event about one upstream, on the family.
    pub fn publish_about_upstream(&self, upstream: &str, notice: &Notice) {
        let family = self.snapshot.family.object_ref(&());
        publish_on_upstream(&self.context.events, notice, &family, upstream);
    }

    /// Publishes an Event about each image under one of our own tags that is no build of ours.
    pub fn publish_unrecorded_images(&mut self) {
        for (image, UnrecordedImage { tag, digest }) in self.cache.take_unpublished() {
            let notice = Notice {
                type_: EventType::Warning,
                reason: Reason::UnrecordedImage,
                action: "LookUp",
                note: format!(
                    "{image}: {tag} points to {}, which no build of ours is recorded to have \
                     pushed; it is not used, and the next build replaces it",
                    short(&digest)
                ),
            };
            self.publish_about_image(&image, &notice);
        }
    }

    /// Publishes an Event about one image, on the family and on the image's `ManagedImage`. The
    /// note names the image, because the family's Events are about all of its images.
    pub fn publish_about_image(&self, image: &str, notice: &Notice) {
        about_image(self.context, &self.snapshot.family, image, notice);
    }
}

/// Publishes an Event about a family.
pub fn about_family(context: &Context, family: &ImageFamily, notice: &Notice) {
    context.events.add(notice.event(None), family.object_ref(&()));
}

/// Publishes an Event about one image of a family, on the family and on the image's `ManagedImage`,
/// if there is one yet.
pub fn about_image(context: &Context, family: &ImageFamily, image: &str, notice: &Notice) {
    let key = Key::of(family);
    let record = Key::new(&key.namespace, &format!("{}.{image}", key.name));
    let record = context.stores.images.get(&record).map(|record| record.object_ref(&()));
    publish_on_both(&context.events, notice, &family.object_ref(&()), record);
}

/// Publishes one Event on the family, and one on the image's record. Each names the other object as
/// the related one. On the family that also keeps Events about different images apart: the recorder
/// merges Events that differ in their note alone.
fn publish_on_both(
    events: &EventQueue,
    notice: &Notice,
    family: &ObjectReference,
    record: Option<ObjectReference>,
) {
    events.add(notice.event(record.clone()), family.clone());
    if let Some(record) = record {
        events.add(notice.event(Some(family.clone())), record);
    }
}

/// Publishes an Event on the family. It names the upstream as the related object, so that Events
/// about different upstreams stay apart.
fn publish_on_upstream(
    events: &EventQueue,
    notice: &Notice,
    family: &ObjectReference,
    upstream: &str,
) {
    let field_path = Some(format!("spec.upstreams{{{upstream}}}"));
    let upstream = ObjectReference { field_path, ..family.clone() };
    events.add(notice.event(Some(upstream)), family.clone());
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    use http::{Method, Request, Response};
    use kube::{
        Client,
        client::Body,
        runtime::events::{Recorder, Reporter},
    };
    use serde_json::Value;

    use super::*;
    use crate::api::condition::Reason;

    type Writes = Arc<Mutex<Vec<(Method, Value)>>>;

    /// A queue of Events, and what is written of them.
    fn events() -> (EventQueue, Writes) {
        let writes = Writes::default();
        let written = Arc::clone(&writes);
        let service = tower::service_fn(move |request: Request<Body>| {
            let written = Arc::clone(&written);
            async move {
                let method = request.method().clone();
                let body = request.into_body().collect_bytes().await.expect("a body");
                let event = serde_json::from_slice(&body).expect("an Event");
                written.lock().expect("writes").push((method, event));
                Ok::<_, Infallible>(Response::new(Body::from(body)))
            }
        });
        let reporter = Reporter { controller: "groundswell".into(), instance: Some("0".into()) };
        (EventQueue::new(Recorder::new(Client::new(service, "team"), reporter)), writes)
    }

    fn reference(kind: &str, name: &str) -> ObjectReference {
        ObjectReference {
            kind: Some(kind.into()),
            name: Some(name.into()),
            namespace: Some("team".into()),
            ..ObjectReference::default()
        }
    }

    fn failed(image: &str) -> Notice {
        Notice {
            type_: EventType::Warning,
            reason: Reason::BuildFailed,
            action: "Build",
            note: format!("{image}: exit code 1"),
        }
    }

    #[tokio::test]
    async fn an_event_about_an_image_is_published_on_its_record_and_on_the_family() {
        let (events, writes) = events();
        let family = reference("ImageFamily", "shop");
        for image in ["app", "web"] {
            let record = reference("ManagedImage", &format!("shop.{image}"));
            publish_on_both(&events, &failed(image), &family, Some(record));
        }
        events.publish_waiting().await;
        let mut published: Vec<String> = writes
            .lock()
            .expect("writes")
            .iter()
            .map(|(method, event)| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (regarding, related) =
                    (text(&event["regarding"]["name"]), text(&event["related"]["name"]));
                format!("{method} {regarding} {related} {}", text(&event["note"]))
            })
            .collect();
        published.sort();
        assert_eq!(
            published,
            [
                "POST shop shop.app app: exit code 1",
                "POST shop shop.web web: exit code 1",
                "POST shop.app shop app: exit code 1",
                "POST shop.web shop web: exit code 1",
            ],
            "one write per object, and the notes of two images are not merged"
        );
    }

    #[tokio::test]
    async fn events_about_two_upstreams_are_not_merged() {
        let (events, writes) = events();
        let family = reference("ImageFamily", "shop");
        for upstream in ["alpine", "debian", "alpine"] {
            publish_on_upstream(&events, &failed(upstream), &family, upstream);
        }
        events.publish_waiting().await;
        let writes = writes.lock().expect("writes");
        let methods: Vec<&Method> = writes.iter().map(|(method, _)| method).collect();
        assert_eq!(methods, [Method::POST, Method::POST, Method::PATCH]);
        assert_eq!(writes[1].1["note"], "debian: exit code 1");
        assert_eq!(writes[1].1["related"]["fieldPath"], "spec.upstreams{debian}");
    }

    #[tokio::test]
    async fn an_event_about_an_image_without_a_record_is_published_on_the_family() {
        let (events, writes) = events();
        publish_on_both(&events, &failed("app"), &reference("ImageFamily", "shop"), None);
        events.publish_waiting().await;
        let writes = writes.lock().expect("writes");
        assert_eq!(writes.len(), 1);
        assert_eq!(writes[0].1["regarding"]["kind"], "ImageFamily");
    }
}
