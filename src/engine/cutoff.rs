//! Early cutoff: whether a rebuilt image is the same as the one before.

use super::observation::Good;
use crate::api::Cutoff;

/// Whether a new build comes to the same as the last one, as far as the policy looks. What can't be told is not the same.
#[must_use]
pub fn same(cutoff: Cutoff, last: &Good, fresh: &Good) -> bool {
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
    fn what_cannot_be_told_is_not_the_same() {
        let good = |digest: &str, content: Option<&str>, blobs: Option<&str>| Good {
            digest: digest.into(),
            content: content.map(str::to_owned),
            blobs: blobs.map(str::to_owned),
            ..Good::default()
        };
        let last = good("sha256:1", Some("c"), Some("b"));
        for (cutoff, fresh, expected) in [
            (Cutoff::Content, good("sha256:2", Some("c"), Some("x")), true),
            (Cutoff::Digest, good("sha256:2", Some("c"), Some("x")), false),
            (Cutoff::Digest, good("sha256:2", Some("x"), Some("b")), true),
            (Cutoff::Never, good("sha256:2", Some("c"), Some("b")), false),
            (Cutoff::Content, good("sha256:2", None, Some("b")), false),
        ] {
            assert_eq!(same(cutoff, &last, &fresh), expected, "{cutoff:?} {fresh:?}");
        }
        assert!(!same(Cutoff::Content, &good("sha256:1", None, None), &good("sha256:2", None, None)));
    }
}
