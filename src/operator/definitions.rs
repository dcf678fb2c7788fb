//! Waits at the start until the API server serves the kinds of Groundswell.

use std::time::Duration;

use kube::{Api, Client, Resource, api::ListParams};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::warn;

use crate::{
    api::{BuildStrategy, Cascade, ImageFamily, ManagedImage},
    server::Readiness,
};

/// Interval at which the controller checks for missing `CustomResourceDefinitions` at start-up.
const CRD_CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// Timeout of one such check.
const CRD_CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Waits until the API server serves all four kinds. Readiness lists the missing ones.
pub(super) async fn wait_for_definitions(client: &Client, readiness: &Readiness) {
    let (report, missing) = watch::channel(vec!["not checked yet".to_owned()]);
    readiness.require("CustomResourceDefinitions", move || missing.borrow().clone());
    loop {
        let checks = tokio::join!(
            missing_definition::<ImageFamily>(client),
            missing_definition::<ManagedImage>(client),
            missing_definition::<Cascade>(client),
            missing_definition::<BuildStrategy>(client)
        );
        let absent: Vec<String> =
            [checks.0, checks.1, checks.2, checks.3].into_iter().flatten().collect();
        let done = absent.is_empty();
        if !done && *report.borrow() != absent {
            warn!(missing = ?absent, "waiting for CustomResourceDefinitions: install the CRDs of \
                the chart, and grant the service account the verb list on them");
        }
        report.send_replace(absent);
        if done {
            return;
        }
        tokio::time::sleep(CRD_CHECK_INTERVAL).await;
    }
}

/// Returns what prevents the listing of a kind, or `None` if the API server serves it.
async fn missing_definition<K>(client: &Client) -> Option<String>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<kube::core::PartialObjectMeta<K>> = Api::all(client.clone());
    let name = format!("{}.{}", K::plural(&()), K::group(&()));
    match tokio::time::timeout(CRD_CHECK_TIMEOUT, api.list(&ListParams::default().limit(1))).await {
        // A missing permission to list all namespaces proves that the kind exists. The watches
        // cover only the configured namespaces.
        Ok(Ok(_)) => None,
        Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => None,
        Ok(Err(error)) => Some(format!("{name}: {error}")),
        Err(_) => Some(format!("{name}: no answer from the API server")),
    }
}
