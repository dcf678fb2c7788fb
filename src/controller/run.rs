//! Runs the two controllers: of families and, for their rollouts, of images.

use std::{convert::Infallible, sync::Arc, time::Instant};

use futures::{
    FutureExt, Stream, StreamExt,
    future::{self, BoxFuture},
    stream,
};
use kube::{
    Resource, ResourceExt,
    runtime::{
        applier,
        controller::{Action, Config, ReconcileRequest},
        reflector::{ObjectRef, Store, store, store::Writer},
        watcher::Event,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{Instrument, Span, debug, error_span, field::Empty, info, warn};

use crate::{
    api::{ImageFamily, ManagedImage},
    controller::{
        context::Context,
        error::ReconcileError,
        family,
        object_cache::{CacheEvent, Key},
        reconcile_shares::ReconcileShares,
        rollout,
        served::StoresState,
        stray_requests, triggers,
    },
    rollout::ChangedObject,
};

/// The number of families that are reconciled concurrently. A namespace gets a share of them.
const MAX_CONCURRENT_FAMILIES: u16 = 40;
/// The number of images whose rollouts are reconciled concurrently. They call no registry.
const MAX_CONCURRENT_IMAGES: u16 = 16;
/// The kind of families, as metrics and logs name it.
const FAMILY_KIND: &str = "ImageFamily";
/// The pause until a reconcile that came before the stores were filled is retried.
const STORES_RETRY_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// The pause until a reconcile in a namespace that cannot be watched is retried.
const UNWATCHED_RETRY_PAUSE: std::time::Duration = std::time::Duration::from_secs(5);
/// The number of changes that are queued between a watch and a controller. Beyond it, the watch
/// waits.
const CHANGE_QUEUE_LENGTH: usize = 1024;

/// Runs both controllers until `stop` resolves. Reconciles in progress then run to completion.
pub async fn run(
    context: Arc<Context>,
    workloads: impl Stream<Item = ChangedObject> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.shared();
    let (images, changed_images) = mpsc::channel(CHANGE_QUEUE_LENGTH);
    let (family_store, family_writer) = listed_store::<ImageFamily>();
    let (image_store, image_writer) = listed_store::<ManagedImage>();
    let shares = Arc::new(ReconcileShares::new(MAX_CONCURRENT_FAMILIES.into()));

    let family_queue =
        queue(triggers::families(&context, family_writer, images).take_until(stop.clone()));
    let of_families = applier(
        move |family: Arc<ImageFamily>, context| {
            let key = Key::of(&*family);
            let Some(place) = shares.take(&key.namespace) else {
                let pause = shares.retry_pause(&key.namespace);
                return future::ready(Ok(Action::requeue(pause))).boxed();
            };
            let reconcile = run_reconcile(FAMILY_KIND, key, context, move |context| {
                family::reconcile(family, context)
            });
            reconcile.inspect(move |_| drop(place)).boxed()
        },
        |family, _, context| retry_after(FAMILY_KIND, Key::of(&*family), &context),
        Arc::clone(&context),
        family_store,
        family_queue,
        Config::default().concurrency(MAX_CONCURRENT_FAMILIES),
    );
    let image_queue = queue(
        image_triggers(&context, image_writer, changed_images, workloads).take_until(stop.clone()),
    );
    let stray_requests = stray_requests::answer(Arc::clone(&context), stop);
    let of_images = applier(
        |image: Arc<ManagedImage>, context| {
            run_reconcile("ManagedImage", Key::of(&*image), context, move |context| {
                rollout::reconcile(image, context)
            })
        },
        |image, _, context| retry_after("ManagedImage", Key::of(&*image), &context),
        Arc::clone(&context),
        image_store,
        image_queue,
        Config::default().concurrency(MAX_CONCURRENT_IMAGES),
    );
    info!("the controllers have started");
    let controllers = async {
        tokio::join!(
            of_families.for_each(|_| std::future::ready(())),
            of_images.for_each(|_| std::future::ready(())),
            stray_requests
        );
    };
    tokio::select! {
        () = controllers => {}
        () = context.events.publish() => {}
    }
    context.events.publish_waiting().await;
    info!("the controllers have stopped");
}

/// Returns a store that counts as listed. Whether our own stores are filled is checked before each
/// reconcile.
fn listed_store<K: Resource<DynamicType = ()> + Clone + 'static>() -> (Store<K>, Writer<K>) {
    let (store, mut writer) = store();
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
    (store, writer)
}

/// Turns objects into the queue that a controller takes.
fn queue<K: Resource>(
    objects: impl Stream<Item = ObjectRef<K>>,
) -> impl Stream<Item = Result<ReconcileRequest<K>, Infallible>> {
    objects.map(|object| Ok(ReconcileRequest::from(object)))
}

/// Runs one reconcile in a task of its own, and measures it.
///
/// Everything that it logs is in a span that names the object, and the cascade once one runs. The
/// span is a root, because the one that the controller runtime opens repeats the object in other
/// words. Its level is that of errors, so that every filter that shows a line shows its span, too.
fn run_reconcile<F, T>(
    kind: &'static str,
    key: Key,
    context: Arc<Context>,
    reconcile: F,
) -> BoxFuture<'static, Result<Action, ReconcileError>>
where
    F: FnOnce(Arc<Context>) -> T + Send + 'static,
    T: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    let span = error_span!(
        parent: None,
        "reconcile",
        kind,
        namespace = %key.namespace,
        name = %key.name,
        cascade = Empty,
    );
    async move {
        match context.served().state_of(&key.namespace) {
            StoresState::Filled => {}
            StoresState::Filling => return Ok(Action::requeue(STORES_RETRY_PAUSE)),
            StoresState::Unwatched => {
                if kind == FAMILY_KIND {
                    context.quota.abandon(&key, context.clock.now());
                }
                return Ok(Action::requeue(UNWATCHED_RETRY_PAUSE));
            }
        }
        let start = Instant::now();
        let task = reconcile(Arc::clone(&context)).instrument(Span::current());
        let result = tokio::spawn(task)
            .await
            .unwrap_or_else(|source| Err(ReconcileError::Aborted { source }));
        let category = result.as_ref().err().map(ReconcileError::category);
        context.metrics.reconciled(kind, start.elapsed(), category);
        context.metrics.builds_waiting(context.quota.queued_builds());
        match &result {
            Ok(_) => context.failures.forget(kind, &key),
            Err(error) => warn!(%error, "the reconcile failed and is retried after a pause"),
        }
        debug!(elapsed = ?start.elapsed(), ?result, "reconciled");
        result
    }
    .instrument(span)
    .boxed()
}

