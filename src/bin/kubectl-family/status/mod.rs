//! `kubectl family status`: reads objects, [renders](render) them, and shows them once or
//! continuously.
//!
//! - [`view`]: the objects, and what events change about them
//! - [`progress`]: bars and estimates
//! - [`changes`]: what has changed, where nothing is redrawn

mod changes;
mod progress;
mod render;
mod screen;
mod view;

use std::time::Duration;

use anyhow::bail;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use groundswell::api::{Cascade, ImageFamily, ManagedImage};

pub use crate::status::render::{age, age_of};
use crate::{
    cluster::{ClusterConnection, rejection},
    command_line::KubectlFlags,
    missing_rights::check_rights,
    output::{self, Terminal},
    status::{
        changes::changes,
        screen::Screen,
        view::{HasImages, StatusEvent, View, WatchedView},
    },
};

/// Minimum interval between two updates of the screen after changes.
const MIN_DRAW_INTERVAL: Duration = Duration::from_millis(200);
/// Interval at which the screen is updated without changes, so that the ages are right.
const AGE_REFRESH_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub struct StatusArguments {
    /// Name of the family. All families of the namespace are listed if not set
    family: Option<String>,
    /// If present, list the families of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["family", "namespace"])]
    all_namespaces: bool,
    /// After showing the status, watch for changes and show them
    #[arg(short, long)]
    watch: bool,
    /// Maximum number of lines for a family. What does not fit is folded. 0 folds nothing. Defaults
    /// to the height of the terminal
    #[arg(long, value_name = "N", conflicts_with = "watch")]
    lines: Option<usize>,
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

pub async fn run(arguments: StatusArguments) -> anyhow::Result<()> {
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    // Fetched also when watching, so that a wrong name is an error and not an empty screen.
    let view = fetch(&cluster, &arguments).await?;
    let mut screen = Screen::new();
    screen.show(&arguments.render(&view, Terminal::of_stdout()))?;
    if arguments.watch { watch(&cluster, &arguments, view, screen).await } else { Ok(()) }
}

impl StatusArguments {
    fn families(&self, cluster: &ClusterConnection) -> Api<ImageFamily> {
        if self.all_namespaces {
            Api::all(cluster.client.clone())
        } else {
            Api::namespaced(cluster.client.clone(), &cluster.namespace)
        }
    }

    const fn has_images(&self) -> HasImages {
        if self.family.is_some() { HasImages::Yes } else { HasImages::No }
    }

    fn render(&self, view: &View, terminal: Terminal) -> String {
        let (now, width) = (Timestamp::now(), terminal.width);
        let height = terminal.height.map(|height| usize::from(height.saturating_sub(1)));
        let lines = match self.lines {
            Some(0) => None,
            Some(lines) => Some(lines),
            None => height,
        };
        match (&self.family, view.families.values().next()) {
            (Some(_), Some(family)) => {
                let images: Vec<&ManagedImage> = view.images.values().collect();
                render::family(family, &images, now, width, lines)
            }
            (Some(name), None) => format!("family {name} was deleted\n"),
            (None, _) => {
                let families: Vec<&ImageFamily> = view.families.values().collect();
                let column = if self.all_namespaces {
                    render::NamespaceColumn::Shown
                } else {
                    render::NamespaceColumn::Hidden
                };
                let text = render::families(&families, column, now, width);
                lines.map_or(text.clone(), |lines| render::first_lines(&text, lines))
            }
        }
    }
}

async fn fetch(cluster: &ClusterConnection, arguments: &StatusArguments) -> anyhow::Result<View> {
    let mut view = View::default();
    let families = arguments.families(cluster);
    if let Some(name) = &arguments.family {
        let selected = || ListParams::default().fields(&format!("spec.family={name}"));
        let (family, images, cascades) = tokio::join!(
            cluster.get(families, name),
            cluster.list::<ManagedImage>(cluster.api(), selected()),
            cluster.list::<Cascade>(cluster.api(), selected()),
        );
        check_rights([family.as_ref().err(), images.as_ref().err(), cascades.as_ref().err()])?;
        view.insert_family(family?);
        images?.into_iter().for_each(|image| view.insert_image(image));
        cascades?.into_iter().for_each(|cascade| view.insert_cascade(cascade));
    } else {
        for family in cluster.list(families, ListParams::default()).await? {
            view.insert_family(family);
        }
    }
    Ok(view.with_live_states())
}

/// Shows every change until the user stops the command. A broken watch is restarted.
async fn watch(
    cluster: &ClusterConnection,
    arguments: &StatusArguments,
    fetched: View,
    mut screen: Screen,
) -> anyhow::Result<()> {
    let mut events = events(cluster, arguments);
    let mut watched = WatchedView::new(fetched.clone());
    let mut shown = fetched;
    let (mut lost, mut changed, mut drawn_at) = (None, false, Instant::now());
    let mut ticks = interval(MIN_DRAW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    watched.apply(event);
                    (lost, changed) = (None, true);
                }
                Some(Err(error)) => {
                    if let Some(rejection) = rejection(&error) {
                        return Err(rejection);
                    }
                    if lost.is_none() {
                        (lost, changed) = (Some(Timestamp::now()), true);
                    }
                }
                None => bail!("the watch has ended"),
            },
            _ = ticks.tick() => {
                // The fetched objects stay on the screen until the first lists are complete.
                let complete = watched.is_complete(arguments.has_images()) || lost.is_some();
                let aged = screen.is_live() && drawn_at.elapsed() >= AGE_REFRESH_INTERVAL;
                if !complete || !(changed || aged) {
                    continue;
                }
                if screen.is_live() {
                    let text = arguments.render(&watched.live(), Terminal::of_stdout());
                    screen.show(&with_loss(&text, lost))?;
                } else {
                    let view = watched.live();
                    output::write(&changes(&shown, &view, Timestamp::now()))?;
                    shown = view;
                }
                (changed, drawn_at) = (false, Instant::now());
            }
        }
    }
}

/// Returns a text with a first line that says since when it is not up to date.
fn with_loss(text: &str, lost: Option<Timestamp>) -> String {
    let Some(lost) = lost else { return text.to_owned() };
    let since = age(Some(lost), Timestamp::now());
    // The line takes the place of the last one, so that the text stays as high.
    let mut lines: Vec<&str> = text.lines().collect();
    lines.pop();
    format!("No connection for {since}; this may be out of date.\n{}\n", lines.join("\n"))
}

/// Returns the events of the objects that are shown.
fn events(
    cluster: &ClusterConnection,
    arguments: &StatusArguments,
) -> impl stream::Stream<Item = Result<StatusEvent, watcher::Error>> + Unpin {
    let of_families = match &arguments.family {
        Some(name) => watcher::Config::default().fields(&format!("metadata.name={name}")),
        None => watcher::Config::default(),
    };
    let families = watcher(arguments.families(cluster), of_families)
        .default_backoff()
        .map_ok(|event| StatusEvent::Family(Box::new(event)))
        .boxed();
    let mut all = vec![families];
    if let Some(name) = &arguments.family {
        let of_family = || watcher::Config::default().fields(&format!("spec.family={name}"));
        let images = watcher(cluster.api::<ManagedImage>(), of_family()).default_backoff();
        all.push(images.map_ok(|event| StatusEvent::Image(Box::new(event))).boxed());
        let cascades = watcher(cluster.api::<Cascade>(), of_family()).default_backoff();
        all.push(cascades.map_ok(|event| StatusEvent::Cascade(Box::new(event))).boxed());
    }
    stream::select_all(all)
}
