//! What is remembered of upstreams when a status is lost or an upstream is renamed: which digest
//! was adopted, so that no newer one is taken for the first.
//!
//! The specs of a few `ManagedImage`s hold it, which the controller writes and no restore or GitOps
//! tool drops, as they drop statuses.

use std::borrow::Cow;

use crate::{
    api::{ImageFamilySpec, RememberedUpstream, Upstream, UpstreamStatus},
    engine::input::{DecideInput, ObservedUpstream},
    lineage::{ImageIndex, Lineage, Parent, UpstreamIndex},
};

/// The most images that remember one upstream.
const MAX_REMEMBERING_IMAGES: usize = 3;

/// What is known of an upstream before a reconcile.
pub(in crate::engine) struct KnownUpstream<'a> {
    /// Its recorded status, or what is remembered of it.
    pub(in crate::engine) status: Option<Cow<'a, UpstreamStatus>>,
    /// Whether a digest was adopted before, so that the next one is not the first.
    pub(in crate::engine) has_history: bool,
}

impl<'a> KnownUpstream<'a> {
    fn with_history(status: Cow<'a, UpstreamStatus>) -> Self {
        Self { status: Some(status), has_history: true }
    }
}

/// Returns what is known of an upstream: by its name, or else by its image and tag under another
/// name, or else what the images built on it remember.
pub(in crate::engine) fn known_upstream<'a>(
    input: &DecideInput<'_>,
    known: &'a [UpstreamStatus],
    upstream: &Upstream,
    observed: &ObservedUpstream,
) -> KnownUpstream<'a> {
    let reference = upstream.reference();
    let named = known.iter().find(|known| known.name == upstream.name);
    let current = named.filter(|named| named.reference == reference);
    if let Some(current) = current.filter(|current| current.adopted.is_some()) {
        return KnownUpstream::with_history(Cow::Borrowed(current));
    }
    let hold = named.and_then(|named| named.hold.clone());
    let twin = known.iter().find(|known| known.reference == reference && known.adopted.is_some());
    if let Some(twin) = twin {
        let approval = current.and_then(|current| current.approval.clone());
        let approval = approval.or_else(|| twin.approval.clone());
        let status = UpstreamStatus { approval, hold, ..twin.clone() };
        return KnownUpstream::with_history(Cow::Owned(status));
    }
    let remembered = remembered(input, &reference);
    if let Some(verified) = remembered.filter(|remembered| !remembered.unverified) {
        let status = UpstreamStatus {
            reference,
            adopted: Some(verified.adopted.clone()),
            superseded: verified.superseded.clone(),
            hold,
            ..current.cloned().unwrap_or_default()
        };
        return KnownUpstream::with_history(Cow::Owned(status));
    }
    let is_newest = |remembered: &RememberedUpstream| {
        let newest = observed.newest.as_ref();
        newest.is_some_and(|newest| remembered.adopted.content().names(newest.digest.as_str()))
    };
    KnownUpstream {
        status: named.map(Cow::Borrowed),
        has_history: remembered.is_some_and(|remembered| !is_newest(remembered)),
    }
}

/// Returns what images remember of an upstream: what was adopted last, and first of all what only
/// the controller can have written.
fn remembered<'a>(input: &DecideInput<'a>, reference: &str) -> Option<&'a RememberedUpstream> {
    let remembered = input.images.iter().flat_map(|image| image.remembered);
    remembered
        .filter(|known| known.reference == reference)
        .max_by_key(|known| (!known.unverified, known.adopted.since))
}

/// Returns what the record of an image remembers from now on. `known` is what it remembers now.
#[must_use]
pub fn to_remember(
    spec: &ImageFamilySpec,
    lineage: &Lineage,
    upstreams: &[UpstreamStatus],
    image: ImageIndex,
    known: &[RememberedUpstream],
) -> Vec<RememberedUpstream> {
    let mut remembered: Vec<RememberedUpstream> = Vec::new();
    let parents = lineage.parents(image).iter().filter_map(|parent| match parent {
        Parent::Upstream(upstream) => Some(*upstream),
        Parent::Image(_) | Parent::Import(_) => None,
    });
    for index in parents.filter(|index| remembers(lineage, *index, image)) {
        let (Some(upstream), Some(status)) =
            (spec.upstreams.get(index.position()), upstreams.get(index.position()))
        else {
            continue;
        };
        let reference = upstream.reference();
        if remembered.iter().any(|known| known.reference == reference) {
            continue;
        }
        match &status.adopted {
            Some(adopted) => remembered.push(RememberedUpstream {
                reference,
                adopted: adopted.clone(),
                superseded: status.superseded.clone(),
                unverified: false,
            }),
            None => remembered.extend(known.iter().find(|of| of.reference == reference).cloned()),
        }
    }
    remembered
}

/// Whether an image is one of those that remember an upstream.
fn remembers(lineage: &Lineage, upstream: UpstreamIndex, image: ImageIndex) -> bool {
    let children = lineage.upstream_children(upstream).iter();
    children.take(MAX_REMEMBERING_IMAGES).any(|child| *child == image)
}
