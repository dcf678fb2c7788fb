//! The fingerprint: what determines a build, as one hash. Never secrets, never time, never where
//! the image goes.

use sha2::{Digest, Sha256};

use crate::{
    api::{Check, GitSource, Image, Inputs, Source},
    identity::{ChecksHash, Fingerprint, OwnInputsHash},
};

/// Version of the build process. It is raised when the same inputs would give another image.
const SCHEME: &str = "groundswell/1";
/// Length of a fingerprint in hexadecimal digits: 160 bits.
pub const FINGERPRINT_LENGTH: usize = 40;

/// A hash over a list of texts. Each text is preceded by its length, so that different lists never
/// hash the same bytes.
pub struct Hasher(Sha256);

impl Hasher {
    /// Creates a hasher for one kind of object.
    #[must_use]
    pub fn new(kind: &str) -> Self {
        Self(Sha256::new()).text(kind)
    }

    /// Adds a text.
    #[must_use]
    pub fn text(mut self, text: &str) -> Self {
        self.0.update((text.len() as u64).to_be_bytes());
        self.0.update(text.as_bytes());
        self
    }

    /// Adds a list of texts.
    #[must_use]
    pub fn texts<'a>(
        self,
        texts: impl IntoIterator<Item = &'a str, IntoIter: ExactSizeIterator>,
    ) -> Self {
        let texts = texts.into_iter();
        let start = self.text(&texts.len().to_string());
        texts.fold(start, Self::text)
    }

    /// Returns the hash as 40 hexadecimal digits.
    #[must_use]
    pub fn hex(self) -> String {
        let mut hex = hex::encode(self.0.finalize());
        hex.truncate(FINGERPRINT_LENGTH);
        hex
    }
}

/// Returns the fingerprint of these inputs: 40 hexadecimal digits.
///
/// A parent counts with its digest and its position in `from`, not with its name: renaming an
/// upstream rebuilds nothing.
#[must_use]
pub fn fingerprint(inputs: &Inputs) -> Fingerprint {
    let digests: Vec<&str> = inputs.parents.iter().map(|parent| parent.digest.as_str()).collect();
    let hasher = Hasher::new(SCHEME)
        .texts(digests)
        .text(&inputs.source)
        .text(&inputs.spec)
        .text(&inputs.strategy);
    // Without a nonce nothing is added, so that fingerprints from before nonces existed stay valid.
    let hasher = if inputs.nonce.is_empty() { hasher } else { hasher.text(&inputs.nonce) };
    hasher.hex().into()
}

/// Returns the hash of what the image itself contributes to a build, without its parents. It
/// changes when a user edits the image.
#[must_use]
pub fn own_hash(inputs: &Inputs) -> OwnInputsHash {
    let own = Hasher::new("own")
        .text(&inputs.source)
        .text(&inputs.spec)
        .text(&inputs.strategy)
        .text(&inputs.nonce)
        .hex();
    own.chars().take(16).collect::<String>().into()
}

/// Returns the hash of one check: what runs, and how its outcome counts.
#[must_use]
pub fn check_revision(check: &Check) -> String {
    let list = |texts: &[String]| texts.iter().map(String::as_str).collect::<Vec<_>>().join("\0");
    let environment = check
        .env
        .iter()
        .flat_map(|(name, value)| [name.as_str(), value.as_str()])
        .collect::<Vec<_>>();
    let revision = Hasher::new("check")
        .text(&check.name)
        .text(&list(&check.command))
        .text(&list(&check.args))
        .text(check.image.as_deref().unwrap_or_default())
        .texts(environment)
        .text(if check.required { "required" } else { "reported" })
        .hex();
    revision.chars().take(16).collect()
}

/// Returns the hash of the checks of an image; `None` if it has none.
#[must_use]
pub fn checks_hash(checks: &[Check]) -> Option<ChecksHash> {
    let required: Vec<String> =
        checks.iter().filter(|check| check.required).map(check_revision).collect();
    if checks.is_empty() {
        return None;
    }
    let hash =
        Hasher::new("checks").texts(required.iter().map(String::as_str).collect::<Vec<_>>()).hex();
    Some(hash.chars().take(16).collect::<String>().into())
}

/// Returns the hash of the build in an image's spec: edges as the Dockerfile sees them, arguments,
/// target, labels, and which files of its source are the build context.
#[must_use]
pub fn spec_hash(image: &Image, references: &[String]) -> String {
    let mut hasher = Hasher::new("spec");
    for (edge, reference) in image.from.iter().zip(references) {
        hasher = hasher
            .text(reference)
            .text(edge.arg.as_deref().unwrap_or_default())
            .text(&format!("{:?}", edge.usage));
    }
    for map in [&image.args, &image.labels] {
        hasher = hasher.texts(
            map.iter().flat_map(|(key, value)| [key.as_str(), value.as_str()]).collect::<Vec<_>>(),
        );
    }
    let hasher = hasher.text(image.target.as_deref().unwrap_or_default());
    match &image.source {
        Source { git: Some(git), .. } => git_hash(hasher, git),
        _ => hasher.text("").text(""),
    }
    .hex()
}

