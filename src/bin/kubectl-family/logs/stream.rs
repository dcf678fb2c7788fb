//! The lines of a container's log. A stream that breaks while the container runs is opened again
//! after the last line that was shown.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::AsyncBufReadExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, Pod};
use kube::{Api, ResourceExt as _, api::LogParams, runtime::wait::await_condition};

use groundswell::terminal::printable;

use crate::cluster::{ClusterConnection, rejection_of_wait};

/// Maximum length of a line in bytes. What is longer is cut.
const MAX_LINE: usize = 16 * 1024;
/// How often a stream is opened again without a new line.
const MAX_RECONNECTS: usize = 30;
/// Pause before a stream is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// How a log has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogEnd {
    /// Everything was shown that there is.
    Complete,
    /// The container has not started, for this reason.
    NotStarted(String),
    /// There is no such pod any more.
    PodGone,
}

/// Shows the logs of a pod's containers.
pub struct ContainerLog<'a> {
    cluster: &'a ClusterConnection,
    pods: Api<Pod>,
    pod: &'a Pod,
    part: LogPart,
}

/// Which lines of a log are shown.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogPart {
    /// Whether new lines are shown until the container has ended.
    pub follow: bool,
    /// Number of lines at the end that are shown; `None` for all.
    pub tail: Option<i64>,
}

/// How far a log was shown.
#[derive(Default)]
struct LogPosition {
    /// Time of the last line.
    last: Option<Timestamp>,
    /// Time of the last line before the stream was opened. The server repeats lines of that second.
    before: Option<Timestamp>,
}

impl<'a> ContainerLog<'a> {
    /// Creates the log of a pod.
    pub fn new(cluster: &'a ClusterConnection, pod: &'a Pod, part: LogPart) -> Self {
        Self { cluster, pods: cluster.api(), pod, part }
    }

    /// Shows the log of a container; if it is followed, until the container has ended.
    pub async fn show(
        &self,
        container: &str,
        write: &mut dyn FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<LogEnd> {
        let mut state = state(self.pod, container);
        if self.part.follow && matches!(state, RunState::Waiting(_)) {
            state = match self.started(container).await? {
                Some(pod) => self::state(&pod, container),
                None => return Ok(LogEnd::PodGone),
            };
        }
        if let RunState::Waiting(why) = state {
            return Ok(LogEnd::NotStarted(why));
        }
        let mut position = LogPosition::default();
        let mut attempts = 0;
        loop {
            let before = position.last;
            let read = self.read(container, &mut position, write).await?;
            if !self.part.follow {
                return Ok(LogEnd::Complete);
            }
            attempts = if position.last > before { 0 } else { attempts + 1 };
            let name = self.pod.name_any();
            let pod = self.cluster.call::<Pod, _>(self.pods.get_opt(&name)).await?;
            match pod.filter(|pod| pod.uid() == self.pod.uid()) {
                None => return Ok(LogEnd::PodGone),
                // It has ended. What it has written after the stream broke is read below.
                Some(pod) if read == StreamEnd::Closed && has_ended(&pod, container) => {
                    return Ok(LogEnd::Complete);
                }
                Some(_) if attempts >= MAX_RECONNECTS => {
                    bail!("the log of {container} breaks off again and again; try again later")
                }
                Some(_) => tokio::time::sleep(RECONNECT_PAUSE).await,
            }
        }
    }

    /// Waits until a container has started, or its pod has ended. Returns the pod, or `None` if it
    /// was deleted.
    async fn started(&self, container: &str) -> anyhow::Result<Option<Pod>> {
        let (name, container) = (self.pod.name_any(), container.to_owned());
        let uid = self.pod.uid();
        let is_over = move |pod: Option<&Pod>| {
            pod.filter(|pod| pod.uid() == uid).is_none_or(|pod| {
                !matches!(state(pod, &container), RunState::Waiting(_)) || pod_has_ended(pod)
            })
        };
        let pod = await_condition(self.pods.clone(), &name, is_over).await;
        let pod = pod.map_err(|error| {
            let rejection = rejection_of_wait(&error);
            rejection.unwrap_or_else(|| anyhow::Error::from(error).context("watch the pod"))
        })?;
        Ok(pod.filter(|pod| pod.uid() == self.pod.uid()))
    }

    /// Shows what a stream has after a position, until it ends or breaks.
    async fn read(
        &self,
        container: &str,
        position: &mut LogPosition,
        write: &mut dyn FnMut(&str) -> anyhow::Result<()>,
    ) -> anyhow::Result<StreamEnd> {
        let parameters = LogParams {
            container: Some(container.to_owned()),
            follow: self.part.follow,
            since_time: position.last,
            tail_lines: self.part.tail.filter(|_| position.last.is_none()),
            timestamps: true,
            ..LogParams::default()
        };
        position.before = position.last;
        let name = self.pod.name_any();
        let stream = self.pods.log_stream(&name, &parameters);
        let stream = self.cluster.call::<Pod, _>(stream).await;
        let mut stream = Box::pin(stream.with_context(|| format!("read the log of {container}"))?);
        let mut line = LineBuffer::default();
        loop {
            let Ok(bytes) = stream.fill_buf().await else { return Ok(StreamEnd::Broken) };
            if bytes.is_empty() {
                write(&line.rest(position))?;
                return Ok(StreamEnd::Closed);
            }
            let text: String = bytes.iter().filter_map(|byte| line.push(*byte, position)).collect();
            let count = bytes.len();
            stream.consume_unpin(count);
            write(&text)?;
        }
    }
}

/// How a stream has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StreamEnd {
    Closed,
    Broken,
}

