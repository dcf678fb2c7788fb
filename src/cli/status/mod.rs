//! `kubectl family status`: reads objects, has them [rendered](render), and shows them once or
//! live.

mod render;
mod screen;

use std::{collections::BTreeMap, time::Duration};

use anyhow::bail;
use clap::Args;
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    runtime::{WatchStreamExt, watcher},
};
use tokio::time::{Instant, MissedTickBehavior, interval};

pub use crate::cli::status::render::age;
use crate::{
    api::{ImageFamily, ManagedImage},
    cli::{Place, cluster::Cluster, status::screen::Screen},
};

/// How often the screen is drawn anew, at most, when something has changed.
const DRAW: Duration = Duration::from_millis(200);
/// How often it is drawn anew when nothing has, for the ages to move.
const AGE: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub struct Arguments {
    /// The family
    family: Option<String>,
    /// The families of all namespaces
    #[arg(short = 'A', long, conflicts_with_all = ["family", "namespace"])]
    all_namespaces: bool,
    /// Goes on, and shows every change
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    place: Place,
}

/// What is shown: a family with its images, or families in short.
#[derive(Clone, Debug, Default, PartialEq)]
struct View {
    families: BTreeMap<(String, String), ImageFamily>,
    images: BTreeMap<String, ManagedImage>,
}

/// A change of what is shown.
#[derive(Debug)]
enum Seen {
    Family(Box<watcher::Event<ImageFamily>>),
    Image(Box<watcher::Event<ManagedImage>>),
}

pub async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let cluster = Cluster::connect(&arguments.place).await?;
    // Asked for also when watching, so that a wrong name ends in words and not in an empty screen.
    let view = fetch(&cluster, &arguments).await?;
    let mut screen = Screen::new();
    screen.show(&arguments.render(&view, screen.width()))?;
    if arguments.watch { watch(&cluster, &arguments, screen).await } else { Ok(()) }
}

impl Arguments {
    fn families(&self, cluster: &Cluster) -> Api<ImageFamily> {
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
            (Some(name), None) => format!("family {name} is gone\n"),
            (None, _) => render::families(
                &view.families.values().collect::<Vec<_>>(),
                self.all_namespaces,
                now,
                width,
            ),
        }
    }
}

async fn fetch(cluster: &Cluster, arguments: &Arguments) -> anyhow::Result<View> {
    let mut view = View::default();
    let families = arguments.families(cluster);
    if let Some(name) = &arguments.family {
        view.put_family(cluster.get(families, name).await?);
        let images = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        for image in cluster.list(images, Some(&format!("spec.family={name}"))).await? {
            view.put_image(image);
        }
    } else {
        for family in cluster.list(families, None).await? {
            view.put_family(family);
        }
    }
    Ok(view)
}

/// Shows every change until the caller has seen enough. A broken watch is started again.
async fn watch(cluster: &Cluster, arguments: &Arguments, mut screen: Screen) -> anyhow::Result<()> {
    let (of_families, of_images) = match &arguments.family {
        Some(name) => (
            watcher::Config::default().fields(&format!("metadata.name={name}")),
            Some(watcher::Config::default().fields(&format!("spec.family={name}"))),
        ),
        None => (watcher::Config::default(), None),
    };
    let families = watcher(arguments.families(cluster), of_families)
        .default_backoff()
        .map_ok(|event| Seen::Family(Box::new(event)))
        .boxed();
    let images = match of_images {
        Some(config) => {
            let api: Api<ManagedImage> =
                Api::namespaced(cluster.client.clone(), &cluster.namespace);
            watcher(api, config)
                .default_backoff()
                .map_ok(|event| Seen::Image(Box::new(event)))
                .boxed()
        }
        None => stream::pending().boxed(),
    };
    let mut seen = stream::select(families, images);
    let mut view = View::default();
    let (mut listed, mut changed, mut drawn_at) = (0, false, Instant::now());
    let mut ticks = interval(DRAW);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            event = seen.next() => match event {
                Some(Ok(event)) => {
                    listed += usize::from(event.is_listed());
                    view.take(event);
                    changed = true;
                }
                Some(Err(error)) if is_refused(&error) => bail!("the API server refuses the watch: \
                    {error}"),
                Some(Err(_)) => {}
                None => bail!("the watch has ended"),
            },
            _ = ticks.tick() => {
                // Before the first listing is whole, what was fetched stands.
                let whole = listed > usize::from(arguments.family.is_some());
                if whole && (changed || screen.is_live() && drawn_at.elapsed() >= AGE) {
                    screen.show(&arguments.render(&view, screen.width()))?;
                    (changed, drawn_at) = (false, Instant::now());
                }
            }
        }
    }
}

fn is_refused(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(source) | watcher::Error::WatchStartFailed(source)) =
        error
    else {
        return false;
    };
    matches!(source, kube::Error::Api(status) if status.is_forbidden() || status.is_not_found())
}

impl Seen {
    fn is_listed(&self) -> bool {
        match self {
            Self::Family(event) => matches!(**event, watcher::Event::InitDone),
            Self::Image(event) => matches!(**event, watcher::Event::InitDone),
        }
    }
}

impl View {
    fn put_family(&mut self, family: ImageFamily) {
        self.families.insert(place(&family), family);
    }

    fn put_image(&mut self, image: ManagedImage) {
        self.images.insert(image.name_any(), image);
    }

    fn take(&mut self, seen: Seen) {
        use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};
        match seen {
            Seen::Family(event) => match *event {
                Apply(family) | InitApply(family) => self.put_family(family),
                Delete(family) => _ = self.families.remove(&place(&family)),
                Init => self.families.clear(),
                InitDone => {}
            },
            Seen::Image(event) => match *event {
                Apply(image) | InitApply(image) => self.put_image(image),
                Delete(image) => _ = self.images.remove(&image.name_any()),
                Init => self.images.clear(),
                InitDone => {}
            },
        }
    }
}

fn place(family: &ImageFamily) -> (String, String) {
    (family.namespace().unwrap_or_default(), family.name_any())
}
