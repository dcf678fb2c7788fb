//! `kubectl family status`: reads objects, [renders](render) them, and shows them once or
//! continuously.

mod render;
mod screen;

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::ListParams,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use groundswell::api::{ImageFamily, ManagedImage};

pub use crate::status::render::age;
use crate::{cluster::ClusterConnection, command_line::KubectlFlags, status::screen::Screen};

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
    #[command(flatten)]
    kubectl_flags: KubectlFlags,
}

/// The objects to show: one family with its images, or several families.
#[derive(Clone, Debug, Default, PartialEq)]
struct View {
    /// Families by namespace and name.
    families: BTreeMap<(String, String), ImageFamily>,
    images: BTreeMap<String, ManagedImage>,
}

/// A watch event of an object that is shown.
#[derive(Debug)]
enum StatusEvent {
    Family(Box<watcher::Event<ImageFamily>>),
    Image(Box<watcher::Event<ManagedImage>>),
}

pub async fn run(arguments: StatusArguments) -> anyhow::Result<()> {
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    // Fetched also when watching, so that a wrong name is an error and not an empty screen.
    let view = fetch(&cluster, &arguments).await?;
    let mut screen = Screen::new();
    screen.show(&arguments.render(&view, screen.width()))?;
    if arguments.watch { watch(&cluster, &arguments, screen).await } else { Ok(()) }
}

impl StatusArguments {
    fn families(&self, cluster: &ClusterConnection) -> Api<ImageFamily> {
        if self.all_namespaces {
            Api::all(cluster.client.clone())
        } else {
            Api::namespaced(cluster.client.clone(), &cluster.namespace)
        }
    }

    fn render(&self, view: &View, width: Option<u16>) -> String {
        let now = Timestamp::now();
        match (&self.family, view.families.values().next()) {
            (Some(_), Some(family)) => {
                let images: Vec<&ManagedImage> = view.images.values().collect();
                render::family(family, &images, now, width)
            }
            (Some(name), None) => format!("family {name} was deleted\n"),
            (None, _) => render::families(
                &view.families.values().collect::<Vec<_>>(),
                if self.all_namespaces {
                    render::NamespaceColumn::Shown
                } else {
                    render::NamespaceColumn::Hidden
                },
                now,
                width,
            ),
        }
    }
}

async fn fetch(cluster: &ClusterConnection, arguments: &StatusArguments) -> anyhow::Result<View> {
    let mut view = View::default();
    let families = arguments.families(cluster);
    if let Some(name) = &arguments.family {
        view.insert_family(cluster.get(families, name).await?);
        let images = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let selected = ListParams::default().fields(&format!("spec.family={name}"));
        for image in cluster.list(images, selected).await? {
            view.insert_image(image);
        }
    } else {
        for family in cluster.list(families, ListParams::default()).await? {
            view.insert_family(family);
        }
    }
    Ok(view)
}

/// Shows every change until the user stops the command. A broken watch is restarted.
async fn watch(
    cluster: &ClusterConnection,
    arguments: &StatusArguments,
    mut screen: Screen,
) -> anyhow::Result<()> {
    let (of_families, of_images) = match &arguments.family {
        Some(name) => (
            watcher::Config::default().fields(&format!("metadata.name={name}")),
            Some(watcher::Config::default().fields(&format!("spec.family={name}"))),
        ),
        None => (watcher::Config::default(), None),
    };
    let families = watcher(arguments.families(cluster), of_families)
        .default_backoff()
        .map_ok(|event| StatusEvent::Family(Box::new(event)))
        .boxed();
    let images = match of_images {
        Some(config) => {
            let api: Api<ManagedImage> =
                Api::namespaced(cluster.client.clone(), &cluster.namespace);
            watcher(api, config)
                .default_backoff()
                .map_ok(|event| StatusEvent::Image(Box::new(event)))
                .boxed()
        }
        None => stream::pending().boxed(),
    };
    let mut events = stream::select(families, images);
    let mut view = View::default();
    let (mut listed, mut changed, mut drawn_at) = (0, false, Instant::now());
    let mut ticks = interval(MIN_DRAW_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    listed += usize::from(event.is_listed());
                    view.apply(event);
                    changed = true;
                }
                Some(Err(error)) if is_rejected(&error) => bail!("the API server rejects the \
                    watch: {error}"),
                Some(Err(_)) => {}
                None => bail!("the watch has ended"),
            },
            _ = ticks.tick() => {
                // The fetched objects stay on the screen until the first lists are complete.
                let complete = listed > usize::from(arguments.family.is_some());
                let aged = screen.is_live() && drawn_at.elapsed() >= AGE_REFRESH_INTERVAL;
                if complete && (changed || aged) {
                    screen.show(&arguments.render(&view, screen.width()))?;
                    (changed, drawn_at) = (false, Instant::now());
                }
            }
        }
    }
}

fn is_rejected(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source)) =
        error
    else {
        return false;
    };
    matches!(source, kube::Error::Api(status) if status.is_forbidden() || status.is_not_found())
}

impl StatusEvent {
    fn is_listed(&self) -> bool {
        match self {
            Self::Family(event) => matches!(**event, watcher::Event::InitDone),
            Self::Image(event) => matches!(**event, watcher::Event::InitDone),
        }
    }
}

impl View {
    fn insert_family(&mut self, family: ImageFamily) {
        self.families.insert(key(&family), family);
    }

    fn insert_image(&mut self, image: ManagedImage) {
        self.images.insert(image.name_any(), image);
    }

    fn apply(&mut self, event: StatusEvent) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match event {
            StatusEvent::Family(event) => match *event {
                Apply(family) | InitApply(family) => self.insert_family(family),
                Delete(family) => _ = self.families.remove(&key(&family)),
                Init => self.families.clear(),
                InitDone => {}
            },
            StatusEvent::Image(event) => match *event {
                Apply(image) | InitApply(image) => self.insert_image(image),
                Delete(image) => _ = self.images.remove(&image.name_any()),
                Init => self.images.clear(),
                InitDone => {}
            },
        }
    }
}

fn key(family: &ImageFamily) -> (String, String) {
    (family.namespace().unwrap_or_default(), family.name_any())
}
