//! `kubectl family trigger|retry|cancel|force|hold|unhold|approve`: each writes one annotation, the
//! [request](crate::api::request), and shows what came of it. Nothing of a spec is touched, so that
//! what a GitOps tool keeps stays as it is.

mod render;
mod send;

use std::str::FromStr;

use anyhow::bail;
use clap::Args;
use jiff::Timestamp;
use kube::Api;

use crate::{
    api::{Act, Approval, Duration, ImageFamily, ManagedImage, Request, RequestScope},
    cli::{Place, cluster::Cluster, request::send::Sending},
};

/// A family, or one of its images.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Target {
    family: String,
    image: Option<String>,
}

#[derive(Args, Debug)]
pub struct ScopeArguments {
    /// The family, or one image of it
    #[arg(value_name = "FAMILY[/IMAGE]")]
    target: Target,
    /// The image and all that stand on it
    #[arg(long)]
    subtree: bool,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    place: Place,
}

#[derive(Args, Debug)]
pub struct HoldArguments {
    #[command(flatten)]
    of: HoldTarget,
    /// The digest that builds use meanwhile; by default the one that they use now
    #[arg(long, requires = "upstream")]
    digest: Option<String>,
    /// When the hold ends by itself, as 2026-05-01T12:00:00Z
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
    /// How long the hold lasts, as 30m or 72h
    #[arg(long = "for", value_name = "DURATION", conflicts_with = "until")]
    lasts: Option<Duration>,
    /// Why, for those who read the status
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    place: Place,
}

#[derive(Args, Debug)]
pub struct UnholdArguments {
    #[command(flatten)]
    of: HoldTarget,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    place: Place,
}

#[derive(Args, Debug)]
struct HoldTarget {
    /// The image; or the family, with --upstream
    #[arg(value_name = "FAMILY[/IMAGE]")]
    target: Target,
    /// The upstream of the family
    #[arg(long)]
    upstream: Option<String>,
}

#[derive(Args, Debug)]
pub struct ApproveArguments {
    /// The family
    family: String,
    /// The upstream
    upstream: String,
    /// The digest that is approved; by default the candidate, which is shown
    #[arg(long)]
    digest: Option<String>,
    #[command(flatten)]
    sending: Sending,
    #[command(flatten)]
    place: Place,
}

/// Sends what `act` makes of the scope: `Act::Trigger`, `Act::Retry`, `Act::Cancel` or
/// `Act::Force`.
pub async fn of_scope(
    act: fn(RequestScope) -> Act,
    arguments: ScopeArguments,
) -> anyhow::Result<()> {
    let scope = scope(&arguments.target, arguments.subtree)?;
    let cluster = Cluster::connect(&arguments.place).await?;
    dispatch(&cluster, &arguments.target, act(scope), &arguments.sending).await
}

pub async fn hold(arguments: HoldArguments) -> anyhow::Result<()> {
    let HoldArguments { of, digest, until, lasts, reason, sending, place } = arguments;
    let now = Timestamp::now();
    let until = match lasts {
        Some(lasts) => Some(now.checked_add(lasts.signed())?),
        None => until,
    };
    if let Some(until) = until.filter(|until| *until <= now) {
        bail!("--until {until} is past");
    }
    let act = match of.choose()? {
        Choice::Image(image) => Act::HoldImage { image, until, reason },
        Choice::Upstream(upstream) => Act::HoldUpstream { upstream, digest, until, reason },
    };
    dispatch(&Cluster::connect(&place).await?, &of.target, act, &sending).await
}

pub async fn unhold(arguments: UnholdArguments) -> anyhow::Result<()> {
    let act = match arguments.of.choose()? {
        Choice::Image(image) => Act::UnholdImage { image },
        Choice::Upstream(upstream) => Act::UnholdUpstream { upstream },
    };
    dispatch(
        &Cluster::connect(&arguments.place).await?,
        &arguments.of.target,
        act,
        &arguments.sending,
    )
    .await
}

pub async fn approve(arguments: ApproveArguments) -> anyhow::Result<()> {
    let ApproveArguments { family, upstream, digest, sending, place } = arguments;
    let cluster = Cluster::connect(&place).await?;
    let found: ImageFamily = cluster.get(cluster.api(), &family).await?;
    let digest = approvable(&found, &upstream, digest.as_deref())?;
    println!("{}", render::candidate(&found, &upstream, Timestamp::now()));
    let target = Target { family, image: None };
    dispatch(&cluster, &target, Act::Approve { upstream, digest }, &sending).await
}

/// Annotates the `ManagedImage`, where one image is meant, else the `ImageFamily`: so that requests
/// about several images do not stand in each other's way.
async fn dispatch(
    cluster: &Cluster,
    target: &Target,
    act: Act,
    sending: &Sending,
) -> anyhow::Result<()> {
    let request = Request { id: send::fresh_id(Timestamp::now()), by: cluster.who().await, act };
    if let Some(image) = &target.image {
        let api: Api<ManagedImage> = cluster.api();
        send::send(cluster, &api, &format!("{}.{image}", target.family), &request, sending).await
    } else {
        let api: Api<ImageFamily> = cluster.api();
        send::send(cluster, &api, &target.family, &request, sending).await
    }
}

