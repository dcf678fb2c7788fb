//! Which pod has the log of a build or a check, and what is recorded if there is none.

use std::collections::HashSet;

use anyhow::bail;
use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use kube::{ResourceExt as _, api::ListParams};

use groundswell::{
    api::{ImageState, ManagedImageStatus, labels},
    lineage::ImageIndex,
};

use crate::{cluster::ClusterConnection, input::EstateFamily, status::age};

/// Label that the Job controller gives to pods: the name of their Job.
const JOB_NAME: &str = "batch.kubernetes.io/job-name";

/// Whose log is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoggedWork {
    /// The running build, or the last one that has a pod.
    NewestBuild,
    /// The build with a number.
    Build(i64),
    /// The check with a name.
    Check(String),
}

/// A build or a check of an image.
pub struct LoggedRun<'a> {
    family: &'a EstateFamily,
    image: &'a str,
    status: Option<&'a ManagedImageStatus>,
    work: LoggedWork,
}

impl<'a> LoggedRun<'a> {
    /// # Errors
    ///
    /// Returns an error if the image has no check of this name.
    pub fn of(
        family: &'a EstateFamily,
        index: ImageIndex,
        work: LoggedWork,
    ) -> anyhow::Result<Self> {
        let Some(spec) = family.family.spec.images.get(index.position()) else {
            bail!("there is no such image")
        };
        let status = family.recorded(index);
        if let LoggedWork::Check(wanted) = &work {
            let recorded = status.iter().flat_map(|status| &status.checks);
            let recorded = recorded.map(|check| check.name.as_str());
            let declared = spec.checks.iter().map(|check| check.name.as_str());
            let mut known: Vec<&str> = declared.chain(recorded).collect();
            known.sort_unstable();
            known.dedup();
            if !known.contains(&wanted.as_str()) {
                let known = if known.is_empty() { "none".into() } else { known.join(", ") };
                bail!("{} has no check {wanted}; it has {known}", spec.name);
            }
        }
        Ok(Self { family, image: &spec.name, status, work })
    }

    /// Says that a build is due that has not begun, so that the log is that of an earlier one.
    pub fn not_begun(&self) -> Option<String> {
        let state = self.status.filter(|status| status.build.is_some())?.state;
        let is_due = matches!(state, ImageState::Waiting | ImageState::Queued);
        (is_due && self.work == LoggedWork::NewestBuild).then(|| {
            format!("{} is {}: this is the log of an earlier build", self.image, state.as_str())
        })
    }

    /// Returns the newest pod of the run, or `None` if there is none any more.
    pub async fn pod(&self, cluster: &ClusterConnection) -> anyhow::Result<Option<Pod>> {
        let mut pods: Vec<Pod> = cluster.list(cluster.api(), self.selected()).await?;
        if let LoggedWork::Build(number) = self.work {
            let jobs: Vec<Job> = cluster.list(cluster.api(), self.selected()).await?;
            let number = number.to_string();
            let is_wanted = |job: &Job| job.annotations().get(labels::BUILD) == Some(&number);
            let jobs = jobs.into_iter().filter(is_wanted);
            let names: HashSet<String> = jobs.map(|job| job.name_any()).collect();
            pods.retain(|pod| pod.labels().get(JOB_NAME).is_some_and(|job| names.contains(job)));
        }
        let attempt = |pod: &Pod| {
            let attempt = pod.labels().get(labels::ATTEMPT);
            attempt.and_then(|attempt| attempt.parse::<u32>().ok())
        };
        Ok(pods.into_iter().max_by_key(|pod| (pod.creation_timestamp(), attempt(pod))))
    }

    /// Returns the labels that the pods and Jobs of the run have.
    fn selected(&self) -> ListParams {
        let (family, image) = (&self.family.name.name, self.image);
        let work = match &self.work {
            LoggedWork::Check(check) => {
                format!(
                    "{}={},{}={check}",
                    labels::COMPONENT,
                    labels::COMPONENT_CHECK,
                    labels::CHECK
                )
            }
            _ => format!("{}={}", labels::COMPONENT, labels::COMPONENT_BUILD),
        };
        let labels = format!("{}={family},{}={image},{work}", labels::FAMILY, labels::IMAGE);
        ListParams::default().labels(&labels)
    }

