//! The pointer that Git has in place of a file of Git LFS. Pure.

/// Pointers are smaller than this, in bytes.
pub(in crate::builds::git) const MAX_POINTER: usize = 1024;
/// The first lines of pointers: of the specification, and of the time before its name changed.
const VERSIONS: [&str; 2] =
    ["version https://git-lfs.github.com/spec/v1", "version https://hawser.github.com/spec/v1"];

/// What a pointer says about its file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::builds::git) struct Pointer {
    /// The SHA-256 of the content: 64 lower-case hexadecimal digits.
    pub oid: String,
    /// The size of the content in bytes.
    pub size: u64,
}

/// What a file of a repository is for Git LFS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::builds::git) enum LfsContent {
    /// A file that Git itself keeps.
    File,
    /// The pointer to a file.
    Pointer(Pointer),
    /// A file that begins as a pointer and is none.
    Malformed(&'static str),
}

/// Returns what a file is.
pub(in crate::builds::git) fn classify(content: &[u8]) -> LfsContent {
    if content.len() >= MAX_POINTER {
        return LfsContent::File;
    }
    let Ok(text) = std::str::from_utf8(content) else { return LfsContent::File };
    let mut lines = text.lines();
    if !lines.next().is_some_and(|first| VERSIONS.contains(&first)) {
        return LfsContent::File;
    }
    let (mut oid, mut size) = (None, None);
    for line in lines {
        match line.split_once(' ') {
            Some(("oid", value)) if oid.is_none() => oid = value.strip_prefix("sha256:"),
            Some(("size", value)) if size.is_none() => size = value.parse().ok(),
            Some((key, _)) if key.starts_with("ext-") => {
                return LfsContent::Malformed("uses an extension of Git LFS");
            }
            _ => return LfsContent::Malformed("has a line that is not part of a pointer"),
        }
    }
    let is_digest = |oid: &&str| {
        oid.len() == 64 && oid.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    match (oid.filter(is_digest), size) {
        (Some(oid), Some(size)) => LfsContent::Pointer(Pointer { oid: oid.to_owned(), size }),
        _ => LfsContent::Malformed("has no valid `oid` and `size`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_differ_from_files() {
        let oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
        let first = VERSIONS[0];
        let pointer = LfsContent::Pointer(Pointer { oid: oid.into(), size: 12345 });
        for (text, expected) in [
            (format!("{first}\noid sha256:{oid}\nsize 12345\n"), pointer.clone()),
            (format!("{first}\r\noid sha256:{oid}\r\nsize 12345\r\n"), pointer.clone()),
            (format!("{}\noid sha256:{oid}\nsize 12345\n", VERSIONS[1]), pointer),
            (String::new(), LfsContent::File),
            (format!("# {first}\n"), LfsContent::File),
            (format!("{first}0\noid sha256:{oid}\nsize 1\n"), LfsContent::File),
            (format!("{first}\noid sha256:{oid}\nsize 1\n{}", "x".repeat(1024)), LfsContent::File),
        ] {
            assert_eq!(classify(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(classify(b"\xff\xfe"), LfsContent::File);
    }

    #[test]
    fn a_broken_pointer_is_no_file() {
        let oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393";
        for rest in [
            String::new(),
            format!("oid sha256:{oid}\n"),
            "size 12\n".into(),
            format!("oid sha256:{oid}\nsize -1\n"),
            format!("oid sha256:{oid}\nsize 99999999999999999999999\n"),
            format!("oid md5:{oid}\nsize 1\n"),
            format!("oid sha256:{}\nsize 1\n", oid.to_uppercase()),
            format!("oid sha256:{}\nsize 1\n", &oid[..62]),
            format!("oid sha256:{}/../..\nsize 1\n", &oid[..58]),
            format!("ext-0-foo sha256:{oid}\noid sha256:{oid}\nsize 1\n"),
            format!("oid sha256:{oid}\nsize 1\nmore 1\n"),
        ] {
            let text = format!("{}\n{rest}", VERSIONS[0]);
            assert!(matches!(classify(text.as_bytes()), LfsContent::Malformed(_)), "{text}");
        }
    }
}