/// Collects the bytes of a line, as far as it is shown.
#[derive(Default)]
struct LineBuffer {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl LineBuffer {
    /// Adds a byte, and returns the line that it ends.
    fn push(&mut self, byte: u8, position: &mut LogPosition) -> Option<String> {
        if byte != b'\n' {
            if self.bytes.len() < MAX_LINE {
                self.bytes.push(byte);
            } else {
                self.is_cut = true;
            }
            return None;
        }
        Some(self.take(position))
    }

    /// Returns a last line without an end.
    fn rest(&mut self, position: &mut LogPosition) -> String {
        if self.bytes.is_empty() { String::new() } else { self.take(position) }
    }

    /// Returns the line without its time, or nothing if it was shown before.
    fn take(&mut self, position: &mut LogPosition) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        let is_cut = std::mem::take(&mut self.is_cut);
        self.bytes.clear();
        let parsed = text
            .split_once(' ')
            .and_then(|(time, line)| time.parse::<Timestamp>().ok().map(|time| (time, line)));
        let line = match parsed {
            Some((time, _)) if position.before.is_some_and(|before| time <= before) => {
                return String::new();
            }
            Some((time, line)) => {
                position.last = Some(time);
                line
            }
            None => text.as_str(),
        };
        let plain = anstream::adapter::strip_str(last_overwritten(line)).to_string();
        format!("{}{}\n", printable(&plain), if is_cut { " ..." } else { "" })
    }
}

/// Returns what a terminal shows of a line that writes over itself to show its progress.
fn last_overwritten(line: &str) -> &str {
    let line = line.trim_end_matches('\r');
    line.rsplit_once('\r').map_or(line, |(_, last)| last)
}

/// Whether a container has a log.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RunState {
    /// It has not started, for this reason.
    Waiting(String),
    Running,
    Ended,
}

/// Returns the state of a container.
fn state(pod: &Pod, container: &str) -> RunState {
    match container_state(pod, container) {
        Some(ContainerState { terminated: Some(_), .. }) => RunState::Ended,
        Some(ContainerState { running: Some(_), .. }) => RunState::Running,
        Some(ContainerState { waiting: Some(waiting), .. }) => {
            let parts = [waiting.reason.as_deref(), waiting.message.as_deref()];
            let parts: Vec<&str> = parts.into_iter().flatten().collect();
            RunState::Waiting(if parts.is_empty() { "it waits".into() } else { parts.join(": ") })
        }
        _ if pod_has_ended(pod) => RunState::Waiting("its pod has ended without it".into()),
        _ => RunState::Waiting("its pod has not started it".into()),
    }
}

fn container_state<'p>(pod: &'p Pod, container: &str) -> Option<&'p ContainerState> {
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let mut all = init.chain(status.container_statuses.iter().flatten());
    all.find(|status| status.name == container)?.state.as_ref()
}

fn has_ended(pod: &Pod, container: &str) -> bool {
    pod_has_ended(pod) || state(pod, container) == RunState::Ended
}

fn pod_has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
