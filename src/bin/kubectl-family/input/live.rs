//! The objects of a cluster as they change. A list that is broken off and read again replaces what
//! is known only when it is complete, so that nobody gets half of it.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use anyhow::bail;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Resource, ResourceExt,
    runtime::{WatchStreamExt as _, watcher, watcher::Event},
};
use serde::de::DeserializeOwned;
use tokio::time::{MissedTickBehavior, interval};

use groundswell::api::{Cascade, FamilyRequest, ImageFamily, ManagedImage};

use crate::{
    cluster::ClusterConnection,
    input::{
        Estate, EstateOrigin, InputArguments,
        cluster_objects::{api, placed, read},
        live_states::set_live_states,
        objects::InputObjects,
    },
};

/// Minimum time between two updates. What changes in between is one update.
const MIN_INTERVAL: Duration = Duration::from_millis(250);

/// Time between two attempts to read everything from a cluster that did not answer. A watch that
/// goes on after that reports nothing until something changes.
const RETRY_INTERVAL: Duration = Duration::from_secs(3);

/// What a cluster has now.
#[derive(Debug)]
pub enum LiveUpdate {
    /// Everything that the flags select.
    Estate(Box<Estate>),
    /// The cluster does not answer, or rejects a watch: a sentence. What was known may be outdated.
    Problem(String),
}

/// Follows the families that the flags select with what is recorded of them, and passes on every
/// change.
///
/// # Errors
///
/// Returns an error if the connection cannot be set up, or if a watch ends. Otherwise it goes on
/// for ever: a broken watch is started again.
pub async fn follow(
    arguments: &InputArguments,
    mut publish: impl FnMut(LiveUpdate),
) -> anyhow::Result<()> {
    let cluster = ClusterConnection::connect(&arguments.kubectl_flags).await?;
    let mut events = stream::select_all([
        watched::<ImageFamily>(&cluster, arguments, LiveEvent::Family),
        watched::<ManagedImage>(&cluster, arguments, LiveEvent::Image),
        watched::<Cascade>(&cluster, arguments, LiveEvent::Cascade),
        watched::<FamilyRequest>(&cluster, arguments, LiveEvent::Request),
    ]);
    let mut objects = LiveObjects::default();
    let (mut ticks, mut retries) = (interval(MIN_INTERVAL), interval(RETRY_INTERVAL));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    retries.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_changed = false;
    // What is wrong with the watch of each kind: all fail for the same reason, or each lacks
    // another right.
    let mut problems: BTreeMap<&str, String> = BTreeMap::new();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => {
                    objects.apply(event);
                    is_changed = true;
                }
                Some(Err(failed)) => {
                    let known = joined(&problems);
                    problems.insert(failed.plural, sentence(&failed.error));
                    let text = joined(&problems);
                    if text != known {
                        publish(LiveUpdate::Problem(text));
                    }
                }
                None => bail!("the watch has ended"),
            },
            _ = ticks.tick(), if is_changed => {
                is_changed = false;
                if let Some(estate) = objects.estate() {
                    problems.clear();
                    publish(LiveUpdate::Estate(Box::new(estate)));
                }
            }
            _ = retries.tick(), if !problems.is_empty() => {
                if let Ok(estate) = Box::pin(read(arguments)).await {
                    problems.clear();
                    publish(LiveUpdate::Estate(Box::new(estate)));
                }
            }
        }
    }
}

/// An event of one of the watches.
#[derive(Debug)]
enum LiveEvent {
    Family(Box<Event<ImageFamily>>),
    Image(Box<Event<ManagedImage>>),
    Cascade(Box<Event<Cascade>>),
    Request(Box<Event<FamilyRequest>>),
}

/// A watch that has failed. It is started again.
#[derive(Debug)]
struct FailedWatch {
    /// What it watches.
    plural: &'static str,
    error: watcher::Error,
}

type LiveEvents = stream::BoxStream<'static, Result<LiveEvent, FailedWatch>>;

fn watched<K>(
    cluster: &ClusterConnection,
    arguments: &InputArguments,
    wrap: fn(Box<Event<K>>) -> LiveEvent,
) -> LiveEvents
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + Debug
        + Send
        + 'static,
{
    let mut config = watcher::Config::default();
    // The labels are those of the families.
    if let Some(selector) = arguments.selector.as_ref().filter(|_| K::kind(&()) == "ImageFamily") {
        config = config.labels(selector);
    }
    let plural = match K::plural(&()) {
        Cow::Borrowed(plural) => plural,
        // No kind of ours.
        Cow::Owned(_) => "objects",
    };
    let events = watcher(api::<K>(cluster, arguments), config).default_backoff();
    events
        .map_ok(move |event| wrap(Box::new(event)))
        .map_err(move |error| FailedWatch { plural, error })
        .boxed()
}

