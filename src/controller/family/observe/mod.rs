//! What a reconcile reads, from caches, pollers and, where content has changed, from the API
//! server.
//!
//! - [`validate`]: the spec, and what follows from it
//! - [`credentials`]: the registry credentials of the namespace
//! - [`snapshot`]: everything that the decision needs
//! - [`jobs`]: Jobs and Pods of builds and checks; [`strategies`]: how images are built;
//!   [`imports`]: images of other families;
//!   [`requests`]: requests of users; [`image_keys`]: how registries are asked for tags

pub mod credentials;
pub mod image_keys;
pub mod imports;
pub mod jobs;
pub mod requests;
pub mod snapshot;
pub mod strategies;
pub mod validate;
