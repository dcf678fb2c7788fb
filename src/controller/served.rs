//! Which namespaces are served: those whose objects are all listed. A namespace that cannot be
//! watched stops only itself. No client is needed.

use std::collections::BTreeMap;

use crate::{
    controller::{context::Context, stores::Stores, watch::Scopes},
    object_watch::DeniedWatches,
    rollout::WorkloadStore,
};

/// Whether the families of a namespace can be reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoresState {
    /// All that a reconcile reads is listed.
    Filled,
    /// A watch has not listed its objects yet.
    Filling,
    /// The namespace cannot be watched, or no longer: what is stored may be outdated.
    Unwatched,
}

/// The watched namespaces, and what is known of them.
#[derive(Clone, Copy)]
pub struct ServedNamespaces<'a> {
    /// The namespaces that are to be watched.
    pub scopes: &'a Scopes,
    /// The objects in them.
    pub stores: &'a Stores,
    /// The workloads in them.
    pub workloads: &'a WorkloadStore,
    /// The watches that the API server denies.
    pub denied: &'a DeniedWatches,
}

impl Context {
    /// Returns what is known of the watched namespaces.
    #[must_use]
    pub fn served(&self) -> ServedNamespaces<'_> {
        let Self { scopes, stores, workloads, denied, .. } = self;
        ServedNamespaces { scopes, stores, workloads, denied }
    }
}

impl ServedNamespaces<'_> {
    /// Returns whether the objects of this namespace can be reconciled.
    ///
    /// A reconcile also reads other namespaces: tags, imports and running builds of other families.
    /// So it waits for all namespaces except those that cannot be watched.
    #[must_use]
    pub fn state_of(self, namespace: &str) -> StoresState {
        if !self.stores.strategies_synced() {
            return StoresState::Filling;
        }
        if self.is_given_up(self.scopes.scope_of(namespace)) {
            return StoresState::Unwatched;
        }
        let all = self.scopes.as_slice();
        if all.iter().all(|scope| self.is_filled(scope) || self.is_given_up(scope)) {
            StoresState::Filled
        } else {
            StoresState::Filling
        }
    }

    /// Returns the namespaces that cannot be watched, each with the reason.
    #[must_use]
    pub fn unwatched(self) -> BTreeMap<String, String> {
        let mut unwatched = self.denied.namespaces();
        for namespace in self.scopes.as_slice() {
            if self.workloads.is_missing(namespace) {
                unwatched.insert(namespace.clone(), "the namespace does not exist".into());
            }
        }
        unwatched
    }

    /// Returns what is not listed yet, without the namespaces that cannot be watched. If there are
    /// no others, it returns these.
    #[must_use]
    pub fn waiting_for(self) -> Vec<String> {
        let unwatched = self.unwatched();
        let mut served = self.scopes.as_slice().to_vec();
        served.retain(|scope| !unwatched.contains_key(scope));
        let mut waiting = self.stores.waiting_for(&served);
        waiting.extend(served.iter().flat_map(|scope| self.workloads.waiting_in(scope)));
        if served.is_empty() {
            waiting.extend(unwatched.into_iter().map(describe));
        }
        waiting
    }

    /// Returns whether all objects in a scope were listed.
    fn is_filled(self, scope: &str) -> bool {
        self.stores.is_filled(scope) && self.workloads.waiting_in(scope).is_empty()
    }

    /// Returns whether the others do not wait for this scope.
    fn is_given_up(self, scope: &str) -> bool {
        self.denied.is_given_up(scope) || self.workloads.is_missing(scope)
    }
}

