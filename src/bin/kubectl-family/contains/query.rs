//! The question: a package, and which of its versions.

use std::{cmp::Ordering, str::FromStr};

use groundswell::contents::{Ecosystem, Package, compare_versions, epoch};

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
    architecture: Option<String>,
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
        let (name, architecture) = match name.trim().split_once(':') {
            Some((name, architecture)) => (name, Some(architecture)),
            None => (name.trim(), None),
        };
        for part in [Some(name), architecture].into_iter().flatten() {
            if part.is_empty() || !part.chars().all(is_of_name) {
                return Err(format!(
                    "`{part}` is no name of a package, which has letters, digits, and any of + . \
                     _ -; write PACKAGE, PACKAGE:ARCHITECTURE or PACKAGE<VERSION"
                ));
            }
        }
        if let Some(version) = versions.as_ref().map(|range| &range.version)
            && !version.chars().all(|c| is_of_name(c) || "~:^".contains(c))
        {
            return Err(format!("`{version}` is no version of a package"));
        }
        Ok(Self { name: name.to_owned(), architecture: architecture.map(str::to_owned), versions })
    }
}

/// Whether the names of packages may have a character, for any package manager.
const fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '_' | '-')
}

/// Whether a package answers a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackageMatch {
    Yes,
    No,
    /// It has the name, but its version does not compare with the one of the question.
    Unknown,
    /// It has the name, and its version has an epoch, but the one of the question has none: RPM and
    /// dpkg would compare it as lower than any with an epoch, which is rarely meant.
    NeedsEpoch,
}

impl PackageQuery {
    /// Compares by the rules of the package's own package manager.
    pub fn matches(&self, package: &Package) -> PackageMatch {
        let other = self.architecture.as_ref().filter(|wanted| **wanted != package.architecture);
        if package.name != self.name || other.is_some() {
            return PackageMatch::No;
        }
        let Some(VersionRange { orders, version }) = &self.versions else {
            return PackageMatch::Yes;
        };
        if has_epoch(package) && !version.contains(':') {
            return PackageMatch::NeedsEpoch;
        }
        match compare_versions(package.ecosystem, &package.version, version) {
            Some(order) if orders.contains(&order) => PackageMatch::Yes,
            Some(_) => PackageMatch::No,
            None => PackageMatch::Unknown,
        }
    }

    /// Whether a package has another name, and is built from a source of the name in question.
    pub fn is_source_of(&self, package: &Package) -> bool {
        package.source == self.name && package.name != self.name
    }

    /// Returns the name that is asked for.
    pub fn name(&self) -> &str {
        &self.name
    }
}

fn has_epoch(package: &Package) -> bool {
    let ecosystem: Ecosystem = package.ecosystem;
    epoch(ecosystem, &package.version) != "0"
}

#[cfg(test)]
mod tests {
    use groundswell::contents::Ecosystem;

    use super::*;

    #[test]
    fn questions_are_parsed() {
        for text in [
            "openssl",
            "libssl3<3.0.15-1~deb12u1",
            "gcc-c++ >= 12",
            "a=1:2-3",
            "libssl3:amd64",
            "libssl3:amd64<3",
            "python3.12_x^1",
        ] {
            let text = text.replace('^', "=1^");
            assert!(text.parse::<PackageQuery>().is_ok(), "{text}");
        }
        for text in [
            "",
            "<1",
            "a<",
            "a<=",
            "a==1",
            "a<>1",
            " ",
            "libssl3*",
            "libssl3!=3",
            "libssl3@3",
            "openssl~3.1",
            "a:",
            ":amd64",
            "a:b:c",
            "a b",
            "a<1 2",
            "a<$(x)",
        ] {
            assert!(text.parse::<PackageQuery>().is_err(), "{text}");
        }
    }

    #[test]
    fn versions_compare_by_the_rules_of_the_package_manager() {
        let matches = |query: &str, ecosystem, version: &str| {
            let (name, architecture) = ("a".to_owned(), "amd64".to_owned());
            let (version, source) = (version.to_owned(), String::new());
            let package = Package { name, architecture, version, ecosystem, source };
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
            ("a>0:9", Ecosystem::Rpm, "1:1-1", PackageMatch::Yes),
            ("a>9", Ecosystem::Rpm, "1:1-1", PackageMatch::NeedsEpoch),
            ("a<3.0.15", Ecosystem::Rpm, "1:3.0.7-27.el9", PackageMatch::NeedsEpoch),
            ("a<1:3.0.15", Ecosystem::Rpm, "1:3.0.7-27.el9", PackageMatch::Yes),
            ("a<3", Ecosystem::Rpm, "0:2-1", PackageMatch::Yes),
            ("a=5.1.8", Ecosystem::Rpm, "5.1.8-9.el9", PackageMatch::Yes),
            ("a<=5.1.8", Ecosystem::Rpm, "5.1.8-9.el9", PackageMatch::Yes),
            ("a<5.1.8", Ecosystem::Rpm, "5.1.8-9.el9", PackageMatch::No),
            ("a<9", Ecosystem::Deb, "2:8-1", PackageMatch::NeedsEpoch),
            ("a:amd64", Ecosystem::Deb, "1", PackageMatch::Yes),
            ("a:arm64", Ecosystem::Deb, "1", PackageMatch::No),
            ("a=2", Ecosystem::Deb, "2", PackageMatch::Yes),
            ("a>=2", Ecosystem::Deb, "1", PackageMatch::No),
            ("a<x", Ecosystem::Apk, "1", PackageMatch::Unknown),
        ] {
            assert_eq!(matches(query, ecosystem, version), expected, "{query} {version}");
        }
    }
}
