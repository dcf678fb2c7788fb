//! Why an image is stale: what differs between the inputs of its last good build and those of now.

use crate::{
    api::{Cause, CauseType, ImageFamilySpec, Inputs, condition::shorten},
    lineage::{Lineage, Parent},
};

/// The causes that make `wanted` differ from `last`; an image that was never built has its spec as its cause.
#[must_use]
pub fn of_image(
    spec: &ImageFamilySpec,
    lineage: &Lineage,
    image: usize,
    last: Option<&Inputs>,
    wanted: &Inputs,
) -> Vec<Cause> {
    let name = spec.images.get(image).map_or_else(String::new, |image| image.name.clone());
    let cause = |type_, name: &str, from: &str, to: &str| Cause {
        type_,
        name: name.into(),
        from: from.into(),
        to: to.into(),
        via: Vec::new(),
    };
    let Some(last) = last else {
        return vec![cause(CauseType::Spec, &name, "", &wanted.spec)];
    };
    let mut causes = Vec::new();
    for (place, parent) in wanted.parents.iter().enumerate() {
        let before = last.parents.iter().find(|before| before.name == parent.name).or_else(|| last.parents.get(place));
        let before = before.map_or("", |before| before.digest.as_str());
        if before != parent.digest {
            let type_ = match lineage.parents(image).get(place) {
                Some(Parent::Image(_)) => CauseType::Parent,
                _ => CauseType::Upstream,
            };
            causes.push(cause(type_, &parent.name, before, &parent.digest));
        }
    }
    for (type_, named, before, after) in [
        (CauseType::Source, name.as_str(), &last.source, &wanted.source),
        (CauseType::Spec, name.as_str(), &last.spec, &wanted.spec),
        (CauseType::Strategy, "", &last.strategy, &wanted.strategy),
    ] {
        if before != after {
            causes.push(cause(type_, named, before, after));
        }
    }
    causes
}

/// The causes in a sentence of at most 300 characters.
#[must_use]
pub fn sentence(causes: &[Cause]) -> String {
    let told: Vec<String> = causes
        .iter()
        .map(|cause| match (cause.type_, cause.from.is_empty()) {
            (CauseType::Spec, true) => format!("{} is new", cause.name),
            (CauseType::Upstream, true) => format!("{} was first seen at {}", cause.name, short(&cause.to)),
            (CauseType::Upstream, false) => {
                format!("{} moved from {} to {}", cause.name, short(&cause.from), short(&cause.to))
            }
            (CauseType::Parent, _) => format!("{} was rebuilt as {}", cause.name, short(&cause.to)),
            (CauseType::Source, _) => format!("the source of {} changed to {}", cause.name, short(&cause.to)),
            (CauseType::Spec, false) => format!("the spec of {} changed", cause.name),
            (CauseType::Strategy, _) => "the build strategy changed".into(),
            (CauseType::Manual, _) => format!("a rebuild of {} was asked for", cause.name),
        })
        .collect();
    shorten(&told.join("; "), 300)
}

/// A digest or revision short enough for a sentence: 12 characters of its hash.
#[must_use]
pub fn short(digest: &str) -> &str {
    let hash = digest.strip_prefix("sha256:").unwrap_or(digest);
    hash.get(..12).unwrap_or(hash)
}
