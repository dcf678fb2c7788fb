use std::{future, time::Duration};

use serde_json::json;

use super::*;
use crate::object_watch::tests::client;

fn deployment(namespace: &str, name: &str, image: &str, version: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": {
            "name": name, "namespace": namespace, "resourceVersion": version,
            "labels": {"app": "web"}
        },
        "spec": {
            "selector": {},
            "template": {"spec": {"containers": [{"name": "app", "image": image}]}}
        }
    }))
    .expect("a Deployment")
}

fn store() -> WorkloadStore {
    WorkloadStore { contents: Arc::default(), only: None }
}

/// Applies events of Deployments and returns the objects that changed.
async fn apply_events(
    store: &WorkloadStore,
    namespace: Option<&str>,
    events: Vec<Event<Deployment>>,
) -> Vec<String> {
    let scope =
        WatchScope { kind: Some(WorkloadKind::Deployment), namespace: namespace.map(Into::into) };
    let changes = store.fill_from(scope, stream::iter(events), |object: Deployment| {
        StoreEntry::Workload(object.into())
    });
    changes
        .map(|change| match change {
            ChangedObject::Workload(key) => key.to_string(),
            ChangedObject::Namespace(name) => name,
        })
        .collect()
        .await
}

#[tokio::test]
async fn a_change_is_reported_once_and_a_relist_reports_only_differences() {
    let store = store();
    let changes = apply_events(
        &store,
        None,
        vec![
            Event::Init,
            Event::InitApply(deployment("shop", "web", "app:1", "1")),
            Event::InitApply(deployment("shop", "old", "app:1", "2")),
            Event::InitDone,
            Event::Apply(deployment("shop", "web", "app:1", "3")),
            Event::Apply(deployment("shop", "web", "app:2", "4")),
            Event::Init,
            Event::InitApply(deployment("shop", "web", "app:2", "5")),
            Event::InitDone,
            Event::Delete(deployment("shop", "web", "app:2", "6")),
        ],
    )
    .await;
    let expected = ["shop/web", "shop/old", "shop/web", "shop/old", "shop/web"]
        .map(|key| format!("Deployment {key}"));
    assert_eq!(changes, expected);
    assert_eq!(store.waiting_for(), Vec::<String>::new());
}

#[tokio::test]
async fn a_relist_of_one_namespace_leaves_the_others_alone() {
    let store = store();
    let list = |namespace: &str| {
        vec![
            Event::Init,
            Event::InitApply(deployment(namespace, "web", "app:1", "1")),
            Event::InitDone,
        ]
    };
    apply_events(&store, Some("a"), list("a")).await;
    apply_events(&store, Some("b"), list("b")).await;
    assert_eq!(
        apply_events(&store, Some("a"), vec![Event::Init, Event::InitDone]).await,
        ["Deployment a/web"]
    );
    let labels = BTreeMap::from([("app".to_owned(), "web".to_owned())]);
    assert_eq!(store.select(WorkloadKind::Deployment, "a", &labels).len(), 0);
    assert_eq!(store.select(WorkloadKind::Deployment, "b", &labels).len(), 1);
    assert_eq!(store.select(WorkloadKind::StatefulSet, "b", &labels).len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_store_fills_without_streaming_lists_and_names_missing_namespaces() {
    for namespaces in [&[][..], &["shop", "gone"][..]] {
        let only = namespaces.iter().map(|name| (*name).to_owned()).collect();
        let (granted, denied) = (Arc::default(), DeniedWatches::default());
        let (store, changes) = WorkloadStore::start(&client("gone", &granted), &only, &denied);
        let filled = changes.take_until(tokio::time::sleep(Duration::from_mins(5)));
        filled.for_each(|_| future::ready(())).await;
        for namespace in namespaces.iter().filter(|name| **name != "gone").chain(&[""]) {
            assert_eq!(store.waiting_in(namespace), Vec::<String>::new(), "{only:?}");
            assert!(!store.is_missing(namespace), "{namespace} of {only:?}");
        }
        assert_eq!(store.is_missing("gone"), only.contains("gone"), "{only:?}");
        assert_eq!(store.waiting_in("gone").len(), if only.is_empty() { 0 } else { 4 });
    }
}

#[tokio::test]
async fn missing_lists_are_reported() {
    let store = store();
    apply_events(&store, Some("a"), vec![Event::Init]).await;
    assert_eq!(store.waiting_for(), ["Deployments in namespace a"]);
}
