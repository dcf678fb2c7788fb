//! Certificates of private certificate authorities, which are trusted in addition to those of the
//! system.

use std::{
    collections::HashSet,
    fs,
    io::{self, Read as _},
    path::Path,
};

/// Maximum length of a bundle in bytes. It is part of the environment of every build's first step.
const MAX_LENGTH: u64 = 32 * 1024;
/// Maximum length in bytes of a file with a bundle, before what the system trusts is left out. A
/// `ConfigMap` is not larger.
const MAX_FILE_LENGTH: u64 = 1024 * 1024;
/// Where systems keep the certificates that they trust, in the order in which they are tried.
const SYSTEM_BUNDLES: [&str; 4] = [
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
    "etc/ssl/cert.pem",
];
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Certificates in PEM, and nothing else: no comment and no other object. Empty without any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaBundle(String);

/// The error for a bundle that cannot be used. No message repeats the file's content.
#[derive(Debug, thiserror::Error)]
pub enum CaBundleError {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file is too large.
    #[error(
        "without those of the system it is larger than {} KiB; list only your own authorities, \
         because those of the system are trusted as well",
        MAX_LENGTH / 1024
    )]
    TooLarge,
    /// The file contains a private key.
    #[error("it contains a private key; list certificates only")]
    PrivateKey,
    /// A certificate has no end.
    #[error("it has a certificate without `{END}`")]
    Truncated,
    /// The file contains no certificate.
    #[error("it contains no certificate in PEM, which begins with `{BEGIN}`")]
    Empty,
}

impl CaBundle {
    /// Reads a bundle from a file. Of one that is too large, such as those that clusters make with
    /// the authorities of the system in it, these are left out: they are trusted anyway.
    ///
    /// # Errors
    /// Returns a [`CaBundleError`] if the file is not a bundle of certificates.
    pub fn read(path: &Path) -> Result<Self, CaBundleError> {
        let mut text = Vec::new();
        fs::File::open(path)?.take(MAX_FILE_LENGTH + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MAX_FILE_LENGTH {
            return Err(CaBundleError::TooLarge);
        }
        let text = String::from_utf8_lossy(&text);
        if text.len() as u64 <= MAX_LENGTH {
            return Self::parse(&text);
        }
        Self::without_system(&text, &system_certificates(Path::new("/")))
    }

    /// Keeps the certificates of a text that are not among those of the system.
    fn without_system(text: &str, system: &str) -> Result<Self, CaBundleError> {
        let trusted = certificates(system).unwrap_or_default();
        let trusted: HashSet<&String> = trusted.iter().collect();
        let mut own = certificates(text)?;
        own.retain(|certificate| !trusted.contains(certificate));
        let bundle = own.concat();
        if bundle.len() as u64 > MAX_LENGTH {
            return Err(CaBundleError::TooLarge);
        }
        Ok(Self(bundle))
    }

    /// Keeps the certificates of a text.
    ///
    /// # Errors
    /// Returns a [`CaBundleError`] if the text contains no certificate or more than certificates.
    pub fn parse(text: &str) -> Result<Self, CaBundleError> {
        if text.len() as u64 > MAX_LENGTH {
            return Err(CaBundleError::TooLarge);
        }
        Ok(Self(certificates(text)?.concat()))
    }

    /// The certificates in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.0
    }

    /// Whether there is no certificate.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Writes the certificates of the system under `root` and these into one file, for programs
    /// that trust one file only.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written. A system without certificates is no error.
    pub fn write_with_system(&self, root: &Path, path: &Path) -> io::Result<()> {
        let system = system_certificates(root);
        fs::write(path, format!("{}\n{}", system.trim_end(), self.0))
    }
}

/// Returns the certificates that the system under `root` trusts.
fn system_certificates(root: &Path) -> String {
    let mut files = SYSTEM_BUNDLES.iter();
    files.find_map(|name| fs::read_to_string(root.join(name)).ok()).unwrap_or_default()
}

/// Returns the certificates of a text, each with one form of white space.
fn certificates(text: &str) -> Result<Vec<String>, CaBundleError> {
    if text.contains("PRIVATE KEY-----") {
        return Err(CaBundleError::PrivateKey);
    }
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, body)) = rest.split_once(BEGIN) {
        let (body, after) = body.split_once(END).ok_or(CaBundleError::Truncated)?;
        let lines = body.lines().map(str::trim).filter(|line| !line.is_empty());
        let body: String = lines.flat_map(|line| [line, "\n"]).collect();
        found.push(format!("{BEGIN}\n{body}{END}\n"));
        rest = after;
    }
    if found.is_empty() { Err(CaBundleError::Empty) } else { Ok(found) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

    #[test]
    fn only_certificates_are_kept() {
        let text = format!("# Our root, $1\n{ONE}\nSubject: x\r\n{}", ONE.replace('\n', "\r\n"));
        let bundle = CaBundle::parse(&text).expect("a bundle");
        assert_eq!(bundle.pem(), [ONE, ONE].concat());
        assert!(!bundle.is_empty() && CaBundle::default().is_empty());
    }

    #[test]
    fn what_is_not_a_bundle_of_certificates_is_rejected_without_being_repeated() {
        let key = "-----BEGIN RSA PRIVATE KEY-----\nhunter2\n-----END RSA PRIVATE KEY-----\n";
        for (text, said) in [
            (String::new(), "no certificate in PEM"),
            ("hunter2".into(), "no certificate in PEM"),
            (format!("{ONE}{key}"), "contains a private key"),
            (format!("{BEGIN}\nhunter2\n"), "a certificate without"),
            (ONE.repeat(1000), "larger than 32 KiB"),
        ] {
            let error = CaBundle::parse(&text).expect_err(said).to_string();
            assert!(error.contains(said) && !error.contains("hunter2"), "{said}: {error}");
        }
        let missing = CaBundle::read(Path::new("/nonexistent/ca.crt")).expect_err("missing");
        assert!(missing.to_string().starts_with("it cannot be read"), "{missing}");
    }

    #[test]
    fn a_large_bundle_is_left_with_what_the_system_does_not_trust() {
        let certificate = |number: usize| {
            let body = format!("{number:04}").repeat(100);
            format!("# {number}\r\n{BEGIN}\r\n  {body}\r\n{END}\r\n")
        };
        let system: String = (0..200).map(certificate).collect();
        let own = certificate(200);
        let all = format!("{own}{system}");
        assert!(all.len() as u64 > MAX_LENGTH);
        let bundle = CaBundle::without_system(&all, &system.replace('\r', "")).expect("a bundle");
        assert_eq!(bundle, CaBundle::parse(&own).expect("a bundle"));
        let too_large = CaBundle::without_system(&all, "").expect_err("too large").to_string();
        assert!(too_large.contains("larger than 32 KiB"), "{too_large}");
        assert!(CaBundle::without_system(&system, &system).expect("a bundle").is_empty());
    }

    #[test]
    fn the_systems_certificates_stay_trusted() {
        let root = tempfile::tempdir().expect("a folder");
        let file = root.path().join("all.crt");
        let bundle = CaBundle::parse(ONE).expect("a bundle");
        bundle.write_with_system(root.path(), &file).expect("written");
        assert_eq!(fs::read_to_string(&file).expect("a file").trim(), ONE.trim());
        fs::create_dir_all(root.path().join("etc/ssl/certs")).expect("a folder");
        fs::write(root.path().join(SYSTEM_BUNDLES[0]), "system").expect("a file");
        bundle.write_with_system(root.path(), &file).expect("written");
        assert_eq!(fs::read_to_string(&file).expect("a file"), format!("system\n{ONE}"));
    }
}
