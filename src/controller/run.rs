//! The two controllers: families and, for their rollouts, images.

use std::{convert::Infallible, sync::Arc, time::Instant};

use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream};
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
use tracing::{debug, info, warn};

use crate::{
    api::{ImageFamily, ManagedImage},
    controller::{
        context::Context,
        error::ReconcileError,
        family, image,
        object_cache::{CacheEvent, Key},
        triggers,
    },
    rollout::ChangedObject,
};

/// How many objects of a kind are looked at at once.
const CONCURRENCY: u16 = 16;
/// Until a pass that came before the caches were filled is tried again.
const CACHES_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// How many changes may wait between a watch and a controller; then the watch waits.
const CHANNEL: usize = 1024;

/// Runs both controllers until `stop` resolves; passes under way then come to their end.
pub async fn run(
    context: Arc<Context>,
    workloads: impl Stream<Item = ChangedObject> + Send + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let stop = stop.shared();
    let (images, changed_images) = mpsc::channel(CHANNEL);
    let (family_store, family_writer) = filled_elsewhere::<ImageFamily>();
    let (image_store, image_writer) = filled_elsewhere::<ManagedImage>();
    let config = Config::default().concurrency(CONCURRENCY);

    let family_queue =
        queue(triggers::families(&context, family_writer, images).take_until(stop.clone()));
    let of_families = applier(
        |family: Arc<ImageFamily>, context| {
            pass("ImageFamily", Key::of(&*family), context, move |context| {
                family::reconcile(family, context)
            })
        },
        |family, error, context| failed("ImageFamily", &Key::of(&*family), error, &context),
        Arc::clone(&context),
        family_store,
        family_queue,
        config.clone(),
    );
    let image_queue =
        queue(image_triggers(&context, image_writer, changed_images, workloads).take_until(stop));
    let of_images = applier(
        |image: Arc<ManagedImage>, context| {
            pass("ManagedImage", Key::of(&*image), context, move |context| {
                image::reconcile(image, context)
            })
        },
        |image, error, context| failed("ManagedImage", &Key::of(&*image), error, &context),
        Arc::clone(&context),
        image_store,
        image_queue,
        config,
    );
    info!("controllers run");
    tokio::join!(
        of_families.for_each(|_| std::future::ready(())),
        of_images.for_each(|_| std::future::ready(()))
    );
    info!("controllers have stopped");
}

/// A store that counts as listed: whether the caches are filled is asked before each pass.
fn filled_elsewhere<K: Resource<DynamicType = ()> + Clone + 'static>() -> (Store<K>, Writer<K>) {
    let (store, mut writer) = store();
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
    (store, writer)
}

/// A queue that never fails, in the form that a controller takes.
fn queue<K: Resource>(
    objects: impl Stream<Item = ObjectRef<K>>,
) -> impl Stream<Item = Result<ReconcileRequest<K>, Infallible>> {
    objects.map(|object| Ok(ReconcileRequest::from(object)))
}

/// One pass in a task of its own, measured.
fn pass<F, T>(
    kind: &'static str,
    key: Key,
    context: Arc<Context>,
    reconcile: F,
) -> BoxFuture<'static, Result<Action, ReconcileError>>
where
    F: FnOnce(Arc<Context>) -> T + Send + 'static,
    T: Future<Output = Result<Action, ReconcileError>> + Send + 'static,
{
    async move {
        if !context.caches_filled() {
            return Ok(Action::requeue(CACHES_PAUSE));
        }
        let start = Instant::now();
        let result =
            tokio::spawn(reconcile(Arc::clone(&context))).await.unwrap_or_else(|source| Err(ReconcileError::Aborted { source }));
        context.metrics.reconciled(kind, start.elapsed(), result.as_ref().err().map(ReconcileError::category));
        context.metrics.builds_waiting(context.quota.waiting());
        if result.is_ok() {
            context.failures.forget(kind, &key);
        }
        debug!(kind, namespace = %key.namespace, name = %key.name, elapsed = ?start.elapsed(), ?result, "pass");
        result
    }
    .boxed()
}

fn failed(kind: &'static str, key: &Key, error: &ReconcileError, context: &Context) -> Action {
    let pause = context.failures.failed(kind, key.clone());
    warn!(kind, namespace = %key.namespace, name = %key.name, %error, ?pause, "a pass failed; it \
        is tried again");
    Action::requeue(pause)
}

/// What wakes an image: itself, its family's changes through it, and the workloads that it rolls
/// out.
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
    /// Whether every cache has seen its first listing.
    #[must_use]
    pub fn caches_filled(&self) -> bool {
        self.stores.waiting_for(self.scopes.as_slice()).is_empty()
            && self.workloads.waiting_for().is_empty()
    }

    /// Forgets a family that is gone.
    pub fn forget(&self, family: &ImageFamily) {
        let key = Key::of(family);
        let owner = ObjectRef::from_obj(family);
        self.reconcile_caches.forget(&family.uid().unwrap_or_default());
        self.tags.remove(&owner);
        self.revisions.remove(&owner);
        self.dependents.forget(&key);
        self.failures.forget("ImageFamily", &key);
        self.quota.forget(&key, self.clock.now());
        self.metrics.builds_waiting(self.quota.waiting());
        self.metrics.family_gone(&format!("{}/{}", key.namespace, key.name));
    }
}
