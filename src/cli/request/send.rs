//! Writes a request's annotation, and waits for its outcome.

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
    cli::{cluster::Cluster, request::render},
};

/// Owner of the one field that is written.
const FIELD_OWNER: &str = "kubectl-family";
/// How often an object that changes while the annotation is being written is looked at anew.
const TRIES: usize = 5;

#[derive(Args, Debug)]
pub struct Sending {
    /// Waits for the outcome, and fails when the request is refused
    #[arg(long)]
    wait: bool,
    /// The longest to wait
    #[arg(long, requires = "wait", default_value = "1m", value_name = "DURATION")]
    timeout: Duration,
    /// Takes the place of an earlier request that is not handled yet
    #[arg(long)]
    replace: bool,
}

/// An object that takes requests.
pub trait Requestable:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
    /// Reads an annotation as the controller does.
    fn read(&self, value: &str) -> Result<Request, RequestError>;
    /// The requests that were handled last, newest first.
    fn handled(&self) -> &[HandledRequest];
    /// The id of the last one.
    fn last_handled(&self) -> Option<&str>;
}

impl Requestable for ImageFamily {
    fn read(&self, value: &str) -> Result<Request, RequestError> {
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
    fn read(&self, value: &str) -> Result<Request, RequestError> {
        Request::parse_on_image(value, &self.spec.image)
    }

    fn handled(&self) -> &[HandledRequest] {
        self.status.as_ref().map_or(&[], |status| &status.requests)
    }

    fn last_handled(&self) -> Option<&str> {
        self.status.as_ref()?.last_handled_request.as_deref()
    }
}

/// Writes the annotation, says so, and waits for the outcome if that is wanted.
pub async fn send<K: Requestable>(
    cluster: &Cluster,
    api: &Api<K>,
    name: &str,
    request: &Request,
    sending: &Sending,
) -> anyhow::Result<()> {
    let value = request.to_annotation().context("write the request")?;
    let mut tries = 0;
    loop {
        let object = cluster.get(api.clone(), name).await?;
        // What the controller would refuse is better refused here.
        object.read(&value)?;
        if let Some(earlier) = pending(&object).filter(|_| !sending.replace) {
            bail!("{}\nwait for it, or lose it with --replace", render::pending(&earlier));
        }
        // Nothing but the annotation is written, and only to the object that was looked at.
        let patch = json!({
            "metadata": {"resourceVersion": object.resource_version(), "annotations": {labels::REQUEST: value}}
        });
        let parameters =
            PatchParams { field_manager: Some(FIELD_OWNER.into()), ..PatchParams::default() };
        tries += 1;
        match cluster.patch(api, name, &parameters, &Patch::Merge(patch)).await? {
            Some(_) => break,
            None if tries < TRIES => {}
            None => {
                bail!("{name} changed {TRIES} times while the request was being written; try again")
            }
        }
    }
    println!("{}", render::requested(request));
    if sending.wait { wait(api, name, request, sending.timeout).await } else { Ok(()) }
}

/// Waits until the request is handled.
async fn wait<K: Requestable>(
    api: &Api<K>,
    name: &str,
    request: &Request,
    timeout: Duration,
) -> anyhow::Result<()> {
    let settled = |object: Option<&K>| progress(object, &request.id) != Progress::Pending;
    let object =
        tokio::time::timeout(timeout.into(), await_condition(api.clone(), name, settled)).await;
    let Ok(object) = object else {
        bail!(
            "not handled within {timeout}: is the controller running? The request stands, and is \
             done when it is looked at; see `.status.requests` of {name}"
        )
    };
    let object = object.context("watch for the outcome")?;
    match progress(object.as_ref(), &request.id) {
        Progress::Handled(handled) if handled.outcome == RequestOutcome::Refused => {
            bail!(render::handled(&handled))
        }
        Progress::Handled(handled) => {
            println!("{}", render::handled(&handled));
            Ok(())
        }
        Progress::Lost => bail!("another request took its place before it was looked at"),
        Progress::Gone => bail!("{name} was deleted before the request was looked at"),
        Progress::Pending => bail!("the watch has ended"),
    }
}

/// How far a request is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Pending,
    Handled(HandledRequest),
    /// Its annotation is not there any more, and it was not handled.
    Lost,
    /// The object is not there any more.
    Gone,
}

fn progress<K: Requestable>(object: Option<&K>, id: &str) -> Progress {
    let Some(object) = object else { return Progress::Gone };
    if let Some(handled) = object.handled().iter().find(|handled| handled.id == id) {
        return Progress::Handled(handled.clone());
    }
    let stands =
        object.annotations().get(labels::REQUEST).and_then(|value| object.read(value).ok());
    if stands.is_some_and(|request| request.id == id) { Progress::Pending } else { Progress::Lost }
}

/// The request that stands on the object and is not handled yet. An annotation that is no request
/// is nobody's loss.
fn pending<K: Requestable>(object: &K) -> Option<Request> {
    let value = object.annotations().get(labels::REQUEST)?;
    let request = object.read(value).ok()?;
    let handled =
        is_handled(object.handled(), &request.id) || object.last_handled() == Some(&request.id);
    (!handled).then_some(request)
}

/// An id that nobody else has: the time, so that people can order them, and a random number.
pub fn fresh_id(now: Timestamp) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{:08x}", now.to_zoned(TimeZone::UTC).strftime("%Y%m%dT%H%M%SZ"), random >> 32)
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