    /// Returns what is recorded of a run whose pod is gone.
    ///
    /// # Errors
    ///
    /// Returns an error if nothing is recorded.
    pub fn recorded(&self, now: Timestamp) -> anyhow::Result<String> {
        let image = self.image;
        let found = match &self.work {
            LoggedWork::Check(name) => self.recorded_check(name),
            LoggedWork::Build(number) => self.recorded_build(Some(*number), now),
            LoggedWork::NewestBuild => self.recorded_build(None, now),
        };
        let Some(found) = found else {
            match &self.work {
                LoggedWork::Check(name) => bail!("check {name} of {image} has not run yet"),
                LoggedWork::Build(number) => bail!(
                    "{image} has no pod and no record of a build {number}; list its builds with \
                     kubectl family history {image}"
                ),
                LoggedWork::NewestBuild => bail!(
                    "{image} was not built yet; kubectl family why {image} says what it waits for"
                ),
            }
        };
        Ok(format!(
            "The pod is gone: the log of a build or check is kept as long as its Job, which is \
             deleted some time after it has ended. What is recorded:\n\n{found}"
        ))
    }

    fn recorded_check(&self, name: &str) -> Option<String> {
        let check = self.status?.checks.iter().find(|check| check.name == name)?;
        Some(format!("check {name} of {}: {:?}\n{}", check.digest, check.state, check.message))
    }

    fn recorded_build(&self, number: Option<i64>, now: Timestamp) -> Option<String> {
        let status = self.status?;
        let failed = status.failure.as_ref().filter(|failure| {
            let fingerprint = status.last_build_fingerprint.as_deref();
            number.is_none()
                || (number == status.last_build
                    && fingerprint.is_some_and(|fingerprint| failure.is_of(fingerprint)))
        });
        if let Some(failure) = failed {
            let at = failure.at.map(|at| format!(", {} ago", age(Some(at), now)));
            let (reason, message) = (&failure.last.reason, &failure.last.message);
            return Some(format!(
                "the last attempt failed{}: {reason}\n{message}",
                at.unwrap_or_default()
            ));
        }
        let mut builds = status.history.iter();
        let build = builds.find(|build| number.is_none() || build.build == number)?;
        let named = build.build.map_or("the last build".to_owned(), |one| format!("build {one}"));
        let at = build.finished_at.map(|at| format!(", {} ago", age(Some(at), now)));
        let outcome = match (build.digest.is_empty(), build.spared) {
            (true, _) => "failed".to_owned(),
            (false, true) => "gave the same image as the build before".to_owned(),
            (false, false) => format!("gave {}", build.digest),
        };
        Some(format!("{named} {outcome}{}\n{}", at.unwrap_or_default(), build.message))
    }
}

/// Returns the names of the containers in the order in which they run. Those that run for as long
/// as the pod come last: their logs end when it does.
///
/// # Errors
///
/// Returns an error if there is no container of the wanted name.
pub fn containers(pod: &Pod, wanted: Option<&str>) -> anyhow::Result<Vec<String>> {
    let Some(spec) = &pod.spec else { bail!("pod {} has no containers", pod.name_any()) };
    let init = spec.init_containers.iter().flatten();
    let is_sidecar = |container: &&k8s_openapi::api::core::v1::Container| {
        container.restart_policy.as_deref() == Some("Always")
    };
    let (sidecars, steps): (Vec<_>, Vec<_>) = init.partition(is_sidecar);
    let all = steps.into_iter().chain(&spec.containers).chain(sidecars);
    let names: Vec<String> = all.map(|container| container.name.clone()).collect();
    match wanted {
        None => Ok(names),
        Some(wanted) if names.iter().any(|name| name == wanted) => Ok(vec![wanted.to_owned()]),
        Some(wanted) => {
            bail!("the pod has no container {wanted}; it has {}", names.join(", "))
        }
    }
}
