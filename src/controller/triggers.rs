//! What wakes a family: every watch and every poller, each mapped to the families that its changes
//! concern.

use std::sync::Arc;

use futures::{
    StreamExt,
    stream::{self, BoxStream},
};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Secret},
};
use kube::{
    Api, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta},
    runtime::{
        reflector::{ObjectRef, store::Writer},
        watcher::{self, Event},
    },
};
use tokio::sync::mpsc;

use crate::{
    api::{BuildStrategy, Cascade, ImageFamily, ManagedImage, condition, labels},
    controller::{
        context::Context,
        object_cache::{CacheEvent, Key},
        stores::family_of,
        watch::{guarded, plain, watch},
    },
};

/// A family to look at.
pub type FamilyObjectRef = ObjectRef<ImageFamily>;

/// Everything that wakes a family. The stores are filled only while this is polled.
///
/// `families` is the store from which the controller takes what it is to look at; `images` is told
/// of changed images.
pub fn families(
    context: &Arc<Context>,
    families: Writer<ImageFamily>,
    images: mpsc::Sender<CacheEvent<ManagedImage>>,
) -> BoxStream<'static, FamilyObjectRef> {
    let config = watcher::Config::default();
    let ours = watcher::Config::default().labels(&format!(
        "{}={}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_VALUE
    ));
    let (scopes, client, stores) = (&context.scopes, &context.client, &context.stores);

    let families = told_to(
        watch(scopes.apis(client), &config, &stores.families, guarded::<ImageFamily>),
        families,
    );
    let images = watch(scopes.apis(client), &config, &stores.images, guarded::<ManagedImage>).then(
        move |change| {
            let images = images.clone();
            async move {
                // What the family's pass wrote is news to the images'. The receiver ends only when
                // the process does.
                _ = images.send(change.clone()).await;
                change
            }
        },
    );
    let cascades = watch(scopes.apis(client), &config, &stores.cascades, guarded::<Cascade>);
    let jobs = watch(scopes.apis(client), &ours, &stores.jobs, plain::<Job>);
    let pods = watch(scopes.apis(client), &ours, &stores.pods, plain::<Pod>);
    let strategies: Vec<(String, Api<DeserializeGuard<BuildStrategy>>)> =
        vec![(String::new(), Api::all(client.clone()))];
    let strategies = watch(strategies, &config, &stores.strategies, guarded);
    let config_maps = watch(scopes.apis(client), &config, &stores.config_maps, plain);
    let secrets = watch(scopes.apis(client), &config, &stores.secrets, plain);
    stream::select_all([
        concerned(context, families, of_family),
        concerned(context, images.boxed(), of_image),
        concerned(context, cascades, |_, cascade| of_cascade(cascade)),
        concerned(context, jobs, |_, job| of_label(job)),
        concerned(context, pods, |_, pod| of_label(pod)),
        concerned(context, strategies, of_strategy),
        concerned(context, config_maps, of_config_map),
        concerned(context, secrets, of_secret),
        context.tags.changes().boxed(),
        context.revisions.changes().boxed(),
        woken(context),
    ])
    .boxed()
}

/// The families that the changes of a watch concern. What we have written ourselves is known
/// already and concerns none.
fn concerned<K: Send + Sync + 'static>(
    context: &Arc<Context>,
    changes: BoxStream<'static, CacheEvent<K>>,
    of: fn(&Context, &CacheEvent<K>) -> Vec<FamilyObjectRef>,
) -> BoxStream<'static, FamilyObjectRef> {
    let context = Arc::clone(context);
    changes.flat_map(move |change| stream::iter(of(&context, &change))).boxed()
}

/// The families whose turn has come where builds are limited.
#[must_use]
pub fn woken(context: &Arc<Context>) -> BoxStream<'static, FamilyObjectRef> {
    let woken = stream::unfold(Arc::clone(context), |context| async {
        let family = context.quota.next_woken().await;
        Some((reference(&family), context))
    });
    woken.boxed()
}

/// Tells the controller's own store which families there are, without their content: the passes
/// take that from the cache, which knows our own writes as well.
fn told_to(
    changes: BoxStream<'static, CacheEvent<ImageFamily>>,
    mut store: Writer<ImageFamily>,
) -> BoxStream<'static, CacheEvent<ImageFamily>> {
    let told = changes.inspect(move |change| {
        let outline =
            ImageFamily { metadata: change.object().metadata.clone(), ..ImageFamily::default() };
        store.apply_watcher_event(&match change {
            CacheEvent::Applied(_) | CacheEvent::Echoed(_) => Event::Apply(outline),
            CacheEvent::Deleted(_) => Event::Delete(outline),
        });
    });
    told.boxed()
}

