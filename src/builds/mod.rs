//! Builds: from (image, fingerprint, strategy) to a Job, and from a Job and its pods to a result.
//! And the checks of what they have made: [`checks`].
//!
//! Everything here is pure but for [`git`], which speaks to Git servers, and the first steps inside
//! of the Jobs' own pods: [`prepare`] for a build, [`checks::credentials`] for a check. Nothing here
//! holds a Kubernetes client: the controller creates the [`job`] and shows us what became of it,
//! and [`outcome`] says what that means. What the registry holds afterwards is the proof of a
//! build, not the Job.

pub mod checks;
pub mod dockerfile;
pub mod git;
pub mod job;
pub mod outcome;
pub mod prepare;
pub mod request;
pub mod source;
pub mod strategy;
pub mod template;

/// `SOURCE_DATE_EPOCH` of every build, in seconds since 1970: constant, so that the same inputs
/// come out with the same digest. The time of a build stands in the image's annotations and in its
/// `ManagedImage`, never in its content.
pub const SOURCE_DATE_EPOCH: i64 = 0;
