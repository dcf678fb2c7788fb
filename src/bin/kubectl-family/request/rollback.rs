//! `kubectl family rollback`: finds the digest of the build that a user names, and requests that
//! its image goes back to it. The controller decides whether it may.

use anyhow::bail;
use clap::Args;
use kube::ResourceExt;

use groundswell::{
    api::{ImageFamily, ManagedImage, ManagedImageStatus, RequestScope, RequestedAction},
    terminal::printable,
};

use crate::{
    cluster::ClusterConnection,
    command_line::KubectlFlags,
    output::Outcome,
    request::{RequestToSend, TargetArgument, scope, send::SendFlags, send_to, subtree_scope},
};

/// Minimum length in characters of a digest that is cut short, without `sha256:`.
const MIN_DIGEST: usize = 12;
/// Upper bound on the builds that a message names.
const MAX_BUILDS: usize = 10;

#[derive(Args, Debug)]
pub struct RollbackArguments {
    /// Name of the image
    #[arg(value_name = "FAMILY/IMAGE")]
    target: TargetArgument,
    /// Number of the build to go back to, or its digest, or the first 12 characters of it
    #[arg(long, value_name = "BUILD")]
    to: String,
    /// Roll back also all images that are built on the image
    #[arg(long)]
    subtree: bool,
    /// Move workloads back as well. They otherwise stay as they are
    #[arg(long)]
    rollout: bool,
    /// Reason for the rollback, shown in the status
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    send_flags: SendFlags,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

pub async fn rollback(arguments: RollbackArguments) -> anyhow::Result<Outcome> {
    let RollbackArguments { target, to, subtree, rollout, reason, send_flags, kubectl_flags } =
        arguments;
    let scope = if subtree { subtree_scope(&target)? } else { scope(&target) };
    let (RequestScope::Image(image) | RequestScope::Subtree(image)) = &scope else {
        bail!("name the image to roll back, as {}/IMAGE", target.family)
    };
    let cluster = ClusterConnection::connect(&kubectl_flags).await?;
    let family: ImageFamily = cluster.get(cluster.api(), &target.family).await?;
    let name = format!("{}.{image}", family.name_any());
    let record: ManagedImage = cluster.get(cluster.api(), &name).await?;
    let digest = digest_of(image, record.status.unwrap_or_default(), &to)?;
    let action = RequestedAction::Rollback { scope, digest, rollout };
    let request = RequestToSend { action, reason: Some(reason) };
    send_to(&cluster, &family, request, &send_flags).await
}

/// A recorded build that has a digest.
struct BuildChoice {
    number: Option<i64>,
    digest: String,
}

/// Returns the digest of the recorded build of an image that a user names.
fn digest_of(image: &str, status: ManagedImageStatus, asked: &str) -> anyhow::Result<String> {
    let builds = recorded_builds(status);
    let number: Option<i64> = asked.parse().ok();
    let named = builds.iter().find(|build| number.is_some() && build.number == number);
    if let Some(build) = named {
        return Ok(build.digest.clone());
    }
    let hash = |digest: &str| digest.strip_prefix("sha256:").unwrap_or(digest).to_owned();
    let wanted = hash(asked);
    let begins = |build: &&BuildChoice| {
        wanted.len() >= MIN_DIGEST && hash(&build.digest).starts_with(&wanted)
    };
    let mut found = builds.iter().filter(begins);
    match (found.next(), found.next()) {
        (Some(build), None) => Ok(build.digest.clone()),
        (Some(_), Some(_)) => {
            bail!("several builds of {image} begin with {}: write more of it", printable(asked))
        }
        (None, _) => {
            let line = |build: &BuildChoice| format!("\n  {}", build.describe());
            let known: String = builds.iter().take(MAX_BUILDS).map(line).collect();
            let known = if known.is_empty() { " none" } else { &known };
            bail!("{image} has no recorded build {}; it has{known}", printable(asked))
        }
    }
}

/// Returns the recorded builds that have a digest, the newest first, each digest once.
fn recorded_builds(status: ManagedImageStatus) -> Vec<BuildChoice> {
    let current = status.digest.map(|digest| BuildChoice { number: status.build, digest });
    let history = status.history.into_iter().filter(|build| !build.digest.is_empty());
    let history = history.map(|build| BuildChoice { number: build.build, digest: build.digest });
    let mut builds: Vec<BuildChoice> = Vec::new();
    for build in current.into_iter().chain(history) {
        if builds.iter().all(|known| known.digest != build.digest) {
            builds.push(build);
        }
    }
    builds
}

impl BuildChoice {
    fn describe(&self) -> String {
        let number = self.number.map_or_else(|| "adopted".into(), |number| number.to_string());
        printable(&format!("{number}  {}", self.digest))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn digest(letter: &str) -> String {
        format!("sha256:{}", letter.repeat(64))
    }

    fn status() -> ManagedImageStatus {
        serde_json::from_value(json!({
            "conditions": [], "state": "Current", "build": 3, "digest": digest("c"),
            "history": [
                {"build": 3, "digest": digest("c"), "fingerprint": "f3"},
                {"fingerprint": "broken"},
                {"build": 2, "digest": digest("b"), "fingerprint": "f2b", "spared": true},
                {"build": 2, "digest": digest("b"), "fingerprint": "f2"},
                {"build": 1, "digest": digest("1"), "fingerprint": "f1"},
            ],
        }))
        .expect("a status")
    }

    #[test]
    fn a_build_is_named_by_its_number_or_its_digest() {
        let found = |asked: &str| digest_of("app", status(), asked).expect("a build");
        assert_eq!(found("2"), digest("b"));
        assert_eq!(found("1"), digest("1"));
        assert_eq!(found(&digest("c")), digest("c"));
        assert_eq!(found(&"b".repeat(12)), digest("b"));
        assert_eq!(found(&"1".repeat(12)), digest("1"), "it is no number of a build");
    }

    #[test]
    fn an_unknown_build_is_answered_with_those_that_there_are() {
        let refused =
            |asked: &str| digest_of("app", status(), asked).expect_err("none").to_string();
        for asked in ["4", "-1", "", "b", "sha256:", &"b".repeat(11), &"d".repeat(64), "\u{1b}[2J"]
        {
            let message = refused(asked);
            let lines: Vec<&str> = message.lines().skip(1).map(str::trim).collect();
            let expected = [("3", "c"), ("2", "b"), ("1", "1")];
            let expected = expected.map(|(number, of)| format!("{number}  {}", digest(of)));
            assert_eq!(lines, expected, "{asked:?}");
            assert!(!message.contains('\u{1b}'), "{message:?}");
        }
        let none = digest_of("app", ManagedImageStatus::default(), "1").expect_err("none");
        assert!(none.to_string().ends_with("none"), "{none}");
    }

    #[test]
    fn builds_that_begin_alike_need_more_of_their_digest() {
        let mut status = status();
        status.history[4].digest = format!("sha256:{}{}", "b".repeat(20), "e".repeat(44));
        let asked = "b".repeat(20);
        let error = digest_of("app", status.clone(), &asked).expect_err("two").to_string();
        assert!(error.contains("write more"), "{error}");
        let asked = format!("{asked}e");
        assert_eq!(
            digest_of("app", status.clone(), &asked).expect("one"),
            status.history[4].digest
        );
    }
}
