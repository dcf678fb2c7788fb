//! Why an image of another family can't be used, as users read it.

use crate::{
    api::condition::{Problem, Reason},
    lineage::families::{FamilyName, MAX_IMAGES},
};

/// Why an image of another family can't be used.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ImportProblem {
    /// `family` names the family itself.
    #[error(
        "spec.images[{by}].from names the image `{image}` of its own family: remove `family` from \
         this entry"
    )]
    OwnFamily {
        /// The image whose `from` it is.
        by: String,
        /// The image that it names.
        image: String,
    },
    /// The family does not exist.
    #[error(
        "spec.images[{by}].from names the ImageFamily {family}, which does not exist: correct \
         `family` or create it"
    )]
    FamilyNotFound {
        /// The image whose `from` it is.
        by: String,
        /// The family that does not exist.
        family: FamilyName,
    },
    /// The operator does not watch the family's namespace.
    #[error(
        "spec.images[{by}].from names the ImageFamily {family}, whose namespace this operator does \
         not watch: use a family in a watched namespace, or ask the administrator to watch it"
    )]
    NotWatched {
        /// The image whose `from` it is.
        by: String,
        /// The family.
        family: FamilyName,
    },
    /// The family does not have the image.
    #[error(
        "spec.images[{by}].from names the image `{image}`, which {family} does not have, or no \
         longer: correct the name, or ask the owner of {family} to restore the image"
    )]
    ImageNotFound {
        /// The image whose `from` it is.
        by: String,
        /// The other family.
        family: FamilyName,
        /// The image that does not exist.
        image: String,
    },
    /// The family does not export the image.
    #[error(
        "spec.images[{by}].from names the image `{image}` of {family}, which does not export it: \
         ask its owner to add the image to spec.exports"
    )]
    NotExported {
        /// The image whose `from` it is.
        by: String,
        /// The other family.
        family: FamilyName,
        /// The image.
        image: String,
    },
    /// The family exports the image, but not to this namespace.
    #[error(
        "spec.images[{by}].from names the image `{image}` of {family}, which does not export it to \
         the namespace {namespace}: ask its owner to add {namespace} to \
         spec.exports[{image}].namespaces"
    )]
    NotExportedToNamespace {
        /// The image whose `from` it is.
        by: String,
        /// The other family.
        family: FamilyName,
        /// The image.
        image: String,
        /// The namespace of the family that names the image.
        namespace: String,
    },
    /// The image is built on the image that names it.
    #[error(
        "the edges form a cycle through several families: {}; remove one of these `from` entries",
        .path.join(" -> ")
    )]
    Cycle {
        /// The names along the cycle, child before parent. The first name is repeated at the end.
        path: Vec<String>,
    },
    /// There are too many ancestors to determine whether the edges form a cycle.
    #[error(
        "the image has more than {MAX_IMAGES} ancestors in other families, which is the limit of \
         the check for cycles: depend on fewer images, or on upstreams"
    )]
    TooManyAncestors,
}

impl ImportProblem {
    /// Returns whether the problem is in the family's own spec, whatever the other families
    /// contain.
    #[must_use]
    pub const fn is_in_own_spec(&self) -> bool {
        matches!(self, Self::OwnFamily { .. })
    }
}

impl From<ImportProblem> for Problem {
    fn from(problem: ImportProblem) -> Self {
        let reason =
            if problem.is_in_own_spec() { Reason::InvalidSpec } else { Reason::ImportRefused };
        Self { reason, message: problem.to_string() }
    }
}
