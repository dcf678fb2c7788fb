//! The outcome of requests: recorded, and published as Events. Publishing needs a client.

use kube::runtime::events::EventType;

use crate::{
    api::{HandledRequest, RequestOutcome, condition::reason, handled_request::record},
    controller::family::{reconcile::Reconcile, record::events::Notice},
    engine::{Decision, RequestObject},
};

/// Returns the handled requests of an object, newest first, with those that this reconcile has
/// handled.
#[must_use]
pub fn handled_requests(
    decision: &Decision,
    target: RequestObject,
    old: &[HandledRequest],
) -> Vec<HandledRequest> {
    let mut requests = old.to_vec();
    for (_, handled) in decision.handled.iter().filter(|(of, _)| *of == target) {
        record(&mut requests, handled.clone());
    }
    requests
}

impl Reconcile<'_> {
    /// Publishes the outcome of the requests that this reconcile has handled.
    pub(super) async fn publish_request_events(&self) {
        for (target, handled) in &self.decision.handled {
            let (type_, reason) = match handled.outcome {
                RequestOutcome::Done => (EventType::Normal, reason::REQUEST_DONE),
                RequestOutcome::Refused => (EventType::Warning, reason::REQUEST_REFUSED),
            };
            let note = format!("request {}: {}", handled.id, handled.message);
            let notice = Notice { type_, reason, action: "Request", note };
            let image = match target {
                RequestObject::Family => None,
                RequestObject::Image(index) => self.image(*index),
            };
            match image {
                Some(image) => {
                    let note = format!("{}: {}", image.name, notice.note);
                    self.publish_about_image(&image.name, &Notice { note, ..notice }).await;
                }
                None => self.publish_about_family(&notice).await,
            }
        }
    }
}
