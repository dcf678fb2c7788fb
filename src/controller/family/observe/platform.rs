//! The platform of the builds whose strategies name none, as the registries say it. No client is
//! needed.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{engine::Problem, registry::Platform};

/// The default platform of a family, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultPlatform {
    /// The platform.
    pub platform: Result<Arc<Platform>, Problem>,
    /// When the registry is asked again, if it has not answered.
    pub retry_at: Option<Timestamp>,
}
