//! What wakes a family: every watch and every poller, each mapped to the families that its changes concern.

use std::sync::Arc;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use kube::{
    Api, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        reflector::{ObjectRef, store::Writer},
        watcher::{self, Event},
    },
};
use tokio::sync::mpsc;

use super::{
    cache::{Change, Key},
    context::{Context, family_of},
    watch::{guarded, plain, watch},
};
use crate::api::{BuildStrategy, Cascade, FamilyImage, ImageFamily, labels};

/// A family to look at.
pub type FamilyRef = ObjectRef<ImageFamily>;
/// An image to look at.
pub type ImageRef = ObjectRef<FamilyImage>;

/// Everything that wakes a family. Caches are filled only while this is polled.
///
/// `families` is the store from which the controller takes what it is to look at; `images` is told of changed images.
pub fn families(
    context: &Arc<Context>,
    families: Writer<ImageFamily>,
    images: mpsc::Sender<Change<FamilyImage>>,
) -> BoxStream<'static, FamilyRef> {
    let config = watcher::Config::default();
    let ours = watcher::Config::default().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGED_BY_VALUE));
    let (scopes, client, caches) = (&context.scopes, &context.client, &context.caches);

    let families = self_triggers(context, families, &config);
    let images =
        watch(scopes.apis(client), &config, &caches.images, guarded::<FamilyImage>).filter_map(move |change| {
            let images = images.clone();
            async move {
                let image = change.news();
                let family =
                    image.map(|image| reference(&Key::new(&image.namespace().unwrap_or_default(), &image.spec.family)));
                // What the family's pass wrote is news to the images'. The receiver ends only when the process does.
                _ = images.send(change).await;
                family
            }
        });
    let cascades = news(watch(scopes.apis(client), &config, &caches.cascades, guarded::<Cascade>))
        .map(|cascade| reference(&Key::new(&cascade.namespace().unwrap_or_default(), &cascade.spec.family)));
    let jobs = news(watch(scopes.apis(client), &ours, &caches.jobs, plain)).filter_map(of_label);
    let pods = news(watch(scopes.apis(client), &ours, &caches.pods, plain)).filter_map(of_label);
    let strategies = {
        let api: Api<DeserializeGuard<BuildStrategy>> = Api::all(client.clone());
        let context = Arc::clone(context);
        news(watch(vec![(String::new(), api)], &config, &caches.strategies, guarded))
            .flat_map(move |strategy| stream::iter(users_of_strategy(&context, &strategy.name_any())))
    };
    let config_maps = {
        let context = Arc::clone(context);
        news(watch(scopes.apis(client), &config, &caches.config_maps, plain))
            .flat_map(move |object| stream::iter(users_of(&context, &Key::of(&*object), names_config_map)))
    };
    let secrets = {
        let context = Arc::clone(context);
        news(watch(scopes.apis(client), &config, &caches.secrets, plain))
            .flat_map(move |object| stream::iter(users_of(&context, &Key::of(&*object), names_secret)))
    };
    stream::select_all([
        families,
        images.boxed(),
        cascades.boxed(),
        jobs.boxed(),
        pods.boxed(),
        strategies.boxed(),
        config_maps.boxed(),
        secrets.boxed(),
        context.tags.changes().boxed(),
        context.revisions.changes().boxed(),
    ])
    .boxed()
}

/// Families themselves; one that is gone is forgotten everywhere. When one comes, goes or changes, those that wait for one
/// of its tags are looked at too.
fn self_triggers(
    context: &Arc<Context>,
    mut store: Writer<ImageFamily>,
    config: &watcher::Config,
) -> BoxStream<'static, FamilyRef> {
    let apis: Vec<(String, Api<DeserializeGuard<ImageFamily>>)> = context.scopes.apis(&context.client);
    let context = Arc::clone(context);
    watch(apis, config, &Arc::clone(&context.caches.families), guarded)
        .flat_map(move |change| {
            let Some(family) = change.news() else { return stream::iter(Vec::new()) };
            if matches!(change, Change::Deleted(_)) {
                store.apply_watcher_event(&Event::Delete(outline(&family)));
                context.forget(&family);
            } else {
                store.apply_watcher_event(&Event::Apply(outline(&family)));
            }
            let mut concerned = stalled_families(&context);
            concerned.push(reference(&Key::of(&*family)));
            stream::iter(concerned)
        })
        .boxed()
}

/// A family without its content: the passes take that from the cache, which knows our own writes as well.
fn outline(family: &ImageFamily) -> ImageFamily {
    ImageFamily { metadata: family.metadata.clone(), ..ImageFamily::default() }
}

fn reference(key: &Key) -> FamilyRef {
    ObjectRef::new(&key.name).within(&key.namespace)
}

/// What others have changed: our own writes are known already.
fn news<K: Send + Sync + 'static>(changes: BoxStream<'static, Change<K>>) -> BoxStream<'static, Arc<K>> {
    changes.filter_map(|change| std::future::ready(change.news())).boxed()
}

fn of_label<K: ResourceExt>(object: Arc<K>) -> std::future::Ready<Option<FamilyRef>> {
    std::future::ready(family_of(&*object).map(|key| reference(&key)))
}

/// Families that wait for a tag which another one claims first may go on when that one goes or changes.
fn stalled_families(context: &Context) -> Vec<FamilyRef> {
    let stalled = |family: &Arc<ImageFamily>| {
        let conditions = family.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        crate::api::condition::is_true(conditions, crate::api::condition::STALLED)
    };
    let all = context.caches.families.all();
    all.iter().filter(|family| stalled(family)).map(|family| reference(&Key::of(&**family))).collect()
}

fn users_of_strategy(context: &Context, strategy: &str) -> Vec<FamilyRef> {
    let uses = |family: &Arc<ImageFamily>| {
        let spec = &family.spec;
        spec.strategy.name == strategy
            || spec.images.iter().any(|image| image.strategy.as_ref().is_some_and(|of_image| of_image.name == strategy))
    };
    context
        .caches
        .families
        .all()
        .iter()
        .filter(|family| uses(family))
        .map(|family| reference(&Key::of(&**family)))
        .collect()
}

/// The families of an object's namespace that name it.
fn users_of(context: &Context, object: &Key, names: fn(&ImageFamily, &str) -> bool) -> Vec<FamilyRef> {
    let neighbours = context.caches.families.group(&Key::new(&object.namespace, ""));
    neighbours
        .iter()
        .filter(|family| names(family, &object.name))
        .map(|family| reference(&Key::of(&**family)))
        .collect()
}

fn names_config_map(family: &ImageFamily, name: &str) -> bool {
    family.spec.images.iter().any(|image| image.source.config_map.as_ref().is_some_and(|source| source.name == name))
}

fn names_secret(family: &ImageFamily, name: &str) -> bool {
    let for_git = |image: &crate::api::Image| {
        image.source.git.as_ref().and_then(|git| git.secret_ref.as_ref()).is_some_and(|secret| secret.name == name)
    };
    family.spec.credentials.iter().any(|secret| secret.name == name) || family.spec.images.iter().any(for_git)
}
