//! Tests on a real API server, etcd, controller manager and registry. There is no kubelet:
//! [`builder::Builder`] plays the builds and pushes what a real one would push.
//!
//! Needs root, Debian 12 and Go, for the cluster that it starts:
//! `cargo test --features needs-cluster --test integration`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test reports what is wrong by failing"
)]

mod admission;
mod adoption;
mod bad_input;
mod breaker;
mod builder;
mod cascades;
mod checks;
mod contested_rollout;
mod cutoff;
mod deletion;
mod dockerfile_edges;
mod existing_images;
mod families;
mod gate;
mod guarded_registry;
mod hints;
mod installations;
mod label_tags;
mod leadership;
mod manifests;
mod matrix;
mod odd_registry;
mod older_versions;
mod planted_secrets;
mod platforms;
mod policies;
mod preflight;
mod records;
mod registry_traffic;
mod requests;
mod restart;
mod rollback;
mod rollout;
mod schema;
mod sizes;
#[path = "../support/mod.rs"]
mod support;
mod traffic;

use std::sync::OnceLock;

use kube::Client;
use tokio::sync::OnceCell;

use support::{Cluster, objects};

/// The cluster of this binary.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start("integration", "api"))
}

/// A client of the cluster, in which our kinds and the strategy [`builder::STRATEGY`] exist.
async fn client() -> Client {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    let client = cluster().client().await;
    PREPARED
        .get_or_init(async || {
            objects::define(&client).await;
            builder::Builder::strategy(&client).await;
        })
        .await;
    client
}
