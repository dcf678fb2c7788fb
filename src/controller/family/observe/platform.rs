//! The platform of the builds whose strategies name none: that of the image's last verified build,
//! or else the default of its family. No client is needed.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    controller::family::observe::Observer,
    engine::{Blueprint, Problem},
    registry::Platform,
};

/// The default platform of a family, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefaultPlatform {
    /// The platform.
    pub platform: Result<Arc<Platform>, Problem>,
    /// What says so, for the Event about it.
    pub source: String,
    /// When the registry is asked again, if it has not answered, or not for all images.
    pub retry_at: Option<Timestamp>,
}

impl DefaultPlatform {
    /// Whether the platform is used until the registry lets all images be read. It is not recorded
    /// meanwhile.
    #[must_use]
    pub const fn is_provisional(&self) -> bool {
        self.platform.is_ok() && self.retry_at.is_some()
    }
}

impl Observer<'_> {
    /// Returns the platforms of the last verified builds, in the order of the spec. A strategy that
    /// names a platform no more changes none of them.
    #[must_use]
    pub fn built_platforms(&self, blueprint: &Blueprint) -> Vec<Option<Arc<Platform>>> {
        let records = self.records_by_image();
        let images = self.family.spec.images.iter().zip(&blueprint.images);
        images
            .map(|(image, known)| {
                let record = records.get(&image.name)?;
                let is_of_repository = record.spec.repository == known.repository;
                let recorded = record.status.as_ref().filter(|_| is_of_repository);
                Platform::from_user(recorded?.platform.as_deref()?).map(Arc::new)
            })
            .collect()
    }
}
