//! Versions against what the package managers themselves say: tables from their rules, and dpkg
//! where there is one.

use std::{cmp::Ordering, process::Command};

use crate::contents::{Ecosystem, compare_versions};

/// Versions of apk, each lower than the next one.
const APK: [&str; 26] = [
    "0_alpha",
    "0_alpha1",
    "0_beta",
    "0_rc2",
    "0",
    "0-r1",
    "0.1",
    "0.9",
    "0.10",
    "0.10a",
    "0.10b",
    "0.10b_p1",
    "0.11_git20240101",
    "0.11_git20240102",
    "0.11_p1",
    "0.11_p1-r1",
    "0.11_p1-r2",
    "0.11_p2",
    "1.2.3_pre1",
    "1.2.3_rc1",
    "1.2.3",
    "1.2.3-r10",
    "1.2.3.0",
    "1.2.10",
    "20240101",
    "20240101.1",
];

/// Versions of RPM, each lower than the next one.
const RPM: [&str; 16] = [
    "1.0~rc1-1",
    "1.0~rc2-1",
    "1.0-0.1",
    "1.0-1",
    "1.0-1.el9",
    "1.0-1.el9_4",
    "1.0-2",
    "1.0-10",
    "1.0^git1-1",
    "1.0a-1",
    "1.0.1-1",
    "1.1-1",
    "1.10-1",
    "2-1",
    "1:0.1-1",
    "2:0-1",
];

fn is_ordered(ecosystem: Ecosystem, versions: &[&str]) {
    for (position, a) in versions.iter().enumerate() {
        for (other, b) in versions.iter().enumerate() {
            let found = compare_versions(ecosystem, a, b);
            assert_eq!(found, Some(position.cmp(&other)), "{ecosystem}: {a} and {b}");
        }
    }
}

#[test]
fn versions_of_apk_are_ordered() {
    is_ordered(Ecosystem::Apk, &APK);
}

#[test]
fn versions_of_rpm_are_ordered() {
    is_ordered(Ecosystem::Rpm, &RPM);
}

/// Every pair of these, and of what updates of Debian look like, as dpkg compares them.
#[test]
fn versions_of_debian_compare_as_dpkg_compares_them() {
    if Command::new("dpkg").arg("--version").output().is_err() {
        eprintln!("this machine has no dpkg: nothing is compared");
        return;
    }
    let versions = [
        "1",
        "1.0",
        "1.0-1",
        "1.0-1~deb12u1",
        "1.0-1+deb12u1",
        "1.0-1+deb12u1+b1",
        "1.0-1+b2",
        "1.0~rc1-1",
        "1:0.9-1",
        "0:1.0-1",
        "1.0+dfsg-1",
        "1.0.0-0ubuntu1",
        "1.0-1.1",
        "1.0a-1",
        "3.0.15-1~deb12u1",
        "3.0.17-1~deb12u2",
        "2024a-0+deb12u1",
        "1.0-1~bpo12+1",
        "00.1-1",
    ];
    for a in versions {
        for b in versions {
            let is = |relation: &str| {
                let arguments = ["--compare-versions", a, relation, b];
                let status = Command::new("dpkg").args(arguments).status();
                status.expect("dpkg runs").success()
            };
            let expected = match (is("lt"), is("gt")) {
                (true, _) => Ordering::Less,
                (_, true) => Ordering::Greater,
                _ => Ordering::Equal,
            };
            assert_eq!(compare_versions(Ecosystem::Deb, a, b), Some(expected), "{a} and {b}");
        }
    }
}
