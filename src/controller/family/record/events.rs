//! Events: what a person would want to be told, in words. One that can't be published never fails a
//! pass.

use std::time::Duration;

use kube::{
    Resource,
    runtime::events::{Event, EventType},
};
use tracing::debug;

use crate::{
    api::{ImageFamily, condition::shorten},
    controller::context::Context,
};

/// The most characters of an Event's note: the API server takes 1 KiB.
const MAX_NOTE: usize = 250;
/// The longest that publishing may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Whether an Event tells of something good or of something that needs a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Normal,
    /// Needs a look.
    Warning,
}

/// Publishes an Event about a family.
pub async fn publish(
    context: &Context,
    family: &ImageFamily,
    tone: Tone,
    reason: &str,
    action: &str,
    note: &str,
) {
    let event = Event {
        type_: if tone == Tone::Normal { EventType::Normal } else { EventType::Warning },
        reason: reason.into(),
        note: Some(shorten(note, MAX_NOTE)),
        action: action.into(),
        secondary: None,
    };
    let reference = family.object_ref(&());
    match tokio::time::timeout(TIMEOUT, context.recorder.publish(&event, &reference)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, reason, "an Event could not be published"),
        Err(_) => debug!(reason, "an Event could not be published in time"),
    }
}
