//! `kubectl family ui`: a page on loopback that shows the graph of all images, live, with the
//! permissions of the user who runs the command. It only reads.
//!
//! - `server`: who may ask, and how much at once
//! - `routes`: the addresses of the page
//! - `page`: the files of the page, which are part of the binary
//! - `snapshot`: what the page shows at one time
//! - `scene`: where nodes and edges are drawn; `bands`: the layout of large graphs
//! - `details`: what is known of one node
//! - `build_log`: the last lines of a build's log

mod bands;
mod build_log;
mod details;
mod page;
mod routes;
mod scene;
mod server;
mod snapshot;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;

use crate::{
    cluster::ClusterConnection,
    input::{
        Estate, EstateOrigin, InputArguments,
        live::{LiveUpdate, follow},
    },
    output::{self, Outcome, note},
    registry_images::RegistryArguments,
    ui::{routes::PageState, server::PageServer, snapshot::PageSnapshot},
};

const EXAMPLES: &str = "Examples:
  # The families of the namespace, live; open the address that is printed
  kubectl family ui
  # All namespaces, in the browser of the desktop
  kubectl family ui -A --open
  # Manifests, without a cluster
  kubectl family ui -R -f manifests/ --port 8123";

#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct UiArguments {
    /// Port on 127.0.0.1. 0 selects a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Open the page in the browser of the desktop
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    input: InputArguments,
    #[command(flatten)]
    registry: RegistryArguments,
}

/// Serves the page until the user stops the command.
pub async fn run(arguments: UiArguments) -> anyhow::Result<Outcome> {
    let reader = arguments.registry.reader()?;
    // Read before anything is served, so that a wrong flag is an error and not an empty page.
    let estate = Box::pin(Estate::read(&arguments.input)).await?;
    let cluster = match estate.origin {
        EstateOrigin::Files => None,
        EstateOrigin::Cluster => {
            Some(ClusterConnection::connect(&arguments.input.kubectl_flags).await?)
        }
    };
    let origin = estate.origin;
    let (sender, snapshots) = watch::channel(Arc::new(PageSnapshot::first(estate)));
    let server = PageServer::bind(arguments.port).await?;
    let address = server.address();
    output::write(&format!("{address}\n"))?;
    note("the page has your permissions: do not pass the address on; press Ctrl-C to stop");
    if arguments.open {
        open(&address);
    }
    let state = Arc::new(PageState { snapshots, reader, cluster });
    tokio::select! {
        ended = server.serve(state) => ended?,
        ended = publish(&arguments.input, origin, &sender) => ended?,
        stopped = tokio::signal::ctrl_c() => stopped?,
    }
    Ok(Outcome::Fine)
}

/// Publishes a snapshot for every change of the cluster. Files are read once.
async fn publish(
    input: &InputArguments,
    origin: EstateOrigin,
    snapshots: &watch::Sender<Arc<PageSnapshot>>,
) -> anyhow::Result<()> {
    if origin == EstateOrigin::Files {
        return std::future::pending().await;
    }
    follow(input, |update| {
        snapshots.send_modify(|snapshot| {
            *snapshot = Arc::new(match update {
                LiveUpdate::Estate(estate) => snapshot.next(*estate),
                LiveUpdate::Problem(problem) => snapshot.outdated(problem),
            });
        });
    })
    .await
}

/// Opens the page. Without a desktop, the address on the terminal remains.
fn open(address: &str) {
    if let Err(error) = open::that_detached(address) {
        note(&format!("no browser could be started: {error}; open the address yourself"));
    }
}
