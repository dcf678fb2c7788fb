//! `Packages` of Debian and its kin.

use std::io::{self, Read};

use crate::{
    contents::Ecosystem,
    package_indexes::{
        PackageTable, TableBuilder, decompress::decompressed, lines::paragraphs,
        table::TablePackage,
    },
};

/// Reads `Packages`, `Packages.gz`, `Packages.xz` or `Packages.zst` as a stream.
///
/// # Errors
/// Returns an error if it is damaged, ends early or exceeds a bound: a predicate whose subject is
/// the index.
pub fn read_packages(file: impl Read) -> io::Result<PackageTable> {
    let mut table = TableBuilder::new(Ecosystem::Deb);
    let fields = ["package", "version", "architecture"];
    paragraphs(decompressed(file)?, ':', fields, |[name, version, architecture]| {
        table.add(TablePackage { name, version, architecture })
    })?;
    Ok(table.finish())
}
