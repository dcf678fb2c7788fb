//! The connection to the registries, with latency and faults.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use groundswell::{
    api::condition::Reason,
    controller::folder_poller::{GitAnswer, GitPoll},
    engine::Problem,
    identity::FolderRevision,
    registry::{Digest, OutgoingRequest, ResponseBody, Transport, TransportError, full_body},
};
use http::{Method, Response, header};

use crate::{
    cluster::{Cluster, Shared},
    faults::{Moment, RegistryFate},
    invariants::{self, calm},
    registry::is_record,
};

/// How long the controller may be busy with a fault: registries are asked again after pauses.
const FAULT_TIME: Duration = Duration::from_mins(5);

/// The transport of the process with this number.
pub struct RegistryTransport {
    pub shared: Shared,
    pub process: u64,
}

impl Transport for RegistryTransport {
    fn send(
        &self,
        request: OutgoingRequest,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, TransportError>> {
        let (shared, process) = (self.shared.clone(), self.process);
        async move {
            let (there, back) = {
                let faults = &mut shared.lock().faults;
                (faults.registry_latency(), faults.registry_latency())
            };
            tokio::time::sleep(there).await;
            let outcome = {
                let mut cluster = shared.lock();
                if cluster.process == process { arrive(&mut cluster, &request) } else { None }
            };
            let Some(answer) = outcome else {
                shared.changed.notify_one();
                return std::future::pending().await;
            };
            tokio::time::sleep(back).await;
            answer.map(|answer| answer.map(full_body)).map_err(TransportError::from)
        }
        .boxed()
    }
}

/// Returns the answer of a request; `None` if the sender gets none.
fn arrive(
    cluster: &mut Cluster,
    request: &OutgoingRequest,
) -> Option<Result<Response<Bytes>, String>> {
    let host = request.url.host_str().unwrap_or_default().to_owned();
    let writes = request.method == Method::PUT;
    if writes && let Some(crash) = &mut cluster.crash {
        if crash.calls == 0 {
            let crash = *crash;
            cluster.crash = None;
            cluster.note(format_args!(
                "crash {:?} {} {}",
                crash.moment,
                request.method,
                request.url.path()
            ));
            if crash.moment == Moment::After {
                execute(cluster, &host, request);
            }
            cluster.kill(crash.down);
            return None;
        }
        crash.calls -= 1;
    }
    if invariants::count_registry_request(cluster) {
        return None;
    }
    let now = cluster.elapsed();
    let fate = cluster.faults.registry_fate(&host, now);
    if fate != RegistryFate::Answered {
        calm::disturb(cluster, FAULT_TIME);
    }
    cluster.note(format_args!("{} {host}{} {fate:?}", request.method, request.url.path()));
    if let Some(traffic) = &mut cluster.traffic {
        traffic.count(&request.method, &host, request.url.path());
    }
    Some(match fate {
        RegistryFate::Answered => Ok(execute(cluster, &host, request)),
        RegistryFate::Status(status, retry_after) => {
            let answer = Response::builder().status(status);
            let answer = match retry_after {
                Some(seconds) => answer.header(header::RETRY_AFTER, seconds),
                None => answer,
            };
            Ok(answer.body(Bytes::new()).expect("a response"))
        }
        RegistryFate::Broken { effect } => {
            if effect && writes {
                execute(cluster, &host, request);
            }
            Err("the connection broke".into())
        }
    })
}

fn execute(cluster: &mut Cluster, host: &str, request: &OutgoingRequest) -> Response<Bytes> {
    let path = request.url.path().trim_start_matches("/v2/").to_owned();
    if request.method == Method::PUT
        && let Some((name, tag)) = path.split_once("/manifests/")
        && !is_record(tag)
    {
        let digest = Digest::of(&request.body).to_string();
        cluster.note(format_args!("tag {host}/{name}:{tag} {digest}"));
        invariants::tags::set(cluster, &format!("{host}/{name}"), tag, &digest);
    }
    cluster.registry.answer(&request.method, host, &path, &request.body)
}

/// Returns the folders of a repository. Every commit changes every folder.
pub async fn read_folders(
    shared: Shared,
    process: u64,
    poll: GitPoll,
) -> Result<Arc<GitAnswer>, Problem> {
    let commit = commit(shared, process, poll.key.url, poll.key.revision).await?;
    let revision = FolderRevision {
        revision: commit.clone(),
        commit: commit.clone(),
        ..FolderRevision::default()
    };
    let folders = poll.folders.into_iter().map(|folder| (folder, Ok(Arc::new(revision.clone()))));
    Ok(Arc::new(GitAnswer { commit, folders: folders.collect() }))
}

/// Returns the commit that a branch points to.
async fn commit(
    shared: Shared,
    process: u64,
    url: String,
    branch: String,
) -> Result<String, Problem> {
    let there = shared.lock().faults.registry_latency();
    tokio::time::sleep(there).await;
    let found = {
        let mut cluster = shared.lock();
        if cluster.process != process {
            None
        } else {
            let now = cluster.elapsed();
            let answered = cluster.faults.registry_fate("git.test", now) == RegistryFate::Answered;
            if !answered {
                calm::disturb(&mut cluster, FAULT_TIME);
            }
            Some(cluster.commits.get(&(url, branch)).filter(|_| answered).cloned())
        }
    };
    let Some(found) = found else { return std::future::pending().await };
    found.ok_or_else(|| Problem {
        reason: Reason::SourceUnavailable,
        message: "the repository is unreachable".into(),
    })
}

/// Returns the transport that the registry client takes.
pub fn transport(shared: &Shared, process: u64) -> Arc<dyn Transport> {
    Arc::new(RegistryTransport { shared: shared.clone(), process })
}
