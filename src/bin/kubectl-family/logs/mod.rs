//! `kubectl family logs`: the log of an image's build or check, of the running one or of the last.
//!
//! - [`pods`]: which pod it is, and what is recorded if the pod is gone
//! - [`stream`]: the lines of its containers

mod pods;
mod stream;
#[cfg(test)]
mod tests;

use clap::Args;
use jiff::Timestamp;

use groundswell::terminal::printable;

use crate::{
    cluster::ClusterConnection,
    command_line::KubectlFlags,
    input::{Estate, InputArguments, target::TargetName},
    logs::{
        pods::{LoggedRun, LoggedWork},
        stream::{ContainerLog, LogEnd, LogPart},
    },
    output::{self, Outcome, note},
};

const EXAMPLES: &str = "Examples:
  # The log of the running build of an image, or of the last one
  kubectl family logs flask/app
  # Until the build ends
  kubectl family logs flask/app --follow
  # The last 20 lines of a check
  kubectl family logs flask/app --check smoke --tail 20";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct LogsArguments {
    /// The image: NAME, FAMILY/NAME or NAMESPACE/FAMILY/NAME
    image: TargetName,
    /// Show new lines until the pod has ended
    #[arg(short, long)]
    follow: bool,
    /// Show the log of this check
    #[arg(long, value_name = "NAME")]
    check: Option<String>,
    /// Show the log of the build with this number
    #[arg(long, value_name = "N", conflicts_with = "check")]
    build: Option<i64>,
    /// Show only this container of the pod
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Show only the last N lines of each container
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    tail: Option<i64>,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

impl LogsArguments {
    /// Returns what the log is of.
    fn work(&self) -> LoggedWork {
        match (&self.check, self.build) {
            (Some(check), _) => LoggedWork::Check(check.clone()),
            (None, Some(number)) => LoggedWork::Build(number),
            (None, None) => LoggedWork::NewestBuild,
        }
    }
}

pub async fn run(arguments: LogsArguments) -> anyhow::Result<Outcome> {
    let mut kubectl_flags = arguments.kubectl_flags.clone();
    if let Some(namespace) = arguments.image.namespace() {
        kubectl_flags.namespace = Some(namespace.to_owned());
    }
    let cluster = ClusterConnection::connect(&kubectl_flags).await?;
    let input = InputArguments { kubectl_flags, ..InputArguments::default() };
    let estate = Box::pin(Estate::read(&input)).await?;
    let (family, index) = arguments.image.find_image(&estate)?;
    let run = LoggedRun::of(family, index, arguments.work())?;
    if let Some(why) = run.not_begun() {
        note(&why);
    }
    if show(&cluster, &run, &arguments, &mut output::write).await? == LogExtent::Empty {
        note("the log is empty");
    }
    Ok(Outcome::Fine)
}

/// Whether a log has lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogExtent {
    Lines,
    Empty,
}

/// Shows the logs of a run: those of its pod, or what is recorded if there is no pod.
async fn show(
    cluster: &ClusterConnection,
    run: &LoggedRun<'_>,
    arguments: &LogsArguments,
    write: &mut dyn FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<LogExtent> {
    let Some(pod) = run.pod(cluster).await? else {
        write(&(printable(&run.recorded(Timestamp::now())?) + "\n"))?;
        return Ok(LogExtent::Lines);
    };
    let mut extent = LogExtent::Empty;
    let containers = pods::containers(&pod, arguments.container.as_deref())?;
    let part = LogPart { follow: arguments.follow, tail: arguments.tail };
    let has_headers = containers.len() > 1;
    let log = ContainerLog::new(cluster, &pod, part);
    for container in containers {
        if has_headers {
            write(&printable(&format!("==> {container} <==\n")))?;
        }
        let mut write_lines = |text: &str| {
            if !text.is_empty() {
                extent = LogExtent::Lines;
            }
            write(text)
        };
        match log.show(&container, &mut write_lines).await? {
            LogEnd::Complete => {}
            LogEnd::NotStarted(why) => {
                note(&format!("container {container} has no log: {why}"));
                extent = LogExtent::Lines;
            }
            LogEnd::PodGone => {
                note("the pod was deleted before its log ended");
                return Ok(LogExtent::Lines);
            }
        }
    }
    Ok(extent)
}
