//! The state of one image, and what to do for it.
//!
//! - [`evaluate`]: evaluates every image, parents before children
//! - [`evaluation`]: the result, and the context that the steps share
//! - [`inputs`]: the inputs of a build, from parents, source, spec and strategy
//! - `upstream_input`: the digest of an upstream for the platform of an image
//! - [`stale`]: an image whose inputs have changed
//! - [`absent`]: an image whose wanted build is not in the registry
//! - `awaited_push`: an image whose build has succeeded, and whose push is not in the registry
//! - [`adoption`]: an image that has no build yet, and that the registry has under its tags
//! - [`checks`]: an image whose build is in the registry and has checks to pass
//! - [`hold`]: holds of an image
//! - `labels`: labels of its verified build that its tags name
//! - `rebuilds`: which of several builds from the same inputs is the newest
//! - `refresh`: rebuilds of images whose builds are old
//! - [`recorded`]: what an image keeps in every state
//! - [`rollback`]: images that a request holds at an earlier build
//! - [`cutoff`]: whether a rebuild changed anything
//! - [`attempts`]: how failed attempts are counted
//! - [`failure`]: retry budgets and pauses
//! - [`environment`]: what builds need around them, and whether it works

pub mod absent;
pub mod adoption;
pub mod attempts;
mod awaited_push;
pub mod checks;
pub mod cutoff;
pub mod environment;
pub mod evaluate;
pub mod evaluation;
pub mod failure;
pub mod hold;
pub mod inputs;
mod labels;
mod rebuilds;
pub mod recorded;
pub(in crate::engine) mod refresh;
pub mod rollback;
pub mod stale;
mod upstream_input;
