//! The tags of an image's last verified build, rendered once. Several steps of each reconcile need
//! them, and they change only with the build.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    api::{Image, ImageFamilySpec, LabelRecord},
    engine::{
        input::VerifiedBuild,
        tags::{self, BuildTags},
    },
    identity::Fingerprint,
};

/// The tags that were last rendered for an image. It belongs to one version of the spec.
#[derive(Debug, Default)]
pub struct TagCache(Mutex<Option<(TaggedBuild, Arc<BuildTags>)>>);

/// What the tags of a build depend on, besides the spec.
#[derive(Debug, PartialEq, Eq)]
struct TaggedBuild {
    build: i64,
    fingerprint: Fingerprint,
    is_adopted: bool,
    labels: Vec<LabelRecord>,
}

impl TaggedBuild {
    fn of(verified: &VerifiedBuild) -> Self {
        Self {
            build: verified.build,
            fingerprint: verified.fingerprint.clone(),
            is_adopted: verified.adopted.is_some(),
            labels: verified.labels.clone(),
        }
    }

    fn is(&self, verified: &VerifiedBuild) -> bool {
        self.build == verified.build
            && self.fingerprint == verified.fingerprint
            && self.is_adopted == verified.adopted.is_some()
            && self.labels == verified.labels
    }
}

impl TagCache {
    /// Returns the tags of an image for its verified build: see [`tags::of_build`].
    #[must_use]
    pub fn of_build(
        &self,
        spec: &ImageFamilySpec,
        image: &Image,
        verified: &VerifiedBuild,
    ) -> Arc<BuildTags> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tags)) = known.as_ref().filter(|(build, _)| build.is(verified)) {
            return Arc::clone(tags);
        }
        let tags = Arc::new(tags::of_build(spec, image, verified));
        *known = Some((TaggedBuild::of(verified), Arc::clone(&tags)));
        tags
    }
}

/// A copy has rendered nothing yet: it may become that of another spec.
impl Clone for TagCache {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ManagedImageStatus;

    #[test]
    fn tags_are_rendered_again_for_another_build_and_for_other_labels() {
        let templates = ["latest", "r{{ build }}", "{{ label['v'] }}"];
        let image = Image { tags: templates.map(Into::into).into(), ..Image::default() };
        let (spec, cache) = (ImageFamilySpec::default(), TagCache::default());
        let names = |verified: &VerifiedBuild| -> Vec<String> {
            let tags = cache.of_build(&spec, &image, verified);
            assert_eq!(tags.tags, tags::of_build(&spec, &image, verified).tags);
            tags.tags.iter().map(|tag| tag.name.clone()).collect()
        };
        let label = |value: &str| LabelRecord {
            name: "v".into(),
            value: Some(value.into()),
            problem: None,
        };
        let record = ManagedImageStatus {
            digest: Some("sha256:1".into()),
            fingerprint: Some("f".into()),
            build: Some(1),
            ..ManagedImageStatus::default()
        };
        let mut verified = VerifiedBuild::of(&record).expect("verified");
        let first = cache.of_build(&spec, &image, &verified);
        assert!(Arc::ptr_eq(&first, &cache.of_build(&spec, &image, &verified)));
        assert!(first.is_unread);
        verified.labels = vec![label("a")];
        assert_eq!(names(&verified), ["latest", "r1", "a"]);
        verified.labels = vec![label("b")];
        assert_eq!(names(&verified), ["latest", "r1", "b"]);
        verified.build = 2;
        assert_eq!(names(&verified), ["latest", "r2", "b"]);
    }
}
