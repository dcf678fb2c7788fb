//! The files that the user names: settings, and the manifest of a family.

use std::{fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::{
    api::{ImageFamily, LeftOutImage},
    preflight::report::Finding,
};

/// Maximum number of lines about images that are left out.
const MAX_LEFT_OUT: usize = 10;
/// Maximum number of bytes that are read of a file.
const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// Reads a file of at most [`MAX_FILE_BYTES`].
pub fn read(path: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let read = File::open(path)
        .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
        .with_context(|| format!("read {}", path.display()))?;
    if read as u64 > MAX_FILE_BYTES {
        bail!("{} has more than {MAX_FILE_BYTES} bytes", path.display());
    }
    Ok(text)
}

/// Returns the family of a manifest, which may have other objects.
pub fn family_in(text: &str) -> anyhow::Result<ImageFamily> {
    let objects: Vec<Value> = serde_yaml::from_multiple(text).context("this is not YAML")?;
    let mut families: Vec<Value> =
        objects.into_iter().filter(|object| object["kind"] == "ImageFamily").collect();
    match (families.pop(), families.len()) {
        (Some(family), 0) => serde_json::from_value(family).context("the ImageFamily is invalid"),
        (None, _) => bail!("it has no object of the kind ImageFamily; name a file with one"),
        (Some(_), more) => {
            bail!("it has {} objects of the kind ImageFamily; name a file with one", more + 1)
        }
    }
}

/// Judges the images that a spec cannot be expanded to.
pub fn judge_left_out(left_out: &[LeftOutImage]) -> Vec<Finding> {
    let judge = |left_out: &LeftOutImage| {
        Finding::problem(format!("image {}", left_out.image), left_out.problem.message.as_str())
    };
    let mut findings: Vec<Finding> = left_out.iter().take(MAX_LEFT_OUT).map(judge).collect();
    if let Some(more) = left_out.len().checked_sub(MAX_LEFT_OUT).filter(|more| *more > 0) {
        findings.push(Finding::problem("images", format!("{more} more images are left out")));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::expansion::expand;

    #[test]
    fn each_image_that_is_left_out_is_a_problem() {
        let text = "{kind: ImageFamily, metadata: {name: f}, spec: {repository: r.example/a, \
                    images: [{name: a, from: [], source: {inline: FROM scratch}}, \
                    {name: b, from: []}]}}";
        let found = |copies: usize| {
            let left_out = expand(family_in(text).expect("a family").spec).left_out;
            judge_left_out(&std::iter::repeat_n(left_out, copies).flatten().collect::<Vec<_>>())
        };
        assert_eq!(found(0), []);
        let [one] = found(1).try_into().expect("one problem");
        assert_eq!(one.subject, "image b");
        assert!(one.message.starts_with("spec.images[b].source: set `inline`"), "{one:?}");
        let last = found(MAX_LEFT_OUT + 2).pop().expect("a finding");
        assert_eq!(last.message, "2 more images are left out");
    }

    #[test]
    fn the_family_of_a_manifest_is_found_among_other_objects() {
        let family = "{kind: ImageFamily, metadata: {name: f}, \
                      spec: {repository: r.example/a, images: []}}";
        let secret = "{kind: Secret, metadata: {name: push}}";
        let found = family_in(&format!("{secret}\n---\n{family}\n---\n")).expect("a family");
        assert_eq!(found.metadata.name.as_deref(), Some("f"));
        for (text, expected) in [
            (secret.to_owned(), "it has no object"),
            (format!("{family}\n---\n{family}"), "it has 2 objects"),
            ("kind: ImageFamily".into(), "the ImageFamily is invalid"),
            ("a: [".into(), "this is not YAML"),
        ] {
            let error = family_in(&text).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error:#}");
        }
    }

    #[test]
    fn a_large_file_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.yaml");
        let size = usize::try_from(MAX_FILE_BYTES).expect("a size") + 1;
        std::fs::write(&path, vec![b' '; size]).expect("a file");
        assert!(read(&path).expect_err("too large").to_string().contains("more than"));
    }
}
