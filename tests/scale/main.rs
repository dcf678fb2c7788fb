//! Tests with a family of 200 images on a real API server, etcd, controller manager and registry.
//! Pods are simulated: kwok plays their lives, and [`writer::Writer`] pushes what their builders
//! would push.
//!
//! Needs root, Debian 12 and Go, for the cluster that it starts:
//! `cargo test --features needs-cluster --test scale`.
//!
//! What is random follows from a seed that is printed: the same command with `GROUNDSWELL_SEED=n`
//! has the same again, as far as a cluster's own timing lets it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says what is \
    wrong by failing"
)]

mod draw;
mod killed;
mod layered;
#[allow(dead_code, reason = "the benchmarks use the rest")]
mod ledger;
mod paused;
mod scene;
mod seed;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the other tests use the rest")]
mod support;
mod writer;

use std::sync::OnceLock;

use kube::Client;
use tokio::sync::{Mutex, MutexGuard, OnceCell};

use support::Cluster;

/// How many images the family has.
const IMAGES: usize = 200;

/// The cluster of this binary.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start("scale", "simulated"))
}

/// A client of the cluster, which knows our kinds and the strategy.
async fn client() -> Client {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    let client = cluster().client().await;
    PREPARED.get_or_init(async || scene::prepare(&client).await).await;
    client
}

/// One test at a time: two cascades of 200 images beside each other would only slow each other
/// down.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
