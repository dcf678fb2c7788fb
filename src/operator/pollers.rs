//! The pollers of tags and of Git repositories, which all families share.

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use kube::{Client, runtime::reflector::ObjectRef};

use crate::{
    api::{ImageFamily, condition::Reason},
    builds::git,
    clock::Clock,
    controller::{folder_poller::FolderPoller, git_poll},
    registry,
    server::{Metrics, metrics::PollResult},
    upstream::{self, PollFailure, Poller},
};

/// Timeout of one poll of a tag or a revision.
const POLL_TIMEOUT: Duration = Duration::from_mins(1);
/// Timeout for a Git server to list its branches and tags and to send the trees of a commit.
const GIT_TIMEOUT: Duration = Duration::from_secs(45);
/// Maximum number of Git servers that are queried at once.
const MAX_CONCURRENT_GIT_QUERIES: usize = 4;

/// Starts polling the tags of upstreams, and counts the results.
pub(super) fn start_tag_poller(
    registry: registry::Client,
    metrics: Metrics,
    clock: Clock,
) -> Poller<upstream::ImageKey, upstream::UpstreamDigest, ObjectRef<ImageFamily>> {
    Poller::start(POLL_TIMEOUT, clock, move |key: upstream::ImageKey, last| {
        let (registry, metrics) = (registry.clone(), metrics.clone());
        async move {
            let last = last.and_then(|polled| polled.value.clone());
            let result = upstream::poll_tag(&registry, &key, last.as_ref()).await;
            let reason_of = |failure: &PollFailure| failure.problem.reason;
            metrics.upstream_polled(match (&result, &last) {
                (Ok(digest), Some(last)) if digest.tagged != last.tagged => PollResult::Moved,
                // The first poll of a tag is not a move.
                (Ok(_), _) => PollResult::Unchanged,
                (Err(failure), _) if reason_of(failure) == Reason::ImageNotFound => {
                    PollResult::NotFound
                }
                (Err(failure), _) if reason_of(failure) == Reason::RegistryDenied => {
                    PollResult::Denied
                }
                (Err(_), _) => PollResult::Unavailable,
            });
            result
        }
    })
}

/// Starts polling the folders of Git repositories.
pub(super) fn start_revision_poller(
    client: Client,
    clock: Clock,
    trust_file: Option<PathBuf>,
) -> anyhow::Result<FolderPoller<ObjectRef<ImageFamily>>> {
    let program = std::env::current_exe()
        .context("find the path of this program, which queries Git servers in a child process")?;
    let resolver = git::subprocess::Resolver::new(program, GIT_TIMEOUT, MAX_CONCURRENT_GIT_QUERIES);
    let resolver = Arc::new(resolver.with_ca_file(trust_file));
    Ok(FolderPoller::start(POLL_TIMEOUT, clock, move |poll| {
        let (client, resolver) = (client.clone(), Arc::clone(&resolver));
        async move { git_poll::read_folders(client, &resolver, poll).await }
    }))
}