/// The family itself; one that is gone is forgotten everywhere. When one comes, goes or changes,
/// those that wait for one of its tags are looked at too. Those that stand on its images also want
/// to know what we have recorded of it ourselves.
#[must_use]
pub fn of_family(context: &Context, change: &CacheEvent<ImageFamily>) -> Vec<FamilyObjectRef> {
    let mut concerned: Vec<FamilyObjectRef> =
        context.dependents.of_family(&Key::of(&**change.object())).iter().map(reference).collect();
    let Some(family) = change.news() else { return concerned };
    if matches!(change, CacheEvent::Deleted(_)) {
        context.forget(&family);
    }
    concerned.extend(families_where(context, stalled));
    concerned.push(reference(&Key::of(&*family)));
    concerned
}

/// The family of an image's record, unless it wrote that itself, and in any case those that stand
/// on the image.
#[must_use]
pub fn of_image(context: &Context, change: &CacheEvent<ManagedImage>) -> Vec<FamilyObjectRef> {
    let image = change.object();
    let family = Key::new(&image.namespace().unwrap_or_default(), &image.spec.family);
    let dependents = context.dependents.of_image(&family, &image.spec.image);
    change.news().map(|_| family).iter().chain(&dependents).map(reference).collect()
}

/// The family of a cascade.
#[must_use]
pub fn of_cascade(change: &CacheEvent<Cascade>) -> Vec<FamilyObjectRef> {
    let family = |cascade: Arc<Cascade>| {
        Key::new(&cascade.namespace().unwrap_or_default(), &cascade.spec.family)
    };
    change.news().map(family).iter().map(reference).collect()
}

/// The family that a Job or a Pod of ours belongs to.
#[must_use]
pub fn of_label<K: ResourceExt>(change: &CacheEvent<K>) -> Vec<FamilyObjectRef> {
    change.news().and_then(|object| family_of(&*object)).iter().map(reference).collect()
}

/// The families that use a strategy.
#[must_use]
pub fn of_strategy(context: &Context, change: &CacheEvent<BuildStrategy>) -> Vec<FamilyObjectRef> {
    let Some(strategy) = change.news().map(|strategy| strategy.name_any()) else {
        return Vec::new();
    };
    families_where(context, |family| {
        let spec = &family.spec;
        let of_images = spec.images.iter().filter_map(|image| image.strategy.as_ref());
        of_images.chain([&spec.strategy]).any(|used| used.name == strategy)
    })
}

/// The families whose sources a `ConfigMap` is.
#[must_use]
pub fn of_config_map(
    context: &Context,
    change: &CacheEvent<PartialObjectMeta<ConfigMap>>,
) -> Vec<FamilyObjectRef> {
    users_of(context, change, names_config_map)
}

/// The families that take credentials from a Secret.
#[must_use]
pub fn of_secret(
    context: &Context,
    change: &CacheEvent<PartialObjectMeta<Secret>>,
) -> Vec<FamilyObjectRef> {
    users_of(context, change, names_secret)
}

fn reference(key: &Key) -> FamilyObjectRef {
    ObjectRef::new(&key.name).within(&key.namespace)
}

/// Whether a family waits for a person: for a tag, perhaps, which another one claims first. It may
/// go on when that one goes or changes.
fn stalled(family: &ImageFamily) -> bool {
    let conditions =
        family.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    condition::is_true(conditions, condition::STALLED)
}

/// Families of any namespace, sorted by key.
fn families_where(
    context: &Context,
    concerned: impl Fn(&ImageFamily) -> bool,
) -> Vec<FamilyObjectRef> {
    let all = context.stores.families.all();
    all.iter()
        .filter(|family| concerned(family))
        .map(|family| reference(&Key::of(&**family)))
        .collect()
}

/// The families of an object's namespace that name it.
fn users_of<K: Resource>(
    context: &Context,
    change: &CacheEvent<K>,
    names: fn(&ImageFamily, &str) -> bool,
) -> Vec<FamilyObjectRef> {
    let Some(object) = change.news().map(|object| Key::of(&*object)) else { return Vec::new() };
    let neighbours = context.stores.families.group(&Key::new(&object.namespace, ""));
    let users = neighbours.iter().filter(|family| names(family, &object.name));
    users.map(|family| reference(&Key::of(&**family))).collect()
}

fn names_config_map(family: &ImageFamily, name: &str) -> bool {
    family
        .spec
        .images
        .iter()
        .any(|image| image.source.config_map.as_ref().is_some_and(|source| source.name == name))
}

fn names_secret(family: &ImageFamily, name: &str) -> bool {
    let for_git = |image: &crate::api::Image| {
        image
            .source
            .git
            .as_ref()
            .and_then(|git| git.secret_ref.as_ref())
            .is_some_and(|secret| secret.name == name)
    };
    family.spec.credentials.iter().any(|secret| secret.name == name)
        || family.spec.images.iter().any(for_git)
}