/// Returns when a failed reconcile is retried.
fn retry_after(kind: &'static str, key: Key, context: &Context) -> Action {
    Action::requeue(context.failures.count_failure(kind, key))
}

/// Returns the images to reconcile: those that have changed, also by a reconcile of their family,
/// and those whose workloads have changed.
fn image_triggers(
    context: &Arc<Context>,
    mut store: Writer<ManagedImage>,
    changed: mpsc::Receiver<CacheEvent<ManagedImage>>,
    workloads: impl Stream<Item = ChangedObject> + Send + 'static,
) -> impl Stream<Item = ObjectRef<ManagedImage>> + Send + 'static {
    let (of_changes, of_workloads) = (Arc::clone(context), Arc::clone(context));
    let images = ReceiverStream::new(changed).map(move |change| {
        let image = change.object();
        let reference = ObjectRef::from_obj(&**image);
        let outline = ManagedImage { metadata: image.metadata.clone(), ..ManagedImage::default() };
        match &change {
            CacheEvent::Applied(_) | CacheEvent::Echoed(_) => {
                store.apply_watcher_event(&Event::Apply(outline));
            }
            CacheEvent::Deleted(image) => {
                store.apply_watcher_event(&Event::Delete(outline));
                of_changes.rollouts.forget(&reference);
                of_changes.reverts.forget(image.metadata.uid.as_deref().unwrap_or_default());
                let Key { namespace, name } = Key::of(&**image);
                of_changes.metrics.image_gone(&format!("{namespace}/{name}"));
                of_changes.failures.forget("ManagedImage", &Key::of(&**image));
            }
        }
        reference
    });
    let workloads =
        workloads.flat_map(move |changed| stream::iter(of_workloads.rollouts.concerned(&changed)));
    stream::select(images, workloads)
}

impl Context {
    /// Forgets a deleted family.
    pub fn forget(&self, family: &ImageFamily) {
        let key = Key::of(family);
        let owner = ObjectRef::from_obj(family);
        self.reconcile_caches.forget(&family.uid().unwrap_or_default());
        self.tags.remove(&owner);
        self.revisions.remove(&owner);
        self.dependents.forget(&key);
        self.failures.forget(FAMILY_KIND, &key);
        self.quota.forget(&key, &self.stores, self.clock.now());
        self.metrics.builds_waiting(self.quota.queued_builds());
        self.installations.forget(&key);
        self.resource_quotas.forget(&key);
        self.metrics.family_gone(&format!("{}/{}", key.namespace, key.name));
    }
}
