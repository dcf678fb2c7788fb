//! The times of one run: its wall time, and the time from the success of a child's last parent to
//! the child's Job.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use super::{build_log::Build, layered::Layered};

/// One run of the graph, by either side.
#[derive(Clone, Debug)]
pub struct Side {
    /// From the first Job to the last pod's success.
    builds: Duration,
    /// From the first Job until the side had done all its work.
    total: Duration,
    /// From the success of an image's last parent to its Job, for each image that has a parent in
    /// the family; ascending.
    latencies: Vec<Duration>,
}

impl Side {
    /// A run with these builds that had done all its work at `ended`.
    pub fn new(layered: &Layered, builds: &[Build], ended: Instant) -> Self {
        let of: HashMap<&str, &Build> =
            builds.iter().map(|build| (build.image.as_str(), build)).collect();
        let success =
            |image: usize| of[layered.images[image].name.as_str()].succeeded.expect("a success");
        let mut latencies: Vec<Duration> = layered
            .images
            .iter()
            .filter_map(|image| {
                let released = image.parents.iter().map(|parent| success(*parent)).max()?;
                Some(of[image.name.as_str()].made.saturating_duration_since(released))
            })
            .collect();
        latencies.sort();
        let first = builds.iter().map(|build| build.made).min().expect("a build");
        let last = (0..layered.images.len()).map(success).max().expect("a build");
        Self { builds: last - first, total: ended - first, latencies }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95] = [50, 95].map(|percent| percentile(&self.latencies, percent).as_millis());
        write!(
            f,
            "{:.1} s (all done after {:.1} s), p50 {p50} ms, p95 {p95} ms",
            self.builds.as_secs_f64(),
            self.total.as_secs_f64()
        )
    }
}

/// The smallest value that `percent` of an ascending list do not exceed.
fn percentile(ascending: &[Duration], percent: usize) -> Duration {
    let place = (ascending.len() * percent).div_ceil(100).saturating_sub(1);
    ascending.get(place).copied().unwrap_or_default()
}

/// Prints both sides over all rounds.
pub fn print_sides(ours: &[Side], bare: &[Side]) {
    let mean = |sides: &[Side], of: fn(&Side) -> Duration| {
        sides.iter().map(of).sum::<Duration>().as_secs_f64() / sides.len() as f64
    };
    let (our_builds, bare_builds) =
        (mean(ours, |side| side.builds), mean(bare, |side| side.builds));
    let our_total = mean(ours, |side| side.total);
    println!(
        "\nmeans of {} rounds                          controller  bare loop      ratio",
        ours.len()
    );
    println!(
        "  first Job to last pod's success, s        {our_builds:10.2} {bare_builds:10.2} {:10.2}",
        our_builds / bare_builds
    );
    println!(
        "  first Job to all verified, tagged, ready  {our_total:10.2} {:>10} {:10.2}",
        "",
        our_total / bare_builds
    );
    let latencies = |sides: &[Side]| {
        let mut all: Vec<Duration> = sides.iter().flat_map(|side| side.latencies.clone()).collect();
        all.sort();
        all
    };
    let (ours, bare) = (latencies(ours), latencies(bare));
    for percent in [50, 95] {
        let [ours, bare] =
            [&ours, &bare].map(|side| percentile(side, percent).as_secs_f64() * 1000.0);
        println!(
            "  last parent's pod to child's Job, p{percent}, ms {ours:10.0} {bare:10.0} {:10.2}",
            ours / bare
        );
    }
}
