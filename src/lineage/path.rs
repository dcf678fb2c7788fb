//! The chain of builds that a cascade waited for.

use crate::lineage::{ImageIndex, Lineage, Parent};

/// Returns the critical path of a cascade, from its first image to its last: the image that
/// finished last, its parent that finished last, and so on.
///
/// `finished` returns when an image's build in this cascade finished, in any unit, or `None` if the
/// cascade did not build the image.
#[must_use]
pub fn critical_path(
    lineage: &Lineage,
    finished: impl Fn(ImageIndex) -> Option<i64>,
) -> Vec<ImageIndex> {
    let latest = |images: &mut dyn Iterator<Item = ImageIndex>| {
        images
            .filter_map(|image| Some((finished(image)?, image)))
            .max_by_key(|(end, _)| *end)
            .map(|(_, image)| image)
    };
    let mut path = Vec::new();
    let mut next = latest(&mut lineage.order().iter().copied());
    while let Some(image) = next {
        path.push(image);
        next = latest(&mut lineage.parents(image).iter().filter_map(|parent| match parent {
            Parent::Image(parent) => Some(*parent),
            Parent::Upstream(_) | Parent::Import(_) => None,
        }));
    }
    path.reverse();
    path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Edge, Image, ImageFamilySpec};

    #[test]
    fn follows_the_slowest_parent() {
        let image = |name: &str, parents: &[&str]| Image {
            name: name.into(),
            from: parents
                .iter()
                .map(|parent| Edge { image: Some((*parent).into()), ..Edge::default() })
                .collect(),
            ..Image::default()
        };
        let spec = ImageFamilySpec {
            images: vec![
                image("base", &[]),
                image("slow", &["base"]),
                image("fast", &["base"]),
                image("join", &["fast", "slow"]),
            ],
            ..ImageFamilySpec::default()
        };
        let lineage = Lineage::new(&spec).expect("acyclic");
        let ends = [Some(5), Some(50), Some(10), Some(60)];
        assert_eq!(
            critical_path(&lineage, |image| ends[image.position()]),
            [0, 1, 3].map(ImageIndex::new)
        );
        assert_eq!(critical_path(&lineage, |_| None), []);
    }
}
