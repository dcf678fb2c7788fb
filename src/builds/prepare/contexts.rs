//! The named contexts that only the Dockerfile determines. A Dockerfile may name an image with a
//! digest, and `BuildKit` then looks for a context whose name has this digest. The controller does
//! not know it when it creates the Job.

use std::fs;

use crate::builds::{
    dockerfile::ReplacedDigest,
    pod_paths,
    prepare::{
        PodPaths, disk_error,
        error::{PrepareError, PrepareReason},
        spec::PrepareSpec,
    },
};

/// Writes the contexts as a variable of a shell, and logs which digests they replace.
///
/// # Errors
/// Returns an error if a digest is to be replaced, and the strategy does not read the file.
pub(super) fn write(
    spec: &PrepareSpec,
    replaced: &[ReplacedDigest],
    paths: &PodPaths,
) -> Result<(), PrepareError> {
    if let Some(ReplacedDigest { image, .. }) =
        replaced.first().filter(|_| !spec.strategy_reads_contexts)
    {
        let message = format!(
            "line {} of the Dockerfile names `{2}`, and the build shall use the pinned digest; the \
             BuildStrategy does not read {1}, so that you must declare the edge `as: {2}`",
            image.line,
            pod_paths::CONTEXTS,
            image.name
        );
        return Err(PrepareError::new(PrepareReason::DockerfileMismatch, message));
    }
    for ReplacedDigest { image, pinned, .. } in replaced {
        tracing::info!(
            line = image.line,
            image = image.name,
            pinned,
            "the build uses the pinned digest instead of that in the Dockerfile"
        );
    }
    let path = paths.root.join(pod_paths::CONTEXTS.trim_start_matches('/'));
    fs::write(&path, to_shell(replaced)).map_err(|error| disk_error(&path, &error))
}

/// Returns the options of `buildctl`, separated by spaces. References contain nothing that a shell
/// interprets.
fn to_shell(replaced: &[ReplacedDigest]) -> String {
    let options: Vec<_> = replaced
        .iter()
        .map(|ReplacedDigest { context, pinned, .. }| {
            format!("--opt=context:{context}=docker-image://{pinned}")
        })
        .collect();
    format!("CONTEXTS='{}'\n", options.join(" "))
}
