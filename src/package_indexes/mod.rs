//! The indexes of package repositories: which of them an image's packages come from, what they
//! offer, and which installed packages have a newer version there.
//!
//! - [`sources`]: the repositories of an image, from the settings of its package managers
//! - [`table`]: the newest version of each package of an index, in little memory
//! - [`release`], [`packages_file`], [`apk_index`], [`rpm_metadata`]: the formats of the indexes
//! - [`signatures`]: who has signed an index
//! - [`client`]: indexes over HTTP, each once
//! - [`updates`]: the comparison, by the rules of each distribution. Pure.
//!
//! Whoever writes an image names the repositories, and these send what they like: every read is
//! bounded, in compressed and decompressed bytes, in lines and in packages. An index is read as a
//! stream and never held. An index that is unreachable, expired, truncated or not signed by a key
//! of the image is an error, never an index without packages.

mod apk_index;
mod client;
mod deb_suite;
mod decompress;
mod error;
mod lines;
mod packages_file;
mod release;
mod rpm_metadata;
mod signatures;
mod sources;
mod table;
mod updates;
mod xml;

#[cfg(test)]
mod apt_oracle_tests;
#[cfg(test)]
mod client_tests;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod reader_tests;
#[cfg(test)]
mod signature_tests;
#[cfg(test)]
mod updates_tests;
#[cfg(test)]
mod version_tests;

pub use crate::package_indexes::{
    client::{IndexClient, IndexMirror, IndexTrust, ReadIndex},
    error::IndexError,
    packages_file::read_packages,
    signatures::{Keyring, SignatureState},
    sources::{ImageSources, Location, PackageRepository},
    table::{PackageTable, TableBuilder, TablePackage},
    updates::{Advice, AvailableIndex, IndexPriority, PackageUpdate, updates},
};
