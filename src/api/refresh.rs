//! Refreshes: rebuilds from unchanged inputs that no user has requested, and the nonces by which
//! the inputs of such a rebuild differ.

use jiff::Timestamp;
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::api::Duration;

/// What the nonce of a rebuild by age has after its time. The name of a request has no colon.
const BY_AGE: &str = "refresh:";

/// Rebuilds images whose builds are old, from the same inputs, so that they get what their package
/// repositories have now.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Refresh {
    /// Age of a build at which the image is rebuilt. Up to a tenth of it is added, differently for
    /// each image, so that the images of a family are not all rebuilt at once. From 1 hour to 8760
    /// hours, or 0 for never.
    #[x_kube(
        validation = Rule::new("duration(self) == duration('0s') || duration(self) >= \
                                duration('1h') && duration(self) <= duration('8760h')")
            .message("refresh.every must be between 1h and 8760h, for example 168h for a week, or \
                      0s for never")
    )]
    pub every: Duration,
}

/// Why an image is refreshed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefreshReason {
    /// Its build was older than this.
    Age(Duration),
}

impl RefreshReason {
    /// Returns the nonce of a refresh that is due at this time: the time, and the reason. Of two
    /// nonces of an image, that of the later refresh or request is greater.
    #[must_use]
    pub fn nonce(&self, due: Timestamp) -> String {
        match self {
            Self::Age(every) => format!("{due:.0}/{BY_AGE}{every}"),
        }
    }

    /// Returns why an image with this nonce is refreshed, or `None` if the nonce is that of a
    /// request.
    #[must_use]
    pub fn of_nonce(nonce: &str) -> Option<Self> {
        let (_, reason) = nonce.split_once('/')?;
        Some(Self::Age(reason.strip_prefix(BY_AGE)?.parse().ok()?))
    }
}

/// Returns the time of a refresh or a request with this nonce.
#[must_use]
pub fn time_of_nonce(nonce: &str) -> Option<Timestamp> {
    nonce.split_once('/')?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::labels::is_annotated_request;

    #[test]
    fn a_nonce_says_when_and_why() {
        let reason = RefreshReason::Age(Duration::from_secs(7 * 24 * 3600));
        let due: Timestamp = "2026-06-01T12:00:00Z".parse().expect("a time");
        let nonce = reason.nonce(due);
        assert_eq!(nonce, "2026-06-01T12:00:00Z/refresh:168h");
        assert!(is_annotated_request(&nonce), "the registry is to remember it");
        assert_eq!(RefreshReason::of_nonce(&nonce), Some(reason));
        assert_eq!(time_of_nonce(&nonce), Some(due));
    }

    #[test]
    fn what_a_request_or_a_stranger_has_written_is_no_refresh() {
        for nonce in ["", "x", "2026-06-01T12:00:00Z/refresh", "a/refresh:", "a/refresh:soon"] {
            assert_eq!(RefreshReason::of_nonce(nonce), None, "{nonce}");
        }
        assert_eq!(time_of_nonce("yesterday/refresh:1h"), None);
    }
}
