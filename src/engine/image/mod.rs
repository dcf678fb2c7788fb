//! What becomes of one image: its state, and what has to be done for it.
//!
//! - [`evaluate`]: the state of every image, parents before children
//! - [`evaluation`]: the result, and the context that the steps share
//! - [`inputs`]: what an image is built from
//! - [`builds`]: an image whose build is not in the registry yet
//! - [`checks`]: an image whose build is in the registry and has checks to pass
//! - [`cutoff`]: whether a rebuild changed anything
//! - [`failure`]: attempts, retry budgets and pauses

pub mod builds;
pub mod checks;
pub mod cutoff;
pub mod evaluate;
pub mod evaluation;
pub mod failure;
pub mod inputs;
