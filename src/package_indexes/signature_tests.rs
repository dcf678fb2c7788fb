//! Signatures that `GnuPG` and OpenSSL have made, in `fixtures`.

use jiff::Timestamp;

use crate::package_indexes::{IndexError, Keyring, apk_index::ApkIndex};

const ARCHIVE: &[u8] = include_bytes!("fixtures/archive.gpg");
const OTHER: &[u8] = include_bytes!("fixtures/other.asc");
const EXPIRED: &[u8] = include_bytes!("fixtures/expired.gpg");
const RELEASE: &str = include_str!("fixtures/Release");
const IN_RELEASE: &str = include_str!("fixtures/InRelease");
const APK_KEY: &[u8] = include_bytes!("fixtures/apk.rsa.pub");
const APK_SHA1: &[u8] = include_bytes!("fixtures/APKINDEX.sha1.tar.gz");
const APK_SHA256: &[u8] = include_bytes!("fixtures/APKINDEX.sha256.tar.gz");

fn keyring(keys: &[&[u8]]) -> Keyring {
    let mut keyring = Keyring::default();
    for key in keys {
        keyring.add(key);
    }
    keyring
}

fn at(time: &str) -> Timestamp {
    time.parse().expect("a time")
}

fn verified(keys: &[&[u8]], text: &str, time: &str) -> Result<String, IndexError> {
    keyring(keys).signed_text("u", text, at(time))
}

#[test]
fn what_a_key_or_its_subkey_has_signed_is_verified() {
    for text in [IN_RELEASE, include_str!("fixtures/InRelease.subkey")] {
        let signed = verified(&[OTHER, ARCHIVE], text, "2025-06-01T00:00:00Z").expect("signed");
        let lines: Vec<&str> = signed.lines().collect();
        assert_eq!(lines, RELEASE.trim_end().lines().collect::<Vec<_>>());
    }
    let detached = include_bytes!("fixtures/Release.gpg");
    let now = at("2025-06-01T00:00:00Z");
    let keys = keyring(&[ARCHIVE]);
    assert_eq!(keys.verify_detached("u", RELEASE.as_bytes(), detached, now), Ok(()));
    assert!(keys.verify_detached("u", b"other", detached, now).is_err());
    assert!(keys.verify_detached("u", RELEASE.as_bytes(), b"none", now).is_err());
}

#[test]
fn what_is_changed_or_signed_by_another_key_is_not() {
    let now = "2025-06-01T00:00:00Z";
    let other = verified(&[OTHER], IN_RELEASE, now).expect_err("another key").to_string();
    assert!(other.contains("is not signed by a key of the image"), "{other}");
    let changed = IN_RELEASE.replace("stable", "unstable");
    assert!(matches!(verified(&[ARCHIVE], &changed, now), Err(IndexError::OtherKey { .. })));
    // What is around a signed text is not signed.
    let around = format!("{IN_RELEASE}\nLabel: Debian-Security\n");
    assert!(verified(&[ARCHIVE], &around, now).is_err());
    let before = format!("Label: Debian-Security\n\n{IN_RELEASE}");
    let signed = verified(&[ARCHIVE], &before, now);
    assert!(signed.is_err() || signed.is_ok_and(|text| !text.contains("Debian-Security")));
    assert!(matches!(verified(&[ARCHIVE], RELEASE, now), Err(IndexError::Unsigned { .. })));
    assert!(matches!(verified(&[ARCHIVE], "", now), Err(IndexError::Unsigned { .. })));
}

/// A second text with the same SHA-1 can be made.
#[test]
fn weak_hashes_are_not_accepted() {
    let text = include_str!("fixtures/InRelease.sha1");
    assert!(verified(&[ARCHIVE], text, "2025-06-01T00:00:00Z").is_err());
}

#[test]
fn expired_keys_are_not_accepted() {
    let text = include_str!("fixtures/InRelease.expired");
    assert!(verified(&[EXPIRED], text, "2020-01-20T00:00:00Z").is_ok());
    assert!(verified(&[EXPIRED], text, "2020-02-20T00:00:00Z").is_err());
}

#[test]
fn keys_are_restricted_to_fingerprints() {
    let now = at("2025-06-01T00:00:00Z");
    let is_verified = |fingerprint: &str| {
        let mut keys = keyring(&[ARCHIVE]);
        keys.restrict(&[fingerprint.to_owned()]);
        keys.signed_text("u", IN_RELEASE, now).is_ok()
    };
    assert!(is_verified("514DF802F0DA53FB2B3754A9DDD64FEEB4677333"));
    assert!(is_verified("78E7C6D954F8EC1D2C6B86A714BA10ABAFB529CA"), "of a subkey");
    assert!(!is_verified("0000000000000000000000000000000000000000"));
}

#[test]
fn what_is_no_key_is_skipped() {
    let mut keys = keyring(&[b"", b"no key", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n?"]);
    keys.add_apk("a.rsa.pub", b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n");
    assert!(keys.is_empty());
}

#[test]
fn signatures_of_alpine_are_verified() {
    let mut keys = Keyring::default();
    keys.add_apk("apk.rsa.pub", APK_KEY);
    for file in [APK_SHA1, APK_SHA256] {
        let index = ApkIndex::split(file).expect("an index");
        assert_eq!(keys.verify_apk("u", &index), Ok(()));
        assert_eq!(index.packages().expect("packages").len(), 1);
        let mut changed = file.to_vec();
        *changed.last_mut().expect("a byte") ^= 1;
        let index = ApkIndex::split(&changed).expect("an index");
        let error = keys.verify_apk("u", &index).expect_err("changed").to_string();
        assert!(error.contains("its signature by apk.rsa.pub is wrong"), "{error}");
    }
    let index = ApkIndex::split(APK_SHA256).expect("an index");
    let error = Keyring::default().verify_apk("u", &index).expect_err("no key").to_string();
    assert!(error.contains("its signature names apk.rsa.pub"), "{error}");
    let unsigned = ApkIndex { signature: None, ..index };
    assert!(matches!(keys.verify_apk("u", &unsigned), Err(IndexError::Unsigned { .. })));
}
