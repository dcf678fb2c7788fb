//! Tests with a family of 200 images on a real API server, etcd, controller manager and registry.
//! Pods are simulated: kwok simulates their phases, and [`writer::Writer`] pushes what their
//! builders would push.
//!
//! Needs root, Debian 12 and Go, for the cluster that it starts:
//! `cargo test --features needs-cluster --test scale`.
//!
//! Everything random is derived from a seed that is printed. The same command with
//! `GROUNDSWELL_SEED=n` replays it, as far as the timing of the cluster allows.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test reports an error by failing"
)]

#[allow(dead_code, reason = "the benchmarks use the rest")]
mod build_log;
mod draw;
mod killed;
mod layered;
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

/// Number of images in the family.
const IMAGES: usize = 200;

/// Returns the cluster that all tests of this binary share.
fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::start("scale", "simulated"))
}

/// Returns a client of the cluster, with the CRDs and the strategy installed.
async fn client() -> Client {
    static PREPARED: OnceCell<()> = OnceCell::const_new();
    let client = cluster().client().await;
    PREPARED.get_or_init(async || scene::prepare(&client).await).await;
    client
}

/// Runs one test at a time: two concurrent cascades of 200 images would only slow each other down.
async fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::const_new(());
    TURN.lock().await
}
