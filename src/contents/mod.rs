//! The content of images in a registry: their layers, and the packages that the databases of
//! package managers in them list. Nothing is written to disk.
//!
//! Whoever can push to a registry writes what is read here, so that every read is bounded: bytes as
//! they are sent and after decompression, the ratio of the two, entries, paths and databases.

mod decompress;
mod image;
mod inventory;
#[cfg(test)]
mod inventory_tests;
mod layer;
mod package;
mod packages;
mod received;
mod rpm_header;
mod rpm_sqlite;
mod stack;
mod text_databases;
mod version;

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod layer_tests;
#[cfg(test)]
mod packages_tests;

pub(crate) use crate::contents::received::ReceivedParts;
pub use crate::contents::{
    image::{ContentsError, ContentsReader, ReadImage},
    inventory::{Inventory, PackageSettings},
    layer::{LayerContent, LayerError},
    package::{Ecosystem, Package},
    packages::ImagePackages,
    stack::Stack,
    version::{compare_versions, epoch},
};
