//! The pod of a check: it inspects a digest and passes or fails.

use groundswell::api::labels;

use crate::{
    builder::{BAD, PushResult},
    cluster::Cluster,
    job_controller::Work,
    topology::REPORT,
};

/// The environment variable with the image to check.
const IMAGE: &str = "GROUNDSWELL_IMAGE";

/// Runs the check of a Job.
pub fn run(cluster: &mut Cluster, work: &Work) -> PushResult {
    let env = work.job["spec"]["template"]["spec"]["containers"][0]["env"]
        .as_array()
        .into_iter()
        .flatten();
    let pinned = env
        .filter(|variable| variable["name"] == IMAGE)
        .find_map(|variable| variable["value"].as_str());
    let pinned = pinned.unwrap_or_default().to_owned();
    let (name, revision) = (work.label(labels::CHECK), work.label(labels::CHECK_REVISION));
    let made = cluster.registry.origins(&pinned);
    if made.is_empty() {
        cluster.violated("checked digests exist", format!("{} checks {pinned}", work.key.name));
    } else if name == REPORT || made.iter().any(|made| made.source.contains(BAD)) {
        return PushResult::Failed("the image is bad\n".into());
    }
    cluster.invariants.check_passed(&pinned, name, revision, !work.is_deleted());
    PushResult::Pushed(String::new())
}
