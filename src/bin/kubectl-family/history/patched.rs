//! How long a cascade takes until its images are patched.

use schemars::JsonSchema;
use serde::Serialize;

use groundswell::api::{Cascade, ImageState};

/// The times from the start of a cascade until each of its rebuilt images was current.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TimeToPatched {
    /// Number of images that the cascade has rebuilt. Others are not counted: those that have
    /// failed, that are not built yet, and that were spared.
    pub images: usize,
    /// Time within which half of them were current, in seconds.
    pub p50_seconds: i64,
    /// Time within which 95 % of them were current, in seconds.
    pub p95_seconds: i64,
    /// Time until the last of them was current, in seconds.
    pub max_seconds: i64,
}

impl TimeToPatched {
    /// Returns the times of these cascades together, or `None` if no image was rebuilt.
    pub fn of<'a>(cascades: impl IntoIterator<Item = &'a Cascade>) -> Option<Self> {
        let mut times: Vec<i64> = cascades.into_iter().flat_map(times).collect();
        times.sort_unstable();
        Some(Self {
            images: times.len(),
            p50_seconds: percentile(&times, 50)?,
            p95_seconds: percentile(&times, 95)?,
            max_seconds: *times.last()?,
        })
    }
}

fn times(cascade: &Cascade) -> Vec<i64> {
    let Some(status) = &cascade.status else { return Vec::new() };
    let Some(start) = status.started_at else { return Vec::new() };
    let patched = status
        .images
        .iter()
        .filter(|image| image.state == ImageState::Current && image.builds > 0 && !image.spared);
    let ends = patched.filter_map(|image| image.finished_at);
    ends.map(|end| end.duration_since(start).as_secs().max(0)).collect()
}

/// Returns the smallest of the sorted times that at least `percent` of them do not exceed.
fn percentile(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.checked_sub(1)?).copied()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn percentiles_are_times_that_occur() {
        let times: Vec<i64> = (1..=20).collect();
        assert_eq!([50, 95, 100].map(|p| percentile(&times, p)), [Some(10), Some(19), Some(20)]);
        assert_eq!([50, 95].map(|p| percentile(&[7], p)), [Some(7), Some(7)]);
        assert_eq!(percentile(&[], 50), None);
    }

    #[test]
    fn only_rebuilt_images_count() {
        let image = |name: &str, state: &str, second: u8, more: serde_json::Value| {
            let mut image = json!({"name": name, "state": state, "builds": 1,
                                   "finishedAt": format!("2026-05-01T12:00:{second:02}Z")});
            image
                .as_object_mut()
                .expect("an object")
                .extend(more.as_object().expect("an object").clone());
            image
        };
        let cascade: Cascade = serde_json::from_value(json!({
            "metadata": {"name": "c"},
            "spec": {"family": "f"},
            "status": {"startedAt": "2026-05-01T12:00:00Z", "images": [
                image("a", "Current", 10, json!({})),
                image("b", "Current", 30, json!({})),
                image("failed", "Failed", 40, json!({})),
                image("spared", "Current", 41, json!({"spared": true})),
                image("was-current", "Current", 42, json!({"builds": 0})),
            ]}
        }))
        .expect("a cascade");
        let expected =
            TimeToPatched { images: 2, p50_seconds: 10, p95_seconds: 30, max_seconds: 30 };
        assert_eq!(TimeToPatched::of([&cascade]), Some(expected));
        assert_eq!(TimeToPatched::of([]), None);
    }
}
