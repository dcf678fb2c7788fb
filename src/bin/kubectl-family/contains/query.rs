//! The question: a package, and which of its versions.

use std::{cmp::Ordering, str::FromStr};

use groundswell::contents::{Package, compare_versions};

/// The comparisons, the longer ones first.
const OPERATORS: [(&str, &[Ordering]); 5] = [
    ("<=", &[Ordering::Less, Ordering::Equal]),
    (">=", &[Ordering::Greater, Ordering::Equal]),
    ("<", &[Ordering::Less]),
    (">", &[Ordering::Greater]),
    ("=", &[Ordering::Equal]),
];

/// A package and, if they are limited, its versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackageQuery {
    name: String,
    versions: Option<VersionRange>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct VersionRange {
    orders: &'static [Ordering],
    version: String,
}

impl FromStr for PackageQuery {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = text.find(['<', '>', '=']);
        let (name, rest) = text.split_at_checked(found.unwrap_or(text.len())).unwrap_or((text, ""));
        let versions = if rest.is_empty() {
            None
        } else {
            let operator = OPERATORS.iter().find(|(operator, _)| rest.starts_with(operator));
            let version = operator.and_then(|(operator, _)| rest.strip_prefix(operator));
            operator.zip(version).map(|((_, orders), version)| VersionRange {
                orders,
                version: version.trim().to_owned(),
            })
        };
        let empty = versions.as_ref().is_some_and(|range| {
            range.version.is_empty() || range.version.contains(['<', '>', '='])
        });
        if name.trim().is_empty() || empty {
            return Err("write PACKAGE, or PACKAGE<VERSION with one of <, <=, =, >= and >, in \
                        quotes"
                .into());
        }
        Ok(Self { name: name.trim().to_owned(), versions })
    }
}

/// Whether a package answers a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageMatch {
    Yes,
    No,
    /// It has the name, but its version does not compare with the one of the question.
    Unknown,
}

impl PackageQuery {
    /// Compares by the rules of the package's own package manager.
    pub fn matches(&self, package: &Package) -> PackageMatch {
        if package.name != self.name {
            return PackageMatch::No;
        }
        let Some(VersionRange { orders, version }) = &self.versions else {
            return PackageMatch::Yes;
        };
        match compare_versions(package.ecosystem, &package.version, version) {
            Some(order) if orders.contains(&order) => PackageMatch::Yes,
            Some(_) => PackageMatch::No,
            None => PackageMatch::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use groundswell::contents::Ecosystem;

    use super::*;

    #[test]
    fn questions_are_parsed() {
        for text in ["openssl", "libssl3<3.0.15-1~deb12u1", "gcc-c++ >= 12", "a=1:2-3"] {
            assert!(text.parse::<PackageQuery>().is_ok(), "{text}");
        }
        for text in ["", "<1", "a<", "a<=", "a==1", "a<>1", " "] {
            assert!(text.parse::<PackageQuery>().is_err(), "{text}");
        }
    }

    #[test]
    fn versions_compare_by_the_rules_of_the_package_manager() {
        let matches = |query: &str, ecosystem, version: &str| {
            let (name, architecture) = ("a".to_owned(), "amd64".to_owned());
            let package = Package { name, architecture, version: version.into(), ecosystem };
            query.parse::<PackageQuery>().expect("a question").matches(&package)
        };
        for (query, ecosystem, version, expected) in [
            ("a", Ecosystem::Deb, "1", PackageMatch::Yes),
            ("b", Ecosystem::Deb, "1", PackageMatch::No),
            ("a<1.0", Ecosystem::Deb, "1.0~rc1", PackageMatch::Yes),
            ("a<1.0", Ecosystem::Deb, "1.0+deb12u1", PackageMatch::No),
            ("a<1.0", Ecosystem::Apk, "1.0_rc1", PackageMatch::Yes),
            ("a<=1.0-r1", Ecosystem::Apk, "1.0-r1", PackageMatch::Yes),
            ("a<9", Ecosystem::Rpm, "10-1", PackageMatch::No),
            ("a>9", Ecosystem::Rpm, "1:1-1", PackageMatch::Yes),
            ("a=2", Ecosystem::Deb, "2", PackageMatch::Yes),
            ("a>=2", Ecosystem::Deb, "1", PackageMatch::No),
            ("a<x", Ecosystem::Apk, "1", PackageMatch::Unknown),
        ] {
            assert_eq!(matches(query, ecosystem, version), expected, "{query} {version}");
        }
    }
}
