//! `kubectl family check`: the [pre-flight](groundswell::preflight), as the user.

use std::process::ExitCode;

use clap::Args;

use groundswell::preflight::{self, CheckCaller, PreflightSettings};

use crate::{cluster::ClusterConnection, command_line::KubectlFlags};

#[derive(Args, Debug)]
pub struct CheckArguments {
    #[command(flatten)]
    settings: PreflightSettings,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

pub async fn run(arguments: CheckArguments) -> anyhow::Result<ExitCode> {
    let CheckArguments { settings, kubectl_flags } = arguments;
    let cluster = ClusterConnection::connect(&kubectl_flags).await?;
    let (client, namespace) = (&cluster.client, &cluster.namespace);
    Box::pin(preflight::run(client, namespace, CheckCaller::User, &settings)).await
}
