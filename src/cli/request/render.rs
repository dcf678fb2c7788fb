//! Texts for requests and their outcomes. Pure: the time is an argument.

use jiff::Timestamp;

use crate::{
    api::{
        ActionName, HandledRequest, ImageFamily, Request, RequestOutcome, RequestScope,
        RequestedAction,
    },
    cli::status::age,
};

/// Describes a request that was sent.
pub fn requested(request: &Request) -> String {
    format!("requested: {}; id {}", describe(&request.action), request.id)
}

/// Describes the outcome of a request.
pub fn handled(handled: &HandledRequest) -> String {
    let outcome = match handled.outcome {
        RequestOutcome::Done => "done",
        RequestOutcome::Refused => "refused",
    };
    format!("{outcome}: {}", handled.message)
}

/// Describes an earlier request that is not handled yet and would be replaced.
pub fn pending(request: &Request) -> String {
    let by = request.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
    format!(
        "an earlier request{by} is not handled yet: {}; id {}",
        describe(&request.action),
        request.id
    )
}

/// Describes the candidate of an upstream and the digest that builds use.
pub fn candidate(family: &ImageFamily, upstream: &str, now: Timestamp) -> String {
    let status = family
        .status
        .iter()
        .flat_map(|status| &status.upstreams)
        .find(|known| known.name == upstream);
    let Some((status, candidate)) =
        status.and_then(|status| Some((status, status.candidate.as_ref()?)))
    else {
        return format!("{upstream} has no candidate");
    };
    let adopted = status.adopted.as_ref().map_or_else(
        || "builds use no digest yet".into(),
        |adopted| {
            format!(
                "builds use {}, first observed {} ago",
                adopted.digest,
                age(adopted.first_observed, now)
            )
        },
    );
    let images = candidate.platforms.iter();
    let images = images.map(|image| format!("\n    {} {}", image.platform, image.digest));
    format!(
        "{} ({})\n  candidate {}, first observed {} ago{}\n  {adopted}",
        status.name,
        status.reference,
        candidate.digest,
        age(candidate.first_observed, now),
        images.collect::<String>()
    )
}

/// Describes an action and its arguments.
fn describe(action: &RequestedAction) -> String {
    let until = |until: &Option<Timestamp>| {
        until.map_or_else(String::new, |until| format!(" until {until:.0}"))
    };
    let because = |reason: &Option<String>| {
        reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"))
    };
    match action {
        RequestedAction::Trigger(scope)
        | RequestedAction::Retry(scope)
        | RequestedAction::Cancel(scope)
        | RequestedAction::Force(scope) => {
            let verb = match action {
                RequestedAction::Trigger(_) => ActionName::Trigger,
                RequestedAction::Retry(_) => ActionName::Retry,
                RequestedAction::Cancel(_) => ActionName::Cancel,
                _ => ActionName::Force,
            };
            let what = match scope {
                RequestScope::Family => "the whole family".into(),
                RequestScope::Image(image) => image.clone(),
                RequestScope::Subtree(image) => format!("{image} and all images built on it"),
            };
            format!("{} {what}", verb.as_str())
        }
        RequestedAction::HoldImage { image, until: end, reason } => {
            format!("Hold {image}{}{}", until(end), because(reason))
        }
        RequestedAction::HoldUpstream { upstream, digest, until: end, reason } => {
            let at = digest.as_ref().map_or_else(String::new, |digest| format!(" at {digest}"));
            format!("Hold upstream {upstream}{at}{}{}", until(end), because(reason))
        }
        RequestedAction::UnholdImage { image } => format!("Unhold {image}"),
        RequestedAction::UnholdUpstream { upstream } => format!("Unhold upstream {upstream}"),
        RequestedAction::Approve { upstream, digest } => format!("Approve {digest} of {upstream}"),
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
