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
    upstream::{self, PollFailure, PollLimits, PollSettings, Poller},
};

/// How many times as long as a call to a registry a poll may take: it may need several, and each
/// may have to wait for its turn at the host.
const CALLS_PER_POLL: u32 = 3;
/// Maximum number of tags that are polled at once.
const MAX_CONCURRENT_POLLS: usize = 256;
/// One part of the requests that may run at once at a registry may be polls: other calls need it,
/// too.
const POLL_SLOT_PARTS: usize = 2;
/// One of this many parts of the places of tags that are free may be taken by a namespace.
const TAG_FREE_PARTS: usize = 4;
/// Timeout of one poll of a repository.
const GIT_POLL_TIMEOUT: Duration = Duration::from_mins(1);
/// Timeout for a Git server to list its branches and tags and to send the trees of a commit.
const GIT_TIMEOUT: Duration = Duration::from_secs(45);
/// Maximum number of repositories that are read at once. Each needs a process.
const MAX_CONCURRENT_GIT_QUERIES: usize = 12;
/// Maximum number of repositories that are read at once at one Git server.
const MAX_CONCURRENT_GIT_QUERIES_PER_HOST: usize = 4;
/// One of this many parts of the places of Git that are free may be taken by a namespace. There are
/// few, and one silent server must not take all that it has.
const GIT_FREE_PARTS: usize = 2;
/// How many repositories are read in a minute at one Git server.
const MAX_GIT_QUERIES_PER_MINUTE: u32 = 600;

/// Starts polling the tags of upstreams, and counts the results.
pub(super) fn start_tag_poller(
    registry: registry::Client,
    registries: &registry::Config,
    metrics: Metrics,
    clock: Clock,
) -> Poller<upstream::ImageKey, upstream::UpstreamDigest, ObjectRef<ImageFamily>> {
    let settings = PollSettings {
        timeout: Duration::from(registries.timeout) * CALLS_PER_POLL,
        limits: tag_limits(registries),
        host_of: upstream::ImageKey::host,
        namespace_of,
    };
    Poller::start(settings, clock, move |key: upstream::ImageKey, last| {
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
                (Err(failure), _)
                    if [
                        Reason::RegistryDenied,
                        Reason::DownloadBlocked,
                        Reason::AddressNotAllowed,
                    ]
                    .contains(&reason_of(failure)) =>
                {
                    PollResult::Denied
                }
                (Err(_), _) => PollResult::Unavailable,
            });
            result
        }
    })
}

fn tag_limits(registries: &registry::Config) -> PollLimits {
    let rates = registries.clone();
    PollLimits {
        total: MAX_CONCURRENT_POLLS,
        per_host: (registries.concurrent_requests_per_host / POLL_SLOT_PARTS).max(1),
        free_parts: TAG_FREE_PARTS,
        per_minute: Arc::new(move |registry| rates.polls_per_minute(registry)),
    }
}

/// Starts polling the folders of Git repositories.
pub(super) fn start_revision_poller(
    client: Client,
    clock: Clock,
    trust_file: Option<PathBuf>,
    addresses: registry::AddressPolicy,
) -> anyhow::Result<FolderPoller<ObjectRef<ImageFamily>>> {
    let program = std::env::current_exe()
        .context("find the path of this program, which queries Git servers in a child process")?;
    let resolver = git::subprocess::Resolver::new(program, GIT_TIMEOUT);
    let resolver = Arc::new(resolver.with_ca_file(trust_file).with_addresses(addresses));
    let settings = PollSettings {
        timeout: GIT_POLL_TIMEOUT,
        limits: git_limits(),
        host_of: git_poll::GitKey::host,
        namespace_of,
    };
    Ok(FolderPoller::start(settings, clock, move |poll| {
        let (client, resolver) = (client.clone(), Arc::clone(&resolver));
        async move { git_poll::read_folders(client, &resolver, poll).await }
    }))
}

fn git_limits() -> PollLimits {
    let limits = PollLimits::of_each_host(
        MAX_CONCURRENT_GIT_QUERIES,
        MAX_CONCURRENT_GIT_QUERIES_PER_HOST,
        MAX_GIT_QUERIES_PER_MINUTE,
    );
    PollLimits { free_parts: GIT_FREE_PARTS, ..limits }
}

fn namespace_of(family: &ObjectRef<ImageFamily>) -> String {
    family.namespace.clone().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_leave_half_of_a_registry_to_other_calls() {
        for (slots, polls) in [(1, 1), (2, 1), (8, 4), (100, 50)] {
            let config = registry::Config {
                concurrent_requests_per_host: slots,
                ..registry::Config::default()
            };
            assert_eq!(tag_limits(&config).per_host, polls, "{slots} slots");
        }
    }
}
