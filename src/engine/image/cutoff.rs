//! Early cutoff: whether a rebuild gave the same content as the build before.

use crate::{api::Cutoff, engine::input::VerifiedBuild};

/// Whether a new build has the same content as the last one, as the policy compares it. Unknown
/// content is never the same.
#[must_use]
pub fn is_same(cutoff: Cutoff, last: &VerifiedBuild, fresh: &VerifiedBuild) -> bool {
    let is_new = last.digest != fresh.digest;
    match cutoff {
        Cutoff::Never => false,
        Cutoff::Digest => is_new && last.blobs.is_some() && last.blobs == fresh.blobs,
        Cutoff::Content => is_new && last.content.is_some() && last.content == fresh.content,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{BlobsHash, ContentHash};

    #[test]
    fn unknown_content_is_not_the_same() {
        let verified = |digest: &str, content: Option<&str>, blobs: Option<&str>| VerifiedBuild {
            digest: digest.into(),
            content: content.map(ContentHash::from),
            blobs: blobs.map(BlobsHash::from),
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
