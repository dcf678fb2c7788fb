//! Positions of images, upstreams and imports, each a type of its own.

use std::fmt;

/// Defines a position in a list as a type of its own.
macro_rules! index {
    ($(#[$doc:meta])* pub struct $name:ident;) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(usize);

        impl $name {
            /// Wraps a position, counted from 0.
            #[must_use]
            pub const fn new(position: usize) -> Self {
                Self(position)
            }

            /// Returns the position, counted from 0: `list.get(index.position())`.
            #[must_use]
            pub const fn position(self) -> usize {
                self.0
            }

            /// Returns the indices of a list of this length.
            pub fn range(length: usize) -> impl Iterator<Item = Self> {
                (0..length).map(Self)
            }

            /// Pairs each entry of a parallel list with its index.
            pub fn enumerate<T>(
                entries: impl IntoIterator<Item = T>,
            ) -> impl Iterator<Item = (Self, T)> {
                entries.into_iter().enumerate().map(|(position, entry)| (Self(position), entry))
            }
        }

        impl fmt::Debug for $name {
            /// Writes the type and the position on one line, in pretty output too.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl fmt::Display for $name {
            /// Writes the position.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

index! {
    /// Position of an image in `spec.images`, and in every list that runs parallel to it.
    pub struct ImageIndex;
}
index! {
    /// Position of an upstream in `spec.upstreams`, and in every list that runs parallel to it.
    pub struct UpstreamIndex;
}
index! {
    /// Position of an image of another family in
    /// [`Lineage::imports`](crate::lineage::Lineage::imports), and in every list that runs parallel
    /// to it.
    pub struct ImportIndex;
}
