//! Writes the annotation of a request, and waits for its outcome.

use std::{
    fmt::Debug,
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::{Timestamp, tz::TimeZone};
use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
    runtime::wait::await_condition,
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    api::{
        Duration, HandledRequest, ImageFamily, ManagedImage, Request, RequestError, RequestOutcome,
        handled_request::is_handled, labels,
    },
    cli::{cluster::ClusterConnection, request::render},
};

/// Field owner of the annotation.
const FIELD_OWNER: &str = "kubectl-family";
/// Maximum number of attempts to write the annotation of an object that changes in the meantime.
const MAX_ATTEMPTS: usize = 5;

#[derive(Args, Debug)]
pub struct SendFlags {
    /// If true, wait for the outcome and fail if the request is refused
    #[arg(long)]
    wait: bool,
    /// Maximum time to wait
    #[arg(long, requires = "wait", default_value = "1m", value_name = "DURATION")]
    timeout: Duration,
    /// If true, replace an earlier request that is not handled yet
    #[arg(long)]
    replace: bool,
}

/// An object that takes requests.
pub trait Requestable:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Parses an annotation as the controller does.
    fn parse_request(&self, value: &str) -> Result<Request, RequestError>;
    /// Returns the requests that were handled last, newest first.
    fn handled(&self) -> &[HandledRequest];
    /// Returns the id of the request that was handled last.
    fn last_handled(&self) -> Option<&str>;
}

impl Requestable for ImageFamily {
    fn parse_request(&self, value: &str) -> Result<Request, RequestError> {
        Request::parse(value)
    }

    fn handled(&self) -> &[HandledRequest] {
        self.status.as_ref().map_or(&[], |status| &status.requests)
    }

    fn last_handled(&self) -> Option<&str> {
        self.status.as_ref()?.last_handled_request.as_deref()
    }
}

impl Requestable for ManagedImage {
    fn parse_request(&self, value: &str) -> Result<Request, RequestError> {
        Request::parse_on_image(value, &self.spec.image)
    }

    fn handled(&self) -> &[HandledRequest] {
        self.status.as_ref().map_or(&[], |status| &status.requests)
    }

    fn last_handled(&self) -> Option<&str> {
        self.status.as_ref()?.last_handled_request.as_deref()
    }
}

/// Writes the annotation, prints the request, and waits for the outcome if the flags say so.
pub async fn send<K: Requestable>(
    cluster: &ClusterConnection,
    api: &Api<K>,
    name: &str,
    request: &Request,
    flags: &SendFlags,
) -> anyhow::Result<()> {
    let value = request.to_annotation().context("serialize the request")?;
    let mut attempts = 0;
    loop {
        let object = cluster.get(api.clone(), name).await?;
        // Reject here what the controller would reject.
        object.parse_request(&value)?;
        if let Some(earlier) = pending(&object).filter(|_| !flags.replace) {
            bail!(
                "{}\nwait until it is handled, or replace it with --replace",
                render::pending(&earlier)
            );
        }
        // The patch writes only the annotation, and fails if the object has changed since it was
        // read.
        let patch = json!({
            "metadata": {
                "resourceVersion": object.resource_version(),
                "annotations": {labels::REQUEST: value},
            }
        });
        let parameters =
            PatchParams { field_manager: Some(FIELD_OWNER.into()), ..PatchParams::default() };
        attempts += 1;
        match cluster.patch(api, name, &parameters, &Patch::Merge(patch)).await? {
            Some(_) => break,
            None if attempts < MAX_ATTEMPTS => {}
            None => {
                bail!("{name} changed {MAX_ATTEMPTS} times during the write: run the command again")
            }
        }
    }
    println!("{}", render::requested(request));
    if flags.wait { wait(api, name, request, flags.timeout).await } else { Ok(()) }
}

/// Waits until the request is handled.
async fn wait<K: Requestable>(
    api: &Api<K>,
    name: &str,
    request: &Request,
    timeout: Duration,
) -> anyhow::Result<()> {
    let is_settled = |object: Option<&K>| progress(object, &request.id) != RequestProgress::Pending;
    let object =
        tokio::time::timeout(timeout.into(), await_condition(api.clone(), name, is_settled)).await;
    let Ok(object) = object else {
        bail!(
            "not handled within {timeout}: check that the controller is running. It handles the \
             request when it reads it; see `.status.requests` of {name}"
        )
    };
    let object = object.context("watch for the outcome")?;
    match progress(object.as_ref(), &request.id) {
        RequestProgress::Handled(handled) if handled.outcome == RequestOutcome::Refused => {
            bail!(render::handled(&handled))
        }
        RequestProgress::Handled(handled) => {
            println!("{}", render::handled(&handled));
            Ok(())
        }
        RequestProgress::Replaced => {
            bail!("another request replaced this one before it was handled")
        }
        RequestProgress::ObjectDeleted => {
            bail!("{name} was deleted before the request was handled")
        }
        RequestProgress::Pending => bail!("the watch has ended"),
    }
}

/// Progress of a request.
#[derive(Debug, PartialEq, Eq)]
enum RequestProgress {
    Pending,
    Handled(HandledRequest),
    /// Another annotation replaced it before it was handled.
    Replaced,
    /// The object was deleted.
    ObjectDeleted,
}

fn progress<K: Requestable>(object: Option<&K>, id: &str) -> RequestProgress {
    let Some(object) = object else { return RequestProgress::ObjectDeleted };
    if let Some(handled) = object.handled().iter().find(|handled| handled.id == id) {
        return RequestProgress::Handled(handled.clone());
    }
    let current = object
        .annotations()
        .get(labels::REQUEST)
        .and_then(|value| object.parse_request(value).ok());
    if current.is_some_and(|request| request.id == id) {
        RequestProgress::Pending
    } else {
        RequestProgress::Replaced
    }
}

/// Returns the request that the object is annotated with and that is not handled yet. An annotation
/// that is not a request may be overwritten.
fn pending<K: Requestable>(object: &K) -> Option<Request> {
    let value = object.annotations().get(labels::REQUEST)?;
    let request = object.parse_request(value).ok()?;
    let handled =
        is_handled(object.handled(), &request.id) || object.last_handled() == Some(&request.id);
    (!handled).then_some(request)
}

/// Returns a unique id: the time, so that users can sort ids, and a random number.
pub fn fresh_id(now: Timestamp) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{:08x}", now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ"), random >> 32)
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
