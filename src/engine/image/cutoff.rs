//! Early cutoff: whether a rebuild gave the same content as the build before.

use crate::{api::Cutoff, engine::input::VerifiedBuild};

/// Whether a new build has the same content as the last one, as the policy compares it. Unknown
/// content is never the same.
#[must_use]
pub fn is_same(cutoff: Cutoff, last: &VerifiedBuild, fresh: &VerifiedBuild) -> bool {
    let equal = |last: &Option<String>, fresh: &Option<String>| last.is_some() && last == fresh;
    match cutoff {
        Cutoff::Never => false,
        Cutoff::Digest => last.digest != fresh.digest && equal(&last.blobs, &fresh.blobs),
        Cutoff::Content => last.digest != fresh.digest && equal(&last.content, &fresh.content),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_content_is_not_the_same() {
        let verified = |digest: &str, content: Option<&str>, blobs: Option<&str>| VerifiedBuild {
            digest: digest.into(),
            content: content.map(str::to_owned),
            blobs: blobs.map(str::to_owned),
            ..VerifiedBuild::default()
        };
        let last = verified("sha256:1", Some("c"), Some("b"));
        for (cutoff, fresh, expected) in [
            (Cutoff::Content, verified("sha256:2", Some("c"), Some("x")), true),
            (Cutoff::Digest, verified("sha256:2", Some("c"), Some("x")), false),
            (Cutoff::Digest, verified("sha256:2", Some("x"), Some("b")), true),
            (Cutoff::Never, verified("sha256:2", Some("c"), Some("b")), false),
            (Cutoff::Content, verified("sha256:2", None, Some("b")), false),
        ] {
            assert_eq!(is_same(cutoff, &last, &fresh), expected, "{cutoff:?} {fresh:?}");
        }
        assert!(!is_same(
            Cutoff::Content,
            &verified("sha256:1", None, None),
            &verified("sha256:2", None, None)
        ));
    }
}
