//! Positions in the lists of a spec, each a type of its own.

/// Defines a position in a list as a type of its own.
macro_rules! position {
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

        impl std::fmt::Debug for $name {
            /// Writes the type and the position on one line, in pretty output too.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::fmt::Display for $name {
            /// Writes the position.
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pub(crate) use position;

position! {
    /// Position of an image in `spec.images`, and in every list that runs parallel to it.
    pub struct ImageIndex;
}
position! {
    /// Position of an upstream in `spec.upstreams`, and in every list that runs parallel to it.
    pub struct UpstreamIndex;
}
position! {
    /// Position of an image of another family in
    /// [`Lineage::imports`](crate::lineage::Lineage::imports), and in every list that runs parallel
    /// to it.
    pub struct ImportIndex;
}
position! {
    /// Position of an edge in the `from` of an image, and in every list that runs parallel to it.
    pub struct EdgeIndex;
}
position! {
    /// Position of a check in the `checks` of an image, and in every list that runs parallel to it.
    pub struct CheckIndex;
}
