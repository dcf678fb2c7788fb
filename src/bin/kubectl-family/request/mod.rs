//! `kubectl family trigger|retry|cancel|force|hold|unhold|approve|rollback`: each command creates
//! one [`FamilyRequest`](groundswell::api::FamilyRequest), and shows what happens to it. No command
//! changes a spec, so that the manifests of a GitOps tool stay as they are.

mod dry_run;
mod progress;
mod render;
mod rollback;
mod send;

use std::{collections::BTreeSet, str::FromStr};

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use kube::{ResourceExt, api::ListParams};

use groundswell::api::{
    Approval, Cascade, Duration, FamilyRequest, FamilyRequestSpec, HoldTarget, ImageFamily,
    ManagedImage, RequestScope, RequestedAction, UpstreamStatus, condition::Reason,
};

pub use rollback::{RollbackArguments, rollback};

use crate::{
    cluster::ClusterConnection,
    command_line::KubectlFlags,
    input::EstateFamily,
    missing_rights::check_rights,
    output::{self, Outcome},
    request::send::SendFlags,
};

/// A family, or one of its images.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TargetArgument {
    family: String,
    image: Option<String>,
}

#[derive(Args, Debug)]
pub struct ScopeArguments {
    /// Name of the family, or of one of its images
    #[arg(value_name = "FAMILY[/IMAGE]")]
    target: TargetArgument,
    /// Apply the action also to all images that are built on the image
    #[arg(long)]
    subtree: bool,
    /// Reason for the request, shown with it
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    send_flags: SendFlags,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

#[derive(Args, Debug)]
pub struct HoldArguments {
    #[command(flatten)]
    held: HeldArgument,
    /// Digest that builds use while the hold lasts. Defaults to the digest in use
    #[arg(long, requires = "upstream")]
    digest: Option<String>,
    /// Time at which the hold ends, for example 2026-05-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// Duration of the hold, for example 30m or 72h
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    lasts: Option<Duration>,
    /// Reason for the hold, shown in the status
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    send_flags: SendFlags,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

#[derive(Args, Debug)]
pub struct UnholdArguments {
    #[command(flatten)]
    held: HeldArgument,
    #[command(flatten)]
    send_flags: SendFlags,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

#[derive(Args, Debug)]
struct HeldArgument {
    /// Name of the image, or of the family if --upstream is set
    #[arg(value_name = "FAMILY[/IMAGE]")]
    target: TargetArgument,
    /// Name of the upstream to hold
    #[arg(long)]
    upstream: Option<String>,
}

#[derive(Args, Debug)]
pub struct ApproveArguments {
    /// Name of the family
    family: String,
    /// Name of the upstream
    upstream: String,
    /// Digest to approve. Defaults to the candidate, which is printed
    #[arg(long)]
    digest: Option<String>,
    #[command(flatten)]
    send_flags: SendFlags,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

/// Sends the action that `action` makes of the scope, for example `RequestedAction::Trigger`.
pub async fn send_for_scope(
    action: fn(RequestScope) -> RequestedAction,
    arguments: ScopeArguments,
) -> anyhow::Result<Outcome> {
    let scope = if arguments.subtree {
        subtree_scope(&arguments.target)?
    } else {
        scope(&arguments.target)
    };
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    let request = RequestToSend { action: action(scope), reason: arguments.reason };
    send_request(&cluster, &arguments.target.family, request, &arguments.send_flags).await
}

pub async fn hold(arguments: HoldArguments) -> anyhow::Result<Outcome> {
    let HoldArguments { held, digest, until, lasts, reason, send_flags, kubectl_flags } = arguments;
    let now = Timestamp::now();
    let until = match lasts {
        Some(lasts) => Some(now.checked_add(lasts.signed())?),
        None => until,
    };
    if let Some(until) = until.filter(|until| *until <= now) {
        bail!("--until {until} is in the past: name a later time");
    }
    let action = RequestedAction::Hold { target: held.select()?, digest, until };
    let cluster = ClusterConnection::connect(&kubectl_flags).await?;
    let request = RequestToSend { action, reason };
    send_request(&cluster, &held.target.family, request, &send_flags).await
}

pub async fn unhold(arguments: UnholdArguments) -> anyhow::Result<Outcome> {
    let action = RequestedAction::Unhold(arguments.held.select()?);
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    let request = RequestToSend { action, reason: None };
    send_request(&cluster, &arguments.held.target.family, request, &arguments.send_flags).await
}

pub async fn approve(arguments: ApproveArguments) -> anyhow::Result<Outcome> {
    let ApproveArguments { family, upstream, digest, send_flags, kubectl_flags } = arguments;
    let cluster = ClusterConnection::connect(&kubectl_flags).await?;
    let found: ImageFamily = cluster.get(cluster.api(), &family).await?;
    let digest = digest_to_approve(&found, &upstream, digest.as_deref())?;
    output::write(&format!("{}\n", render::candidate(&found, &upstream, Timestamp::now())))?;
    let action = RequestedAction::Approve { upstream, digest };
    let request = RequestToSend { action, reason: None };
    send_to(&cluster, &found, request, &send_flags).await
}

/// An action, and why it is requested.
struct RequestToSend {
    action: RequestedAction,
    reason: Option<String>,
}

/// Sends a request to a family, which has to exist.
async fn send_request(
    cluster: &ClusterConnection,
    family: &str,
    request: RequestToSend,
    send_flags: &SendFlags,
) -> anyhow::Result<Outcome> {
    let found: ImageFamily = cluster.get(cluster.api(), family).await?;
    send_to(cluster, &found, request, send_flags).await
}

async fn send_to(
    cluster: &ClusterConnection,
    family: &ImageFamily,
    request: RequestToSend,
    send_flags: &SendFlags,
) -> anyhow::Result<Outcome> {
    let RequestToSend { action, reason } = request;
    let by = cluster.user_name().await;
    let spec = FamilyRequestSpec { reason, by, ..action.into_spec(&family.name_any()) };
    if !send_flags.dry_run {
        return send::send(cluster, family, spec, send_flags).await;
    }
    let mut recorded = recorded_family(cluster, family).await?;
    output::write(&send::dry_run(cluster, &mut recorded, spec).await?)?;
    Ok(Outcome::Fine)
}

/// Returns a family with everything that the controller has recorded of it.
async fn recorded_family(
    cluster: &ClusterConnection,
    family: &ImageFamily,
) -> anyhow::Result<EstateFamily> {
    let name = family.name_any();
    let selected = || ListParams::default().fields(&format!("spec.family={name}"));
    let (images, cascades, requests) = tokio::join!(
        cluster.list::<ManagedImage>(cluster.api(), selected()),
        cluster.list::<Cascade>(cluster.api(), selected()),
        cluster.list::<FamilyRequest>(cluster.api(), selected()),
    );
    check_rights([images.as_ref().err(), cascades.as_ref().err(), requests.as_ref().err()])?;
    let images = images?.into_iter().map(|image| (image.spec.image.clone(), image)).collect();
    let Some(mut found) = EstateFamily::of_objects(family.clone(), images) else {
        bail!("{name} is not valid, so that the controller carries out nothing; see its status")
    };
    found.cascades = cascades?;
    found.requests = requests?;
    found.cascades.sort_by_key(|one| (one.creation_timestamp(), one.name_any()));
    found.requests.sort_by_key(|one| (one.creation_timestamp(), one.name_any()));
    Ok(found)
}

/// Returns the scope of the target: the family or one image.
fn scope(target: &TargetArgument) -> RequestScope {
    target.image.clone().map_or(RequestScope::Family, RequestScope::Image)
}

/// Returns the scope of the target with all images that are built on it.
fn subtree_scope(target: &TargetArgument) -> anyhow::Result<RequestScope> {
    let Some(image) = &target.image else {
        bail!(
            "--subtree needs an image: name it, as {}/IMAGE, or remove --subtree for the whole \
             family",
            target.family
        )
    };
    Ok(RequestScope::Subtree(image.clone()))
}

impl HeldArgument {
    fn select(&self) -> anyhow::Result<HoldTarget> {
        let family = &self.target.family;
        match (&self.target.image, &self.upstream) {
            (Some(image), None) => Ok(HoldTarget::Image(image.clone())),
            (None, Some(upstream)) => Ok(HoldTarget::Upstream(upstream.clone())),
            (Some(_), Some(_)) => {
                bail!("--upstream applies to the family: write {family} without an image")
            }
            (None, None) => bail!(
                "name an image, as {family}/IMAGE, or an upstream with --upstream; to stop the \
                 whole family, set its `spec.suspend`"
            ),
        }
    }
}

/// Returns the digest to approve, which is that of the candidate. Fails if another one is
/// requested.
fn digest_to_approve(
    family: &ImageFamily,
    upstream: &str,
    requested: Option<&str>,
) -> anyhow::Result<String> {
    let declared = family.spec.upstreams.iter().find(|known| known.name == upstream);
    let statuses = || family.status.iter().flat_map(|status| &status.upstreams);
    let status = statuses().find(|known| known.name == upstream);
    // The status has those that Dockerfiles name, too.
    let approval = match (declared, status) {
        (Some(declared), _) => declared.approval,
        (None, Some(_)) => {
            family.spec.upstream_defaults.as_ref().map(|known| known.approval).unwrap_or_default()
        }
        (None, None) => {
            let listed = family.spec.upstreams.iter().map(|known| known.name.as_str());
            let known: BTreeSet<&str> =
                listed.chain(statuses().map(|known| known.name.as_str())).collect();
            let known: Vec<&str> = known.into_iter().collect();
            bail!("the family has no upstream `{upstream}`; it has {}", known.join(", "));
        }
    };
    let returned = status.and_then(UpstreamStatus::known_reason) == Some(Reason::DigestReturned);
    if approval != Approval::Manual && !returned {
        bail!("{upstream} needs no approval, because its `approval` is Automatic");
    }
    let Some(candidate) = status.and_then(|status| status.candidate.as_ref()) else {
        bail!("{upstream} has no candidate: builds already use its newest digest");
    };
    match requested {
        Some(digest) if !candidate.content().names(digest) => {
            bail!("{digest} is not the candidate of {upstream}; approve {}", candidate.digest)
        }
        _ => Ok(candidate.digest.clone()),
    }
}

impl FromStr for TargetArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (family, image) = match text.split_once('/') {
            Some((family, image)) => (family, Some(image)),
            None => (text, None),
        };
        if family.is_empty() || image.is_some_and(|image| image.is_empty() || image.contains('/')) {
            return Err("write FAMILY or FAMILY/IMAGE".into());
        }
        Ok(Self { family: family.into(), image: image.map(Into::into) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn target(text: &str) -> TargetArgument {
        text.parse().expect("a target")
    }

    #[test]
    fn a_target_is_a_family_or_an_image_of_one() {
        assert_eq!(target("flask"), TargetArgument { family: "flask".into(), image: None });
        assert_eq!(
            target("flask/app"),
            TargetArgument { family: "flask".into(), image: Some("app".into()) }
        );
        for wrong in ["", "/app", "flask/", "flask/app/more"] {
            assert!(wrong.parse::<TargetArgument>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_subtree_is_of_an_image() {
        assert_eq!(scope(&target("flask")), RequestScope::Family);
        assert_eq!(scope(&target("flask/app")), RequestScope::Image("app".into()));
        assert_eq!(
            subtree_scope(&target("flask/app")).expect("a scope"),
            RequestScope::Subtree("app".into())
        );
        let error = subtree_scope(&target("flask")).expect_err("of nothing").to_string();
        assert!(error.contains("flask/IMAGE"), "{error}");
    }

    #[test]
    fn a_hold_names_an_image_or_an_upstream() {
        let choose = |text: &str, upstream: Option<&str>| {
            HeldArgument { target: target(text), upstream: upstream.map(Into::into) }.select()
        };
        assert_eq!(choose("flask/app", None).expect("a choice"), HoldTarget::Image("app".into()));
        assert_eq!(
            choose("flask", Some("debian")).expect("a choice"),
            HoldTarget::Upstream("debian".into())
        );
        assert!(choose("flask/app", Some("debian")).is_err());
        let error = choose("flask", None).expect_err("of everything").to_string();
        assert!(error.contains("spec.suspend"), "{error}");
    }

    #[test]
    fn only_the_candidate_of_an_upstream_that_needs_approval_is_approved() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let family = |approval: &str, candidate: Option<String>| -> ImageFamily {
            let upstream = json!({"name": "debian", "image": "docker.io/library/debian",
                                  "follow": {"tag": "12"}, "approval": approval});
            let candidate = candidate.map(|digest| json!({"digest": digest}));
            serde_json::from_value(json!({
                "metadata": {"name": "flask"},
                "spec": {"repository": "r.example.com/team", "upstreams": [upstream], "images": []},
                "status": {"upstreams": [{
                    "name": "debian", "adopted": {"digest": digest("a")}, "candidate": candidate
                }]}
            }))
            .expect("a family")
        };
        let waits = family("Manual", Some(digest("b")));
        assert_eq!(digest_to_approve(&waits, "debian", None).expect("the candidate"), digest("b"));
        assert_eq!(
            digest_to_approve(&waits, "debian", Some(&digest("b"))).expect("the candidate"),
            digest("b")
        );
        let error = |family: &ImageFamily, upstream: &str, asked: Option<String>| {
            digest_to_approve(family, upstream, asked.as_deref()).expect_err("refused").to_string()
        };
        assert!(
            error(&waits, "debian", Some(digest("c")))
                .ends_with(&format!("approve {}", digest("b")))
        );
        assert!(error(&waits, "alpine", None).ends_with("it has debian"));
        let mut found = waits.clone();
        found.spec.upstreams.clear();
        assert!(error(&found, "debian", None).contains("needs no approval"));
        found.spec.upstream_defaults =
            serde_json::from_value(json!({"approval": "Manual"})).expect("defaults");
        assert_eq!(digest_to_approve(&found, "debian", None).expect("candidate"), digest("b"));
        assert!(error(&found, "alpine", None).ends_with("it has debian"));
        assert!(error(&family("Manual", None), "debian", None).contains("no candidate"));
        assert!(
            error(&family("Automatic", Some(digest("b"))), "debian", None)
                .contains("needs no approval")
        );
        let mut returned = family("Automatic", Some(digest("b")));
        returned.status.as_mut().expect("a status").upstreams[0].reason =
            Some(Reason::DigestReturned.into());
        assert_eq!(digest_to_approve(&returned, "debian", None).expect("it may"), digest("b"));
    }
}
