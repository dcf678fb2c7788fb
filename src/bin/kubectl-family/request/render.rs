//! Texts for requests and what happens to them. Pure: the time is an argument.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;

use groundswell::{
    api::{ActionName, FamilyRequest, FamilyRequestSpec, ImageFamily, RequestState},
    terminal::printable,
};

use crate::status::age;

/// A Lease that was not renewed for this long belongs to no running controller.
const LEASE_TTL: SignedDuration = SignedDuration::from_secs(30);

/// Describes a request that was created.
pub fn requested(request: &FamilyRequest) -> String {
    printable(&format!("requested: {}; famreq/{}", describe(&request.spec), request.name_any()))
}

/// Describes what happens to a request.
pub fn answer(request: &FamilyRequest) -> String {
    let state = match request.state() {
        Some(RequestState::Done | RequestState::Active) => "done",
        Some(RequestState::Refused) => "refused",
        Some(RequestState::Superseded) => "replaced",
        Some(RequestState::Waiting) => "waiting",
        None => return "not read by a controller yet".into(),
    };
    let message = request.status.as_ref().map_or("", |status| status.message.as_str());
    let is_carried_out =
        !matches!(request.state(), Some(RequestState::Refused | RequestState::Superseded));
    let images = request.status.as_ref().filter(|_| is_carried_out);
    let images = images.and_then(|status| status.images);
    let images = images.map_or_else(String::new, |images| {
        format!("; it applies to {images} image{}", if images == 1 { "" } else { "s" })
    });
    // One line, so that a message cannot look like another answer.
    printable(&format!("{state}: {message}{images}")).replace('\n', " ")
}

/// Describes a request that no controller has answered yet.
pub fn unanswered(name: &str, why: &str) -> String {
    format!("no answer yet: {why}; follow it with kubectl get famreq {name} --watch")
}

/// Says why no controller has answered, from the Lease of its installation if that can be read.
pub fn silence(namespace: &str, lease: Option<&Lease>, now: Timestamp) -> String {
    let spec = lease.and_then(|lease| lease.spec.as_ref());
    let renewed = spec.and_then(|spec| spec.renew_time.as_ref()).map(|time| time.0);
    match renewed {
        Some(renewed) if now.duration_since(renewed) > LEASE_TTL => format!(
            "the controller in namespace {namespace} is not running: its Lease was last renewed \
             {} ago",
            age(Some(renewed), now)
        ),
        Some(_) => format!(
            "the controller in namespace {namespace} is running and answers at the end of its \
             reconcile of the family"
        ),
        None => format!(
            "the controller in namespace {namespace} answers at the end of its reconcile of the \
             family"
        ),
    }
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
    printable(&format!(
        "{} ({})\n  candidate {}, first observed {} ago{}\n  {adopted}",
        status.name,
        status.reference,
        candidate.digest,
        age(candidate.first_observed, now),
        images.collect::<String>()
    ))
}

/// Describes an action and its arguments.
pub fn describe(spec: &FamilyRequestSpec) -> String {
    let target = match (&spec.image, &spec.upstream) {
        (Some(image), _) if spec.subtree => format!("{image} and all images built on it"),
        (Some(image), _) => image.clone(),
        (None, Some(upstream)) => format!("upstream {upstream}"),
        (None, None) => "the whole family".into(),
    };
    let to = if spec.action == ActionName::Rollback { "to" } else { "at" };
    let at = spec.digest.as_ref().map_or_else(String::new, |digest| format!(" {to} {digest}"));
    let until = spec.until.map_or_else(String::new, |until| format!(" until {until:.0}"));
    let workloads = if spec.rollout { ", with its workloads" } else { "" };
    let because = spec.reason.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    format!("{} {target}{at}{until}{workloads}{because}", spec.action.as_str())
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
