//! Creates the object of a request, and waits for what happens to it.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration as StdDuration,
};

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt, runtime::wait::await_condition};
use tokio::time::Instant;

use groundswell::api::{
    Duration, FamilyRequest, FamilyRequestSpec, ImageFamily, RequestState, RequestedAction,
};

use crate::{
    cluster::{ClusterConnection, WriteMode, rejection_of_wait},
    input::EstateFamily,
    missing_rights::MissingRights,
    output::{self, Outcome, note},
    request::{dry_run, progress::wait_for_images, render},
};

/// How long the command waits for the first answer of the controller.
const ANSWER_TIMEOUT: StdDuration = StdDuration::from_secs(5);
/// Pause before a watch that has broken off is started again.
const RETRY_PAUSE: StdDuration = StdDuration::from_secs(1);
/// Name of the Lease of a controller, in the namespace of its installation.
const LEASE: &str = "groundswell";

#[derive(Args, Debug)]
pub struct SendFlags {
    /// Show what the request would do, and send nothing. The API server checks whether it may be
    /// sent
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    /// Wait until the request is carried out, and for trigger, retry and force until the images are
    /// built. Fail if it is refused or replaced
    #[arg(long)]
    wait: bool,
    /// Maximum time to wait
    #[arg(long, requires = "wait", default_value = "30m", value_name = "DURATION")]
    timeout: Duration,
}

/// Creates the request, prints it, and waits for the answer of the controller; if the flags say so,
/// until the request is carried out and its images are built.
pub async fn send(
    cluster: &ClusterConnection,
    family: &ImageFamily,
    spec: FamilyRequestSpec,
    flags: &SendFlags,
) -> anyhow::Result<Outcome> {
    let api: Api<FamilyRequest> = cluster.api();
    let request = FamilyRequest::new(&fresh_name(&spec), spec.clone());
    let created = cluster.create(&api, &request, WriteMode::Stored).await?;
    output::write(&format!("{}\n", render::requested(&created)))?;
    let deadline = Instant::now() + StdDuration::from(flags.timeout);
    if await_answer(cluster, family, created, flags).await? == ControllerAnswer::Open || !flags.wait
    {
        return Ok(Outcome::Fine);
    }
    if !RequestedAction::of(&spec)?.starts_builds() {
        return Ok(Outcome::Fine);
    }
    wait_for_images(cluster, family, &spec, deadline, &mut output::write).await
}

/// Shows what a request would do, and sends nothing that is stored.
pub async fn dry_run(
    cluster: &ClusterConnection,
    family: &mut EstateFamily,
    spec: FamilyRequestSpec,
) -> anyhow::Result<String> {
    let request = FamilyRequest::new(&fresh_name(&spec), spec);
    let mut checked = cluster.create(&cluster.api(), &request, WriteMode::DryRun).await?;
    checked.metadata.name = request.metadata.name;
    dry_run::describe(family, checked, Timestamp::now())
}

/// Whether a request was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ControllerAnswer {
    /// It was carried out, or a controller has it.
    Given,
    /// No controller has answered.
    Open,
}

async fn await_answer(
    cluster: &ClusterConnection,
    family: &ImageFamily,
    created: FamilyRequest,
    flags: &SendFlags,
) -> anyhow::Result<ControllerAnswer> {
    let (api, name) = (cluster.api(), created.name_any());
    let answer = match wait(&api, &name, ANSWER_TIMEOUT, is_answered).await {
        // The request is sent, and nobody has asked for more.
        Err(error) if !flags.wait && error.is::<MissingRights>() => {
            note(&format!("what happens to the request cannot be shown: {error}"));
            return Ok(ControllerAnswer::Open);
        }
        Err(error) => return Err(error.context("the request is sent, but not followed")),
        Ok(Awaited::Answered(answer)) => answer,
        Ok(Awaited::Nothing) => {
            let why = explain_silence(cluster, family, Timestamp::now()).await;
            let message = render::unanswered(&name, &why);
            if !flags.wait {
                output::write(&format!("{message}\n"))?;
                return Ok(ControllerAnswer::Open);
            }
            output::write(&format!("{message}; waiting\n"))?;
            Box::new(created)
        }
    };
    if !flags.wait || is_carried_out(&answer) {
        print(&answer)?;
        return Ok(ControllerAnswer::Given);
    }
    if answer.state().is_some() {
        output::write(&format!("{}\n", render::answer(&answer)))?;
    }
    let timeout = flags.timeout;
    match wait(&api, &name, timeout.into(), is_carried_out).await? {
        Awaited::Answered(answer) => print(&answer)?,
        Awaited::Nothing => {
            let last = cluster.get(api, &name).await?;
            bail!("not carried out within {timeout}: {}", render::answer(&last))
        }
    }
    Ok(ControllerAnswer::Given)
}

/// What a wait has brought.
enum Awaited {
    Answered(Box<FamilyRequest>),
    Nothing,
}

/// Waits at most so long until the status of a request satisfies `is`.
async fn wait(
    api: &Api<FamilyRequest>,
    name: &str,
    timeout: StdDuration,
    is: fn(&FamilyRequest) -> bool,
) -> anyhow::Result<Awaited> {
    let Ok(found) = tokio::time::timeout(timeout, satisfied(api, name, is)).await else {
        return Ok(Awaited::Nothing);
    };
    match found? {
        Some(found) => Ok(Awaited::Answered(Box::new(found))),
        None => bail!("{name} was deleted before it was carried out"),
    }
}

/// Waits until the status of a request satisfies `is`, and returns the request; `None` if it was
/// deleted. A watch that breaks off is started again.
async fn satisfied(
    api: &Api<FamilyRequest>,
    name: &str,
    is: fn(&FamilyRequest) -> bool,
) -> anyhow::Result<Option<FamilyRequest>> {
    let is_over = move |request: Option<&FamilyRequest>| request.is_none_or(is);
    loop {
        match await_condition(api.clone(), name, is_over).await {
            Ok(found) => return Ok(found),
            Err(error) => {
                if let Some(rejection) = rejection_of_wait(&error) {
                    return Err(rejection);
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// Whether the controller has read the request.
fn is_answered(request: &FamilyRequest) -> bool {
    request.state().is_some()
}

/// Whether nothing is left to wait for.
fn is_carried_out(request: &FamilyRequest) -> bool {
    request.has_ended() || request.state() == Some(RequestState::Active)
}

/// Prints what happens to a request. Fails if it is not carried out.
fn print(request: &FamilyRequest) -> anyhow::Result<()> {
    match request.state() {
        Some(RequestState::Refused | RequestState::Superseded) => bail!(render::answer(request)),
        _ => output::write(&format!("{}\n", render::answer(request)))?,
    }
    Ok(())
}

/// Says why no controller has answered, as far as the user may read that.
async fn explain_silence(
    cluster: &ClusterConnection,
    family: &ImageFamily,
    now: Timestamp,
) -> String {
    let installation = family.status.as_ref().and_then(|status| status.installation.as_deref());
    let Some(namespace) = installation else {
        return "no controller serves the family yet".into();
    };
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), namespace);
    let lease = cluster.get(leases, LEASE).await.ok();
    render::silence(namespace, lease.as_ref(), now)
}

/// Returns a name that is unique: the family and the action, so that users can tell requests apart,
/// and a random number.
fn fresh_name(spec: &FamilyRequestSpec) -> String {
    let random = RandomState::new().build_hasher().finish();
    format!("{}-{}-{:08x}", spec.family, spec.action.as_str().to_lowercase(), random >> 32)
}

#[cfg(test)]
#[path = "send_tests.rs"]
mod tests;
