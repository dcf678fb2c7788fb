//! How long builds take: the median of what is recorded of an image, or else of its family.

use std::time::Duration;

use groundswell::lineage::ImageIndex;

use crate::input::EstateFamily;

/// The recorded build times of a family.
#[derive(Clone, Debug)]
pub struct BuildTimes {
    /// The median of each image, in the order of the spec; `None` for an image without a build.
    images: Vec<Option<Duration>>,
    /// The median over all builds of the family.
    family: Option<Duration>,
}

/// The expected time of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpectedTime {
    /// The median of the image's own builds.
    Recorded(Duration),
    /// The image has no recorded build: the median of its family.
    Assumed(Duration),
    /// Nothing is recorded.
    Unknown,
}

impl ExpectedTime {
    /// Returns the time; zero if it is unknown.
    pub fn duration(self) -> Duration {
        match self {
            Self::Recorded(duration) | Self::Assumed(duration) => duration,
            Self::Unknown => Duration::ZERO,
        }
    }
}

impl BuildTimes {
    /// Returns the build times that the histories of a family record.
    pub fn of(family: &EstateFamily) -> Self {
        let mut all = Vec::new();
        let images = family.family.spec.images.iter().map(|image| {
            let status = family.images.get(&image.name)?.status.as_ref()?;
            // A failed build has no digest. How long it took says little.
            let built = status.history.iter().filter(|build| !build.digest.is_empty());
            let mut times: Vec<Duration> =
                built.filter_map(|build| build.duration.map(Into::into)).collect();
            all.extend_from_slice(&times);
            median(&mut times)
        });
        Self { images: images.collect(), family: median(&mut all) }
    }

    /// Returns the expected time of a build of an image.
    pub fn expected(&self, image: ImageIndex) -> ExpectedTime {
        match (self.images.get(image.position()).copied().flatten(), self.family) {
            (Some(own), _) => ExpectedTime::Recorded(own),
            (None, Some(family)) => ExpectedTime::Assumed(family),
            (None, None) => ExpectedTime::Unknown,
        }
    }
}

fn median(times: &mut [Duration]) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

/// Writes a duration for a reader: `40s`, `3m20s`, `2h5m`.
pub fn readable(duration: Duration) -> String {
    let seconds = duration.as_secs() + u64::from(duration.subsec_millis() >= 500);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_parts() {
        for (seconds, expected) in [(0, "0s"), (59, "59s"), (200, "3m20s"), (7_500, "2h05m")] {
            assert_eq!(readable(Duration::from_secs(seconds)), expected);
        }
    }

    #[test]
    fn the_median_ignores_an_outlier() {
        let times = |seconds: &[u64]| {
            let mut times: Vec<_> = seconds.iter().map(|one| Duration::from_secs(*one)).collect();
            median(&mut times)
        };
        assert_eq!(times(&[10, 900, 12]), Some(Duration::from_secs(12)));
        assert_eq!(times(&[]), None);
    }
}
