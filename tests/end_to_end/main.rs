//! Tests on a complete cluster without any simulation: a real kubelet and containerd, real builds,
//! a real registry, running workloads, and the controller as users run it, with two replicas
//! installed by the chart.
//!
//! Needs root, Debian 12 and Go, for the cluster that it starts:
//! `cargo test --features needs-cluster --test end_to_end`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test reports an error by failing"
)]

mod builds;
mod cascades;
mod chart;
mod checks;
mod contents;
mod cutoff;
mod failures;
mod first_minutes;
mod git_server;
mod installation;
mod monorepo;
mod newcomer;
mod promotion;
mod replicas;
mod rollouts;
mod scene;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod support;
mod tags;
#[path = "../support/tls.rs"]
mod tls;