/// Returns the different problems as one text.
fn joined(problems: &BTreeMap<&str, String>) -> String {
    let different: BTreeSet<&str> = problems.values().map(String::as_str).collect();
    different.into_iter().collect::<Vec<_>>().join("; ")
}

/// Says what is wrong with a watch.
fn sentence(error: &watcher::Error) -> String {
    let (watcher::Error::InitialListFailed(kube::Error::Api(status))
    | watcher::Error::WatchStartFailed(kube::Error::Api(status))) = error
    else {
        return format!("the cluster does not answer: {:#}", anyhow::Error::msg(error.to_string()));
    };
    format!("the API server rejects the watch: {}", status.message)
}

/// The objects of the watches.
#[derive(Debug, Default)]
struct LiveObjects {
    families: LiveList<ImageFamily>,
    images: LiveList<ManagedImage>,
    cascades: LiveList<Cascade>,
    requests: LiveList<FamilyRequest>,
}

/// Namespace and name.
type ObjectKey = (String, String);

/// The objects of one kind.
#[derive(Debug)]
struct LiveList<K> {
    /// What is known: `None` until the first list is complete.
    complete: Option<BTreeMap<ObjectKey, K>>,
    /// What was received of a list that is not complete yet.
    incoming: BTreeMap<ObjectKey, K>,
}

impl<K> Default for LiveList<K> {
    fn default() -> Self {
        Self { complete: None, incoming: BTreeMap::new() }
    }
}

impl<K: Resource<DynamicType = ()> + Clone> LiveList<K> {
    fn apply(&mut self, event: Event<K>) {
        let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
        match event {
            Event::Init => self.incoming.clear(),
            Event::InitApply(object) => _ = self.incoming.insert(key(&object), object),
            Event::InitDone => self.complete = Some(std::mem::take(&mut self.incoming)),
            Event::Apply(object) => {
                self.complete.get_or_insert_default().insert(key(&object), object);
            }
            Event::Delete(object) => {
                self.complete.get_or_insert_default().remove(&key(&object));
            }
        }
    }

    fn objects(&self) -> Option<Vec<K>> {
        Some(self.complete.as_ref()?.values().cloned().collect())
    }
}

impl LiveObjects {
    fn apply(&mut self, event: LiveEvent) {
        match event {
            LiveEvent::Family(event) => self.families.apply(*event),
            LiveEvent::Image(event) => self.images.apply(*event),
            LiveEvent::Cascade(event) => self.cascades.apply(*event),
            LiveEvent::Request(event) => self.requests.apply(*event),
        }
    }

    /// Returns the estate; `None` until all first lists are complete.
    fn estate(&self) -> Option<Estate> {
        let (mut images, cascades) = (self.images.objects()?, self.cascades.objects()?);
        set_live_states(&mut images, &cascades);
        let objects = InputObjects {
            families: placed(self.families.objects()?),
            images,
            cascades,
            requests: self.requests.objects()?,
            ..InputObjects::default()
        };
        Some(objects.estate(Vec::new(), EstateOrigin::Cluster))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cascade(name: &str) -> Cascade {
        let mut cascade = Cascade::default();
        cascade.metadata.name = Some(name.into());
        cascade
    }

    #[test]
    fn half_a_list_replaces_nothing() {
        let mut list = LiveList::default();
        list.apply(Event::Init);
        list.apply(Event::InitApply(cascade("a")));
        assert_eq!(list.objects(), None, "the first list is not complete");
        list.apply(Event::InitDone);
        list.apply(Event::Apply(cascade("b")));
        let names = |list: &LiveList<Cascade>| -> Vec<String> {
            list.objects().expect("a list").iter().map(ResourceExt::name_any).collect()
        };
        assert_eq!(names(&list), ["a", "b"]);
        list.apply(Event::Init);
        list.apply(Event::InitApply(cascade("c")));
        assert_eq!(names(&list), ["a", "b"], "the watch has broken off");
        list.apply(Event::Init);
        list.apply(Event::InitApply(cascade("b")));
        list.apply(Event::InitDone);
        assert_eq!(names(&list), ["b"], "a was deleted meanwhile");
        list.apply(Event::Delete(cascade("b")));
        assert!(names(&list).is_empty());
    }
}