/// Returns a namespace that cannot be watched with the reason.
#[must_use]
pub fn describe((namespace, reason): (String, String)) -> String {
    format!("namespace {namespace} is not served: {reason}")
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        future,
        sync::{Arc, atomic::AtomicBool, atomic::Ordering},
        time::Duration,
    };

    use futures::{StreamExt, stream};
    use kube::{
        Client,
        runtime::watcher::{self, Event},
    };

    use super::*;
    use crate::{
        controller::watch::{WatchOptions, outline, watch},
        object_watch::tests::client,
    };

    /// The controller's stores for the namespaces `shop` and `gone`. All kinds but Secrets and
    /// workloads are listed in the first one, and nothing in the second one.
    struct TwoNamespaces {
        scopes: Scopes,
        stores: Stores,
        workloads: WorkloadStore,
        denied: DeniedWatches,
    }

    impl TwoNamespaces {
        fn served(&self) -> ServedNamespaces<'_> {
            let Self { scopes, stores, workloads, denied } = self;
            ServedNamespaces { scopes, stores, workloads, denied }
        }

        fn list_all_but_secrets(&self, namespace: &str) {
            let stores = &self.stores;
            stores.families.observe(namespace, Event::InitDone);
            stores.images.observe(namespace, Event::InitDone);
            stores.cascades.observe(namespace, Event::InitDone);
            stores.requests.observe(namespace, Event::InitDone);
            stores.jobs.observe(namespace, Event::InitDone);
            stores.pods.observe(namespace, Event::InitDone);
            stores.config_maps.observe(namespace, Event::InitDone);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_missing_namespace_stops_only_itself_and_is_served_once_it_exists() {
        let granted: Arc<AtomicBool> = Arc::default();
        let client: Client = client("gone", &granted);
        let scopes = Scopes::new(vec!["shop".into(), "gone".into()]);
        let only: BTreeSet<String> = scopes.as_slice().iter().cloned().collect();
        let (stores, denied) = (Stores::default(), DeniedWatches::default());
        let (workloads, changes) = WorkloadStore::start(&client, &only, &denied);
        let options = WatchOptions { selected: watcher::Config::default(), denied: denied.clone() };
        let secrets = watch(scopes.apis(&client), &options, &stores.secrets, outline);
        let mut work = stream::select(changes.map(|_| ()), secrets.map(|_| ())).boxed();
        let two = TwoNamespaces { scopes, stores, workloads, denied };
        two.list_all_but_secrets("shop");
        assert_eq!(two.served().state_of("shop"), StoresState::Filling);
        assert!(two.served().waiting_for().contains(&"BuildStrategy".to_owned()));
        two.stores.strategies.observe("", Event::InitDone);

        let mut run = async |seconds| {
            let end = tokio::time::sleep(Duration::from_secs(seconds));
            work.by_ref().take_until(end).for_each(|()| future::ready(())).await;
        };
        run(1).await;
        assert_eq!(two.served().state_of("shop"), StoresState::Filled);
        assert_eq!(two.served().state_of("gone"), StoresState::Unwatched);
        assert_eq!(two.served().waiting_for(), Vec::<String>::new());
        let notes: Vec<String> = two.served().unwatched().into_iter().map(describe).collect();
        assert_eq!(notes, ["namespace gone is not served: the namespace does not exist"]);

        granted.store(true, Ordering::SeqCst);
        two.list_all_but_secrets("gone");
        run(120).await;
        assert_eq!(two.served().state_of("gone"), StoresState::Filled);
        assert!(two.served().unwatched().is_empty());

        granted.store(false, Ordering::SeqCst);
        run(120).await;
        let states = ["shop", "gone"].map(|namespace| two.served().state_of(namespace));
        assert_eq!(states, [StoresState::Filled, StoresState::Unwatched], "its role was deleted");
    }

    #[tokio::test(start_paused = true)]
    async fn without_any_namespace_that_can_be_watched_the_controller_is_not_ready() {
        let granted = Arc::default();
        let client: Client = client("gone", &granted);
        let scopes = Scopes::new(vec!["gone".into()]);
        let (stores, denied) = (Stores::default(), DeniedWatches::default());
        let only: BTreeSet<String> = scopes.as_slice().iter().cloned().collect();
        let (workloads, changes) = WorkloadStore::start(&client, &only, &denied);
        let two = TwoNamespaces { scopes, stores, workloads, denied };
        two.stores.strategies.observe("", Event::InitDone);
        let end = tokio::time::sleep(Duration::from_secs(1));
        changes.take_until(end).for_each(|_| future::ready(())).await;
        let expected = ["namespace gone is not served: the namespace does not exist"];
        assert_eq!(two.served().waiting_for(), expected);
    }
}
