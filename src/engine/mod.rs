//! Decides what to do for a family: a pure function of its inputs and a given time.
//!
//! [`decide()`] uses no client, no clock and no runtime. It walks the lineage in topological order,
//! gives every image a state, and returns the effects that bring the cluster and the registry
//! closer to the spec. It keeps nothing between two calls: from any state, after any crash,
//! repeated reconciles converge on the same result.
//!
//! Data:
//!
//! - [`input`]: everything that a reconcile has read
//! - [`decision`]: what to do, and what to record
//! - [`blueprint`]: what follows from a spec alone, computed once per generation
//!
//! Before everything else, and for every reader of a family:
//!
//! - [`expansion`]: the plain spec that follows from the written one
//!
//! Rules, in the order in which [`decide()`] applies them:
//!
//! - [`validate`]: what a spec must satisfy before anything else happens
//! - [`requests`]: what users request
//! - [`upstreams`]: candidates, their gates, and their adoption; `upstream_records`: what is a
//!   candidate; [`upstream_memory`]: what survives the loss of a status
//! - [`image`]: the state of each image, with a module per step
//! - [`cascade`]: when a cascade starts, which of its builds start, and what it records
//! - [`end_of_life`]: upstreams whose distribution has no support any more
//! - [`tags`]: tag templates; [`tag_cache`]: what they give for the last build; `label_tags`: those
//!   that depend on labels of the built image; [`tag_moves`]: which tags to set
//!
//! Shared by them:
//!
//! - [`fingerprint`]: the hash of everything that determines a build
//! - [`causes`]: why an image is stale
//! - [`members`]: which of the running cascades each image belongs to
//! - [`imports`]: whether images of other families are about to change
//! - [`templates`]: the language of tags and other fields of a spec
//! - [`states`]: the transitions between states, for the documentation

pub mod blueprint;
pub mod cascade;
pub mod causes;
mod decide;
pub mod decision;
pub mod end_of_life;
pub mod expansion;
pub mod fingerprint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
pub mod image;
pub mod imports;
pub mod input;
mod label_tags;
mod maturing;
pub mod members;
mod option_names;
pub mod requests;
pub mod states;
pub mod tag_cache;
mod tag_labels;
pub mod tag_moves;
pub mod tags;
pub mod templates;
pub mod upstream_memory;
mod upstream_records;
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
    CascadeDecision, Decision, Effect, ImageDecision, LookupScope, Message, PlannedBuild,
    PromotionTarget, RequestDecision, TagMove, WaitProgress,
};
pub use input::{
    BuildAllowance, BuildOutcome, CheckOutcome, DecideInput, DeferredJob, DeferredWork,
    DigestAnswer, DigestResult, EndedCascade, ExistingImage, FoundImage, ImportState,
    ImportedBuild, LabelAnswer, Lookup, LookupResult, Observed, ObservedBuild, ObservedCascade,
    ObservedCheck, ObservedDigest, ObservedImage, ObservedImport, ObservedRequest, ObservedTag,
    ObservedUpstream, RebuildMark, VerifiedBuild,
};