fn scope(target: &Target, subtree: bool) -> anyhow::Result<RequestScope> {
    match (&target.image, subtree) {
        (None, false) => Ok(RequestScope::Family),
        (Some(image), false) => Ok(RequestScope::Image(image.clone())),
        (Some(image), true) => Ok(RequestScope::Subtree(image.clone())),
        (None, true) => bail!(
            "--subtree is of an image: name it, as {}/IMAGE; without it, all of the family is meant",
            target.family
        ),
    }
}

/// What a hold is of.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    Image(String),
    Upstream(String),
}

impl HoldTarget {
    fn choose(&self) -> anyhow::Result<Choice> {
        let family = &self.target.family;
        match (&self.target.image, &self.upstream) {
            (Some(image), None) => Ok(Choice::Image(image.clone())),
            (None, Some(upstream)) => Ok(Choice::Upstream(upstream.clone())),
            (Some(_), Some(_)) => {
                bail!("--upstream is of the family: leave out the image and write {family}")
            }
            (None, None) => bail!(
                "name an image, as {family}/IMAGE, or an upstream with --upstream; to stop a whole \
                 family, set its `spec.suspend`"
            ),
        }
    }
}

/// The digest to approve: the one that is asked for, or the candidate. It must be the candidate
/// either way.
fn approvable(family: &ImageFamily, upstream: &str, asked: Option<&str>) -> anyhow::Result<String> {
    let Some(spec) = family.spec.upstreams.iter().find(|known| known.name == upstream) else {
        let known: Vec<&str> =
            family.spec.upstreams.iter().map(|known| known.name.as_str()).collect();
        bail!("the family has no upstream `{upstream}`; it has {}", known.join(", "));
    };
    if spec.approval != Approval::Manual {
        bail!("{upstream} needs no approval: its `approval` is Automatic");
    }
    let status = family
        .status
        .iter()
        .flat_map(|status| &status.upstreams)
        .find(|known| known.name == upstream);
    let Some(candidate) = status.and_then(|status| status.candidate.as_ref()) else {
        bail!("{upstream} has no candidate: builds use the newest digest that was seen");
    };
    match asked {
        Some(asked) if asked != candidate.digest => {
            bail!("{asked} is not the candidate of {upstream}; that is {}", candidate.digest)
        }
        _ => Ok(candidate.digest.clone()),
    }
}

impl FromStr for Target {
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

    fn target(text: &str) -> Target {
        text.parse().expect("a target")
    }

    #[test]
    fn a_target_is_a_family_or_an_image_of_one() {
        assert_eq!(target("flask"), Target { family: "flask".into(), image: None });
        assert_eq!(
            target("flask/app"),
            Target { family: "flask".into(), image: Some("app".into()) }
        );
        for wrong in ["", "/app", "flask/", "flask/app/more"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_subtree_is_of_an_image() {
        assert_eq!(scope(&target("flask"), false).expect("a scope"), RequestScope::Family);
        assert_eq!(
            scope(&target("flask/app"), false).expect("a scope"),
            RequestScope::Image("app".into())
        );
        assert_eq!(
            scope(&target("flask/app"), true).expect("a scope"),
            RequestScope::Subtree("app".into())
        );
        let error = scope(&target("flask"), true).expect_err("of nothing").to_string();
        assert!(error.contains("flask/IMAGE"), "{error}");
    }

    #[test]
    fn a_hold_is_of_an_image_or_of_an_upstream() {
        let choose = |text: &str, upstream: Option<&str>| {
            HoldTarget { target: target(text), upstream: upstream.map(Into::into) }.choose()
        };
        assert_eq!(choose("flask/app", None).expect("a choice"), Choice::Image("app".into()));
        assert_eq!(
            choose("flask", Some("debian")).expect("a choice"),
            Choice::Upstream("debian".into())
        );
        assert!(choose("flask/app", Some("debian")).is_err());
        let error = choose("flask", None).expect_err("of everything").to_string();
        assert!(error.contains("spec.suspend"), "{error}");
    }

    #[test]
    fn only_the_candidate_of_an_upstream_that_needs_approval_is_approved() {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let family = |approval: &str, candidate: Option<String>| -> ImageFamily {
            let upstream = json!({"name": "debian", "image": "docker.io/library/debian", "follow": {"tag": "12"}, "approval": approval});
            let candidate = candidate.map(|digest| json!({"digest": digest}));
            serde_json::from_value(json!({
                "metadata": {"name": "flask"},
                "spec": {"repository": "r.example.com/team", "upstreams": [upstream], "images": []},
                "status": {"upstreams": [{"name": "debian", "adopted": {"digest": digest("a")}, "candidate": candidate}]}
            }))
            .expect("a family")
        };
        let waits = family("Manual", Some(digest("b")));
        assert_eq!(approvable(&waits, "debian", None).expect("the candidate"), digest("b"));
        assert_eq!(
            approvable(&waits, "debian", Some(&digest("b"))).expect("the candidate"),
            digest("b")
        );
        let told = |family: &ImageFamily, upstream: &str, asked: Option<String>| {
            approvable(family, upstream, asked.as_deref()).expect_err("refused").to_string()
        };
        assert!(
            told(&waits, "debian", Some(digest("c")))
                .ends_with(&format!("that is {}", digest("b")))
        );
        assert!(told(&waits, "alpine", None).ends_with("it has debian"));
        assert!(told(&family("Manual", None), "debian", None).contains("no candidate"));
        assert!(
            told(&family("Automatic", Some(digest("b"))), "debian", None)
                .contains("needs no approval")
        );
    }
}
