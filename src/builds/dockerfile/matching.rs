//! Which edge declares an image that a Dockerfile names.
//!
//! A Dockerfile may name an image with a digest, as tools write it that update Dockerfiles. The
//! build uses the digest that the family pins instead, so that the written one does not count.

use crate::{
    builds::dockerfile::{DeclaredEdge, NamedImage},
    registry::Reference,
};

/// How an edge and an image agree. The first of these that any edge has decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Agreement {
    /// The same reference or argument.
    Exact,
    /// The same repository and tag; only the digests differ.
    Tag,
    /// The same repository. The Dockerfile names a digest and no tag.
    Repository,
}

/// The edge that declares an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Declared {
    No,
    /// The edge with this index.
    By(usize),
    /// The edge with this index; the build uses its digest instead of that in the Dockerfile.
    WithOtherDigest(usize),
    /// Several edges agree equally well: these two.
    Ambiguous(usize, usize),
}

/// Returns the edge that declares an image.
pub(super) fn declared(edges: &[DeclaredEdge], image: &NamedImage) -> Declared {
    let mut agreeing: Vec<_> = edges
        .iter()
        .enumerate()
        .filter_map(|(index, edge)| Some((agreement(edge, image)?, index)))
        .collect();
    agreeing.sort_unstable();
    match agreeing.as_slice() {
        [] => Declared::No,
        [(Agreement::Exact, index), ..] => Declared::By(*index),
        [(best, index), (second, other), ..] if best == second => {
            Declared::Ambiguous(*index, *other)
        }
        [(_, index), ..] => Declared::WithOtherDigest(*index),
    }
}

fn agreement(edge: &DeclaredEdge, image: &NamedImage) -> Option<Agreement> {
    let named = full_reference(&image.name);
    let same =
        |text: &str| text == image.name || (named.is_some() && full_reference(text) == named);
    if let Some(arg) = &edge.arg {
        return (image.args.contains(arg) && same(&edge.pinned)).then_some(Agreement::Exact);
    }
    let reference = edge.reference.as_deref()?;
    if same(reference) {
        return Some(Agreement::Exact);
    }
    let (named, declared) = (named?, full_reference(reference)?);
    if named.digest().is_none() || named.repository() != declared.repository() {
        return None;
    }
    match (named.tag(), declared.tag()) {
        (Some(named), Some(declared)) => (named == declared).then_some(Agreement::Tag),
        _ => Some(Agreement::Repository),
    }
}

/// Parses a reference into its full form, so that `alpine` and `docker.io/library/alpine:latest`
/// are equal.
pub(super) fn full_reference(text: &str) -> Option<Reference> {
    text.parse().ok()
}

/// Returns whether two edges declare the same reference or the same argument.
pub(super) fn same_reference(a: &DeclaredEdge, b: &DeclaredEdge) -> bool {
    let named = |edge: &DeclaredEdge| edge.reference.as_deref().and_then(full_reference);
    (a.arg.is_some() && a.arg == b.arg)
        || named(a).is_some_and(|reference| named(b) == Some(reference))
}
