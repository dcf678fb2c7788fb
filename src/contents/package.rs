//! Installed packages.

use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;

/// Maximum length of a package's name, version or architecture in bytes.
pub(super) const MAX_FIELD: usize = 512;
/// Maximum number of packages of an image.
pub(super) const MAX_PACKAGES: usize = 100_000;

/// The package manager that a package belongs to. It determines how versions compare.
#[derive(JsonSchema, Serialize, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[serde(rename_all = "lowercase")]
pub enum Ecosystem {
    /// Alpine and Wolfi.
    Apk,
    /// Debian and Ubuntu.
    Deb,
    /// Fedora, Red Hat Enterprise Linux and SUSE.
    Rpm,
}

impl fmt::Display for Ecosystem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Apk => "apk",
            Self::Deb => "deb",
            Self::Rpm => "rpm",
        })
    }
}

/// A package that is installed in an image.
#[derive(JsonSchema, Serialize, Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Package {
    /// The name.
    pub name: String,
    /// The architecture: `amd64`, `x86_64`, `noarch`.
    pub architecture: String,
    /// The version with epoch and release, as the package manager writes it.
    pub version: String,
    /// The package manager.
    pub ecosystem: Ecosystem,
    /// The source that the package is built from. Empty if the database does not name it: then it
    /// has the name of the package.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
}

impl Package {
    /// Checks the lengths of the fields, and that no field is empty that must not be. The error is
    /// a predicate whose subject is the database.
    pub(super) fn checked(self) -> Result<Self, String> {
        if self.name.is_empty() || self.version.is_empty() {
            return Err("lists a package without a name or a version".into());
        }
        let fields = [&self.name, &self.architecture, &self.version, &self.source];
        if fields.iter().any(|field| field.len() > MAX_FIELD) {
            return Err(format!("lists a package with a field of more than {MAX_FIELD} bytes"));
        }
        Ok(self)
    }
}
