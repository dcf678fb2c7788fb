//! What is to be done: a pure decision over an observation and a given time.
//!
//! [`decide`] knows no client, no clock and no runtime. It walks the lineage in topological order,
//! gives every image a state, and says which effects bring the world closer to the spec. It
//! remembers nothing between two calls: any pass from any state, after any crash, moves toward the
//! same fixpoint.
//!
//! - [`observation`]: what was seen
//! - [`decision`]: what is to be done, and what is to be recorded
//! - [`blueprint`]: what follows from a spec alone, and is made once per generation
//! - [`requests`]: what people ask for by hand
//! - [`upstreams`]: candidates, their gates, adoption
//! - [`fingerprint`]: what determines a build
//! - [`images`]: the state of each image; `inputs`: what it is built from; `builds`: what is not in
//!   the registry; `checks`: what is; [`cutoff`]: whether it changed anything; [`evaluation`]: what
//!   all of these carry along
//! - [`imports`]: what is about to change in other families
//! - [`gates`]: whether a cascade begins: settle, suspend, windows
//! - [`admission`]: which builds start: windows, breaker, parallelism, the operator's limits,
//!   storms
//! - [`windows`], [`breaker`], [`budget`]: the arithmetic of these, and of what families share
//! - [`failure`]: budgets and pauses
//! - [`promotion`]: the digest that floating tags are to be on
//! - [`causes`]: why an image is stale
//! - [`tags`]: templates, and which tags are to be moved
//! - [`validate`]: what a spec must be before any of this
//! - [`cascade`]: the record of a cascade; `abridge`: what is left out of a large one
//! - [`states`]: the ways of an image from state to state, for people

pub mod blueprint;
pub mod cascade;
pub mod causes;
mod decide;
pub mod decision;
pub mod fingerprint;
pub mod image;
pub mod imports;
pub mod input;
pub mod requests;
pub mod states;
pub mod tags;
pub mod upstreams;
pub mod validate;

#[cfg(test)]
pub(crate) mod fixtures;
#[cfg(test)]
mod imports_tests;
#[cfg(test)]
mod tests;

pub use crate::api::condition::Problem;
pub use blueprint::Blueprint;
pub use decide::decide;
pub use decision::{
    Action, CascadeStep, Decision, ImageDecision, Message, PinnedParent, Promoted, TagMove,
};
pub use input::{
    Budget, BuildOutcome, CheckOutcome, DecideInput, EndedCascade, ImportState, ImportedBuild,
    Lookup, LookupResult, Observed, ObservedBuild, ObservedCascade, ObservedCheck, ObservedDigest,
    ObservedImage, ObservedImport, ObservedRequest, ObservedTag, ObservedUpstream, Target,
    VerifiedBuild,
};