/// Adds what a Git source says about the content of the build context. Fields that are not set add
/// nothing, so that fingerprints from before these fields existed stay valid.
fn git_hash(hasher: Hasher, git: &GitSource) -> Hasher {
    let raw = git.path.clone().unwrap_or_default();
    let mut hasher = hasher
        .text(&git.folder().unwrap_or(raw))
        .text(&git.dockerfile_path().unwrap_or_else(|_| git.dockerfile.clone()));
    for (name, globs) in [("include", &git.include), ("exclude", &git.exclude)] {
        if !globs.is_empty() {
            let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
            hasher = hasher.text(name).texts(globs);
        }
    }
    if let Some(arg) = &git.commit_arg {
        hasher = hasher.text("commitArg").text(arg);
    }
    for (name, is_set) in [("submodules", git.submodules), ("lfs", git.lfs)] {
        if is_set {
            hasher = hasher.text(name);
        }
    }
    hasher
}

/// Returns the revision of an inline source: the hash of the Dockerfile.
#[must_use]
pub fn inline_revision(dockerfile: &str) -> String {
    Hasher::new("inline").text(dockerfile).hex()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::ParentDigest;

    fn inputs() -> Inputs {
        Inputs {
            parents: vec![ParentDigest { name: "alpine".into(), digest: "sha256:1".into() }],
            source: "s".into(),
            spec: "x".into(),
            strategy: "b".into(),
            nonce: String::new(),
        }
    }

    #[test]
    fn every_input_counts_and_names_do_not() {
        let plain = fingerprint(&inputs());
        assert_eq!(plain.as_str().len(), FINGERPRINT_LENGTH);
        let renamed = Inputs {
            parents: vec![ParentDigest { name: "base".into(), digest: "sha256:1".into() }],
            ..inputs()
        };
        assert_eq!(fingerprint(&renamed), plain);
        let others = [
            Inputs { parents: vec![], ..inputs() },
            Inputs {
                parents: vec![ParentDigest { name: "alpine".into(), digest: "sha256:2".into() }],
                ..inputs()
            },
            Inputs { source: "t".into(), ..inputs() },
            Inputs { spec: "y".into(), ..inputs() },
            Inputs { strategy: "c".into(), ..inputs() },
            Inputs { source: "sx".into(), spec: String::new(), ..inputs() },
        ];
        for other in others {
            assert_ne!(fingerprint(&other), plain, "{other:?}");
        }
    }

    #[test]
    fn what_the_dockerfile_sees_counts() {
        let image = Image { args: [("A".into(), "1".into())].into(), ..Image::default() };
        let plain = spec_hash(&image, &[]);
        assert_ne!(
            spec_hash(&Image { args: [("A".into(), "2".into())].into(), ..Image::default() }, &[]),
            plain
        );
        assert_ne!(
            spec_hash(&Image { labels: image.args.clone(), ..Image::default() }, &[]),
            plain
        );
        assert_ne!(spec_hash(&Image { target: Some("t".into()), ..image.clone() }, &[]), plain);
        assert_eq!(spec_hash(&Image { tags: vec!["latest".into()], ..image }, &[]), plain);
    }

    fn git_image(change: impl FnOnce(&mut GitSource)) -> Image {
        let mut git = GitSource {
            path: Some("images/app".into()),
            dockerfile: "Dockerfile".into(),
            ..GitSource::default()
        };
        change(&mut git);
        Image { source: Source { git: Some(git), ..Source::default() }, ..Image::default() }
    }

    #[test]
    fn what_a_git_source_leaves_out_and_fetches_counts() {
        let plain = spec_hash(&git_image(|_| {}), &[]);
        // The hash as it was computed before a Git source could leave files out.
        let before = Hasher::new("spec").texts([]).texts([]).text("").text("images/app");
        assert_eq!(plain, before.text("Dockerfile").hex(), "the default changes nothing");
        for same in ["./images/app", "images/app/"] {
            assert_eq!(spec_hash(&git_image(|git| git.path = Some(same.into())), &[]), plain);
        }
        let glob = || vec!["docs".to_owned()];
        let others = [
            git_image(|git| git.include = glob()),
            git_image(|git| git.exclude = glob()),
            git_image(|git| git.submodules = true),
            git_image(|git| git.commit_arg = Some("COMMIT".into())),
            git_image(|git| git.lfs = true),
            git_image(|git| git.path = Some(".".into())),
        ];
        let mut hashes: Vec<String> = others.iter().map(|image| spec_hash(image, &[])).collect();
        hashes.push(plain);
        let count = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), count, "each of them gives a fingerprint of its own");
    }
}
