//! A cascade over 200 images on a real API server, compared with a bare loop that only creates the
//! same Jobs when the pods of their parents succeed.
//!
//! Pods are simulated. Both sides get the same Jobs, the same pushes and the same build times, one
//! after the other on one cluster. The difference is the controller: the wall time that it adds,
//! how long a child waits after its last parent has ended, its writes, its CPU time and its memory.
//!
//! Needs root, Debian 12 and Go, for the cluster that it starts. `make bench` prepares everything;
//! `cargo bench --features needs-cluster --bench cascade` runs it.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a benchmark reports what is wrong by failing"
)]
#![allow(clippy::cast_precision_loss, reason = "counts and bytes far below 2^52")]

mod bare;
#[path = "../../tests/scale/build_log.rs"]
mod build_log;
#[path = "../../tests/scale/draw.rs"]
mod draw;
mod figures;
#[path = "../../tests/scale/layered.rs"]
mod layered;
mod process;
#[path = "../../tests/scale/scene.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod scene;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, reason = "the tests use the rest")]
mod support;
#[path = "../../tests/scale/writer.rs"]
mod writer;
mod writes;

use std::time::{Duration, Instant};

use figures::{Side, print_sides};
use scene::Scene;
use support::{
    Cluster,
    operator::{Operator, Settings},
};
use writes::Writes;

/// How many images the family has.
const IMAGES: usize = 200;
/// How many cascades are measured. A bare loop follows each.
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    let cluster = Cluster::start("bench", "simulated");
    let client = cluster.client().await;
    scene::prepare(&client).await;
    let scene = Scene::new(&cluster, &client, "cascade", IMAGES).await;
    let settings = Settings {
        audit: "10m".into(),
        log: "groundswell=info,warn".into(),
        ..Settings::new(&cluster, &scene.place.namespace, &[])
    };
    let operator = Operator::ready(&settings).await;
    // An image that is built on the upstream has one edge.
    let edges: usize = scene.layered.images.iter().map(|image| image.parents.len().max(1)).sum();
    println!("family: {IMAGES} images, {edges} edges, 6 levels; builds of 0.2 to 1.5 s");
    println!("controller manager: {}", process::controller_manager_limits(&cluster.name));

    // The first cascade warms up both sides and is not measured.
    scene.apply().await;
    scene.wait_cascade(1).await;

    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    let (mut our_writes, mut bare_writes) = (Writes::default(), Writes::default());
    let mut cpu = Duration::ZERO;
    for round in 1..=ROUNDS {
        let (writes, cpu_before) =
            (Writes::count(&client).await, process::cpu_time(operator.child.id()));
        scene.move_upstream(&format!("round {round}")).await;
        scene.wait_cascade(round + 1).await;
        let ready = Instant::now();
        cpu += process::cpu_time(operator.child.id()).saturating_sub(cpu_before);
        our_writes += Writes::count(&client).await - writes;
        let builds = scene.build_log.builds().split_off(round * IMAGES);
        ours.push(Side::new(&scene.layered, &builds, ready));

        let writes = Writes::count(&client).await;
        let (made, ended) = bare::run(&cluster, &client, &scene.layered, &builds).await;
        bare_writes += Writes::count(&client).await - writes;
        bare.push(Side::new(&scene.layered, &made, ended));
        println!(
            "round {round} of {ROUNDS}: controller {}, bare loop {}",
            ours[round - 1],
            bare[round - 1]
        );
    }
    scene.build_log.assert_once(IMAGES, ROUNDS + 1);

    print_sides(&ours, &bare);
    println!(
        "\nAPI writes per image, by verb, resource and group (those of the bare loop are the \
         cluster's own)"
    );
    writes::print(&our_writes, &bare_writes, IMAGES * ROUNDS);
    println!(
        "\ncontroller: {:.2} CPU seconds per cascade, {:.1} ms per image; peak resident memory \
         {:.1} MiB",
        cpu.as_secs_f64() / ROUNDS as f64,
        cpu.as_secs_f64() * 1000.0 / (IMAGES * ROUNDS) as f64,
        process::peak_memory(operator.child.id()) as f64 / 1024.0 / 1024.0
    );
}
