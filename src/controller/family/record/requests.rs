//! What came of requests: outcomes are recorded, and told.

use crate::{
    api::{HandledRequest, RequestOutcome, condition::reason, handled_request::record},
    controller::{
        context::Context,
        family::{
            observe::snapshot::Snapshot,
            record::events::{self, Tone},
        },
    },
    engine::{Decision, Target},
};

/// The record of requests with those that this pass has handled on an object, newest first.
#[must_use]
pub fn recorded(
    decision: &Decision,
    target: Target,
    old: &[HandledRequest],
) -> Vec<HandledRequest> {
    let mut requests = old.to_vec();
    for (_, handled) in decision.handled.iter().filter(|(of, _)| *of == target) {
        record(&mut requests, handled.clone());
    }
    requests
}

/// Tells what came of the requests that this pass has handled.
pub async fn tell(context: &Context, snapshot: &Snapshot, decision: &Decision) {
    for (target, handled) in &decision.handled {
        let (tone, reason) = match handled.outcome {
            RequestOutcome::Done => (Tone::Normal, reason::REQUEST_DONE),
            RequestOutcome::Refused => (Tone::Warning, reason::REQUEST_REFUSED),
        };
        let on = match target {
            Target::Family => String::new(),
            Target::Image(index) => snapshot
                .family
                .spec
                .images
                .get(index.position())
                .map_or_else(String::new, |image| format!("{}: ", image.name)),
        };
        let note = format!("{on}request {}: {}", handled.id, handled.message);
        events::publish(context, &snapshot.family, tone, reason, "Request", &note).await;
    }
}
