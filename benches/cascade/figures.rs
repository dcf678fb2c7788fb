//! What one run took: its wall time, and how long each child's Job came after its last parent's pod
//! had succeeded.

use std::{
    collections::HashMap,
    fmt,
    time::{Duration, Instant},
};

use super::{layered::Layered, ledger::Build};

/// One run of the graph, by either side.
#[derive(Clone, Debug)]
pub struct Side {
    /// From the first Job to the last pod's success.
    builds: Duration,
    /// From the first Job until everything was done that the side does.
    whole: Duration,
    /// From the success of an image's last parent to its Job, for each that has a parent in the
    /// family; ascending.
    latencies: Vec<Duration>,
}

impl Side {
    /// A run that made these builds, and was whole at `ended`.
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
        Self { builds: last - first, whole: ended - first, latencies }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95] = [50, 95].map(|percent| percentile(&self.latencies, percent).as_millis());
        write!(
            f,
            "{:.1} s (whole after {:.1} s), p50 {p50} ms, p95 {p95} ms",
            self.builds.as_secs_f64(),
            self.whole.as_secs_f64()
        )
    }
}

/// The smallest value that so many percent of an ascending list do not exceed.
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
    let our_whole = mean(ours, |side| side.whole);
    println!(
        "\nmeans of {} rounds                          controller  bare loop      ratio",
        ours.len()
    );
    println!(
        "  first Job to last pod's success, s        {our_builds:10.2} {bare_builds:10.2} {:10.2}",
        our_builds / bare_builds
    );
    println!(
        "  first Job to all verified, tagged, ready  {our_whole:10.2} {:>10} {:10.2}",
        "",
        our_whole / bare_builds
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
            "  last parent's pod to child's Job, p{percent}, ms {ours:10.0} {bare:10.0} \
                  {:10.2}",
            ours / bare
        );
    }
}
