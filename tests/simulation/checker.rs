//! What a check's pod does: it looks at a digest, and says whether it is good.

use groundswell::api::labels;

use crate::{
    builder::{BAD, Pushed},
    cluster::Cluster,
    job_controller::Work,
    topology::REPORT,
};

/// The variable with the image that is checked.
const IMAGE: &str = "GROUNDSWELL_IMAGE";

/// Checks the digest of a Job.
pub fn run(cluster: &mut Cluster, work: &Work) -> Pushed {
    let env = work.job["spec"]["template"]["spec"]["containers"][0]["env"]
        .as_array()
        .into_iter()
        .flatten();
    let pinned = env
        .filter(|variable| variable["name"] == IMAGE)
        .find_map(|variable| variable["value"].as_str());
    let pinned = pinned.unwrap_or_default().to_owned();
    let (name, revision) = (work.label(labels::CHECK), work.label(labels::CHECK_REVISION));
    let made = cluster.registry.made(&pinned);
    if made.is_empty() {
        cluster.violated("what is checked exists", format!("{} looks at {pinned}", work.key.name));
    } else if name == REPORT || made.iter().any(|made| made.source.contains(BAD)) {
        return Pushed::Failed("the image is bad\n".into());
    }
    cluster.invariants.passed(&pinned, name, revision, !work.is_deleted());
    Pushed::Pushed
}
